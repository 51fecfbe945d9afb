"""`sensitivity`: what each group costs the output."""

from __future__ import annotations

from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from onnxprune import check
from onnxprune.calibration.batches import calibration
from onnxprune.commands.files import check_plot, sample_files, write_plot, write_report
from onnxprune.commands.steps import loss_metric
from onnxprune.data.samples import limit, load_data
from onnxprune.dependency.account import unreached
from onnxprune.dependency.groups import groups, weights
from onnxprune.dependency.trace import trace
from onnxprune.errors import NothingToPrune, OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.publish import Reads, check_written, staging
from onnxprune.graph.read import Source, load
from onnxprune.planning.choice import all_reasons, choose, nothing
from onnxprune.planning.options import AUTO, Options, make_options
from onnxprune.planning.sensitivity import LEVELS, Sensitivity, measure
from onnxprune.progress import Progress, silent
from onnxprune.report.charts import as_html, as_svg
from onnxprune.runtime.executors import ALONE, Workers
from onnxprune.runtime.executors import given as workers_of

_ASKED = ("ignore", "only", "width", "round_to", "min_units", "reconstruct", "seed", "eval_data", "preprocess")


def sensitivity(
    source: Source, *, data: Any = None, levels: int = LEVELS, executor: Executor | None = None, **options: Any
) -> Sensitivity:
    """Return what the output of a model loses when each of its groups loses units, one at a time.

    Args:
        source: as for `prune`.
        data: samples, as for `prune`; some are held out, and losses are measured on these.
        levels: of removed units in each group, at most.
        executor: where curves are measured, several at once; its workers must have the package.
        **options: ignore, only, width, round_to, min_units, reconstruct, seed, eval_data (losses are measured on these
            samples instead), preprocess, samples, metric: as for `prune`.

    Raises:
        InputError: for a model, data or option that cannot be used.
        NothingToPrune: when no group can lose a unit; says why.
    """
    for name in options:
        check.choice("option", name, (*_ASKED, "samples", "metric"))
    where = ALONE if executor is None else workers_of(executor)
    chosen, levels = make_options(**options), _levels(levels)
    return _sensitivity(load(source), chosen, data, levels=levels, workers=where, progress=silent)


def sensitivity_file(
    source: Path,
    options: Options,
    data: Any,
    *,
    levels: int,
    plot_path: Path | None,
    report_path: Path | None,
    force: bool,
    progress: Progress,
    workers: Workers = ALONE,
) -> Sensitivity:
    """Return the same of a file, and write it as a plot (by its name, SVG, PNG or HTML) and as JSON.

    Raises:
        InputError, NothingToPrune: as `sensitivity`; InputError also for files that cannot be written.
    """
    levels, options = _levels(levels), options.checked()
    check_plot(plot_path)
    given = [(plot_path, "the plot"), (report_path, "the report")]
    outputs = [(path, role) for path, role in given if path is not None]
    check_written(outputs, Reads(source, data=sample_files(data, options)), force)
    progress(f"reading {source}")
    model = load(source)
    check_written(outputs, Reads(source, tuple(model.data_files), sample_files(data, options)), force)
    found = _sensitivity(model, options, data, levels=levels, workers=workers, progress=progress)
    with staging(force) as files:
        if plot_path is not None:
            write_plot(plot_path, files.add(plot_path), partial(as_svg, found), partial(as_html, found))
        if report_path is not None:
            write_report(found.to_dict(), report_path, files.add(report_path))
    return found


def _levels(levels: Any) -> int:
    return check.count("levels", levels, 1)


def _sensitivity(
    model: Model, options: Options, given: Any, *, levels: int, workers: Workers, progress: Progress
) -> Sensitivity:
    if options.round_to == AUTO:
        raise OptionError("round_to auto has no effect here: nothing is timed for a sensitivity; give a number")
    if given is None:
        raise OptionError("data is needed: samples that losses are measured on")
    data, other = load_data(given, model.inputs, preprocess=options.preprocess), None
    data = limit(data, options.most_samples(data.count), options.seed)
    if options.eval_data is not None:
        other = load_data(options.eval_data, model.inputs, preprocess=options.preprocess)
        other = limit(other, options.most_samples(other.count), options.seed)
    progress(f"tracing {len(model.nodes)} nodes")
    traced = trace(model)
    found = groups(traced)
    chosen = choose(found, options)
    calibrated = calibration(model, data, loss_metric(data, options), evaluated=other)
    measured = measure(
        traced, found, chosen, calibrated, options, levels=levels, progress=progress, workers=workers
    )  # fmt: skip
    if not measured.groups:
        raise NothingToPrune(nothing(found, chosen, options, unreached(traced, all_reasons(found), weights(traced))))
    return measured
