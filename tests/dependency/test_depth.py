"""What a file nests to any depth: sums of sums, chains of nodes, arithmetic on weights. And what no rule foresaw."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from onnxprune.dependency import rules
from onnxprune.dependency import streams as streams_module
from onnxprune.dependency.account import frees
from onnxprune.dependency.axes import NONE, Atom, Lock, concat, fresh, product
from onnxprune.dependency.groups import groups
from onnxprune.dependency.matrices import matrices
from onnxprune.dependency.partition import PIECES, Partition
from onnxprune.dependency.rules import Entry
from onnxprune.dependency.trace import trace
from onnxprune.errors import CannotUnify, CutError, ModelError
from onnxprune.graph.shapes import walk
from onnxprune.graph.view import view
from onnxprune.surgery import rewrite
from tests.support.build import ROWS, dense, model
from tests.support.oracle import check

DEEP = 400
Y = "float[n,5] y"


@pytest.fixture(autouse=True)
def shallow():
    """Let calls nest less deeply than the files of these tests, which then can be small."""
    limit, frame, depth = sys.getrecursionlimit(), sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    sys.setrecursionlimit(depth + 250)
    yield
    sys.setrecursionlimit(limit)


def frames(count, hop=4, made=False):
    """Return a signal (the input, or `made` by a layer) cut into overlapping frames, and layers behind it."""
    length = (count + 1) * hop
    return model(
        *(["v = MatMul(x, w)"] if made else ["v = Identity(x)"]),
        *("a = Slice(v, b0, e0, ax)", "b = Slice(v, b1, e1, ax)", "ar = Reshape(a, sh)", "br = Reshape(b, sh)"),
        *("c = Concat<axis = 2>(ar, br)", "t = Transpose<perm = [0, 2, 1]>(c)", "f = Conv(t, w1)", "r = Relu(f)"),
        *("g = Conv(r, w2)", "y = ReduceMean<keepdims = 0>(g, two)"),
        x="float[n,6] x" if made else f"float[n,{length}] x",
        y="float[n,4] y",
        infer=False,
        **({"w": (6, length)} if made else {}),
        **{"b0": [0], "e0": [count * hop], "b1": [hop], "e1": [2**62], "ax": [1], "sh": [-1, count, hop], "two": [2]},
        **{"w1": (24, 2 * hop, 1), "w2": (4, 24, 1)},
    )


def chain(op, count, first="v0 = MatMul(x, w1)", last="y = MatMul({}, w2)", **rest):
    """Return `count` nodes in a row between two layers."""
    nodes = [op.format(f"v{i}", f"v{i + 1}") for i in range(count)]
    proto = {"x": ROWS, "y": Y, "infer": False, "w1": (6, 8), "w2": (8, 5), **rest}
    return model(*[first] * bool(first), *nodes, *(line.format(f"v{count}") for line in last.split("; ")), **proto)


@pytest.mark.parametrize("made", [False, True], ids=["input", "layer"])
def test_frames_that_overlap(made):
    checked = check(frames(DEEP, made=made), quick=True)
    assert checked.shape("w1") == [12, 4 if made else 8, 1]


@pytest.mark.parametrize(
    ("proto", "units"),
    [
        (chain("{1} = Relu({0})", DEEP), 8),
        (chain("{1} = Slice({0}, one, end, one)", 300, w1=(6, 308), one=[1], end=[2**62]), 8),
        (chain("{1} = Pad({0}, pads)", 300, w2=(308, 5), pads=[0, 0, 0, 1]), 8),
        (chain("{1} = Concat<axis = 1>({0}, v0)", 300, w1=(6, 2), w2=(602, 5)), 2),
    ],
    ids=["nodes", "slices", "pads", "concats"],
)  # fmt: skip
def test_chains(proto, units):
    checked = check(proto, quick=True)
    assert [group.units for group in checked.groups if group.locked is None] == [units]


def test_arithmetic_on_weights():
    proto = chain("{1} = Neg({0})", DEEP, first="", last="h = MatMul(x, {}); y = MatMul(h, w2)", v0=(6, 8), infer=False)
    traced = trace(view(proto))
    (group,) = (group for group in groups(traced) if group.locked is None)
    weights = dict(matrices(group, traced))
    assert np.array_equal(weights["out"], traced.model.array("v0").T)


def test_a_weight_that_is_normed_behind_long_arithmetic():
    last = "s = Softmax<axis = 0>({}); h = MatMul(x, s); y = MatMul(h, w2)"
    checked = check(chain("{1} = Neg({0})", DEEP, first="", last=last, v0=(6, 8)), quick=True)
    assert checked.shape("s") == [6, 4]


# -- the algebra -----------------------------------------------------------------------------------------------------


def nested(depth):
    """Return a partition with an atom that is bound to 1 and an atom that is bound to 1 and ..."""
    partition, whole = Partition(), Atom(depth + 1, "f")
    rest = whole
    for _ in range(depth):
        _, rest = partition.split(rest, 1)
    return partition, whole


def test_sums_of_any_depth_are_flat():
    partition, whole = nested(DEEP)
    assert len(partition.resolve(whole).parts) == DEEP + 1
    assert partition.show(whole) == "[" + "1 + " * 8 + "... + " + " + ".join("1" * 8) + "]"


def test_sums_of_any_depth_are_unified():
    partition, whole = nested(DEEP)
    other = Atom(DEEP - 4, "g")
    partition.unify(whole, concat(other, Atom(5, "h")))
    assert len(partition.resolve(other).parts) == DEEP - 4
    partition.unify(product(whole, Atom(3)), product(Atom(DEEP + 1), Atom(3)))


def test_pairs_that_are_locked_need_no_refinement_inside_of_others():
    """The rest of the axis around them is still unified."""
    partition, a, b, c, d = Partition(), Atom(24), Atom(24), Atom(5), Atom(5)
    left, right = product(Atom(6), Atom(4)), product(Atom(8), Atom(3))
    partition.unify(a, left)
    partition.unify(b, right)
    for axis in (a, b):
        partition.lock(axis, Lock("it is an output", "y"))
    partition.unify(concat(a, c), concat(b, d))
    assert partition.resolve(c) is partition.resolve(d)
    with pytest.raises(CannotUnify, match="is no multiple of 3"):
        partition.unify(concat(product(Atom(6), Atom(4)), c), concat(b, d))


def test_cuts_take_one_pass():
    partition = Partition()
    axis = concat(Atom(4, "a"), product(Atom(3, "p"), Atom(2, "q")), Atom(4, "b"))
    shown = [partition.show(piece) for piece in partition.cut(axis, (4, 6, 12))]
    assert shown == ["a:4", "q:2", "[(p:2 q:2) + b:2]", "b:2"]
    assert partition.cut(axis, ()) == [partition.resolve(axis)]


def test_an_axis_is_cut_into_so_many_pieces_at_most():
    partition, wide = Partition(), product(Atom(PIECES + 1, "a"), Atom(2, "b"))
    with pytest.raises(CannotUnify, match=r"^\(a:65537 b:2\) would be cut into 131,074 pieces, 65,536 at most$"):
        partition.ones(wide)
    with pytest.raises(CannotUnify, match=r"^a:65537 would be cut into 65,537 pieces, 65,536 at most$"):
        partition.split(wide, 3)
    assert frees("a:65537 would be cut into 65,537 pieces, 65,536 at most").startswith("other sizes")


def test_a_product_without_indices_is_empty():
    assert product(Atom(4), fresh(0), Atom(3)) is NONE


# -- what nobody foresaw ---------------------------------------------------------------------------------------------


def failing(error):
    def rule(*_):
        raise error

    return rule


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RecursionError("too deep"), "the rule of Relu failed (RecursionError: too deep)"),
        (AssertionError(), "the rule of Relu failed (AssertionError: no message)"),
        (ValueError("index\n 3 is odd"), "the attributes of Relu do not fit its inputs (ValueError: index 3 is odd)"),
        (KeyError("x" * 999), f"the rule of Relu failed (KeyError: '{'x' * 199})"),
    ],
    ids=["recursion", "assertion", "value", "long"],
)  # fmt: skip
def test_an_exception_in_a_rule_locks_its_node_alone(monkeypatch, error, reason):
    monkeypatch.setitem(rules.RULES, "Relu", Entry("Relu", failing(error), "function", ""))
    nodes = ("a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "d = Tanh(c)", "y = MatMul(d, w3)")
    proto = model(*nodes, x=ROWS, w1=(6, 8), w2=(8, 8), w3=(8, 5))
    first, second = (group for group in groups(trace(view(proto))) if group.name in ("w1", "w2"))
    assert first.lock.reason == reason
    assert frees(first.locked) == "nothing in this version; please report the model"
    assert second.locked is None


@pytest.mark.parametrize("error", [MemoryError(), ModelError("its weights are gone")], ids=["memory", "file"])
def test_faults_of_the_file_and_of_the_machine_end_the_run(monkeypatch, error):
    monkeypatch.setitem(rules.RULES, "Relu", Entry("Relu", failing(error), "function", ""))
    monkeypatch.setattr(walk.Walk, "_evaluate", failing(error))
    with pytest.raises(type(error)):
        trace(view(dense("b = Relu(a)")))


def test_an_exception_in_inference_leaves_a_shape_unknown(monkeypatch):
    evaluate = walk.Walk._evaluate

    def broken(self, node):
        if node.op == "Relu":
            raise RecursionError
        return evaluate(self, node)

    monkeypatch.setattr(walk.Walk, "_evaluate", broken)
    (group,) = (group for group in groups(trace(view(dense("b = Relu(a)", infer=False, y=Y)))) if group.name == "w1")
    assert group.locked == "the shape of output 0 is unknown (at y)"


def test_an_exception_while_cutting_names_the_node(monkeypatch):
    proto = dense("b = Reshape(a, s)", s=[-1, 8])
    monkeypatch.setattr(rewrite.Rewriter, "_write", lambda *_: {}["no such size"])
    with pytest.raises(CutError) as caught:
        check(proto)
    assert str(caught.value) == (
        "Reshape 'b' cannot be cut (KeyError: 'no such size'); leave it alone with --ignore NAME, and please report "
        "this fault of onnxprune with the file"
    )
    assert caught.value.exit_code == 4


def test_an_exception_while_cutting_names_the_weight(monkeypatch):
    monkeypatch.setattr(rewrite.Rewriter, "_content", lambda *_: {}[0])
    with pytest.raises(CutError, match=r"^'w1' cannot be cut \(KeyError: 0\); "):
        check(dense("b = Relu(a)"))


def calls_for_streams(norms):
    """Return how many calls the search for streams makes for a chain of layers, each behind a norm of its own."""
    nodes = [
        node
        for i in range(norms)
        for node in (f"n{i} = ReduceL2(v{i}, one)", f"l{i} = Div(v{i}, n{i})", f"v{i + 1} = MatMul(l{i}, k)")
    ]
    proto = model(
        "v0 = MatMul(x, w1)", *nodes, f"y = MatMul(v{norms}, w2)", x=ROWS, y=Y, infer=False, one=[1], w1=(6, 8),
        k=(8, 8), w2=(8, 5)
    )  # fmt: skip
    loaded, count = view(proto), 0

    def counted(frame, event, _):
        nonlocal count
        count += event in ("call", "c_call") and frame.f_code.co_filename == streams_module.__file__

    sys.setprofile(counted)
    try:
        trace(loaded)
    finally:
        sys.setprofile(None)
    return count


def test_streams_are_sought_in_one_walk():
    few, some, many = (calls_for_streams(norms) for norms in (10, 20, 40))
    assert 0 < many - some == 2 * (some - few)
