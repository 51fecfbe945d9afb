"""The structures of real networks that need no rule of their own: they fall out of the algebra.

Rows of the same form as in `cases`; the first column is what people call the structure.
"""

from __future__ import annotations

import numpy as np

from tests.dependency.rules.cases import C8, N8, SPATIAL, Case
from tests.support.build import FIXED, IMAGE, ROWS, TOKENS, conv, dense, model

ATTEND = (  # q, k, v: [n, h, s, d]
    "kt = Transpose<perm=[0, 1, 3, 2]>(k)",
    "qk = MatMul(q, kt)",
    "scaled = Mul(qk, scale)",
    "p = Softmax(scaled)",
    "o = MatMul(p, v)",
    "merged = Transpose<perm=[0, 2, 1, 3]>(o)",
)
OUT = ("flat = Reshape(merged, flat_shape)", "y = MatMul(flat, wo)")
HEADS = {"flat_shape": [0, 0, 16], "wo": (16, 16), "scale": 0.5, "x": TOKENS}


def _case(name, proto, cut, locks=(), inexact=(), after=(), at=()):
    return Case(name, "", proto, cut, locks, inexact, dict(after), at=at)


def _split_heads(name, weight, shape="heads"):
    return (
        f"{name}0 = MatMul(x, {weight})",
        f"{name}1 = Reshape({name}0, {shape})",
        f"{name} = Transpose<perm=[0, 2, 1, 3]>({name}1)",
    )


def _folded_heads(name):
    """Yield the nodes that bring a projection to [n·h, s, d]."""
    yield from _split_heads(f"{name}4", f"w{name}")
    yield f"{name}_to = Concat<axis=0>(nh, rest)"
    yield f"{name} = Reshape({name}4, {name}_to)"


def _convolutional():
    yield _case("residual", conv("c = Conv(a, k)", "b = Add(a, c)", k=(8, 8, 1, 1)), C8)
    yield _case(
        "residual-of-input", conv("b = Conv(a, k)", "r = Add(x, b)", k=(3, 8, 1, 1), out=3, y="float[] y, float[] r"),
        C8
    )  # fmt: skip
    yield _case(
        "dense-block",
        conv(
            "c = Conv(a, k)", "d = Concat<axis=1>(a, c)", "e = Conv(d, l)", "b = Concat<axis=1>(a, c, e)",
            k=(4, 8, 1, 1), l=(2, 12, 1, 1), out=14
        ),
        "8 channels, 4 channels, 2 channels"
    )  # fmt: skip
    yield _case(
        "c2f",
        conv(
            "p, q = Split<axis=1>(a)", "c = Conv(q, k)", "r = Add(q, c)", "b = Concat<axis=1>(p, q, r)",
            k=(4, 4, 1, 1), out=12, opset=13
        ),
        "4 channels, 4 channels"
    )  # fmt: skip
    shuffle = ("r = Reshape(a, t)", "s = Transpose<perm=[0, 2, 1, 3, 4]>(r)", "z = Reshape(s, u)")
    yield _case(
        "shuffle",
        conv(*shuffle, "b = Conv<group=4>(z, k)", t=[0, 2, 4, 6, 6], u=[0, 8, 6, 6], k=(12, 2, 1, 1), out=12),
        "2 channels, 4 channels inside, 3 channels inside",
        after={"r:1": [0, 1, 2, 6, 6], "z:1": [0, 2, 6, 6], "b.group": 2}
    )  # fmt: skip
    # an odd half has no common refinement with the pairs of the shuffle: its channels stay
    for half, cut in ((4, "2 channels, 2 channels, 4 channels"), (3, "4 channels")):
        yield _case(
            f"shuffle-halves-of-{half}",
            model(
                "l = Conv(x, w0)", "m = Conv(x, w1)", "a = Concat<axis=1>(l, m)", *shuffle, "p, q = Split<axis=1>(z)",
                "c = Conv(q, k)", "d = Concat<axis=1>(p, c)", "y = Conv(d, w2)", w0=(half, 3, 1, 1),
                w1=(half, 3, 1, 1), t=[-1, 2, half, 6, 6], u=[-1, 2 * half, 6, 6], k=(4, half, 1, 1),
                w2=(5, half + 4, 1, 1), opset=13
            ),
            cut
        )  # fmt: skip
    yield _case(
        "squeeze-excite",
        conv(
            "g = GlobalAveragePool(a)", "c = Conv(g, k)", "r = Relu(c)", "d = Conv(r, l)", "s = Sigmoid(d)",
            "b = Mul(a, s)", k=(2, 8, 1, 1), l=(8, 2, 1, 1)
        ),
        "8 channels, 2 channels"
    )  # fmt: skip
    yield _case(
        "inverted-residual",
        conv(
            "c = Conv(a, k)", "n = BatchNormalization(c, s, o, o, v)", "r = Clip(n, low, high)",
            "d = Conv<group=16>(r, l)", "e = Conv(d, m)", "b = Add(a, e)", k=(16, 8, 1, 1), s=(16,), o=(16,),
            v=np.ones(16, np.float32), low=0.0, high=6.0, l=(16, 1, 1, 1), m=(8, 16, 1, 1)
        ),
        "8 channels, 16 channels", after={"d.group": 8}
    )  # fmt: skip
    yield _case(
        "group-norm-of-exporters",
        conv(
            "r = Reshape(a, t)", "i = InstanceNormalization(r, one, zero)", "s = Shape(a)", "u = Reshape(i, s)",
            "v = Mul(u, g)", "b = Add(v, h)", t=[0, 4, -1], one=np.ones(4, np.float32), zero=np.zeros(4, np.float32),
            g=(8, 1, 1), h=(8, 1, 1)
        ),
        "4 channels", inexact=("InstanceNormalization normalises over it",), after={"r:1": [0, 2, -1]}
    )  # fmt: skip
    yield _case(
        "flatten-gemm",
        model(
            "a = Conv(x, w1)", "f = Flatten(a)", "g = Gemm<transB=1>(f, w2, b2)", "r = Relu(g)", "y = Gemm(r, w3)",
            w1=(8, 3, 1, 1), w2=(12, 288), b2=(12,), w3=(12, 5)
        ),
        "8 channels, 12 neurons", locks=(SPATIAL,)
    )  # fmt: skip
    yield _case(
        "pixel-shuffle",
        conv(
            "r = Reshape(a, t)", "s = Transpose<perm=[0, 1, 4, 2, 5, 3]>(r)", "b = Reshape(s, u)", mid=8,
            t=[-1, 2, 2, 2, 6, 6], u=[-1, 2, 12, 12], out=2
        ),
        "2 channels", locks=("Conv gives its positions a meaning",)
    )  # fmt: skip
    yield _case(
        "shared-zero-bias",
        model(
            "a = Conv(x, w1, zero)", "b = Conv(a, w2, zero)", "y = Conv(b, w3)", w1=(8, 3, 1, 1), w2=(8, 8, 1, 1),
            w3=(5, 8, 1, 1), zero=np.zeros(8, np.float32)
        ),
        "8 channels, 8 channels"
    )  # fmt: skip
    yield _case(
        "shared-shape",
        conv(
            "r = Reshape(a, t)", "s = Reshape(r, u)", "c = Conv(s, k)", "q = Reshape(c, t)", "b = Reshape(q, u)",
            t=[0, 8, 36], u=[0, 8, 6, 6], k=(8, 8, 1, 1)
        ),
        "8 channels, 8 channels", after={"r:1": [0, 4, 36], "q:1": [0, 4, 36]}
    )  # fmt: skip
    yield _case(
        "shared-weight",
        model("a = Conv(x, w)", "b = Conv(a, w)", "y = Conv(b, w)", x="float[n,4,6,6] x", w=(4, 4, 1, 1)),
        "4 channels, 4 channels"
    )  # fmt: skip
    yield _case(
        "shared-weight-inside", conv("b0 = Conv(a, k)", "b = Conv(b0, k)", k=(8, 8, 1, 1)),
        "8 channels, 8 channels, 8 channels"
    )  # fmt: skip


