"""What is measured within a budget: samples first, then levels, the dearest groups first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.planning.curves.schedule import Measurable, schedule, spread


def some(levels=6, share=0.1, opened=1.0, run=10.0):
    return Measurable(levels, share, opened, run)


def test_without_a_bound_all_is_measured():
    planned = schedule({"a": some(), "b": some(levels=3)}, 4, None)
    assert planned.levels == {"a": (0, 1, 2, 3, 4, 5), "b": (0, 1, 2)}
    assert planned.batches == 4
    assert planned.count() == planned.all == 9
    assert planned.work == 9 * 41


def test_one_level_of_all_groups_on_all_samples_comes_first():
    planned = schedule({"a": some(share=0.9), "b": some(share=1e-3)}, 4, 2 * 41.0, samples=4)
    assert planned.levels == {"a": (2,), "b": (2,)}
    assert planned.batches == 4


def test_two_levels_come_before_samples_but_not_before_sixteen_of_them():
    curves = {"a": some(), "b": some()}
    few = schedule(curves, 8, 4 * 31.0, samples=8)
    assert (few.batches, few.levels) == (3, {"a": (1, 4), "b": (1, 4)})
    least = schedule(curves, 8, 4 * 31.0, samples=4)
    assert (least.batches, least.levels) == (6, {"a": (2,), "b": (2,)})


def test_curves_with_one_level_count_once():
    planned = schedule({"a": some(levels=1), "b": some(levels=1)}, 4, 2 * 41.0, samples=16)
    assert planned.batches == 4


def test_more_levels_go_where_a_share_of_the_costs_is_cheapest():
    curves = {"early": some(share=0.2, run=20.0), "late": some(share=0.2, run=2.0), "small": some(share=1e-4, run=2.0)}
    planned = schedule(curves, 1, 21 + 3 + 3 + 3.5)
    assert planned.levels == {"early": (2,), "late": (1, 4), "small": (2,)}


def test_fewer_batches_where_all_are_too_much():
    planned = schedule({"a": some(), "b": some()}, 8, 2 * 31.0)
    assert planned.batches == 3
    assert planned.count() == 2


def test_where_even_one_batch_is_too_much_the_largest_shares_are_measured():
    curves = {name: some(share=share) for name, share in (("a", 0.1), ("b", 0.5), ("c", 0.2))}
    assert schedule(curves, 8, 25.0).levels == {"b": (2,), "c": (2,)}
    assert schedule(curves, 8, 1.0).levels == {}


def test_the_dearest_group_comes_first_even_if_its_losses_take_long():
    curves = {f"small {number}": some(share=0.02, opened=0.0, run=1.0) for number in range(60)}
    planned = schedule({**curves, "dear": some(share=0.9, opened=0.0, run=100.0)}, 1, 120.0)
    assert planned.levels["dear"] == (2,)
    assert planned.count() == 21


def test_groups_without_levels_and_no_groups():
    assert schedule({"a": some(levels=0)}, 2, 1e9).levels == {}
    assert schedule({}, 2, 1e9).count() == 0


@given(
    st.lists(st.builds(some, st.integers(1, 8), st.floats(0, 1), st.floats(0, 5), st.floats(0.1, 50)), max_size=12),
    st.integers(1, 9),
    st.floats(0, 2000),
)
def test_a_budget_is_kept_and_more_of_it_never_measures_less(curves, batches, budget):
    named = {str(number): each for number, each in enumerate(curves)}
    less, more = schedule(named, batches, budget), schedule(named, batches, 10 * budget)
    assert less.work <= budget + 1e-6
    spent = sum(
        len(levels) * (named[name].opened + less.batches * named[name].run) for name, levels in less.levels.items()
    )
    assert less.work == pytest.approx(spent, abs=1e-6)
    assert more.batches >= less.batches
    for name, levels in less.levels.items():
        assert set(levels) <= set(range(named[name].levels))
        assert levels == tuple(sorted(set(levels)))


@given(st.integers(1, 12), st.integers(1, 12))
def test_so_many_levels_are_spread(levels, count):
    places = spread(levels, count)
    assert 1 <= len(places) <= count
    assert set(places) <= set(range(levels))
