"""Promises: plans are made again until the measured costs meet the targets.

A prediction tells which plan to make; the plan is built and raced against the original, and the ratio of measurement
to prediction corrects the next prediction. The plan whose measured costs fit the targets best is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from onnxprune.dependency.axes import Atom, Mask
from onnxprune.errors import NothingToPrune, OptionError, UnreachableTarget
from onnxprune.graph.model import Model
from onnxprune.latency.bench import Race
from onnxprune.planning.costs import Bound, Predict
from onnxprune.planning.plan import Machine, Plan
from onnxprune.planning.profile import CONFIRM, OVER, RACE_S, Speed
from onnxprune.planning.targets import MEASURED, Target
from onnxprune.progress import Progress, silent
from onnxprune.surgery.rewrite import Rewritten, new_sizes

_NOTHING: Mapping[str, float] = MappingProxyType({})
ATTEMPTS = 8
MORE = 1.2  # times the prediction is asked for where that led to a plan that was raced already, and none is above it
REPEATS = 2  # of plans that were raced already, until it is believed that there is none between them
AIM = 0.99  # of a target, so that noise does not lift the result above it
UNDER = 0.97  # of a target, from which a measured plan is good up to the target itself
EXACT = 1 + 1e-9  # of a target that is counted, for the rounding of its fraction
NOISE = 1.02  # of the original's latency, above which a model is slower than it


@dataclass(frozen=True, slots=True)
class Attempt:
    """A plan that was measured."""

    plan: Plan
    predicted: Mapping[str, float]  # by kind, as a fraction of the original
    measured: Mapping[str, float]
    race: Race
    steps: Mapping[Atom, int]  # of kept counts, that the plan was made with

    def worst(self, bounds: Mapping[str, float]) -> float:
        """Return the worst measured cost over its target."""
        return max((value / bounds[kind] for kind, value in self.measured.items() if kind in bounds), default=0.0)


def check_written(bounds: Sequence[tuple[Target, float]], costs: Mapping[str, float], over: float = OVER) -> None:
    """Compare what was written with the targets.

    Args:
        bounds: the targets, each with its fraction of the original.
        costs: by kind of target, what the written files cost over what the original does.
        over: of a target that is measured, up to which it counts as met.

    Raises:
        OptionError: when a target is missed, one that is measured by more than timings of one model differ; or when
            the cost of its kind is not known.
    """
    for target, _ in bounds:
        if target.kind not in costs:
            raise OptionError(
                f"target {target} cannot be promised: the {target.kind} of what would be written could not be "
                "measured; nothing was written: try again, or ask for another kind of target"
            )
    missed = [
        f"{target.kind} {costs[target.kind]:.4g} of the original's (asked for {fraction:.4g})"
        for target, fraction in bounds
        if not costs[target.kind] <= fraction * (over if target.kind in MEASURED else EXACT)
    ]
    if missed:
        raise OptionError(
            f"target missed: what would be written has {', '.join(missed)}; nothing was written: ask for more, or, "
            "where it is measured, leave the machine to this measurement"
        )


@dataclass(frozen=True)
class Decision:
    """The plan that is kept, with the attempts that led to it where costs were measured."""

    plan: Plan
    bounds: tuple[tuple[Target, float], ...] = ()  # each with its fraction of the original
    attempts: tuple[Attempt, ...] = ()  # plans that were raced
    accepted: Attempt | None = None  # the one that is kept
    steps: Mapping[str, int] = field(default_factory=dict)  # of kept counts, by group, where they were measured
    complete: bool = True  # whether there was time to measure everything that predictions rest on
    unknown: int = 0  # nodes whose times were worked out from MACs
    # of a written model over the original's, where it is bounded: memory, and latency by a race of so many seconds
    memory: Callable[[Model], float | None] | None = None
    latency: Callable[[Model, float], Race] | None = None
    over: float = OVER  # of a target that is measured, up to which it counts as met
    unsure: float = 0.0  # half of the 95 % interval of a usual race on the user's timer, over the latency

    def report_values(
        self, written: Mapping[str, float] = _NOTHING, unsure: float | None = None
    ) -> dict[str, Any] | None:
        """Return plain values for the report; None where nothing was measured.

        Args:
            written: what the written files cost over what the original does, by kind of target.
            unsure: half of the 95 % interval of the latency in that, over it.
        """
        if self.accepted is None:
            return None
        targets = [
            {
                "target": str(target),
                "fraction": fraction,
                "predicted": self.accepted.predicted.get(target.kind),
                "measured": (written if target.kind in MEASURED else _NOTHING).get(target.kind),
                "unsure": unsure if target.kind == "latency" else None,
            }
            for target, fraction in self.bounds
        ]
        final = {"complete": self.complete, "unknown": self.unknown}
        attempts = [{"predicted": dict(one.predicted), "measured": dict(one.measured)} for one in self.attempts]
        return {"targets": targets, "attempts": attempts, "steps": dict(self.steps), **final}


def meet_targets(
    plan_for: Callable[[Machine], Plan],
    masks_of: Callable[[Plan], Mapping[Atom, Mask]],
    build: Callable[[Mapping[Atom, Mask]], Rewritten],
    bounds: Sequence[Bound],
    *,
    speed: Speed,
    predict: Mapping[str, Predict],
    whole: Mapping[str, float] = _NOTHING,
    progress: Progress = silent,
) -> tuple[Attempt, tuple[Attempt, ...]]:
    """Return the attempt whose measured costs meet the bounds, and all attempts.

    Args:
        plan_for: makes a plan from what is known of costs.
        masks_of: returns the masks of the units that a plan keeps.
        build: makes the pruned model.
        bounds: by kind, fractions of the original; those of other kinds than `targets.MEASURED` are met by counting.
        speed: measures.
        predict: raw predictions, by kind.
        whole: by kind, what the model costs without cuts as it is deployed, where that is not what the original does.
        progress: called before each step.

    Raises:
        OptionError: when a bound cannot be met, by the first prediction or by all races.
        NothingToPrune: when nothing that is measured is bounded, and every plan is slower than the original.
    """
    measured_bounds = {kind: value for kind, value in bounds if kind in MEASURED}
    factors, steps, repeats = dict.fromkeys(predict, 1 / AIM), dict(speed.steps), 0
    attempts: list[Attempt] = []
    for number in range(ATTEMPTS):
        progress("planning and racing", number + 1, ATTEMPTS)
        try:
            planned = plan_for(_machine(predict, factors, whole, steps))
        except UnreachableTarget:
            if not attempts:
                raise
            break  # no further plan is predicted to meet the bounds
        known = next((one for one in attempts if one.plan.kept == planned.kept), None)
        if known is not None or (attempts and not planned.kept):
            if known is None or repeats == REPEATS or not measured_bounds:
                break  # nothing new to race
            repeats += 1
            factors |= _asking_for_more(factors, attempts, known, measured_bounds)
            continue
        attempt = _raced(
            planned, masks_of(planned), build, bounds=measured_bounds, speed=speed, predict=predict, steps=steps
        )
        attempts.append(attempt)
        if not measured_bounds:
            if attempt.race.fraction <= max(NOISE, speed.over):
                return attempt, tuple(attempts)
            steps = {atom: min(2 * step, atom.size) for atom, step in steps.items()}
            continue
        if UNDER <= attempt.worst(measured_bounds) <= 1:
            break
        factors |= _corrected(attempts, measured_bounds)
    if not measured_bounds:
        raise NothingToPrune(_slower(attempts))
    return _accepted(attempts, measured_bounds, speed.over), tuple(attempts)


def _accepted(attempts: Sequence[Attempt], bounds: Mapping[str, float], over: float) -> Attempt:
    """Return the attempt that comes closest to the bounds from below; from above where it misses by little.

    Raises:
        OptionError: when all miss by more than that.
    """
    below = [attempt for attempt in attempts if attempt.worst(bounds) <= 1]
    if below:
        return max(below, key=lambda attempt: attempt.worst(bounds))
    best = min(attempts, key=lambda attempt: attempt.worst(bounds))
    if best.worst(bounds) > over:
        raise _missed(attempts, bounds)
    return best


def wanted(points: Sequence[tuple[float, float]], goal: float) -> float:
    """Return the prediction at which a goal should be measured, from pairs of prediction and measurement.

    Between the measurements around the goal, logarithms are taken to be linear; where that came out on the same side
    twice, what is between them is halved, as false position alone may hardly move. Outside, the last error stays.

    >>> round(wanted([(0.5, 0.6)], 0.54), 3), round(wanted([(0.6, 0.36), (1.0, 1.0)], 0.6), 3)
    (0.45, 0.775)
    >>> round(wanted([(1.0, 1.0), (0.6, 0.36), (0.7, 0.4)], 0.6), 3)
    0.837
    """
    below = max(((measured, predicted) for predicted, measured in points if measured <= goal), default=None)
    above = min(((measured, predicted) for predicted, measured in points if measured > goal), default=None)
    if below is None or above is None or not 0 < below[1] < above[1]:
        predicted, measured = points[-1]
        return goal * predicted / measured
    sides = [measured <= goal for _, measured in points[-2:]]
    stalled = len(points) > 2 and sides[0] == sides[1]
    share = 0.5 if stalled else math.log(goal / below[0]) / math.log(above[0] / below[0])
    return float(below[1] * (above[1] / below[1]) ** share)


def _corrected(attempts: Sequence[Attempt], bounds: Mapping[str, float]) -> dict[str, float]:
    """Return, by kind, what predictions are multiplied with, so that a plan within its bound should be measured so."""
    points = {kind: [(one.predicted[kind], one.measured[kind]) for one in attempts] for kind in bounds}
    return {kind: bound / wanted(points[kind], AIM * bound) for kind, bound in bounds.items()}


def _asking_for_more(
    factors: Mapping[str, float], attempts: Sequence[Attempt], known: Attempt, bounds: Mapping[str, float]
) -> dict[str, float]:
    """Return the factors that let plans be larger, where those in use led to a plan that is `known`.

    In the kinds in which it came out below the goal, predictions go half of the way to the least one that was measured
    above it.
    """
    more = {}
    for kind, bound in bounds.items():
        if known.measured[kind] <= AIM * bound:
            asked = bound / factors[kind]
            above = [one.predicted[kind] for one in attempts if one.measured[kind] > AIM * bound]
            end = min((value for value in above if value > asked), default=asked * MORE)
            more[kind] = bound / math.sqrt(asked * end)
    return more


def _machine(
    predict: Mapping[str, Predict], factors: Mapping[str, float], whole: Mapping[str, float], steps: Mapping[Atom, int]
) -> Machine:
    """Return what plans cost, by predictions that are corrected."""
    return Machine({kind: _scaled(predict[kind], factors[kind], whole.get(kind, 1.0)) for kind in predict}, steps)


def _scaled(raw: Predict, factor: float, whole: float) -> Predict:
    """Return a corrected prediction; what a model without cuts costs is known."""
    return lambda sizes: factor * raw(sizes) if any(size != atom.size for atom, size in sizes.items()) else whole


def _raced(
    planned: Plan,
    masks: Mapping[Atom, Mask],
    build: Callable[[Mapping[Atom, Mask]], Rewritten],
    *,
    bounds: Mapping[str, float],
    speed: Speed,
    predict: Mapping[str, Predict],
    steps: Mapping[Atom, int],
) -> Attempt:
    """Build a plan and measure it; one that seems to meet the target is raced again, for longer."""
    proto, sizes = speed.raced_part(build(masks)), new_sizes(masks)
    race = speed.race(proto)
    if "latency" in bounds and UNDER <= race.fraction / bounds["latency"] <= speed.over:
        race = speed.race(proto, CONFIRM * RACE_S)
    measured = {"latency": race.fraction}
    if "memory" in bounds:
        memory = speed.memory(proto)
        if memory is None:
            raise OptionError("target memory cannot be promised: the memory of the pruned model could not be measured")
        measured["memory"] = memory
    return Attempt(planned, {kind: raw(sizes) for kind, raw in predict.items()}, measured, race, steps)


def _missed(attempts: Sequence[Attempt], bounds: Mapping[str, float]) -> OptionError:
    """Return the error of a target that no plan met when it was measured."""
    best = min(attempts, key=lambda one: one.worst(bounds))
    costs = ", ".join(f"{kind} {best.measured[kind]:.3f} (asked for {bound:.3f})" for kind, bound in bounds.items())
    return OptionError(
        f"target missed: the best of {len(attempts)} plans that were raced has {costs} of the original's; ask for "
        "more, or leave the machine to this measurement"
    )


def _slower(attempts: Sequence[Attempt]) -> str:
    best = min(attempts, key=lambda one: one.race.fraction).race
    return (
        f"every plan that was raced is slower here than the original ({best.before_ms:.3g} ms before, "
        f"{best.after_ms:.3g} ms after at best): nothing is written; give --round-to a number to prune all the same"
    )