def _attention():
    heads = {"heads": [0, 0, 4, 4], **HEADS}
    separate = (*_split_heads("q", "wq"), *_split_heads("k", "wk"), *_split_heads("v", "wv"), *ATTEND, *OUT)
    three = {"wq": (16, 16), "wk": (16, 16), "wv": (16, 16)}
    written = {"q1:1": [0, 0, 2, 2], "flat:1": [0, 0, 4]}
    yield _case(
        "separate-qkv", model(*separate, **three, **heads), "4 heads, 4 head dims inside, 4 head dims inside",
        after=written
    )  # fmt: skip
    yield _case(
        "fused-3hd",
        model(
            "f = MatMul(x, w)", "g = Add(f, c)", "r = Reshape(g, t)", "s = Transpose<perm=[2, 0, 3, 1, 4]>(r)",
            *(f"{name} = Gather<axis=0>(s, i{i})" for i, name in enumerate("qkv")), *ATTEND, *OUT, w=(16, 48), c=(48,),
            t=[0, 0, 3, 4, 4], i0=0, i1=1, i2=2, **HEADS
        ),
        "4 heads, 4 head dims inside", after={"r:1": [0, 0, 3, 2, 2], "flat:1": [0, 0, 4]}
    )  # fmt: skip
    yield _case(
        "fused-3hd-split",
        model(
            "f = MatMul(x, w)", "q0, k0, v0 = Split<axis=2>(f)",
            *(node for name in "qkv" for node in _split_heads(name, "-")[1:]), *ATTEND, *OUT, w=(16, 48), opset=13,
            **heads
        ),
        "4 heads, 4 head dims inside, 4 head dims inside"
    )  # fmt: skip
    yield _case(
        "fused-h3d",
        model(
            "f = MatMul(x, w)", "r = Reshape(f, t)", "s = Transpose<perm=[0, 2, 1, 3]>(r)",
            "q, k, v = Split<axis=3>(s)", *ATTEND, *OUT, w=(16, 48), t=[0, 0, 4, 12], opset=13, **HEADS
        ),
        "4 heads, 4 head dims inside, 4 head dims inside"
    )  # fmt: skip
    repeat = [
        node
        for name in "kv"
        for node in (
            f"{name}0 = MatMul(x, w{name})",
            f"{name}1 = Reshape({name}0, kv_heads)",
            f"{name}2 = Transpose<perm=[0, 2, 1, 3]>({name}1)",
            f"{name}3 = Unsqueeze({name}2, two)",
            f"{name}s = Shape({name}3)",
            f"{name}sn = Gather({name}s, n_and_kv)",
            f"{name}ss = Gather({name}s, s_and_d)",
            f"{name}_to = Concat<axis=0>({name}sn, groups, {name}ss)",
            f"{name}4 = Expand({name}3, {name}_to)",
            f"{name} = Reshape({name}4, repeated)",
        )
    ]
    yield _case(
        "gqa",
        model(
            *_split_heads("q", "wq"), *repeat, *ATTEND, *OUT, wq=(16, 16), wk=(16, 8), wv=(16, 8),
            kv_heads=[0, 0, 2, 4], two=[2], n_and_kv=[0, 1], s_and_d=[3, 4], groups=[2], repeated=[0, 4, -1, 4],
            y="float[n,s,16] y", **heads
        ),
        "2 heads, 2 heads inside, 4 head dims inside, 4 head dims inside",
        after={"q1:1": [0, 0, 1, 2], "k1:1": [0, 0, 1, 2], "k4:1": [1, 1, 1, 1, 1], "k:1": [0, 1, -1, 2]}
    )  # fmt: skip
    yield _case(
        "mqa",
        model(
            *_split_heads("q", "wq"), "k0 = MatMul(x, wk)", "k = Unsqueeze(k0, one)", "v0 = MatMul(x, wv)",
            "v = Unsqueeze(v0, one)", *ATTEND, *OUT, wq=(16, 16), wk=(16, 4), wv=(16, 4), one=[1], **heads
        ),
        "4 heads, 4 head dims inside, 4 head dims inside"
    )  # fmt: skip
    rope = [
        node
        for name in "qk"
        for node in (
            *_split_heads(name + "r", "w" + name),
            f"{name}a = Slice({name}r, zero, half, last)",
            f"{name}b = Slice({name}r, half, end, last)",
            f"{name}n = Neg({name}b)",
            f"{name}h = Concat<axis=-1>({name}n, {name}a)",
            f"{name}c = Mul({name}r, cos)",
            f"{name}s = Mul({name}h, sin)",
            f"{name} = Add({name}c, {name}s)",
        )
    ]
    yield _case(
        "rope",
        model(
            *rope, *_split_heads("v", "wv"), *ATTEND, *OUT, zero=[0], half=[2], end=[2**63 - 1], last=[-1],
            cos=np.tile(np.cos(np.arange(2, dtype=np.float32)), 2),
            sin=np.tile(np.sin(np.arange(2, dtype=np.float32)), 2), **three, **heads
        ),
        "4 heads, 2 head dims inside, 4 head dims inside"
    )  # fmt: skip
    yield _case(
        "position-bias",
        model(
            *_split_heads("q", "wq"), *_split_heads("k", "wk"), *_split_heads("v", "wv"), "g = Gather(table, index)",
            "bias = Transpose<perm=[2, 0, 1]>(g)", "kt = Transpose<perm=[0, 1, 3, 2]>(k)", "qk = MatMul(q, kt)",
            "scaled = Add(qk, bias)", *ATTEND[3:], *OUT, table=(9, 4), **three,
            index=np.arange(5)[:, None] - np.arange(5) + 4, **{**heads, "x": "float[n,5,16] x"}
        ),
        "4 heads, 4 head dims inside, 4 head dims inside"
    )  # fmt: skip
    yield _case(
        "computed-scale",
        model(
            *_split_heads("q", "wq"), *_split_heads("k", "wk"), *_split_heads("v", "wv"), "qs = Shape(q)",
            "dim = Gather(qs, three)", "fdim = Cast<to=1>(dim)", "scale0 = Sqrt(fdim)", "scale = Reciprocal(scale0)",
            *ATTEND, *OUT, three=3, **three, **{k: v for k, v in heads.items() if k != "scale"}
        ),
        "4 heads, 4 head dims inside, 4 head dims inside"
    )  # fmt: skip
    for name, tokens, rest, cut, locks in (
        # n·h cannot be -1 where the length is: what heads lose cannot be told from the runtime value
        (
            "",
            TOKENS,
            [-1, 4],
            "4 head dims, 4 head dims",
            ("its size is computed at run time together with a dynamic one",),
        ),
        ("-of-known-length", "float[n,5,16] x", [5, 4], "4 heads, 4 head dims inside, 4 head dims inside", ()),
    ):
        flat = (node for which in "qkv" for node in _folded_heads(which))
        proto = model(
            "xs = Shape(x)",
            "n = Gather(xs, zero)",
            "nh = Mul(n, four)",
            *flat,
            "kt = Transpose<perm=[0, 2, 1]>(k)",
            "qk = MatMul(q, kt)",
            "p = Softmax(qk)",
            "o = MatMul(p, v)",
            "o_to = Concat<axis=0>(n, four, rest)",
            "o1 = Reshape(o, o_to)",
            "merged = Transpose<perm=[0, 2, 1, 3]>(o1)",
            *OUT,
            zero=[0],
            four=[4],
            rest=rest,
            y="float[n,s,16] y",
            **three,
            **{**heads, "x": tokens},
        )
        yield _case(f"batch-times-heads{name}", proto, cut, locks=locks)
    yield _case(
        "window-attention",
        model(
            "xw = Reshape(x, windows)", *(node.replace("(x,", "(xw,") for node in separate), windows=[-1, 4, 16],
            **three, **{**heads, "x": "float[n,8,16] x"}
        ),
        "4 heads, 4 head dims inside, 4 head dims inside"
    )  # fmt: skip


