"""The schedule of rounds: geometric in what is left, whatever each round came to; and how tuning is divided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.errors import OptionError
from onnxprune.planning.options import make_options
from onnxprune.planning.rounds import Wanted, kept_share, options_of_round, share_of_tuning, tuning_of_round
from onnxprune.training.settings import make_tune_options


@given(st.floats(0.01, 0.99), st.integers(1, 12), st.lists(st.floats(0.8, 1.1), min_size=12, max_size=12))
def test_the_last_round_ends_at_the_goal_whatever_those_before_missed(goal, rounds, misses):
    now = 1.0
    for number in range(rounds):
        share = kept_share(goal, now, rounds - number)
        assert 0 < share <= 1
        if number == rounds - 1:
            assert now * share == pytest.approx(min(goal, now))
        now = min(now, now * share * misses[number])


@given(st.integers(1, 12), st.floats(0.05, 0.95), st.integers(12, 5000))
def test_all_tuning_is_parts(rounds, last, steps):
    spent, parts = 0, []
    for number in range(rounds):
        options = tuning_of_round(make_tune_options(steps=steps), spent, number, rounds, last=last)
        parts.append(options.steps)
        spent += options.steps
    assert sum(parts) == steps
    assert min(parts) >= 1
    if steps > 1000 and rounds > 1:
        assert parts[-1] == pytest.approx(last * steps, rel=0.2, abs=rounds + 1)
    assert share_of_tuning(rounds - 1, rounds, last) == 1


def test_a_time_is_divided_and_too_few_steps_are_refused():
    options = tuning_of_round(make_tune_options(time=100, seed=4), 25, 1, 3, last=0.5)
    assert (options.time, options.seed) == (25, 4)
    with pytest.raises(OptionError, match="rounds 3 needs at least 3 steps of tuning, got 2"):
        tuning_of_round(make_tune_options(steps=2), 0, 0, 3)


def test_a_round_has_a_step_where_others_took_all():
    """An epoch may have fewer steps in a later round: a step of a smaller network is run in fewer parts."""
    assert tuning_of_round(make_tune_options(steps=8), 8, 2, 3).steps == 1


WHOLE = {"a": 64, "b": 64, "c": 10}


def round_of(units, goals=None, now=None, left=2, ratios=None, named=None, counts=None, deployed=(), **options):
    all_rounds = Wanted(
        make_options(**options), WHOLE, ratios or {}, named or {}, counts or {}, dict.fromkeys(WHOLE, 6)
    )
    return options_of_round(all_rounds, units, goals or {}, now or {}, left, deployed)


def test_each_kind_of_aim_is_geometric_in_what_is_left():
    assert round_of(WHOLE, {"macs": 0.25}, {"macs": 1.0}, targets={"macs": 0.25}).targets == (("macs", 0.5),)
    assert round_of(WHOLE, ratio=0.75, ratios={"a": 0.75, "b": 0.75}).ratio == 0.5
    half = {"a": 32, "b": 64, "c": 10}
    assert round_of(half, ratio=0.75, ratios={"a": 0.75, "b": 0.75}, left=1).ratio == pytest.approx(1 - 0.25 / 0.75)
    assert round_of(half, ratio=0.0, named={"a": 0.75}, left=1).ratios == (("a", 0.5),)
    assert round_of(half, counts={"a": 8, "b": 16}).shape == (("a", 16), ("b", 32))
    assert round_of({**WHOLE, "c": 4}).min_units == (("a", 6), ("b", 6), ("c", 4))


def test_targets_that_are_met_are_dropped():
    goals = {"macs": 0.5, "params": 0.5}
    options = round_of(WHOLE, goals, {"macs": 0.4, "params": 1.0}, left=1, targets=goals)
    assert options.targets == (("params", 0.5),)
    assert round_of(WHOLE, goals, {"macs": 0.4, "params": 0.5}, left=1, targets=goals) is None


def test_targets_of_what_is_made_of_the_model_stay_as_amounts_where_the_model_meets_them():
    """What is made of it may cost more than it does: no more has to go than until that meets the goal."""
    deployed, goals = {"size": 1000.6, "latency": 2.5}, {"size": 0.5, "latency": 0.9}
    options = round_of(WHOLE, goals, {"size": 0.4, "latency": 0.5}, left=1, deployed=deployed, targets=goals)
    assert options.targets == (("size", "500B"), ("latency", "2.25ms"))
    options = round_of(WHOLE, goals, {"size": 1.0, "latency": 1.0}, left=1, deployed=deployed, targets=goals)
    assert options.targets == (("size", 0.5), ("latency", 0.9))
    options = round_of(WHOLE, {"latency": 1.0}, {"latency": 1.0}, left=1, deployed={"latency": 1.0})
    assert options.targets == (("latency", 1.0),)
    assert round_of(WHOLE, {"latency": 1.0}, {"latency": 1.0}, left=1) is None
