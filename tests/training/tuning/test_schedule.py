"""Learning rates over a run, and the range test."""

from __future__ import annotations

import itertools
import math

import pytest

from onnxprune.training.tuning.schedule import HIGHEST, LOWEST, factor, range_test, rates_to_test


def test_the_rate_rises_and_falls():
    rates = [factor(step / 100, 0.1) for step in range(101)]
    assert rates.index(max(rates)) == 10
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert factor(0.05, 0.0) > 0.9


def test_first_steps_are_small_in_any_case():
    assert factor(0.5, 0.05, step=0) == pytest.approx(factor(0.5, 0.05) / 20)
    assert factor(0.5, 0.05, step=19) == factor(0.5, 0.05)


def test_rates_are_apart_by_one_factor():
    rates = rates_to_test(9)
    assert rates[0] == pytest.approx(LOWEST)
    assert rates[-1] == pytest.approx(HIGHEST)
    assert rates[1] / rates[0] == pytest.approx(rates[8] / rates[7])


def test_there_are_fewer_where_time_is_short_and_some_in_any_case():
    assert [len(rates_to_test(most)) for most in (math.inf, 33, 20.7, 3, 0.0)] == [32, 32, 20, 8, 8]


def valley(least):
    return lambda rate: (math.log10(rate) - math.log10(least)) ** 2


@pytest.mark.parametrize("count", [8, 16, 32])
@pytest.mark.parametrize(("least", "is_short"), [(1e-4, True), (1e-3, False)])
def test_the_rate_is_near_the_least_loss(least, is_short, count):
    rate, curve = range_test(valley(least), rates_to_test(count))
    assert least / 2 < rate < 10 * least
    assert (len(curve) < count) == is_short  # it ends where the loss diverges


# Smoothed losses of a refitted language model by rate: flat from 1.5e-4 on; at 6e-4 it is led away.
FLAT = (
    0.0, -0.0025, -0.0014, -0.0026, -0.0044, -0.006, -0.007, -0.012, -0.0142, -0.0216, -0.0289, -0.0311, -0.0317,
    -0.0389, -0.0402, -0.0453, -0.0499, -0.0438, -0.0509, -0.0279, -0.027, 0.0344, 0.1044, 0.1608, 0.2721, 0.3674,
    0.5069, 0.5558, 0.7268,
)  # fmt: skip


def test_of_rates_that_gain_as_much_but_for_noise_the_middle_is_taken():
    sums = [0.0, *(value * (1 - 0.8 ** (place + 1)) for place, value in enumerate(FLAT))]
    losses = iter([(after - 0.8 * before) / 0.2 for before, after in itertools.pairwise(sums)])
    rate, curve = range_test(lambda rate: next(losses), rates_to_test())
    assert [value for _, value in curve] == pytest.approx(FLAT)
    assert min(curve, key=lambda each: each[1])[0] == pytest.approx(4.0e-4, rel=0.01)
    assert rate == pytest.approx(1.5 * (2.05e-4 * 4.0e-4) ** 0.5, rel=0.01)


def test_where_no_rate_gains_anything_the_first_is_taken():
    rates = rates_to_test(8)
    rate, _ = range_test(lambda rate: 0.01 + rate, rates)
    assert rate == pytest.approx(1.5 * rates[0])


def test_it_ends_where_the_loss_is_not_finite():
    rate, curve = range_test(lambda rate: math.nan, rates_to_test(8))
    assert (rate, curve) == (rates_to_test(8)[0], [])


def test_where_the_loss_still_falls_at_the_highest_rate_the_test_tells_none():
    """Random weights: an untrained network gets better by any step."""
    rates = rates_to_test()
    rate, curve = range_test(lambda rate: -math.log10(rate / LOWEST), rates)
    assert len(curve) == len(rates)
    assert rate == pytest.approx(HIGHEST / 10)
