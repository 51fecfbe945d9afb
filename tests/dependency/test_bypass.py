"""Which value a linear map reads in the place of a branch, and where none can stand."""

from __future__ import annotations

import pytest

from onnxprune.dependency.branches import branches
from onnxprune.dependency.bypass import Bypass, bypass_of
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from tests.support.build import model
from tests.support.paths import MODELS

NONE = "no layer of it reads a value with the axes of what it adds"


def of_only_branch(*nodes, **described):
    traced = trace(load(model(*nodes, **described)))
    (branch,) = branches(traced)
    return bypass_of(traced, branch)


def test_of_an_attention_all_of_whose_layers_read_one_value_it_is_that_value():
    """Each block reads its normalised stream, in a transformer; of two products in a row, the first."""
    traced = trace(load(MODELS / "vit.onnx"))
    found = [bypass_of(traced, branch) for branch in branches(traced)]
    assert all(isinstance(each, Bypass) for each in found)
    norms = {
        traced.model.nodes[index].outputs[0] for index in traced.model.top if "Norm" in traced.model.nodes[index].op
    }
    assert {each.source for each in found} <= norms
    assert {(each.dim, each.units, each.rank) for each in found} == {(2, 80, 3)}


def test_gates_and_values_read_the_same():
    found = of_only_branch(
        "n = Tanh(x)", "g = MatMul(n, w1)", "s = Sigmoid(g)", "u = MatMul(n, w2)", "p = Mul(s, u)", "o = MatMul(p, w3)",
        "y = Add(x, o)",
        x="float[b,5,8] x", w1=(8, 12), w2=(8, 12), w3=(12, 8),
    )  # fmt: skip
    assert (found.source, found.dim, found.units, found.rank) == ("n", 2, 8, 3)


def test_convolutions_have_their_units_on_the_second_axis():
    found = of_only_branch(
        "c = Conv<pads = [1, 1, 1, 1]>(x, w1)", "r = Relu(c)", "o = Conv(r, w2)", "y = Add(o, x)",
        x="float[b,6,9,9] x", w1=(4, 6, 3, 3), w2=(6, 4, 1, 1),
    )  # fmt: skip
    assert (found.source, found.dim, found.units, found.rank) == ("x", 1, 6, 4)


@pytest.mark.parametrize("units", [8, 6], ids=["as many places as units", "others"])
def test_a_branch_that_mixes_places_reads_no_units(units):
    """Sizes alone would let a map mix what the branch never mixed."""
    found = of_only_branch(
        "t = Transpose<perm = [0, 2, 1]>(x)", "h = MatMul(t, w)", "o = Transpose<perm = [0, 2, 1]>(h)", "y = Add(x, o)",
        x=f"float[b,{units},8] x", w=(units, units),
    )  # fmt: skip
    assert found == NONE


def test_a_product_from_the_left_mixes_another_axis():
    assert of_only_branch("o = MatMul(w, x)", "y = Add(x, o)", x="float[b,8,8] x", w=(8, 8)) == NONE


def test_channels_that_were_moved_are_not_those_of_the_stream():
    found = of_only_branch(
        "t = Transpose<perm = [0, 2, 3, 1]>(x)", "h = MatMul(t, w1)", "r = Relu(h)", "k = MatMul(r, w2)",
        "o = Transpose<perm = [0, 3, 1, 2]>(k)", "y = Add(x, o)",
        x="float[b,8,8,8] x", w1=(8, 12), w2=(12, 8),
    )  # fmt: skip
    assert found == NONE


def test_units_whose_number_differs_from_run_to_run_have_no_matrix():
    """A product of the stream with itself: its last axis is as long as the sequence."""
    found = of_only_branch(
        "t = Transpose<perm = [0, 2, 1]>(x)", "q = MatMul(x, t)", "o = MatMul(q, x)", "y = Add(x, o)",
        x="float[b,s,s] x",
    )  # fmt: skip
    assert found == "the number of units that it adds differs from run to run"
