"""Published methods by name, from the options to the proven file and its report."""

from __future__ import annotations

import json

import numpy as np
import pytest

import onnxprune
from onnxprune.errors import NothingToPrune, OptionError
from onnxprune.planning.methods import METHODS
from onnxprune.report.prune import prune_tables
from tests.commands.ways.test_shorten import network, samples
from tests.support.build import model
from tests.support.cli import invoke
from tests.support.paths import MODELS
from tests.support.schema import follows_the_schema
from tests.training.pairs import classifier, pictures

VIT = str(MODELS / "vit.onnx")
DATA = str(MODELS / "mnist_calibration.npz")
ATTENTIONS = [f"node_linear_{number}" for number in (1, 5, 9, 13, 17)]  # their last layers
FEW = {"latency": False, "samples": 48}


def pruned(**options):
    report = onnxprune.prune(VIT, data=DATA, **FEW, **options).report
    follows_the_schema(json.loads(json.dumps(report)))
    assert report["verification"]["passed"]
    assert report["method"] == {
        "name": options["method"],
        "summary": METHODS[options["method"]].summary,
        "source": METHODS[options["method"]].source,
    }
    text = "\n".join(map(str, prune_tables(report)))
    assert f"method {options['method']}: " in text
    return report, text


@pytest.mark.parametrize("method", ["shortgpt", "laco"])
def test_whole_blocks_go(method):
    report, text = pruned(method=method, depth=0.4)
    gone = [each["removed"] for each in report["depth"]["branches"]]
    assert sum(gone) == 4
    assert gone[::2] == gone[1::2]  # an attention and the feed-forward network behind it
    assert report["reconstruction"] == []
    scores = [each["score"] for each in report["depth"]["branches"]]
    assert (None in scores) == (method == "laco")
    assert ("their weights went into" in text) == (method == "laco")


def test_a_share_less_than_a_block_is_refused():
    with pytest.raises(NothingToPrune) as error:
        onnxprune.prune(VIT, data=DATA, **FEW, method="shortgpt", depth=0.1)
    assert "--depth 0.1 is less than any block takes; the smallest of 5 blocks" in str(error.value)


def test_blocks_of_which_a_part_has_to_stay_are_refused():
    told = "some branch of each of 5 blocks has to stay, such as 'node_linear_1': left out by --ignore"
    with pytest.raises(NothingToPrune, match=told):
        onnxprune.prune(VIT, data=DATA, **FEW, method="shortgpt", depth=0.4, ignore=ATTENTIONS)


@pytest.mark.parametrize("method", ["flap", "llm-pruner"])
def test_units_go_to_a_target(method):
    report, _ = pruned(method=method, targets={"params": 0.85})
    assert 0.8 < report["output"]["params"] / report["input"]["params"] <= 0.85
    assert {fit["strength"] for fit in report["reconstruction"]} == ({"bias alone"} if method == "flap" else set())
    spared = {group["name"] for group in report["groups"] if group["locked"] and "spares the first" in group["locked"]}
    ends = {f"blocks.{number}.{name}" for number in (0, 4) for name in ("attention.qkv:heads", "expand")}
    assert spared == (ends if method == "llm-pruner" else set())


def test_the_first_and_the_last_block_of_each_stream_are_spared():
    """Two towers of three blocks and one of two, which is too short."""
    nodes, weights = [], {}
    for tower, depth in (("a", 3), ("b", 3), ("c", 2)):
        now = "x"
        for name in (f"{tower}{number}" for number in range(depth)):
            nodes += [f"h{name} = MatMul({now}, up{name})", f"r{name} = Relu(h{name})"]
            nodes += [f"o{name} = MatMul(r{name}, down{name})", f"s{name} = Add({now}, o{name})"]
            weights |= {f"up{name}": (8, 16), f"down{name}": (16, 8)}
            now = f"s{name}"
        nodes.append(f"e{tower} = MatMul({now}, last{tower})")
        weights[f"last{tower}"] = (8, 3)
    proto = model(*nodes, "y = Sum(ea, eb, ec)", x="float[n,8] x", **weights)
    rows = {"x": np.random.default_rng(0).standard_normal((48, 8)).astype(np.float32)}
    groups = onnxprune.prune(proto, 0.5, data=rows, latency=False, method="llm-pruner").report["groups"]
    assert {group["name"] for group in groups if group["kept"] < group["units"]} == {"upa1", "upb1", "upc0", "upc1"}


def test_layers_get_biases_also_where_they_are_named_as_what_they_make():
    proto = model(
        "h = MatMul(x, up)", "r = Relu(h)", "y = MatMul(r, down)", x="float[n,8] x", up=(8, 16), down=(16, 3)
    )  # fmt: skip
    for node in proto.graph.node:
        node.name = node.output[0]
    rows = {"x": np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)}
    report = onnxprune.prune(proto, 0.5, data=rows, latency=False, method="flap").report
    assert report["verification"]["passed"]
    assert [fit["strength"] for fit in report["reconstruction"]] == ["bias alone"]


