"""Allocation: how many units each group loses, and which. Numpy only; pure functions of values.

Counts are rounded to the steps that kernels like. Rounding each group to the nearest step would drift from the
requested ratio, so the rounding errors are settled over all groups by the largest-remainder method. Where the
options name a step, the aim is speed, and counts are rounded down instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.criteria.importance import Scores

MIN_SHARE = 0.1  # of the units of a group stay, unless the options say otherwise: no ranking may empty a layer


@dataclass(frozen=True, slots=True)
class Demand:
    """How many units one group is to lose, and by which scores."""

    scores: Scores  # [units]
    ratio: float  # share of the units to remove
    step: int = 1  # kept counts are multiples of it, or all units
    min_units: int = 1  # kept at least
    weight: float = 1.0  # what one unit costs, to settle rounding errors
    down: bool = False  # whether to round down, so that at least the ratio goes

    @property
    def units(self) -> int:
        """The number of units."""
        return len(self.scores)

    def levels(self) -> list[int]:
        """Return the kept counts that are allowed, ascending; the last is all units.

        >>> Demand(np.ones(20), 0.3, step=8).levels()
        [8, 16, 20]
        """
        lowest = max(1, math.ceil(self.min_units / self.step)) * self.step
        return [*range(lowest, self.units, self.step), self.units]


def round_units(lanes: int, step: int) -> int:
    """Return the step of the kept count that makes the channel count a multiple of `step`.

    One unit stands for `lanes` channels: a conv group of 4 channels needs only even counts for steps of 8.

    >>> round_units(1, 8), round_units(4, 8), round_units(8, 8)
    (8, 2, 1)
    """
    return step // math.gcd(step, lanes) if lanes else 1


def allocate(demands: Mapping[str, Demand], scope: str) -> dict[str, npt.NDArray[np.intp]]:
    """Return the kept unit indices of every group, ascending.

    Args:
        demands: by group name.
        scope: "group" removes each demand's ratio from each group; "global" ranks the units of all groups
            together and removes the lowest. Scores must then be comparable across groups.
    """
    targets = _global_targets(demands) if scope == "global" else {n: _share(d) for n, d in demands.items()}
    counts = settle(demands, targets)
    return {name: top(demands[name].scores, count) for name, count in counts.items()}


def removed(demands: Mapping[str, Demand], kept: Mapping[str, npt.NDArray[np.intp]]) -> dict[str, int]:
    """Return how many units each group loses that keeps these."""
    return {name: demands[name].units - len(units) for name, units in kept.items()}


def top(scores: Scores, count: int) -> npt.NDArray[np.intp]:
    """Return the indices of the `count` highest scores, ascending; of equal scores the first stay."""
    order = np.argsort(-scores, kind="stable")
    return np.sort(order[:count])


def settle(demands: Mapping[str, Demand], targets: Mapping[str, float]) -> dict[str, int]:
    """Round real-valued targets to allowed counts so that the weighted total is kept (largest remainder).

    Demands that round down take no part in settling.

    >>> d = Demand(np.ones(32), 0.3, step=8)
    >>> settle({"a": d, "b": d, "c": d, "d": d}, dict.fromkeys("abcd", 22.4))
    {'a': 24, 'b': 24, 'c': 24, 'd': 16}
    """
    bounds = {name: _neighbours(demand.levels(), targets[name]) for name, demand in demands.items()}
    counts = {name: low for name, (low, _) in bounds.items()}
    settled = [name for name, demand in demands.items() if not demand.down]
    missing = sum(demands[name].weight * (targets[name] - counts[name]) for name in settled)
    by_remainder = sorted(settled, key=lambda n: -_remainder(targets[n], *bounds[n]))
    for name in by_remainder:
        low, high = bounds[name]
        gain = demands[name].weight * (high - low)
        if gain and missing >= gain / 2:
            counts[name] = high
            missing -= gain
    return counts


def _share(demand: Demand) -> float:
    return demand.units * (1 - demand.ratio)


def _neighbours(levels: Sequence[int], target: float) -> tuple[int, int]:
    """Return the allowed counts around `target`; twice the same where it is outside or on one."""
    low = max((level for level in levels if level <= target + 1e-9), default=levels[0])
    high = min((level for level in levels if level >= target - 1e-9), default=levels[-1])
    return low, max(low, high)


def _remainder(target: float, low: int, high: int) -> float:
    return (target - low) / (high - low) if high > low else 0.0


def _global_targets(demands: Mapping[str, Demand]) -> dict[str, float]:
    """Return the kept counts above one threshold for all groups, set so that the requested share of units is removed.

    Groups never fall below their minimum, so the threshold rises until the others have made up for it.
    """
    if not demands:
        return {}
    wanted = round(sum(_share(demand) for demand in demands.values()))
    ranks = _ranks(demands)
    low, high = 0, sum(demand.units for demand in demands.values())
    while low < high:  # the lowest threshold that keeps no more than the wanted count
        middle = (low + high) // 2
        if sum(_above(demands, ranks, middle).values()) > wanted:
            low = middle + 1
        else:
            high = middle
    return {name: float(count) for name, count in _above(demands, ranks, low).items()}


def _ranks(demands: Mapping[str, Demand]) -> dict[str, npt.NDArray[np.intp]]:
    """Return the place of every unit among those of all groups; equal scores alternate between the groups."""
    scores = np.concatenate([demand.scores for demand in demands.values()])
    places = np.concatenate([-np.arange(demand.units) / demand.units for demand in demands.values()])
    ranks = np.argsort(np.lexsort((places, scores)))
    ends = np.cumsum([demand.units for demand in demands.values()])
    return dict(zip(demands, np.split(ranks, ends[:-1]), strict=True))


def _above(demands: Mapping[str, Demand], ranks: Mapping[str, npt.NDArray[np.intp]], threshold: int) -> dict[str, int]:
    return {
        name: max(min(demand.min_units, demand.units), int((ranks[name] >= threshold).sum()))
        for name, demand in demands.items()
    }
