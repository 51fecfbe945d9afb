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
from tests.commands.ways.test_shorten import network, samples
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
        (
            {"targets": {"macs": 0.7}, "criterion": "l2"},
            "depth=auto weighs losses of the output, and none of widths are measured with criterion l2 and scope group",
        ),
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


def test_what_goes_in_any_case_changes_no_price():
    """Beside `o2`, which is dear, the branch that adds nothing is still free."""
    report = pruned(targets={"macs": 0.46}, without="o2")
    assert gone(report) == ["o1", "o2"]
    losses = {branch["name"]: branch["loss"] for branch in report["depth"]["branches"]}
    assert losses["o1"] < 1e-3 < losses["o0"]


def test_widths_that_are_fixed_count_before_branches_are_weighed():
    """The shape alone meets the target, so no branch goes."""
    assert gone(pruned(targets={"macs": 0.7}, shape={"up0": 3, "up2": 3})) == []


def test_a_branch_with_a_ratio_of_its_own_stays():
    report = pruned(targets={"macs": 0.55}, ratios={"up1": 0.5})
    kept = {group["name"]: group["kept"] for group in report["groups"]}
    assert kept["up1"] == 6
    (branch,) = [each for each in report["depth"]["branches"] if each["name"] == "o1"]
    assert branch["locked"] == "a group in it has a ratio or a count of its own"
