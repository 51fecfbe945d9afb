"""Cases of sequences of tensors. Rows of the same form as in `cases`."""

from __future__ import annotations

from tests.support.build import conv, dense

C8 = "8 channels"
END = {"y": "float[n,5,6,6] y", "infer": False}
ROWS_END = {"y": "float[n,5] y", "infer": False}


def sequence_cases(row):
    """Yield the rows; `row` makes one of op, variant, model, cut, locks, inexact and after."""
    two = ("s = SequenceConstruct(a, c)", "p = SequenceAt(s, zero)", "q = SequenceAt(s, last)", "b = Add(p, q)")
    yield row("SequenceConstruct", "", conv("c = Relu(a)", *two, zero=0, last=-1, **END), C8)
    yield row(
        "SequenceAt", "of-other-channels",
        conv("c = Conv(x, k)", "s = SequenceConstruct(c, a)", "b = SequenceAt(s, one)", k=(6, 3, 1, 1), one=1, **END),
        "8 channels, 6 channels"
    )  # fmt: skip
    yield row(
        "SequenceAt", "at-run-time",
        conv(
            "c = Relu(a)", "s = SequenceConstruct(a, c)", "b = SequenceAt(s, i)", x="float[n,3,6,6] x, int64 i", **END
        ),
        "", locks=("SequenceAt takes a place that is computed at run time",), trace_only="an index of 1 is the last"
    )  # fmt: skip
    joined = conv(
        "c = Conv(x, k)", "s = SequenceConstruct(a, c)", "b = ConcatFromSequence<axis=1>(s)", k=(6, 3, 1, 1), out=14,
        **END
    )  # fmt: skip
    yield row("ConcatFromSequence", "", joined, "8 channels, 6 channels")
    stacked = conv(
        "c = Relu(a)", "s = SequenceConstruct(a, c)", "t = ConcatFromSequence<axis=1, new_axis=1>(s)",
        "b = ReduceSum<keepdims=0>(t, one)", one=[1], **END
    )  # fmt: skip
    yield row("ConcatFromSequence", "new-axis", stacked, C8)
    yield row(
        "SequenceInsert", "",
        conv(
            "c = Relu(a)", "e = SequenceEmpty()", "f = SequenceInsert(e, a)", "g = SequenceInsert(f, c, zero)",
            "b = SequenceAt(g, last)", zero=0, last=-1, **END
        ),
        C8
    )  # fmt: skip
    yield row(
        "SequenceEmpty", "", conv("e = SequenceEmpty()", "f = SequenceInsert(e, a)", "b = SequenceAt(f, zero)", zero=0,
                                  **END), C8
    )  # fmt: skip
    yield row(
        "SequenceErase", "",
        conv(
            "c = Conv(x, k)", "s = SequenceConstruct(c, a)", "t = SequenceErase(s, zero)", "b = SequenceAt(t, zero)",
            k=(6, 3, 1, 1), zero=0, **END
        ),
        "8 channels, 6 channels"
    )  # fmt: skip
    yield row(
        "SequenceLength", "",
        conv(
            "c = Relu(a)", "s = SequenceConstruct(a, c)", "l = SequenceLength(s)", "f = Cast<to=1>(l)", "b = Mul(a, f)",
            **END
        ),
        C8
    )  # fmt: skip
    parts = ("p = SequenceAt(s, zero)", "q = SequenceAt(s, one)")
    yield row(
        "SplitToSequence", "equal",
        dense(
            "s = SplitToSequence<axis=1>(a, four)", *parts, "b = Mul(p, q)", four=4, zero=0, one=1, out=4, **ROWS_END
        ),
        "4 neurons"
    )  # fmt: skip
    yield row(
        "SplitToSequence", "of-a-stated-shape",
        dense(
            "s = SplitToSequence<axis=1>(a, four)", *parts, "b = Mul(p, q)", four=4, zero=0, one=1, out=4,
            y="float[n,5] y"
        ),
        "4 neurons"
    )  # fmt: skip
    yield row(
        "SplitToSequence", "unequal",
        dense(
            "s = SplitToSequence<axis=1>(a, sizes)", *parts, "t = Sigmoid(q)", "b = Concat<axis=1>(t, p)", sizes=[3, 5],
            zero=0, one=1, **ROWS_END
        ),
        "3 neurons, 5 neurons"
    )  # fmt: skip
    yield row(
        "SplitToSequence", "with-a-rest",
        dense(
            "s = SplitToSequence<axis=1>(a, five)", *parts, "t = Sigmoid(q)", "b = Concat<axis=1>(t, p)", five=5,
            zero=0, one=1, **ROWS_END
        ),
        "", locks=("SplitToSequence cuts it at multiples of one size",)
    )  # fmt: skip
    yield row(
        "SplitToSequence", "one-by-one",
        dense("s = SplitToSequence<axis=1>(a)", "d = SequenceAt(s, zero)", "b = Mul(d, a)", zero=0, **ROWS_END),
        "", locks=("SplitToSequence takes each of its indices for a tensor of its own",)
    )  # fmt: skip
