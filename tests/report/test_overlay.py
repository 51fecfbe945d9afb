"""Overlays are node data as Model Explorer takes them, with the nodes' own names and what the report says."""

from __future__ import annotations

import json

import jsonschema
import onnx
import pytest
from click.testing import CliRunner

from onnxprune.cli.group import cli
from onnxprune.errors import InputError
from onnxprune.report.overlay import KINDS, overlay_file, overlays, reasons_of
from tests.commands.test_plan import network
from tests.support.paths import MODELS

COLOURS = {"bgColor": {"type": "string"}, "textColor": {"type": "string"}}


def items(key):
    """Return the schema of a list of colours by a number."""
    properties = {key: {"type": "number"}, **COLOURS}
    item = {"type": "object", "properties": properties, "required": [key], "additionalProperties": False}
    return {"type": "array", "items": item}


RESULT = {
    "type": "object",
    "properties": {"value": {"type": ["number", "string"]}, **COLOURS},
    "required": ["value"],
    "additionalProperties": False,
}
NODE_DATA = {  # `GraphNodeData` in node_data_builder.py of ai-edge-model-explorer 0.1.34
    "type": "object",
    "properties": {
        "results": {"type": "object", "additionalProperties": RESULT, "minProperties": 1},
        "name": {"type": "string"},
        "thresholds": items("value"),
        "gradient": items("stop"),
    },
    "required": ["results"],
    "additionalProperties": False,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a model whose nodes have names."""
    monkeypatch.chdir(tmp_path)
    proto = network()
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    onnx.save(proto, "m.onnx")
    return tmp_path


def invoke(*arguments, code=0):
    result = CliRunner().invoke(cli, arguments, prog_name="onnxprune")
    assert result.exit_code == code, result.output
    return result


def cut(*more):
    return invoke("m.onnx", "-o", "s.onnx", "--ratio", "0.5", "--criterion", "l2", "--round-to", "1", *more)


def read(path):
    data = json.loads(path.read_text())
    jsonschema.validate(data, NODE_DATA)
    return {name: each["value"] for name, each in data["results"].items()}


def test_a_cut_writes_a_file_for_each_kind_of_value(folder):
    cut("--overlay", "o.json", "--report", "r.json")
    values = {kind: read(overlay_file(folder / "o.json", kind)) for kind in KINDS}
    nodes = {node.name for node in onnx.load("s.onnx").graph.node}
    assert all(set(each) <= nodes for each in values.values())
    layers = ["node_a", "node_c", "node_y"]
    assert [values["kept"][name] for name in layers] == [0.5, 0.25, 0.5]
    assert [values["macs.before"][name] for name in layers] == [96, 384, 120]
    assert [values["macs.after"][name] for name in layers] == [48, 96, 60]
    assert sum(values["macs.after"].values()) == json.loads((folder / "r.json").read_text())["output"]["macs"]
    assert values["reason"]["node_a"] == "w1: 8 of 16 neurons; w1:in stays whole: it is part of the graph input 'x'"
    assert all(value > 0 for side in ("before", "after") for value in values[f"ms.{side}"].values())


def test_without_latency_nothing_is_timed(folder):
    cut("--overlay", "o.json", "--no-latency")
    assert sorted(path.name for path in folder.glob("o*")) == [
        "o.json", "o.macs.after.json", "o.macs.before.json", "o.reason.json"
    ]  # fmt: skip


def test_compare_writes_them_too(folder):
    cut("--no-latency")
    invoke("compare", "m.onnx", "s.onnx", "--seconds", "0.01", "--overlay", "o.json")
    assert read(folder / "o.json") == {"node_a": 0.5, "node_c": 0.25, "node_y": 0.5}
    assert not (folder / "o.reason.json").exists()  # a comparison knows none
    assert read(folder / "o.ms.after.json").keys() == {"node_a", "node_c", "node_y"}


def test_apply_writes_them_too(folder):
    invoke("plan", "m.onnx", "--ratio", "0.5", "--criterion", "l2", "--round-to", "1", "-o", "plan.toml")
    invoke("apply", "plan.toml", "m.onnx", "-o", "s.onnx", "--no-latency", "--overlay", "o.json")
    assert read(folder / "o.json") == {"node_a": 0.5, "node_c": 0.25, "node_y": 0.5}


def test_no_file_is_replaced_by_accident(folder):
    (folder / "o.macs.after.json").write_text("mine")
    said = cut_fails("--overlay", "o.json", "--no-latency")
    assert "o.macs.after.json exists; give another name, or --force" in said
    assert "is the input; give the overlay another name" in cut_fails("--overlay", "m.onnx", "--force")
    assert (folder / "o.macs.after.json").read_text() == "mine"
    assert not (folder / "s.onnx").exists()
    assert InputError.exit_code == 2


def cut_fails(*more):
    arguments = ["m.onnx", "-o", "s.onnx", "--ratio", "0.5", "--criterion", "l2", *more]
    return invoke(*arguments, code=2).stderr


def test_a_folder_has_no_overlay(folder):
    (folder / "in").mkdir()
    message = invoke("in", "-o", "out", "--overlay", "o.json", code=2).stderr
    assert "overlay: only files have one, no folders" in message


def test_layers_that_hold_no_weights_count_by_their_work():
    layer = {"node": "mix", "macs": [100, 40], "params": [0, 0], "ms": None}
    gone = {"node": "gone", "macs": [10, 0], "params": [5, 0], "ms": None}
    data = overlays([layer, gone])
    assert {name: each["value"] for name, each in data["kept"]["results"].items()} == {"mix": 0.4, "gone": 0.0}
    assert set(data) == {"kept", "macs.before", "macs.after"}


def test_reasons_say_what_was_cut_and_what_stays():
    report = {
        "groups": [{"name": "a", "kept": 3, "units": 4, "kind": "heads"}],
        "nodes": [
            {"node": "one", "pruned": ["a"], "locked": [{"group": "b", "reason": "it is an output"}]},
            {"node": "two", "pruned": [], "locked": []},
        ],
    }
    assert reasons_of(report) == {
        "one": (True, "a: 3 of 4 heads; b stays whole: it is an output"),
        "two": (False, "stays whole"),
    }


def test_a_transformer_has_values_for_all_of_its_layers(tmp_path):
    arguments = [str(MODELS / "vit.onnx"), "-o", str(tmp_path / "s.onnx"), "--criterion", "l2", "--no-latency"]
    invoke(*arguments, "--overlay", str(tmp_path / "o.json"))
    names = {node.name for node in onnx.load(tmp_path / "s.onnx").graph.node}
    kept = read(tmp_path / "o.json")
    assert len(kept) > 50
    assert set(kept) <= names
    assert min(kept.values()) < 1 == max(kept.values())
