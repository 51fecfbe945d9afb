"""Elimination against brute force and against least squares from scratch."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.algebra.quadratic import Gram
from onnxprune.criteria.elimination import STEPS, Consumer, eliminate, follow

TINY = 1e-9  # damping: next to none


def consumer(units=6, per=1, outs=4, seed=0, *, inputs=None, gram=None):
    rng = np.random.default_rng(seed)
    ins = units * per
    mixing = rng.standard_normal((ins, ins)) / 2 + np.eye(ins)
    gram = mixing @ mixing.T if gram is None else gram
    inputs = np.arange(ins).reshape(units, per) if inputs is None else inputs
    return Consumer(rng.standard_normal((outs, ins)), Gram(gram), Gram(gram), rng.random(outs) + 0.5, inputs)


def best(one, gone):
    """Return the least error without some units, and the weights: least squares on what is left."""
    gram = one.seen.matrix
    lost = set(one.inputs[list(gone)].ravel().tolist())
    left = [i for i in range(len(gram)) if i not in lost]
    weight = np.zeros_like(one.weight)
    weight[:, left] = np.linalg.lstsq(gram[np.ix_(left, left)], (one.weight @ gram[:, left]).T, rcond=None)[0].T
    change = weight - one.weight
    return float((np.einsum("oi,ij,oj->o", change, gram, change) * one.counts).sum()), weight


@pytest.mark.parametrize("per", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_each_greedy_step_is_the_best_and_its_error_is_exact(per, seed):
    both = [consumer(per=per, seed=seed), consumer(per=per, seed=seed + 10, outs=2)]
    found = eliminate(both, [1, 2, 3, 4], TINY)
    gone = []
    for step, unit in enumerate(found.order):
        costs = {u: sum(best(one, [*gone, u])[0] for one in both) for u in range(6) if u not in gone}
        assert unit == min(costs, key=costs.__getitem__)
        gone.append(unit)
        assert found.errors[step] == pytest.approx(costs[unit], rel=1e-5)
        for one, weight in zip(both, found.weights[step], strict=True):
            np.testing.assert_allclose(weight, best(one, gone)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_near_the_best_subset(seed):
    one = consumer(units=7, seed=seed)
    for count in (1, 2, 4):
        least = min(best(one, gone)[0] for gone in combinations(range(7), count))
        found = eliminate([one], [count], TINY).errors[0]
        assert least * (1 - 1e-6) <= found <= 2 * least
        assert count > 1 or found == pytest.approx(least, rel=1e-5)


def test_dead_and_duplicate_units_go_first():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 8))
    x[:, 3] = 0
    x[:, 6] = x[:, 1]
    one = consumer(units=8, gram=x.T @ x / 500)
    found = eliminate([one], [1, 2, 3])
    assert found.order[0] == 3
    assert found.order[1] in (1, 6)
    assert found.errors[0] < 1e-10
    assert found.errors[1] < 1e-3 * found.errors[2]
    other = 1 if found.order[1] == 6 else 6
    assert found.weights[1][0][:, other] == pytest.approx(one.weight[:, 1] + one.weight[:, 6], abs=0.05)


def test_what_matters_to_another_consumer_stays():
    one, two = consumer(gram=np.eye(6)), consumer(gram=np.eye(6))
    one.weight[:], two.weight[:] = 1, 1
    one.weight[:, 2], two.weight[:, 2] = 0.1, 100
    one.weight[:, 4] = 0.5
    assert eliminate([one], [1]).order[0] == 2
    assert eliminate([one, two], [1]).order[0] == 4


def test_units_may_lie_anywhere_in_a_layer():
    inputs = np.array([[5, 0], [4, 1], [3, 2]])
    one = consumer(units=3, per=2, inputs=inputs)
    found = eliminate([one], [1], TINY)
    unit = int(found.order[0])
    assert not found.weights[0][0][:, inputs[unit]].any()
    assert found.errors[0] == pytest.approx(min(best(one, [u])[0] for u in range(3)), rel=1e-5)


def test_units_go_in_blocks_where_there_are_many():
    units = 8 * STEPS + 10
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, units)) * np.linspace(0.1, 3, units)
    found = eliminate([consumer(units=units, gram=x.T @ x / 600)], [7, 100])
    assert len(found.order) == len(set(found.order.tolist())) == 100
    assert found.order.mean() < 80  # mostly the faint ones
    assert found.errors == tuple(sorted(found.errors))


def test_what_is_not_finite_still_gives_an_order():
    gram = np.eye(6)
    gram[2, 2] = np.nan
    with np.errstate(all="ignore"):
        found = eliminate([consumer(gram=gram)], [4])
    assert len(set(found.order.tolist())) == 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2]), st.sampled_from([1e-12, 1.0, 1e12]))
def test_any_gram_matrix_gives_an_order(seed, per, scale):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rng.integers(1, 12), 6 * per)) * scale
    x[:, rng.random(6 * per) < 0.3] = 0
    one = consumer(per=per, gram=x.T @ x / len(x))
    found, again = eliminate([one], [2, 5]), eliminate([one], [2, 5])
    assert len(set(found.order.tolist())) == 5
    assert np.isfinite(found.errors).all()
    assert all(np.isfinite(weight).all() for level in found.weights for weight in level)
    np.testing.assert_array_equal(found.order, again.order)
    gone = found.order[:2]
    assert not found.weights[0][0][:, one.inputs[gone].ravel()].any()


# -- an order that is given --------------------------------------------------------------------------------------------


def test_an_order_is_followed():
    one, order = consumer(), np.array([4, 1, 3])
    found = follow(order, [1, 3], [one], scores=np.ones(6), damping=TINY)
    assert found.order.tolist() == [4, 1, 3]
    for step, count in enumerate([1, 3]):
        error, weight = best(one, order[:count])
        assert found.errors[step] == pytest.approx(error, rel=1e-5)
        np.testing.assert_allclose(found.weights[step][0], weight, rtol=1e-4, atol=1e-5)


def test_units_may_go_without_making_up_for_them():
    one, order = consumer(), np.array([4, 1])
    found = follow(order, [2], [one], scores=np.ones(6), refitted=False)
    plain = one.weight.copy()
    plain[:, [1, 4]] = 0
    np.testing.assert_array_equal(found.weights[0][0], plain)
    assert found.errors[0] > best(one, order)[0]


def test_without_consumers_the_scores_are_the_errors():
    found = follow(np.array([2, 0, 1]), [1, 2], [], scores=np.array([2.0, 3.0, 1.0]))
    assert found.errors == pytest.approx((1 / 14, 5 / 14))
    assert [*found.weights] == [(), ()]
    assert follow(np.array([0]), [1], [], scores=np.zeros(2)).errors == (0.0,)
