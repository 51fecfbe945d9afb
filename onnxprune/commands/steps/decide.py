"""Steps of `prune` and `sweep` that end in a plan: score the units, profile the model, decide what to keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from onnxprune.commands.steps.as_run import AsRun
from onnxprune.commands.steps.prepare import PreparedModel
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.dependency import cost
from onnxprune.dependency.trace import Trace
from onnxprune.errors import MetAlready, OptionError, UnreachableTarget
from onnxprune.evaluation.place import timed_feeds
from onnxprune.graph.files.write import Written, foreseen
from onnxprune.graph.forms.sparse import as_stored
from onnxprune.graph.model import Model
from onnxprune.latency.bench import Race
from onnxprune.planning.choice import least_counts, shaped_counts
from onnxprune.planning.costs import Bound, Predict
from onnxprune.planning.options import Options
from onnxprune.planning.plan import (
    UNKNOWN,
    UNREACHABLE,
    Evidence,
    Machine,
    Plan,
    gather,
    plan,
    scored,
    tied_groups,
    usual_step,
)
from onnxprune.planning.planned import fitted
from onnxprune.planning.profile import Deployed, Speed, memory_predictor, profiled
from onnxprune.planning.promise import Attempt, Decision, meet_targets
from onnxprune.planning.targets import Target
from onnxprune.progress import Progress
from onnxprune.runtime.chain import needs_chain
from onnxprune.runtime.executors import ALONE, Workers
from onnxprune.runtime.room import VARIABLE
from onnxprune.surgery import rewrite

_STORED = ("size", "params")  # kinds of costs that the written files hold
_ATTEMPTS = 8  # plans that are counted, until what would be written meets the targets
_NEAR = 0.98  # of a target, from which what would be written is close enough to it
_BELOW = 0.995  # of an aim that was missed, so that the next plan is another one


def score(prepared: PreparedModel, progress: Progress, workers: Workers = ALONE, notes: Notes = NOWHERE) -> Evidence:
    """Return the scores of units and the loss curves of groups; `notes` have what an earlier run measured.

    Raises:
        OptionError: when the criterion can score none of the groups.
    """
    progress(f"scoring {len(prepared.ratios)} of {len(prepared.groups)} groups by {prepared.options.criterion}")
    options = prepared.options
    look = partial(gather, calibration=prepared.calibration, progress=progress, workers=workers)
    run = prepared.as_run
    if run is None:
        return scored(
            look(prepared.traced, prepared.groups, prepared.ratios, options, notes=notes), prepared.ratios, options
        )
    ratios = {each.name: prepared.ratios[each.name] for each in run.groups if each.name in prepared.ratios}
    seen = Evidence({}, {})
    if ratios:
        seen = look(run.traced, run.groups, ratios, _of_run(prepared, run), notes=notes.of("as run"))
    firsts = tied_groups(prepared.groups, prepared.ratios, prepared.traced)
    first_of = {name: first for first, names in firsts.items() for name in names}
    scores = {first_of[name]: each for name, each in seen.scores.items()}
    curves = {first_of[name]: curve for name, curve in seen.curves.items()}
    left = {name: prepared.ratios[name] for first, names in firsts.items() if first not in scores for name in names}
    rest = look(prepared.traced, prepared.groups, left, options, notes=notes) if left else Evidence({}, {})
    both = replace(seen, scores={**rest.scores, **scores}, curves={**rest.curves, **curves})
    return scored(both, prepared.ratios, options)


def _of_run(prepared: PreparedModel, run: AsRun) -> Options:
    """Return options for the groups of what is run: what names groups is said by the names that are there."""
    shaped, least = (each(prepared.groups, prepared.options) for each in (shaped_counts, least_counts))
    kept = [(each.name, max(1, min(least[each.name], shaped.get(each.name, each.units)))) for each in run.groups]
    return replace(prepared.options, shape=(), planned=(), min_units=tuple(kept))


def profile(prepared: PreparedModel, progress: Progress, deployed: Deployed | None = None) -> Speed | None:
    """Return what the model takes on this machine; None where no plan depends on it.

    What is raced of cut models is what is made of them before they are `deployed`.

    Raises:
        ModelError, DataError: when it cannot be run.
        NothingToPrune: when no group is to be pruned; says why.
        OptionError: when the model does not fit the memory.
    """
    options, traced = prepared.options, prepared.traced
    if not options.is_measured:
        return None
    if needs_chain(traced.model):
        raise OptionError(
            "targets of latency and memory, and round_to='auto', measure the whole model, which does not fit the "
            f"memory; give a target of macs or params, or more memory with {VARIABLE}"
        )
    if not prepared.ratios:
        prepared.masks(Plan({}))  # says why nothing can be pruned, before anything is timed
    pruned_groups = [group for group in prepared.groups if group.name in prepared.ratios]
    shapes = dict(options.inputs)
    feeds = timed_feeds(traced.model, prepared.evaluation_data, batch=options.batch, seed=options.seed, shapes=shapes)
    return profiled(
        traced,
        pruned_groups,
        feeds,
        provider=options.provider,
        threads=options.threads,
        usual={group.atom: usual_step(group, options) for group in pruned_groups},
        find_steps=options.finds_steps,
        fit=options.finds_steps or any(target.kind == "latency" for target in options.bounds),
        seconds=options.profile_seconds,
        seed=options.seed,
        timer=options.timer,
        deployed=deployed,
        progress=progress,
    )


def decide(
    prepared: PreparedModel,
    evidence: Evidence,
    speed: Speed | None,
    progress: Progress,
    deployed: Deployed | None = None,
) -> Decision:
    """Return the plan that meets the targets: as measured for latency and memory, as counted for the others.

    They are of what is made of the cut model before it is `deployed`.

    Raises:
        OptionError: when a target cannot be met.
        NothingToPrune: when the model meets all of them already, or no plan makes it faster.
    """
    traced, groups, options = prepared.traced, prepared.groups, prepared.options
    originals = _originals(traced, speed, options)
    bounds = tuple((each, each.fraction(originals.get(each.kind, 1.0))) for each in options.bounds)
    whole = _whole(prepared, speed, deployed, {target.kind: fraction for target, fraction in bounds})
    prepared, fractions = _due(prepared, bounds, whole, deployed)
    options = prepared.options
    aims = _aims(fractions, whole)  # what counts must be, so that files are as large as they may be

    def plan_counted(machine: Machine) -> Plan:
        try:
            return plan(
                traced, groups, prepared.ratios, options,
                calibration=prepared.calibration, evidence=evidence, machine=machine, bounds=tuple(aims.items()),
            )  # fmt: skip
        except UnreachableTarget as error:
            best = {kind: error.best[kind] * fraction / aims[kind] for kind, fraction in fractions}
            raise UnreachableTarget(str(error), best) from None

    def plan_for(machine: Machine) -> Plan:
        try:
            return _as_written(prepared, lambda: plan_counted(machine), fractions, aims, deployed)
        except UnreachableTarget as error:
            best = [(each, error.best[each.kind]) for each, _ in bounds if each.kind in error.best]
            missed = [f"{each} (at best {_amount(each, reached, originals)})" for each, reached in best]
            raise UnreachableTarget(f"target {', '.join(missed)} {UNREACHABLE}", error.best) from None

    memory, latency = _measures(bounds, speed)
    if speed is None or not (fractions or options.finds_steps):
        return Decision(plan_for(UNKNOWN), bounds, memory=memory, latency=latency)
    predict = _predictions(prepared, speed)
    accepted, attempts = meet_targets(
        plan_for,
        prepared.masks,
        lambda masks: rewrite.rewrite(traced, masks),
        fractions,
        speed=speed,
        predict=predict,
        whole=whole,
        progress=progress,
    )
    steps = _steps_by_name(accepted, prepared) if options.finds_steps else {}
    return Decision(
        accepted.plan, bounds, attempts, accepted, steps, speed.complete, speed.unknown, memory,
        latency, speed.over, speed.unsure,
    )  # fmt: skip


def as_planned(prepared: PreparedModel, progress: Progress, notes: Notes = NOWHERE) -> Decision:
    """Return the plan that the options hold, in the names of this model; `notes` have what an earlier run measured.

    Where it lists indices, these are kept; where it has a count alone, the most important units are.

    Raises:
        OptionError: when the criterion cannot score a group that has a count alone.
    """
    planned = fitted(prepared.options.planned, prepared.groups)
    kept = {name: each.kept for name, each in planned.items() if each.is_cut and each.kept is not None}
    counted = {name: ratio for name, ratio in prepared.ratios.items() if planned[name].is_cut and name not in kept}
    if counted:
        rest = replace(prepared, ratios=counted)
        by_importance = plan(
            rest.traced, rest.groups, counted, rest.options,
            calibration=rest.calibration, evidence=score(rest, progress, notes=notes),
        )  # fmt: skip
        unscored = counted.keys() - by_importance.kept.keys()
        if unscored:
            raise OptionError(
                f"plan: criterion {rest.options.criterion} cannot score {planned[min(unscored)]}: list the indices "
                "that are kept, or give another criterion"
            )
        return Decision(replace(by_importance, kept={**by_importance.kept, **kept}))
    return Decision(Plan(kept))


def _steps_by_name(accepted: Attempt, prepared: PreparedModel) -> dict[str, int]:
    known = accepted.steps
    return {group.name: known[group.atom] for group in prepared.groups if group.atom in known}


def _predictions(prepared: PreparedModel, speed: Speed) -> dict[str, Predict]:
    """Return what predicts costs over the original's from the sizes of atoms, by kind."""
    predict: dict[str, Predict] = {}
    if speed.predict is not None:
        predict["latency"] = speed.fraction
    if any(target.kind == "memory" for target in prepared.options.bounds):
        predict["memory"] = memory_predictor(prepared.traced, speed.feeds).fraction
    return predict


