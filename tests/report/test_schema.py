"""The promise of the report: what an earlier version wrote is valid, and is read by all that reads reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from onnxprune.commands.steps.tune_cut import kept_by_report, units_in_all
from onnxprune.commands.tune import read_cut
from onnxprune.errors import InputError
from onnxprune.graph.files.read import load
from onnxprune.report.schema import SCHEMA
from onnxprune.torch import apply
from tests.support.build import dense
from tests.support.paths import ROOT
from tests.support.schema import SCHEMA as FORM
from tests.support.schema import is_valid

GOLDEN = sorted((ROOT / "tests" / "golden").glob("report_*.json"))


def original():
    """The model that these reports are of: of the same numbers wherever it is made."""
    return dense("b = Relu(a)", mid=16)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_report_of_each_minor_version_is_kept():
    stated = {read(path).get("schema") for path in GOLDEN}
    minor = int(SCHEMA.split(".")[1])
    assert stated == {None, *(f"{SCHEMA.split('.')[0]}.{number}" for number in range(minor + 1))}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_old_report_is_valid(path):
    is_valid(read(path))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_old_report_is_read(path):
    """By `tune --cut`, and by rounds: the units, and the places of values between nodes."""
    report = read_cut(path)
    (entry,) = (group for group in report["groups"] if group["kept"] < group["units"])
    assert units_in_all({entry["name"]: entry["units"]}, [report]) == {entry["name"]: entry["kept_units"]}
    kept = kept_by_report(load(original()), report)(["b"])
    np.testing.assert_array_equal(kept["b"][1], entry["kept_units"])


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_old_report_makes_the_same_cut_elsewhere(path):
    """As docs/report.md shows for weights by name."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in original().graph.initializer}
    shapes = {}
    for name, cut in read(path)["initializers"].items():
        array = weights[cut["source"]]
        for axis, kept in cut["kept"].items():
            array = array.take(kept, int(axis))
        shapes[name] = array.shape
    assert shapes == {"w1": (6, 12), "b1": (12,), "w2": (12, 5)}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_old_report_cuts_a_state_dict(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the file that the report names is not there
    state = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in original().graph.initializer
    }
    cut = apply(state, path)
    assert {name: tuple(cut[name].shape) for name in ("w1", "b1", "w2")} == {"w1": (6, 12), "b1": (12,), "w2": (12, 5)}


def test_a_report_of_another_form_cuts_no_state_dict():
    with pytest.raises(InputError, match=r"^cut: the report has schema '2.0', and this release reads 1\.x"):
        apply({}, {**read(GOLDEN[0]), "schema": "2.0"})


@pytest.mark.parametrize("schema", ["2.0", 3, None, "", "10.1"])
def test_a_report_of_another_form_is_refused(schema, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**read(GOLDEN[0]), "schema": schema}), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_cut(path)
    assert str(caught.value) == (
        f"{path}: the report has schema {schema!r}, and this release reads 1.x: write it anew with --report of prune, "
        "or use the release of onnxprune that wrote it"
    )


def test_a_report_with_more_fields_is_read(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**read(GOLDEN[0]), "schema": "1.99", "new": {"field": 1}}), encoding="utf-8")
    assert read_cut(path)["groups"] == read(GOLDEN[0])["groups"]


def test_the_form_states_no_more_than_old_reports_have():
    """A field that is added is not required, at the top: else reports of before would be invalid."""
    assert set(FORM["required"]) <= set.intersection(*(set(read(path)) for path in GOLDEN))
    assert FORM["properties"]["schema"]["pattern"] == rf"^{SCHEMA.split('.')[0]}\.[0-9]+$"
    assert Path(ROOT / "docs" / "report.md").read_text(encoding="utf-8").count(f'"schema": "{SCHEMA}"') == 1