def _sizes():
    """Sizes that the graph computes from other sizes."""
    computed = ("s = Shape(a)", "c = Gather(s, one)", "h = Div(c, two)")
    numbers = {"one": [1], "two": [2], "zero": [0]}
    yield _case(
        "halves-of-computed-size",
        conv(
            *computed, "c2 = Mul(h, two)", "p = Slice(a, zero, h, one)", "q = Slice(a, h, c2, one)", "b = Mul(p, q)",
            out=4, **numbers
        ),
        "4 channels", after={"p:2": [2], "q:1": [2], "q:2": [4]}
    )  # fmt: skip
    yield _case(
        "split-of-computed-sizes",
        conv(*computed, "hh = Concat<axis=0>(h, h)", "p, q = Split<axis=1>(a, hh)", "b = Mul(p, q)",
            out=4, y="float[n,5,6,6] y", **numbers
        ),
        "4 channels", after={"p:1": [2, 2]}
    )  # fmt: skip
    yield _case(
        "expand-by-where",
        conv(
            "g = GlobalAveragePool(a)", "r = Shape(t)", "ones = ConstantOfShape<value = int64[1] {1}>(r)",
            "m = Mul(ones, minus)", "e = Equal(t, m)", "w = Where(e, ones, t)", "b = Expand(g, w)",
            t=[-1, 8, 3, 3], minus=-1
        ),
        C8, after={"b:1": [1, 1, 3, 3]}
    )  # fmt: skip
    yield _case(
        "numbered-channels",
        conv(
            "s = Shape(a)", "c = Gather(s, at)", "r = Range(start, c, step)", "f = Cast<to=1>(r)",
            "k = Unsqueeze(f, dims)", "b = Mul(a, k)", at=1, start=0, step=1, dims=[1, 2]
        ),
        C8
    )  # fmt: skip
    yield _case(
        "heads-by-division",
        model(
            "a = MatMul(x, w1)", "s = Shape(a)", "n = Gather(s, zero)", "l = Gather(s, one)", "c = Gather(s, two)",
            "d = Div(c, four)", "t = Concat<axis=0>(n, l, four, d)", "r = Reshape(a, t)",
            "e = Transpose<perm=[0, 2, 1, 3]>(r)", "m = MatMul(e, k)", "f = Transpose<perm=[0, 2, 1, 3]>(m)",
            "u = Concat<axis=0>(n, l, eight)", "g = Reshape(f, u)", "y = MatMul(g, w2)",
            x=TOKENS, w1=(16, 12), four=[4], eight=[8], k=(3, 2), w2=(8, 16), **numbers
        ),
        "4 neurons, 3 neurons inside, 2 neurons inside", after={"r:1": [0, 0, 2, 2], "g:1": [0, 0, 2]}
    )  # fmt: skip
    yield _case(
        "sizes-by-slice-of-attributes",
        conv(
            "s = Shape(a)", "n = Slice<starts=[0], ends=[1], axes=[0]>(s)", "c = Slice<starts=[1], ends=[-2]>(s)",
            "t = Concat<axis=0>(n, c, rest)", "r = Reshape(a, t)", "b = Reshape(r, s)", rest=[-1], opset=9,
            y="float[n,5,6,6] y", infer=False
        ),
        C8, after={"r:1": [0, 4, -1]}
    )  # fmt: skip
    yield _case(
        "sum-over-units-and-batch-at-once",
        model(
            "a = Gemm(x, w1)", "f = Flatten<axis=2>(a)", "h = MatMul(f, k)", "m = ReduceSum<keepdims=0>(h, zero)",
            "y = MatMul(m, w2)", x=ROWS, w1=(6, 4), k=(1, 8), w2=(8, 3), zero=[0]
        ),
        N8, locks=("ReduceSum sums over it and a dynamic size at once",)
    )  # fmt: skip
    yield _case(
        "mean-over-units-and-positions-at-once",
        model(
            "a = Conv(x, w1)", "r = Reshape(a, t)", "y = ReduceMean<keepdims=1, axes=[1]>(r)", x="float[n,1,h,w] x",
            w1=(4, 1, 1, 1), t=[0, -1], opset=13
        ),
        "", locks=("ReduceMean sums over it and a dynamic size at once",)
    )  # fmt: skip
    # the size of one tensor is the shape of another, which is not cut
    for name, op in (("reshape", "z = Reshape(q, s)"), ("expand", "z = Expand(q, s)")):
        yield _case(
            f"{name}-by-size-of-another",
            dense("b = Relu(a)", "s = Shape(b)", op, x=f"{ROWS}, float[n,{'2,4' if name == 'reshape' else '1'}] q",
                y="float[] y, float[n,8] z"
            ),
            N8
        )  # fmt: skip
    yield _case(
        "zeros-by-size-of-another",
        dense("r = Relu(a)", "s = Shape(r)", "z = ConstantOfShape<value = float[1] {1.0}>(s)",
            "b = Concat<axis=1>(r, z)", out=16
        ),
        "8 neurons, 8 neurons"
    )  # fmt: skip
    yield _case(
        "size-read-backwards",
        dense("s = Shape(a)", "e = Slice(s, last, before, , back)", "f = Cast<to=1>(e)", "b = Div(a, f)",
            last=[-1], before=[-2], back=[-1]
        ),
        N8
    )  # fmt: skip
    # sizes that leave the traced graph: whoever reads them would see the smaller number
    read = ("its size is read by a graph output, a branch or a loop",)
    yield _case("shape-as-output", conv("b = Relu(a)", "s = Shape(a)", y="float[] y, int64[] s"), "", locks=read)
    yield _case("size-as-output", conv(*computed, "b = Relu(a)", y="float[] y, int64[] h", **numbers), "", locks=read)
    yield _case(
        "size-in-branch",
        conv(
            *computed, "f = Cast<to=1>(h)", "d = If<then_branch = yes () => (float[1] t) { t = Neg(f) }, "
            "else_branch = no () => (float[1] e) { e = Exp(f) }>(switch)", "b = Mul(a, d)",
            x=f"{IMAGE}, bool switch", **numbers
        ),
        "", locks=read
    )  # fmt: skip