def _due(
    prepared: PreparedModel,
    bounds: Sequence[tuple[Target, float]],
    whole: Mapping[str, float],
    deployed: Deployed | None,
) -> tuple[PreparedModel, tuple[Bound, ...]]:
    """Return the model, and the targets by kind; without them where it meets all as it is deployed.

    Raises:
        MetAlready: when it does, and no shape or ratio of a group asks for a cut.
    """
    if not bounds or any(fraction < whole.get(target.kind, 1.0) for target, fraction in bounds):
        return prepared, tuple((target.kind, fraction) for target, fraction in bounds)
    if prepared.options.shape or prepared.options.ratios:
        return prepared.with_options(replace(prepared.options, targets=(), ratio=0.0)), ()
    met, by = ", ".join(str(target) for target, _ in bounds), "" if deployed is None else f" in {deployed.name}"
    raise MetAlready(f"nothing has to go: the model meets {met} already{by}")


def _measures(
    bounds: Sequence[tuple[Target, float]], speed: Speed | None
) -> tuple[Callable[[Model], float | None] | None, Callable[[Model, float], Race] | None]:
    """Return what measures memory and latency of written models, where these are bounded."""
    if speed is None:
        return None, None
    kinds = {target.kind for target, _ in bounds}
    return speed.memory_of if "memory" in kinds else None, speed.race_of if "latency" in kinds else None


