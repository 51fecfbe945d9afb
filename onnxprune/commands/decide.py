"""Steps of `prune` and `sweep` that end in a plan: score the units, profile the model, decide what to keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from onnxprune.commands.prepare import PreparedModel
from onnxprune.dependency import cost
from onnxprune.dependency.axes import Atom
from onnxprune.dependency.trace import Trace
from onnxprune.errors import NothingToPrune, OptionError, UnreachableTarget
from onnxprune.evaluation.place import timed_feeds
from onnxprune.planning.options import Options
from onnxprune.planning.plan import UNKNOWN, UNREACHABLE, Evidence, Machine, Plan, gather, plan, usual_step
from onnxprune.planning.profile import Speed, memory_predictor, profiled
from onnxprune.planning.promise import Decision, meet_targets
from onnxprune.planning.targets import Target
from onnxprune.progress import Progress
from onnxprune.runtime.executors import ALONE, Workers
from onnxprune.surgery import rewrite


def score(prepared: PreparedModel, progress: Progress, workers: Workers = ALONE) -> Evidence:
    """Return the scores of units and the loss curves of groups.

    Raises:
        OptionError: when the criterion can score none of the groups.
    """
    progress(f"scoring {len(prepared.ratios)} of {len(prepared.groups)} groups by {prepared.options.criterion}")
    return gather(
        prepared.traced,
        prepared.groups,
        prepared.ratios,
        prepared.options,
        calibration=prepared.calibration,
        progress=progress,
        workers=workers,
    )


def profile(prepared: PreparedModel, progress: Progress) -> Speed | None:
    """Return what the model takes on this machine; None where no plan depends on it.

    Raises:
        ModelError, DataError: when it cannot be run.
        NothingToPrune: when no group is to be pruned; says why.
    """
    options, traced = prepared.options, prepared.traced
    if not options.is_measured:
        return None
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
        progress=progress,
    )


def decide(prepared: PreparedModel, evidence: Evidence, speed: Speed | None, progress: Progress) -> Decision:
    """Return the plan that meets the targets: as measured for latency and memory, as counted for the others.

    Raises:
        OptionError: when a target cannot be met.
        NothingToPrune: when the model meets all of them already, or no plan makes it faster.
    """
    traced, groups, options = prepared.traced, prepared.groups, prepared.options
    originals = _originals(traced, speed, options)
    bounds = tuple((target, target.fraction(originals.get(target.kind, 1.0))) for target in options.bounds)
    if bounds and all(fraction >= 1 for _, fraction in bounds):
        met = ", ".join(str(target) for target, _ in bounds)
        raise NothingToPrune(f"nothing has to go: the model meets {met} already")
    fractions = tuple((target.kind, fraction) for target, fraction in bounds)

    def plan_for(machine: Machine) -> Plan:
        try:
            return plan(
                traced, groups, prepared.ratios, options,
                calibration=prepared.calibration, evidence=evidence, machine=machine, bounds=fractions,
            )  # fmt: skip
        except UnreachableTarget as error:
            missed = [f"{each} (at best {_amount(each, error.best[each.kind], originals)})" for each, _ in bounds]
            raise UnreachableTarget(f"target {', '.join(missed)} {UNREACHABLE}", error.best) from None

    if speed is None:
        return Decision(plan_for(UNKNOWN), bounds)
    predict: dict[str, Callable[[Mapping[Atom, int]], float]] = {}
    if speed.predict is not None:
        predict["latency"] = speed.fraction
    if any(target.kind == "memory" for target in options.bounds):
        predict["memory"] = memory_predictor(traced, speed.feeds).fraction
    accepted, attempts = meet_targets(
        plan_for,
        prepared.masks,
        lambda masks: rewrite.rewrite(traced, masks),
        fractions,
        speed=speed,
        predict=predict,
        progress=progress,
    )
    steps = {group.name: accepted.steps[group.atom] for group in groups if group.atom in accepted.steps}
    reported_steps = steps if options.finds_steps else {}
    return Decision(accepted.plan, bounds, attempts, accepted, reported_steps, speed.complete, speed.unknown)


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
    if speed is not None and "latency" in kinds:
        measured["latency"] = speed.before_ms
    if speed is not None and "memory" in kinds:
        memory = speed.memory_before()
        if memory is None:
            raise OptionError("target memory needs the CPU provider, on a system where memory can be measured")
        measured["memory"] = float(memory)
    return {**counter.before, **measured}
