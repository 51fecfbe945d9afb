"""A small decoder with a cache: one attention whose keys and values are inputs and outputs."""

from __future__ import annotations

import numpy as np

from tests.support.build import model

WORDS, WIDTH, HEADS, DIMS = 24, 8, 2, 4
_OUTPUTS = "float[n,s,v] logits, float[n,2,q,4] {}, float[n,2,q,4] {}"


def decoder(*nodes, present=("present_key", "present_value"), outputs=None, measured=False):
    """Return an attention with a residual connection over tokens ``[n, s]`` and a past of ``[n, 2, p, 4]``.

    Args:
        *nodes: further ones.
        present: names of the keys and values of past and present.
        outputs: with types; the logits and the cache without.
        measured: whether something beside the attention reads how long the past is.
    """
    key, value = present
    shape = {"split": np.array([0, 0, HEADS, DIMS]), "joined": np.array([0, 0, HEADS * DIMS])}
    by_length = (
        "size = Shape(past_key)",
        "length = Gather(size, two)",
        "added = Cast <to = 1> (length)",
        "out0 = Mul(sum, one)",
        "out = Add(out0, added)",
    )
    weights = dict.fromkeys(("wq", "wk", "wv"), (WIDTH, HEADS * DIMS))
    return model(
        "x = Gather(table, input_ids)",
        *_heads("q"),
        *_heads("k"),
        *_heads("v"),
        f"{key} = Concat <axis = 2> (past_key, kh)",
        f"{value} = Concat <axis = 2> (past_value, vh)",
        f"kt = Transpose <perm = [0, 1, 3, 2]> ({key})",
        "scores = MatMul(qh, kt)",
        "shares = Softmax <axis = -1> (scores)",
        f"seen = MatMul(shares, {value})",
        "back = Transpose <perm = [0, 2, 1, 3]> (seen)",
        "flat = Reshape(back, joined)",
        "branch = MatMul(flat, wo)",
        "sum = Add(x, branch)",
        *(by_length if measured else ("out = Identity(sum)",)),
        "logits = MatMul(out, head)",
        *nodes,
        x="int64[n,s] input_ids, float[n,2,p,4] past_key, float[n,2,p,4] past_value",
        y=outputs or _OUTPUTS.format(key, value),
        table=(WORDS, WIDTH),
        wo=(HEADS * DIMS, WIDTH),
        head=(WIDTH, WORDS),
        **weights,
        **shape,
        **({"two": np.array([2]), "one": np.float32(1)} if measured else {}),
    )


def _heads(name):
    """Return the nodes of a projection whose heads come first."""
    return (
        f"{name} = MatMul(x, w{name})",
        f"{name}s = Reshape({name}, split)",
        f"{name}h = Transpose <perm = [0, 2, 1, 3]> ({name}s)",
    )
