"""Losses that were not measured, told by the errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxprune.planning.curves.curve import POWER, Curve, completed, usual_slope

NAN = float("nan")


def curve(losses, told=(), errors=(0.0, 0.01, 0.04, 0.16)):
    return Curve((0, 1, 2, 3, 4, 5), (0, 2, 4, 6), losses, errors, told)


def test_what_was_measured_stays():
    whole = {"a": curve((0.0, 0.1, 0.2, 0.5)), "b": curve(None)}
    assert completed(whole) == whole
    assert whole["a"].measured == (1, 2, 3)
    assert whole["b"].measured == ()


def test_between_two_measured_ones_logarithms_are_on_a_line():
    (told,) = completed({"a": curve((0.0, 0.1, NAN, 0.9), (4,))}).values()
    assert told.losses == pytest.approx((0.0, 0.1, 0.3, 0.9))
    assert told.told == (4,)


def test_beyond_the_measured_one_losses_rise_with_the_usual_power_of_the_error():
    (told,) = completed({"a": curve((0.0, NAN, 0.2, NAN), (2, 6))}).values()
    assert told.losses == pytest.approx((0.0, 0.2 / 4**POWER, 0.2, 0.2 * 4**POWER))


def test_a_group_that_was_not_measured_has_the_factor_of_its_neighbours():
    full = tuple(3.0 * error**POWER for error in (0.0, 0.01, 0.04, 0.16))
    ninefold = tuple(9 * loss for loss in full)
    none = curve((0.0, NAN, NAN, NAN), (2, 4, 6))
    told = completed({"a": curve(full), "b": none, "c": curve(ninefold), "d": none})
    assert told["b"].losses == pytest.approx([3 * loss for loss in full])
    assert told["d"].losses == pytest.approx(ninefold)


def test_without_any_measured_loss_the_errors_order_the_groups():
    none = curve((0.0, NAN, NAN, NAN), (2, 4, 6))
    (told,) = completed({"a": none}).values()
    assert told.losses == pytest.approx([error**POWER for error in none.errors])


@pytest.mark.parametrize(
    ("losses", "errors"),
    [
        ((0.0, NAN, 1e-15, NAN), (0.0, 0.0, 0.0, 0.3)),  # a dead unit: neither error nor loss
        ((0.0, NAN, 0.0, NAN), (0.0, 0.1, 0.2, 0.3)),
        ((0.0, NAN, -1e-9, NAN), (0.0, 0.1, 0.2, 0.2)),
        ((0.0, NAN, NAN, NAN), (0.0, 0.1, NAN, NAN)),
        ((0.0, NAN, float("inf"), NAN), (0.0, 0.1, 0.2, 0.3)),
    ],
)
def test_odd_numbers_end_in_a_curve_that_can_be_used(losses, errors):
    told = tuple(count for count, loss in zip((2, 4, 6), losses[1:], strict=True) if np.isnan(loss))
    (complete,) = completed({"a": curve(losses, told, errors)}).values()
    values = complete.at([0, 1, 2, 3, 4, 5, 6], 1.0)
    assert np.isfinite(values).all()
    assert values[0] == 0
    assert all(a <= b for a, b in itertools.pairwise(values))


def test_losses_of_told_levels_do_not_count_for_the_usual_slope():
    assert usual_slope({"a": curve((0.0, 100.0, 0.4, 100.0), (2, 6))}) == pytest.approx(10.0)
