"""Learned masks as a command: a budget or a shape is met, what is written is proven, and runs are gone on with."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.commands.prune import prune_file
from onnxprune.errors import OptionError
from onnxprune.planning.options import make_options
from onnxprune.report.prune import prune_tables
from tests.commands.rounds.test_in_rounds import Ended, ending
from tests.support.schema import follows_the_schema
from tests.training.pairs import classifier, pictures

LEARN = {"steps": 24, "rate": 3e-3, "batch": 16, "threads": 1}


def by_masks(masks=LEARN, **options):
    options = {"round_to": 1, "latency": False, **options}
    return onnxprune.prune(classifier(), data={"x": pictures(96)}, masks=masks, **options)


def test_a_cost_is_learned_and_met():
    report = by_masks(targets={"macs": 0.4}, tune={**LEARN, "steps": 3}).report
    follows_the_schema(json.loads(json.dumps(report)))
    assert report["output"]["macs"] <= 0.4 * report["input"]["macs"]
    masks = report["masks"]
    assert masks["gates"] == 32
    assert masks["without"] == []
    assert masks["steps"] == masks["history"][-1]["step"] == 24
    assert masks["history"][-1]["kept"] < masks["history"][0]["kept"]
    assert report["options"]["criterion"] == "masks"
    assert report["verification"]["passed"]
    assert report["tuning"]["steps"] == 3
    plain = onnxprune.prune(classifier(), 0.5, latency=False).report
    assert report["input"]["sha256"] == plain["input"]["sha256"]
    text = "\n".join(map(str, prune_tables(report)))
    assert re.search(r"masks learned in 24 steps: 32 gates, \d+.\d% expected to be open, the budget (missed|met)", text)


def test_a_shape_is_met_exactly():
    report = by_masks(shape={"w1": 6, "w2": 10}, masks={**LEARN, "steps": 4}).report
    assert {group["name"]: group["kept"] for group in report["groups"]} == {"w1": 6, "w2": 10, "w3": 6}


def dead(places, scale=6.0):
    """Return the classifier with units of w1 that are never heard of, and others that are."""
    proto = onnx.ModelProto()
    proto.CopyFrom(classifier())
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name in {"w1", "b1"}:
            array[places] = 0 if tensor.name == "w1" else -1
        if tensor.name == "w3":
            array *= scale
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return proto


def test_units_that_nobody_hears_are_cut():
    places = [2, 3, 7, 10, 12, 13]
    report = onnxprune.prune(
        dead(places),
        data={"x": pictures(32)},
        masks={**LEARN, "steps": 40},
        shape={"w1": 10},
        round_to=1,
        latency=False,
    ).report
    (kept,) = (group["kept_units"] for group in report["groups"] if group["name"] == "w1")
    assert set(kept) == set(range(16)) - set(places)


def test_gates_ask_for_weights_that_read_the_units_alone():
    report = by_masks(shape={"w1": 8, "w2": 8}, masks={**LEARN, "steps": 2, "frozen": ["w1", "b1"]}).report
    assert report["masks"]["without"] == []
    assert report["masks"]["gates"] == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "masks needs a budget: give a target of macs, params or size, or a shape"),
        ({"targets": {"latency": 0.5}}, "masks cannot learn under a target of latency, which is measured"),
        (
            {"targets": {"macs": 0.5}, "criterion": "l1"},
            "criterion has no effect with masks: units are ranked",
        ),
        ({"targets": {"macs": 0.5}, "rounds": 2}, "masks are learned for the whole cut at once: give masks or rounds"),
        (
            {"targets": {"macs": 0.5}, "masks": {**LEARN, "lora": 2}},
            "masks are learned with the weights themselves",
        ),
        ({"targets": {"macs": 0.0001}}, "target macs=0.0001 (at best 0.0"),
        (
            {"targets": {"macs": 0.5}, "masks": "long"},
            "masks takes 20m, 90s, 1h, '500 steps' or '3 epochs'",
        ),
        ({"targets": {"macs": 0.5}, "masks": {**LEARN, "frozen": ["w3", "w2"]}, "only": "w2"}, "masks has no effect"),
        (
            {"shape": {"w1": 8, "w2": 9}, "masks": {**LEARN, "frozen": ["w3"]}},
            "masks cannot learn which 9 of 16 units of group 'w2' stay: no weight that is trained reads them; freeze",
        ),
        (
            {"shape": {"w2": 8}, "ratios": {"w1": 0.5}, "masks": {**LEARN, "frozen": ["w3"]}},
            "masks cannot learn which 8 of 16 units of group 'w2' stay: no weight that is trained reads them; freeze",
        ),
        (
            {"shape": {"w2": 16}, "ratios": {"w1": 0.5}, "masks": {**LEARN, "frozen": ["w3"]}},
            "masks has no effect: the shape leaves every group whole that has gates",
        ),
        (
            {"targets": {"macs": 0.5}, "masks": {**LEARN, "rate": 1e30}},
            "more was not finite at step 2 of learning masks: ",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be(options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        by_masks(**options)


@pytest.mark.parametrize(("where", "step"), [("learning masks", 3), pytest.param("tuning", 2, marks=pytest.mark.soak)])
def test_learning_goes_on_to_the_same_bytes(tmp_path, monkeypatch, where, step):
    onnx.save(classifier(), tmp_path / "model.onnx")
    np.savez(tmp_path / "samples.npz", x=pictures(48))
    monkeypatch.setattr("onnxprune.training.tuning.saving.Saving.__init__.__defaults__", (0.0,))

    def run(name, progress=lambda *_: None, **more):
        options = make_options(targets={"params": 0.5}, latency=False, round_to=1)
        tune = {"tune": {**LEARN, "steps": 3}} if where == "tuning" else {}
        arguments = {"masks": {**LEARN, "steps": 5}, "force": False, "progress": progress, **tune, **more}
        prune_file(tmp_path / "model.onnx", tmp_path / name, options, tmp_path / "samples.npz", **arguments)
        return (tmp_path / name).read_bytes()

    whole = run("whole.onnx")
    with pytest.raises(Ended):
        run("small.onnx", ending(where, step))
    seen = []
    assert run("small.onnx", lambda text, at=0, *_: seen.append((text, at)), resume=True) == whole
    assert not any(text.startswith("learning masks") and at < step for text, at in seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "samples.npz", "small.onnx", "whole.onnx"]
