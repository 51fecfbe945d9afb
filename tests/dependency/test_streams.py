"""Means inside a branch are exact; those over a stream, which layers read and add to, wait for `--width`."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.runtime.session import open_session
from onnxprune.surgery.rewrite import rewrite
from tests.support.build import array, conv, dense, model
from tests.support.oracle import check

MS = "com.microsoft."
TAIL = ("e = Add(m, eps)", "v = Div(n, e)", "i = Mul(h, v)", "g = Mul(i, gain)", "j = Add(g, shift)", "b = Add(j, h)")
GRN = {  # of h, channels last
    "norms": ("n = ReduceL2(h, sides)", "m = ReduceMean(n, last)", *TAIL),
    "powers": ("q = Pow(h, two)", "r = ReduceSum(q, sides)", "n = Sqrt(r)", "m = ReduceMean(n, last)", *TAIL),
    "mean-squares": ("q = Mul(h, h)", "r = ReduceMean(q, sides)", "n = Sqrt(r)", "m = ReduceMean(n, last)", *TAIL),
    "sum-and-count": ("n = ReduceL2(h, sides)", "r = ReduceSum(n, last)", "m = Div(r, count)", *TAIL),
    "attributes": (
        "n = ReduceL2<axes = [1, 2]>(h)", "m = ReduceMean<axes = [-1], keepdims = 1>(n)", *TAIL
    ),
}  # fmt: skip
NORMS = {
    "rms": ("q = Mul(h, h)", "m = ReduceMean(q, last)", "e = Add(m, eps)", "n = Sqrt(e)", "b = Div(h, n)"),
    "l2": ("n = ReduceL2(h, last)", "e = Add(n, eps)", "b = Div(h, e)"),
    "l1": ("n = ReduceL1(h, last)", "e = Add(n, eps)", "b = Div(h, e)"),
    "layer-norm": (
        "m = ReduceMean(h, last)", "c = Sub(h, m)", "q = Mul(c, c)", "w = ReduceMean(q, last)", "e = Add(w, eps)",
        "n = Sqrt(e)", "b = Div(c, n)",
    ),
}  # fmt: skip
NUMBERS = {"last": [-1], "sides": [1, 2], "two": 2.0, "count": 12.0, "eps": 0.25, "gain": (12,), "shift": (12,)}


def block(*nodes, norm="l = LayerNormalization(t0, lg)", opset=18):
    """Return a residual block as ConvNeXtV2 has it, with `nodes` from h to b between its two layers."""
    return model(
        "s = Conv(x, stem)", "t0 = Transpose<perm = [0, 2, 3, 1]>(s)", norm, "p = MatMul(l, k1)", "h = Relu(p)", *nodes,
        "o = MatMul(b, k2)", "u = Transpose<perm = [0, 3, 1, 2]>(o)", "z = Add(s, u)", "y = Conv(z, head)",
        opset=13 if any("axes =" in node for node in nodes) else opset, y="float[n,5,h,w] y",
        stem=(8, 3, 1, 1), head=(5, 8, 1, 1), lg=(8,), k1=(8, 12), k2=(12, 8), **NUMBERS
    )  # fmt: skip


def without_layer_norm(nodes):
    """Opset 13 has no LayerNormalization."""
    return "l = Tanh(t0)" if any("axes =" in node for node in nodes) else "l = LayerNormalization(t0, lg)"


@pytest.mark.parametrize("name", [*GRN, *NORMS])
def test_a_norm_between_two_layers_is_exact(name):
    nodes = {**GRN, **NORMS}[name]
    checked = check(block(*nodes, norm=without_layer_norm(nodes)))
    assert "k1" in checked.cut
    assert checked.shape("k1")[1] == 6
    assert checked.group("k1").kind == "neurons"
    assert checked.group("k1").inexact is None


def test_a_response_normalisation_of_fewer_units_divides_by_the_original_count():
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)}
    proto = block(*GRN["norms"], norm="l = Tanh(t0)")
    traced = trace(load(proto))
    (group,) = (group for group in groups(traced) if group.name == "k1")
    kept = np.arange(12) % 3 > 0
    pruned = rewrite(traced, {group.atom: kept}).proto
    s = np.einsum("nchw,oc->nohw", feeds["x"], array("stem", (8, 3, 1, 1))[:, :, 0, 0])
    h = np.maximum(np.tanh(s.transpose(0, 2, 3, 1)) @ array("k1", (8, 12))[:, kept], 0)
    n = np.sqrt((h**2).sum((1, 2), keepdims=True))
    b = array("gain", (12,))[kept] * (h * n / (n.sum(-1, keepdims=True) / 12 + 0.25)) + array("shift", (12,))[kept] + h
    r = s + (b @ array("k2", (12, 8))[kept]).transpose(0, 3, 1, 2)
    expected = np.einsum("nchw,oc->nohw", r, array("head", (5, 8, 1, 1))[:, :, 0, 0])
    assert open_session(pruned.SerializeToString()).run(feeds)["y"] == pytest.approx(expected, rel=1e-3, abs=1e-4)


STREAMS = {
    "mean": (("m = ReduceMean(t0, last)", "l = Sub(t0, m)"), "ReduceMean reduces over it"),
    "l2": (("m = ReduceL2(t0, last)", "l = Div(t0, m)"), "ReduceL2 reduces over it"),
    "fused": (("l = RMSNormalization(t0, lg)",), "RMSNormalization normalises over it"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_norm_over_a_stream_waits_for_width(name):
    norm, reason = STREAMS[name]
    proto = block("b = Tanh(h)", norm="\n".join(norm), opset=23)
    found = check(proto, quick=True)
    assert found.cut == ("k1",)
    assert found.group("stem").mixed.reason == reason
    assert found.group("stem").kind == "hidden width"
    assert set(check(proto, width=True, quick=True).cut) == {"stem", "k1"}


LAYER = ("n = ReduceL2(a, one)", "l = Div(a, n)", "t = MatMul(l, k)")
ROW = (
    *LAYER, "z = Mul(a, nil)", "rows = Cast<to = 7>(z)", "s = ReduceSum(z, one)", "row = Cast<to = 7>(s)"
)  # fmt: skip
BESIDE = (*LAYER, "p = Unsqueeze(a, one)", "q = Unsqueeze(t, one)", "s = Concat<axis = 1>(p, q)")
OPERANDS = {
    "one": [1], "two": [2], "k": (8, 8), "shift": (8,), "gain": (8,), "gate": (1,), "wide": (16, 8), "mix": (1, 2),
    "nil": 0.0, "qs": 0.1, "qz": np.uint8(128),
    "imports": '"com.microsoft": 1'
}  # fmt: skip
ADDED = {
    "add": ("n = ReduceL2(a, one)", "l = Div(a, n)", "t = MatMul(l, k)", "b = Add(a, t)"),
    "sub": ("n = ReduceL2(a, one)", "l = Div(a, n)", "t = MatMul(l, k)", "b = Sub(a, t)"),
    "gemm": ("n = ReduceL2(a, one)", "l = Div(a, n)", "b = Gemm(l, k, a)"),
    "sum": (*LAYER, "b = Sum(t, a)"),
    "mean": (*LAYER, "b = Mean(a, t)"),
    "stacked": (
        *LAYER, "p = Unsqueeze(a, one)", "q = Unsqueeze(t, one)", "s = Concat<axis = 1>(p, q)",
        "b = ReduceSum<keepdims = 0>(s, one)"
    ),
    "stacked-mean": (
        *LAYER, "p = Unsqueeze(a, two)", "q = Unsqueeze(t, two)", "s = Concat<axis = -1>(q, p)", "r = Relu(s)",
        "b = ReduceMean<keepdims = 0>(r, two)"
    ),
    "quantized": (
        *LAYER, "p = QuantizeLinear(a, qs)", "q = QuantizeLinear(t, qs)",
        f"r = {MS}QLinearAdd(p, qs, qz, q, qs, qz, qs, qz)",
        "b = DequantizeLinear(r, qs, qz)"
    ),
    "gated": (*LAYER, f"b = {MS}GatedAdd(a, t, gate)"),
    "dropout": (*LAYER, f"b = {MS}BiasDropout(t, shift, a)"),
    "fused-gemm": ("n = ReduceL2(a, one)", "l = Div(a, n)", f"b = {MS}FusedGemm(l, k, a)"),
    "scatter-elements": (*ROW, 'b = ScatterElements<axis = 0, reduction = "add">(a, rows, t)'),
    "scatter-nd": (*ROW, 'b = ScatterND<reduction = "add">(a, row, t)'),
    "skip": (*LAYER, f"u, , , b = {MS}SkipSimplifiedLayerNormalization(a, t, gain)"),
    "loop": (
        "c = Constant<value_int = 3>()", "g = Constant<value = bool {1}>()",
        "b = Loop(c, g, a) <body = l1 (int64 i, bool k1, float[n,8] v) => (bool k2, float[n,8] w) "
        "{ k2 = Identity(k1) n = ReduceL2(v, one) l = Div(v, n) t = MatMul(l, k) w = Add(v, t) }>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ADDED)
def test_what_is_added_to_is_a_stream(name):
    """Whichever operator adds."""
    traced = trace(view(dense(*ADDED[name], y="float[n,5] y", infer=False, **OPERANDS)))
    (group,) = (group for group in groups(traced) if group.name == "w1")
    assert group.mixed.reason in (
        "ReduceL2 reduces over it",
        f"{MS}SkipSimplifiedLayerNormalization normalises over it",
    )


@pytest.mark.parametrize("name", ["add", "sub", "gemm", "loop", "sum", "mean", "stacked", "stacked-mean"])
def test_a_stream_is_right_when_it_is_cut(name):
    proto = dense(*ADDED[name], y="float[n,5] y", **OPERANDS)
    assert check(proto, quick=True).cut == ()
    assert check(proto, width=True, quick=True).cut == ("w1",)


APART = {
    "a concatenation of units": (*LAYER, "s = Concat<axis = 1>(a, t)", "b = MatMul(s, wide)"),
    "a concatenation that is no sum": (*BESIDE, "m = ReduceMax<keepdims = 0>(s, one)", "b = Relu(m)"),
    "a concatenation that a layer reads": (*BESIDE, "m = MatMul(mix, s)", "b = Squeeze(m, one)"),
    "an overwritten part": (*ROW, "b = ScatterElements<axis = 0>(a, rows, t)"),
    "a product": (*LAYER, "b = Mul(a, t)"),
    "the layer's own bias": ("n = ReduceL2(a, one)", "l = Div(a, n)", "b = Gemm(l, k, shift)"),
}


@pytest.mark.parametrize("name", APART)
def test_what_is_not_added_to_is_no_stream(name):
    traced = trace(view(dense(*APART[name], y="float[n,5] y", infer=False, **OPERANDS)))
    (group,) = (group for group in groups(traced) if group.name == "w1")
    assert group.mixed is None


def test_a_convolution_that_adds_makes_a_stream():
    proto = conv(
        "n = ReduceL2(a, one)", "l = Div(a, n)", f'b = {MS}FusedConv<activation = "Relu">(l, k, c, a)', one=[1],
        k=(8, 8, 1, 1), c=(8,), imports='"com.microsoft": 1', y="float[n,5,6,6] y"
    )  # fmt: skip
    assert check(proto).group("w1").mixed.reason == "ReduceL2 reduces over it"


GATES = {
    "squeeze-excite": (
        "p = GlobalAveragePool(a)", "q = Conv(p, k1)", "r = Relu(q)", "s = Conv(r, k2)", "t = Sigmoid(s)",
        "h = Mul(a, t)", "n = ReduceL2(h, sides)", "m = ReduceMean(n, one)", "e = Add(m, eps)", "v = Div(n, e)",
        "w = Mul(h, v)", "b = Add(w, h)",
    ),
    "mean-map": ("m = ReduceMean(a, one)", "q = Conv<pads = [1, 1, 1, 1]>(m, k3)", "t = Sigmoid(q)", "b = Mul(a, t)"),
    "pixel-norm": ("q = Mul(a, a)", "m = ReduceMean(q, one)", "e = Add(m, eps)", "n = Sqrt(e)", "b = Div(a, n)"),
}  # fmt: skip


@pytest.mark.parametrize("name", GATES)
def test_gates_that_read_a_mean_are_exact(name):
    weights = {"k1": (4, 8, 1, 1), "k2": (8, 4, 1, 1), "k3": (1, 1, 3, 3), "sides": [2, 3], "one": [1], "eps": 0.25}
    checked = check(conv(*GATES[name], **weights))
    assert "w1" in checked.cut
