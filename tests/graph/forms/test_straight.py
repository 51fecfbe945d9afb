"""A model without Ifs: the branch that runs stands in the main graph, and computes the same under the same names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.graph.forms.straight import begins_apart, begun, straight, switches
from onnxprune.graph.view import view
from onnxprune.runtime.session import open_session
from tests.support.build import ROWS, model

FEEDS = {"x": np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)}


def branches(then, other):
    return f"<then_branch = one () => (r) {{ {then} }}, else_branch = two () => (s) {{ {other} }}>"


def choosing(then, other, *behind, x=f"{ROWS}, bool c", **weights):
    behind = behind or ("y = MatMul(b, w2)",)
    head = "a = MatMul(x, w1)", f"b = If{branches(then, other)}(c)"
    return view(model(*head, *behind, x=x, y="float[n,5] y", infer=False, w1=(6, 8), w2=(8, 5), **weights))


def outputs(proto, condition):
    return open_session(proto.SerializeToString()).run({**FEEDS, "c": np.array(condition)})["y"]


@pytest.mark.parametrize("condition", [True, False])
def test_computes_what_the_branch_does(condition):
    found = choosing("r = MatMul(a, w3)", "t = Relu(a) s = MatMul(t, w3)", w3=(8, 8))
    assert [node.outputs for node in switches(found)] == [("b",)]
    without = straight(found, {"b": condition})
    onnx.checker.check_model(without.proto)
    assert "If" not in {node.op for node in without.nodes}
    assert without.top == tuple(range(len(without.nodes)))
    assert [port.name for port in without.inputs] == ["x", "c"]
    np.testing.assert_array_equal(outputs(without.proto, condition), outputs(found.proto, condition))
    np.testing.assert_array_equal(outputs(without.proto, not condition), outputs(found.proto, condition))
    made = {name for node in found.nodes for name in node.outputs}
    assert {name for node in without.nodes for name in node.outputs} <= made


def test_a_branch_may_hold_its_own_weights_and_give_what_it_did_not_make():
    constant = "k = Constant<value_floats = [2.0]>() m = MatMul(a, w3) s = Mul(m, k)"
    found = choosing("r = Identity(a)", constant, w3=(8, 8))
    for condition in (True, False):
        without = straight(found, {"b": condition})
        np.testing.assert_array_equal(outputs(without.proto, condition), outputs(found.proto, condition))


def test_an_if_inside_of_a_branch_comes_to_the_main_graph():
    inner = (
        "r = If<then_branch = three () => (u) { u = MatMul(a, w3) }, else_branch = four () => (v) { v = Neg(a) }>(c)"
    )
    found = choosing(inner, "s = Neg(a)", w3=(8, 8))
    once = straight(found, {"b": True})
    assert len(switches(once)) == 1
    twice = straight(once, {switches(once)[0].outputs[0]: True})
    assert not switches(twice)
    np.testing.assert_array_equal(outputs(twice.proto, True), outputs(found.proto, True))


def test_an_if_that_is_not_named_stays():
    found = choosing("r = MatMul(a, w3)", "s = Neg(a)", w3=(8, 8))
    assert straight(found, {"other": True}).proto.SerializeToString() == found.proto.SerializeToString()


def test_only_ifs_with_matrices_are_switches():
    assert not switches(choosing("r = Relu(a)", "s = Mul(a, scale)", scale=(8,)))


# -- as a text runs it from its first token on -------------------------------------------------------------


def asking(flag="use_cache_branch"):
    """Return a model whose layers lie in the bodies of an If that asks for a past; one of them reads it."""
    bodies = branches("t = Concat<axis = 0>(past_key_values_0_key, x) r = MatMul(t, w)", "s = MatMul(x, w)")
    inputs = f"float[n,2,6] x, float[p,2,6] past_key_values_0_key, bool[1] {flag}, float spare"
    return view(model(f"y = If{bodies}({flag})", x=inputs, y="float[m,2,5] y", infer=False, w=(6, 5)))


def test_a_text_begins_with_the_body_that_knows_no_past():
    found = asking()
    assert begins_apart(found)
    body = begun(found)
    onnx.checker.check_model(body.proto)
    assert [node.op for node in body.nodes] == ["MatMul", "Identity"]
    assert [port.name for port in body.inputs] == ["x", "spare"]  # what was not read before stays
    assert [info.name for info in body.proto.graph.input] == ["x", "spare"]
    assert [port.name for port in found.inputs] == ["x", "past_key_values_0_key", "use_cache_branch", "spare"]


def test_an_if_that_asks_for_something_else_is_no_beginning():
    assert not begins_apart(asking("other"))
    assert not begins_apart(choosing("r = MatMul(a, w3)", "s = Relu(a)", w3=(8, 8)))
