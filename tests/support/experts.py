"""Tiny mixtures of experts, of which some are never picked, or add little."""

from __future__ import annotations

import numpy as np

from tests.support.build import model
from tests.support.unrolled import constants, reads

EXPERTS, WIDTH, INNER = 4, 8, 6
FUSED = 'b = com.microsoft.MoE<k=2, activation_type="relu", normalize_routing_weights=1>(x, p, up, , down)'
SINGLE = (
    "v, i = TopK(p, k)", "g = Softmax(v)", "z = Shape(p)", "zero = ConstantOfShape(z)",
    "m = ScatterElements<axis=1>(zero, i, g)", 'u = Einsum<equation="nd,efd->nef">(x, up)', "r = Relu(u)",
    'o = Einsum<equation="nef,edf->ned">(r, down)', "w = Unsqueeze(m, last)", "s = Mul(o, w)",
    "b = ReduceSum<keepdims=0>(s, one)",
)  # fmt: skip


FUSED_SHARES = FUSED.replace("weights=1", "weights=0")  # weights are shares among all experts
CONTRACTED = (*SINGLE[:-3], 'b = Einsum<equation="ne,ned->nd">(m, o)')  # weighted and summed by one node


def parts(fused=False, small=0, never=3, single=SINGLE, after=(), **more):
    """Return the nodes of a mixture, and its ports, weights and other constants by name; arguments as of `mixture`."""
    rng = np.random.default_rng(0)
    up, down = rng.standard_normal((EXPERTS, INNER, WIDTH)) / 2, rng.standard_normal((EXPERTS, WIDTH, INNER)) / 2
    down[small] *= 0.01
    bias = np.zeros(EXPERTS, np.float32)
    bias[never] = -50
    weights = {
        "router": rng.standard_normal((WIDTH, EXPERTS)).astype(np.float32), "bias": bias,
        "up": up.astype(np.float32), "down": down.astype(np.float32), "head": (WIDTH, 5),
    }  # fmt: skip
    weights |= {f"up{e}": weights["up"][e].T for e in range(EXPERTS)}
    weights |= {f"down{e}": weights["down"][e].T for e in range(EXPERTS)}
    layer = [fused if isinstance(fused, str) else FUSED] if fused else single
    nodes = ["q = MatMul(x, router)", "p = Add(q, bias)", *layer, *after, "y = MatMul(b, head)"]
    own = {name: value for name, value in {**weights, **more}.items() if reads(nodes, name)}
    ports = {"x": f"float[n,{WIDTH}] x", "y": "float[n,5] y", "imports": '"com.microsoft" : 1'}
    return nodes, {**ports, **constants(nodes), **own}


def mixture(*args, **options):
    """Return a mixture of four experts of which two are picked; `small` adds little, `never` is not picked.

    Args:
        fused: whether one operator computes it, or that operator.
        small: an expert.
        never: an expert.
        single: the nodes that compute it, where none does alone.
        after: nodes behind it.
        **more: constants that nodes read.
    """
    nodes, own = parts(*args, **options)
    return model(*nodes, **own)


def rows(count=64):
    """Return samples ``[count, WIDTH]``."""
    return np.random.default_rng(1).standard_normal((count, WIDTH)).astype(np.float32)
