"""Small networks with a stream, in each form of a normalisation."""

from __future__ import annotations

import numpy as np

from tests.support.build import TOKENS, model

WIDTH = 24
MICROSOFT = '"com.microsoft" : 1'
FORMS = ("layer", "layer apart", "rms", "rms apart", "simplified", "skip layer", "skip rms")
_APART = ("{s}p = Pow({c}, two)", "{s}v = ReduceMean({s}p, last)", "{s}e = Add({s}v, epsilon)", "{s}r = Sqrt({s}e)")


def normalised(form, s, n, stream):
    """Return the nodes that make n of a stream, by scale g and offset b of the same number."""
    ending = (f"{s}k = Mul({s}d, {n}g)",)
    if form == "layer":
        return [f"{n} = LayerNormalization(" + f"{stream}, {n}g, {n}b)"]
    if form == "rms":
        return [f"{n} = RMSNormalization({stream}, {n}g)"]
    if form == "simplified":
        return [f"{n} = SimplifiedLayerNormalization({stream}, {n}g)"]
    if form == "layer apart":
        apart = [each.format(s=s, c=f"{s}c") for each in _APART]
        centre = [f"{s}m = ReduceMean({stream}, last)", f"{s}c = Sub({stream}, {s}m)"]
        return [*centre, *apart, f"{s}d = Div({s}c, {s}r)", *ending, f"{n} = Add({s}k, {n}b)"]
    apart = [each.format(s=s, c=stream) for each in _APART]
    return [*apart, f"{s}i = Reciprocal({s}r)", f"{s}d = Mul({stream}, {s}i)", f"{n} = Mul({n}g, {s}d)"]


def network(form="layer", blocks=2, *, scaled=False, tied=False, post=False, dtype="float32", last=(), **weights):
    """Return a network with blocks of one feed-forward network each.

    Args:
        form: of the normalisations.
        blocks: their number.
        scaled: whether what a block adds has a scale for each unit.
        tied: whether the last layer multiplies with the table that the stream starts with.
        post: whether normalisations are behind the sums.
        dtype: of all numbers.
        last: nodes in front of the last normalisation, from s to z.
        **weights: other contents.
    """
    kind = {"float32": "float", "float16": "float16"}[dtype]
    nodes = ["s0 = Gather(table, x)" if tied else "s0 = MatMul(x, w)"]
    for i in range(blocks):
        nodes += _block(form, i, scaled, post)
    stream = f"s{blocks}"
    nodes += [each.format(s=stream) for each in last]
    nodes += [] if post else _last(form, f"q{blocks}", f"n{blocks}", "z" if last else stream, blocks)
    out = stream if post else f"n{blocks}"
    nodes += ["head = Transpose<perm=[1, 0]>(table)", f"y = MatMul({out}, head)"] if tied else [f"y = MatMul({out}, h)"]
    shapes = {"table": (11, WIDTH)} if tied else {"w": (16, WIDTH), "h": (WIDTH, 5)}
    for i in range(blocks + 1):
        shapes |= {f"n{i}g": (WIDTH,), f"n{i}b": (WIDTH,), f"k{i}": (WIDTH,)}
        shapes |= {f"a{i}": (WIDTH, 32), f"c{i}": (32,), f"b{i}": (32, WIDTH), f"d{i}": (WIDTH,)}
    values = {"two": np.array(2, dtype), "epsilon": np.array(1e-5, dtype), "last": np.array([-1])}
    used = " ".join(nodes)
    given = {**shapes, **values, **weights}
    ports = "int64[n,s] x" if tied else TOKENS.replace("float", kind)
    return model(
        *nodes, x=ports, y=f"{kind}[n,s,{11 if tied else 5}] y", opset=23 if form == "rms" else 18, dtype=dtype,
        imports=MICROSOFT if form.startswith("skip") else "",
        **{name: value for name, value in given.items() if _reads(used, name)},
    )  # fmt: skip


def _reads(text, name):
    return any(f"{before}{name}{after}" in text for before in "( " for after in ",)")


def _block(form, i, scaled, post):
    if form.startswith("skip"):
        op = "com.microsoft.SkipLayerNormalization" if form == "skip layer" else _RMS
        return _skipping(op, i, scaled)
    norm = normalised(form if not post else "layer", f"q{i}", f"n{i}", f"p{i}" if post else f"s{i}")
    read = f"s{i}" if post else f"n{i}"
    inner = [
        f"e{i} = MatMul({read}, a{i})",
        f"f{i} = Add(e{i}, c{i})",
        f"g{i} = Relu(f{i})",
        f"h{i} = MatMul(g{i}, b{i})",
    ]
    inner += [f"i{i} = Add(h{i}, d{i})", *([f"j{i} = Mul(i{i}, k{i})"] if scaled else [])]
    added = f"j{i}" if scaled else f"i{i}"
    if post:
        return [*inner, f"p{i} = Add(s{i}, {added})", *norm, f"s{i + 1} = Identity(n{i})"]
    return [*norm, *inner, f"s{i + 1} = Add(s{i}, {added})"]


_RMS = "com.microsoft.SkipSimplifiedLayerNormalization"


def _skipping(op, i, scaled):
    """Return a block behind a fused sum: the first one has a normalisation of its own."""
    offset = f", n{i}b" if "Simplified" not in op else ""
    first = (
        normalised("rms apart" if "Simplified" in op else "layer", "q0", "n0", "s0")
        if i == 0
        else [f"n{i}, {_quiet(i, 1)}, {_quiet(i, 2)}, s{i} = {op}(t{i - 1}, j{i - 1}, n{i}g{offset}, d{i - 1})"]
    )
    stream = "s0" if i == 0 else f"s{i}"
    scale = [f"j{i} = Mul(h{i}, k{i})"] if scaled else [f"j{i} = Identity(h{i})"]
    inner = [f"e{i} = MatMul(n{i}, a{i})", f"g{i} = Relu(e{i})", f"h{i} = MatMul(g{i}, b{i})", *scale]
    return [*first, *inner, f"t{i} = Identity({stream})"]


def _quiet(i, number):
    return f"u{i}_{number}"


def _last(form, s, n, stream, blocks):
    if not form.startswith("skip"):
        return normalised(form, s, n, stream)
    op = "com.microsoft.SkipLayerNormalization" if form == "skip layer" else _RMS
    offset = f", {n}b" if form == "skip layer" else ""
    last = blocks - 1
    return [f"{n}, {s}1, {s}2, {s}3 = {op}(t{last}, j{last}, {n}g{offset}, d{last})"]