OBLONG = ({"n": 2, "h": 6, "w": 10}, {"n": 1, "h": 10, "w": 6}, {"n": 3, "h": 1, "w": 4})


def _sides():
    """Height and width of an image that the graph reads apart, and exchanges."""
    parts = (
        "h = Conv(x, w1)", "s = Shape(h)", "n = Gather(s, zero)", "hh = Gather(s, two)", "ww = Gather(s, three)",
    )  # fmt: skip
    numbers = {"x": "float[n,4,h,w] x", "w1": (12, 4, 1, 1), "zero": [0], "two": [2], "three": [3], "c12": [12]}
    last = ("t = Transpose<perm=[0, 2, 3, 1]>(f)", "y = MatMul(t, w2)")
    yield _case(
        "sides-exchanged",
        model(*parts, "to = Concat<axis=0>(n, c12, ww, hh)", "f = Reshape(h, to)", *last, w2=(12, 3), **numbers),
        "12 channels", at=OBLONG
    )  # fmt: skip
    yield _case(
        "sides-kept",
        model(*parts, "to = Concat<axis=0>(n, c12, hh, ww)", "f = Reshape(h, to)", *last, w2=(12, 3), **numbers),
        "12 channels", at=OBLONG
    )  # fmt: skip
    yield _case(
        "vertical-scan",
        model(
            *parts, "t0 = Transpose<perm=[0, 2, 3, 1]>(h)", "tokens = Concat<axis=0>(n, minus, c12)",
            "u = Reshape(t0, tokens)", "l = MatMul(u, k)", "to = Concat<axis=0>(n, hh, ww, c12)",
            "f = Reshape(l, to)", "t = Transpose<perm=[0, 2, 1, 3]>(f)", "v = Reshape(t, tokens)", "r = Relu(v)",
            "back = Concat<axis=0>(n, ww, hh, c12)", "z = Reshape(r, back)", "y = MatMul(z, w2)", k=(12, 12),
            w2=(12, 3), minus=[-1], **numbers
        ),
        "12 channels, 12 neurons", at=OBLONG
    )  # fmt: skip
    yield _case(
        "cross-scan",
        model(
            *parts, "f1 = Reshape(h, tokens)", "ht = Transpose<perm=[0, 1, 3, 2]>(h)", "f2 = Reshape(ht, tokens)",
            "f12 = Add(f1, f2)", "z = MatMul(k, f12)", "to = Concat<axis=0>(n, c26, hh, ww)", "f = Reshape(h, to)",
            "m = ReduceSum<keepdims=0>(f, one)", "t = Transpose<perm=[0, 2, 3, 1]>(m)", "y = MatMul(t, w2)",
            y="float[] y, float[] z", k=(3, 12), tokens=[0, 12, -1], c26=[2, 6], one=[1], w2=(6, 3), **numbers
        ),
        "2 channels, 6 channels inside", at=OBLONG
    )  # fmt: skip


