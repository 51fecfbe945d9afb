"""Removing inputs by rows against removing them by the matrix, and against least squares from scratch."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.algebra.quadratic import Gram, Rows
from onnxprune.criteria import elimination, restored, surgeon
from onnxprune.criteria.elimination import Consumer, eliminate, follow, greedy

COUNT = 20


def both(units, per, outs=3, seed=0, rest=0):
    """Return a layer of more inputs than rows, once with the products of its inputs and once with the rows."""
    rng = np.random.default_rng(seed)
    ins = units * per + rest
    x = rng.standard_normal((COUNT, ins)) * np.linspace(0.3, 2, ins)
    weight, counts = rng.standard_normal((outs, ins)), rng.random(outs) + 0.5
    inputs = rng.permutation(ins)[: units * per].reshape(units, per)
    return [Consumer(weight, form, form, counts, inputs) for form in (Gram(x.T @ x / COUNT), Rows(x))]


@pytest.mark.parametrize(("units", "per", "rest"), [(40, 1, 0), (40, 1, 5), (12, 4, 0), (4, 30, 3)])
@pytest.mark.parametrize("outs", [3, 200])
def test_both_forms_remove_the_same(units, per, rest, outs):
    by_matrix, by_rows = both(units, per, outs, rest=rest)
    levels = [1, units // 2, units - 1]
    one, other = eliminate([by_matrix], levels), eliminate([by_rows], levels)
    np.testing.assert_array_equal(one.order, other.order)
    np.testing.assert_allclose(one.errors, other.errors, rtol=1e-6, atol=1e-9)
    for left, right in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(left[0], right[0], rtol=1e-6, atol=1e-7)
    assert [len(each) for each in one.weights[1:]] == [1, 1]


def test_many_units_go_alike_in_both_forms(monkeypatch):
    monkeypatch.setattr(elimination, "STEPS", 4)
    by_matrix, by_rows = both(90, 1)
    np.testing.assert_array_equal(greedy([by_matrix], 60), greedy([by_rows], 60))
    np.testing.assert_array_equal(greedy([by_matrix, by_rows], 60), greedy([by_matrix], 60))
    assert len(greedy([by_rows], 90)) == 90


def test_a_pool_is_as_good_as_looking_at_all_each_time(monkeypatch):
    one = both(90, 1)[0]
    exact = eliminate([one], [45]).errors[0] if elimination.STEPS >= 90 else None
    monkeypatch.setattr(elimination, "STEPS", 1000)
    exact = eliminate([one], [45]).errors[0] if exact is None else exact
    monkeypatch.setattr(elimination, "STEPS", 8)
    pooled = eliminate([one], [45]).errors[0]
    monkeypatch.setattr(elimination, "_picked", lambda pools, count: np.arange(count))
    plain = eliminate([one], [45]).errors[0]
    assert exact <= pooled * (1 + 1e-9)
    assert pooled < exact + 0.5 * (plain - exact)


def test_where_all_inputs_go_nothing_is_left():
    for one in both(5, 2):
        found = follow(np.arange(5), [5], [one], scores=np.ones(5))
        assert not found.weights[0][0].any()


def test_costs_are_computed_from_some_rows_where_there_are_many(monkeypatch):
    _, by_rows = both(40, 1)
    monkeypatch.setattr(surgeon, "ROWS", 10)
    assert len(set(greedy([by_rows], 30).tolist())) == 30


def test_weights_are_made_again_where_they_take_too_much_memory(monkeypatch):
    one, other = both(10, 2)
    monkeypatch.setattr(restored, "HELD_BYTES", 0)
    found = eliminate([one, other], [2, 4])
    assert found.weights[0] is not found.weights[0]
    np.testing.assert_array_equal(found.weights[1][0], found.weights[1][0])


def test_round_off_as_large_as_the_damping_still_gives_an_order():
    one = both(6, 1)[0]
    matrix = -1e-7 * np.ones((6, 6)) + np.eye(6) * 1e-7
    found = greedy([Consumer(one.weight, Gram(matrix), Gram(matrix), one.counts, one.inputs)], 4, damping=0.0)
    assert len(set(found.tolist())) == 4
