"""Mixtures whose loop over experts is unrolled, as exporters write them, in the text form of nodes."""

from __future__ import annotations

import re

import numpy as np

EXPERTS = 4
CHOICE = ("v, i = TopK(p, k)", "g = Softmax(v)")
MASKS = {
    "OneHot": ("oh = OneHot(i, depth, values)", "m = Transpose<perm=[2, 1, 0]>(oh)"),
    "Equal": (
        "iu = Unsqueeze(i, last)", "eq = Equal(iu, all)", "oh = Cast<to=7>(eq)", "m = Transpose<perm=[2, 1, 0]>(oh)"
    ),
}  # fmt: skip
ZEROS = ("sx = Shape(x)", "t0 = ConstantOfShape(sx)")
SHARES = ("sp = Shape(p)", "none = ConstantOfShape(sp)", "mw = ScatterElements<axis=1>(none, i, g)")
ONCE = "ScatterElements"  # adds rows to zeros first, and these to the sum, as PyTorch's older exporter does
BY_PRODUCT = "MatMul"  # multiplies answers with a matrix of zeros and ones
EACH = "ScatterND"  # adds rows to the sum, as its newer one does


def gathered(mask="OneHot", add=EACH):
    """Return the nodes of a mixture whose experts see the rows that they are picked for, from x and scores p to b."""
    return (
        *CHOICE,
        *MASKS[mask],
        *ZEROS,
        *(node for e in range(EXPERTS) for node in _gathered(e, add)),
        f"b = Identity(f{EXPERTS - 1})",
    )


def dense(take="Gather"):
    """Return the nodes of a mixture whose experts see all rows, and count by the weights that `take` takes."""
    return (*CHOICE, *(SHARES if take != "Equal" else ()), *(n for e in range(EXPERTS) for n in _dense(e, take)),
            f"b = Identity(t{EXPERTS})")  # fmt: skip


def by_weight():
    """Return the nodes of a mixture whose experts see the rows for which they have a weight, from x and p to b."""
    return (
        *CHOICE,
        *SHARES,
        *ZEROS,
        *(n for e in range(EXPERTS) for n in _by_weight(e)),
        f"b = Identity(f{EXPERTS - 1})",
    )


def interleaved():
    """Return the nodes of two mixtures, from x and scores p to b, whose answers one sum adds in turns.

    The second has scores, weights and values of its own, with a b behind their names.
    """
    layers = [node for node in dense() if not node.startswith(("t", "b"))]
    own = re.compile(r"\b(?!x\b|k\b|n\d|last\b|axis\b)([a-z]+\d?)(?=[,) ])")
    answers = [f"o{e}{mixture}" for e in range(EXPERTS) for mixture in ("", "b")]
    sums = (f"t{n + 1} = Add({f't{n}' if n else 'x'}, {answer})" for n, answer in enumerate(answers))
    second = (own.sub(r"\1b", node) for node in layers)
    return (*layers, "pb = MatMul(x, routerb)", *second, *sums, f"b = Identity(t{2 * EXPERTS})")


def constants(nodes):
    """Return the constants that the nodes of a mixture read beside weights, by name."""
    numbers = {"depth": EXPERTS, "values": [0, 1], "all": list(range(EXPERTS)), "k": [2], "last": [-1], "one": [1]}
    numbers |= {"places": np.array([0, 1], np.float32)}
    numbers |= {"halves": [1, 1], **{f"n{e}": e for e in range(EXPERTS)}, **{f"l{e}": [e] for e in range(EXPERTS + 1)}}
    return {name: value for name, value in numbers.items() if reads(nodes, name)}


def reads(nodes, name):
    """Return whether some node reads a value."""
    return any(re.search(rf"[(, ]{name}[,)]", node) for node in nodes)


def _gathered(e, add):
    yield from (
        f"s{e} = Gather(m, n{e})", f"c{e} = Cast<to=9>(s{e})", f"z{e} = NonZero(c{e})",
        f"zt{e} = Transpose<perm=[1, 0]>(z{e})", f"ks{e}, rs{e} = Split<axis=1>(zt{e}, halves)",
        f"r{e} = Squeeze(rs{e}, one)", f"h{e} = Gather(x, r{e})", *_layers(e),
        f"p{e} = Concat<axis=1>(rs{e}, ks{e})", f"w{e} = GatherND(g, p{e})", f"wu{e} = Unsqueeze(w{e}, last)",
        f"o{e} = Mul(d{e}, wu{e})",
    )  # fmt: skip
    if add == EACH:
        yield f'f{e} = ScatterND<reduction="add">({_sum_before(e)}, rs{e}, o{e})'
    elif add == BY_PRODUCT:
        yield from (f"nx{e} = Gather(sx, n0)", f"at{e} = OneHot<axis=0>(r{e}, nx{e}, places)",
                    f"fa{e} = MatMul(at{e}, o{e})", f"f{e} = Add({_sum_before(e)}, fa{e})")  # fmt: skip
    else:
        yield from (f"so{e} = Shape(o{e})", f"ix{e} = Expand(rs{e}, so{e})", f"zero{e} = ConstantOfShape(sx)",
                    f"fa{e} = ScatterElements<axis=0>(zero{e}, ix{e}, o{e})",
                    f"f{e} = Add({_sum_before(e)}, fa{e})")  # fmt: skip


def _by_weight(e):
    yield from (f"s{e} = Gather<axis=1>(mw, n{e})", f"c{e} = Cast<to=9>(s{e})", f"z{e} = NonZero(c{e})",
                f"rs{e} = Transpose<perm=[1, 0]>(z{e})", f"h{e} = GatherND(x, rs{e})", *_layers(e),
                f"w{e} = GatherND(s{e}, rs{e})", f"wu{e} = Unsqueeze(w{e}, last)", f"o{e} = Mul(d{e}, wu{e})",
                f'f{e} = ScatterND<reduction="add">({_sum_before(e)}, rs{e}, o{e})')  # fmt: skip


def _sum_before(e):
    return f"f{e - 1}" if e else "t0"


def _layers(e, rows=None):
    rows = rows or f"h{e}"
    return f"u{e} = MatMul({rows}, up{e})", f"a{e} = Relu(u{e})", f"d{e} = MatMul(a{e}, down{e})"


def _dense(e, take):
    yield from _layers(e, "x")
    if take == "Gather":
        yield from (f"w{e} = Gather<axis=1>(mw, n{e})", f"wu{e} = Unsqueeze(w{e}, last)")
    elif take == "Slice":
        yield f"wu{e} = Slice(mw, l{e}, l{e + 1}, one)"
    else:
        yield from (f"eq{e} = Equal(i, n{e})", f"cf{e} = Cast<to=1>(eq{e})", f"cg{e} = Mul(cf{e}, g)",
                    f"wu{e} = ReduceSum<keepdims=1>(cg{e}, last)")  # fmt: skip
    yield f"o{e} = Mul(d{e}, wu{e})"
    yield f"t{e + 1} = Add(t{e}, o{e})" if e else f"t{e + 1} = Identity(o{e})"
