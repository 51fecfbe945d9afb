"""What cannot be cut: one row for every sentence that a rule can say, beside those that `cases` meets on its way.

Rows of the same form as in `cases`. Many are graphs that onnx or the runtime would refuse as well: a trace must
give a lock with a reason there too, and never fail.
"""

from __future__ import annotations

import numpy as np

from tests.dependency.rules.cases import Case, case, on_images, on_rows
from tests.support.build import ROWS

INVALID = "not valid ONNX"
CUSTOM = "a custom op, which no runtime here knows"


def _at_run_time():
    """Arguments that steer an op and are inputs of the graph."""
    image = "float[n,3,6,6] x, int64[1] d"
    pair = "int64[4] d, float[n,3,6,6] x"
    stated = {"stated": "float[n,8,6,6] b", "cut": ""}
    reduced = ("m = ReduceMean(a, d)", "b = Add(a, m)")
    yield on_images(
        "ReduceMean", "axes-at-run-time", *reduced, x=image, y="float[n,5,6,6] y", cut="",
        locks=("which axes are reduced is computed at run time",)
    )  # fmt: skip
    yield on_images(
        "Squeeze", "axes-at-run-time", "b = Squeeze(a, d)", x=image, locks=("its axes are computed at run time",),
        trace_only=INVALID, **stated
    )  # fmt: skip
    yield on_images(
        "Unsqueeze", "axes-at-run-time", "b = Unsqueeze(a, d)", x=image, locks=("its axes are computed at run time",),
        trace_only=INVALID, **stated
    )  # fmt: skip
    yield on_images(
        "Tile", "repeats-at-run-time", "e = Max(d, one)", "b = Tile(a, e)", x=pair, one=[1],
        locks=("how often Tile repeats it is computed at run time", "its size is computed by Tile"),
        y="float[n,5,6,6] y", **stated
    )  # fmt: skip
    yield on_images(
        "Slice", "axes-at-run-time", "b = Slice(a, s, e, d)", s=[0], e=[9], x=image,
        locks=("which axes are sliced is computed at run time",), y="float[n,5,6,6] y", **stated
    )  # fmt: skip
    yield on_images(
        "Slice", "start-at-run-time", "z = Mul(d, zero)", "b = Slice(a, z, e, c)", e=[9], c=[1], zero=[0], x=image,
        locks=("Slice cuts it at positions known at run time alone", "its size is computed by Slice"),
        y="float[n,5,6,6] y", **stated
    )  # fmt: skip
    for sliced, cut, locks in (
        (1, "8 channels", ()),
        (2, "", ("Slice cuts it at positions known at run time alone", "its size is computed by Slice")),
    ):
        yield on_images(
            "Slice", f"start-of-{sliced}-axes-at-run-time", "z = Mul(d, zero)", "b = Slice(a, z, e)", e=[9] * sliced,
            zero=[0], x=f"float[n,3,6,6] x, int64[{sliced}] d", locks=locks, y="float[n,5,6,6] y",
            stated="float[n,8,6,6] b", cut=cut
        )  # fmt: skip
    yield on_images(
        "Slice", "start-of-unknown-shape-at-run-time", "b = Slice(a, d, e)", e=[5], x="float[n,3,6,6] x, int64[1] d",
        cut="", locks=("the shape of output 0 is unknown",), trace_only="a random start gives nothing", infer=False
    )  # fmt: skip
    yield on_images(
        "Slice", "step-at-run-time", "b = Slice(a, z, e, c, d)", z=[1], e=[9], c=[1], x=image,
        locks=("Slice cuts it at positions known at run time alone", "its size is computed by Slice"),
        trace_only="a step of 0 is random", **stated
    )  # fmt: skip
    yield on_images(
        "Pad", "pads-at-run-time", "z = Mul(d, zero)", "b = Pad(a, z)", zero=[0], x="float[n,3,6,6] x, int64[8] d",
        locks=("how much is padded is computed at run time",), y="float[n,5,6,6] y", **stated
    )  # fmt: skip
    yield on_images(
        "Gather", "indices-at-run-time", "b = Gather<axis=1>(a, d)", x="float[n,3,6,6] x, int64[8] d", cut="",
        locks=("Gather picks its indices by value",)
    )  # fmt: skip
    yield case(
        "Reshape", "shape-at-run-time", "a = MatMul(x, w1)", "b = Reshape(a, d)", "y = Relu(b)",
        x="float[n,6] x, int64[2] d", w1=(6, 8), cut="", locks=("the shape of output 0 is unknown",), y="float[p,q] y",
        trace_only="no random shape fits"
    )  # fmt: skip
    yield on_rows(
        "Split", "of-batch", "r = Reshape(a, t)", "p, q = Split<axis=0>(r)", "s = Concat<axis=0>(p, q)",
        "b = Reshape(s, u)", t=[-1], u=[-1, 8], opset=13, cut="",
        locks=(
            "Split cuts it at positions known at run time alone",
            "Reshape mixes it with others: (?) -> (?·8) has no common refinement"
        )
    )  # fmt: skip
    yield case(
        "Tile", "steered-by-weights", "u = MatMul(x, w1)", "v = Clip(u, one, one)", "r = Cast<to=7>(v)",
        "t = Tile(k, r)", "y = Relu(t)", x="float[6] x", w1=(6, 2), one=1.0, k=(2, 2), stated="float[2,2] t",
        y="float[2,2] y", cut="", locks=("its values steer Tile",)
    )  # fmt: skip


