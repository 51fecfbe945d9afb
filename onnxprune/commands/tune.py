"""`tune`: a smaller model and its teacher in, the same file with better weights out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.commands.prune import Result
from onnxprune.commands.records.checkpoint_file import CheckpointFile
from onnxprune.commands.records.recipe import recipe_of_call
from onnxprune.commands.records.report_files import (
    PageFile,
    check_plot,
    write_page,
    write_plot,
    write_report,
)
from onnxprune.commands.steps.finish import Complete, Publish, kept_in_memory
from onnxprune.commands.steps.learn import Learned, learn, lesson_values, proven, stored
from onnxprune.commands.steps.prepare import part_to_run, sized_by
from onnxprune.commands.steps.tune_cut import kept_by_report
from onnxprune.commands.ways.tie import tied_as
from onnxprune.data.caches import suited_data
from onnxprune.data.samples import Data, evaluated, files_of, load_data, shares_samples
from onnxprune.errors import InputError, OptionError
from onnxprune.evaluation.compare import compare_models
from onnxprune.evaluation.comparison import Comparison
from onnxprune.evaluation.details import details_of_none
from onnxprune.graph.files.publish import (
    Reads,
    Staging,
    blamed_on_change,
    check_files,
    check_unchanged,
    check_written,
    resolved,
    staging,
)
from onnxprune.graph.files.read import Source, load
from onnxprune.graph.files.write import data_file, staged
from onnxprune.graph.forms.remainder import same_part
from onnxprune.graph.model import Model
from onnxprune.graph.shapes.probe import settled
from onnxprune.progress import Progress, logged, silent
from onnxprune.report.charts_tuning import tuning_html, tuning_svg
from onnxprune.report.schema import checked_schema
from onnxprune.report.tune import tune_report
from onnxprune.training.extra import check_torch
from onnxprune.training.settings import TuneOptions, make_tune_options
from onnxprune.training.tuning.processes import helps, launched_precision, processes_of

if TYPE_CHECKING:
    from onnxprune.training.tuning.callbacks import Callback
    from onnxprune.training.tuning.lesson import Lesson

_NOTHING_READ = Reads()
_NO_BUDGET_S = 0.001  # for latencies, which are not looked at


@dataclass(frozen=True)
class TuneRequest:
    """What is tuned, by what."""

    model: Model
    teacher: Model | None
    data: Any
    options: TuneOptions
    cut: Mapping[str, Any] | None = None  # the report of the cut that made the model of the teacher
    checkpoint: CheckpointFile | None = None
    callbacks: Sequence[Callback] = ()
    reads: Reads = _NOTHING_READ
    recipe: Mapping[str, Any] = field(default_factory=dict)


def tune(
    source: Source,
    teacher: Source | None = None,
    *,
    data: Any,
    cut: Mapping[str, Any] | None = None,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    force: bool = False,
    callbacks: Sequence[Callable[[int, Mapping[str, float]], object]] = (),
    **options: Any,
) -> Result:
    """Return `source` with better weights: it learns from its teacher to do what the teacher does.

    Nothing but the numbers in weights changes. Where held-out samples are no better off, nothing does. It needs
    PyTorch: ``pip install 'onnxprune[torch]'``.

    Args:
        source: the model to tune, as for `prune`.
        teacher: the model that it was made from; None where `data` has labels to learn from.
        data: samples, as for `prune`.
        cut: the report of `prune`, so that values between nodes can be compared where units were removed.
        checkpoint: a file that the run is saved to from time to time; it is removed when the run has ended well.
        resume: whether it goes on from there.
        force: whether the checkpoint of an earlier run may be replaced.
        callbacks: functions that are told what is measured: the number of the step, and figures by name.
        **options: the fields of `TuneOptions`: one of steps, epochs and time (seconds, or "20m"); loss, temperature,
            words, reuse, rate, batch, accumulate, precision, segments, lora, slim, statistics, frozen, augment,
            decay, clip, warmup, seed, threads, device, metric, eval_data, preprocess, inputs.

    Raises:
        InputError: for models, data or options that cannot be used, and operators without gradients.
        VerificationError: when the network does not compute what ONNX Runtime computes.
    """
    checked = make_tune_options(**options)
    check_torch("tune")
    if resume and checkpoint is None:
        raise OptionError("resume needs a checkpoint: the file that the run was saved to")
    model, original = load(source), None if teacher is None else load(teacher)
    request = TuneRequest(
        model,
        original,
        data,
        checked,
        cut,
        None if checkpoint is None else CheckpointFile(Path(checkpoint), resume, force),
        callbacks,
        Reads(model.path, tuple(model.data_files), files_of(data)),
        recipe_of_call("tune", source, {"teacher": teacher, "data": data, "cut": cut and "(report)", **options}),
    )
    _check_checkpoint(request, [])
    with kept_in_memory(model, "tuned.onnx") as publish:
        return _tune(request, logged, publish)


@dataclass(frozen=True)
class TuneFiles:
    """The files of one run beside the model, the samples and what is written."""

    teacher: Path | None = None  # the model that the tuned one was made from
    cut: Path | None = None  # the report of the cut, JSON
    checkpoint: Path | None = None  # where the run is saved; beside the output by default
    report: Path | None = None  # to write
    page: PageFile | None = None  # to write
    plot: Path | None = None  # to write
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what makes the same again, for the report

    @property
    def written(self) -> list[tuple[Path, str]]:
        """Those that are written beside the model, and what each is."""
        page = None if self.page is None else self.page.path
        roles = [(self.report, "the report"), (self.plot, "the plot"), (page, "the page")]
        return [(path, role) for path, role in roles if path is not None]

    @property
    def read(self) -> tuple[Path, ...]:
        """Those that are read."""
        return tuple(path for path in (self.teacher, self.cut) if path is not None)


def tune_file(
    source: Path,
    target: Path,
    options: TuneOptions,
    data: Any,
    *,
    files: TuneFiles,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    force: bool = False,
    progress: Progress = silent,
    on_written: Callable[[], object] = lambda: None,
) -> Result | None:
    """Tune the file `source` to the file `target`; it is written when the run has ended well, whether it helped or not.

    Of several processes that learn together one proves and writes; the others return None.

    Args:
        source: the model to tune.
        target: the file to write.
        options: of tuning.
        data: samples.
        files: the others. The checkpoint is removed when the run has ended well.
        resume: whether the run goes on from the checkpoint.
        callbacks: are told what is measured.
        force: whether files that are there may be replaced.
        progress: called before each step.
        on_written: called when all files are in place.

    Raises:
        InputError, VerificationError: as `tune`; InputError also when a file cannot be written.
    """
    check_torch("onnxprune tune")
    check_plot(files.plot)
    samples = (*files_of(data), *files_of(options.eval_data), *files.read)
    weights = data_file(resolved(target))
    check_files(target, weights, files.report, Reads(source, data=samples), force)
    progress(f"reading {source}")
    model, teacher = load(source), None if files.teacher is None else load(files.teacher)
    reads = Reads(source, tuple(model.data_files), (*samples, *(teacher.data_files if teacher else ())))
    check_files(target, weights, files.report, reads, force)
    outputs = [(target, "is the output"), (weights, "is for weights of the output")]
    check_written(files.written, reads, force, outputs)
    saved = CheckpointFile(files.checkpoint or target.with_name(f"{target.name}.checkpoint"), resume, force)
    request = TuneRequest(model, teacher, data, options, read_cut(files.cut), saved, callbacks, reads, files.recipe)
    cut = [] if files.cut is None else [(files.cut, "is the report of the cut")]
    _check_checkpoint(request, [*outputs, *((path, f"is {role}") for path, role in files.written), *cut])
    if helps():
        _learned(request, silent)
        return None

    @contextlib.contextmanager
    def publish(proto: Any, folder: Path) -> Iterator[tuple[Path, Complete]]:
        written = partial(staged, proto, target, folder, model.is_external, alignment=model.alignment)
        with staging(force, on_written) as staged_files, written(staged_files) as path:
            yield path, partial(_complete, target=target, files=files, staged_files=staged_files)

    return _tune(request, progress, publish)


def _check_checkpoint(request: TuneRequest, beside: Sequence[tuple[Path, str]]) -> None:
    """Raise InputError where a run cannot be saved, or must not; `beside` is read or written beside the checkpoint.

    Of several processes the main one alone saves: the others may run where none of it is.
    """
    if request.checkpoint is None or helps():
        return
    teacher = request.teacher
    read = [] if teacher is None or teacher.path is None else [(teacher.path, "is the teacher")]
    read += [] if teacher is None else [(path, "holds weights of the teacher") for path in teacher.data_files]
    read += [(path, "is the data to compare on") for path in files_of(request.options.eval_data)]
    request.checkpoint.check(request.reads, [*read, *beside])


def _complete(report: dict[str, Any], *, target: Path, files: TuneFiles, staged_files: Staging) -> None:
    """Write the report and the plot beside the model."""
    report["output"]["path"] = str(target)
    if files.page is not None:
        report = {**report, "details": details_of_none(files.page.command)}
    write_page(report, files.page, staged_files)
    if files.report is not None:
        write_report(report, files.report, staged_files.add(files.report))
    if files.plot is not None:
        svg, page = partial(tuning_svg, report), partial(tuning_html, report)
        write_plot(files.plot, staged_files.add(files.plot), svg, page)


def read_cut(path: Path | None) -> Mapping[str, Any] | None:
    """Return the report of a cut.

    Raises:
        InputError: when it cannot be read, is no report of `prune`, or one of another form.
    """
    if path is None:
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no JSON"
        raise InputError(f"{path}: the report of the cut cannot be read: {why}") from None
    if not isinstance(report, dict) or not isinstance(report.get("groups"), list):
        raise InputError(f"{path} is no report of a cut: write one with --report of prune")
    return checked_schema(report, path)


# -- the steps ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What came of a run, and of which models."""

    model: Model  # that was tuned, the part of it that runs
    teacher: Model | None
    run: Learned


