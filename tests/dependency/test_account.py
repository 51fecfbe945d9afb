"""Every node with weights is told of: what can be cut, what cannot, why, where, and what would free it."""

from __future__ import annotations

import re

import pytest

from onnxprune.commands.inspect import inspect
from onnxprune.dependency import account
from onnxprune.dependency.account import ALONE, accounts, frees
from onnxprune.dependency.groups import RoleFinder, groups
from onnxprune.dependency.rules import LOCKED
from onnxprune.dependency.trace import trace
from onnxprune.graph.view import view
from onnxprune.planning.choice import why_not
from tests.dependency.rules.cases import CASES
from tests.dependency.rules.fused_cases import FUSED
from tests.dependency.rules.refusals import REFUSALS
from tests.dependency.rules.structures import STRUCTURES
from tests.support.build import ROWS, TOKENS, conv, dense, model


def told(proto):
    traced = trace(view(proto))
    found = groups(traced)
    return accounts(traced, found, {g.name: why for g in found if (why := why_not(g)) is not None})


def test_a_node_tells_what_is_cut_and_what_is_not():
    first, second = told(conv("b = Relu(a)"))
    assert (first.node, first.op, first.weights, first.params) == ("a", "Conv", ("w1", "b1"), 32)
    assert (first.pruned, second.pruned) == (("w1",), ("w1",))
    (image,) = first.locked
    assert (image.group, image.reason, image.at) == ("w1:in", "it is part of the graph input 'x'", "x")
    assert second.locked[0].reason == "it is part of the graph output 'y'"
    assert second.locked[0].frees == "nothing: the model keeps its inputs and outputs"


def test_an_op_without_a_rule_is_named():
    *_, last = told(dense("b = my.Odd(a)", imports='"my" : 1', stated="float[n,8] b", infer=False))
    assert not last.pruned
    assert (last.locked[0].reason, last.locked[0].at) == ("my.Odd has no rule", "b")
    assert last.locked[0].frees == "nothing in this version; please report the model"


def test_what_is_normalised_is_free_with_width():
    first, _ = told(dense("b = Softmax<axis = 1>(a)"))[:2]
    assert first.locked[-1].frees == "--width"


def test_a_weight_behind_arithmetic_belongs_to_its_consumer():
    proto = model(
        "t = Transpose<perm = [1, 0]>(w1)", "c = Cast<to = 1>(t)", "a = MatMul(x, c)", "y = MatMul(a, w2)",
        x=ROWS, w1=(8, 6), w2=(8, 5), dtype="float32",
    )  # fmt: skip
    first, second = told(proto)
    assert [(each.node, each.weights) for each in (first, second)] == [("a", ("w1",)), ("y", ("w2",))]
    assert first.pruned == second.pruned == ("w1",)


def test_a_computed_weight_belongs_to_each_of_its_consumers():
    proto = model(
        "t = Transpose<perm = [1, 0]>(w1)", "a = MatMul(x, t)", "s = Add(x, x)", "b = MatMul(s, t)", "c = Add(a, b)",
        "y = MatMul(c, w2)",
        x=ROWS, w1=(8, 6), w2=(8, 5),
    )  # fmt: skip
    assert [(each.node, each.weights, each.pruned) for each in told(proto)] == [
        ("a", ("w1",), ("w1",)), ("b", ("w1",), ("w1",)), ("y", ("w2",), ("w1",))
    ]  # fmt: skip
    (group,) = (group for group in groups(trace(view(proto))) if group.prunable)
    assert (group.nodes, group.params) == (("a", "b", "y"), 48 + 40)


def test_the_parts_of_a_split_weight_belong_to_their_consumers():
    proto = model(
        "p, q = Split<axis = 1>(w, sizes)", "a = MatMul(x, p)", "b = MatMul(x, q)", "c = MatMul(a, w2)",
        "d = MatMul(b, w3)", "y = Add(c, d)",
        x=ROWS, w=(6, 12), sizes=[8, 4], w2=(8, 5), w3=(4, 5),
    )  # fmt: skip
    assert [group.nodes for group in groups(trace(view(proto))) if group.prunable] == [("a", "c"), ("b", "d")]


def test_constant_arithmetic_is_followed_in_time_linear_in_its_nodes():
    doubled = [f"t{n} = Add(t{n - 1}, t{n - 1})" for n in range(1, 2000)]
    proto = model("t0 = Transpose(w1)", *doubled, "a = MatMul(x, t1999)", "y = MatMul(a, w2)",
                  x=ROWS, w1=(8, 6), w2=(8, 5), infer=False)  # fmt: skip
    traced = trace(view(proto))
    finder = RoleFinder(traced)
    assert finder.sinks(0, 0) == ((2000, 1),)


