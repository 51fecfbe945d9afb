"""Targets of a run that changes a model before it cuts units: what is still to go, in terms of the changed model."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from onnxprune.dependency.cost import CACHE
from onnxprune.graph.model import Model
from onnxprune.graph.ports import cache_bytes
from onnxprune.planning.options import Options
from onnxprune.planning.targets import measured_amount


@dataclass(frozen=True)
class Cost:
    """What a kind of cost is of the original, and which share of it the changed model has."""

    original: float
    share: float


def costs_left(
    before: Model,
    after: Model,
    macs: tuple[int, int],
    timing: Callable[[], Mapping[str, tuple[float, float]]],
    options: Options,
) -> dict[str, Cost]:
    """Return what the original costs, and the share of it that the changed model does, by kind of target.

    Args:
        before: the original.
        after: the changed model, in memory.
        macs: of both.
        timing: measures both, for kinds that no count tells; called where targets need it.
        options: that have the targets.
    """
    caches = cache_bytes(before.inputs), cache_bytes(after.inputs, before.inputs)
    counts: dict[str, tuple[float, float]] = {
        "macs": macs,
        "params": (before.stored_params, after.needed_params),
        "size": (before.size_bytes(), after.needed_bytes),
        CACHE: caches,
    }
    if any(target.kind not in counts for target in options.bounds):
        counts |= timing()
    return {kind: Cost(one, other / one if one else 1.0) for kind, (one, other) in counts.items()}


def targets_left(
    options: Options, costs: Mapping[str, Cost], deployed: Collection[str] = ()
) -> tuple[tuple[str, float | str], ...]:
    """Return the targets in terms of the changed model, without those that it meets.

    Args:
        options: that have the targets.
        costs: by kind of target.
        deployed: kinds of targets that are not of the changed model but of what is made of it, which may miss them.
    """
    left: list[tuple[str, float | str]] = []
    for target in options.bounds:
        cost = costs.get(target.kind, Cost(1.0, 1.0))
        goal = target.fraction(cost.original) / cost.share if cost.share else math.inf
        if goal < 1:
            left.append((target.kind, goal if target.is_fraction else target.text if target.unit else target.value))
        elif target.kind in deployed:
            left.append((target.kind, measured_amount(target.kind, goal * cost.share * cost.original)))
    return tuple(left)


def rest_of(options: Options, costs: Mapping[str, Cost], deployed: Collection[str] = ()) -> Options | None:
    """Return options that cut what is still to go from the changed model; None where its targets are met already.

    Arguments are as of `targets_left`.
    """
    targets = targets_left(options, costs, deployed)
    if options.targets and not targets and not (options.ratios or options.shape):
        return None
    ratio = 0.0 if options.targets and not targets else options.ratio
    return replace(options, targets=targets, ratio=ratio)
