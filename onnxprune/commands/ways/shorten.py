"""Step of `prune` that takes whole branches out: choose them, refit what stays, prove it; widths are cut after that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from onnxprune.commands.rounds.at_once import at_once
from onnxprune.commands.rounds.folder import Keeper
from onnxprune.commands.rounds.in_rounds import in_rounds
from onnxprune.commands.rounds.tune_pruned import Tuning, improver
from onnxprune.commands.steps.cut import Pass, cut
from onnxprune.commands.steps.finish import Publish, finish, proven, with_report
from onnxprune.commands.steps.int8 import DEPLOYED, Int8, chosen_where_asked, met_by, written_in
from onnxprune.commands.steps.job import Job
from onnxprune.commands.steps.prepare import PreparedModel, calibrated, prepare
from onnxprune.commands.steps.recover import Recovery, recover
from onnxprune.commands.ways.masks import by_masks
from onnxprune.commands.ways.remade import costs_of, in_memory, original_of
from onnxprune.commands.ways.weigh import Chosen, Weighed, weigh
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.dependency.blocks import blocks
from onnxprune.dependency.branches import Branch, branches, branches_at, nodes_of
from onnxprune.dependency.cost import NodeMacs, macs
from onnxprune.errors import MetAlready, NothingToPrune, OptionError, UnreachableTarget
from onnxprune.graph.forms.remainder import same_part
from onnxprune.graph.forms.straight import begins_apart, switches
from onnxprune.graph.model import Model
from onnxprune.planning.branches.collapse import by_collapse
from onnxprune.planning.branches.depth import Shortening, choose
from onnxprune.planning.branches.influence import by_influence
from onnxprune.planning.branches.removal import may_go, named
from onnxprune.planning.curves.detail import rows_of_refits
from onnxprune.planning.curves.effort import EFFORTS, USUAL
from onnxprune.planning.left import Cost, rest_of
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Plan
from onnxprune.planning.promise import Decision
from onnxprune.progress import Progress
from onnxprune.report.depth import depth_values, of_whole, tell_options
from onnxprune.report.words import plural
from onnxprune.surgery.depth import Shortened, without

# Functions that choose whole blocks, by the method that they are.
_BY_METHOD: Mapping[str, Callable[..., Shortening]] = {"shortgpt": by_influence, "laco": by_collapse}


def by_depth(
    job: Job, keeper: Keeper, publish: Publish, progress: Progress, places: Mapping[str, tuple[str, int]] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model, an onnx.ModelProto, and its report, when both are published.

    Branches go first; what targets and ratios still ask for is cut from what is left. Where another step chose the
    branches, their names and `places` are given, as of `dependency.branches.branches_at`.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`.
    """
    prepared = prepare(job.model, job.options, job.data, progress, tunes=job.learning.tuning is not None)
    prepared = replace(prepared, file_name=job.name)
    with chosen_where_asked(prepared, progress) as int8:
        chosen_at = None if places is None else branches_at(prepared.traced, places)
        return _by_depth(job, prepared, keeper, publish, progress, int8, chosen_at)


