"""Branches of another file by the weights that they read: which is which, and which stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxprune.commands.folders.follow_branches import Owned, check_lost, counterparts, owned
from onnxprune.commands.folders.held import Held
from onnxprune.dependency.trace import trace
from onnxprune.errors import InputError
from onnxprune.graph.files.read import load
from onnxprune.graph.ports import Port, Role
from onnxprune.graph.shapes.probe import settled
from tests.commands.folders.test_depth import WIDTH, layers, merged, pairs, plain, weights
from tests.support.build import array, model

ALL = {"o0": ["o0"], "o1": ["o1"], "o2": ["o2"]}
SQUARES = {name: array(name, (WIDTH, WIDTH)) for name in ("mid", "own", "more")}
VECTORS = {name: array(name, (WIDTH,)) for name in ("scale", "bias")} | {"ones": np.ones(WIDTH, np.float32)}
NOTHING = ("t = Transpose(s1)", "m = MatMul(s1, t)", "w = MatMul(m, s1)")  # multiplies, and reads no weight


def found(lead, other, ports=None):
    """Return the branches of a leading file, and what they are in another one."""
    first, second = (Held(load(proto)) for proto in (lead, other))
    own = owned(trace(settled(first.model)), first.telling)
    known = frozenset(first.telling.values())
    ports = second.model.inputs if ports is None else ports
    return own, counterparts(own, trace(settled(second.model)), second.telling, known=known, ports=ports)


def names(found_there):
    return {name: [branch.name for branch in each] for name, each in found_there.same.items()}


def changed(*lines, of=1, x="", y="", **own):
    """Return the network with other nodes in the place of a block; `own` are weights beside its own."""
    old = layers()
    start = next(at for at, line in enumerate(old) if line.startswith(f"h{of} "))
    nodes = [*old[:start], *lines, *old[start + 4 :]]
    own = {**weights(), **SQUARES, **VECTORS, **own}
    read = " ".join(nodes).replace(",", " ").replace(")", " ").replace("(", " ").split()
    return model(*nodes, x=f"float[n,{WIDTH}] x{x}", y=f"float[n,{WIDTH}] y{y}",
                 **{name: value for name, value in own.items() if name in read})  # fmt: skip


def block(of=1, *, up="up1", down="down1", after="s2", before="s1", total="Add", between=("r1 = Relu(h1)",)):
    """Return the nodes of a block in other forms."""
    return (
        f"h{of} = MatMul({before}, {up})", *between, f"o{of} = MatMul(r{of}, {down})",
        f"{after} = {total}({before}, o{of})",
    )  # fmt: skip


def tail(*lines, **own):
    """Return a file of the last layer alone."""
    return model("a = MatMul(x, last)", *lines, x=f"float[n,{WIDTH}] x", y="float[] y", last=weights()["last"], **own)


SCALED = ("q1 = Relu(h1)", "r1 = Mul(q1, scale)")
NESTED = ("h1 = MatMul(s1, up1)", "q1 = MatMul(h1, mid)", "r1 = Add(h1, q1)", "o1 = MatMul(r1, down1)",
          "s2 = Add(s1, o1)")  # fmt: skip
TWICE = ("h1 = MatMul(s1, up1)", "q1 = MatMul(h1, mid)", "v1 = Add(h1, q1)", "r1 = MatMul(v1, mid)",
         "o1 = MatMul(r1, down1)", "s2 = Add(s1, o1)")  # fmt: skip
BESIDE = (*block(after="u1"), "t = Transpose(u1)", "m = MatMul(u1, t)", "w = MatMul(m, u1)", "s2 = Add(u1, w)")


FIRST_TWO = model(
    *layers()[:5], *block(between=("q1 = Relu(h1)", "r1 = MatMul(q1, more)")), "y = MatMul(s2, last)",
    x=f"float[n,{WIDTH}] x", y="float[] y", more=SQUARES["more"],
    **{name: each for name, each in weights().items() if name not in ("up2", "down2")},
)  # fmt: skip
PRODUCTS = (*NOTHING, "h1 = MatMul(w, up1)", "o1 = MatMul(h1, down1)",
            "s2 = Add(s1, o1)")  # fmt: skip


def in_if(then, orelse="e1 = MatMul(s1, up1) f1 = MatMul(e1, down1)"):
    """Return a block whose layers lie in the branches of an If."""
    bodies = f"<then_branch = one () => (g1) {{ {then} }}, else_branch = two () => (f1) {{ {orelse} }}>"
    return changed(f"o1 = If{bodies}(c)", "s2 = Add(s1, o1)", x=", bool[1] c")


def with_scales():
    """Return the network with one scale that two of its branches read."""
    lines = [line.replace("MatMul(r", "MatMul(q") if line[:2] in ("o1", "o2") else line for line in layers()]
    for of in (1, 2):
        lines.insert(
            next(at for at, line in enumerate(lines) if line.startswith(f"o{of} ")), f"q{of} = Mul(r{of}, scale)"
        )
    return model(*lines, x=f"float[n,{WIDTH}] x", y="float[] y", scale=VECTORS["scale"], **weights())


INNER = in_if("h1 = MatMul(s1, up1) q1 = MatMul(h1, down1) g1 = Add(h1, q1)")
INNER_OF_NOTHING = in_if(
    "h1 = MatMul(s1, up1) t = Transpose(h1) m = MatMul(h1, t) w = MatMul(m, h1) v1 = Add(h1, w) g1 = MatMul(v1, down1)"
)


@pytest.mark.parametrize(
    ("lead", "other", "same", "stay"),
    [
        (plain(), plain("o_"), ALL, ""),
        (plain(), merged(), {name: [f"a{name}", f"b{name}"] for name in ALL}, ""),
        # what weights tell
        (changed(*block(between=SCALED)), changed(*block(between=SCALED)), ALL, ""),
        (changed(*block(between=SCALED)), plain(), ALL, ""),
        (with_scales(), with_scales(), ALL, ""),
        (plain(), changed(*block(between=SCALED)), ALL, "o1"),
        (changed(*NESTED), changed(*NESTED), {**ALL, "q1": ["q1"]}, ""),
        (changed(*NESTED), changed(*TWICE), {**ALL, "q1": ["q1"]}, "q1"),
        (plain(), changed("h1 = MatMul(s1, up1)", "q1 = MatMul(h1, down1)", "o1 = Add(h1, q1)", "s2 = Add(s1, o1)"),
         {**ALL, "o1": ["q1", "o1"]}, "o1"),
        (plain(), changed(*block(after="u1"), *(line.replace("1 ", "9 ").replace("h1", "h9").replace("r1", "r9")
                                                for line in block(before="u1", after="s2 ")[:-1]), "s2 = Add(u1, o9)"),
         {**ALL, "o1": ["o1", "o9"]}, "o1"),
        # what is missing
        (plain(), tail("y = Neg(a)"), {}, ""),
        (plain(), tail("y = Add(a, bias)", bias=VECTORS["bias"]), {}, ""),
        (plain(), tail("y = MatMul(a, ones)", ones=np.ones((WIDTH, WIDTH), np.float32)), {}, ""),
        (plain(), tail("y = MatMul(a, own)", own=SQUARES["own"]), {}, "o0 o1 o2"),
        (plain(), changed(*NOTHING, "s2 = Add(s1, w)"), {"o0": ["o0"], "o2": ["o2"]}, "o1"),
        (plain(), changed("p = MatMul(s1, own)", "s2 = Mul(s1, p)"), {"o0": ["o0"], "o2": ["o2"]}, "o1"),
        (plain(), changed("s2 = Mul(s1, scale)"), {"o0": ["o0"], "o2": ["o2"]}, ""),
        (plain(), changed(*block(total="Mul")), {"o0": ["o0"], "o2": ["o2"]}, "o1"),
        (plain(), changed(*BESIDE), ALL, ""),
        (plain(), FIRST_TWO, {"o0": ["o0"], "o1": ["o1"]}, "o1"),
        (plain(), plain(y="float[] y, float[] h1"), ALL, "o1"),
        (changed(*PRODUCTS), changed(*PRODUCTS, y=", float[] m"), ALL, "o1"),
        # layers that share their weights
        (plain(alike=(1,)), plain("o_", alike=(1,)), {"o2": ["o2"]}, "o0 o1"),
        (plain(alike=(1,)), tail("y = Neg(a)"), {}, "o0 o1"),
        # branches in bodies
        (INNER, INNER, ALL, ""),
        (INNER_OF_NOTHING, INNER_OF_NOTHING, ALL, ""),
    ],
)  # fmt: skip
def test_branches_are_known_by_the_weights_that_they_read(lead, other, same, stay):
    _, each = found(lead, other)
    assert names(each) == same
    assert each.stay == {*stay.split()}


# -- which bodies proofs run -----------------------------------------------------------------------------------------


def bodies(op, before, inputs, condition="c"):
    """Return the network in the body of a node."""
    inner = [" ".join(layers(own, "m_")) for own in ("a", "b")]
    shape = f"float[n,{WIDTH}]"
    if op == "If":
        text = f"<then_branch = one () => (at) {{ {inner[0]} }}, else_branch = two () => (bt) {{ {inner[1]} }}>"
        node = f"y = If{text}({condition})"
    else:
        first = inner[0].replace("MatMul(x, m_first)", "MatMul(z, m_first)")
        text = f"<body = one (int64 i, bool go, {shape} z) => (on, at) {{ on = Identity(go) {first} }}>"
        node = f"y = Loop{text}({condition}, , x)"
    return model(*before, node, infer=False, x=f"{shape} x, {inputs}", y=f"{shape} y", **weights("m_"))


def nested():
    inner = " ".join(layers("a", "m_"))
    deep = f"d = If<then_branch = one () => (at) {{ {inner} }}, else_branch = two () => (e) {{ e = Neg(x) }}>(c)"
    text = f"<then_branch = three () => (d) {{ {deep} }}, else_branch = four () => (k) {{ k = Neg(x) }}>"
    shape = f"float[n,{WIDTH}]"
    return model(f"y = If{text}(c)", infer=False, x=f"{shape} x, bool[1] c", y=f"{shape} y", **weights("m_"))


PAST = Port("past_key_values.0.key", np.dtype(np.float32), ("n", 2, "past", 4), role=Role.PAST)
CLOSED = replace(PAST, shape=("n", 2, 0, 4))
CACHE = Port("use_cache_branch", np.dtype(bool), (1,), role=Role.BRANCH)


@pytest.mark.parametrize(
    ("other", "ports", "stays"),
    [
        (bodies("If", [], "bool[1] c"), None, False),
        (bodies("If", ["k = Not(c)"], "bool[1] c", "k"), None, True),
        (bodies("If", [], "bool[1] use_cache_branch", CACHE.name), [CACHE, PAST], False),
        (bodies("If", [], "bool[1] use_cache_branch", CACHE.name), [CACHE, CLOSED], True),
        (bodies("If", [], "bool[1] use_cache_branch", CACHE.name), [CACHE], True),
        (bodies("Loop", [], "int64 c"), None, True),
        (nested(), None, True),
    ],
    ids=["an input", "computed", "open past", "closed past", "no past", "loop", "nested"],
)  # fmt: skip
def test_branches_stay_in_bodies_that_proofs_may_not_run(other, ports, stays):
    _, each = found(plain(), other, ports)
    assert each.stay == ({*ALL} if stays else set())
    assert all(each.same.values())
    assert each.same.keys() == ALL.keys()


# -- which go --------------------------------------------------------------------------------------------------------


def test_branches_come_in_the_order_in_which_they_are_added():
    lead = pairs("")
    own, each = found(lead, pairs("o_"))
    order = [branch.name for branch in own]
    assert order == ["oa0", "of0", "oa1", "of1", "oa2", "of2"]
    gone = each.of(order[::-1])
    assert [branch.name for branch in gone] == order
    assert each.of(["nix"]) == ()


def test_what_stays_does_not_go():
    _, each = found(plain(), changed(*block(total="Mul")))
    with pytest.raises(InputError, match="what goes with branch 'o1' of the file that leads cannot go here alone"):
        each.of(["o0", "o1"])
    assert [branch.name for branch in each.of(["o0"])] == ["o0"]


def test_weights_that_others_read_as_well_tell_no_branch():
    own, _ = found(changed(*block(between=SCALED)), plain())
    shared, _ = found(with_scales(), plain())
    assert [len(each.weights) for each in own] == [2, 3, 2]
    assert [(len(each.weights), len(each.read)) for each in shared] == [(2, 2), (2, 3), (2, 3)]


def test_a_file_may_lose_what_goes_with_a_branch_and_nothing_else():
    inner, outer, other = (
        Owned(name, frozenset(own), frozenset(own)) for name, own in (("q", {b"q"}), ("o", {b"q", b"o"}), ("u", {b"u"}))
    )
    each, before = [inner, outer, other], {b"q", b"o", b"u", b"else"}
    check_lost(each, [], before, before)
    check_lost(each, ["o"], before, {b"u", b"else"})
    check_lost(each, ["q"], before, {b"o", b"u", b"else"})
    for gone, after, named in ((["o"], {b"q"}, "o"), (["o"], {b"else"}, "u"), ([], {b"o", b"u"}, "q")):
        with pytest.raises(InputError, match=f"what goes with branch '{named}' of the file that leads"):
            check_lost(each, gone, before, after)
