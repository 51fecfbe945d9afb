"""Compensation: biases by hand, where there are some, where one is added, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxprune
from onnxprune.commands.steps.prepare import part_to_run
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.graph.linear import layers
from onnxprune.recovery.compensate import NO_BIAS, compensate, losing_layers
from onnxprune.surgery.biases import with_biases
from onnxprune.surgery.rewrite import rewrite
from tests.support.build import model

RNG = np.random.default_rng(0)
ROWS = 50


def dense(*last, **weights):
    """Return a network of one hidden layer of 4 units."""
    nodes = ["h = MatMul(x, up)", "r = Relu(h)", *last]
    return part_to_run(load(model(*nodes, x="float[n,3] x", up=(3, 4), **weights)), {})


def compensated(found, kept, batches):
    traced = trace(found)
    group = next(each for each in groups(traced) if each.units == len(kept))
    masks = {group.atom: np.array(kept, bool)}
    rewritten = rewrite(traced, masks)
    return compensate(traced, masks, rewritten.cuts, batches, bytes_of=lambda _: 100 * 2**20), rewritten


def feeds(shape, count=3):
    return [{"x": RNG.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def test_the_mean_of_what_goes_is_added_to_the_bias():
    found = dense("y = Gemm(r, down, shift)", down=(4, 2), shift=(2,))
    batches = feeds((ROWS, 3))
    (contents, outcomes), _ = compensated(found, [1, 0, 1, 0], batches)
    hidden = np.maximum(np.concatenate([each["x"] for each in batches]) @ found.array("up"), 0)
    expected = found.array("shift") + hidden.mean(0)[[1, 3]] @ found.array("down")[[1, 3]]
    assert set(contents) == {"shift"}
    assert contents["shift"] == pytest.approx(expected, abs=1e-6)
    assert [(each.node, each.strength) for each in outcomes] == [("y", math.inf)]


def test_a_bias_that_is_cut_itself_keeps_its_own_part():
    """Two hidden layers of 4 and 5 units; the second loses a unit as well."""
    nodes = ["h = MatMul(x, up)", "r = Relu(h)", "m = Gemm(r, mid, shift)", "s = Relu(m)", "y = MatMul(s, down)"]
    found = part_to_run(load(model(*nodes, x="float[n,3] x", up=(3, 4), mid=(4, 5), shift=(5,), down=(5, 2))), {})
    traced, batches = trace(found), feeds((ROWS, 3))
    by_units = {each.units: each.atom for each in groups(traced)}
    masks = {by_units[4]: np.array([1, 1, 0, 1], bool), by_units[5]: np.array([1, 1, 1, 1, 0], bool)}
    rewritten = rewrite(traced, masks)
    contents, outcomes = compensate(traced, masks, rewritten.cuts, batches, bytes_of=lambda _: 1.0)
    hidden = np.maximum(np.concatenate([each["x"] for each in batches]) @ found.array("up"), 0)
    expected = found.array("shift") + hidden.mean(0)[2] * found.array("mid")[2]
    ((name, content),) = contents.items()
    assert rewritten.cuts[name].source == "shift"
    assert content == pytest.approx(expected[:4], abs=1e-6)
    assert [each.why_not for each in outcomes] == [None, NO_BIAS]


def test_convolutions_see_the_mean_of_their_patches():
    nodes = ["h = Conv(x, up)", "r = Relu(h)", "y = Conv<pads=[1,1,1,1]>(r, down, shift)"]
    found = part_to_run(load(model(*nodes, x="float[n,2,5,5] x", up=(4, 2, 1, 1), down=(3, 4, 3, 3), shift=(3,))), {})
    batches = feeds((8, 2, 5, 5))
    (contents, _), rewritten = compensated(found, [1, 1, 1, 0], batches)
    images = np.concatenate([each["x"] for each in batches])
    whole = _run(found.proto, images) - _run(rewritten.proto, images)
    assert contents["shift"] - found.array("shift") == pytest.approx(whole.mean((0, 2, 3)), abs=1e-5)


def _run(proto, images):
    return ReferenceEvaluator(proto).run(None, {"x": images})[0]


@pytest.mark.parametrize(
    ("last", "op"),
    [("y = MatMul(r, down)", "Add"), ("y = Gemm(r, down)", "Gemm"), ("y = Gemm<beta=0.0>(r, down)", "Add")],
)
def test_layers_without_a_bias_get_one_of_zeros(last, op):
    found = dense(last, down=(4, 2))
    traced = trace(found)
    masks = {each.atom: np.zeros(each.units, bool) for each in groups(traced) if each.prunable}
    without = [each.layer for each in losing_layers(traced, masks)]
    assert [layer.weight for layer in without] == ["down"]
    biased = with_biases(found, without)
    assert biased.nodes[-1].op == op
    assert {layer.weight: layer.bias for layer in layers(biased)} == {"up": None, "down": "down_bias"}
    assert not biased.array("down_bias").any()
    assert biased.stored is found.stored
    assert (biased.sha256(), biased.stored_params) == (found.sha256(), found.stored_params)
    rows = feeds((ROWS, 3))[0]["x"]
    assert (_run(biased.proto, rows) == _run(found.proto, rows)).all()


def test_flap_is_proven_and_better_than_the_cut_alone():
    """Units that hardly vary go: with their mean in the bias nothing is lost, without it much is."""
    up, down = np.zeros((3, 8), np.float32), np.ones((8, 2), np.float32)
    up[:, :4] = RNG.standard_normal((3, 4))
    down[:, 1] = RNG.standard_normal(8)
    shift = np.array([0, 0, 0, 0, 5, 6, 7, 8], np.float32)
    proto = model(
        "h = Gemm(x, up, shift)", "r = Relu(h)", "y = MatMul(r, down)",
        x="float[n,3] x", up=up, shift=shift, down=down,
    )  # fmt: skip
    data = {"x": RNG.standard_normal((64, 3)).astype(np.float32)}
    result = onnxprune.prune(proto, 0.5, data=data, latency=False, method="flap")
    (group,) = (each for each in result.report["groups"] if each["units"] == 8)
    assert group["kept_units"] == [0, 1, 2, 3]
    assert result.report["verification"]["passed"]
    assert result.report["output"]["params"] == 4 * 3 + 4 + 4 * 2 + 2
    (bias,) = (each for each in result.model.graph.initializer if each.name == "down_bias")
    assert numpy_helper.to_array(bias) == pytest.approx(shift[4:] @ down[4:], abs=1e-5)
    rows = data["x"]
    assert _run(result.model, rows) == pytest.approx(_run(proto, rows), abs=1e-4)
    assert result.report["reconstruction"][0]["strength"] == "bias alone"