def _by_depth(  # noqa: PLR0917 - as they follow from one another
    job: Job,
    prepared: PreparedModel,
    keeper: Keeper,
    publish: Publish,
    progress: Progress,
    int8: Int8 | None,
    going: Sequence[Branch] | None,
) -> tuple[Any, dict[str, Any]]:
    """Return the same of a model that is prepared; it is written in eight bits where their form is given.

    The branches that go are chosen here unless they are given.
    """
    notes = keeper.notes(job.learning.rounds - 1).of("depth")  # which stay until the last round ends
    choice = None if going is None else Chosen(list(going), Shortening(tuple(going)), {})
    if job.options.weighs_branches:
        counted = prepared if int8 is None else replace(prepared, options=int8.in_float32(prepared.options))
        weighed = weigh(counted, progress, notes)
        if not weighed.chosen.choice.removed:
            return _widths_alone(job, prepared, weighed, keeper, publish, progress, int8)
        choice = weighed.chosen
    shorter, decision = shortened_model(prepared, progress, notes, choice), Decision(Plan({}))
    if job.options.cuts_widths:
        left = left_of(prepared, shorter, progress)
        rest = rest_of(job.options, left.costs, () if int8 is None else DEPLOYED)
        if rest is not None:
            rest = _of_widths_alone(job, rest)
            with contextlib.suppress(*([] if int8 is None else [MetAlready])):
                return _cut_further(job, rest, prepared, shorter, left, keeper, publish, progress, int8)
        if int8 is not None:
            originals = {kind: cost.original for kind, cost in left.costs.items()}
            bounds = tuple((each, each.fraction(originals.get(each.kind, 1.0))) for each in job.options.bounds)
            decision = met_by(prepared, bounds)
    improve, options = None, job.learning.tuning
    if options is not None:
        improve = improver(
            prepared, Tuning(options, job.original, checkpoint=keeper.tuning(), resume=keeper.resume), progress
        )

    def finished(decision: Decision, publish: Publish) -> tuple[Any, dict[str, Any]]:
        return finish(
            prepared, decision, shorter.shortened.rewritten, recovery=shorter.recovery, progress=progress,
            publish=publish, improve=improve, original=job.original, timed=job.timed, shortened=shorter.shortened,
        )  # fmt: skip

    told = partial(with_report, publish, lambda report: report.update(depth=shorter.values))
    others = job.original, job.timed
    return written_in(int8, prepared, decision, finished, publish=told, others=others, progress=progress)


@dataclass(frozen=True)
class Shorter:
    """A model without some of its branches."""

    shortened: Shortened
    recovery: Recovery
    values: Mapping[str, Any]  # what the report says of it
    macs: int  # of one sample, that went


def shortened_model(
    prepared: PreparedModel, progress: Progress, notes: Notes = NOWHERE, made: Chosen | None = None
) -> Shorter:
    """Choose branches, take them out, and refit what stays; `notes` have what an earlier run found.

    They are chosen already where the choice was `made`.

    Raises:
        NothingToPrune: when no branch can go; says why.
        OptionError: when there is nothing to choose by.
    """
    traced, counted, made = prepared.traced, NodeMacs(prepared.traced), made or chosen(prepared, progress, notes)
    choice = made.choice
    shortened = without(traced.model, choice.removed, traced.probe.dtype)
    without_these = notes.of(str([branch.name for branch in choice.removed]))
    recovery = recover(prepared, Plan({}), shortened.rewritten, progress, without_these)
    recovery = {**choice.contents, **recovery[0]}, recovery[1]
    went, whole = counted.total(shortened.dead), counted.total(nodes_of(made.found))
    values = depth_values(prepared.options, made.found, choice, made.reasons, min(1.0, went / max(1, whole)))
    return Shorter(shortened, recovery, values, went)


def chosen(prepared: PreparedModel, progress: Progress, notes: Notes = NOWHERE, also: Collection[str] = ()) -> Chosen:
    """Return the branches that go; `also` has names of some that do in any case, beside those of the options.

    Raises:
        NothingToPrune: when no branch can go; says why.
        OptionError: when there is nothing to choose by.
    """
    traced, options, counted = prepared.traced, prepared.options, NodeMacs(prepared.traced)
    found = branches(traced)
    able, reasons = may_go(traced.model, found, options)
    gone = named(traced.model, found, options.without).union(also)
    locked = [branch for branch in found if branch.name in gone and branch.name in reasons]
    if locked:
        raise OptionError(f"branch {locked[0].name!r} cannot go: {reasons[locked[0].name]}; do not name it, or free it")
    whole = counted.total(nodes_of(found))
    goal = (0.0 if isinstance(options.depth, str) else options.depth or 0.0) * whole
    if options.method in _BY_METHOD:
        choice = _published(prepared, found, able, reasons, goal, progress)
    else:
        choice = _choice(prepared, able, gone, goal, progress, notes)
    if not choice.removed:
        raise NothingToPrune(_why_none(traced.model, found, able, reasons, options, whole))
    return Chosen(found, choice, reasons)


