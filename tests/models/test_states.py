"""Models with states, from end to end: sizes that belong together are found, or the two inputs are named."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxprune
from onnxprune.errors import InputError
from tests.support.build import model

RNN = {"gw": (1, 48, 16), "gr": (1, 48, 16), "head": (16, 5), "w1": (32, 16), "w0": (6, 32), "zero": np.array([0])}
DENSE = ("a = MatMul(x, w0)", "b = Relu(a)", "c = MatMul(b, w1)")
LAYERS = ("d, e = GRU<hidden_size = 16>(c, gw, gr, , , h)", "f = Squeeze(e, zero)", "y = MatMul(f, head)")
EXPANDED = (
    "a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, v0)",
    "b = Relu(a)",
    "c = Conv<pads = [1, 1, 1, 1]>(b, v1)",
    "s = Shape(c)",
    "e = Expand(r, s)",
    "g = Concat<axis = 1>(c, e)",
    "i = Conv(g, v2)",
    "j = Relu(i)",
    "y = Conv(j, v3)",
)
KERNELS = {"v0": (24, 3, 3, 3), "v1": (8, 24, 3, 3), "v2": (24, 16, 1, 1), "v3": (4, 24, 1, 1)}


def recurrent(state):
    return model(*DENSE, *LAYERS, x=f"float[s,n,6] x, float[{state}] h", infer=False, **RNN)


def stated(proto):
    """Return a model whose output states its rank, as onnx's checker wants."""
    output = proto.graph.output[0]
    rank = 2 if len(proto.graph.input[0].type.tensor_type.shape.dim) == 3 else 4
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [None] * rank))
    return proto


def video(state="rn,rc,rh,rw"):
    return model(*EXPANDED, x=f"float[n,3,h,w] x, float[{state}] r", infer=False, **KERNELS)


@pytest.mark.generated
@pytest.mark.parametrize("state", ["1,1,16", "1,4,16", "1,n,16", "1,m,16", "d,m,k"])
def test_a_recurrent_layer_with_a_state_that_is_an_input(state):
    report = onnxprune.prune(stated(recurrent(state)), ratio=0.4, round_to=1, latency=False).report
    assert report["verification"]["passed"]
    assert report["calibration"]["source"] == "generated"
    assert report["output"]["params"] < report["input"]["params"]


@pytest.mark.parametrize("state", ["rn,rc,rh,rw", "1,rc,1,1"])
def test_a_state_that_is_expanded_to_what_it_meets(state):
    timed = state == "rn,rc,rh,rw"
    report = onnxprune.prune(stated(video(state)), ratio=0.4, round_to=1, latency=timed).report
    assert report["verification"]["passed"]
    assert len(report["latency"]) == timed
    assert report["output"]["params"] < report["input"]["params"]


def test_samples_of_a_state_are_calibrated_on():
    rng = np.random.default_rng(0)
    shapes = {"x": (1, 7, 6), "h": (2, 1, 16)}
    feeds = [{name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(24)]
    turned = "t = Transpose<perm = [1, 0, 2]>(x)", "a = MatMul(t, w0)", *DENSE[1:]
    both = 'd, e = GRU<hidden_size = 16, direction = "bidirectional">(c, gw, gr, , , h)'
    weights = {**RNN, "gw": (2, 48, 16), "gr": (2, 48, 16)}
    proto = model(*turned, both, "f = ReduceSum<keepdims = 0>(d, one)", "y = MatMul(f, head)",
                  x="float[n,s,6] x, float[2,1,16] h", infer=False, one=[1], **weights)  # fmt: skip
    report = onnxprune.prune(stated(proto), data=feeds, ratio=0.4, round_to=1, latency=False).report
    assert report["verification"]["passed"]
    assert report["calibration"]["samples"] == 18


def test_a_contradiction_ends_the_run_with_both_inputs():
    proto = stated(model(*DENSE, *LAYERS, x="float[s,2,6] x, float[1,3,16] h", infer=False, **RNN))
    with pytest.raises(InputError) as caught:
        onnxprune.prune(proto, ratio=0.4, round_to=1, latency=False)
    said = str(caught.value)
    assert "inputs 'x' [11, 2, 6] and 'h' [1, 3, 16] do not fit together" in said
    assert "where 2 meets 3; give sizes that do with --input x=SHAPE --input h=SHAPE" in said
