"""Step of `prune` that takes whole branches out: choose them, refit what stays, prove it; widths are cut after that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from onnxprune.commands.at_once import at_once
from onnxprune.commands.finish import Publish, finish, proven, stored_as, with_report
from onnxprune.commands.job import Job
from onnxprune.commands.measured import measured_costs
from onnxprune.commands.prepare import PreparedModel, prepare
from onnxprune.commands.recover import Recovery, refitted
from onnxprune.commands.rounds_folder import Keeper
from onnxprune.commands.tune_pruned import Tuning, improver
from onnxprune.dependency.branches import Branch, branches, macs_of
from onnxprune.dependency.cost import Counter
from onnxprune.errors import NothingToPrune, OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.view import view
from onnxprune.planning.depth import Shortening, choose
from onnxprune.planning.detail import for_refits
from onnxprune.planning.effort import EFFORTS
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Plan
from onnxprune.planning.promise import Decision
from onnxprune.planning.removal import may_go, named
from onnxprune.planning.targets import Target
from onnxprune.planning.work import one_pass
from onnxprune.progress import Progress
from onnxprune.report.depth import depth_values, of_whole
from onnxprune.report.document import file_values
from onnxprune.surgery.depth import without
from onnxprune.surgery.rewrite import Rewritten


def by_depth(job: Job, keeper: Keeper, publish: Publish, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model, an onnx.ModelProto, and its report, when both are published.

    Branches go first; what targets and ratios still ask for is cut from what is left.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`.
    """
    prepared = prepare(job.model, job.options, job.data, progress, tunes=job.learning.tuning is not None)
    prepared = replace(prepared, file_name=job.name)
    shorter = _shortened(prepared, progress)
    rest = _rest(prepared, shorter, progress)
    if rest is not None:
        try:
            return _cut_further(job, rest, prepared, shorter, keeper, publish, progress)
        except _NothingFurther:
            pass
    improve, options = None, job.learning.tuning
    if options is not None:
        improve = improver(prepared, Tuning(options, checkpoint=keeper.tuning(), resume=keeper.resume), progress)
    return finish(
        prepared,
        Decision(Plan({}), ()),
        shorter.rewritten,
        recovery=shorter.recovery,
        progress=progress,
        publish=partial(with_report, publish, lambda report: report.update(depth=shorter.values)),
        improve=improve,
        gone=shorter.choice.removed,
    )


class _NothingFurther(Exception):
    """No width can be cut after the branches have gone."""


@dataclass(frozen=True)
class _Shorter:
    """A model without some of its branches."""

    choice: Shortening
    rewritten: Rewritten
    recovery: Recovery
    values: Mapping[str, Any]  # what the report says of it


def _shortened(prepared: PreparedModel, progress: Progress) -> _Shorter:
    """Choose branches, take them out, and refit what stays.

    Raises:
        NothingToPrune: when no branch can go; says why.
        OptionError: when there is nothing to choose by.
    """
    traced, options = prepared.traced, prepared.options
    found = branches(traced)
    able, reasons = may_go(traced.model, found, options)
    gone = named(traced.model, found, options)
    locked = [branch for branch in found if branch.name in gone and branch.name in reasons]
    if locked:
        raise OptionError(f"branch {locked[0].name!r} cannot go: {reasons[locked[0].name]}")
    whole = macs_of(traced, found)
    choice = _choice(prepared, able, gone, (options.depth or 0.0) * whole, progress)
    if not choice.removed:
        raise NothingToPrune(_why_none(found, able, reasons, options, whole))
    rewritten = without(traced.model, choice.removed, traced.probe.dtype)
    recovery = refitted(prepared, {}, rewritten, progress)
    values = depth_values(options, found, choice, reasons, macs_of(traced, choice.removed) / max(1, whole))
    return _Shorter(choice, rewritten, recovery, values)


def _choice(
    prepared: PreparedModel, able: Sequence[Branch], gone: set[str], goal: float, progress: Progress
) -> Shortening:
    """Return the branches that go: those that are named, and others up to so many multiply-accumulates.

    Raises:
        OptionError: when there are no samples to choose by.
    """
    if prepared.options.depth is None:
        return Shortening(tuple(branch for branch in able if branch.name in gone))
    calibration = prepared.calibration
    if calibration is None:
        why = prepared.why_no_calibration or f"criterion {prepared.options.criterion} looks at none"
        raise OptionError(f"depth needs samples to choose branches by, and has none ({why}); give some with --data")
    effort = EFFORTS[prepared.options.effort]
    budget = effort.spent_on_refits(one_pass(prepared.traced, calibration.batches), calibration.source == "data")
    detail, _ = for_refits(prepared.traced, prepared.traced.model, calibration, budget)
    return choose(
        prepared.traced, able, goal, calibration,
        gone=gone, rounds=effort.rounds, rows=detail.rows, seed=prepared.options.seed, progress=progress,
    )  # fmt: skip


