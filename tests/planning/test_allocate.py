"""Allocation: properties that hold for any demand, and examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.planning.allocate import Demand, allocate, round_units, settle, top

examples = settings(max_examples=150, deadline=None, derandomize=True)


@st.composite
def demands(draw, steps=(1, 2, 4, 8), weights=(1.0, 2.5, 40.0)):
    units = draw(st.integers(1, 60))
    return Demand(
        scores=np.array(draw(st.lists(st.integers(0, 9), min_size=units, max_size=units)), float),
        ratio=draw(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 0.99])),
        step=draw(st.sampled_from(steps)),
        min_units=draw(st.integers(1, units)),
        weight=draw(st.sampled_from(weights)),
    )


def tables(**limits):
    return st.lists(demands(**limits), max_size=6).map(lambda found: {f"g{i}": d for i, d in enumerate(found)})


def demand(*scores, **rest):
    return Demand(np.array(scores, float), **{"ratio": 0.5, **rest})


# -- any demand ------------------------------------------------------------------------------------------------


@examples
@given(tables(), st.sampled_from(["group", "global"]))
def test_counts_are_allowed(asked, scope):
    for name, kept in allocate(asked, scope).items():
        one = asked[name]
        assert one.min_units <= len(kept) <= one.units
        assert len(kept) == one.units or len(kept) % one.step == 0
        assert len(kept) in one.levels()


@examples
@given(tables(), st.sampled_from(["group", "global"]))
def test_kept_units_are_the_highest_ascending(asked, scope):
    for name, kept in allocate(asked, scope).items():
        assert kept.tolist() == sorted(set(kept.tolist()))
        scores = asked[name].scores
        dropped = np.delete(scores, kept)
        assert not len(dropped) or scores[kept].min() >= dropped.max()


@examples
@given(tables())
def test_the_weighted_total_is_kept_within_a_step(asked):
    asked = {name: one for name, one in asked.items() if one.units * (1 - one.ratio) >= one.levels()[0]}
    targets = {name: one.units * (1 - one.ratio) for name, one in asked.items()}
    counts = settle(asked, targets)
    wrong = sum(one.weight * (counts[name] - targets[name]) for name, one in asked.items())
    gaps = [one.weight * max(np.diff([0, *one.levels()])) for one in asked.values()]
    assert abs(wrong) <= max(gaps, default=0) / 2 + 1e-6


@examples
@given(tables())
def test_each_count_is_next_to_its_target(asked):
    for name, kept in allocate(asked, "group").items():
        levels = asked[name].levels()
        target = asked[name].units * (1 - asked[name].ratio)
        between = sorted((len(kept), target))
        assert not [level for level in levels if between[0] + 1e-6 < level < between[1] - 1e-6]


@examples
@given(demands(steps=(1,)))
def test_one_group_without_steps_is_rounded(one):
    kept = allocate({"g": one}, "group")["g"]
    target = max(one.min_units, one.units * (1 - one.ratio))
    assert abs(len(kept) - target) <= 0.5 + 1e-9


@examples
@given(tables(steps=(1,)))
def test_global_scope_removes_the_lowest_of_all(asked):
    kept = allocate(asked, "global")
    wanted = sum(one.units * (1 - one.ratio) for one in asked.values())
    least = sum(one.min_units for one in asked.values())
    assert abs(sum(map(len, kept.values())) - max(least, wanted)) <= 0.5 + 1e-9
    free = [name for name in asked if len(kept[name]) > asked[name].min_units]
    gone = [score for name in free for score in np.delete(asked[name].scores, kept[name])]
    assert all(asked[name].scores[kept[name]].min() >= max(gone, default=-math.inf) for name in free)


@examples
@given(tables())
def test_global_scope_never_empties_a_group(asked):
    assert all(len(kept) >= asked[name].min_units >= 1 for name, kept in allocate(asked, "global").items())


# -- examples ----------------------------------------------------------------------------------------------------


def test_global_scope_takes_from_the_weakest_group():
    asked = {"weak": demand(1, 2, 3, 4), "strong": demand(11, 12, 13, 14)}
    assert {name: kept.tolist() for name, kept in allocate(asked, "global").items()} == {
        "weak": [3],
        "strong": [1, 2, 3],
    }


def test_global_scope_spreads_equal_scores_over_the_groups():
    asked = {"a": demand(*[1] * 10, ratio=0.3), "b": demand(*[1] * 10, ratio=0.3)}
    assert {name: len(kept) for name, kept in allocate(asked, "global").items()} == {"a": 7, "b": 7}


def test_global_scope_removes_the_ratio_and_no_rounding_error_more():
    assert len(allocate({"g": demand(*range(30), ratio=0.9)}, "global")["g"]) == 3


def test_global_scope_makes_up_for_groups_at_their_minimum():
    asked = {"weak": demand(1, 2, 3, 4, min_units=3), "strong": demand(11, 12, 13, 14)}
    assert {name: len(kept) for name, kept in allocate(asked, "global").items()} == {"weak": 3, "strong": 1}


def test_global_scope_at_the_minimum_of_all():
    asked = {"a": demand(1, 2, 3, 4, min_units=4), "b": demand(5, 6, min_units=2)}
    assert {name: len(kept) for name, kept in allocate(asked, "global").items()} == {"a": 4, "b": 2}


def test_group_scope_takes_the_ratio_from_each():
    asked = {"weak": demand(1, 2, 3, 4), "strong": demand(11, 12, 13, 14)}
    assert {name: kept.tolist() for name, kept in allocate(asked, "group").items()} == {
        "weak": [2, 3],
        "strong": [2, 3],
    }


@pytest.mark.parametrize("scope", ["group", "global"])
def test_nothing_asked_nothing_given(scope):
    assert allocate({}, scope) == {}


def test_a_ratio_of_zero_keeps_all():
    assert allocate({"g": demand(3, 1, 2, ratio=0.0)}, "group")["g"].tolist() == [0, 1, 2]


def test_of_equal_scores_the_first_stay():
    assert top(np.array([1.0, 2.0, 1.0, 2.0, 1.0]), 3).tolist() == [0, 1, 3]


def test_top_is_ascending():
    assert top(np.array([1.0, 5.0, 3.0]), 2).tolist() == [1, 2]
    assert top(np.array([1.0, 5.0]), 0).tolist() == []


@pytest.mark.parametrize(
    ("units", "step", "least", "expected"),
    [(20, 8, 1, [8, 16, 20]), (16, 8, 1, [8, 16]), (6, 8, 1, [6]), (20, 8, 9, [16, 20]), (3, 1, 1, [1, 2, 3])],
    ids=str,
)  # fmt: skip
def test_levels(units, step, least, expected):
    assert Demand(np.ones(units), 0.3, step, least).levels() == expected


@pytest.mark.parametrize(("lanes", "step", "expected"), [(0, 8, 1), (3, 8, 8), (12, 8, 2), (16, 8, 1), (1, 1, 1)])
def test_round_units(lanes, step, expected):
    assert round_units(lanes, step) == expected


def test_a_heavy_group_is_settled_by_its_weight():
    asked = {"heavy": Demand(np.ones(16), 0.3, 8, weight=100.0), "light": Demand(np.ones(16), 0.25, 8)}
    assert settle(asked, {"heavy": 11.2, "light": 12.0}) == {"heavy": 8, "light": 16}
