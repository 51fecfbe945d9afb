"""Step of `prune` that turns streams to their principal directions, proves it, and cuts the directions of least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from onnxprune.calibration.directions import directions, second_moments
from onnxprune.commands.rounds.folder import Keeper
from onnxprune.commands.rounds.tune_pruned import Tuning, improver
from onnxprune.commands.steps.cut import Pass, cut
from onnxprune.commands.steps.finish import Publish, with_report
from onnxprune.commands.steps.job import Job
from onnxprune.commands.steps.prepare import PreparedModel, prepare
from onnxprune.commands.ways.remade import costs_of, in_memory, original_of, part_of, proven_same
from onnxprune.dependency.blocks import entries
from onnxprune.dependency.branches import branches
from onnxprune.dependency.cost import macs
from onnxprune.dependency.frames import Frames
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import Trace, trace
from onnxprune.dependency.turning import frames_of
from onnxprune.errors import CannotTurn, NothingToPrune, OptionError, UnreachableTarget
from onnxprune.graph.effective import ConstantValues
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.planning.choice import reasons_for
from onnxprune.planning.left import Cost
from onnxprune.planning.slicing import Stream, by_order, options_of_cut, streams_of
from onnxprune.progress import Progress
from onnxprune.report.rotation import of_turned, stream_values
from onnxprune.report.words import plural
from onnxprune.surgery.rotation import turned

_NAMES = {"params": "parameters", "macs": "MACs"}  # of costs


def by_rotation(job: Job, keeper: Keeper, publish: Publish, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model, an onnx.ModelProto, and its report, when both are published.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`.
    """
    if job.data is None:
        raise OptionError(f"method {job.options.method} needs data: give samples with --data")
    if not (job.options.ratio or job.options.targets):
        raise NothingToPrune("nothing to remove: at --ratio 0 no direction goes; give more, or a --target")
    tunes = job.learning.tuning is not None
    prepared = prepare(job.model, job.options, job.data, progress, tunes=tunes)
    whole = _turned(prepared, progress)
    progress("verifying: turned = original")
    verification = proven_same(prepared, whole.traced.model, "turned model", whole.rewritten)
    part, count = whole.traced.model, macs(whole.traced)
    costs = costs_of(prepared, whole.model, part, count, "timing the turned model", progress)
    if job.options.targets and all(
        t.fraction(costs[t.kind].original) >= costs[t.kind].share for t in job.options.bounds
    ):
        met = ", ".join(map(str, job.options.bounds))
        raise NothingToPrune(f"nothing has to go: the turned model meets {met} already")
    options = replace(prepared.options, criterion=None, reconstruct=bool(job.options.reconstruct))
    told = partial(
        of_turned,
        left=whole.reasons,
        turned={"params": whole.model.stored_params, "macs": count},
        original=original_of(prepared, verification, costs, options),
    )
    return _cut(job, prepared, whole, costs, told, keeper, publish, progress)


@dataclass(frozen=True)
class _Turned:
    """A model with streams in other directions, in memory."""

    model: Model
    traced: Trace  # of the part of it that is run
    streams: list[tuple[str, Frames, dict[int, Array]]] = field(default_factory=list)  # name, shares by frame
    reasons: dict[str, str] = field(default_factory=dict)  # why others were not turned, by name
    rewritten: frozenset[str] = frozenset()  # values that are written otherwise


def _turned(prepared: PreparedModel, progress: Progress) -> _Turned:
    """Turn the streams one after the other.

    Raises:
        NothingToPrune: when none can be turned; says why.
    """
    now = _Turned(prepared.traced.model.file, prepared.traced)
    locked = {group.name for group in prepared.groups if group.lock is not None}  # the walk has the better reason
    for stream in streams_of(prepared.traced, prepared.groups):
        current = next((each for each in streams_of(now.traced, groups(now.traced)) if each.key == stream.key), None)
        try:
            if stream.name not in prepared.ratios.keys() | locked:
                raise CannotTurn(reasons_for(prepared.groups, prepared.ratios, prepared.options, {})[stream.name])
            if current is None:
                raise CannotTurn("it cannot be told from another one that was turned")
            now = _with_stream(prepared, now, replace(current, name=stream.name), progress)
        except CannotTurn as refusal:
            now = replace(now, reasons={**now.reasons, stream.name: str(refusal)})
    if not now.streams:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in now.reasons.items())
        none = "no branches are added to units that something normalises over, as in transformers"
        raise NothingToPrune(f"method {prepared.options.method} can turn no stream: {reasons or none}")
    return now