def _misfits():
    """Graphs whose shapes contradict each other."""

    def row(op, variant, *nodes, locks, cut="", **rest):
        return case(
            op,
            variant,
            "a = MatMul(x, w1)",
            *nodes,
            x=ROWS,
            cut=cut,
            locks=locks,
            trace_only=INVALID,
            infer=False,
            **{"w1": (6, 8), **rest},
        )

    yield row(
        "Reshape", "other-count", "y = Reshape(a, d)", d=[5, 5], stated="float[5,5] y",
        locks=("88 elements are reshaped to 25",)
    )  # fmt: skip
    yield row("MatMul", "other-width", "y = MatMul(a, k)", k=(7, 5), locks=("'k' is 8 and 7",))
    yield row(
        "Conv", "other-bias", "u = Unsqueeze(a, d)", "y = Conv(u, k, c)", d=[2], k=(4, 8, 1), c=(6,),
        locks=("'(g o)' is 4 and 6",)
    )  # fmt: skip
    yield row(
        "Conv", "no-multiple", "u = Unsqueeze(a, d)", "y = Conv<group=3>(u, k)", d=[2], k=(4, 2, 1),
        locks=("'(g i)' has 8 indices, no multiple of 3",)
    )  # fmt: skip
    yield row(
        "Conv", "no-spatial-weight", "u = Unsqueeze(a, d)", "y = Conv(u, k)", d=[2], k=(4,),
        locks=("input 1 has 1 axes, expected '(g o) i *k'",)
    )  # fmt: skip
    yield row("Concat", "absent-input", "y = Concat<axis=1>(a, , a)", locks=("input 1 is absent",))
    yield row(
        "Transpose", "of-other-rank", "y = Transpose<perm=[0, 2]>(a)", locks=("Transpose names axis 2 of 2 axes",)
    )
    scaled = ("b = Mul(a, h)", "y = MatMul(b, w2)")
    scalar = {"k": 1.0, "w2": (8, 5)}
    yield row(
        "Softmax", "of-scalar", "c = ReduceSum<keepdims=0>(x)", "h = Softmax(c)", *scaled,
        locks=("the shape of 'h' is unknown",), **scalar
    )  # fmt: skip
    yield row(
        "ArgMax", "of-scalar", "c = Exp(k)", "i = ArgMax(c)", "h = Cast<to=1>(i)", *scaled, locks=(), cut="8 neurons",
        **scalar
    )  # fmt: skip
    yield row("Add", "other-width", "y = Add(a, k)", k=(7,), locks=("w:8 and w:7 differ in size",))
    packed = {"imports": '"com.microsoft" : 1', "router": (8, 4), "f": np.zeros((4, 8, 4), np.uint8), "s": (4, 8)}
    mixture = ("p = MatMul(a, router)", "y = com.microsoft.QMoE<k=2{}>(a, p, f, s, , f, s{})")
    for name, attribute, slots, more, why in (
        ("shape-of-flat", "", "", {"f": np.zeros((4, 32), np.uint8)},
         "input 2 of QMoE has 2 axes, expected experts, rows, packed numbers"),
        ("shape-of-scales", "", "", {"s": (4, 7)}, "input 3 of QMoE has the shape [4, 7], expected [4, 8]"),
        ("shape-of-points", "", ", , , , , z", {"z": np.zeros((4, 8), np.uint8)},
         "input 11 of QMoE has the shape [4, 8], expected [4, 4]"),
        ("shape-of-blocks", ", block_size=16", "", {"s": (4, 8, 2)},
         "input 3 of QMoE has scales of 2 blocks, expected those of 16 numbers"),
        ("bits", ", expert_weight_bits=0", "", {}, "numbers of 0 bits are not known"),
    ):  # fmt: skip
        yield row(
            "com.microsoft.QMoE", name, mixture[0], mixture[1].format(attribute, slots), locks=(why,),
            **{**packed, **more}
        )  # fmt: skip
    yield row("Gather", "out-of-range", "y = Gather<axis=1>(a, i)", i=[9], locks=("w:8 cannot be cut at 9",))


def _unknown():
    """Ops without a rule lock what they touch, and nothing else."""
    around = {"cut": "4 channels", "k": (4, 3, 1, 1), "l": (8, 4, 1, 1)}
    head = ("e = Conv(x, k)", "a = Conv(e, l)")
    tail = {"y": "float[n,5,6,6] y", "w2": (5, 8, 1, 1)}
    yield case(
        "Conv", "custom-op", *head, "b = my.Act(a)", "y = Conv(b, w2)", imports='"my": 1', stated="float[n,8,6,6] b",
        locks=("my.Act has no rule",), trace_only=CUSTOM, **around, **tail
    )  # fmt: skip
    yield case(
        "Conv", "custom-op-of-unknown-shape", *head, "b = my.Act(a)", "y = Conv(b, w2)", imports='"my": 1',
        locks=("my.Act has no rule",), trace_only=CUSTOM, infer=False, **around, **tail
    )  # fmt: skip
    branches = (
        "<then_branch = yes () => (float[n,8,6,6] t) {{ {} }}, "
        "else_branch = no () => (float[n,8,6,6] f) {{ f = Neg(a) }}>"
    )
    # the branch reads a weight that is cut outside of it: it needs the whole one
    yield case(
        "Conv", "body-of-a-custom-op", "d = Conv(x, k)", "e = Mul(d, m)", "a = Conv(e, l)",
        f"b = my.If{branches.format('s = ReduceSum<keepdims=0>(m) t = Mul(a, s)')}(c)", "y = Conv(b, w2)",
        x="float[n,3,6,6] x, bool c", m=(4, 1, 1), locks=("my.If reads it inside a branch or loop",),
        imports='"my": 1', trace_only=CUSTOM, stated="float[n,8,6,6] b", **around, **tail
    )  # fmt: skip


REFUSALS: tuple[Case, ...] = (*_at_run_time(), *_misfits(), *_unknown())