def _lengths():
    """Lengths that are clamped, and batches that a Reshape fixes."""
    yield _case(
        "clamped-length",
        model(
            "c = Slice(x, zero, five, one)", "a = MatMul(c, w1)", "s = Shape(a)", "n = Gather(s, zero)",
            "l = Gather(s, one)", "to = Concat<axis=0>(n, l, heads)", "r = Reshape(a, to)", "g = Relu(r)",
            "m = ReduceSum<keepdims=0>(g, one)", "f = Reshape(m, flat)", "y = MatMul(f, w2)", x="float[n,s,6] x",
            w1=(6, 16), zero=[0], one=[1], five=[5], heads=[4, 4], flat=[0, 16], w2=(16, 3)
        ),
        "4 neurons, 4 neurons inside", at=({"n": 2, "s": 3}, {"n": 2, "s": 5}, {"n": 1, "s": 9}, {"n": 3, "s": 1})
    )  # fmt: skip
    yield _case(
        "batch-frozen-to-one",
        model(
            "a = Conv(x, w1)", "p = GlobalAveragePool(a)", "f = Reshape(p, flat)", "g = MatMul(f, k)", "r = Relu(g)",
            "y = MatMul(r, w2)", w1=(8, 3, 1, 1), flat=[1, 8], k=(8, 12), w2=(12, 5)
        ),
        "8 channels, 12 neurons", after={"f:1": [1, 4]}, at=({"n": 1},)
    )  # fmt: skip


