"""The table of cases: every op that has a rule, between weights, so that a cut goes through it.

`test_rules` runs each case through the oracle and compares it with what the row expects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnxprune.dependency.rules.broadcast import (
    AVERAGES,
    ELEMENTWISE,
    INDEX_REDUCTIONS,
    MIXING,
    REDUCTIONS,
    SUMS,
    UNARY,
)
from tests.dependency.rules.control_cases import control_cases
from tests.dependency.rules.expert_cases import expert_cases
from tests.dependency.rules.old_cases import old_cases
from tests.dependency.rules.quantized_cases import quantized_cases
from tests.dependency.rules.recurrent_cases import recurrent_cases
from tests.dependency.rules.scatter_cases import scatter_cases
from tests.dependency.rules.sequence_cases import sequence_cases
from tests.dependency.rules.signal_cases import signal_cases
from tests.support.build import FIXED, ROWS, TOKENS, conv, dense, model


@dataclass(frozen=True)
class Case:
    """One row: a model, and what must come out of it."""

    op: str  # in RULES
    variant: str
    proto: onnx.ModelProto = field(repr=False)
    cut: str  # groups that can lose units, in graph order: "8 channels, 4 head dims inside"
    locks: tuple[str, ...] = ()  # why groups are locked, beside being part of an input or output of the graph
    inexact: tuple[str, ...] = ()  # why groups are not cut unless asked for
    after: Mapping[str, Any] = field(
        default_factory=dict
    )  # "node.attribute" or "node:slot" -> value in the pruned model
    trace_only: str = ""  # why the model cannot be run
    at: tuple[Mapping[str, int], ...] = ()  # sizes of dynamic dims on which it must be right, beside those of `verify`

    def __str__(self) -> str:
        return f"{self.op}-{self.variant}" if self.variant else self.op


C8 = "8 channels"
N8 = "8 neurons"
SPATIAL = "its size is computed by Conv"  # a weight over positions


def row(op, variant, proto, cut, locks=(), inexact=(), after=(), trace_only="", at=()):
    return Case(op, variant, proto, cut, locks, inexact, dict(after), trace_only, at)


def on_images(op, variant, *nodes, cut=C8, locks=(), inexact=(), after=(), trace_only="", at=(), **rest):
    return Case(op, variant, conv(*nodes, **rest), cut, locks, inexact, dict(after), trace_only, at)


def on_rows(op, variant, *nodes, cut=N8, locks=(), inexact=(), after=(), trace_only="", at=(), **rest):
    return Case(op, variant, dense(*nodes, **rest), cut, locks, inexact, dict(after), trace_only, at)


def case(op, variant, *nodes, cut, locks=(), inexact=(), after=(), trace_only="", at=(), **rest):
    return Case(op, variant, model(*nodes, **rest), cut, locks, inexact, dict(after), trace_only, at)


# -- elementwise ------------------------------------------------------------------------------------------

DOMAIN = {  # from a to p, where the op gives a finite number
    "Acos": ("t = Tanh(a)", "p = Mul(t, half)"),
    "Acosh": ("p = Cosh(a)",),
    "Asin": ("t = Tanh(a)", "p = Mul(t, half)"),
    "Atanh": ("t = Tanh(a)", "p = Mul(t, half)"),
    "BitwiseNot": ("p = Cast<to=6>(a)",),
    "IsInf": ("p = Div(a, zero)",),
    "IsNaN": ("p = Log(a)",),
    "Log": ("p = Softplus(a)",),
    "Not": ("t = Relu(a)", "p = Cast<to=9>(t)"),
    "Reciprocal": ("p = Cosh(a)",),
    "Sqrt": ("p = Abs(a)",),
    "Tan": ("p = Tanh(a)",),
}
ATTRIBUTES = {"Cast": "<to=11>", "IsInf": "<detect_positive=0>", "Shrink": "<lambd=0.5, bias=0.25>"}
NOT_FLOAT = {"BitwiseNot", "Cast", "IsInf", "IsNaN", "Not"}
SINCE = {"Gelu": 20, "Swish": 24}


def _unary(op):
    before = DOMAIN.get(op, ("p = Identity(a)",))
    result = ("c", "b = Cast<to=1>(c)") if op in NOT_FLOAT else ("b", "")
    after = (f"{result[0]} = {op}{ATTRIBUTES.get(op, '')}(p)", *filter(None, result[1:]))
    return on_images(op, "", *before, *after, opset=SINCE.get(op, 18), half=0.5, zero=0.0)


OPERANDS = {  # from the floats p and q to the operands r and s
    "And Or Xor": ("t = Relu(p)", "u = Relu(q)", "r = Cast<to=9>(t)", "s = Cast<to=9>(u)"),
    "Equal": ("r = Sign(p)", "s = Sign(q)"),
    "BitwiseAnd BitwiseOr BitwiseXor": ("r = Cast<to=6>(p)", "s = Cast<to=6>(q)"),
    "BitShift": ("t = Exp(p)", "r = Cast<to=12>(t)", "u = Relu(q)", "s = Cast<to=12>(u)"),
    "Div Mod": ("r = Identity(p)", "s = Cosh(q)"),
    "Pow": ("r = Softplus(p)", "s = Tanh(q)"),
    "Where": ("t = Relu(p)", "c = Cast<to=9>(t)", "r = Identity(p)", "s = Identity(q)"),
}
TO_BOOL_OR_INT = "And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual BitwiseAnd BitwiseOr BitwiseXor BitShift"


def _elementwise(op):
    """Two convolutions, one op, one convolution: all three share their channels."""
    operands = next((nodes for ops, nodes in OPERANDS.items() if op in ops.split()), ("r = Identity(p)", "s = Neg(q)"))
    attributes = {"Mod": "<fmod=1>", "BitShift": '<direction="LEFT">'}.get(op, "")
    nodes = [*operands, f"z = {op}{attributes}({'c, ' * (op == 'Where')}r, s)"]
    nodes.append("b = Cast<to=1>(z)" if op in TO_BOOL_OR_INT.split() else "b = Identity(z)")
    return on_images(op, "", "p = Identity(a)", "q = Conv(x, v1, c1)", *nodes, v1=(8, 3, 1, 1), c1=(8,))


POSITIVE = ("r = Softplus(a)",)


def _broadcasts():
    """The second operand has axes of size 1, fewer axes, or comes first."""
    yield on_images("Add", "vector", "b = Add(a, k)", k=(8, 1, 1), cut=C8)
    yield on_images("Add", "vector-first", "b = Add(k, a)", k=(1, 8, 1, 1), cut=C8)
    yield on_images("Mul", "scalar", "b = Mul(a, k)", k=2.0)
    yield on_images("Sub", "per-position", "b = Sub(a, k)", k=(6, 6), locks=(SPATIAL,))
    yield on_images("Div", "whole", "r = Cosh(a)", "b = Div(k, r)", k=(1, 8, 6, 6), locks=(SPATIAL,))
    yield on_images("PRelu", "slope", "b = PRelu(a, k)", k=(8, 1, 1))
    yield on_images("PRelu", "one-slope", "b = PRelu(a, k)", k=(1,))
    yield on_images("Where", "mask-constant", "b = Where(m, a, k)", m=np.eye(6, dtype=bool), k=(8, 1, 1))
    yield on_images("Max", "one", "b = Max(a)")
    yield on_images("Sum", "three", "b = Sum(a, k, a)", k=(8, 1, 1))
    yield on_images("Pow", "square", "b = Pow(a, k)", k=2.0)
    yield on_images(
        "Mul", "outer", "g = GlobalAveragePool(a)", "h = ReduceMean<axes=[1]>(a)", "b = Mul(g, h)", opset=13
    )  # fmt: skip
    yield on_rows(
        "Add", "outer", "u = Unsqueeze(a, d)", "z = Add(u, k)", "b = ReduceSum<keepdims=0>(z, d)", k=(3,), d=[2],
        cut="8 neurons, 3 neurons"
    )  # fmt: skip


# -- reductions -------------------------------------------------------------------------------------------


def _reductions():
    for op in REDUCTIONS.split():
        source, name = (POSITIVE, "r") if op == "ReduceLogSum" else ((), "a")
        one = op in ("ReduceSum", *AVERAGES.split())
        mixed = () if one else (f"{op} reduces over it",)
        yield on_images(op, "positions", *source, f"b = {op}({name}, d)", d=[2, 3])
        yield on_images(op, "positions-attribute", *source, f"b = {op}<axes=[-1, -2]>({name})", opset=11)
        yield on_images(op, "channels", *source, f"b = {op}({name}, d)", d=[1], out=1, inexact=mixed, cut=C8 * one)
    for dtype, number in (("int32", 6), ("int64", 7)):
        whole = (f"i = Cast<to={number}>(t)", "m = ReduceMean(i, d)", "f = Cast<to=1>(m)", "b = Add(a, f)")
        reason = f"ReduceMean divides {dtype} numbers by its size, and rounds them"
        yield on_images(
            "ReduceMean", f"channels-{dtype}", "t = Mul(a, k)", *whole, d=[1], k=9.0, cut="", locks=(reason,)
        )
        yield on_images(
            "ReduceMean", f"positions-{dtype}", "t = Mul(a, k)", *whole, d=[2, 3], k=9.0
        )  # fmt: skip
    for op in ("ReduceL1", "ReduceSum", "ReduceSumSquare"):
        whole = ("t = Mul(a, k)", "i = Cast<to=6>(t)", f"m = {op}(i, d)", "f = Cast<to=1>(m)", "b = Add(a, f)")
        yield on_images(op, "channels-int32", *whole, d=[1], k=9.0)
    yield on_rows("ReduceSum", "dropped-dim", "z = ReduceSum<keepdims=0>(a, d)", "b = Unsqueeze(z, d)", d=[1], out=1)
    yield on_images("ReduceSum", "whole", "z = ReduceSum<keepdims=0>(a)", "b = Add(z, a)")
    yield on_images("ReduceSum", "noop", "b = ReduceSum<noop_with_empty_axes=1>(a)")
    for op in INDEX_REDUCTIONS.split():
        yield on_images(op, "positions", f"z = {op}<axis=3>(a)", "b = Cast<to=1>(z)")
        reason = f"{op} returns its indices"
        yield on_images(op, "channels", f"z = {op}<axis=1>(a)", "b = Cast<to=1>(z)", out=1, cut="", locks=(reason,))
    yield on_images("TopK", "positions", "b, i = TopK(a, k)", k=[3])
    yield on_images("TopK", "attribute", "b, i = TopK<axis=2, k=3>(a)", opset=9)
    yield on_images(
        "TopK", "channels", "b, i = TopK<axis=1>(a, k)", k=[3], out=3, cut="",
        locks=("TopK returns its indices", "its size is computed by TopK")
    )  # fmt: skip


def _mixing():
    for op in MIXING.split():
        yield on_images(op, "positions", f"b = {op}<axis=-1>(a)")
        reason = f"{op} normalises over it"
        if op == "LpNormalization":
            yield on_images(op, "channels", f"b = {op}<axis=1>(a)")
            stream = ("n = LpNormalization<axis=1>(a)", "c = Conv(n, k)", "b = Add(a, c)")
            yield on_images(op, "stream", *stream, k=(8, 8, 1, 1), cut="", inexact=(reason,))
        else:
            yield on_images(op, "channels", f"b = {op}<axis=1>(a)", cut="", inexact=(reason,))
            yield on_images(op, "rest-before-13", f"b = {op}<axis=2>(a)", opset=11)
            yield on_images(op, "default-before-13", f"b = {op}(a)", opset=11, cut="", inexact=(reason,))


# -- one line each ----------------------------------------------------------------------------------------


def _convolutions():
    yield on_images("Conv", "plain", "b = Conv(a, k)", k=(4, 8, 1, 1), out=4, cut="8 channels, 4 channels")
    yield on_images(
        "Conv", "bias-strides", "b = Conv<strides=[2, 2], dilations=[2, 2], pads=[2, 2, 2, 2]>(a, k, c)",
        k=(4, 8, 3, 3), c=(4,), out=4, cut="8 channels, 4 channels"
    )  # fmt: skip
    yield on_images(
        "Conv", "grouped", "b = Conv<group=2>(a, k)", k=(6, 4, 3, 3), out=6,
        cut="2 channels, 4 channels inside, 3 channels inside", after={"b.group": 1}
    )  # fmt: skip
    yield on_images("Conv", "depthwise", "b = Conv<group=8>(a, k, c)", k=(8, 1, 3, 3), c=(8,), after={"b.group": 4})
    yield on_images(
        "Conv", "depthwise-multiplier", "b = Conv<group=8>(a, k)", k=(16, 1, 3, 3), out=16,
        cut="8 channels, 2 channels inside", after={"b.group": 4}
    )  # fmt: skip
    yield on_images(
        "Conv", "depthwise-residual", "c = Conv<group=8, pads=[1, 1, 1, 1]>(a, k)", "b = Add(a, c)", k=(8, 1, 3, 3),
        after={"c.group": 4}
    )  # fmt: skip
    yield case(
        "Conv", "1d", "a = Conv(x, w1)", "y = Conv(a, w2)", x="float[n,3,9] x", w1=(8, 3, 3), w2=(5, 8, 3), cut=C8
    )
    yield case(
        "Conv", "3d", "a = Conv(x, w1)", "y = Conv(a, w2)", x="float[n,3,4,4,4] x", w1=(8, 3, 3, 3, 3),
        w2=(5, 8, 1, 1, 1), cut=C8
    )  # fmt: skip
    yield on_images(
        "ConvTranspose", "plain", "b = ConvTranspose<strides=[2, 2]>(a, k, c)", k=(8, 4, 2, 2), c=(4,), out=4,
        cut="8 channels, 4 channels"
    )  # fmt: skip
    yield on_images(
        "ConvTranspose", "grouped", "b = ConvTranspose<group=2>(a, k)", k=(8, 3, 2, 2), out=6,
        cut="2 channels, 4 channels inside, 3 channels inside", after={"b.group": 1}
    )  # fmt: skip
    yield on_images(
        "ConvTranspose", "depthwise", "b = ConvTranspose<group=8>(a, k)", k=(8, 1, 2, 2), after={"b.group": 4}
    )


def _normalizations():
    moments = {"s": (8,), "m": (8,), "v": np.arange(1, 9, dtype=np.float32)}
    yield on_images("BatchNormalization", "", "b = BatchNormalization(a, s, c, m, v)", c=(8,), **moments)
    yield on_images(
        "BatchNormalization", "opset-9", "b = BatchNormalization(a, s, c, m, v)", c=(8,), opset=9, **moments
    )
    yield on_rows("BatchNormalization", "rows", "b = BatchNormalization(a, s, c, m, v)", c=(8,), **moments)
    yield on_images("InstanceNormalization", "", "b = InstanceNormalization(a, s, c)", s=(8,), c=(8,))
    yield on_images("LRN", "", "b = LRN<size=3>(a)", cut="", inexact=("LRN normalises over it",))
    yield on_images(
        "GroupNormalization",
        "",
        "b = GroupNormalization<num_groups=4>(a, s, c)",
        opset=21,
        s=(8,),
        c=(8,),
        stated="float[n,8,6,6] b",
        y="float[n,5,6,6] y",
        cut="4 channels",
        inexact=("GroupNormalization normalises over it",),
        after={"b.num_groups": 2},
    )
    yield on_images(
        "GroupNormalization",
        "of-unknown-shape",
        "b = GroupNormalization<num_groups=4>(a, s, c)",
        opset=21,
        s=(8,),
        c=(8,),
        y="float[n,5,6,6] y",
        cut="4 channels",
        inexact=("GroupNormalization normalises over it",),
    )
    for op, opset in (("LayerNormalization", 17), ("RMSNormalization", 23)):
        bias = ", c" * (op == "LayerNormalization")
        why = (f"{op} normalises over it",)
        more = {"opset": opset, "c": (8,)}
        exact = {"cut": N8} if op == "RMSNormalization" else {"cut": "", "inexact": why}
        yield on_rows(op, "hidden", f"b = {op}(a, s{bias})", s=(8,), **exact, **more)
        stream = (f"n = {op}(a, s{bias})", "h = MatMul(n, k)", "b = Add(h, a)")
        yield on_rows(op, "stream", *stream, s=(8,), k=(8, 8), cut="", inexact=why, **more)
        yield on_images(op, "positions", f"b = {op}<axis=2>(a, s)", s=(6, 6), locks=(SPATIAL,), **more)
        yield on_images(op, "one-scale", f"b = {op}<axis=3>(a, s)", s=(1,), **more)
    yield on_images(
        "LayerNormalization", "moments", "l, m, d = LayerNormalization<axis=3>(a, s)", "z = Add(l, m)",
        "b = Mul(z, d)", s=(6,), opset=17, locks=(SPATIAL,)
    )  # fmt: skip


def _pools():
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield on_images(op, "", f"b = {op}(a)")
    for op in ("AveragePool", "MaxPool", "LpPool"):
        yield on_images(op, "", f"b = {op}<kernel_shape=[2, 2], strides=[2, 2]>(a)")
    yield on_images(
        "MaxPool", "indices", "p, i = MaxPool<kernel_shape=[2, 2]>(a)", "j = Cast<to=1>(i)", "b = Add(p, j)", cut="",
        locks=("its indices are counted over all channels",)
    )  # fmt: skip
    yield on_images("MaxPool", "indices-unread", "b, i = MaxPool<kernel_shape=[2, 2]>(a)")
    unused = conv("b = MaxPool<kernel_shape=[2, 2]>(a)")
    unused.graph.node[1].output.append("")
    yield row("MaxPool", "no-indices", unused, C8)
    yield on_images("SpaceToDepth", "", "b = SpaceToDepth<blocksize=2>(a)", out=32, locks=(SPATIAL,))
    yield on_images(
        "DepthToSpace", "dcr", "b = DepthToSpace<blocksize=2>(a)", mid=16, out=4, cut="4 channels",
        locks=("DepthToSpace gives its positions a meaning",)
    )  # fmt: skip
    yield on_images(
        "DepthToSpace", "crd", 'b = DepthToSpace<blocksize=2, mode="CRD">(a)', mid=16, out=4, cut="4 channels",
        locks=("DepthToSpace gives its positions a meaning",)
    )  # fmt: skip
    yield case(
        "GridSample", "", "a = Conv(x, w1)", "b = GridSample(a, g)", "y = Conv(b, w2)", cut=C8, opset=16,
        x="float[n,3,6,6] x, float[n,4,5,2] g", w1=(8, 3, 1, 1), w2=(5, 8, 1, 1)
    )  # fmt: skip


def _with_unnamed_output(proto, op):
    """Give a node one output more, which has no name."""
    next(node for node in proto.graph.node if node.op_type == op).output.append("")
    return proto


def _others():
    yield on_images("Dropout", "", "b = Dropout(a)")
    yield on_images("Dropout", "mask", "b, m = Dropout(a, r, t)", r=0.5, t=np.array(False))
    yield on_images("Dropout", "attribute", "b = Dropout<ratio=0.5>(a)", opset=10)
    yield Case("Dropout", "mask-unnamed", _with_unnamed_output(conv("b = Dropout(a)"), "Dropout"), C8)
    yield on_images("CastLike", "", "b = CastLike(a, k)", k=1.0)
    yield on_images("CastLike", "type", "c = Conv(x, k)", "b = CastLike(a, c)", k=(4, 3, 1, 1), cut=f"{C8}, 4 channels")
    yield on_images(  # a bias that is made of zeros, as PyTorch's exporter writes it without optimize
        "CastLike", "zeros",
        "s = Shape<start=0, end=1>(k)", "z = CastLike(o, a)", "e = Expand(z, s)", "b = Conv(a, k, e)",
        k=(8, 8, 1, 1), o=0.0, cut=f"{C8}, {C8}",
    )  # fmt: skip
    yield on_images("Clip", "", "b = Clip(a, low, high)", low=0.0, high=6.0)
    yield on_images("Clip", "high-alone", "b = Clip(a, , high)", high=0.5)
    yield on_images("Clip", "attribute", "b = Clip<min=0.0, max=6.0>(a)", opset=9)
    yield on_images("CumSum", "", "b = CumSum(a, d)", d=np.array(1), cut="", locks=("CumSum adds up along it",))
    yield on_images("Trilu", "positions", "b = Trilu<upper=0>(a)")
    yield on_rows("Trilu", "rows", "b = Trilu(a)", cut="", locks=("Trilu gives its positions a meaning",))
    yield on_rows(
        "EyeLike", "", "e = EyeLike(a)", "b = Add(a, e)", cut="", locks=("EyeLike gives its positions a meaning",)
    )
    yield on_rows(
        "NonZero", "", "i = NonZero(a)", "f = Cast<to=1>(i)", "m = ReduceSum<keepdims=0>(f)", "b = Add(a, m)", cut="",
        locks=("NonZero gives its positions a meaning",)
    )  # fmt: skip
    yield on_rows(
        "Range", "", "s = Shape(a)", "n = Gather(s, zero)", "r = Range(zero, n, one)", "f = Cast<to=1>(r)",
        "u = Unsqueeze(f, d)", "b = Add(a, u)", zero=0, one=1, d=[1]
    )  # fmt: skip
    yield on_images("Shape", "reshape", "s = Shape(a)", "b = Reshape(a, s)")
    yield on_rows("Shape", "of-batch", "s = Shape<start=0, end=1>(a)", "f = Cast<to=1>(s)", "b = Div(a, f)")
    yield on_images("Size", "static", "s = Size(a)", "f = Cast<to=1>(s)", "b = Div(a, f)", x=FIXED)
    yield on_images(
        "Size", "dynamic", "s = Size(a)", "f = Cast<to=1>(s)", "b = Div(a, f)", cut="",
        locks=("its size is used as data together with a dynamic size",)
    )  # fmt: skip


def _products():
    rows = {"x": ROWS, "w1": (6, 8), "w2": (8, 5), "cut": N8}
    yield case("MatMul", "", "a = MatMul(x, w1)", "y = MatMul(a, w2)", **rows)
    yield case("MatMul", "vector-right", "a = MatMul(x, w1)", "y = MatMul(a, v)", v=(8,), **rows)
    yield case("MatMul", "vector-left", "a = MatMul(x, w1)", "t = Transpose(a)", "y = MatMul(v, t)", v=(8,), **rows)
    yield case(
        "MatMul", "batched-weight", "a = MatMul(x, w1)", "y = MatMul(a, w2)", x=TOKENS, w1=(1, 16, 8), w2=(8, 5), cut=N8
    )
    yield case(
        "MatMul", "experts", "a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)",
        "y = ReduceSum<keepdims=0>(c, zero)", x="float[1,n,6] x", w1=(4, 6, 8), w2=(4, 8, 5), zero=[0],
        cut="4 neurons, 8 neurons"
    )  # fmt: skip
    yield case(
        "MatMul", "vector-vector", "u = Reshape(x, t)", "a = MatMul(w1, u)", "y = MatMul(v, a)", x="float[1,6] x",
        t=[6], w1=(8, 6), v=(8,), cut=N8
    )  # fmt: skip
    yield case("Gemm", "", "a = Gemm(x, w1, b1)", "y = Gemm(a, w2, b2)", b1=(8,), b2=(5,), **rows)
    yield case("Gemm", "no-bias", "a = Gemm(x, w1)", "y = Gemm(a, w2)", **rows)
    yield case(
        "Gemm", "transposed", "a = Gemm<transB=1>(x, w1, b1)", "y = Gemm<transB=1>(a, w2)", x=ROWS, w1=(8, 6),
        b1=(1, 8), w2=(5, 8), cut=N8
    )  # fmt: skip
    yield case(
        "Gemm", "both-transposed", "a = Gemm<transA=1, transB=1>(x, w1)", "y = Gemm(a, w2)", x="float[6,n] x",
        w1=(8, 6), w2=(8, 5), cut=N8
    )  # fmt: skip
    yield case("Gemm", "scalar-bias", "a = Gemm(x, w1, c)", "y = Gemm(a, w2, d)", c=1.5, d=(1,), **rows)
    yield case(
        "Gemm", "column-bias", "a = Gemm(w1, x, c)", "y = Gemm(w2, a)", x="float[6,4] x", w1=(8, 6), c=(8, 1),
        w2=(5, 8), cut=N8
    )  # fmt: skip
    chain = {"x": TOKENS, "w1": (16, 8), "w2": (8, 5), "cut": N8}
    yield case(
        "Einsum", "", 'a = Einsum<equation="bsk,kn->bsn">(x, w1)', 'y = Einsum<equation="bsk,kn->bsn">(a, w2)', **chain
    )
    yield case(
        "Einsum", "spread", 'a = Einsum<equation="... k, k n -> ... n">(x, w1)',
        'y = Einsum<equation="...k,kn->...n">(a, w2)', **chain
    )  # fmt: skip
    yield case(
        "Einsum", "implicit", 'a = Einsum<equation="ik,kn">(x, w1)', 'y = Einsum<equation="in,nm">(a, w2)', **rows
    )
    yield case(
        "Einsum", "implicit-spread", 'a = Einsum<equation="...k,kn">(x, w1)', 'y = Einsum<equation="...n,nm">(a, w2)',
        **chain
    )  # fmt: skip
    yield case(
        "Einsum", "transpose", "a = MatMul(x, w1)", 'b = Einsum<equation="ij->ji">(a)',
        'y = Einsum<equation="ji,jm->im">(b, w2)', **rows
    )  # fmt: skip
    yield case(
        "Einsum", "sum-of-one-input", "a = MatMul(x, w1)", 'y = Einsum<equation="ij->i">(a)', x=ROWS, w1=(6, 8), cut=N8
    )  # fmt: skip
    yield case(
        "Einsum", "sum-beside-spread", "a = MatMul(x, w1)", 'y = Einsum<equation="...j->...">(a)', x=TOKENS,
        w1=(16, 8), cut=N8
    )  # fmt: skip
    yield case(
        "Einsum", "sum-of-one-of-two", "a = MatMul(x, w1)", 'y = Einsum<equation="ij,k->ik">(a, v)', x=ROWS,
        w1=(6, 8), v=(3,), cut=N8
    )  # fmt: skip
    yield case(
        "Einsum", "heads", 'q = Einsum<equation="bsi,ihd->bhsd">(x, wq)',
        'k = Einsum<equation="bsi,ihd->bhsd">(x, wk)', 'v = Einsum<equation="bsi,ihd->bhsd">(x, wv)',
        'l = Einsum<equation="bhsd,bhtd->bhst">(q, k)', "p = Softmax(l)",
        'o = Einsum<equation="bhst,bhtd->bshd">(p, v)', 'y = Einsum<equation="bshd,hdo->bso">(o, wo)', x=TOKENS,
        wq=(16, 4, 8), wk=(16, 4, 8), wv=(16, 4, 6), wo=(4, 6, 16), cut="4 heads, 8 head dims, 6 neurons"
    )  # fmt: skip
    yield case(
        "Einsum", "diagonal", "a = MatMul(w1, x)", "c = MatMul(a, w3)", 'b = Einsum<equation="nii->ni">(c)',
        "y = MatMul(b, w2)", x="float[n,6,6] x", w1=(8, 6), w3=(6, 8), w2=(8, 5), cut="",
        locks=("Einsum takes a diagonal in 'nii'",)
    )  # fmt: skip


# -- rearranging -------------------------------------------------------------------------------------------


def _reshapes():
    yield case(
        "Reshape", "flatten", "a = Conv(x, w1)", "b = Reshape(a, t)", "y = MatMul(b, w2)", w1=(8, 3, 1, 1),
        w2=(288, 5), t=[-1, 288], cut=C8, locks=(SPATIAL,), after={"b:1": [-1, 144]}
    )  # fmt: skip
    yield case(
        "Reshape", "flatten-minus-one", "a = Conv(x, w1)", "b = Reshape(a, t)", "y = MatMul(b, w2)", w1=(8, 3, 1, 1),
        w2=(288, 5), t=[0, -1], cut=C8, locks=(SPATIAL,), after={"b:1": [0, -1]}
    )  # fmt: skip
    yield on_images("Reshape", "zeros", "r = Reshape(a, t)", "b = Reshape(r, u)", t=[0, 0, 36], u=[0, 0, 6, 6])
    yield on_images(
        "Reshape", "numbers", "r = Reshape(a, t)", "b = Reshape(r, u)", t=[-1, 8, 36], u=[-1, 8, 6, 6],
        after={"r:1": [-1, 4, 36], "b:1": [-1, 4, 6, 6]}
    )  # fmt: skip
    yield on_images(
        "Reshape", "split-channels", "r = Reshape(a, t)", "b = Reshape(r, u)", t=[0, 2, 4, 6, 6], u=[0, 8, 6, 6],
        cut="2 channels, 4 channels inside", after={"r:1": [0, 1, 2, 6, 6], "b:1": [0, 2, 6, 6]}
    )  # fmt: skip
    yield on_images(
        "Reshape", "fixed-batch", "r = Reshape(a, t)", "b = Reshape(r, u)", x=FIXED, t=[2, 8, 36], u=[2, 8, 6, 6],
        after={"r:1": [2, 4, 36], "b:1": [2, 4, 6, 6]}
    )  # fmt: skip
    yield on_images(
        "Reshape", "computed", "s = Shape(a)", "n = Gather(s, zero)", "c = Gather(s, one)", "n1 = Unsqueeze(n, d)",
        "c1 = Unsqueeze(c, d)", "t = Concat<axis=0>(n1, c1, rest)", "r = Reshape(a, t)", "b = Reshape(r, s)", zero=0,
        one=1, d=[0], rest=[-1], after={"r:1": [0, 4, -1]}
    )  # fmt: skip
    yield on_images(
        "Reshape", "computed-number", "s = Shape(a)", "n = Gather(s, zero)", "t = Concat<axis=0>(n, c, rest)",
        "r = Reshape(a, t)", "b = Reshape(r, s)", zero=[0], c=[8], rest=[36], after={"r:1": [0, 4, 36]}
    )  # fmt: skip
    yield on_images(
        "Reshape", "attribute-of-constant", "t = Constant<value_ints=[0, 8, 36]>()",
        "u = Constant<value = int64[4] {0, 8, 6, 6}>()", "r = Reshape(a, t)", "b = Reshape(r, u)", opset=13,
        after={"r:1": [0, 4, 36], "b:1": [0, 4, 6, 6]}
    )  # fmt: skip
    yield on_images(
        "Reshape", "allowzero", "r = Reshape<allowzero=1>(a, t)", "b = Reshape<allowzero=1>(r, u)", t=[-1, 8, 36],
        u=[-1, 8, 6, 6], after={"r:1": [-1, 4, 36]}
    )  # fmt: skip
    yield on_rows(
        "Reshape", "batch-times-heads", "r = Reshape(a, t)", "z = Relu(r)", "b = Reshape(z, u)", t=[-1, 4], u=[-1, 8],
        cut="2 neurons, 4 neurons inside", after={"r:1": [-1, 2], "b:1": [-1, 2]}
    )  # fmt: skip
    yield on_rows(
        "Reshape", "size-like-the-batch-of-the-probe", "r = Reshape(a, t)", "s = Shape(x)", "n = Gather(s, zero)",
        "to = Concat<axis=0>(eleven, n, c)", "q = Reshape(r, to)", "b = Relu(q)", mid=176, w2=(16, 3), t=[0, 11, 16],
        zero=[0], eleven=[11], c=[16], y="float[] y", at=({"n": 4}, {"n": 11}, {"n": 1}),
        cut="16 neurons", locks=("its size is known at run time alone",)
    )  # fmt: skip
    yield on_images(
        "Reshape", "no-refinement", "r = Reshape(a, t)", "z = Relu(r)", "b = Reshape(z, u)", mid=6, t=[0, 4, 9, 6],
        u=[0, 6, 6, 6], cut="",
        locks=(
            "Reshape mixes it with others: (6·6) -> (4·9) has no common refinement",
            "Reshape mixes it with others: (4·9) -> (6·6) has no common refinement"
        )
    )  # fmt: skip
    yield on_images(
        "Reshape", "no-refinement-elsewhere", "r = Reshape(a, t)", "z = Relu(r)", "b = Reshape(z, u)", t=[0, 0, 4, 9],
        u=[0, 0, 6, 6]
    )  # fmt: skip
    yield on_rows(
        "Reshape", "inner-factor", "r = Reshape(a, t)", "z = MatMul(r, k)", "u = Reshape(z, v)", "b = Identity(u)",
        mid=24, x=TOKENS, w1=(16, 24), t=[0, 0, 3, 8], k=(8, 8), v=[0, 0, 24],
        cut="3 neurons, 8 neurons inside, 8 neurons inside"
    )  # fmt: skip
    yield on_images(
        "Flatten", "to-gemm", "f = Flatten(a)", "g = Gemm(f, k)", "b = Reshape(g, t)", k=(288, 4), t=[0, 4, 1, 1],
        out=4, cut="8 channels, 4 channels", locks=(SPATIAL,), after={"b:1": [0, 2, 1, 1]}
    )  # fmt: skip
    yield on_images(
        "Flatten", "axis-2", "f = Flatten<axis=2>(a)", "g = MatMul(f, k)", "b = Reshape(g, t)", k=(36, 36),
        t=[-1, 8, 6, 6], after={"b:1": [-1, 4, 6, 6]}, locks=(SPATIAL, "Conv gives its positions a meaning")
    )  # fmt: skip
    yield on_images(
        "Flatten", "negative", "f = Flatten<axis=-3>(a)", "g = Gemm(f, k)", "b = Reshape(g, t)", k=(288, 4),
        t=[0, 4, 1, 1], out=4, cut="8 channels, 4 channels", locks=(SPATIAL,)
    )  # fmt: skip
    yield on_images(
        "Transpose", "", "t = Transpose<perm=[0, 2, 3, 1]>(a)", "m = MatMul(t, k)",
        "b = Transpose<perm=[0, 3, 1, 2]>(m)", k=(8, 4), out=4, cut="8 channels, 4 channels"
    )  # fmt: skip
    yield on_rows("Transpose", "reversed", "t = Transpose(a)", "b = Transpose(t)")
    squeeze = ("g = GlobalAveragePool(a)",)
    yield on_images(
        "Squeeze", "", *squeeze, "s = Squeeze(g, d)", "m = MatMul(s, k)", "b = Unsqueeze(m, d)", d=[2, 3], k=(8, 4),
        out=4, cut="8 channels, 4 channels"
    )  # fmt: skip
    yield on_images(
        "Squeeze", "attribute", *squeeze, "s = Squeeze<axes=[-1, -2]>(g)", "m = MatMul(s, k)",
        "b = Unsqueeze<axes=[2, 3]>(m)", k=(8, 4), opset=11, out=4, cut="8 channels, 4 channels"
    )  # fmt: skip
    yield on_images(
        "Squeeze", "all", *squeeze, "s = Squeeze(g)", "m = MatMul(s, k)", "b = Unsqueeze(m, d)", y="float[n,5,1,1] y",
        d=[2, 3], k=(8, 4), out=4, cut="8 channels, 4 channels"
    )  # fmt: skip
    for batch in ("2", "n"):
        yield on_rows(
            "Squeeze", f"all-of-none-in-batch-of-{batch}", "b = Squeeze(a)", cut="", x=f"float[{batch},6] x",
            y=f"float[{batch},5] y", locks=("Squeeze without axes would remove it when one unit is left",)
        )  # fmt: skip
    yield on_images("Unsqueeze", "", "u = Unsqueeze(a, d)", "b = Squeeze(u, d)", d=[-4])
    yield on_images("Unsqueeze", "two", "u = Unsqueeze(a, d)", "b = Squeeze(u, d)", d=[0, 5])
    yield on_images("Unsqueeze", "attribute", "u = Unsqueeze<axes=[1]>(a)", "b = Squeeze<axes=[1]>(u)", opset=9)


def _expansions():
    yield on_images(
        "Expand", "static", "g = GlobalAveragePool(a)", "b = Expand(g, t)", t=[1, 8, 3, 3], after={"b:1": [1, 1, 3, 3]}
    )
    yield on_images("Expand", "shorter", "g = GlobalAveragePool(a)", "b = Expand(g, t)", t=[3, 3])
    yield on_images(
        "Expand", "computed", "s = Shape(a)", "g = GlobalAveragePool(a)", "b = Expand(g, s)",
        after={"b:1": [1, 1, 6, 6]}
    )  # fmt: skip
    yield on_rows(
        "Expand", "new-axis", "u = Unsqueeze(a, d)", "e = Expand(u, t)", "m = Mul(e, k)",
        "b = ReduceSum<keepdims=0>(m, d)", d=[1], t=[1, 4, 8], k=(4, 8), cut="8 neurons, 4 neurons",
        after={"e:1": [1, 2, 1]}
    )  # fmt: skip
    yield case(
        "Expand", "weight", "s = Shape<start=0, end=1>(x)", "t = Concat<axis=0>(s, c)", "e = Expand(k, t)",
        "a = MatMul(x, w1)", "b = Add(a, e)", "y = MatMul(b, w2)", x=ROWS, w1=(6, 8), k=(1, 8), w2=(8, 5), c=[8],
        cut=N8
    )  # fmt: skip
    yield on_images("Tile", "positions", "b = Tile(a, r)", r=[1, 1, 2, 1])
    yield on_images(
        "Tile", "channels", "b = Tile(a, r)", r=[1, 3, 1, 1], out=24, cut="8 channels inside, 3 channels",
        after={"b:1": [1, 2, 1, 1]}
    )  # fmt: skip
    yield case(
        "Tile", "computed", "s = Shape<start=0, end=1>(x)", "t = Concat<axis=0>(s, one)", "e = Tile(k, t)",
        "a = MatMul(x, w1)", "b = Add(a, e)", "y = MatMul(b, w2)", x=ROWS, w1=(6, 8), k=(1, 8), w2=(8, 5), one=[1],
        cut=N8
    )  # fmt: skip
    yield on_rows(
        "ConstantOfShape", "dynamic", "s = Shape(a)", "z = ConstantOfShape<value = float[1] {2.0}>(s)", "b = Add(a, z)"
    )
    yield on_images(
        "ConstantOfShape", "static", "z = ConstantOfShape<value = float[1] {2.0}>(t)", "b = Add(a, z)", t=[8, 1, 1],
        after={"z:0": [4, 1, 1]}
    )  # fmt: skip
    yield on_images(
        "Concat", "channels", "c = Conv(a, k)", "b = Concat<axis=1>(a, c)", k=(4, 8, 1, 1), out=12,
        cut="8 channels, 4 channels"
    )  # fmt: skip
    yield on_images("Concat", "self", "b = Concat<axis=-3>(a, a)", out=16)
    yield on_images("Concat", "positions", "c = Neg(a)", "b = Concat<axis=2>(a, c)")
    yield on_images(
        "Concat", "constant", "b = Concat<axis=1>(a, k)", x="float[1,3,6,6] x", k=(1, 2, 6, 6), out=10,
        cut="8 channels, 2 channels", locks=(SPATIAL,)
    )  # fmt: skip
    yield case(
        "Concat", "class-token", "a = MatMul(x, w1)", "c = Concat<axis=1>(t, a)", "y = MatMul(c, w2)",
        x="float[1,s,16] x", w1=(16, 8), t=(1, 1, 8), w2=(8, 5), cut=N8
    )  # fmt: skip


# -- selecting ----------------------------------------------------------------------------------------------


def _splits():
    halves = "4 channels, 4 channels"
    yield on_images(
        "Split", "input", "p, q = Split<axis=1>(a, s)", "b = Concat<axis=1>(q, p)", s=[6, 2],
        cut="6 channels, 2 channels", after={"p:1": [3, 1]}
    )  # fmt: skip
    yield on_images("Split", "equal", "p, q = Split<axis=1>(a)", "b = Concat<axis=1>(q, p)", opset=13, cut=halves)
    yield on_images(
        "Split", "num-outputs", "p, q = Split<axis=1, num_outputs=2>(a)", "b = Concat<axis=1>(q, p)", cut=halves
    )
    yield on_images(
        "Split", "uneven-num-outputs", "p, q = Split<axis=1, num_outputs=2>(a)", "b = Concat<axis=1>(q, p)", mid=7,
        cut="4 channels, 3 channels", after={"p:1": [2, 2], "p.num_outputs": None}
    )  # fmt: skip
    yield on_images(
        "Split", "attribute", "p, q = Split<axis=1, split=[6, 2]>(a)", "b = Concat<axis=1>(q, p)", opset=11,
        cut="6 channels, 2 channels", after={"p.split": [3, 1]}
    )  # fmt: skip
    yield on_images(
        "Split", "equal-before-13", "p, q = Split<axis=1>(a)", "b = Concat<axis=1>(q, p)", opset=11, cut=halves
    )
    yield on_images("Split", "gate", "p, q = Split<axis=1>(a)", "b = Mul(p, q)", opset=13, out=4, cut="4 channels")
    yield on_images("Split", "positions", "p, q = Split<axis=3>(a)", "b = Add(p, q)", opset=13)
    yield on_rows(
        "Split", "dynamic", "p, q = Split<axis=0, num_outputs=2>(a)", "b = Concat<axis=0>(q, p)", x="float[n,6] x"
    )


def _slices():
    def parts(*text, **rest):
        return on_images("Slice", *text, **rest)

    yield parts(
        "front", "b = Slice(a, s, e, d)", s=[0], e=[6], d=[1], out=6, cut="6 channels, 2 channels",
        after={"b:1": [0], "b:2": [3]}
    )  # fmt: skip
    yield parts(
        "middle", "b = Slice(a, s, e, d)", s=[2], e=[-2], d=[1], out=4, cut="2 channels, 4 channels, 2 channels",
        after={"b:1": [1], "b:2": [3]}
    )  # fmt: skip
    yield parts(
        "to-the-end", "b = Slice(a, s, e, d)", s=[2], e=[2**63 - 1], d=[-3], out=6, cut="2 channels, 6 channels",
        after={"b:1": [1], "b:2": [4]}
    )  # fmt: skip
    yield parts("all", "b = Slice(a, s, e, d)", s=[0], e=[2**31 - 1], d=[1])
    yield parts("no-axes", "b = Slice(a, s, e)", s=[0, 0, 1], e=[9, 9, 5])
    yield parts(
        "halves", "p = Slice(a, z, m, d)", "q = Slice(a, m, e, d)", "b = Mul(p, q)", z=[0], m=[4], e=[8], d=[1], out=4,
        cut="4 channels", after={"p:2": [2], "q:1": [2], "q:2": [4]}
    )  # fmt: skip
    yield parts(
        "every-second", "p = Slice(a, z, e, d, s)", "q = Slice(a, o, e, d, s)", "b = Add(p, q)", z=[0], o=[1], e=[8],
        d=[1], s=[2], out=4, cut="4 channels", after={"p:2": [4]}
    )  # fmt: skip
    yield parts(
        "every-second-from-the-end", "b = Slice(a, z, e, d, s)", z=[-7], e=[2**31 - 1], d=[1], s=[2], out=4,
        cut="4 channels", after={"b:1": [1], "b:2": [4]}
    )  # fmt: skip
    yield parts(
        "from-the-end", "b = Slice(a, s, e, d)", s=[-6], e=[-1], d=[1], out=5, cut="2 channels, 5 channels",
        after={"b:1": [1], "b:2": [3]}
    )  # fmt: skip
    yield parts(
        "attribute-from-the-end",
        "b = Slice<starts=[2], ends=[-2], axes=[1]>(a)",
        opset=9,
        out=4,
        cut="2 channels, 4 channels, 2 channels",
        after={"b.starts": [1], "b.ends": [3]},
    )
    yield parts(
        "every-third", "b = Slice(a, z, e, d, s)", z=[0], e=[8], d=[1], s=[3], out=3, cut="",
        locks=("its size is computed by Slice", "Slice takes one index in 3, and not from whole groups")
    )  # fmt: skip
    yield parts(
        "reversed", "b = Slice(a, z, e, d, s)", z=[-1], e=[-9], d=[1], s=[-1], cut="",
        locks=("Slice reverses it", "its size is computed by Slice")
    )  # fmt: skip
    yield parts(
        "attribute", "b = Slice<starts=[2], ends=[9], axes=[1]>(a)", opset=9, out=6, cut="2 channels, 6 channels",
        after={"b.starts": [1], "b.ends": [4]}
    )  # fmt: skip
    yield parts(
        "attribute-no-axes", "b = Slice<starts=[0, 0], ends=[9, 6]>(a)", opset=9, out=6, cut="6 channels, 2 channels",
        after={"b.starts": [0, 0], "b.ends": [9, 3]}
    )  # fmt: skip
    yield on_rows(
        "Slice", "int32-at-run-time", "s = Shape<end=1>(x)", "n = Cast<to=6>(s)", "e = Concat<axis=0>(n, c)",
        "b = Slice(a, z, e, d)", z=np.zeros(2, np.int32), c=np.array([5], np.int32), d=np.array([0, 1], np.int32),
        out=5, cut="5 neurons, 3 neurons"
    )  # fmt: skip
    yield parts("positions", "b = Slice(a, s, e, d, t)", s=[1, 5], e=[5, -7], d=[2, 3], t=[2, -1])


def _gathers():
    yield on_images(
        "Gather", "one", "g = Gather<axis=1>(a, i)", "u = Unsqueeze(g, d)", "b = Mul(a, u)", i=5, d=[1],
        cut="5 channels, 2 channels", after={"g:1": [2]}
    )  # fmt: skip
    yield on_images(
        "Gather", "one-of-vector", "g = Gather<axis=1>(a, i)", "b = Mul(a, g)", i=[-3], cut="5 channels, 2 channels",
        after={"g:1": [2]}
    )  # fmt: skip
    yield on_rows(
        "Gather", "one-of-matrix", "g = Gather<axis=1>(a, i)", "q = Squeeze(g, d)", "b = Mul(a, q)", i=[[5]], d=[2],
        cut="5 neurons, 2 neurons", after={"g:1": [2]}
    )  # fmt: skip
    yield on_rows(
        "Gather", "one-by-int32", "g = Gather<axis=1>(a, i)", "q = Squeeze(g, d)", "b = Mul(a, q)",
        i=np.array([[-3]], np.int32), d=[2], cut="5 neurons, 2 neurons", after={"g:1": [2]}
    )  # fmt: skip
    yield on_images("Gather", "positions", "b = Gather<axis=2>(a, i)", i=[1, 4])
    yield on_images(
        "Gather", "several", "b = Gather<axis=1>(a, i)", i=[1, 4], out=2, cut="2 channels",
        locks=("Gather picks its indices by value",)
    )  # fmt: skip
    yield case(
        "Gather", "embedding", "a = Gather(w1, x)", "y = MatMul(a, w2)", x="int64[n,s] x", w1=(20, 8), w2=(8, 5), cut=N8
    )
    yield case(
        "Gather", "last-token", "a = MatMul(x, w1)", "b = Gather<axis=1>(a, i)", "y = MatMul(b, w2)", x=TOKENS,
        w1=(16, 8), w2=(8, 5), i=-1, cut=N8
    )  # fmt: skip
    qkv = (
        "a = MatMul(x, w1)",
        "r = Reshape(a, t)",
        "q = Gather<axis=1>(r, zero)",
        "k = Gather<axis=1>(r, one)",
        "z = Mul(q, k)",
        "y = MatMul(z, w2)",
    )
    yield case("Gather", "stacked", *qkv, x=ROWS, w1=(6, 16), t=[0, 2, 8], zero=0, one=1, w2=(8, 5), cut=N8)


def _pads():
    yield on_images("Pad", "positions", "b = Pad(a, p)", p=[0, 0, 1, 1, 0, 0, 1, 1])
    yield on_images("Pad", "reflect", 'b = Pad<mode="reflect">(a, p)', p=[0, 0, 1, 1, 0, 0, 1, 1])
    yield on_images(
        "Pad", "channels", "b = Pad(a, p)", p=[0, 2, 0, 0, 0, 3, 0, 0], out=13,
        cut="8 channels, 2 channels, 3 channels", after={"b:1": [0, 1, 0, 0, 0, 2, 0, 0]}
    )  # fmt: skip
    yield on_images(
        "Pad", "attribute", "b = Pad<pads=[0, 0, 0, 0, 0, 4, 0, 0]>(a)", opset=9, out=12, cut="8 channels, 4 channels",
        after={"b.pads": [0, 0, 0, 0, 0, 2, 0, 0]}
    )  # fmt: skip
    yield on_images(
        "Pad", "axes", "b = Pad(a, p, v, d)", p=[0, 4], v=0.0, d=[1], out=12, cut="8 channels, 4 channels",
        after={"b:1": [0, 2]}
    )  # fmt: skip
    yield on_images(
        "Pad", "residual", "c = Conv(x, k)", "p = Pad(c, pads)", "b = Add(a, p)", k=(4, 3, 1, 1),
        pads=[0, 2, 0, 0, 0, 2, 0, 0], cut="2 channels, 4 channels, 2 channels",
        after={"p:1": [0, 1, 0, 0, 0, 1, 0, 0]}
    )  # fmt: skip
    yield on_images(
        "Pad", "cropped-channels", "b = Pad(a, p)", p=[0, -2, 0, 0, 0, 0, 0, 0], out=6, cut="",
        locks=("Pad gives its positions a meaning", "its size is computed by Pad")
    )  # fmt: skip
    yield on_images(
        "Pad", "edge-channels", 'b = Pad<mode="edge">(a, p)', p=[0, 1, 0, 0, 0, 1, 0, 0], out=10, cut="",
        locks=("Pad gives its positions a meaning", "its size is computed by Pad")
    )  # fmt: skip


def _resizes():
    up = np.array([1, 1, 2, 2], np.float32)
    yield on_images("Resize", "scales", "b = Resize(a, , s)", s=up)
    yield on_images(
        "Resize", "sizes", "s = Shape<start=0, end=1>(a)", "t = Concat<axis=0>(s, k)", "b = Resize(a, , , t)",
        k=[8, 12, 12]
    )  # fmt: skip
    yield on_images(
        "Resize", "sizes-fixed", "b = Resize(a, , , t)", x=FIXED, t=[2, 8, 12, 12], after={"b:3": [2, 4, 12, 12]}
    )
    yield on_images("Resize", "sizes-axes", "b = Resize<axes=[2, 3]>(a, , , t)", t=[12, 12], after={"b:3": [12, 12]})
    yield on_images("Resize", "opset-10", "b = Resize(a, s)", s=up, opset=10)
    yield on_images(
        "Resize", "channels", "b = Resize(a, , s)", s=np.array([1, 2, 1, 1], np.float32), out=16, cut="",
        locks=("Resize interpolates over it", "its size is computed by Resize")
    )  # fmt: skip
    yield case(
        "Resize", "same-size-by-another-scale", "a = MatMul(x, w1)", "u = Unsqueeze(a, d)",
        'r = Resize<mode="linear">(u, , s)', "b = Squeeze(r, d)", "y = MatMul(b, w2)", x="float[n,6,4] x", w1=(4, 10),
        w2=(10, 3), d=[1], s=np.array([1, 1, 1, 1.09], np.float32), cut="",
        locks=("Resize interpolates over it", "its size is computed by Resize")
    )  # fmt: skip
    ratio = (
        "h = Shape(a)", "g = Slice(h, two, four, zero)", "f = Cast<to=1>(g)", "d = Div(to, f)",
        "s = Concat<axis=0>(ones, d)"
    )  # fmt: skip
    given = {"to": np.array([10, 14], np.float32), "two": [2], "four": [4], "zero": [0], "ones": np.ones(2, np.float32)}
    image = {"x": "float[n,3,h,w] x", "y": "float[n,5,p,q] y"}
    yield on_images("Resize", "scales-at-run-time", *ratio, "b = Resize(a, , s)", **given, **image)
    yield on_images("Resize", "scales-at-run-time-opset-10", *ratio, "b = Resize(a, s)", opset=10, **given, **image)
    yield on_images(
        "Resize", "scales-of-the-channels", "h = Shape(a)", "f = Cast<to=1>(h)", "e = Slice(f, one, two)",
        "d = Div(e, eight)", "s = Concat<axis=0>(head, d, tail)", "b = Resize(a, , s)", one=[1], two=[2], eight=8.0,
        head=np.ones(1, np.float32), tail=np.array([2, 1.5], np.float32)
    )  # fmt: skip
    yield on_images(
        "Resize", "cropped", 'b = Resize<coordinate_transformation_mode="tf_crop_and_resize">(a, r, s)', s=up,
        r=np.array([0, 0.25, 0, 0, 1, 1, 1, 1], np.float32), cut="", y="float[n,5,p,q] y",
        locks=("Resize interpolates over it", "its size is computed by Resize")
    )  # fmt: skip
    yield on_images("Upsample", "", "b = Upsample(a, s)", s=up, opset=9)
    yield on_images("Upsample", "attribute", "b = Upsample<scales=[1.0, 1.0, 2.0, 2.0]>(a)", opset=7)


CASES: tuple[Case, ...] = (
    *map(_unary, UNARY.split()),
    *map(_elementwise, f"{ELEMENTWISE} {SUMS}".split()),
    *_broadcasts(),
    *_reductions(),
    *_mixing(),
    *_convolutions(),
    *_normalizations(),
    *_pools(),
    *_others(),
    *_products(),
    *_reshapes(),
    *_expansions(),
    *_splits(),
    *_slices(),
    *_gathers(),
    *_pads(),
    *_resizes(),
    *control_cases(row),
    *expert_cases(case),
    *sequence_cases(row),
    *recurrent_cases(case),
    *quantized_cases(case, on_images, on_rows),
    *scatter_cases(case, on_images, on_rows),
    *old_cases(row),
    *signal_cases(case, on_images),
)
