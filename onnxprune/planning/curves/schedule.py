"""Schedule: which losses are measured within a budget.

Two levels of every group on all samples that are judged lose hardly anything against six: 1.05 times the loss of the
plan, over the networks in models/ and an EfficientNet-Lite1. So they come first, on fewer batches where that is too
much, but not on fewer samples than `LEAST` where there are as many: with very few, the losses of a network that is sure
of itself are those of a single sample. Where even that is too much, one level is measured (1.0 to 1.4 times the loss),
on as many batches as can be, and in the groups that stand for most of the costs first. What is left buys more levels,
where a share of the costs is had for the least work. Nothing here is timed: the same model and samples have the same
schedule.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Shares of the last level that are measured, by how many are; what more is measured is spread evenly.
SPREAD: Mapping[int, tuple[float, ...]] = {1: (0.5,), 2: (0.35, 0.8), 3: (0.35, 0.65, 1.0)}
LEAST = 16  # samples that two levels are measured on; with one level, any number
WORTH = (1.0, 0.2, 0.05, 0.02)  # of one more level, by how many there are; the last is that of all further ones


@dataclass(frozen=True, slots=True)
class Measurable:
    """A curve that can be measured."""

    levels: int
    share: float  # of the costs of the model, that the units take part in
    opened: float  # work of opening a session from the first consumer to the output
    run: float  # work of one batch from there


@dataclass(frozen=True)
class Schedule:
    """Which losses are measured."""

    levels: Mapping[str, tuple[int, ...]]  # by name of the curve: places among its levels, from 0; none are absent
    batches: int  # of those that are judged, the first so many
    work: float  # that it takes
    all: int  # losses that there are

    def count(self) -> int:
        """Return how many losses are measured."""
        return sum(map(len, self.levels.values()))


def spread(levels: int, count: int) -> tuple[int, ...]:
    """Return which of so many levels are measured when `count` are.

    >>> spread(6, 1), spread(6, 2), spread(6, 3), spread(6, 6), spread(2, 1)
    ((2,), (1, 4), (1, 3, 5), (0, 1, 2, 3, 4, 5), (0,))
    """
    if count >= levels:
        return tuple(range(levels))
    shares = SPREAD.get(count) or tuple(np.linspace(1, count, count) / count)
    return tuple(sorted({max(0, round(share * levels) - 1) for share in shares}))


def schedule(curves: Mapping[str, Measurable], batches: int, budget: float | None, *, samples: int = 1) -> Schedule:
    """Return what is measured within a budget.

    Args:
        curves: what can be measured, by name.
        batches: that can be judged.
        budget: of work; None: there is no bound.
        samples: of one batch.
    """
    losses = sum(each.levels for each in curves.values())
    if budget is None:
        every = {name: tuple(range(each.levels)) for name, each in curves.items()}
        work = sum(each.levels * _price(each, batches) for each in curves.values())
        return Schedule(every, batches, work, losses)
    judged = _judged(curves, batches, budget, -(-LEAST // max(1, samples)))
    counts, left = dict.fromkeys(curves, 0), budget
    queue = [(_rank(each, 0, judged), name) for name, each in curves.items() if each.levels]
    heapq.heapify(queue)
    while queue:
        _, name = heapq.heappop(queue)
        each, count = curves[name], counts[name]
        if _price(each, judged) > left:
            continue
        left -= _price(each, judged)
        counts[name] = count + 1
        if count + 1 < each.levels:
            heapq.heappush(queue, (_rank(each, count + 1, judged), name))
    levels = {name: spread(curves[name].levels, count) for name, count in counts.items() if count}
    return Schedule(levels, judged, budget - left, losses)


def _judged(curves: Mapping[str, Measurable], batches: int, budget: float, fewest: int) -> int:
    """Return on how many batches losses are measured: those on which two levels of every curve fit, or else one."""
    for levels, least in ((2, min(fewest, batches)), (1, 1)):
        for count in range(batches, least - 1, -1):
            if sum(min(levels, each.levels) * _price(each, count) for each in curves.values()) <= budget:
                return count
    return min(1, batches)


def _price(each: Measurable, batches: int) -> float:
    return each.opened + batches * each.run


def _rank(each: Measurable, count: int, batches: int) -> tuple[bool, float]:
    """Return what orders one more level: the first of every curve, largest share first; then what is worth its work."""
    worth = WORTH[min(count, len(WORTH) - 1)] * each.share
    return count > 0, -worth if count == 0 else -worth / max(1.0, _price(each, batches))