def _choice(  # noqa: PLR0917 - as they follow from one another
    prepared: PreparedModel,
    able: Sequence[Branch],
    gone: set[str],
    goal: float,
    progress: Progress,
    notes: Notes,
) -> Shortening:
    """Return the branches that go: those that are named, and others up to so many multiply-accumulates.

    Raises:
        OptionError: when there are no samples to choose by.
    """
    if prepared.options.depth is None:
        return Shortening(tuple(branch for branch in able if branch.name in gone))
    calibration = calibrated(prepared)
    effort = EFFORTS[prepared.options.effort]
    rows = rows_of_refits(prepared.traced, prepared.traced.model, calibration, prepared.options.effort)
    return choose(
        prepared.traced, able, goal, calibration,
        gone=gone, rounds=effort.rounds, screened=effort.screened, rows=rows,
        repairs=bool(prepared.options.reconstruct), seed=prepared.options.seed, progress=progress, notes=notes,
    )  # fmt: skip


def _published(  # noqa: PLR0917 - as they follow from one another
    prepared: PreparedModel,
    found: Sequence[Branch],
    able: Sequence[Branch],
    reasons: Mapping[str, str],
    goal: float,
    progress: Progress,
) -> Shortening:
    """Return the branches that go by a published method, in whole blocks, up to so many multiply-accumulates.

    Raises:
        OptionError: when there are no samples to choose by.
        NothingToPrune: when no block can go; says why.
    """
    each, choose_blocks = blocks(prepared.traced, found), _BY_METHOD[str(prepared.options.method)]
    names, macs = {branch.name for branch in able}, NodeMacs(prepared.traced)
    whole = [block for block in each if all(branch.name in names for branch in block.branches)]
    takes = [(macs.total(nodes_of(block.branches)), block) for block in whole]
    if takes and all(each_takes > goal for each_takes, _ in takes):
        least, block = min(takes, key=lambda each: each[0])
        share = least / max(1, macs.total(nodes_of(found)))
        raise NothingToPrune(
            f"nothing to remove: --depth {prepared.options.depth} is less than any block takes; the smallest of "
            f"{plural(len(takes), 'block')}, {block.name!r}, takes {share:.3f}"
        )
    if able and not whole:
        name = next(branch.name for branch in each[0].branches if branch.name in reasons)
        raise NothingToPrune(
            f"nothing to remove: some branch of each of {plural(len(each), 'block')} has to stay, such as {name!r}: "
            f"{reasons[name]}"
        )
    if not able:
        return Shortening(())
    return choose_blocks(prepared.traced, each, names, goal, calibrated(prepared), progress=progress)


def _why_none(  # noqa: PLR0917 - as they follow from one another
    model: Model,
    found: Sequence[Branch],
    able: Sequence[Branch],
    reasons: Mapping[str, str],
    options: Options,
    whole: int,
) -> str:
    """Return why no branch goes."""
    if not found and begins_apart(model):
        return (
            "nothing to remove: its layers lie in the bodies of an If, and branches are chosen in the main graph; "
            "prune the folder that it lies in, with depth or without and none of linearize, vocabulary and tie: there "
            "the body leads that texts begin with"
        )
    if not found and switches(model):
        return (
            "nothing to remove: its layers lie in the bodies of an If, and branches are chosen in the main graph; "
            "prune it in a folder with a file of the same network that has them there"
        )
    if not found:
        return (
            "nothing to remove: no value in the main graph is computed from another one of its shape and added to it "
            "alone, as the branches of residual networks are"
        )
    if able:
        least = min(able, key=lambda branch: branch.macs)
        return (
            f"nothing to remove: --depth {options.depth} is less than any branch takes; the smallest of them, "
            f"{least.name!r}, takes {least.macs / max(1, whole):.3f}"
        )
    name, reason = next(iter(reasons.items()))
    return f"nothing to remove: {name} and {len(found) - 1} more: {reason}"


