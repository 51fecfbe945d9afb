"""`prune`: a model in, a smaller and verified one out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnxprune.algebra.threads import one_blas_thread
from onnxprune.commands.records.recipe import recipe_of_call
from onnxprune.commands.records.report_files import PageFile, map_file, write_map
from onnxprune.commands.rounds.at_once import at_once
from onnxprune.commands.rounds.folder import Keeper, keeper_of
from onnxprune.commands.rounds.in_rounds import in_rounds
from onnxprune.commands.steps.finish import Publish, kept_in_memory, published, with_report
from onnxprune.commands.steps.job import Job, Learning, make_learning
from onnxprune.commands.steps.overlay import overlay_of
from onnxprune.commands.steps.pages import with_details
from onnxprune.commands.steps.prepare import part_to_run, sample_files
from onnxprune.commands.ways.linearize import by_linear_maps
from onnxprune.commands.ways.masks import by_masks, options_of_masks
from onnxprune.commands.ways.rotate import by_rotation
from onnxprune.commands.ways.shorten import by_depth
from onnxprune.commands.ways.tie import with_ties
from onnxprune.commands.ways.vocabulary import by_vocabulary
from onnxprune.data.feeds import is_array
from onnxprune.data.samples import load_data
from onnxprune.errors import InputError
from onnxprune.graph.edit import with_deferred_inside
from onnxprune.graph.files.aside import with_weights_aside
from onnxprune.graph.files.deferred import deferring, defers, has_room
from onnxprune.graph.files.publish import (
    Reads,
    blamed_on_change,
    check_apart,
    check_files,
    check_unchanged,
    check_written,
    resolved,
    staging,
)
from onnxprune.graph.files.read import Source, load, read_proto
from onnxprune.graph.files.write import check_weights_name, data_file, staged
from onnxprune.graph.model import Model
from onnxprune.planning.methods import TURNS
from onnxprune.planning.options import Options, make_options
from onnxprune.progress import Progress, logged
from onnxprune.runtime.room import HELD_BYTES, memory_limited, runs_whole
from onnxprune.runtime.stations import weight_bytes


@dataclass(frozen=True)
class Result:
    """A pruned and verified model."""

    model: Any  # onnx.ModelProto
    report: dict[str, Any]  # see docs/report.md
    folder: Path  # where external data of the model lies
    external: bool  # whether weights go to a file beside the model, as they did in the source
    alignment: int  # of these weights, in bytes
    reads: Reads  # the files that it was made from: none of them is overwritten by accident
    stamps: Mapping[Path, Any]  # of the files that hold its external data, as they were read
    removed: tuple[Path, ...] = ()  # weights of a model that was replaced, which nothing refers to any more

    def save(self, path: str | os.PathLike[str], force: bool = False) -> Path:
        """Write the model, atomically; return the path.

        External data is read from the files of the input. Where the input itself is replaced, it is gone: save to other
        places first.

        Raises:
            InputError: when the file exists and `force` is not set, holds what the model was made from, or its folder
                cannot be written; and when external data has changed since it was read.
        """
        target = Path(path)
        check_files(target, data_file(resolved(target)), None, self.reads, force)
        check_weights_name(target, self.external)
        try:
            check_unchanged(self.stamps)
        except InputError as error:
            raise InputError(f"{error}; a result that replaces its input is saved last") from None
        with (
            staging(force) as files,
            staged(self.model, target, self.folder, self.external, files, alignment=self.alignment),
        ):
            write_map(self.report, target, files)
            return target


def prune(
    source: Source,
    ratio: float | None = None,
    *,
    data: Any = None,
    tune: Any = None,
    rounds: int = 1,
    masks: Any = None,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    force: bool = False,
    **options: Any,
) -> Result:
    """Return `source` without the least important `ratio` of its units, verified.

    Args:
        source: a path, an onnx.ModelProto, the program of ``torch.onnx.export(dynamo=True)``, or an
            onnx_graphsurgeon.Graph. It is not changed.
        ratio: the share of the units of each group to remove, in [0, 1); 0.3 unless there are `targets`.
        data: samples to compare the models on: the path of an .npz with one array per input (first axis samples), of
            a folder, ``module:function``, arrays, or an iterable of feeds; see `data.samples.load_data`. With
            ``labels``, accuracy is reported.
        tune: how long what was cut learns from the original on this data: "20m", "500 steps", "3 epochs", or a dict
            of options of `tune`; see docs/tuning.md.
        rounds: in how many parts the model is cut and tuned; the length of tuning is that of all together.
        masks: how long gates on all units are learned together with the weights, under a target of macs, params or
            size or a shape, as `tune`; what they shut is cut.
        checkpoint: a folder that finished rounds and the tuning are saved to; it is removed when the run has ended
            well.
        resume: whether the run goes on from there.
        force: whether finished rounds of an earlier run may be removed from there.
        **options: the fields of `Options`: targets (a dict such as {"latency": 0.6, "size": "20MB"}), depth (a share of
            what branches compute), without (globs of branches), linearize (globs of
            branches that linear maps stand in for, or auto), tie, vocabulary (ids of the tokens to keep, or a
            file of them; the report has the map), method (a key of `planning.methods.METHODS`), rotations ("one" or
            "each", of method slicegpt), criterion, scope, round_to, min_units, ignore, only, width, change_io,
            ratios (a dict glob -> ratio), shape (a dict such as {"heads": 8, "neurons": 1024}), effort, provider,
            threads, batch, profile_seconds, latency, quantize ("int8", "int8-static" or "int8-dynamic": the result is
            in eight bits), timer (a command, ``module:function`` or a function that tells how long a file takes),
            timer_seconds, seed, inputs (a dict name -> shape), eval_data, preprocess, samples, metric.

    Raises:
        InputError: for a model, data or option that cannot be used.
        NothingToPrune: when no group can lose a unit; says why.
        VerificationError: when the pruned model does not equal the masked one.
    """
    checked = make_options(ratio=ratio, **options)
    asked = {"ratio": ratio, "data": data, "tune": tune, "rounds": None if rounds == 1 else rounds, "masks": masks}
    recipe = recipe_of_call("prune", source, {**asked, **options})
    learning = make_learning(tune, rounds, masks, data, checked)
    return prune_model(source, checked, data, learning, recipe, checkpoint=checkpoint, resume=resume, force=force)


def prune_model(
    source: Source,
    options: Options,
    data: Any,
    learning: Learning,
    recipe: Mapping[str, Any],
    *,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    force: bool = False,
) -> Result:
    """Return a model without the units that go by the options, verified; the rest is as of `prune`.

    Args:
        source: as of `prune`.
        options: checked.
        data: as of `prune`.
        learning: how the cut is tuned.
        recipe: what makes the same again, for the report.
        checkpoint: as of `prune`.
        resume: as of `prune`.
        force: as of `prune`.
    """
    options.check_timer()
    with bounded_source(source) as model, kept_in_memory(model, "pruned.onnx") as publish:
        job = Job(model, options, data, learning, recipe=recipe)
        keeper = keeper_of(job, None if checkpoint is None else Path(checkpoint), resume=resume, force=force)
        with keeper.leaving_nothing():
            result = _prune(job, keeper, logged, publish)
            result = replace(result, model=with_deferred_inside(result.model))
        keeper.remove()
        return result


def prune_file(
    source: Path,
    target: Path,
    options: Options,
    data: Any = None,
    *,
    report_path: Path | None = None,
    page: PageFile | None = None,
    overlay_path: Path | None = None,
    tune: Any = None,
    rounds: int = 1,
    masks: Any = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    tokens_path: Path | None = None,
    plan_path: Path | None = None,
    recipe: Mapping[str, Any] = MappingProxyType({}),
    force: bool,
    progress: Progress,
    on_written: Callable[[], object] = lambda: None,
) -> Result:
    """Prune the file `source` to the file `target`; nothing is written unless the result is verified.

    What takes long, tuning and rounds, is saved to the folder `checkpoint`, beside `target` by default; it is removed
    when the run has ended well. `tokens_path` and `plan_path`, files of the tokens to keep and of the plan, are not
    replaced. The `page` shows the run, see `report.page`. `recipe` is what makes the result again, for the report.
    `on_written` is called when all files are in place: what fails later fails with them written.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`; InputError also when `target` or `report_path`
            exists without `force`, is another file of this run, or lies in a folder that cannot be written.
    """
    options = options.checked()
    options.check_timer()
    learning = make_learning(tune, rounds, masks, data, options)
    weights, samples = data_file(resolved(target)), sample_files(data, options)
    reads = Reads(source, data=samples, tokens=tokens_path, plan=plan_path)
    check_files(target, weights, report_path, reads, force)
    progress(f"reading {source}")
    with bounded_source(source) as model:
        reads = replace(reads, weights=tuple(model.data_files))
        check_files(target, weights, report_path, reads, force)
        check_weights_name(target, model.is_external)
        overlay = None if overlay_path is None else overlay_of(overlay_path, options)
        outputs = [(target, "is the output"), (weights, "is for weights of the output")]
        files = [(None if options.vocabulary is None else map_file(target), "the map of ids")]
        files += [(report_path, "the report"), (None if page is None else page.path, "the page")]
        files += [] if overlay is None else overlay.outputs
        beside = [(path, what) for path, what in files if path is not None]
        check_written(beside, reads, force, outputs)
        if checkpoint is not None:
            check_apart(checkpoint, "the checkpoint", [*outputs, *((path, f"is {what}") for path, what in beside)])
        job = Job(model, options, data, learning, resolved(target).name, recipe=recipe)
        removed: list[Path] = []
        publish = published(
            model, target, report_path, page=page, overlay=overlay, force=force, on_written=on_written, removed=removed
        )
        publish = with_details(publish, job, page, progress)
        result = prune_to(job, target, publish, checkpoint=checkpoint, resume=resume, force=force, progress=progress)
    return replace(result, removed=tuple(removed))


@contextlib.contextmanager
def bounded(model: Model) -> Iterator[None]:
    """Bound the memory within the block: where the model does not fit it, no other one is in memory as a whole."""
    with memory_limited(), contextlib.ExitStack() as stack:
        if model.is_external and not runs_whole(weight_bytes(model)):
            stack.enter_context(deferring())
        yield


@contextlib.contextmanager
def bounded_source(source: Source) -> Iterator[Model]:
    """Yield the model of a source, as of `bounded_model`."""
    with memory_limited(), bounded_model(load(source)) as model:
        yield model


@contextlib.contextmanager
def bounded_model(model: Model) -> Iterator[Model]:
    """Yield a model, `bounded` within the block; large weights that a large file holds itself are set aside.

    They stay in memory where temporary files have no room for them and for a version of them.
    """
    with bounded(model), contextlib.ExitStack() as stack:
        size = weight_bytes(model)
        is_large = size > HELD_BYTES or not runs_whole(size)
        if is_large and model.path is not None and not model.is_external and has_room(2 * size):
            stack.enter_context(deferring())
            model = with_weights_aside(model)
        yield model


def prune_to(
    job: Job,
    target: Path,
    publish: Publish,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress,
) -> Result:
    """Prune a model to the file `target`, which `publish` writes; the rest is as of `prune_file`.

    Within `bounded`, so that memory is.
    """
    saved = checkpoint or target.with_name(f"{target.name}.checkpoint")
    keeps = checkpoint is not None or job.learning.takes_long or resume
    keeper = keeper_of(job, saved if keeps else None, resume=resume, force=force)
    result = prune_kept(job, target, publish, keeper, progress)
    keeper.remove()
    return result


def prune_kept(job: Job, target: Path, publish: Publish, keeper: Keeper, progress: Progress) -> Result:
    """Prune a model to the file `target`, and leave what `keeper` keeps of the run; the rest is as of `prune_to`.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`; `keeper` keeps nothing where nothing was done.
    """
    with keeper.leaving_nothing():
        result = _prune(job, keeper, progress, publish)
    if defers():  # what was written holds the numbers from now on
        return replace(result, model=read_proto(target), folder=resolved(target).parent, stamps={})
    return result


@one_blas_thread()
def _prune(job: Job, keeper: Keeper, progress: Progress, publish: Publish) -> Result:
    model, source = job.model, job
    if job.learning.masks is not None:
        options_of_masks(job.options)  # says now what gates cannot keep to, before branches are chosen
    with blamed_on_change(model.stamps, model.path):
        publish = partial(with_report, publish, lambda report: report.update(recipe=dict(source.recipe) or None))
        job, publish = with_ties(with_lasting_samples(job), publish, progress)
        if job.options.vocabulary is not None:
            proto, report = by_vocabulary(job, keeper, publish, progress)
        elif job.options.method == TURNS:
            proto, report = by_rotation(job, keeper, publish, progress)
        elif job.options.linearize:
            proto, report = by_linear_maps(job, keeper, publish, progress)
        elif job.options.shortens:
            proto, report = by_depth(job, keeper, publish, progress)
        elif job.learning.rounds > 1:
            proto, report = in_rounds(job, keeper, publish, progress)
        elif job.learning.masks is not None:
            proto, report = by_masks(job, keeper, publish, progress)
        else:
            proto, report = at_once(job, keeper, publish, progress)
    reads = Reads(model.path, tuple(model.data_files), sample_files(source.data, source.options))
    weight_stamps = {path: stamp for path, stamp in model.stamps.items() if path != model.path}
    return Result(proto, report, model.folder, model.is_external, model.alignment, reads, weight_stamps)


def with_lasting_samples(job: Job) -> Job:
    """Return a job whose samples can be read again: those of an iterable that may be read but once are read now."""
    data, eval_data = job.data, job.options.eval_data
    if _is_lasting(data) and _is_lasting(eval_data):
        return job
    inputs = part_to_run(job.model, dict(job.options.inputs)).inputs

    def lasting(source: Any) -> Any:
        return source if _is_lasting(source) else load_data(source, inputs, preprocess=job.options.preprocess)

    return replace(job, data=lasting(data), options=replace(job.options, eval_data=lasting(eval_data)))


def _is_lasting(source: Any) -> bool:
    """Whether samples can be read again from a source."""
    lasts = isinstance(source, (str, os.PathLike, Mapping, list, tuple)) or is_array(source) or callable(source)
    return source is None or lasts