def _aims(fractions: Sequence[Bound], whole: Mapping[str, float]) -> dict[str, float]:
    """Return what counts must be, at first, for files that are to meet these bounds."""
    return {
        kind: min(1.0, fraction / whole.get(kind, 1.0)) if kind in _STORED else fraction for kind, fraction in fractions
    }


def _whole(
    prepared: PreparedModel, speed: Speed | None, deployed: Deployed | None, bounds: Mapping[str, float]
) -> dict[str, float]:
    """Return by kind what the model costs without cuts as it is deployed, over the original's; nothing if as it is.

    A latency within its bound is the slow end of an interval: a model that may miss its target is cut.
    """
    if deployed is None:
        return {}
    model, kinds = prepared.traced.model, {target.kind for target in prepared.options.bounds}
    whole = {}
    if "size" in kinds:
        whole["size"] = _foreseen(prepared, deployed.make(model.stored)).size_bytes / model.size_bytes()
    if speed is not None and "latency" in kinds:
        whole["latency"] = speed.whole_at_most(bounds["latency"])
    if speed is not None and "memory" in kinds:
        whole["memory"] = speed.memory(deployed.make(model.stored)) or 1.0
    return whole


def _as_written(
    prepared: PreparedModel,
    plan_counted: Callable[[], Plan],
    bounds: Sequence[Bound],
    aims: dict[str, float],
    deployed: Deployed | None = None,
) -> Plan:
    """Return the plan whose files come closest to the bounds from below.

    What is counted is not all that a file holds: tensors share bytes or cease to, and begin at multiples of a page.

    Args:
        prepared: the model.
        plan_counted: makes a plan whose counts meet the aims.
        bounds: what the files may hold, as fractions of the original.
        aims: what counts must be, by kind; they are changed until the files meet the bounds.
        deployed: what is made of the cut model before it is written.

    Raises:
        UnreachableTarget: when no plan meets the aims, or none that is tried meets the bounds.
    """
    best, largest, last = None, 0.0, None
    least: dict[str, float] = {}  # what the files of the plan that comes closest hold over the bounds, while all miss
    for _ in range(_ATTEMPTS):
        try:
            planned = plan_counted()
        except UnreachableTarget:
            if best is None:
                raise
            break
        if best is not None and not planned.kept:
            break
        over = _over(prepared, planned, bounds, deployed)
        worst = max(over.values(), default=1.0)
        if worst <= 1 and worst > largest:
            best, largest = planned, worst
        if worst > 1 and worst < max(least.values(), default=math.inf):
            least = over
        if _NEAR <= worst <= 1 or (best is not None and last is not None and planned.kept == last.kept):
            break
        below = _BELOW if worst > 1 else 1.0
        aims.update((kind, min(1.0, aims[kind] / times * below)) for kind, times in over.items())
        last = planned
    if best is None:
        missed = {kind: least[kind] * bound for kind, bound in bounds if least.get(kind, 0.0) > 1}
        raise UnreachableTarget(f"no plan of {_ATTEMPTS} was met by the files", missed)
    return best


