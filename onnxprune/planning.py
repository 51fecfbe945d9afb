"""Planning: scores, loss curves, costs and what is asked become the units that every group keeps."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from onnxprune import allocate, cost, importance, knapsack
from onnxprune.axes import Atom, Mask
from onnxprune.calibrate import Calibration
from onnxprune.choice import asked
from onnxprune.curves import Curve, Cut, measure_curves, usual_slope
from onnxprune.effective import ConstantValues
from onnxprune.errors import OptionError
from onnxprune.groups import Group, kin, matrices
from onnxprune.options import TARGETS, Options
from onnxprune.progress import Progress, silent
from onnxprune.statistics import activations
from onnxprune.trace import Trace

ROUND_CHANNELS = 8  # counts that are no multiple of it leave the blocked layouts of CPU and GPU kernels
LEVELS = 48  # of a group that the knapsack chooses from, at most

Tied = Mapping[str, Mapping[str, Group]]  # first of the groups that lose the same units -> all of them, by name


@dataclass(frozen=True)
class Plan:
    """Which units every group keeps, and what that was decided by."""

    kept: Mapping[str, tuple[int, ...]]  # by name of the groups that lose units
    curves: Mapping[str, Curve] = field(default_factory=dict)  # by name of the first of those that lose the same units


def plan(
    traced: Trace,
    found: Sequence[Group],
    chosen: Mapping[str, float],
    options: Options,
    *,
    calibration: Calibration | None = None,
    progress: Progress = silent,
) -> Plan:
    """Return the units that every group keeps.

    Args:
        traced: the model with its axes.
        found: its groups.
        chosen: ratio by group name, from `choose`.
        options: criterion, scope, targets and rounding, resolved.
        calibration: what statistics and loss curves are made from.
        progress: is told what is done.

    Raises:
        OptionError: when the criterion can score none of the groups, or a target cannot be reached.
    """
    options = options.resolved(calibration is not None)
    tied = _tied(found, chosen, traced)
    seen: Mapping[str, Sequence[importance.Seen]] = {}
    if calibration is not None and importance.CRITERIA[str(options.criterion)].data and options.criterion != "obs":
        wanted = [group for names in tied.values() for group in names.values()]
        seen = activations(traced, wanted, calibration.batches, progress=progress)
    demands = _demands(traced, found, tied, chosen=chosen, options=options, seen=seen)
    if chosen and not demands:
        raise OptionError(
            f"criterion {options.criterion!r} finds no weights that it can score: the model has no "
            "BatchNormalization (exporters fold it into convolutions); use l2"
        )
    curves: dict[str, Curve] = {}
    if calibration is not None and (options.scope == "loss" or options.criterion == "obs"):
        curves = measure_curves(
            traced,
            _cuts(tied, demands, options),
            calibration,
            to_output=options.scope == "loss",
            refitted=bool(options.reconstruct),
            seed=options.seed,
            progress=progress,
        )
        demands = {n: replace(d, scores=_ranked(d.scores, curves.get(n))) for n, d in demands.items()}
    kept = _allocated(_Costs(traced, tied), demands, curves, options, asked(found, options).keys())
    cut = {first: tuple(units.tolist()) for first, units in kept.items() if len(units) < demands[first].units}
    return Plan({name: cut[first] for first, names in tied.items() if first in cut for name in names}, curves)


def cuts(traced: Trace, found: Sequence[Group], chosen: Mapping[str, float], options: Options) -> list[Cut]:
    """Return what may be cut of the chosen groups, with all counts that are allowed; see `plan` for the arguments.

    Units go in the order of their error (`obs`): criteria that look at data first have no scores here.
    """
    tied = _tied(found, chosen, traced)
    return _cuts(tied, _demands(traced, found, tied, chosen=chosen, options=options, seen={}), options)


def _demands(
    traced: Trace,
    found: Sequence[Group],
    tied: Tied,
    *,
    chosen: Mapping[str, float],
    options: Options,
    seen: Mapping[str, Sequence[importance.Seen]],
) -> dict[str, allocate.Demand]:
    """Return what is asked of each set of groups that lose the same units, with scores by the criterion."""
    rng = np.random.default_rng(options.seed)
    shares, values = cost.shares(traced, found), ConstantValues(traced.model)
    criterion = "l2" if options.criterion == "obs" else str(options.criterion)  # obs ranks units while curves are made
    demands: dict[str, allocate.Demand] = {}
    for first, names in tied.items():
        scores = [importance.score(criterion, matrices(names[n], traced, values), rng, seen.get(n, ())) for n in names]
        known = [score for score in scores if score is not None]
        if known:
            share = sum(shares[name] for name in names)
            demands[first] = _demand(names[first], np.mean(known, axis=0), chosen[first], share, options)
    return demands


def _cuts(tied: Tied, demands: Mapping[str, allocate.Demand], options: Options) -> list[Cut]:
    """Return what is asked for as cuts, without those that no count allows."""
    found = []
    for name, demand in demands.items():
        removed = tuple(sorted(demand.units - count for count in demand.levels() if count < demand.units))
        if removed:
            found.append(Cut(name, tuple(tied[name].values()), removed, demand.scores, options.criterion != "obs"))
    return found


def _ranked(scores: importance.Scores, curve: Curve | None) -> importance.Scores:
    """Return scores that rise in the order of a curve, by the errors that it has; units that never go come last."""
    if curve is None:
        return scores
    ranked = np.full(len(scores), curve.errors[-1] + 1.0)
    steps = np.arange(1, len(curve.order) + 1)
    errors = np.interp(steps, curve.removed, np.maximum.accumulate(curve.errors))
    ranked[list(curve.order)] = errors + 1e-9 * steps
    return ranked


class _Costs:
    """What plans cost, over the original."""

    def __init__(self, traced: Trace, tied: Tied) -> None:
        self._atoms = {first: [group.atom for group in names.values()] for first, names in tied.items()}
        self._units = {first: next(iter(names.values())).units for first, names in tied.items()}
        self._counter = cost.Counter(traced, [atom for atoms in self._atoms.values() for atom in atoms])

    def of(self, kind: str, removed: Mapping[str, int]) -> float:
        """Return the MACs or params that are left when so many units are gone, over the original's."""
        gone = {first: count for first, count in removed.items() if count}
        sizes = {atom: self._units[first] - count for first, count in gone.items() for atom in self._atoms[first]}
        return self._counter.fraction(kind, sizes)

    def saved(self, removed: Mapping[str, int]) -> tuple[str, float]:
        """Return the target that a plan reaches: MACs, or params where it saves no MACs."""
        reached = {kind: self.of(kind, removed) for kind in TARGETS}
        return next(((kind, value) for kind, value in reached.items() if 0 < value < 1), ("params", 1.0))

    def over(self, targets: Sequence[tuple[str, float]], removed: Mapping[str, int]) -> float:
        """Return the worst cost over its target: at most 1 where all are met."""
        return max(self.of(kind, removed) / value for kind, value in targets)