def _learned(request: TuneRequest, progress: Progress) -> _Outcome:
    check_torch("tune")
    from onnxprune.training.tuning.teacher import check_ports  # noqa: PLC0415 - needs PyTorch

    source = request.model
    options = replace(request.options, precision=launched_precision(request.options.precision))
    with blamed_on_change(source.stamps, source.path):
        model, teacher = _prepared(request, progress)
        if teacher is not None:
            check_ports(model, teacher)
        data = load_data(request.data, model.inputs, preprocess=options.preprocess)
        model = settled(sized_by(model, data))
        kept = None if request.cut is None or teacher is None else kept_by_report(teacher, request.cut)
        saved = request.checkpoint
        run = learn(
            model,
            teacher,
            data,
            options,
            kept=kept,
            processes=processes_of(options.device),
            checkpoint=None if saved is None else saved.path,
            resume=saved is not None and saved.resume,
            callbacks=request.callbacks,
            progress=progress,
        )
    return _Outcome(model, teacher, run)


def _tune(request: TuneRequest, progress: Progress, publish: Publish) -> Result:
    came, source = _learned(request, progress), request.model
    model, options, lesson = came.model, came.run.options, came.run.lesson
    with blamed_on_change(source.stamps, source.path):
        evaluation = _evaluation(model, lesson, options)
        proto = stored(model, came.run.contents)
        with publish(proto, source.folder) as (path, complete):
            after = load(path)
            gap = proven(lesson, path, came.run.contents, progress)
            progress("comparing outputs")
            reference = came.teacher or model
            sides = [_compared(reference, each, evaluation, options) for each in (model, same_part(after, model))]
            report = tune_report(
                before=source,
                after=after,
                teacher=came.teacher,
                options=options,
                lesson=lesson_values(lesson, options),
                outcome=came.run.outcome.to_dict(),
                gap=gap,
                sides=sides,
                held_out=_is_held_out(lesson, evaluation),
            )
            report["recipe"] = dict(request.recipe)
            check_unchanged(source.stamps, source.path)
            complete(report)
    if request.checkpoint is not None and not helps():
        request.checkpoint.remove()
    stamps = {path: stamp for path, stamp in source.stamps.items() if path != source.path}
    return Result(proto, report, source.folder, source.is_external, source.alignment, request.reads, stamps)


