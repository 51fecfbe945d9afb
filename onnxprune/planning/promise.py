"""Promises: plans are made again until what was measured meets what was asked for.

A prediction tells which plan to make; the plan is built and raced against the original, and the ratio of both
corrects the next prediction. What is kept is the plan that was measured to fit best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxprune.dependency.axes import Atom, Mask
from onnxprune.errors import NothingToPrune, OptionError, UnreachableTarget
from onnxprune.planning.plan import Bound, Machine, Plan
from onnxprune.planning.profile import RACE_S, Race, Speed
from onnxprune.planning.targets import MEASURED, Target
from onnxprune.progress import Progress, silent
from onnxprune.surgery.rewrite import Rewritten, new_sizes

ATTEMPTS = 8
CONFIRM = 3  # times the length of the first race, of a plan that seems to be good
AIM = 0.99  # of a target, so that noise does not lift the result above it
UNDER = 0.97  # of a target, from which a measured plan is good up to the target itself
OVER = 1.015  # of a target, up to which a plan is kept where none stayed below it: sessions of one model differ by more
NOISE = 1.02  # of the original's latency, above which a model is slower than it

Predict = Callable[[Mapping[Atom, int]], float]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A plan that was measured."""

    plan: Plan
    predicted: Mapping[str, float]  # by kind, as a fraction of the original
    measured: Mapping[str, float]
    race: Race
    steps: Mapping[Atom, int]  # of counts, that it was made with

    def worst(self, bounds: Mapping[str, float]) -> float:
        """Return the worst measured cost over its target."""
        return max((value / bounds[kind] for kind, value in self.measured.items() if kind in bounds), default=0.0)


@dataclass(frozen=True)
class Decided:
    """A plan, and how it was arrived at where that was by measuring."""

    plan: Plan
    bounds: tuple[tuple[Target, float], ...] = ()  # what was asked for, and as a fraction of the original
    tried: tuple[Attempt, ...] = ()  # plans that were raced
    best: Attempt | None = None  # the one that is kept
    steps: Mapping[str, int] = field(default_factory=dict)  # of counts, by group, where they were looked for
    complete: bool = True  # whether there was time to measure everything that predictions rest on
    unknown: int = 0  # nodes whose times were worked out from MACs

    @property
    def told(self) -> dict[str, Any] | None:
        """Plain values for the report; None where nothing was measured."""
        if self.best is None:
            return None
        targets = [
            {
                "target": str(target),
                "fraction": fraction,
                "predicted": self.best.predicted.get(target.kind),
                "measured": self.best.measured.get(target.kind),
            }
            for target, fraction in self.bounds
        ]
        final = {"complete": self.complete, "unknown": self.unknown}
        attempts = [{"predicted": dict(one.predicted), "measured": dict(one.measured)} for one in self.tried]
        return {"targets": targets, "attempts": attempts, "steps": dict(self.steps), **final}


def settle(
    plan_for: Callable[[Machine], Plan],
    masks_of: Callable[[Plan], Mapping[Atom, Mask]],
    build: Callable[[Mapping[Atom, Mask]], Rewritten],
    bounds: Sequence[Bound],
    *,
    speed: Speed,
    predict: Mapping[str, Predict],
    progress: Progress = silent,
) -> tuple[Attempt, tuple[Attempt, ...]]:
    """Return the plan that meets the bounds as measured, and all that were tried.

    Args:
        plan_for: makes a plan of what is known of costs.
        masks_of: tells what a plan keeps.
        build: makes the pruned model.
        bounds: by kind, fractions of the original; those of other kinds than `targets.MEASURED` are met by counting.
        speed: measures.
        predict: raw predictions, by kind.
        progress: is told what is done.

    Raises:
        OptionError: when a bound cannot be met, by the first prediction or by all races.
        NothingToPrune: when nothing that is measured is bounded, and every plan is slower than the original.
    """
    asked = {kind: value for kind, value in bounds if kind in MEASURED}
    factors, steps = dict.fromkeys(predict, 1 / AIM), dict(speed.steps)
    tried: list[Attempt] = []
    for number in range(ATTEMPTS):
        progress("planning and racing", number + 1, ATTEMPTS)
        machine = Machine({kind: _scaled(predict[kind], factors[kind]) for kind in predict}, steps)
        try:
            planned = plan_for(machine)
        except UnreachableTarget:
            if not tried:
                raise
            break  # what was raced is all there is
        if any(planned.kept == one.plan.kept for one in tried) or (tried and not planned.kept):
            break  # nothing new to race
        masks = masks_of(planned)
        last = _raced(planned, masks, build, asked=asked, speed=speed, predict=predict, steps=steps)
        tried.append(last)
        if not asked:
            if last.race.fraction <= NOISE:
                return last, tuple(tried)
            steps = {atom: min(2 * step, atom.size) for atom, step in steps.items()}
            continue
        worst = last.worst(asked)
        binding = max(last.predicted[kind] * factors[kind] / asked[kind] for kind in asked)
        if UNDER <= worst <= 1 or (worst < UNDER and binding < UNDER):
            break
        for kind, bound in asked.items():
            points = [(one.predicted[kind], one.measured[kind]) for one in tried]
            factors[kind] = bound / wanted(points, AIM * bound)
    if not asked:
        raise NothingToPrune(_slower(tried))
    below = [one for one in tried if one.worst(asked) <= 1]
    if below:
        return max(below, key=lambda one: one.worst(asked)), tuple(tried)
    best = min(tried, key=lambda one: one.worst(asked))
    if best.worst(asked) > OVER:
        raise _missed(tried, asked)
    return best, tuple(tried)


