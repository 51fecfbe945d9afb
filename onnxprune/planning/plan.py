"""Planning: scores, loss curves, costs and targets become the units that every group keeps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.batches import Calibration
from onnxprune.criteria import importance
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.dependency import cost
from onnxprune.dependency.axes import Atom, Mask
from onnxprune.dependency.groups import Group, kin
from onnxprune.dependency.trace import Trace
from onnxprune.errors import OptionError, UnreachableTarget
from onnxprune.planning import allocate, knapsack
from onnxprune.planning.choice import least_counts, named_ratios, shaped_counts
from onnxprune.planning.costs import Bound, Costs, Predict, enlarging_cuts, worthwhile
from onnxprune.planning.curves.curve import Curve, usual_slope
from onnxprune.planning.curves.detail import for_curves
from onnxprune.planning.curves.effort import EFFORTS, duration
from onnxprune.planning.curves.experts import expert_curves, is_of_experts
from onnxprune.planning.curves.gradients import choose_source
from onnxprune.planning.curves.measured import Cut, measure_curves, scheduled
from onnxprune.planning.curves.schedule import Schedule
from onnxprune.planning.curves.views import FINEST, Detail
from onnxprune.planning.options import Options
from onnxprune.planning.scoring import Tied, look, scores_of
from onnxprune.planning.targets import MEASURED
from onnxprune.planning.work import one_pass
from onnxprune.progress import Progress, silent
from onnxprune.runtime.executors import ALONE, Workers

ROUND_CHANNELS = 8  # counts that are no multiple of it leave the blocked layouts of CPU and GPU kernels
UNREACHABLE = (
    "cannot be reached with what may be pruned; allow more with --min-units, --round-to, --width, fewer --ignore"
)
LEVELS = 48  # of a group that the knapsack chooses from, at most


@dataclass(frozen=True)
class Machine:
    """What plans cost on a machine."""

    predict: Mapping[str, Predict] = field(default_factory=dict)  # by kind of cost
    steps: Mapping[Atom, int] = field(default_factory=dict)  # of kept counts, where they were measured

    def stepped(self, groups: Iterable[Group], demand: allocate.Demand) -> allocate.Demand:
        """Return the demand on groups that lose the same units, with the largest of their steps."""
        steps = [self.steps[group.atom] for group in groups if group.atom in self.steps]
        return replace(demand, step=max(steps), down=False) if steps else demand


UNKNOWN = Machine()


@dataclass(frozen=True)
class Plan:
    """Which units every group keeps, and the loss curves that decided it."""

    kept: Mapping[str, tuple[int, ...]]  # by name of the groups that lose units
    curves: Mapping[str, Curve] = field(default_factory=dict)  # by name of the first of those that lose the same units
    judged: int = 0  # samples that their losses were measured on
    looked: Mapping[str, Any] | None = None  # what gradients were looked at
    enlarging: tuple[str, ...] = ()  # names of groups that were left whole because their cut stores more than it saves


@dataclass(frozen=True)
class Evidence:
    """Scores and loss curves, by the first of the groups that lose the same units."""

    scores: Mapping[str, importance.Scores]  # [units]
    curves: Mapping[str, Curve]
    judged: int = 0  # samples that losses of the output were measured on
    looked: Mapping[str, Any] | None = None  # what gradients were looked at, see `scoring.Observed`


def plan(
    traced: Trace,
    groups: Sequence[Group],
    ratios: Mapping[str, float],
    options: Options,
    *,
    calibration: Calibration | None = None,
    machine: Machine = UNKNOWN,
    bounds: Sequence[Bound] | None = None,
    evidence: Evidence | None = None,
    progress: Progress = silent,
) -> Plan:
    """Return the units that every group keeps.

    Args:
        traced: the model with its axes.
        groups: its groups.
        ratios: ratio by group name, from `select_ratios`.
        options: criterion, scope, targets and rounding, resolved.
        calibration: what statistics and loss curves are made from.
        machine: what is known of costs that are measured, and of the steps of its kernels.
        bounds: the targets as fractions of the original; by default those of the options, which must be fractions.
        evidence: from `gather` with the same arguments; None: it is gathered now.
        progress: called before each step.

    Raises:
        OptionError: when the criterion can score none of the groups, or a target cannot be reached.
    """
    options = options.resolved(calibration is not None)
    known = evidence or scored(
        gather(traced, groups, ratios, options, calibration=calibration, progress=progress), ratios, options
    )
    tied, curves = tied_groups(groups, ratios, traced), known.curves
    scores = {name: _ranked(each, curves.get(name)) for name, each in known.scores.items()}
    demands = demands_on(traced, groups, tied, ratios=ratios, options=options, scores=scores)
    shaped = shaped_counts(groups, options)
    demands = {
        first: demand if first in shaped else machine.stepped(tied[first].values(), demand)
        for first, demand in demands.items()
    }
    costs, of_globs = Costs(traced, tied, machine.predict), named_ratios(groups, options).keys()
    named = {first for first, names in tied.items() if names.keys() & of_globs}
    if bounds is None:
        bounds = tuple((one.kind, one.value) for one in options.bounds)
    allocated = partial(_allocated, costs, curves=curves, scope=str(options.scope), bounds=bounds, named=named)
    kept, enlarging = _paying(costs, demands, allocated, bounds, named)
    cut = {first: tuple(kept[first].tolist()) for first, count in allocate.removed(demands, kept).items() if count}
    return Plan(
        {name: cut[first] for first, names in tied.items() if first in cut for name in names},
        curves,
        known.judged,
        known.looked,
        tuple(name for first in enlarging for name in tied[first]),
    )


def gather(
    traced: Trace,
    groups: Sequence[Group],
    ratios: Mapping[str, float],
    options: Options,
    *,
    calibration: Calibration | None = None,
    progress: Progress = silent,
    workers: Workers = ALONE,
    notes: Notes = NOWHERE,
) -> Evidence:
    """Return scores and loss curves, on which neither ratios nor targets have an effect.

    Args:
        traced: the model with its axes.
        groups: its groups.
        ratios: ratio by group name, from `select_ratios`: which groups lose the same units.
        options: criterion, scope and rounding.
        calibration: what statistics and loss curves are made from.
        progress: called before each step.
        workers: where the model is run for them; they are the same everywhere.
        notes: of curves, see `measure_curves`.
    """
    options = options.resolved(calibration is not None)
    tied = tied_groups(groups, ratios, traced)
    seen = look(traced, tied, calibration, options, progress=progress, workers=workers)
    scores = scores_of(traced, tied, options, seen)
    if calibration is None or not (options.scope == "loss" or options.criterion == "obs"):
        return Evidence(scores, {}, looked=seen.told)
    demands = demands_on(traced, groups, tied, ratios=ratios, options=options, scores=scores)
    allowed = _cuts(tied, demands, options)
    experts, allowed = ([cut for cut in allowed if is_of_experts(cut) == are] for are in (True, False))
    (to_measure, detail), slopes = _scheduled(traced, allowed, calibration, options, progress), None
    if to_measure is not None:
        to_measure, slopes = choose_source(traced, allowed, calibration, options, to_measure, progress=progress)
    curves = measure_curves(
        traced,
        allowed,
        calibration,
        to_output=options.scope == "loss",
        wanted=to_measure,
        refitted=bool(options.reconstruct),
        seed=options.seed,
        detail=detail,
        slopes=slopes,
        progress=progress,
        workers=workers,
        notes=notes,
    )
    by_loss = options.scope == "loss"
    reached = seen.experts.keys()
    curves |= expert_curves(traced, experts, calibration, to_output=by_loss, reached=reached, progress=progress)
    return Evidence(scores, curves, _judged(calibration, to_measure), seen.told)


def scored(evidence: Evidence, ratios: Mapping[str, float], options: Options) -> Evidence:
    """Return evidence that scores some of the groups that are to lose units.

    Raises:
        OptionError: when the criterion can score none of them.
    """
    if ratios and not evidence.scores:
        raise OptionError(
            f"criterion {options.criterion!r} finds no weights that it can score: the model has no "
            "BatchNormalization (exporters fold it into convolutions); use l2"
        )
    return evidence


def _judged(calibration: Calibration, to_measure: Schedule | None) -> int:
    """Return the samples that losses of the output were measured on."""
    if to_measure is None or not to_measure.count():
        return 0
    return sum(calibration.counts[number] for number in calibration.judged[: to_measure.batches])


def _scheduled(
    traced: Trace, cuts: Sequence[Cut], calibration: Calibration, options: Options, progress: Progress
) -> tuple[Schedule | None, Detail]:
    """Return the losses of the output that are measured with the effort of the options, and how closely layers are.

    There is no schedule where no losses count.
    """
    if not cuts:
        return None, FINEST
    once = one_pass(traced, calibration.batches)
    detail, algebra = detail_of(traced, cuts, calibration, options.effort)
    if options.scope != "loss":
        return None, detail
    planned = scheduled(traced, cuts, calibration, budget_of(traced, calibration, options.effort))
    seconds = (planned.work + once + algebra) / (once / len(calibration.batches)) * calibration.batch_seconds
    measured = f"{planned.count():,} of {planned.all:,} losses"
    progress(f"{options.effort} effort: {measured}, about {duration(seconds)} of computing")
    return planned, detail


def budget_of(traced: Trace, calibration: Calibration, effort: str) -> float | None:
    """Return what an effort may spend on the losses of the output, in work; None where there is no bound."""
    return EFFORTS[effort].spent_on_curves(one_pass(traced, calibration.batches), calibration.source == "data")


def detail_of(traced: Trace, cuts: Sequence[Cut], calibration: Calibration, effort: str) -> tuple[Detail, float]:
    """Return how closely layers are looked at with an effort, and the work of that."""
    budget = EFFORTS[effort].spent_on_fits(one_pass(traced, calibration.batches), calibration.source == "data")
    return for_curves(traced, [group for cut in cuts for group in cut.groups], calibration, budget)


def cuts(traced: Trace, groups: Sequence[Group], ratios: Mapping[str, float], options: Options) -> list[Cut]:
    """Return the cuts of the groups with a ratio, with all counts that are allowed; see `plan` for the arguments.

    Units are removed in the order of their error (`obs`): criteria that need activation statistics have no scores here.
    """
    tied = tied_groups(groups, ratios, traced)
    scores = scores_of(traced, tied, options)
    return _cuts(tied, demands_on(traced, groups, tied, ratios=ratios, options=options, scores=scores), options)


def demands_on(
    traced: Trace,
    groups: Sequence[Group],
    tied: Tied,
    *,
    ratios: Mapping[str, float],
    options: Options,
    scores: Mapping[str, importance.Scores],
) -> dict[str, allocate.Demand]:
    """Return the demand on each set of groups that lose the same units."""
    shares, shaped, least = cost.shares(traced, groups), shaped_counts(groups, options), least_counts(groups, options)
    demands = {}
    for first, names in tied.items():
        if first in scores:
            group, share = names[first], sum(shares[name] for name in names)
            if first in shaped:
                demands[first] = allocate.Demand(scores[first], ratios[first], weight=share / group.units)
            else:
                demands[first] = _demand(group, scores[first], ratios[first], share, least[first], options)
    return demands


def _cuts(tied: Tied, demands: Mapping[str, allocate.Demand], options: Options) -> list[Cut]:
    """Return the demands as cuts, without those that allow no smaller count."""
    all_cuts = []
    for name, demand in demands.items():
        removed = tuple(sorted(demand.units - count for count in demand.levels() if count < demand.units))
        if removed:
            all_cuts.append(Cut(name, tuple(tied[name].values()), removed, demand.scores, options.criterion != "obs"))
    return all_cuts


def _ranked(scores: importance.Scores, curve: Curve | None) -> importance.Scores:
    """Return scores that rise in the order of a curve, by its errors; units that are never removed come last."""
    if curve is None:
        return scores
    ranked = np.full(len(scores), curve.errors[-1] + 1.0)
    steps = np.arange(1, len(curve.order) + 1)
    errors = np.interp(steps, curve.removed, np.maximum.accumulate(curve.errors))
    ranked[list(curve.order)] = errors + 1e-9 * steps
    return ranked


def _paying(
    costs: Costs,
    demands: Mapping[str, allocate.Demand],
    allocated: Callable[[Mapping[str, allocate.Demand]], dict[str, npt.NDArray[np.intp]]],
    bounds: Sequence[Bound],
    named: Collection[str],
) -> tuple[dict[str, npt.NDArray[np.intp]], list[str]]:
    """Return the kept units of a plan that adds no parameters, and the groups that are left whole for that.

    Where the targets cannot be reached without these groups, they are cut all the same.
    """
    first = kept = allocated(demands)
    enlarging, left = list[str](), demands
    while adding := enlarging_cuts(costs, allocate.removed(demands, kept), named):
        enlarging += adding
        left = {name: demand for name, demand in left.items() if name not in adding}
        if bounds and not left:
            return first, []
        try:
            kept = allocated(left)
        except UnreachableTarget:
            return first, []
    return kept, enlarging


def _allocated(
    costs: Costs,
    demands: Mapping[str, allocate.Demand],
    *,
    curves: Mapping[str, Curve],
    scope: str,
    bounds: Sequence[Bound],
    named: Collection[str],
) -> dict[str, npt.NDArray[np.intp]]:
    """Return the kept units: by loss curves, by the ratio that meets the targets, or by the ratios as they are.

    Groups that are `named` with a ratio of their own have that, whatever becomes of the others.
    """
    if not demands:
        return {}
    own = {name: demand for name, demand in demands.items() if name in named}
    common = {name: demand for name, demand in demands.items() if name not in own}
    fixed = allocate.allocate(own, "group")
    gone = allocate.removed(own, fixed)
    if scope == "loss":
        even = allocate.removed(common, allocate.allocate(common, "group"))
        kept = _by_loss(costs, common, curves, bounds or (costs.saved({**gone, **even}),), gone)
    elif any(kind in MEASURED for kind, _ in bounds):
        losses = {name: _weighed(demand) for name, demand in common.items()}
        kept = _by_loss(costs, common, losses, bounds, gone)
    else:
        kept = allocate.allocate(_meeting(costs, common, bounds, gone, scope) if bounds else common, scope)
    kept |= fixed
    return kept if bounds or not costs.knows_latency else worthwhile(costs, demands, kept)


def _weighed(demand: allocate.Demand) -> Curve:
    """Return a loss curve from the scores of weights alone: the further a group is cut, the dearer a unit."""
    order = np.argsort(demand.scores, kind="stable")
    energy = np.square(np.maximum(demand.scores[order], 0).astype(np.float64)) + 1e-12
    left = np.maximum(1 - np.cumsum(energy) / energy.sum(), 1e-6)
    counts = tuple(range(demand.units))
    losses = (0.0, *(-np.log(left[:-1])).tolist())
    return Curve(tuple(order[:-1].tolist()), counts, losses, losses)


def offered(demands: Mapping[str, allocate.Demand], curves: Mapping[str, Curve]) -> dict[str, knapsack.Levels]:
    """Return the levels that the knapsack chooses from, by group."""
    slope, offers = usual_slope(curves), {}
    for name, demand in demands.items():
        counts = sorted({demand.units - count for count in demand.levels()})
        if name in curves:
            thinned = [counts[int(at)] for at in np.unique(np.linspace(0, len(counts) - 1, LEVELS).round())]
            offers[name] = knapsack.Levels(tuple(thinned), curves[name].at(thinned, slope))
    return offers


def _by_loss(
    costs: Costs,
    demands: Mapping[str, allocate.Demand],
    curves: Mapping[str, Curve],
    targets: Sequence[Bound],
    gone: Mapping[str, int],
) -> dict[str, npt.NDArray[np.intp]]:
    """Return the kept units with the least loss that meet the targets."""
    offers = offered(demands, curves)
    removed = knapsack.solve(offers, lambda removed: costs.over(targets, {**gone, **removed}) / (1 + 1e-9))
    if removed is None:
        raise _unreachable(costs, targets, {**gone, **{name: offer.removed[-1] for name, offer in offers.items()}})
    return {name: allocate.top(demands[name].scores, demands[name].units - count) for name, count in removed.items()}


def _meeting(
    costs: Costs,
    demands: Mapping[str, allocate.Demand],
    targets: Sequence[Bound],
    gone: Mapping[str, int],
    scope: str,
) -> dict[str, allocate.Demand]:
    """Return the demands with the lowest ratio, the same for all, that meets the targets."""

    def removed(ratio: float) -> dict[str, int]:
        kept = allocate.allocate({name: replace(demand, ratio=ratio) for name, demand in demands.items()}, scope)
        return {**gone, **allocate.removed(demands, kept)}

    low, high = 0.0, 0.999
    if costs.over(targets, removed(high)) > 1:
        raise _unreachable(costs, targets, removed(high))
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if costs.over(targets, removed(middle)) > 1 else (low, middle)
    return {name: replace(demand, ratio=high) for name, demand in demands.items()}


def _unreachable(costs: Costs, targets: Sequence[Bound], most: Mapping[str, int]) -> UnreachableTarget:
    best = {kind: costs.of(kind, most) for kind, _ in targets}
    targets_text = ", ".join(f"{kind}={value:g} (at best {best[kind]:.3f})" for kind, value in targets)
    return UnreachableTarget(f"target {targets_text} {UNREACHABLE}", best)


def tied_groups(groups: Sequence[Group], ratios: Mapping[str, float], traced: Trace) -> dict[str, dict[str, Group]]:
    """Return the groups to be pruned, by the name of the first of those that share weights and lose the same units."""
    leaders = kin(groups, traced.model.constants)
    sets: dict[tuple[str, float], dict[str, Group]] = {}
    for group in groups:
        if group.name in ratios:
            sets.setdefault((leaders[group.name], ratios[group.name]), {})[group.name] = group
    return {next(iter(names)): names for names in sets.values()}


def usual_step(group: Group, options: Options) -> int:
    """Return the step of kept counts: that of the options, or the usual one of 8 channels, single heads and neurons."""
    requested_step = None if isinstance(options.round_to, str) else options.round_to
    if group.lanes or group.mixed is not None:
        return allocate.round_units(group.lanes or 1, requested_step or ROUND_CHANNELS)
    return requested_step or 1 if group.kind == "neurons" else 1


def _demand(  # noqa: PLR0917 - in the order of what they say of the group
    group: Group, scores: importance.Scores, ratio: float, share: float, least: int, options: Options
) -> allocate.Demand:
    step = usual_step(group, options)
    return allocate.Demand(
        scores=scores,
        ratio=ratio,
        step=step,
        min_units=min(group.units, least),
        weight=share / group.units,
        down=step > 1 and isinstance(options.round_to, int),
    )


def _mask(group: Group, kept: Sequence[int]) -> Mask:
    mask = np.zeros(group.units, bool)
    mask[list(kept)] = True
    return mask


def kept_masks(groups: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> dict[Atom, Mask]:
    """Return the masks of a plan, by atom: what `rewrite` takes."""
    return {group.atom: _mask(group, kept[group.name]) for group in groups if group.name in kept}