def _widths_alone(  # noqa: PLR0917 - as they follow from one another
    job: Job,
    prepared: PreparedModel,
    weighed: Weighed,
    keeper: Keeper,
    publish: Publish,
    progress: Progress,
    int8: Int8 | None,
) -> tuple[Any, dict[str, Any]]:
    """Cut widths where no branch goes: their scores and loss curves are known."""
    made = weighed.chosen
    values = depth_values(job.options, made.found, made.choice, made.reasons, 0.0)
    way = _way_of_widths(job)
    if way is not at_once:
        told = partial(with_report, publish, partial(_of_widths, values, prepared.options))
        return way(replace(job, options=_of_widths_alone(job, job.options)), keeper, told, progress, int8)
    improve, options = None, job.learning.tuning
    if options is not None:
        how = Tuning(options, job.original, checkpoint=keeper.tuning(), resume=keeper.resume)
        improve = improver(prepared, how, progress)
    told = partial(with_report, publish, partial(_of_widths, values, None))
    notes = keeper.notes().of("widths")
    once = Pass(told, improve, job.original, job.timed, evidence=weighed.evidence, notes=notes, int8=int8)
    return cut(prepared, once, progress)


def _of_widths(values: Mapping[str, Any], options: Options | None, report: dict[str, Any]) -> None:
    """Let a report of widths tell of the branches, which all stayed, and of the options of the whole run, if given."""
    report["depth"] = dict(values)
    if options is not None:
        tell_options(report, options)


def _of_widths_alone(job: Job, options: Options) -> Options:
    """Return options without those of branches; masks need no effort, all of it was spent on these."""
    effort = options.effort if job.learning.masks is None else USUAL
    return replace(options, depth=None, without=(), effort=effort)


def _way_of_widths(job: Job) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return what cuts widths: in rounds, by masks, or at once."""
    if job.learning.rounds > 1:
        return in_rounds
    return at_once if job.learning.masks is None else by_masks


# -- what is cut after that ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Left:
    """What branches left: the shorter model, in memory, and what it costs by kind of target."""

    model: Model
    costs: Mapping[str, Cost]


def left_of(prepared: PreparedModel, shorter: Shorter, progress: Progress) -> Left:
    """Return the shorter model, whose external data lies where that of the original does, and what both cost."""
    contents, _ = shorter.recovery
    original, count = prepared.traced.model, macs(prepared.traced) - shorter.macs
    model = in_memory(original, shorter.shortened.rewritten, original, contents)
    return Left(model, costs_of(prepared, model, same_part(model, original), count, "timing what is left", progress))


def told_of_whole(
    prepared: PreparedModel, shorter: Shorter, left: Left, progress: Progress
) -> Callable[[dict[str, Any]], object]:
    """Prove a shorter model; return what lets the report of a cut of it tell of the original.

    Raises:
        VerificationError: when it does not equal the masked model.
    """
    original, shortened = prepared.traced.model, shorter.shortened
    part = same_part(left.model, original)
    verification = proven(prepared, {}, shorter.recovery[0], progress, part, shortened.branches)
    return partial(
        of_whole,
        values=shorter.values,
        original=original_of(prepared, verification, left.costs),
        groups=prepared.groups,
        gone={original.nodes[index].name for index in shortened.dead},
    )


def _cut_further(  # noqa: PLR0917 - as they follow from one another
    job: Job,
    options: Options,
    prepared: PreparedModel,
    shorter: Shorter,
    left: Left,
    keeper: Keeper,
    publish: Publish,
    progress: Progress,
    int8: Int8 | None,
) -> tuple[Any, dict[str, Any]]:
    """Prove the shorter model, and cut the widths of it; the original is the teacher, and compared with the result.

    Raises:
        NothingToPrune, OptionError: when widths cannot be cut as they were to be; says what branches came to.
    """
    whole = told_of_whole(prepared, shorter, left, progress)
    later = replace(job, model=left.model, options=options, original=job.original or prepared.traced.model)
    went, share = plural(len(shorter.shortened.branches), "branch"), left.costs["macs"].share
    told = f"after {went} went, which left {share:.3f} of the MACs"
    try:
        return _way_of_widths(job)(later, keeper, partial(with_report, publish, whole), progress, int8)
    except (NothingToPrune, UnreachableTarget) as error:
        kind = type(error) if isinstance(error, NothingToPrune) else OptionError
        raise kind(f"{told}: {error}; figures are of the model that was left") from None