def _language():
    yield _case(
        "swiglu",
        model(
            "g = MatMul(x, wg)", "u = MatMul(x, wu)", "s = Sigmoid(g)", "a = Mul(g, s)", "m = Mul(a, u)",
            "y = MatMul(m, wd)", x=TOKENS, wg=(16, 8), wu=(16, 8), wd=(8, 16)
        ),
        N8
    )  # fmt: skip
    yield _case(
        "layer-norm-over-hidden",
        dense(
            "m = ReduceMean<axes=[-1]>(a)", "d = Sub(a, m)", "q = Pow(d, two)", "v = ReduceMean<axes=[-1]>(q)",
            "e = Add(v, eps)", "r = Sqrt(e)", "n = Div(d, r)", "s = Mul(n, g)", "h = MatMul(s, k)", "t = Relu(h)",
            "u = MatMul(t, l)", "b = Add(a, u)", two=2.0, eps=1e-5, g=(8,), k=(8, 12), l=(12, 8), opset=13
        ),
        "12 neurons", inexact=("ReduceMean reduces over it",)
    )  # fmt: skip
    yield _case(
        "tied-embeddings",
        model(
            "e = Gather(w, x)", "h = MatMul(e, k)", "r = Relu(h)", "f = MatMul(r, l)", "t = Transpose(w)",
            "y = MatMul(f, t)", x="int64[n,s] x", w=(20, 8), k=(8, 12), l=(12, 8)
        ),
        "8 neurons, 12 neurons, 8 neurons"
    )  # fmt: skip


def _weights():
    yield _case("weights-listed-as-inputs", conv("b = Relu(a)", listed=("w1", "b1", "w2")), C8)
    yield _case("scalar-input", conv("b = Mul(a, k)", x=f"{IMAGE}, float k"), C8)
    yield _case("scalar-listed-as-input", conv("b = Mul(a, k)", k=2.0, listed=("k",)), C8)
    constant = "w = Constant<value = float[4, 3, 1, 1] {1,2,3,4,5,6,7,8,9,10,11,12}>()"
    yield _case("constant-node", model(constant, "a = Conv(x, w)", "y = Conv(a, w2)", w2=(5, 4, 1, 1)), "4 channels")
    floats = "k = Constant<value_floats=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]>()"
    yield _case("constant-floats", dense(floats, "b = Mul(a, k)"), N8)
    yield _case(
        "weight-transposed",
        model(
            "t = Transpose(w1)", "a = MatMul(x, t)", "u = Transpose(w2)", "y = MatMul(a, u)", x=ROWS, w1=(8, 6),
            w2=(5, 8)
        ),
        N8
    )  # fmt: skip
    half = np.linspace(-1, 1, 48, dtype=np.float16).reshape(6, 8)
    yield _case(
        "weight-cast",
        model("t = Cast<to=1>(w1)", "a = MatMul(x, t)", "y = MatMul(a, w2)", x=ROWS, w1=half, w2=(8, 5)), N8
    )  # fmt: skip
    yield _case(
        "weight-identity",
        model("t = Identity(w1)", "a = MatMul(x, t)", "y = MatMul(a, w2)", x=ROWS, w1=(6, 8), w2=(8, 5)), N8
    )  # fmt: skip
    yield _case(
        "weight-norm",
        model(
            "q = Mul(w1, w1)", "s = ReduceSum(q, d)", "r = Sqrt(s)", "u = Div(w1, r)", "w = Mul(u, g)",
            "a = Conv(x, w)", "y = Conv(a, w2)", d=[1, 2, 3], w1=(8, 3, 1, 1), g=(8, 1, 1, 1), w2=(5, 8, 1, 1)
        ),
        C8
    )  # fmt: skip
    yield _case("double", dense("b = Relu(a)", x="double[n,6] x", y="double[] y", dtype="float64"), N8)
    yield _case(
        "unused-output", conv("p, q = Split<axis=1>(a)", "b = Relu(p)", out=4, opset=13), "4 channels, 4 channels"
    )
    yield _case(
        "dead-node-by-size",
        conv(
            "s = Shape(a)", "z = ConstantOfShape(s)", "dead = Add(a, z)", "b = Relu(a)", x=FIXED
        ),
        C8
    )  # fmt: skip
    yield _case("dead-node", conv("b = Relu(a)", "dead = Relu(a)"), C8)
    yield _case("two-outputs", conv("b = Relu(a)", "z = GlobalAveragePool(a)", y="float[] y, float[] z"), "")


