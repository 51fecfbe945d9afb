"""Cases of gathering and scattering: rows of the same form as in `cases`, which appends them."""

from __future__ import annotations

import numpy as np

from tests.support.build import ROWS

C8 = "8 channels"
N8 = "8 neurons"


def by_value(op):
    return f"{op} picks its indices by value"


def scatter_cases(case, on_images, on_rows):
    """Yield the rows; the arguments make one each."""
    yield from _gathers(on_images, on_rows)
    yield from _splits(on_rows)
    yield from _gather_elements(case, on_images)
    yield from _gather_nd(case)
    yield from _scatter_elements(case)
    yield from _scatter_nd(case)
    yield from _others(case, on_images, on_rows)


def _gathers(on_images, on_rows):
    """Several constant indices along a static axis."""

    def row(variant, index, cut, after=None, **rest):
        return on_images(
            "Gather", variant, "b = Gather<axis=1>(a, i)", i=index, cut=cut, out=len(index),
            after={} if after is None else {"b:1": after}, **rest
        )  # fmt: skip

    yield row("range", [2, 3, 4, 5], "2 channels, 4 channels, 2 channels", [1, 2])
    yield row("range-from-the-end", [-4, -3, -2, -1], "4 channels, 4 channels", [2, 3])
    yield row("int32", np.array([4, 5, 6, 7], np.int32), "4 channels, 4 channels", [2, 3])
    yield row("swapped-halves", [4, 5, 6, 7, 0, 1, 2, 3], "4 channels, 4 channels", [2, 3, 0, 1])
    yield row("runs", [5, 6, 7, 0, 1, 2], "3 channels, 2 channels, 3 channels", [3, 4, 0, 1])
    yield row("repeated", [0, 1, 2, 3, 4, 5, 6, 7] * 2, C8, [0, 1, 2, 3] * 2)
    yield row("shuffle", [0, 4, 1, 5, 2, 6, 3, 7], "2 channels, 4 channels inside", [0, 1])
    yield row("shuffle-of-blocks", [0, 1, 4, 5, 2, 3, 6, 7], "2 channels, 2 channels inside, 2 channels inside", [0])
    yield row("identity", list(range(8)), C8, [0, 1, 2, 3])
    yield row("scattered", [0, 3, 6, 1], "4 channels", locks=(by_value("Gather"),))
    yield row("reversed", list(range(7, -1, -1)), C8, locks=(by_value("Gather"),))
    yield on_rows(
        "Gather", "halves", "p = Gather<axis=1>(a, i)", "q = Gather<axis=1>(a, j)", "b = Mul(p, q)", i=[0, 1, 2, 3],
        j=[4, 5, 6, 7], out=4, cut="4 neurons", after={"p:1": [0, 1], "q:1": [2, 3]}
    )  # fmt: skip
    yield on_rows(
        "Gather", "shared-indices", "p = Gather<axis=1>(a, i)", "c = MatMul(x, v)", "q = Gather<axis=1>(c, i)",
        "b = Concat<axis=1>(p, q)", i=[2, 3, 4, 5], v=(6, 8), out=8,
        cut="2 neurons, 4 neurons, 2 neurons, 2 neurons, 4 neurons, 2 neurons", after={"p:1": [1, 2]}
    )  # fmt: skip


def _splits(on_rows):
    yield on_rows(
        "Split", "at-a-dynamic-size", "s = Shape<end=1>(x)", "r = Sub(whole, s)", "t = Concat<axis=0>(s, r)",
        "p, q = Split<axis=1>(a, t)", "b = Concat<axis=1>(q, p)", mid=16, whole=[16], y="float[n,5] y", cut="",
        locks=("Split cuts it at positions known at run time alone", "its size is computed by Split")
    )  # fmt: skip
    yield on_rows(
        "Split", "at-a-static-size", "s = Shape<start=1>(x)", "r = Sub(whole, s)", "t = Concat<axis=0>(s, r)",
        "p, q = Split<axis=1>(a, t)", "b = Concat<axis=1>(q, p)", mid=16, whole=[16], y="float[n,5] y",
        cut="6 neurons, 10 neurons", after={"p:1": [3, 5]}
    )  # fmt: skip


