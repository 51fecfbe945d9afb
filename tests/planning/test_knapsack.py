"""The knapsack against every plan there is, on small instances."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.planning import knapsack
from onnxprune.planning.knapsack import Levels, _proportional, dynamic, solve


def chain(sizes, ends=3):
    """Return the relative cost of a chain of layers of these sizes: products of neighbours, as MACs are."""
    names = [f"g{number}" for number in range(len(sizes))]

    def macs(removed):
        widths = [ends, *(size - removed.get(name, 0) for name, size in zip(names, sizes, strict=True)), ends]
        return sum(a * b for a, b in pairwise(widths))

    full = macs({})
    return names, lambda removed: macs(removed) / full


@st.composite
def instances(draw):
    sizes = draw(st.lists(st.integers(4, 12), min_size=1, max_size=4))
    groups = {}
    for number, size in enumerate(sizes):
        gone = sorted(draw(st.sets(st.integers(1, size - 1), max_size=4)))
        losses = np.cumsum([0, *(draw(st.floats(0, 1)) ** 3 for _ in gone)])
        groups[f"g{number}"] = Levels((0, *gone), tuple(losses.tolist()))
    return sizes, groups, draw(st.floats(0.1, 1.1))


def loss(groups, removed):
    return sum(groups[name].losses[groups[name].removed.index(count)] for name, count in removed.items())


def every_plan(groups):
    for levels in product(*(range(len(levels.removed)) for levels in groups.values())):
        yield {name: groups[name].removed[at] for name, at in zip(groups, levels, strict=True)}


@settings(max_examples=150, deadline=None)
@given(instances())
def test_a_plan_fits_and_is_within_two_percent_of_the_best(instance):
    sizes, groups, budget = instance
    _, relative = chain(sizes)

    def cost(removed):
        return relative(removed) / budget

    best = min((loss(groups, plan) for plan in every_plan(groups) if cost(plan) <= 1), default=None)
    found = solve(groups, cost)
    assert (found is None) == (best is None)
    if found is None or best is None:
        return
    assert found.keys() == groups.keys()
    assert cost(found) <= 1
    start = _proportional(groups, cost)
    even = loss(groups, {name: groups[name].removed[level] for name, level in start.items()})
    assert loss(groups, found) <= even + 1e-12
    assert best - 1e-12 <= loss(groups, found) <= 1.02 * best + 1e-9
    assert solve(groups, cost) == found


@pytest.mark.parametrize("seed", range(12))
def test_the_best_of_all_plans_is_found_where_costs_add_up(seed):
    rng = np.random.default_rng(seed)
    prices = rng.random(4) + 0.2
    groups = {f"g{i}": Levels((0, 1, 2, 3), tuple(np.cumsum([0, *rng.random(3)]).tolist())) for i in range(4)}

    def cost(removed):
        return (prices.sum() * 3 - sum(p * removed[n] for n, p in zip(groups, prices, strict=True))) / (
            prices.sum() * 2
        )

    best = min(loss(groups, plan) for plan in every_plan(groups) if cost(plan) <= 1)
    assert loss(groups, solve(groups, cost)) == pytest.approx(best, rel=0.01)


def random_chain(seed, count=4, levels=5):
    """Return groups and the cost of a plan over a budget."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(6, 13, count).tolist()
    groups = {}
    for number, size in enumerate(sizes):
        losses = np.cumsum([0, *rng.random(levels - 1) ** 3])
        gone = (0, *range(1, size - 1, max(1, size // 5)))[:levels]
        groups[f"g{number}"] = Levels(gone, tuple(losses.tolist())[: len(gone)])
    relative, budget = chain(sizes)[1], rng.uniform(0.4, 0.9)
    return groups, lambda removed: relative(removed) / budget


def gaps(seeds):
    """Return what plans lose, over the best there is."""
    for seed in seeds:
        groups, cost = random_chain(seed)
        fits = [loss(groups, plan) for plan in every_plan(groups) if cost(plan) <= 1]
        if fits:
            yield loss(groups, solve(groups, cost)) / max(min(fits), 1e-9)


def test_swaps_come_near_the_best_where_costs_are_products(monkeypatch):
    monkeypatch.setattr(knapsack, "FEW", 0)
    swapped = list(gaps(range(40)))
    assert len(swapped) > 20
    assert np.median(swapped) <= 1.001
    assert np.mean(swapped) <= 1.02


def test_swaps_of_many_groups_fit_and_some_are_better(monkeypatch):
    ratios = []
    for seed in range(12):
        groups, cost = random_chain(seed, 30, 6)
        found = solve(groups, cost)
        with monkeypatch.context() as patch:
            patch.setattr(knapsack, "SWAPS", 0)
            without = solve(groups, cost)
        assert (found is None) == (without is None)
        if found is not None:
            assert cost(found) <= 1
            ratios.append(loss(groups, found) / loss(groups, without))
    assert max(ratios) <= 1 + 1e-12
    assert min(ratios) < 1 - 1e-9


def test_what_costs_nothing_goes_first():
    groups = {"free": Levels((0, 4, 8), (0.0, 0.0, 0.0)), "dear": Levels((0, 4, 8), (0.0, 1.0, 5.0))}
    found = solve(groups, lambda removed: (20 - sum(removed.values())) / 14)
    assert found == {"free": 8, "dear": 0}


def test_nothing_goes_that_need_not():
    groups = {"a": Levels((0, 4, 8), (0.0, 0.1, 0.2))}
    assert solve(groups, lambda _: 1.0) == {"a": 0}
    assert solve({}, lambda _: 1.0) == {}
    assert solve({}, lambda _: 1.1) is None


def test_an_unreachable_budget_is_told():
    groups = {"a": Levels((0, 4), (0.0, 0.1)), "b": Levels((0,), (0.0,))}
    assert solve(groups, lambda removed: (10 - removed["a"]) / 5) is None
    assert solve(groups, lambda removed: (10 - removed["a"]) / 6) == {"a": 4, "b": 0}


# -- the dynamic program -----------------------------------------------------------------------------------------------

ROWS = st.lists(st.lists(st.tuples(st.floats(0, 9), st.floats(-3, 3)), min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.floats(-6, 6))
def test_choices_hold_the_budget_and_are_the_best_but_for_rounding(rows, budget):
    losses, costs = ([[pair[part] for pair in row] for row in rows] for part in (0, 1))
    found = dynamic(losses, costs, budget)
    plans = list(product(*(range(len(row)) for row in rows)))

    def total(table, plan):
        return math.fsum(row[at] for row, at in zip(table, plan, strict=True))

    fits = [total(losses, plan) for plan in plans if total(costs, plan) <= budget]
    if found is None:
        assert not [plan for plan in plans if total(costs, plan) <= budget - 1e-9]
        return
    assert total(costs, found) <= budget + 1e-6
    tight = [total(losses, plan) for plan in plans if total(costs, plan) <= budget - 0.02]
    assert total(losses, found) <= min([*tight, np.inf]) + 1e-9
    assert not fits or total(losses, found) >= min(fits) - 1e-6 or total(costs, found) > budget