def test_a_weight_that_meets_no_other():
    (only,) = told(model("y = Mul(x, k)", x=TOKENS, k=(1,)))
    assert (only.pruned, only.locked[0].reason, only.locked[0].group) == ((), ALONE, None)


def test_weights_in_the_body_of_an_unknown_op():
    proto = dense(
        "b = my.If(c) <then_branch = t () => (float[n,8] p) { p = Mul(a, k) }, "
        "else_branch = e () => (float[n,8] q) { q = Neg(a) }>",
        x=f"{ROWS}, bool c", imports='"my" : 1', stated="float[n,8] b", infer=False, k=(8,), y="float[n,5] y",
    )  # fmt: skip
    last = told(proto)[-1]
    assert (last.node, last.weights, last.locked[0].at) == ("p", ("k",), "b")


@pytest.mark.parametrize("case", [*CASES, *STRUCTURES], ids=str)
def test_no_node_is_left_out(case):
    """Each node with weights has a group to cut or a reason, and each reason has a place."""
    traced = trace(view(case.proto))
    found = groups(traced)
    all_told = accounts(traced, found, {g.name: why for g in found if (why := why_not(g)) is not None})
    for one in all_told:
        assert one.pruned or one.locked
        assert all(locked.reason and locked.at and locked.frees for locked in one.locked)
    assert {n for g in found if g.prunable for n in g.nodes} <= {a.node for a in all_told if a.pruned}
    assert readers(traced) <= {one.node for one in all_told}


def readers(traced):
    """Return the names of nodes that read weights, also through constant arithmetic, and more than their sizes."""
    nodes = traced.model.nodes
    made = {name for name, constant in traced.model.constants.items() if constant.is_weight and constant.shape}
    constant, found = traced.model.fixed, set()
    for node in nodes:
        if node.op in ("Shape", "Size") or not made & set(node.inputs):
            continue
        outputs = {name for name in node.outputs if name}
        used = {name for other in nodes for name in other.inputs}
        if outputs <= constant and outputs & used:
            made |= outputs
        elif node.index in traced.couplings:
            found.add(node.name)
    return found


def test_inspect_counts_nodes():
    found = inspect(conv("b = Relu(a)"))
    assert [one.node for one in found.accounts] == ["a", "y"]
    assert found.to_dict()["nodes"][0]["pruned"] == ["w1"]


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        ("its ratio is 0", "other options"),
        ("an outer factor of the same axis is pruned instead", "--only NAME"),
        ("keeps channels in blocks: prune before the layout optimisation", "prune the model before that step"),
        ("Slice cuts it at positions known at run time alone", "perhaps fixed sizes: export with them, or fold what"),
        ("Gather picks its indices by value", "nothing: each index has a meaning of its own"),
        ("ReduceMax reduces over it", "--width"),
        ("the branches of If give it different sizes", "nothing in this version; please report the model"),
        ("my.Odd has no rule (at position.embedding)", "nothing in this version; please report the model"),
    ],
)  # fmt: skip
def test_what_frees(reason, what):
    assert frees(reason).startswith(what)


def reasons_of(case):
    """Yield every reason of the partition of a case."""
    traced = trace(view(case.proto))
    partition = traced.partition
    everything = [*traced.values.values(), *(use.axes for use in traced.uses)]
    for atom in {atom for axes in everything for axis in axes for atom in partition.atoms(axis)}:
        yield from (lock.reason for lock in (partition.lock_of(atom), partition.mix_of(atom)) if lock is not None)


def is_listed(reason):
    words = re.sub(r"'[^']*'", "''", reason)
    return any(re.search(pattern, words) for pattern, _ in account._FREES)


def test_every_reason_that_the_cases_meet_is_listed():
    """What would free it is told on purpose, not by the last line of the table."""
    met = {reason for case in (*CASES, *FUSED, *STRUCTURES, *REFUSALS) for reason in reasons_of(case)}
    assert not sorted(reason for reason in met if not is_listed(reason))


def test_every_reason_of_a_locked_op_is_listed():
    assert not sorted({reason for reason in LOCKED.values() if not is_listed(f"Op {reason}")})


def test_a_reason_does_not_say_its_place_twice():
    for each in told(dense("b = Softmax<axis = 1>(a)")):
        assert all("(at " not in locked.reason for locked in each.locked)
    last = told(dense("b = Relu(a)"))[-1].locked[-1]
    assert (last.reason, last.at) == ("it is part of the graph output 'y'", "y")