def _gather_elements(case, on_images):
    op = "GatherElements"
    sides = np.broadcast_to(np.arange(6)[::-1], (1, 8, 6, 6)).copy()
    sides[:, ::2] = 2
    yield on_images(op, "positions", "b = GatherElements<axis=3>(a, i)", i=sides, x="float[1,3,6,6] x")
    yield on_images(
        op, "channels", "b = GatherElements<axis=1>(a, i)", i=sides[:, :2] % 4, x="float[1,3,6,6] x", out=2,
        cut="2 channels", locks=(by_value(op),)
    )  # fmt: skip
    yield on_images(
        op, "first-channels", "b = GatherElements<axis=2>(a, i)", i=sides[:, :4], x="float[1,3,6,6] x", out=4, cut="",
        locks=(f"{op} takes the first of its positions alone",)
    )  # fmt: skip
    yield case(
        op, "sorted-tokens", "a = MatMul(x, w1)", "v, i = TopK<axis=1>(a, k)", "c = MatMul(x, w3)",
        "g = GatherElements<axis=1>(c, i)", "y = MatMul(g, w2)", x="float[n,7,16] x", w1=(16, 8), w3=(16, 8),
        w2=(8, 5), k=[3], cut=N8
    )  # fmt: skip
    yield case(
        op, "expanded-indices", "a = MatMul(x, w1)", "s = Concat<axis=0>(m, m, h)", "i = Expand(j, s)",
        "g = GatherElements<axis=1>(a, i)", "y = MatMul(g, w2)", x="float[1,7,16] x", w1=(16, 8), w2=(8, 5), m=[1],
        h=[8], j=[[[2], [5]]], cut=N8
    )  # fmt: skip


def _gather_nd(case):
    op = "GatherND"
    tokens = {"x": "float[2,7,16] x", "w1": (16, 8), "w2": (8, 5)}
    nodes = ("a = MatMul(x, w1)", f"g = {op}(a, i)", "y = MatMul(g, w2)")
    yield case(op, "rows", *nodes, i=[[0, 2], [1, 5], [1, 1]], cut=N8, **tokens)
    yield case(op, "one-axis", *nodes, i=[[1], [0], [1]], cut=N8, **tokens)
    yield case(op, "batch", nodes[0], f"g = {op}<batch_dims=1>(a, i)", nodes[2], i=[[[2], [3]], [[5], [0]]], cut=N8,
               **tokens)  # fmt: skip
    yield case(
        op, "units", nodes[0], f"g = {op}(a, i)", "y = Relu(g)", x=tokens["x"], w1=(16, 8), i=[[0, 2, 7], [1, 5, 0]],
        cut="", locks=(by_value(op),)
    )  # fmt: skip


def _scatter_elements(case):
    at = np.broadcast_to(np.array([[[2], [5]]]), (1, 2, 8)).copy()
    base = {"x": "float[1,7,16] x", "w1": (16, 8), "w2": (8, 5), "i": at, "u": (1, 2, 8)}
    first, last = "a = MatMul(x, w1)", "y = MatMul(g, w2)"
    for op in ("ScatterElements", "Scatter"):
        more = {"opset": 9 if op == "Scatter" else 18}
        yield case(op, "rows", first, f"g = {op}<axis=1>(a, i, u)", last, cut=N8, **base, **more)
        yield case(
            op, "units", first, f"g = {op}<axis=2>(a, i, u)", last, **base | {"i": at[..., :3] + [0, 1, 2],
                "u": (1, 2, 3)}, cut="", locks=(by_value(op),), **more
        )  # fmt: skip
    op = "ScatterElements"
    yield case(op, "added", first, f'g = {op}<axis=1, reduction="add">(a, i, u)', last, cut=N8, **base)
    yield case(
        op, "of-an-activation", first, "c = MatMul(x, w3)", "d = Slice(c, z, e, o)", f"g = {op}<axis=1>(a, i, d)", last,
        w3=(16, 8), z=[0], e=[2], o=[1], cut=N8, **{k: v for k, v in base.items() if k != "u"}
    )  # fmt: skip
    yield case(
        op, "first-units", first, f"g = {op}<axis=1>(a, i, u)", last, **base | {"i": at[..., :3], "u": (1, 2, 3)},
        cut="", locks=(f"{op} takes the first of its positions alone",)
    )  # fmt: skip


def _scatter_nd(case):
    op = "ScatterND"
    tokens = {"x": "float[2,7,16] x", "w1": (16, 8), "w2": (8, 5)}
    nodes = ("a = MatMul(x, w1)", f"g = {op}(a, i, u)", "y = MatMul(g, w2)")
    yield case(op, "rows", *nodes, i=[[0, 2], [1, 5], [1, 1]], u=(3, 8), cut=N8, **tokens)
    yield case(op, "first-axis", *nodes, i=[[1]], u=(1, 7, 8), cut=N8, **tokens)
    yield case(
        op, "of-an-activation", nodes[0], "c = MatMul(x, w3)", "d = Slice(c, z, e, o)", f"g = {op}(a, i, d)", nodes[2],
        w3=(16, 8), i=[[[0, 2]], [[1, 4]]], z=[0], e=[1], o=[1], cut=N8, **tokens
    )  # fmt: skip
    yield case(
        op, "units", nodes[0], f"g = {op}(a, i, u)", nodes[2], i=[[0, 2, 7], [1, 5, 0]], u=(2,), cut="",
        locks=(by_value(op),), **tokens
    )  # fmt: skip
    yield case(
        op, "channels-of-columns", "a = Conv(x, k1)", "t = Transpose<perm=[1, 0, 2, 3]>(a)", f"g = {op}(t, i, u)",
        "c = Transpose<perm=[1, 0, 2, 3]>(g)", "y = Conv(c, k2)", x="float[1,3,4,4] x", k1=(8, 3, 1, 1),
        k2=(5, 8, 1, 1), i=[[1]], u=(1, 1, 4, 4), cut="", locks=(by_value(op), "its size is computed by Conv")
    )  # fmt: skip