def wanted(points: Sequence[tuple[float, float]], goal: float) -> float:
    """Return the prediction at which a goal should be measured, of pairs of what was predicted and measured.

    Between the measurements around the goal, logarithms are taken to be linear; outside, the last error stays.

    >>> round(wanted([(0.5, 0.6)], 0.54), 3), round(wanted([(0.6, 0.36), (1.0, 1.0)], 0.6), 3)
    (0.45, 0.775)
    """
    below = max(((found, raw) for raw, found in points if found <= goal), default=None)
    above = min(((found, raw) for raw, found in points if found > goal), default=None)
    if below is None or above is None or not 0 < below[1] < above[1]:
        raw, found = points[-1]
        return goal * raw / found
    share = math.log(goal / below[0]) / math.log(above[0] / below[0])
    return float(below[1] * (above[1] / below[1]) ** share)


def _scaled(raw: Predict, factor: float) -> Predict:
    """Return a corrected prediction; what is not cut costs what the original does."""
    return lambda sizes: factor * raw(sizes) if any(size != atom.size for atom, size in sizes.items()) else 1.0


def _raced(
    planned: Plan,
    masks: Mapping[Atom, Mask],
    build: Callable[[Mapping[Atom, Mask]], Rewritten],
    *,
    asked: Mapping[str, float],
    speed: Speed,
    predict: Mapping[str, Predict],
    steps: Mapping[Atom, int],
) -> Attempt:
    """Build a plan and measure it; one that seems to be good is raced again, for longer."""
    proto, sizes = build(masks).proto, new_sizes(masks)
    race = speed.race(proto)
    if "latency" in asked and UNDER <= race.fraction / asked["latency"] <= OVER:
        race = speed.race(proto, CONFIRM * RACE_S)
    found = {"latency": race.fraction}
    if "memory" in asked:
        memory = speed.memory(proto)
        if memory is None:
            raise OptionError("target memory cannot be promised: the memory of the pruned model could not be measured")
        found["memory"] = memory
    return Attempt(planned, {kind: raw(sizes) for kind, raw in predict.items()}, found, race, steps)


def _missed(tried: Sequence[Attempt], asked: Mapping[str, float]) -> OptionError:
    """Return the error of a target that no plan met when it was measured."""
    best = min(tried, key=lambda one: one.worst(asked))
    told = ", ".join(f"{kind} {best.measured[kind]:.3f} (asked for {value:.3f})" for kind, value in asked.items())
    return OptionError(
        f"target missed: the best of {len(tried)} plans that were raced has {told} of the original's; ask for more, "
        "or leave the machine to this measurement"
    )


def _slower(tried: Sequence[Attempt]) -> str:
    best = min(tried, key=lambda one: one.race.fraction).race
    return (
        f"every plan that was raced is slower here than the original ({best.before_ms:.3g} ms before, "
        f"{best.after_ms:.3g} ms after at best): nothing is written; give --round-to a number to prune all the same"
    )
