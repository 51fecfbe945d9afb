"""Mixtures of experts made of single nodes: scores, a choice among them, weights that follow the indices."""

from __future__ import annotations

import numpy as np

from tests.support.build import ROWS
from tests.support.experts import parts
from tests.support.unrolled import EACH, ONCE, dense, gathered

COUNT, PICKED = 6, 2
WEIGHTS = {"w1": (6, 8), "router": (8, COUNT), "f1": (COUNT, 8, 10), "f2": (COUNT, 10, 8), "w2": (8, 5), "k": [PICKED]}
HEAD = ("h = MatMul(x, w1)", "p = MatMul(h, router)")
TAIL = ("y = MatMul(b, w2)",)
# All experts answer each row.
DENSE = (
    'u = Einsum<equation="nd,edf->nef">(h, f1)',
    "r = Relu(u)",
    'o = Einsum<equation="nef,efd->ned">(r, f2)',
)
# The weights of those that are picked are looked up.
PICKED_WEIGHTS = (
    "a1 = Gather(f1, i)",
    "a2 = Gather(f2, i)",
    'u = Einsum<equation="nd,nkdf->nkf">(h, a1)',
    "r = Relu(u)",
)
CUT = "8 neurons, 6 experts, 10 neurons, 8 neurons"
INSIDE = "6 neurons, 8 neurons, 6 neurons, 6 neurons, 6 neurons"  # of four experts, and what they add to
STAYS = "what {} makes of what one unit alone has may stay when the unit goes"


def expert_cases(case):
    """Yield rows of the table of cases."""

    def layer(op, variant, *nodes, **more):
        own = {"cut": CUT, "x": ROWS, "y": "float[n,5] y", **WEIGHTS, **more}
        return case(op, variant, *HEAD, *nodes, *TAIL, **own)

    yield layer(
        "ScatterElements", "shares-of-experts", "s = Softmax(p)", "v, i = TopK(s, k)",
        "t = ReduceSum<keepdims=1>(v, last)", "g = Div(v, t)", "z = Shape(s)", "zero = ConstantOfShape(z)",
        "m = ScatterElements<axis=1>(zero, i, g)", *DENSE, 'b = Einsum<equation="ne,ned->nd">(m, o)', last=[-1]
    )  # fmt: skip
    yield layer(
        "OneHot", "experts", "v, i = TopK(p, k)", "g = Softmax(v)", "oh = OneHot(i, depth, values)",
        "gu = Unsqueeze(g, last)", "mm = Mul(oh, gu)", "m = ReduceSum<keepdims=0>(mm, one)", *DENSE,
        'b = Einsum<equation="ne,ned->nd">(m, o)', last=[-1], one=[1], depth=COUNT, values=np.array([0, 1], np.float32),
        after={"oh:1": [3]}
    )  # fmt: skip
    yield layer(
        "Gather", "experts", "v, i = TopK(p, k)", "g = Softmax(v)", *PICKED_WEIGHTS,
        'b = Einsum<equation="nkf,nkfd,nk->nd">(r, a2, g)'
    )  # fmt: skip
    yield layer(
        "GatherElements", "experts", "q = Add(p, bias)", "v, j = TopK<largest=0>(q, k)", "i = Cast<to=6>(j)",
        "s = Sigmoid(p)", "g = GatherElements<axis=1>(s, i)", *PICKED_WEIGHTS,
        'b = Einsum<equation="nkf,nkfd,nk->nd">(r, a2, g)', bias=(COUNT,)
    )  # fmt: skip
    yield layer(
        "TopK", "experts-by-number", "v, i = TopK(p, k)", "g = Softmax(v)", "f = Cast<to=1>(i)",
        "fu = Unsqueeze(f, last)",
        "gu = Unsqueeze(g, last)", "fg = Mul(fu, gu)", "fs = ReduceSum<keepdims=0>(fg, one)", "b = Add(h, fs)",
        last=[-1], one=[1], cut="8 neurons", locks=("TopK returns its indices",), f1=[0], f2=[0]
    )  # fmt: skip
    yield layer(
        "OneHot", "more-places-than-experts", "v, i = TopK(p, k)", "oh = OneHot(i, depth, values)",
        "m = ReduceSum<keepdims=0>(oh, one)", "b = MatMul(m, back)", back=(COUNT + 2, 8), one=[1], depth=COUNT + 2,
        values=np.array([0, 1], np.float32), cut="8 neurons, 8 neurons",
        locks=("OneHot gives its positions another number of places", "its size is computed by OneHot"), f1=[0], f2=[0]
    )  # fmt: skip
    yield from _unrolled(case)
    yield from _not_told_apart(case)


