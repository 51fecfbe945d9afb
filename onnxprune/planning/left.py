"""Targets of a run that changes a model before it cuts units: what is still to go, in terms of the changed model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnxprune.planning.options import Options


@dataclass(frozen=True)
class Cost:
    """What a kind of cost is of the original, and which share of it the changed model has."""

    original: float
    share: float


def targets_left(options: Options, costs: Mapping[str, Cost]) -> tuple[tuple[str, float | str], ...]:
    """Return the targets in terms of the changed model, without those that it meets."""
    left: list[tuple[str, float | str]] = []
    for target in options.bounds:
        cost = costs.get(target.kind, Cost(1.0, 1.0))
        goal = target.fraction(cost.original) / cost.share
        if goal < 1:
            left.append((target.kind, goal if target.is_fraction else target.text if target.unit else target.value))
    return tuple(left)


def rest_of(options: Options, costs: Mapping[str, Cost]) -> Options | None:
    """Return options that cut what is still to go from the changed model; None where its targets are met already."""
    targets = targets_left(options, costs)
    if options.targets and not targets and not (options.ratios or options.shape):
        return None
    ratio = 0.0 if options.targets and not targets else options.ratio
    return replace(options, targets=targets, ratio=ratio)