def _prepared(request: TuneRequest, progress: Progress) -> tuple[Model, Model | None]:
    """Return the parts of both models that can be run."""
    shapes = dict(request.options.inputs)
    teacher = None if request.teacher is None else part_to_run(tied_as(request.teacher, request.cut), shapes)
    return part_to_run(request.model, shapes, progress), teacher


def _evaluation(model: Model, lesson: Lesson, options: TuneOptions) -> Data:
    """Return the samples that both models are compared on in the end: the user's, or held-out ones.

    Of these those that decided nothing, where there are some: the best of many states looks better on what chose it.
    """
    if options.eval_data is None:
        return lesson.held if lesson.unseen is None else lesson.unseen
    return evaluated(load_data(options.eval_data, model.inputs, preprocess=options.preprocess), options.seed)


def _is_held_out(lesson: Lesson, evaluation: Data) -> bool:
    """Return whether the figures are of samples that no step and no decision saw."""
    if evaluation is lesson.held:
        return False
    return not (shares_samples(lesson.train, evaluation) or shares_samples(lesson.held, evaluation))


def _compared(reference: Model, model: Model, data: Data, options: TuneOptions) -> Comparison:
    data = suited_data(data, reference.inputs)
    return compare_models(
        reference, model, data=data, threads=0, batch=16, budget_s=_NO_BUDGET_S, seed=options.seed, memory=False,
        detail=False, shapes=dict(options.inputs), metric=options.metric,
    )  # fmt: skip
