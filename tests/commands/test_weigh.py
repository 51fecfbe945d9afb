"""`--depth auto`: branches go where that costs less than widths, and stay where it does not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune.cli.group import cli
from onnxprune.errors import OptionError
from onnxprune.report.prune import prune_tables
from tests.commands.test_shorten import network, samples
from tests.support.paths import MODELS
from tests.support.schema import follows_the_schema


def pruned(proto=None, **options):
    return onnxprune.prune(proto or network(), data=samples(), latency=False, depth="auto", **options).report


def gone(report):
    return [branch["name"] for branch in report["depth"]["branches"] if branch["removed"]]


def test_a_branch_that_adds_nothing_goes_first():
    report = pruned(targets={"macs": 0.74})
    follows_the_schema(json.loads(json.dumps(report)))
    assert report["depth"]["asked"] == "auto"
    assert gone(report) == ["o1"]
    assert report["output"]["macs"] <= 0.74 * report["input"]["macs"]
    assert report["depth"]["measured"] >= 3
    assert report["verification"]["passed"]
    assert report["fidelity"]["figures"]["kl"] == pytest.approx(0, abs=1e-6)


def test_widths_go_where_branches_cost_more():
    options = {"data": str(MODELS / "mnist_calibration.npz"), "targets": {"macs": 0.7}, "latency": False, "samples": 96}
    by_widths = onnxprune.prune(MODELS / "vit.onnx", **options).report
    report = onnxprune.prune(MODELS / "vit.onnx", depth="auto", **options).report
    follows_the_schema(json.loads(json.dumps(report)))
    assert gone(report) == []
    assert all(branch["loss"] is not None for branch in report["depth"]["branches"] if branch["locked"] is None)
    assert report["output"] == {**by_widths["output"], "path": None}  # the same bytes
    assert "removed 0 of" in "\n".join(map(str, prune_tables(report)))


def test_branches_that_are_named_go_in_any_case():
    report = pruned(targets={"macs": 0.6}, without="o2")
    assert "o2" in gone(report)
    assert report["output"]["macs"] <= 0.6 * report["input"]["macs"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "depth=auto needs a target, such as macs=0.6"),
        ({"targets": {"macs": 0.7}, "depth": "all"}, "depth must be a number or 'auto', got 'all'"),
        ({"targets": {"macs": 0.001}}, "target macs=0.001 cannot be reached with what may be pruned"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(OptionError, match=message):
        onnxprune.prune(network(), data=samples(), latency=False, **{"depth": "auto", **options})


def test_from_the_command_line(tmp_path):
    np.savez(tmp_path / "samples.npz", **samples())
    (tmp_path / "model.onnx").write_bytes(network().SerializeToString())
    arguments = [
        str(tmp_path / "model.onnx"), "--data", str(tmp_path / "samples.npz"), "--no-latency", "--quiet",
        "-o", str(tmp_path / "out.onnx"), "--target", "macs=0.7", "--depth",
    ]  # fmt: skip
    result = CliRunner().invoke(cli, [*arguments, "auto"])
    assert result.exit_code == 0, result.output
    assert "removed 1 of 3 branches" in " ".join(result.stdout.split())
    refused = CliRunner().invoke(cli, [*arguments, "much"])
    assert refused.exit_code == 2
    assert "--depth must be a number or 'auto', got 'much'" in refused.stderr
