"""Sensitivity: the loss of the output when each group alone loses units, and a verdict on each.

The verdicts compare the groups of one model with one another, so that no number is a scale of losses:

- *typical* is the median, over the groups, of the loss with half of the units removed;
- units are *free* while the loss is at most the typical one over `PRACTICALLY_NONE`;
- a group is to be *protected* where half of its units cost `DEAR` times the median loss per MAC that they save, unless
  half of them are free: groups that save next to nothing are dear per MAC even where they cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from onnxprune.calibration.batches import Calibration
from onnxprune.dependency import cost
from onnxprune.dependency.groups import Group
from onnxprune.dependency.trace import Trace
from onnxprune.metrics.metric import CAP
from onnxprune.planning.choice import first_sink
from onnxprune.planning.curves.curve import Curve
from onnxprune.planning.curves.gradients import choose_source
from onnxprune.planning.curves.measured import Cut, measure_curves, scheduled
from onnxprune.planning.curves.schedule import Schedule
from onnxprune.planning.options import Options
from onnxprune.planning.plan import budget_of, cuts, detail_of
from onnxprune.progress import Progress, silent
from onnxprune.runtime.executors import ALONE, Workers

LEVELS = 8  # of removed units in each group
PRACTICALLY_NONE = 20  # the typical loss is so many times that of units that are free
DEAR = 10  # times the median loss per MAC
ROUND_OFF = 1e-10  # of a loss, which is quadratic in what float32 rounds

Verdict: TypeAlias = Literal["protect", "free"]


@dataclass(frozen=True)
class Level:
    """What it costs and saves to remove some units of a group."""

    removed: int  # units
    loss: float | None  # of the output; None where it was not measured
    error: float  # of the layers that consume the units, over the variance of their outputs
    macs: float  # that are saved, over those of the model
    params: float


@dataclass(frozen=True)
class Sensitive:
    """One group, or several that lose the same units."""

    name: str  # of the first
    groups: tuple[str, ...]
    kind: str
    units: int
    macs: float  # that its units take part in, over those of the model
    params: float
    levels: tuple[Level, ...]  # by removed units, ascending, from 0
    free: int = 0  # units that can be removed at practically no loss
    verdict: Verdict | None = None

    def loss_at(self, share: float) -> float | None:
        """Return the loss with this share of the units removed; None where it was not measured or is not allowed."""
        known = [(level.removed, level.loss) for level in self.levels if level.loss is not None]
        if not known or share * self.units > known[-1][0]:
            return None
        removed, losses = zip(*known, strict=True)
        return float(np.interp(share * self.units, removed, np.maximum.accumulate(losses)))

    def macs_at(self, share: float) -> float:
        """Return the MACs, over those of the model, that are saved with this share of the units removed."""
        removed = [level.removed for level in self.levels]
        return float(np.interp(share * self.units, removed, [level.macs for level in self.levels]))


@dataclass(frozen=True)
class Sensitivity:
    """The loss of the output of a model when its groups lose units, one group at a time."""

    path: str | None
    sha256: str
    metric: str  # the kind of outputs; docs/sensitivity.md says which loss it has
    reconstruct: bool  # whether the layers that consume the units were refitted
    samples: int  # of the data, fitted to and judged on
    judged: int  # samples that losses are measured on
    losses: int  # of the levels of all groups
    measured: int  # of these; the others are told by the errors of the layers that consume the units
    held_out: bool  # whether nothing was fitted to those samples
    typical: float  # loss: the median, over the groups, with half of the units removed
    free_macs: float  # saved when all groups whose verdict is "free" lose their free units, over those of the model
    free_params: float
    groups: tuple[Sensitive, ...]  # in the order of the graph

    @property
    def protect(self) -> tuple[Sensitive, ...]:
        """The groups that are better left alone."""
        return tuple(group for group in self.groups if group.verdict == "protect")

    @property
    def free(self) -> tuple[Sensitive, ...]:
        """The groups that can lose units at practically no loss."""
        return tuple(group for group in self.groups if group.verdict == "free")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = asdict(self)
        return {"input": {"path": plain.pop("path"), "sha256": plain.pop("sha256")}, **plain}


def measure(
    traced: Trace,
    groups: Sequence[Group],
    ratios: Mapping[str, float],
    calibration: Calibration,
    options: Options,
    *,
    levels: int = LEVELS,
    progress: Progress = silent,
    workers: Workers = ALONE,
) -> Sensitivity:
    """Return the sensitivity of each group that has a ratio; no groups where none can lose a unit.

    Args:
        traced: the model with its axes.
        groups: its groups.
        ratios: ratio by group name, from `select_ratios`.
        calibration: samples and the loss of an output.
        options: of which curves, reconstruct, round_to, min_units, seed and effort count.
        levels: of removed units in each group, at most.
        progress: called before each step.
        workers: where curves are measured.
    """
    options = options.resolved(True)
    allowed = sorted(cuts(traced, groups, ratios, options), key=lambda cut: first_sink(cut.groups[0]))
    wanted, curves = _curves(traced, allowed, calibration, options, levels=levels, progress=progress, workers=workers)
    saved = _Saved(traced, allowed)
    judged = judge([_sensitive(cut, curves[cut.name], saved) for cut in allowed], [cut.removed for cut in allowed])
    free = {group.name: group.free for group in judged if group.verdict == "free"}
    return Sensitivity(
        path=str(traced.model.path) if traced.model.path else None,
        sha256=traced.model.sha256(),
        metric=calibration.metric.loss_by.label,
        reconstruct=bool(options.reconstruct),
        samples=calibration.samples,
        judged=sum(calibration.counts[number] for number in calibration.judged[: wanted.batches]) if judged else 0,
        losses=wanted.all,
        measured=wanted.count(),
        held_out=bool(calibration.held),
        typical=typical_loss(judged),
        free_macs=saved.of("macs", free),
        free_params=saved.of("params", free),
        groups=tuple(judged),
    )


def _curves(
    traced: Trace,
    allowed: Sequence[Cut],
    calibration: Calibration,
    options: Options,
    *,
    levels: int,
    progress: Progress,
    workers: Workers,
) -> tuple[Schedule, dict[str, Curve]]:
    """Return which losses were measured, and the curve of each cut, at so many levels."""
    spread_cuts = [replace(cut, removed=spread(cut, levels)) for cut in allowed]
    budget = budget_of(traced, calibration, options.effort)
    every = scheduled(traced, spread_cuts, calibration, budget, levels=levels)
    wanted, slopes = choose_source(traced, spread_cuts, calibration, options, every, levels=levels, progress=progress)
    curves = measure_curves(
        traced,
        spread_cuts,
        calibration,
        wanted=wanted,
        slopes=slopes,
        detail=detail_of(traced, spread_cuts, calibration, options.effort)[0],
        refitted=bool(options.reconstruct),
        seed=options.seed,
        levels=levels,
        progress=progress,
        workers=workers,
    )
    return wanted, curves


def spread(cut: Cut, levels: int) -> tuple[int, ...]:
    """Return so many of the allowed counts at most, those next to even shares of the last one."""
    allowed = np.array(cut.removed)
    wanted = allowed[-1] * np.arange(1, levels + 1) / levels
    return tuple(sorted({int(allowed[np.abs(allowed - count).argmin()]) for count in wanted}))


def _sensitive(cut: Cut, curve: Curve, saved: _Saved) -> Sensitive:
    losses = [None] * len(curve.removed) if curve.losses is None else [min(loss, CAP) for loss in curve.losses]
    levels = [
        Level(count, loss, error, saved.of("macs", {cut.name: count}), saved.of("params", {cut.name: count}))
        for count, loss, error in zip(curve.removed, losses, curve.errors, strict=True)
    ]
    first = cut.groups[0]
    names = tuple(group.name for group in cut.groups)
    return Sensitive(cut.name, names, first.kind, first.units, *saved.share(cut), tuple(levels))


class _Saved:
    """What removing units saves, over the costs of the model."""

    def __init__(self, traced: Trace, allowed: Sequence[Cut]) -> None:
        self._cuts = {cut.name: cut for cut in allowed}
        self._counter = cost.Counter(traced)
        self._by_atom, self._all = cost.macs_by_atom(traced), max(1, cost.macs(traced))
        self._params = max(1, traced.model.params)

    def of(self, kind: str, removed: Mapping[str, int]) -> float:
        """Return the share of the MACs or params that removing so many units saves."""
        gone = ((group, count) for name, count in removed.items() for group in self._cuts[name].groups)
        return 1 - self._counter.fraction(kind, {group.atom: group.units - count for group, count in gone})

    def share(self, cut: Cut) -> tuple[float, float]:
        """Return the shares of the MACs and params that the units of a cut take part in."""
        macs = sum(self._by_atom.get(group.atom, 0) for group in cut.groups)
        params = sum(group.params for group in cut.groups)
        return min(1.0, macs / self._all), min(1.0, params / self._params)


# -- verdicts ----------------------------------------------------------------------------------------------


def judge(groups: Sequence[Sensitive], allowed: Sequence[Sequence[int]]) -> list[Sensitive]:
    """Return the groups with how many units are free, and their verdicts.

    Args:
        groups: those of one model.
        allowed: for each, the counts that may be removed, ascending.
    """
    bound = max(typical_loss(groups) / PRACTICALLY_NONE, ROUND_OFF)
    dear = DEAR * _median([_price(group) for group in groups])
    judged = []
    for group, counts in zip(groups, allowed, strict=True):
        costs = [(count, group.loss_at(count / group.units)) for count in counts]
        free = max((count for count, loss in costs if loss is not None and loss <= bound), default=0)
        price = _price(group)
        is_dear = price is not None and price > dear and (_halved(group) or 0) > bound
        judged.append(replace(group, free=free, verdict="protect" if is_dear else "free" if free else None))
    return judged


def typical_loss(groups: Sequence[Sensitive]) -> float:
    """Return the median loss with half of the units of one group removed."""
    return _median([_halved(group) for group in groups])


def _half(group: Sensitive) -> float:
    """Return the share that stands for half of the units: the largest allowed one where half is not allowed."""
    return min(0.5, group.levels[-1].removed / group.units)


def _halved(group: Sensitive) -> float | None:
    return group.loss_at(_half(group))


def _price(group: Sensitive) -> float | None:
    """Return the loss per MAC with half of the units removed; None where no loss was measured or no MACs are saved."""
    loss, saved = _halved(group), group.macs_at(_half(group))
    return None if loss is None or saved <= 0 else loss / saved


def _median(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else 0.0
