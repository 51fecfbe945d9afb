"""Learning rates over a run, and the range test."""

from __future__ import annotations

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
    rates = rates_to_test(7)
    assert rates[0] == pytest.approx(LOWEST)
    assert rates[-1] == pytest.approx(HIGHEST)
    assert rates[1] / rates[0] == pytest.approx(rates[6] / rates[5])


def valley(least):
    return lambda rate: (math.log10(rate) - math.log10(least)) ** 2


@pytest.mark.parametrize("least", [1e-4, 1e-3])
def test_the_rate_is_near_the_least_loss(least):
    rate, curve = range_test(valley(least), rates_to_test(32))
    assert least / 2 < rate < 10 * least
    assert len(curve) < 32 or least > 1e-4  # it ends where the loss diverges


def test_it_ends_where_the_loss_is_not_finite_or_time_is_over():
    rate, curve = range_test(lambda rate: math.nan, rates_to_test(8))
    assert (rate, curve) == (rates_to_test(8)[0], [])
    assert len(range_test(lambda rate: -rate, rates_to_test(8), is_over=lambda: True)[1]) == 1


def test_where_the_loss_still_falls_at_the_highest_rate_the_test_tells_none():
    """Random weights: an untrained network gets better by any step."""
    rates = rates_to_test()
    rate, curve = range_test(lambda rate: -math.log10(rate / LOWEST), rates)
    assert len(curve) == len(rates)
    assert rate == pytest.approx(HIGHEST / 10)