def test_masks_are_learned_to_a_shape():
    learn = {"steps": 4, "rate": 3e-3, "batch": 16, "threads": 1}
    given = {"shape": {"w1": 6, "w2": 10}, "latency": False, "method": "sheared"}
    report = onnxprune.prune(classifier(), data={"x": pictures(96)}, masks=learn, **given).report
    follows_the_schema(json.loads(json.dumps(report)))
    assert {group["name"]: group["kept"] for group in report["groups"]} == {"w1": 6, "w2": 10, "w3": 6}
    assert (report["method"]["name"], report["masks"]["steps"]) == ("sheared", 4)


def test_layers_go_before_masks_are_learned():
    pytest.importorskip("torch")
    learn = {"steps": 3, "batch": 16, "threads": 1}
    options = {"method": "sheared", "shape": {"up0": 7}, "masks": learn, "latency": False}
    report = onnxprune.prune(network(), data=samples(), depth=0.34, effort="quick", **options).report
    assert [each["name"] for each in report["depth"]["branches"] if each["removed"]] == ["o1"]
    kept = {group["name"]: group["kept"] for group in report["groups"]}
    assert (kept["up0"], kept["up1"], kept["up2"]) == (7, 0, 12)
    assert (report["method"]["name"], report["masks"]["steps"]) == ("sheared", 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sheared", "shape": {"heads": 3}}, "method sheared learns masks: say for how long"),
        ({"method": "flap", "masks": "4 steps"}, "method flap says itself what goes: masks have no effect"),
        ({"method": "flap", "rounds": 2, "tune": "4 steps"}, "method flap cuts all at once: rounds have no effect"),
    ],
)
def test_learning_that_makes_no_sense_with_a_method_is_refused(options, message):
    with pytest.raises(OptionError) as error:
        onnxprune.prune(VIT, data=DATA, **FEW, **options)
    assert message in str(error.value)


def test_methods_have_no_effect_in_a_sweep(tmp_path):
    with pytest.raises(OptionError, match="method flap has no effect in a sweep: prune has it, for one target"):
        onnxprune.sweep(VIT, tmp_path / "family", "macs", [0.5], data=DATA, latency=False, method="flap")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "short-gpt"}, "unknown method 'short-gpt'; there are: shortgpt, laco"),
        ({"method": "shortgpt"}, "method shortgpt needs depth: give --depth"),
        ({"method": "laco", "depth": 0.2, "without": "x"}, "method laco removes blocks: without has no effect with it"),
        ({"method": "laco", "depth": 0.2, "targets": {"params": 0.8}}, "method laco removes blocks: targets has no"),
        ({"method": "shortgpt", "depth": 0.2, "ratio": 0.3}, "method shortgpt removes blocks: ratio has no effect"),
        ({"method": "sheared", "shape": {"w1": 6}, "ratio": 0.3}, "method sheared removes units: ratio has no effect"),
        ({"method": "shortgpt", "depth": 0.2, "criterion": "l1"}, "method shortgpt removes blocks: criterion has no"),
        ({"method": "laco", "depth": 0.2, "scope": "global"}, "method laco removes blocks: scope has no effect"),
        ({"method": "laco", "depth": 0.2, "curves": "gradient"}, "method laco removes blocks: curves has no effect"),
        ({"method": "shortgpt", "depth": 0.2, "sweeps": 2}, "method shortgpt removes blocks: sweeps has no effect"),
        ({"method": "flap", "curves": "gradient"}, "method flap removes units: curves has no effect with it"),
        ({"method": "llm-pruner", "curves": "gradient"}, "method llm-pruner removes units: curves has no effect"),
        ({"method": "flap", "width": True}, "method flap decides width itself, it is False: leave it out"),
        ({"method": "llm-pruner", "width": True}, "method llm-pruner decides width itself, it is False: leave it"),
        ({"method": "sheared", "shape": {"w1": 6}, "width": True}, "method sheared decides width itself, it is False"),
        ({"method": "flap", "depth": 0.2}, "method flap removes units: depth has no effect with it; leave it out"),
        ({"method": "flap", "criterion": "obs"}, "method flap decides criterion itself, it is 'flap': leave it out"),
        ({"method": "flap", "reconstruct": True}, "method flap decides reconstruct itself, it is False: leave it out"),
        ({"method": "sheared"}, "method sheared needs shape: give --shape"),
        (
            {"method": "flap", "effort": "quick"},
            "effort has no effect here: no loss curves are measured with method flap",
        ),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options, message):
    with pytest.raises(OptionError) as error:
        onnxprune.prune(VIT, data=DATA, **FEW, **options)
    assert message in str(error.value)


def test_methods_are_options_of_the_command_line(tmp_path):
    target = tmp_path / "out.onnx"
    arguments = [VIT, "--method", "shortgpt", "--depth", "0.2", "--data", DATA, "--no-latency", "--samples", "32"]
    result = invoke(*arguments, "-o", str(target))
    assert "method shortgpt: whole blocks go" in result.output
    assert target.exists()