def _allocated(
    costs: _Costs,
    demands: Mapping[str, allocate.Demand],
    curves: Mapping[str, Curve],
    options: Options,
    named: Collection[str],
) -> dict[str, npt.NDArray[np.intp]]:
    """Return the kept units: by loss curves, by the ratio that meets the targets, or by the ratios as they are.

    Groups that are `named` with a ratio of their own have that, whatever becomes of the others.
    """
    scope = str(options.scope)
    own = {name: demand for name, demand in demands.items() if name in named}
    common = {name: demand for name, demand in demands.items() if name not in own}
    fixed = allocate.allocate(own, "group")
    gone = {name: demands[name].units - len(units) for name, units in fixed.items()}
    if scope == "loss":
        even = allocate.allocate(common, "group")
        removed = {name: demands[name].units - len(units) for name, units in even.items()}
        targets = options.targets or (costs.saved({**gone, **removed}),)
        return {**_by_loss(costs, common, curves, targets, gone), **fixed}
    if options.targets:
        common = _meeting(costs, common, options.targets, gone, scope)
    return {**allocate.allocate(common, scope), **fixed}


def _by_loss(
    costs: _Costs,
    demands: Mapping[str, allocate.Demand],
    curves: Mapping[str, Curve],
    targets: Sequence[tuple[str, float]],
    gone: Mapping[str, int],
) -> dict[str, npt.NDArray[np.intp]]:
    """Return the kept units with the least loss that meet the targets."""
    slope = usual_slope(curves)
    offers = {}
    for name, demand in demands.items():
        counts = sorted({demand.units - count for count in demand.levels()})
        if name in curves:
            thinned = [counts[int(at)] for at in np.unique(np.linspace(0, len(counts) - 1, LEVELS).round())]
            offers[name] = knapsack.Levels(tuple(thinned), curves[name].at(thinned, slope))
    removed = knapsack.solve(offers, lambda removed: costs.over(targets, {**gone, **removed}) / (1 + 1e-9))
    if removed is None:
        raise _unreachable(costs, targets, {**gone, **{name: offer.removed[-1] for name, offer in offers.items()}})
    return {name: allocate.top(demands[name].scores, demands[name].units - count) for name, count in removed.items()}