def _of_constants():
    """What follows from constants alone is computed when the model is read."""
    yield _case("shape-of-weight", dense("s = Shape(k)", "b = Reshape(a, s)", k=(1, 8), x="float[1,6] x"), N8)
    yield _case(
        "network-over-positions",
        dense(
            "h = MatMul(table, p1)", "g = Relu(h)", "e = MatMul(g, p2)", "r = ReduceSum<keepdims=1>(e, zero)",
            "b = Add(a, r)", table=(5, 2), p1=(2, 64), p2=(64, 8), zero=[0]
        ),
        N8
    )  # fmt: skip
    yield _case(
        "parts-at-a-computed-place",  # as PyTorch writes attention across two sequences, of one weight
        model(
            "s = Shape<start=1>(x)", "one_width = Mul(s, one)", "all = Mul(s, two)",
            "q = Slice(w, zero, one_width, zero)",
            "k = Slice(w, one_width, all, zero)", "qt = Transpose(q)", "kt = Transpose(k)", "a = MatMul(x, qt)",
            "b = MatMul(x, kt)", "u = MatMul(a, w1)", "v = MatMul(b, w2)", "y = Add(u, v)", x=ROWS, w=(12, 6), zero=[0],
            one=[1], two=[2], w1=(6, 4), w2=(6, 4)
        ),
        "6 neurons, 6 neurons"
    )  # fmt: skip
    yield _case(
        "low-rank-weight",  # stays a product: it would be larger than its factors
        dense("l = MatMul(u, v)", "b0 = MatMul(a, l)", "b = Relu(b0)", u=(8, 2), v=(2, 12), out=12),
        "8 neurons, 12 neurons"
    )  # fmt: skip
    yield _case(
        "group-norm-of-a-dynamic-image",  # what is normalised with the pixels is a static part of the channels
        conv(
            "r = Reshape(a, groups)", "i = InstanceNormalization(r, ones, zeros)", "s = Shape(a)", "b = Reshape(i, s)",
            groups=[0, 2, -1], ones=np.ones(2, "f"), zeros=np.zeros(2, "f"), x="float[n,3,h,w] x"
        ),
        "2 channels", locks=("InstanceNormalization mixes over it and a dynamic size at once",)
    )  # fmt: skip


def _by_position():
    """Units that are positions for some op: the steps of a recurrence, the tokens of an attention, rows of a range."""
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        yield _case(
            f"units-as-steps-of-{op}",
            model(
                "a = Conv(x, w1)", "t = Transpose<perm=[1, 0, 2]>(a)", f"h = {op}<hidden_size=3>(t, w, r)",
                "y = ReduceSum<keepdims=0>(h, zero)", x="float[n,2,4] x", w1=(5, 2, 1), w=(1, 3 * gates, 4),
                r=(1, 3 * gates, 3), zero=[0]
            ),
            "", locks=(SPATIAL, f"{op} gives its positions a meaning")
        )  # fmt: skip
    row = np.random.default_rng(0)
    width = {"k": row.integers(-99, 99, (4, 12)).astype("i1"), "s": np.float32(0.02), "z": np.uint8(120)}
    yield _case(
        "units-as-tokens-of-QAttention",
        model(
            "a = MatMul(w1, x)", "q = QuantizeLinear(a, s, z)",
            "b = com.microsoft.QAttention<num_heads=2>(q, k, c, s, s, , z)", "m = ReduceSum<keepdims=0>(b, one)",
            "y = MatMul(m, w2)", x="float[n,3,4] x", w1=(6, 3), c=(12,), one=[1], w2=(4, 4),
            imports='"com.microsoft" : 1', y="float[n,4] y", **width
        ),
        "2 heads", locks=("com.microsoft.QAttention gives its positions a meaning",)
    )  # fmt: skip
    gates = {
        "w": width["k"][:1].reshape(1, 1, 12),
        "r": width["k"][1:].reshape(1, 3, 12),
        "v": np.full((1, 12), 0.01, "f"),
    }
    yield _case(
        "units-as-rows-of-DynamicQuantizeLSTM",
        model(
            "a = MatMul(x, w1)", "t = Unsqueeze(a, two)",
            "h = com.microsoft.DynamicQuantizeLSTM<hidden_size=3>(t, w, r, b, , , , , v, u, v, u)",
            "f = ReduceSum<keepdims=0>(h, last)", "y = MatMul(f, w2)", x="float[n,6] x", w1=(6, 8), two=[2], b=(1, 24),
            u=np.zeros((1, 12), np.int8), last=[1, 3], w2=(8, 4), imports='"com.microsoft" : 1', y="float[n,4] y",
            **gates
        ),
        "", locks=("com.microsoft.DynamicQuantizeLSTM gives its positions a meaning",),
        inexact=("com.microsoft.DynamicQuantizeLSTM quantizes by the range over it",)
    )  # fmt: skip
    yield _case(
        "units-in-the-range-of-another-axis",
        model(
            "a = Conv(x, w1, c)", "r = Relu(a)", "b = com.microsoft.DynamicQuantizeMatMul(r, k, s)", "y = Conv(b, w2)",
            x="float[n,3,4] x", w1=(5, 3, 1), c=(5,), k=width["k"][:, :6], s=width["s"], w2=(2, 5, 1),
            imports='"com.microsoft" : 1', y="float[n,2,6] y"
        ),
        "5 channels", locks=("Conv gives its positions a meaning", SPATIAL)
    )  # fmt: skip
    yield _case(
        "scale-of-a-norm-over-units",
        model(
            "a = MatMul(x, w1)", "g = Identity(one)", "b = InstanceNormalization(a, g, zero)", "h = Tanh(b)",
            "y = MatMul(h, w2)", x="float[n,3,6] x", w1=(6, 8), one=np.ones(3, np.float32), w2=(8, 5),
            zero=np.zeros(3, np.float32)
        ),
        "", inexact=("InstanceNormalization normalises over it",)
    )  # fmt: skip