def _with_stream(prepared: PreparedModel, now: _Turned, stream: Stream, progress: Progress) -> _Turned:
    """Return a model with one stream more in its principal directions.

    Raises:
        CannotTurn: with the node, and why.
    """
    traced, calibration = now.traced, prepared.calibration
    assert calibration is not None  # there is data
    parted = entries(traced, branches(traced)) if prepared.options.rotations == "each" else {}
    arrays = ConstantValues(traced.model)
    frames = frames_of(traced, stream.atom, parted, arrays)
    moments = second_moments(traced.model, frames.signals, calibration.batches, progress=progress)
    if not moments:
        raise CannotTurn("no layer reads it")
    bases, shares = dict[int, Array](), dict[int, Array]()
    for frame, each_moments in moments.items():
        bases[frame], shares[frame] = directions(each_moments)
    progress(f"turning {stream.name} by {plural(len(bases), 'rotation')}")
    rewritten = turned(traced, frames, bases, arrays)
    original = prepared.traced.model
    model = in_memory(traced.model, rewritten, original)
    names = {
        name for name, axes in traced.values.items() if any(stream.atom in traced.partition.atoms(a) for a in axes)
    }
    return replace(
        now,
        model=model,
        traced=trace(part_of(model, original)),
        streams=[*now.streams, (stream.name, frames, shares)],
        rewritten=now.rewritten | names,
    )


def _cut(  # noqa: PLR0917 - as they follow from one another
    job: Job,
    prepared: PreparedModel,
    whole: _Turned,
    costs: Mapping[str, Cost],
    told: partial[None],
    keeper: Keeper,
    publish: Publish,
    progress: Progress,
) -> tuple[Any, dict[str, Any]]:
    """Cut the directions of least, as units of the turned model; it is the teacher, and the original is compared.

    Raises:
        NothingToPrune, OptionError: when directions cannot be cut as they were to be; says what the turned model costs.
    """
    options, tuning = options_of_cut(job.options, costs), job.learning.tuning
    later = prepare(whole.model, options, job.data, progress, tunes=tuning is not None)
    named = {group.atom: group.name for group in later.groups}
    values = []
    for name, frames, shares in whole.streams:
        turned_values = [frames.values[frame] for frame in shares]
        axes = [later.traced.partition.resolve(later.traced.values[value][dim]) for value, dim in turned_values]
        values.append(
            stream_values(
                name, [own for axis in axes for atom, own in named.items() if atom is axis], centred=frames.centred,
                places=sum(map(len, frames.signals.values())), matrices=len(frames.steps), shares=list(shares.values()),
            )
        )  # fmt: skip
    ratios = {name: options.ratio for stream in values for name in stream["groups"]}
    later = replace(later, ratios=ratios, file_name=job.name)
    improve = None
    if tuning is not None:
        improve = improver(later, Tuning(tuning, checkpoint=keeper.tuning(), resume=keeper.resume), progress)
    whole_report = partial(with_report, publish, partial(told, streams=values))
    evidence = by_order(later.traced, later.groups, ratios)
    once = Pass(
        whole_report, improve, original=prepared.traced.model, evidence=evidence, notes=keeper.notes().of("turned")
    )
    try:
        return cut(later, once, progress)
    except (NothingToPrune, UnreachableTarget) as error:
        kind = NothingToPrune if isinstance(error, NothingToPrune) else OptionError
        has = " and ".join(f"{costs[each].share:.3f} of the {name}" for each, name in _NAMES.items())
        raise kind(f"the turned model has {has}: {error}; figures are of the model that was turned") from None
