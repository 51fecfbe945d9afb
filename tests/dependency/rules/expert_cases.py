"""Mixtures of experts made of single nodes: scores, a choice among them, weights that follow the indices."""

from __future__ import annotations

import numpy as np

from tests.support.build import ROWS

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