def _why_none(
    found: Sequence[Branch], able: Sequence[Branch], reasons: Mapping[str, str], options: Options, whole: int
) -> str:
    """Return why no branch goes."""
    if not found:
        return (
            "nothing to remove: no value in the main graph is computed from another one of its shape and added to it "
            "alone, as the branches of residual networks are"
        )
    if able:
        least = min(able, key=lambda branch: branch.macs)
        return (
            f"nothing to remove: --depth {options.depth:g} is less than any branch takes; the smallest of them, "
            f"{least.name!r}, takes {least.macs / max(1, whole):.3f}"
        )
    name, reason = next(iter(reasons.items()))
    return f"nothing to remove: {name} and {len(found) - 1} more: {reason}"


# -- what is cut after that ------------------------------------------------------------------------------------


def _rest(prepared: PreparedModel, shorter: _Shorter, progress: Progress) -> Options | None:
    """Return options that cut what is still to go from the shorter model; None where nothing is."""
    options = replace(prepared.options, depth=None, without=())
    if not (options.targets or options.ratio or options.ratios or options.shape):
        return None
    targets = _left(prepared, shorter, progress)
    if options.targets and not targets and not (options.ratios or options.shape):
        return None
    return replace(options, targets=targets, ratio=0.0 if options.targets and not targets else options.ratio)


def _left(prepared: PreparedModel, shorter: _Shorter, progress: Progress) -> tuple[tuple[str, float | str], ...]:
    """Return the targets in terms of the shorter model, without those that it meets."""
    bounds, traced = prepared.options.bounds, prepared.traced
    before = Counter(traced).before
    after = _model(prepared, shorter)
    costs = {
        "macs": 1 - macs_of(traced, shorter.choice.removed) / max(1, before["macs"]),
        "params": after.stored_params / max(1, traced.model.stored_params),
        "size": after.needed_bytes / max(1, traced.model.size_bytes()),
    }
    if any(target.kind not in costs for target in bounds):
        progress("timing what is left")
        costs |= measured_costs(traced.model, after, prepared.evaluation_data, prepared.options)
    left: list[tuple[str, float | str]] = []
    for target in bounds:
        goal = _in_terms(target, costs.get(target.kind, 1.0))
        if goal is not None:
            left.append((target.kind, goal))
    return tuple(left)


def _in_terms(target: Target, share: float) -> float | str | None:
    """Return a target in terms of a model that costs a share of the original; None where that is met."""
    if not target.is_fraction:
        return target.text if target.unit else target.value
    return None if target.value >= share else target.value / share


def _model(prepared: PreparedModel, shorter: _Shorter) -> Model:
    """Return the shorter model, in memory; its external data lies where that of the original does."""
    contents, _ = shorter.recovery
    model = prepared.traced.model
    proto = stored_as(model, shorter.rewritten, contents)
    return replace(view(proto, folder=model.folder), stamps=model.stamps)


def _cut_further(  # noqa: PLR0917 - as they follow from one another
    job: Job,
    options: Options,
    prepared: PreparedModel,
    shorter: _Shorter,
    keeper: Keeper,
    publish: Publish,
    progress: Progress,
) -> tuple[Any, dict[str, Any]]:
    """Prove the shorter model, and cut the widths of it; the original is the teacher, and compared with the result."""
    original, model = prepared.traced.model, _model(prepared, shorter)
    verification = proven(prepared, {}, shorter.recovery[0], progress, model, shorter.choice.removed)
    whole = partial(
        of_whole,
        values=shorter.values,
        source=file_values(original, int(Counter(prepared.traced).before["macs"])),
        options=prepared.options,
        verification=verification,
        groups=prepared.groups,
        gone=[original.nodes[index].name for branch in shorter.choice.removed for index in branch.nodes],
    )
    later = Job(model, options, job.data, job.learning, job.name, original=original)
    try:
        return at_once(later, keeper, partial(with_report, publish, whole), progress)
    except NothingToPrune as error:
        progress(f"no width is cut: {error}")
        raise _NothingFurther from error
