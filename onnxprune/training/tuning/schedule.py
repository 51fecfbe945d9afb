"""The learning rate over a run: it rises, then falls along a cosine; and the test that says how large it may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

LAST = 0.01  # of the learning rate, at the end
TESTED, FEWEST = 32, 8  # rates that a range test tries, where there is time for them
LOWEST, HIGHEST = 1e-6, 3e-2
_SMOOTHED = 0.8  # how much of the average is left where the rate is `_APART` times as high
_APART = (HIGHEST / LOWEST) ** (1 / (TESTED - 1))
_DIVERGED = 0.7  # by which the smoothed logarithm of the loss may rise above its least
_GAINED = 0.9  # of what the best rate gains: those that gain so much differ by noise
_TAKEN = 1.5  # times the middle of those rates: the schedule soon leaves it, and smoothing lags behind
USUAL = 1e-4  # learning rate, where there is no time for a test
UNTOLD = 0.1  # of the highest rate: what is taken where the loss still falls there, so that the test tells no rate
WARMED = 20  # steps at least in which the rate rises: the first ones of Adam are as large as the rate, in any direction


def factor(progress: float, warmup: float, step: int = WARMED) -> float:
    """Return the learning rate over the largest one, when a share of the run is done.

    Goyal et al. 2017 (warm-up); Loshchilov & Hutter 2017, SGDR (cosine).

    >>> factor(0.0, 0.1) < factor(0.05, 0.1) < factor(0.1, 0.1), round(factor(1.0, 0.1), 3)
    (True, 0.01)

    Args:
        progress: share of the run that is done, 0 to 1.
        warmup: share of the run in which the rate rises.
        step: how many were taken; the rate rises in the first `WARMED` of them in any case.
    """
    risen = min(1.0, (step + 1) / WARMED)
    return risen * (max(LAST, progress / warmup) if progress < warmup else _fallen(progress, warmup))


def _fallen(progress: float, warmup: float) -> float:
    """Return the rate along the cosine."""
    share = min(1.0, (progress - warmup) / max(1e-9, 1 - warmup))
    return LAST + (1 - LAST) * (1 + math.cos(math.pi * share)) / 2


def rates_to_test(most: float = TESTED) -> list[float]:
    """Return rates from the lowest to the highest, each the same number of times the one before.

    Args:
        most: of them that there is time for; some are tested in any case.
    """
    count = int(max(FEWEST, min(TESTED, most)))
    return [LOWEST * (HIGHEST / LOWEST) ** (number / (count - 1)) for number in range(count)]


def range_test(loss_at: Callable[[float], float], rates: Sequence[float]) -> tuple[float, list[tuple[float, float]]]:
    """Return a learning rate, and the smoothed losses that tell it, by rate.

    Smith 2017, Cyclical Learning Rates for Training Neural Networks: one step at each rate, until the loss diverges.
    The rate lies somewhat above the middle of those that gain nearly as much as the best one: of a network that is
    nearly right already the curve is flat, and which of its rates is best is noise. Of random weights the loss falls to
    the end: any step is better than none, which says nothing of a whole run.

    Args:
        loss_at: takes one step at a rate; returns the logarithm of the loss over that of the original weights.
        rates: ascending, each the same number of times the one before: the fewer, the less is smoothed.
    """
    left = _SMOOTHED ** (math.log(rates[1] / rates[0]) / math.log(_APART))
    smoothed, curve = 0.0, list[tuple[float, float]]()
    for number, rate in enumerate(rates):
        loss = loss_at(rate)
        if not math.isfinite(loss):
            break
        smoothed = left * smoothed + (1 - left) * loss
        value = smoothed / (1 - left ** (number + 1))
        curve.append((rate, value))
        if value > min(each for _, each in curve) + _DIVERGED:
            break
    if not curve:
        return rates[0], curve
    best, least = min(curve, key=lambda each: each[1])
    if best == rates[-1]:
        return UNTOLD * best, curve
    enough = max(least, _GAINED * least)  # what no rate gains, the best one loses least
    good = [rate for rate, value in curve if value <= enough]
    return _TAKEN * math.sqrt(good[0] * good[-1]), curve
