"""Importance sees the numbers that an op multiplies with."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.criteria import importance
from onnxprune.dependency.groups import groups
from onnxprune.dependency.matrices import matrices
from onnxprune.dependency.trace import trace
from onnxprune.graph.effective import ConstantValues
from onnxprune.graph.files.read import load
from onnxprune.runtime.session import open_session
from tests.dependency.rules.quantized_cases import INT4, integers, scales
from tests.support.build import ROWS, conv, dense, model


def scored(proto, name):
    traced = trace(load(proto))
    group = next(group for group in groups(traced) if group.name == name)
    return importance.score("l2", matrices(group, traced), np.random.default_rng(0))


def outs(proto, name):
    """Return the matrices of the weights that make the units of a group."""
    traced = trace(load(proto))
    group = next(group for group in groups(traced) if group.name == name)
    return [matrix for role, matrix in matrices(group, traced) if role == "out"]


STORED = np.array([[100, 100], [90, 90], [10, 10], [50, 50]], np.int8)
SCALES = np.array([0.001, 0.01, 1.0, 0.0001], np.float32)  # the unit that is stored largest is not the largest
NORMS = np.linalg.norm(STORED.astype(np.float32) * SCALES[:, None], axis=1)


def per_channel(**more):
    return model(
        "k = DequantizeLinear<axis=0>(w, s)", "t = Transpose(k)", "a = MatMul(x, t)", "y = MatMul(a, w2)",
        x="float[n,2] x", w=STORED, s=SCALES, w2=np.ones((4, 3), np.float32), **more
    )  # fmt: skip


def test_a_quantized_weight_counts_with_its_scales():
    (matrix,) = outs(per_channel(), "w")
    assert matrix == pytest.approx(STORED * SCALES[:, None])
    assert np.argsort(scored(per_channel(), "w")).tolist() == np.argsort(NORMS).tolist() == [3, 0, 1, 2]


def test_weight_and_scales_give_one_matrix_and_are_both_reported():
    traced = trace(load(per_channel()))
    group = next(group for group in groups(traced) if group.name == "w")
    assert {member.constant for member in group.members} == {"w", "s", "w2"}
    assert [role for role, _ in matrices(group, traced)] == ["out", "in"]


def test_zero_points_are_subtracted():
    proto = dense(
        "q = QuantizeLinear(a, s, z)", "p = QLinearMatMul(q, s, z, k, ks, kz, s, z)", "b = DequantizeLinear(p, s, z)",
        k=integers("k", 8, 4, kind=np.uint8), ks=scales("ks", 4), kz=integers("kz", 4, kind=np.uint8), s=0.05,
        z=np.uint8(9), out=4
    )  # fmt: skip
    (matrix,) = outs(proto, "k")
    real = (integers("k", 8, 4, kind=np.uint8).astype(float) - integers("kz", 4, kind=np.uint8)) * scales("ks", 4)
    assert matrix == pytest.approx(real.T)


def test_a_table_makes_the_units_of_its_rows():
    table = np.arange(32, dtype=np.float32).reshape(4, 8)
    proto = model(
        "a = Gather(table, x)", "r = Relu(a)", "y = MatMul(r, w)", x="int64[n] x", table=table, w=(8, 5)
    )  # fmt: skip
    (matrix,) = outs(proto, "table")
    assert matrix == pytest.approx(table.T)


def test_what_onnx_runtime_dequantizes_counts_as_it_is_used():
    proto = model(
        "k = com.microsoft.DequantizeLinear<axis=0>(w, s, z)", "t = Transpose(k)", "a = MatMul(x, t)",
        "y = MatMul(a, w2)", x="float[n,2] x", y="float[n,3] y", imports='"com.microsoft": 1', w=STORED, s=SCALES,
        z=np.array([3, 0, 0, 0], np.int8), w2=np.ones((4, 3), np.float32)
    )  # fmt: skip
    (matrix,) = outs(proto, "w")
    assert matrix == pytest.approx((STORED - np.array([[3], [0], [0], [0]])) * SCALES[:, None])


@pytest.mark.parametrize(("kind", "zeros"), [("packed", False), ("packed", True), ("int4", False)])
def test_quantized_tables_count_as_they_are_used(kind, zeros):
    """The units are blocks of 16; a Gather of every row by the runtime says what is right."""
    rows, blocks = 20, 4
    stored = integers("k", rows, 32, kind=np.uint8) if kind == "packed" else integers("k", rows, 64, kind=INT4)
    given = {"kz": integers("kz", rows, blocks // 2, kind=np.uint8)} if zeros else {}
    attributes = "block_size=16, bits=4, quantize_axis=1"
    lookup = f"e = com.microsoft.GatherBlockQuantized<{attributes}>(k, x, ks{', kz' * zeros})"
    rest = {"x": "int64[20] x", "opset": 21, "imports": '"com.microsoft": 1', "k": stored, "ks": scales("ks", rows, 4)}
    looked_up = model(lookup.replace("e =", "y ="), y="float[20,64] y", **rest, **given)
    table = open_session(looked_up.SerializeToString()).run({"x": np.arange(20)})["y"]
    traced = trace(load(model(lookup, "y = MatMul(e, w2)", y="float[20,5] y", w2=(64, 5), **rest, **given)))
    encoding = traced.couplings[0].encodings[0]
    names = traced.model.nodes[0].inputs
    real = encoding.decode([traced.model.constants.get(n) and traced.model.array(n) for n in names])
    assert real.reshape(table.shape) == pytest.approx(table, abs=1e-6)
    assert real.shape[:2] == stored.shape


def test_a_normed_weight_counts_as_it_is_used():
    v = np.random.default_rng(0).standard_normal((6, 8, 1, 1)).astype(np.float32)
    g = np.arange(1, 7, dtype=np.float32).reshape(6, 1, 1, 1)
    proto = conv(
        "n = ReduceL2(v, d)", "u = Div(v, n)", "k = Mul(u, g)", "c = Conv(a, k)", "b = Relu(c)", v=v, g=g,
        d=[1, 2, 3], out=6
    )  # fmt: skip
    traced = trace(load(proto))
    (group,) = (group for group in groups(traced) if group.units == 6 and group.locked is None)
    first = next(matrix for role, matrix in matrices(group, traced) if role == "out")
    assert np.linalg.norm(first, axis=1) == pytest.approx(g.ravel(), rel=1e-5)


def test_packed_weights_are_unpacked():
    stored = np.array([[[0x1F, 0x80]], [[0x88, 0x88]]], np.uint8)  # low bits first: 15, 1, 0, 8; then all 8
    proto = model(
        "a = com.microsoft.MatMulNBits<K=4, N=2, bits=4, block_size=4>(x, k, ks)", "y = MatMul(a, w2)",
        x="float[n,4] x", k=stored, ks=np.array([0.5, 2.0], np.float32), w2=(2, 3), imports='"com.microsoft": 1',
        y="float[n,3] y"
    )  # fmt: skip
    (matrix,) = outs(proto, "k")
    assert matrix.tolist() == [[3.5, -3.5, -4.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_what_cannot_be_evaluated_counts_as_it_is_stored(monkeypatch):
    monkeypatch.setattr(ConstantValues, "array", lambda self, name: None)
    stored, scale = outs(per_channel(), "w")
    assert stored == pytest.approx(STORED)
    assert scale[:, 0] == pytest.approx(SCALES)


def test_values_follow_from_constants_alone():
    values = ConstantValues(load(per_channel()))
    assert values.array("t") == pytest.approx((STORED * SCALES[:, None]).T)
    assert values.array("w").dtype == np.int8
    assert values.array("a") is None
    assert values.array("x") is None
    assert values.array("nothing") is None


def test_only_the_last_values_are_held():
    proto = model("k = Neg(w)", "l = Neg(k)", "m = Neg(l)", "y = MatMul(x, m)", x=ROWS, w=(6, 8))
    values = ConstantValues(load(proto), held_bytes=6 * 8 * 4)
    weight = load(proto).array("w")
    assert values.array("m") == pytest.approx(-weight)
    assert list(values._held) == ["m"]
    assert values.array("l") == pytest.approx(weight)
