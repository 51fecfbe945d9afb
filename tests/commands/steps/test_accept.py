"""What was written is held against its targets by point estimates, of races that are long enough."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from onnxprune.commands.steps.accept import accepted
from onnxprune.errors import OptionError
from onnxprune.latency.bench import Race
from onnxprune.planning.plan import Plan
from onnxprune.planning.profile import MOST_OVER, OVER, RACE_S, Speed
from onnxprune.planning.promise import Decision
from onnxprune.planning.targets import Target

TARGET = ((Target("latency", 0.6), 0.6),)


def held(*seen, over=OVER, unsure=0.0):
    """Return what is accepted where races see these pairs of latency and half of its interval; and their lengths."""
    lengths, left = [], iter(seen)

    def compare(times):
        lengths.append(times)
        latency, half = next(left)
        interval = (1 / (latency * (1 + half)), 1 / (latency * (1 - half)))
        return SimpleNamespace(speedup=1 / latency, speedup_interval=interval)

    decision = Decision(Plan({}), TARGET, over=over, unsure=unsure)
    return accepted(decision, None, {}, compare, is_raced=True), lengths


@pytest.mark.parametrize(
    ("seen", "lengths"),
    [
        ([(0.6, 0.01)], [1]),
        ([(0.608, 0.01)], [1]),  # within 1.5 %
        ([(0.5, 0.1)], [1]),  # even the slow end meets it
        ([(0.6, 0.1), (0.605, 0.02)], [1, 3]),
        ([(0.7, 0.01), (0.6, 0.01)], [1, 3]),  # a miss is raced again
        ([(0.6, 0.1), (0.7, 0.1), (0.6, 0.1)], [1, 3, 9]),  # no race was sure: the longest decides
    ],
)
def test_a_latency_is_that_of_a_race_that_is_sure(seen, lengths):
    found, raced = held(*seen)
    latency, half = seen[-1]
    assert raced == lengths
    assert found.costs["latency"] == pytest.approx(latency)
    assert found.unsure == pytest.approx(half)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ([(0.62, 0.01)] * 2, "0.62"),
        ([(0.7, 0.3)] * 3, "0.7"),  # the fast end of the interval, 0.49, meets it: that is no reason
        ([(0.6, 0.1), (0.61, 0.02)], "0.61"),
    ],
)
def test_a_wide_interval_excuses_no_miss(seen, told):
    message = f"target missed: what would be written has latency {told} of the original's (asked for 0.6); nothing was"
    with pytest.raises(OptionError, match=re.escape(message)):
        held(*seen)


def test_what_a_timer_varies_by_counts_once_and_5_percent_at_most():
    speed = Speed.__new__(Speed)
    speed.__dict__["noise"] = SimpleNamespace(unsure=0.09)
    assert (speed.over, speed.unsure) == (MOST_OVER, 0.09)
    assert held((0.62, 0.0), (0.62, 0.0), (0.62, 0.0), over=speed.over, unsure=0.09)[1] == [1, 3, 9]
    with pytest.raises(OptionError, match=r"latency 0\.64 "):
        held(*[(0.64, 0.0)] * 3, over=speed.over, unsure=0.09)


def test_without_a_comparison_that_is_timed_what_races_is_that_of_the_decision():
    seconds = []

    def race(written, budget_s):
        seconds.append(budget_s)
        return Race(0.59, 10.0, 5.9, 0.2 / len(seconds) ** 2)

    found = accepted(Decision(Plan({}), TARGET, latency=race), None, {}, lambda times: None, is_raced=False)
    assert (seconds, found.comparison) == ([RACE_S, 3 * RACE_S, 9 * RACE_S], None)
    assert (found.costs, found.unsure) == ({"latency": 0.59}, pytest.approx(0.2 / 9))


def test_a_latency_that_nothing_bounds_is_raced_once():
    lengths = []
    accepted(Decision(Plan({})), None, {}, lengths.append, is_raced=False)
    assert lengths == [1]
