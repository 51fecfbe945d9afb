"""Every node with weights that lost units is listed: fitted, or with the reason why not."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune import prune
from tests.support.build import IMAGE, ROWS, TOKENS, array, model

MIDDLE = {"x": ROWS, "w1": (6, 16), "b1": (16,)}
FIRST = ("a = Gemm(x, w1, b1)", "b = Relu(a)")


def told(proto, shape, **options):
    """Return why each node was not fitted, by name; None where it was."""
    samples = np.random.default_rng(0).standard_normal((16, *shape)).astype(np.float32)
    report = prune(proto, 0.5, data={"x": samples}, latency=False, round_to=1, **options).report
    return {each["node"]: each["why_not"] for each in report["reconstruction"]}


@pytest.mark.parametrize(
    ("nodes", "weights", "why"),
    [
        (("y = Einsum<equation=\"nk,ko->no\">(b, w2)",), {"w2": (16, 5)}, "it is no linear layer: Einsum"),
        (("k = Mul(w2, two)", "y = MatMul(b, k)"), {"w2": (16, 5), "two": (1,)},
         "its weight is computed from constants"),
        (("p = MatMul(b, w2)", "c = Tanh(b)", "q = MatMul(c, w2)", "y = Add(p, q)"), {"w2": (16, 5)},
         "its weight is read by several nodes"),
        (("t = Transpose(b)", "y = MatMul(w2, t)"), {"w2": (5, 16)}, "its weight is the first factor"),
        (("t = Transpose(b)", "y = Gemm<transA=1>(t, w2)"), {"w2": (16, 5)}, "it is a Gemm with transA"),
        (("y = com.microsoft.FusedGemm<activation=\"Relu\">(b, w2, b2)",), {"w2": (16, 5), "b2": (5,)},
         "it is a fused operator: FusedGemm"),
        (("y = Gemm(b, w2, b2)",), {"w2": (16, 5), "b2": (1,)},
         "what it adds is no constant, or differs from row to row"),
    ],
    ids=["einsum", "computed", "shared", "first factor", "transA", "fused", "one number"],
)  # fmt: skip
def test_why_a_consumer_is_not_fitted(nodes, weights, why):
    more = {"imports": '"com.microsoft" : 1', "y": "float[n,5] y", "infer": False} if "fused" in why else {}
    proto = model(*FIRST, *nodes, **MIDDLE, **weights, **more)
    found = told(proto, (6,))
    assert found.pop("a") is None
    assert set(found.values()) == {why}
    assert "a" not in told(proto, (6,), reconstruct=False)


def test_a_transposed_convolution_with_groups():
    proto = model(
        "a = Conv(x, w1)", "b = Relu(a)", "y = ConvTranspose<group=2>(b, w2)",
        x=IMAGE, w1=(16, 3, 1, 1), w2=(16, 3, 2, 2),
    )  # fmt: skip
    found = told(proto, (3, 6, 6))
    assert found["y"] == "it is a ConvTranspose with groups"


def test_a_quantized_weight():
    proto = model(
        *FIRST, "k = DequantizeLinear(w2, s)", "y = MatMul(b, k)", **MIDDLE, s=np.float32(0.1),
        w2=(10 * array("w2", (16, 5))).astype(np.int8),
    )  # fmt: skip
    assert told(proto, (6,))["y"] == "its weight is quantized"


def test_a_weight_inside_a_body():
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)", "s = ReduceSum<keepdims=0>(x)", "on = Greater(s, zero)",
        "c = If (on) <then_branch = one () => (float[n,8] p) { p = MatMul(b, w2) }, "
        "else_branch = two () => (float[n,8] q) { q = MatMul(b, w3) }>", "d = Relu(c)", "y = MatMul(d, w4)",
        x=ROWS, y="float[n,5] y", infer=False, w1=(6, 16), w2=(16, 8), w3=(16, 8), w4=(8, 5), zero=np.float32(0),
    )  # fmt: skip
    found = told(proto, (6,), criterion="l2", scope="group")
    assert found["p"] == found["q"] == "it is inside a body"


def test_the_table_of_an_embedding():
    proto = model("a = Gather(table, x)", "y = MatMul(a, w)", x="int64[n,s] x", table=(7, 16), w=(16, 5))
    words = np.random.default_rng(0).integers(0, 7, (16, 4))
    report = prune(proto, 0.5, data={"x": words}, latency=False, round_to=1).report
    found = {each["node"]: each["why_not"] for each in report["reconstruction"]}
    assert found == {"a": "it is no linear layer: Gather", "y": None}


@pytest.mark.parametrize("x", [ROWS, TOKENS])
def test_what_is_fitted_is_listed_once(x):
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)", "y = MatMul(b, w2)", x=x, w1=(6 if x == ROWS else 16, 16), w2=(16, 5)
    )
    assert told(proto, (6,) if x == ROWS else (5, 16)) == {"a": None, "y": None}