def _unrolled(case):
    """Yield mixtures in which each expert has nodes of its own."""

    def layer(op, variant, nodes, more=(), **after):
        nodes, own = parts(single=nodes, **dict(more))
        return case(op, variant, *nodes, cut=f"4 experts, {INSIDE}", after=after, **own)

    yield layer("Gather", "expert-alone", gathered("OneHot", EACH), **{"s0:1": [0], "s1:1": [1], "oh:1": [2]})
    yield layer("Equal", "all-experts", gathered("Equal", EACH), **{"eq:1": [0, 1]})
    yield layer("ScatterElements", "rows-of-experts", gathered("OneHot", ONCE))
    yield layer("ScatterElements", "weights-of-experts", dense("Gather"))
    yield layer("Slice", "expert-alone", dense("Slice"), **{"wu1:1": [1], "wu1:2": [2]})
    yield layer("Equal", "expert-alone", dense("Equal"), **{"eq1:1": [1]})
    floats = _with(gathered("Equal"), "iu = Unsqueeze(i, last)", "fi = Cast<to=1>(i)", "iu = Unsqueeze(fi, last)")
    yield layer("Equal", "all-experts-as-floats", floats, {"all": np.arange(4, dtype=np.float32)}, **{"eq:1": [0, 1]})
    float_one = _with(dense("Equal"), "eq1 = Equal(i, n1)", "fi = Cast<to=10>(i)", "eq1 = Equal(fi, float1)")
    yield layer("Equal", "expert-alone-as-float", float_one, {"float1": np.float16(1)}, **{"eq1:1": [1]})


def _not_told_apart(case):
    """Yield mixtures in which something stays of an expert that is not picked, or may."""

    def layer(op, variant, nodes, lock, cut=INSIDE, after=(), **more):
        nodes, own = parts(single=nodes, after=after, **more)
        return case(op, variant, *nodes, cut=cut, locks=(lock,), **own)

    counted = "Gather takes one unit alone out of numbers that count where it is not picked, too"
    yield layer("Gather", "expert-that-counts-elsewhere", gathered(), counted, values=[1, 0])
    mixed = _with(dense(), "mw = ScatterElements<axis=1>(none, i, g)", "ms = ScatterElements<axis=1>(none, i, g)",
                  "mm = MatMul(ms, among)", "mq = Sigmoid(p)", "mw = Mul(mm, mq)")  # fmt: skip
    yield layer("MatMul", "of-experts-with-each-other", mixed, counted, among=(4, 4))
    best = _with(dense(), "mw = ScatterElements<axis=1>(none, i, g)", "ms = ScatterElements<axis=1>(none, i, g)",
                 "i1 = Slice(i, l0, l1, one)", "ib = Expand(i1, sp)", "mb = GatherElements<axis=1>(ms, ib)",
                 "mq = Sigmoid(p)", "mw = Mul(mb, mq)")  # fmt: skip
    yield layer("GatherElements", "weights-of-the-best-for-all", best, counted)
    rows_of_0 = _with(gathered(), 'f3 = ScatterND<reduction="add">(f2, rs3, o3)', "i0 = Gather(i, r0)",
                      "e01 = Equal(i0, n1)", "c01 = Cast<to=1>(e01)", "s01 = ReduceSum<keepdims=0>(c01)",
                      "x01 = Mul(x, s01)", "f01 = Add(f2, x01)",
                      'f3 = ScatterND<reduction="add">(f01, rs3, o3)')  # fmt: skip
    yield layer("Equal", "expert-among-the-rows-of-another", rows_of_0, STAYS.format("Equal"),
                cut="6 neurons, 6 neurons, 6 neurons, 6 neurons")  # fmt: skip
    weighted = _with(dense(), "wu1 = Unsqueeze(w1, last)", "ws1 = Unsqueeze(w1, last)", "wu1 = Sigmoid(ws1)")
    yield layer("Sigmoid", "of-weights-of-an-expert", weighted, STAYS.format("Sigmoid"))
    wide = _with(dense(), "t2 = Add(t1, o1)", "o1s = ReduceSum<keepdims=0>(o1, zeroth)", "t2 = Add(t1, o1s)")
    yield layer("Add", "of-an-expert-to-all-rows", wide, STAYS.format("Add"), zeroth=[0])
    put = _with(gathered(), 'f1 = ScatterND<reduction="add">(f0, rs1, o1)', "zr = Mul(s1, s0)", "zc = Cast<to=1>(zr)",
                "zu = ReduceSum<keepdims=1>(zc)", 'f1 = ScatterND<reduction="add">(f0, rs1, o1)')  # fmt: skip
    yield layer("Mul", "of-two-experts", put, STAYS.format("Mul"))
    rows = _with(gathered(), "b = Identity(f3)", "sh = Shape(h1)", "sc = Cast<to=1>(sh)", "s0h = Gather(sc, n0)",
                 "b = Add(f3, s0h)")  # fmt: skip
    yield layer("Add", "how-many-rows-an-expert-has", rows, STAYS.format("Add"))
    some = _with(gathered("Equal"), "eq = Equal(iu, all)", "eq = Equal(iu, few)")
    not_all = "Equal compares its indices with numbers that are not those of all units, in their order"
    yield layer("Equal", "some-experts", some, not_all, few=[0, 1, 2, 7])
    yield layer("Equal", "experts-in-another-order", some, not_all, few=[1, 0, 2, 3])
    between = _with(dense("Equal"), "eq1 = Equal(i, n1)", "fi = Cast<to=1>(i)", "eq1 = Equal(fi, half)")
    yield layer("Equal", "no-expert", between, not_all, half=np.float32(0.5))
    told_apart = _with(dense("Equal"), "eq1 = Equal(i, n1)", "ib = Cast<to=9>(i)", "ii = Cast<to=7>(ib)",
                       "eq1 = Equal(ii, n1)")  # fmt: skip
    yield layer("Cast", "of-experts-to-bool", told_apart, "TopK returns its indices")


def _with(nodes, old, *new):
    """Return nodes with others in the place of one."""
    assert old in nodes
    return tuple(each for node in nodes for each in (new if node == old else (node,)))