def _others(case, on_images, on_rows):
    yield case(
        "TensorScatter", "", "k = MatMul(x, w1)", "c = MatMul(p, w3)", "g = TensorScatter<axis=1>(c, k, places)",
        "y = MatMul(g, w2)", x="float[2,3,16] x, float[2,9,4] p", w1=(16, 8), w3=(4, 8), w2=(8, 5), places=[1, 4],
        opset=24, cut=N8
    )  # fmt: skip
    yield case(
        "TensorScatter", "no-places", "k = MatMul(x, w1)", "c = MatMul(p, w3)", "g = TensorScatter<axis=1>(c, k)",
        "y = MatMul(g, w2)", x="float[2,3,16] x, float[2,9,4] p", w1=(16, 8), w3=(4, 8), w2=(8, 5), opset=24, cut=N8
    )  # fmt: skip
    keep = np.array([True, False, True, True, False, True])
    yield on_images(
        "Compress", "positions", "b = Compress<axis=2>(a, m)", m=keep, stated="float[n,8,4,6] b",
        y="float[n,5,4,6] y"
    )  # fmt: skip
    yield on_rows(
        "Compress", "units", "b = Compress<axis=1>(a, m)", m=np.array([True, False] * 4), stated="float[n,4] b", out=4,
        y="float[n,5] y", cut="", locks=(by_value("Compress"), "its size is computed by Compress")
    )  # fmt: skip
    yield case(
        "Compress", "flat", "a = MatMul(x, w1)", "b = Compress(a, m)", "y = MatMul(b, w2)", x="float[2,6] x", w1=(6, 8),
        w2=(8, 5), m=np.array([True, False] * 8), stated="float[8] b", y="float[5] y", cut="",
        locks=("Compress flattens it and picks by value",)
    )  # fmt: skip
    yield on_rows(
        "OneHot", "units", "c = MatMul(x, w3)", "i = ArgMax<axis=1, keepdims=0>(c)", "h = OneHot(i, d, v)",
        "b = Add(a, h)", w3=(6, 4), d=8, v=np.array([0, 1], np.float32), cut="",
        y="float[n,5] y", stated="float[n,8] h", locks=("ArgMax returns its indices", "its size is computed by OneHot")
    )  # fmt: skip
    yield case(
        "OneHot", "of-tokens", "a = MatMul(x, w1)", "i = Cast<to=7>(a)", "h = OneHot<axis=1>(i, d, v)",
        "r = ReduceSum<keepdims=0>(h, one)", "b = Add(a, r)", "y = MatMul(b, w2)", x=ROWS, w1=(6, 8), w2=(8, 5), d=4,
        v=np.array([0, 1], np.float32), one=[1], cut=N8
    )  # fmt: skip
    yield case(
        "ReverseSequence", "", "a = MatMul(x, w1)", "b = ReverseSequence<batch_axis=0, time_axis=1>(a, l)",
        "y = MatMul(b, w2)", x="float[2,7,16] x", w1=(16, 8), w2=(8, 5), l=[3, 6], cut=N8
    )  # fmt: skip
    yield case(
        "ReverseSequence", "units", "a = MatMul(x, w1)", "b = ReverseSequence<batch_axis=0, time_axis=1>(a, l)",
        "y = MatMul(b, w2)", x="float[2,6] x", w1=(6, 8), w2=(8, 5), l=[3, 6], cut="",
        locks=("ReverseSequence reverses it",)
    )  # fmt: skip
    yield on_images("CenterCropPad", "positions", "b = CenterCropPad<axes=[2, 3]>(a, t)", t=[4, 8])
    yield on_images(
        "CenterCropPad", "all", "b = CenterCropPad(a, t)", t=[2, 8, 4, 8], x="float[2,3,6,6] x",
        after={"b:1": [2, 4, 4, 8]}
    )  # fmt: skip
    yield on_images(
        "CenterCropPad", "channels", "b = CenterCropPad<axes=[1]>(a, t)", t=[6], out=6, cut="",
        locks=("CenterCropPad gives its positions a meaning", "its size is computed by CenterCropPad")
    )  # fmt: skip
    yield case(
        "AffineGrid", "", "f = MatMul(x, w1)", "r = Relu(f)", "t = MatMul(r, w2)", "h = Reshape(t, s)",
        "g = AffineGrid(h, z)", "a = Conv(i, k1)", "c = GridSample(a, g)", "y = Conv(c, k2)", opset=20,
        x="float[2,6] x, float[2,3,6,6] i", w1=(6, 8), w2=(8, 6), s=[2, 2, 3], z=[2, 3, 4, 4], k1=(8, 3, 1, 1),
        k2=(5, 8, 1, 1), cut=f"{N8}, {C8}", locks=("AffineGrid gives its positions a meaning",)
    )  # fmt: skip
