"""What users see of fused operators: roles of their weights, words for their units, multiply-accumulates."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from onnxprune.dependency import cost
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.view import view
from onnxprune.surgery.mask import masked
from tests.dependency.rules.fused_cases import FUSED, IMPORT
from tests.support.build import model
from tests.support.oracle import check

TAIL = {"x": "float[n,5,16] x", "y": "float[n,5,16] y", "imports": IMPORT}
FUSED_ONE = ("o = com.microsoft.Attention<num_heads=4>(x, w, c)", "y = MatMul(o, wo)")
PROJECTIONS = [f"{name} = MatMul(x, w{name})" for name in "qkv"]
HEADS = [
    line
    for name, perm in (("q", "0, 2, 1, 3"), ("k", "0, 2, 3, 1"), ("v", "0, 2, 1, 3"))
    for line in (
        f"{name}0 = MatMul(x, w{name})",
        f"{name}1 = Reshape({name}0, split)",
        f"{name} = Transpose<perm=[{perm}]>({name}1)",
    )
]
APART = (
    *HEADS, "s0 = MatMul(q, k)", "s1 = Mul(s0, scale)", "s = Softmax(s1)", "o0 = MatMul(s, v)",
    "o1 = Transpose<perm=[0, 2, 1, 3]>(o0)", "o = Reshape(o1, join)", "y = MatMul(o, wo)"
)  # fmt: skip


def fused():
    return model(*FUSED_ONE, w=(16, 48), c=(48,), wo=(16, 16), **TAIL)


def apart():
    weights = {f"w{name}": (16, 16) for name in "qkvo"}
    return model(*APART, split=[0, 0, 4, 4], join=[0, 0, 16], scale=0.5, **weights, **TAIL)


def multi_head():
    """The same with projections outside of the operator."""
    o = "o = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v)"
    return model(*PROJECTIONS, o, "y = MatMul(o, wo)", **{f"w{name}": (16, 16) for name in "qkvo"}, **TAIL)


def standard():
    o = "o = Attention<q_num_heads=4, kv_num_heads=4>(q, k, v)"
    return model(*PROJECTIONS, o, "y = MatMul(o, wo)", opset=23, **{f"w{name}": (16, 16) for name in "qkvo"}, **TAIL)


@pytest.mark.parametrize("proto", [fused(), multi_head(), standard()], ids=["fused", "multi-head", "standard"])
def test_an_attention_costs_what_its_parts_cost(proto):
    expected, found = trace(view(apart())), trace(view(proto))
    assert cost.macs(found) == cost.macs(expected)
    heads = [next(g for g in groups(t) if g.kind == "heads") for t in (expected, found)]
    shares = [cost.macs_by_atom(t)[g.atom] for t, g in zip((expected, found), heads, strict=True)]
    assert shares[0] == shares[1]


@pytest.mark.parametrize("proto", [fused(), multi_head(), standard()], ids=["fused", "multi-head", "standard"])
def test_an_attention_has_the_groups_of_its_parts(proto):
    expected, found = (groups(trace(view(p))) for p in (apart(), proto))
    assert sorted((g.kind, g.units, g.inner) for g in found) == sorted((g.kind, g.units, g.inner) for g in expected)


def test_weights_that_make_hidden_units_are_their_kernels():
    heads, dims, values = (g for g in groups(trace(view(fused()))) if g.prunable or g.inner)
    assert {(m.constant, m.role) for m in heads.members} == {("w", "out"), ("c", "vector"), ("wo", "in")}
    assert {(m.constant, m.role) for m in dims.members} == {("w", "out"), ("c", "vector")}
    assert {(m.constant, m.role) for m in values.members} == {("w", "out"), ("c", "vector"), ("wo", "in")}


def test_experts_are_kernels_and_their_biases_are_vectors():
    case = next(case for case in FUSED if str(case) == "com.microsoft.MoE-gelu-bias-2d")
    found = {group.units: group for group in groups(trace(view(case.proto)))}
    assert {(m.constant, m.role) for m in found[10].members} == {("f1", "out"), ("b1", "vector"), ("f2", "in")}
    assert found[10].kind == "neurons"


def test_experts_cost_what_the_chosen_ones_cost():
    case = next(case for case in FUSED if str(case) == "com.microsoft.MoE-relu-2d")
    assert cost.macs(trace(view(case.proto))) == 6 * 8 + 8 * 3 + 2 * (2 * 8 * 10) + 8 * 5


def test_a_scale_is_written_once_the_dims_of_a_head_are_cut_and_not_before():
    def scale(only):
        checked = check(multi_head(), only=only)
        node = next(node for node in view(checked.pruned).nodes if node.name == "o")
        return node.attrs.get("scale")

    names = {group.kind: group.name for group in reversed(groups(trace(view(multi_head()))))}
    assert scale([names["heads"]]) is None
    assert scale([names["head dims"]]) == pytest.approx(1 / sqrt(4))


def test_hidden_units_are_masked_where_they_are_made():
    found = trace(view(fused()))
    dims = next(g for g in groups(found) if {m.role for m in g.members} == {"out", "vector"})
    kept = {dims.atom: np.array([True, False, True, True])}
    masks = [node for node in masked(found, kept).graph.node if node.op_type == "Mul"]
    assert sorted(node.input[0] for node in masks) == ["c", "w"]


def test_convolutions_of_the_optimiser_have_lanes():
    proto = model(
        "a = com.microsoft.FusedConv<group=2>(x, w1)", "y = Conv(a, w2)", x="float[n,4,6,6] x", y="float[n,5,6,6] y",
        imports=IMPORT, w1=(8, 2, 1, 1), w2=(5, 8, 1, 1)
    )  # fmt: skip
    found = [group for group in groups(trace(view(proto))) if group.locked is None]
    assert [(group.kind, group.units, group.lanes) for group in found] == [("channels", 4, 2)]
