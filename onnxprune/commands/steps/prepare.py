"""First step of `prune` and `sweep`: trace a model, group its units, and choose the samples to calibrate on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration.batches import Calibration, accepted, calibration
from onnxprune.commands.steps.as_run import AsRun, as_run
from onnxprune.data import generated
from onnxprune.data.batching import batch_of
from onnxprune.data.caches import check_no_past, load_suited
from onnxprune.data.samples import Data, evaluated, files_of, limit, split, with_shapes
from onnxprune.dependency.account import unreached
from onnxprune.dependency.axes import Atom, Mask
from onnxprune.dependency.blocks import Block, blocks
from onnxprune.dependency.branches import branches, nodes_of
from onnxprune.dependency.groups import Group, groups, weights
from onnxprune.dependency.trace import Trace, trace
from onnxprune.errors import DataError, ModelError, NothingToPrune, OptionError
from onnxprune.evaluation.place import Place, dims_for, open_model
from onnxprune.graph.dims import dynamic_dims, with_dims
from onnxprune.graph.files.publish import Reads
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port, batch_dim, with_batch
from onnxprune.graph.shapes.footprint import check_runnable
from onnxprune.graph.shapes.probe import settled, with_sizes
from onnxprune.planning.choice import all_reasons, select_ratios, why_nothing
from onnxprune.planning.curves.effort import EFFORTS
from onnxprune.planning.methods import METHODS
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Plan, kept_masks
from onnxprune.planning.work import Work
from onnxprune.progress import Progress, silent
from onnxprune.recovery.compensate import losing_layers
from onnxprune.report.words import not_run_lines
from onnxprune.runtime.concessions import conceded
from onnxprune.runtime.random_feeds import random_feeds
from onnxprune.runtime.support import runnable_part
from onnxprune.surgery.biases import with_biases
from onnxprune.surgery.rewrite import Rewritten, rewrite
from onnxprune.training.tuning.order import held_out

_MOST_CALIBRATED = 0.75  # of the samples, where the rest of the same source is evaluated on
_GENERATED = 128  # samples to generate where there is no data, at most


@dataclass(frozen=True)
class PreparedModel:
    """A model that can be planned for: all that does not depend on how many units are removed."""

    traced: Trace
    groups: Sequence[Group]
    ratios: Mapping[str, float]  # by the names of the groups to prune
    options: Options  # resolved
    calibration: Calibration | None
    why_no_calibration: str | None  # why no samples could be generated to calibrate on
    calibration_data: Data | None  # samples to calibrate and verify on; generated ones are not among them
    evaluation_data: Data | None  # samples to compare both models on
    tuning_data: Data | None  # samples to learn from, and those of them that decide; calibration sees none of these
    ports: Sequence[Port]  # the inputs, with the shapes that the options fix
    reads: Reads
    file_name: str = "pruned.onnx"  # of the model to write, where that is known

    @cached_property
    def as_run(self) -> AsRun | None:
        """The model as the samples to calibrate on run it; None where they run it as it stands."""
        return as_run(self.traced, self.groups, self.calibration)

    def with_options(self, options: Options) -> PreparedModel:
        """Return the same model with other ratios or targets."""
        options = options.resolved(self.calibration is not None)
        return replace(self, options=options, ratios=select_ratios(self.groups, options))

    def masks(self, plan: Plan) -> dict[Atom, Mask]:
        """Return the masks of the units that a plan keeps.

        Raises:
            NothingToPrune: when it keeps all units; says why.
        """
        if not plan.kept:
            raise nothing_to_prune(self.traced, self.groups, self.ratios, self.options, plan.enlarging)
        return kept_masks(self.groups, plan.kept)

    def rewritten(self, plan: Plan) -> Rewritten:
        """Return the pruned model of a plan, its weights as they were cut.

        Raises:
            NothingToPrune: as `masks`.
        """
        return rewrite(self.traced, self.masks(plan))


def prepare(
    model: Model, options: Options, data_source: Any, progress: Progress, *, tunes: bool = False
) -> PreparedModel:
    """Return a model with its groups, their ratios, and what to calibrate on.

    Args:
        model: the model.
        options: of pruning.
        data_source: samples.
        progress: called before each step.
        tunes: whether the cut is tuned: the samples that decide there are kept out of calibration.

    Raises:
        InputError: as `prune`.
    """
    options.check_effects(data_source is not None)
    for sentence in conceded(model):
        progress(sentence)
    model = part_to_run(model, dict(options.inputs), progress)
    samples = _tuning_samples(model, options, data_source) if tunes else _samples(model, options, data_source)
    model = replace(
        sized_by(model, samples.calibration or samples.evaluation),
        changes_io=options.change_io,
        handed_on=frozenset(options.handed_on),
    )
    ports = with_shapes(model.inputs, dict(options.inputs))
    progress(f"tracing {len(model.nodes)} nodes")
    traced = trace(model)
    check_runnable(model, traced.probe)
    _check_no_past(traced, samples)
    all_groups = groups(traced)
    options = replace(options, spared=_spared(traced, all_groups, options))
    ratios = select_ratios(all_groups, options)
    if options.compensates:
        traced = _with_biases(traced, [group for group in all_groups if group.name in ratios])
        all_groups = groups(traced)
        ratios = select_ratios(all_groups, options)
    calibration_data = None if samples.calibration is None else accepted(model, samples.calibration)
    calibrated_on, why_no_calibration = _calibration(traced, options, calibration_data, ports, progress)
    options = options.resolved(calibrated_on is not None)
    return PreparedModel(
        traced=traced,
        groups=all_groups,
        ratios=ratios,
        options=options,
        calibration=calibrated_on,
        why_no_calibration=why_no_calibration,
        calibration_data=calibration_data,
        evaluation_data=samples.evaluation,
        tuning_data=None if samples.tuning is None else accepted(model, samples.tuning),
        ports=ports,
        reads=Reads(model.file.path, tuple(model.data_files), sample_files(data_source, options)),
    )


def _check_no_past(traced: Trace, samples: _Samples) -> None:
    """Make sure that no sample holds a past, where caches may become smaller.

    Raises:
        DataError: when one does.
    """
    names = [cache.past for cache in traced.caches] if traced.model.changes_io else []
    for data in (samples.calibration, samples.evaluation, samples.tuning):
        check_no_past(data, names)


def calibrated(prepared: PreparedModel) -> Calibration:
    """Return the samples that branches are chosen by.

    Raises:
        OptionError: when there are none.
    """
    if prepared.calibration is None:
        why = prepared.why_no_calibration or f"criterion {prepared.options.criterion} looks at none"
        raise OptionError(f"depth needs samples to choose branches by, and has none ({why}); give some with --data")
    return prepared.calibration


def part_to_run(model: Model, shapes: Mapping[str, Sequence[int]], progress: Progress = silent) -> Model:
    """Return the part of a model that ONNX Runtime can run, with the sizes that its inputs can have.

    Mostly that is all of it, see `runtime.support`; what is not is told to `progress`.

    Args:
        model: in plain form.
        shapes: that the caller states for inputs, and for values that nodes make which cannot be run.
        progress: called with a sentence for each part that is not run.

    Raises:
        OptionError: for an input that is not there, a shape that it cannot have, or two sizes of one dim.
    """
    part = runnable_part(model, shapes)
    for sentence in not_run_lines(each.to_dict() for each in part.not_run):
        progress(sentence)
    return settled(with_sizes(part, with_shapes(part.inputs, shapes)))


def _spared(traced: Trace, all_groups: Sequence[Group], options: Options) -> tuple[str, ...]:
    """Return the names of the groups with nodes in the first and last blocks that the method leaves whole.

    Shares are of each chain, such as those of an encoder and a decoder, and one block at least where there are three.
    """
    first, last = (0.0, 0.0) if options.method is None else METHODS[options.method].spares
    if not (first or last):
        return options.spared
    chains: dict[int, list[Block]] = {}
    for block in blocks(traced, branches(traced)):
        chains.setdefault(block.chain, []).append(block)
    whole = list[Block]()
    for chain in chains.values():
        least = 1 if len(chain) > 2 else 0
        front, back = (max(least if share else 0, round(share * len(chain))) for share in (first, last))
        whole += [*chain[:front], *chain[len(chain) - back :]]
    indices = nodes_of(branch for block in whole for branch in block.branches)
    names = {traced.model.nodes[index].name for index in indices}
    return tuple(group.name for group in all_groups if not names.isdisjoint(group.nodes) and group.prunable)


def _with_biases(traced: Trace, pruned: Sequence[Group]) -> Trace:
    """Return a model whose layers have a bias where they may lose inputs; as it is where it is a part of another."""
    if traced.model.whole is not None:
        return traced
    masks = {group.atom: np.zeros(group.units, bool) for group in pruned}
    losing = [each.layer for each in losing_layers(traced, masks)]
    without = [layer for layer in losing if layer.bias is None and layer.fixed is None]
    return trace(with_biases(traced.model, without)) if without else traced


def nothing_to_prune(
    traced: Trace,
    all_groups: Sequence[Group],
    ratios: Mapping[str, float],
    options: Options,
    enlarging: Collection[str] = (),
) -> NothingToPrune:
    """Return the error that says why no group loses a unit; `enlarging` as in `reasons_for`."""
    unreached_weights = unreached(traced, all_reasons(all_groups), weights(traced))
    sentences = not_run_lines(each.to_dict() for each in traced.model.not_run)
    why = why_nothing(all_groups, ratios, options, unreached_weights, enlarging)
    return NothingToPrune(". ".join([why, *sentences]))


def sized_by(model: Model, data: Data | None) -> Model:
    """Return a model that states the sizes of samples, but for their number: the probe takes them where it needs some.

    Sizes that the caller stated are kept.
    """
    if data is None:
        return model
    feeds = data.take([0])
    sizes = {
        key: feeds[port.name].shape[at]
        for port in model.inputs
        for at, key in dynamic_dims(port)
        if at != port.batch and feeds[port.name].ndim == len(port.shape or ())
    }
    return replace(model, sizes={**sizes, **model.sizes})


def load_limited(model: Model, options: Options, data_source: Any) -> Data:
    """Return the samples of a source, as many as the options allow.

    Raises:
        DataError: when they do not fit the inputs of the model.
    """
    data = load_suited(data_source, model.inputs, preprocess=options.preprocess)
    return limit(data, options.most_samples(data.count), options.seed)


def sample_files(data_source: Any, options: Options) -> tuple[Path, ...]:
    """Return the files that hold samples, to calibrate on and to evaluate on."""
    return (*files_of(data_source), *files_of(options.eval_data))


def loss_metric(data: Data, options: Options) -> str | None:
    """Return the metric whose loss is minimised: never a function of the user, which need not be smooth.

    Labels mean classes, unless the options name a metric.
    """
    metric = None if options.metric is None or ":" in options.metric else options.metric
    return "classification" if metric is None and data.labels is not None else metric


@dataclass(frozen=True)
class _Samples:
    """What the samples of a run are for."""

    calibration: Data | None
    evaluation: Data | None
    tuning: Data | None = None


def _evaluated(model: Model, options: Options) -> Data | None:
    """Return the samples of `eval_data`."""
    if options.eval_data is None:
        return None
    return evaluated(load_suited(options.eval_data, model.inputs, preprocess=options.preprocess), options.seed)


def _samples(model: Model, options: Options, data_source: Any) -> _Samples:
    """Return the samples to calibrate on and those to evaluate on: disjoint parts of one source, or two sources.

    A source of a single sample serves for both.
    """
    evaluation_data = _evaluated(model, options)
    if data_source is None:
        return _Samples(None, evaluation_data)
    if evaluation_data is not None:
        return _Samples(load_limited(model, options, data_source), evaluation_data)
    data = load_suited(data_source, model.inputs, preprocess=options.preprocess)
    share = min(_MOST_CALIBRATED, options.most_samples(data.count) / data.count)
    calibration_data, rest = split(data, share, options.seed)
    return _Samples(calibration_data, evaluated(rest, options.seed) if rest.count else calibration_data)


def _tuning_samples(model: Model, options: Options, data_source: Any) -> _Samples:
    """Return the same where the cut is tuned: what is calibrated on is among what is learned from.

    The samples that decide there are in neither, so that the cut before tuning looks no better on them than it is.
    """
    evaluation_data = _evaluated(model, options)
    data = load_suited(data_source, model.inputs, preprocess=options.preprocess)
    if evaluation_data is None:
        data, rest = split(data, _MOST_CALIBRATED, options.seed)
        evaluation_data = evaluated(rest, options.seed) if rest.count else data
    learned, _ = held_out(data)
    return _Samples(limit(learned, options.most_samples(learned.count), options.seed), evaluation_data, data)


def _calibration(
    traced: Trace, options: Options, calibration_data: Data | None, ports: Sequence[Port], progress: Progress
) -> tuple[Calibration | None, str | None]:
    """Return what to calibrate on: samples of the user, or generated ones where an option needs some.

    The second value says why none could be generated, where the options can do without.

    Raises:
        OptionError: when an option needs samples, there is no data, and none can be generated.
    """
    if calibration_data is not None:
        return calibration(traced.model, calibration_data, loss_metric(calibration_data, options)), None
    if not options.looks_at_samples:
        return None, None
    progress("generating samples to calibrate on")
    try:
        samples = _generated(traced, options, ports)
        return calibration(traced.model, samples.data, None, source="generated", description=samples.description), None
    except (DataError, ModelError) as error:
        if options.criterion is None and options.scope != "loss" and not options.reconstruct:
            return None, str(error)
        raise OptionError(f"no samples are given with --data, and none can be generated: {error}") from None


def made_up(prepared: PreparedModel, progress: Progress) -> Calibration:
    """Return generated samples to calibrate on, of a model that was prepared without any.

    Raises:
        OptionError: when none can be generated.
    """
    progress("generating samples to calibrate on")
    try:
        samples = _generated(prepared.traced, prepared.options, prepared.ports)
    except (DataError, ModelError) as error:
        raise OptionError(f"no samples are given with --data, and none can be generated: {error}") from None
    model, told = prepared.traced.model, samples.description
    return calibration(model, samples.data, None, source="generated", description=told)


def _generated(traced: Trace, options: Options, ports: Sequence[Port]) -> generated.Generated:
    """Return generated samples; where the model refuses the usual sizes, of those on which it would be proven."""
    try:
        return _of_sizes(traced, options, ports)
    except ModelError:
        own = open_model(traced.model, Place("cpu", 0, {}))
        dims = dims_for(tuple(ports), traced.model, own, 1, options.seed)
        sized = [with_batch(with_dims(port, dims), batch_dim(port)) for port in ports]
        if sized == [*ports]:
            raise
        return _of_sizes(traced, options, sized)


def _of_sizes(traced: Trace, options: Options, ports: Sequence[Port]) -> generated.Generated:
    """Return generated samples, as many at once as the model takes: a batch that the options fix is one to time."""
    model, effort = traced.model, EFFORTS[options.effort]
    pairs = zip(ports, model.inputs, strict=True)
    open_ports = [with_batch(port, batch_dim(own)) for port, own in pairs]
    work = Work(traced, random_feeds(open_ports, generated.usual_dims(open_ports), 0)).run / batch_of(open_ports).step
    count = max(effort.fewest, min(_GENERATED, int(effort.samples / work)))
    make = partial(generated.inputs, model, count, seed=options.seed, work=work, budget=effort.pool)
    try:
        samples = make(ports=open_ports)
        return replace(samples, data=accepted(model, samples.data))
    except ModelError:
        if batch_of(open_ports).fixed is not None:
            raise
        return make(ports=[with_batch(port, 1) for port in open_ports])