def _over(
    prepared: PreparedModel, planned: Plan, bounds: Sequence[Bound], deployed: Deployed | None
) -> dict[str, float]:
    """Return by kind what the files of a plan would hold, over what they may hold; of kinds that files hold."""
    stored = {kind: bound for kind, bound in bounds if kind in _STORED}
    if not stored or not planned.kept:
        return {}
    model = prepared.traced.model
    rewritten = prepared.rewritten(planned)
    proto = as_stored(rewritten.proto if rewritten.whole is None else rewritten.whole, model)
    after = _foreseen(prepared, proto)
    size = after.size_bytes if deployed is None else _foreseen(prepared, deployed.make(proto)).size_bytes
    costs = {"size": size / model.size_bytes(), "params": after.params / max(1, model.stored_params)}
    return {kind: costs[kind] / bound for kind, bound in stored.items()}


def _foreseen(prepared: PreparedModel, proto: Any) -> Written:
    """Return what the files of a model will hold."""
    model = prepared.traced.model
    return foreseen(proto, model.folder, model.is_external, model.alignment, name=prepared.file_name)


def _amount(target: Target, fraction: float, originals: Mapping[str, float]) -> str:
    """Return a fraction of the original's cost as text, in the unit of the target."""
    if target.is_fraction:
        return f"{fraction:.3f}"
    return f"{fraction * originals[target.kind] / replace(target, value=1.0).amount:.4g}{target.unit}"


def _originals(traced: Trace, speed: Speed | None, options: Options) -> dict[str, float]:
    """Return what the original model costs, by kind of target."""
    kinds = {target.kind for target in options.bounds}
    if not kinds:
        return {}
    counter, measured = cost.Counter(traced), {}
    if cost.CACHE in kinds and not counter.before[cost.CACHE]:
        raise OptionError(f"target {cost.CACHE}: no input of this model holds what is kept of the past")
    if cost.CACHE in kinds and not options.change_io:
        raise OptionError(f"target {cost.CACHE} cuts inputs and outputs of the model: allow it with change_io")
    if speed is not None and "latency" in kinds:
        measured["latency"] = speed.before_ms
    if speed is not None and "memory" in kinds:
        memory = speed.memory_before()
        if memory is None:
            raise OptionError("target memory needs the CPU provider, on a system where memory can be measured")
        measured["memory"] = float(memory)
    return {**counter.before, **measured}