def _functions():
    """Calls of model-local functions, which are inlined."""
    act = '<domain: "my", opset_import: ["" : 18]> Act (u) => (w) {\n v = Relu(u)\n w = Neg(v)\n}'
    mlp = (
        '<domain: "my", opset_import: ["" : 18, "my" : 1]> Mlp (u, p, q) => (w) '
        "{\n a = MatMul(u, p)\n b = my.Act(a)\n w = MatMul(b, q)\n}"
    )
    yield _case("local-function", conv("b = my.Act(a)", imports='"my" : 1', functions=act), C8)
    yield _case(
        "nested-functions-with-weights",
        dense("b = my.Mlp(a, p, q)", imports='"my" : 1', functions=f"{act}\n{mlp}", p=(8, 7), q=(7, 8)),
        "8 neurons, 7 neurons, 8 neurons"
    )  # fmt: skip


def _branches():
    """What decides a branch is no constant: a length, a default that a caller may replace."""
    yield _case(
        "branch-by-length",
        model(
            "a = MatMul(x, w1)", "s = Shape<start=1, end=2>(x)", "g = Greater(s, hundred)", "q = Squeeze(g)",
            "b = If(q) <then_branch = t () => (float[n,s,8] p) { p = MatMul(a, w3) }, "
            "else_branch = e () => (float[n,s,8] r) { r = Relu(a) }>", "y = MatMul(b, w2)",
            x="float[n,s,6] x", y="float[n,s,4] y", infer=False, w1=(6, 8), w3=(8, 8), w2=(8, 4), hundred=[100]
        ),
        N8, at=({"n": 1, "s": 150}, {"n": 1, "s": 50})
    )  # fmt: skip
    yield _case(
        "branch-by-default",
        dense(
            "b = If(c) <then_branch = t () => (float[n,8] p) { p = Relu(a) }, "
            "else_branch = e () => (float[n,8] r) { r = MatMul(a, w3) }>", y="float[n,5] y", infer=False,
            c=np.array(True), w3=(8, 8), listed=("c",)
        ),
        N8
    )  # fmt: skip
    yield _case(
        "branch-of-sizes",
        model(
            "a = MatMul(x, w1)", "h = Shape(a)", "k = If(c) <then_branch = t () => (int64[2] p) { p = Identity(h) }, "
            "else_branch = e () => (int64[2] f) { q = MatMul(a, w3)  f = Shape(q) }>", "g = Cast<to=1>(k)",
            "m = ReduceSum<keepdims=0>(g)", "b = Mul(a, m)", "y = MatMul(b, w2)", x="float[n,6] x, bool c",
            y="float[n,4] y", infer=False, w1=(6, 8), w3=(8, 8), w2=(8, 4)
        ),
        "", locks=("its size is read by a graph output, a branch or a loop",)
    )  # fmt: skip
    yield _case(
        "input-with-the-name-of-a-copy",
        dense(
            "c = MatMul(a, w3)", "d = MatMul(c, w3)", "b = Add(d, w3_pruned)",
            x="float[n,6] x, float[n,8] w3_pruned", w3=(8, 8)
        ),
        "8 neurons, 8 neurons"
    )  # fmt: skip


STRUCTURES: tuple[Case, ...] = (
    *_convolutional(),
    *_attention(),
    *_sizes(),
    *_sides(),
    *_lengths(),
    *_language(),
    *_weights(),
    *_by_position(),
    *_functions(),
    *_of_constants(),
    *_branches(),
)