def _meeting(
    costs: _Costs,
    demands: Mapping[str, allocate.Demand],
    targets: Sequence[tuple[str, float]],
    gone: Mapping[str, int],
    scope: str,
) -> dict[str, allocate.Demand]:
    """Return the demands with the lowest ratio, the same for all, that meets the targets."""

    def removed(ratio: float) -> dict[str, int]:
        kept = allocate.allocate({name: replace(demand, ratio=ratio) for name, demand in demands.items()}, scope)
        return {**gone, **{name: demands[name].units - len(units) for name, units in kept.items()}}

    low, high = 0.0, 0.999
    if costs.over(targets, removed(high)) > 1:
        raise _unreachable(costs, targets, removed(high))
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if costs.over(targets, removed(middle)) > 1 else (low, middle)
    return {name: replace(demand, ratio=high) for name, demand in demands.items()}


def _unreachable(costs: _Costs, targets: Sequence[tuple[str, float]], most: Mapping[str, int]) -> OptionError:
    told = ", ".join(f"{kind}={value:g} (at best {costs.of(kind, most):.3f})" for kind, value in targets)
    return OptionError(
        f"target {told} cannot be reached with what may be pruned; allow more with --min-units, --width, fewer --ignore"
    )


def _tied(found: Sequence[Group], chosen: Mapping[str, float], traced: Trace) -> dict[str, dict[str, Group]]:
    """Return the groups to be pruned, by the name of the first of those that share weights and lose the same units."""
    leaders = kin(found, traced.model.constants)
    sets: dict[tuple[str, float], dict[str, Group]] = {}
    for group in found:
        if group.name in chosen:
            sets.setdefault((leaders[group.name], chosen[group.name]), {})[group.name] = group
    return {next(iter(names)): names for names in sets.values()}


def _demand(group: Group, scores: importance.Scores, ratio: float, share: float, options: Options) -> allocate.Demand:
    if group.lanes or group.mixed is not None:
        step = allocate.round_units(group.lanes, options.round_to or ROUND_CHANNELS)
    else:
        step = options.round_to or 1 if group.kind == "neurons" else 1
    least = math.ceil(allocate.MIN_SHARE * group.units)
    return allocate.Demand(
        scores=scores,
        ratio=ratio,
        step=step,
        min_units=min(group.units, options.min_units or least),
        weight=share / group.units,
        down=step > 1 and options.round_to is not None,
    )


def _mask(group: Group, kept: Sequence[int]) -> Mask:
    mask = np.zeros(group.units, bool)
    mask[list(kept)] = True
    return mask


def kept_masks(found: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> dict[Atom, Mask]:
    """Return the masks of a plan, by atom: what `rewrite` takes."""
    return {group.atom: _mask(group, kept[group.name]) for group in found if group.name in kept}
