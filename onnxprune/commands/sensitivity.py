"""`sensitivity`: what each group costs the output."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnxprune import check
from onnxprune.algebra.threads import one_blas_thread
from onnxprune.calibration.batches import accepted, calibration
from onnxprune.commands.records.report_files import PageFile, ReportFiles
from onnxprune.commands.steps.prepare import (
    load_limited,
    loss_metric,
    nothing_to_prune,
    part_to_run,
    sample_files,
    sized_by,
)
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.evaluation.details import details_of_one
from onnxprune.graph.files.publish import Reads
from onnxprune.graph.files.read import Source, load
from onnxprune.graph.model import Model
from onnxprune.planning.choice import select_ratios
from onnxprune.planning.curves.effort import ALL
from onnxprune.planning.curves.sensitivity import LEVELS, Sensitivity, measure
from onnxprune.planning.options import AUTO, Options, make_options
from onnxprune.progress import Progress, logged
from onnxprune.report.charts import sensitivity_html, sensitivity_svg
from onnxprune.runtime.executors import ALONE, Workers, from_executor

_OPTIONS = (
    "ignore", "only", "width", "round_to", "min_units", "reconstruct", "seed", "eval_data", "preprocess", "samples",
    "metric", "inputs", "effort", "curves",
)  # fmt: skip


def sensitivity(
    source: Source, *, data: Any = None, levels: int = LEVELS, executor: Executor | None = None, **options: Any
) -> Sensitivity:
    """Return what the output of a model loses when each of its groups loses units, one at a time.

    Args:
        source: as for `prune`.
        data: samples, as for `prune`; some are held out, and losses are measured on these.
        levels: counts of removed units to measure for each group, at most.
        executor: where curves are measured, several at once; its workers must have the package.
        **options: ignore, only, width, round_to, min_units, reconstruct, seed, eval_data (losses are measured on these
            samples instead), preprocess, samples, metric, inputs, curves, effort: as for `prune`; effort is thorough
            unless it is given: all losses are measured.

    Raises:
        InputError: for a model, data or option that cannot be used.
        NothingToPrune: when no group can lose a unit; says why.
    """
    for name in options:
        check.choice("option", name, _OPTIONS)
    workers = ALONE if executor is None else from_executor(executor)
    checked, levels = make_options(**{"effort": ALL, **options}), _checked_levels(levels)
    return _sensitivity(load(source), checked, data, levels=levels, workers=workers, progress=logged)


def sensitivity_file(
    source: Path,
    options: Options,
    data: Any,
    *,
    levels: int,
    plot_path: Path | None,
    report_path: Path | None,
    page: PageFile | None = None,
    force: bool,
    progress: Progress,
    workers: Workers = ALONE,
    recipe: Mapping[str, Any] = MappingProxyType({}),
) -> Sensitivity:
    """Return the sensitivity of a file, and write it as a plot (SVG, PNG or HTML, by its suffix), as JSON, as a page.

    Raises:
        InputError, NothingToPrune: as `sensitivity`; InputError also for files that cannot be written.
    """
    levels, options = _checked_levels(levels), options.checked()
    report_files = ReportFiles(plot_path, report_path, force, page)
    report_files.check_plot()
    samples = sample_files(data, options)
    report_files.check(Reads(source, data=samples))
    progress(f"reading {source}")
    model = load(source)
    report_files.check(Reads(source, tuple(model.data_files), samples))
    measured = _sensitivity(model, options, data, levels=levels, workers=workers, progress=progress)
    report = {**measured.to_dict(), "recipe": dict(recipe)}
    if page is not None:
        part = part_to_run(model, dict(options.inputs))
        traced = trace(sized_by(part, load_limited(part, options, data)))
        report["details"] = details_of_one(traced, groups(traced), page.command)
    report_files.write(report, svg=partial(sensitivity_svg, measured), page=partial(sensitivity_html, measured))
    return measured


def _checked_levels(levels: Any) -> int:
    return check.count("levels", levels, 1)


@one_blas_thread()
def _sensitivity(
    model: Model, options: Options, data_source: Any, *, levels: int, workers: Workers, progress: Progress
) -> Sensitivity:
    if options.round_to == AUTO:
        raise OptionError("round_to auto has no effect here: nothing is timed for a sensitivity; give a number")
    if data_source is None:
        raise OptionError("data is needed: samples that losses are measured on")
    model = part_to_run(model, dict(options.inputs), progress)
    data = load_limited(model, options, data_source)
    evaluation_data = None if options.eval_data is None else load_limited(model, options, options.eval_data)
    progress(f"tracing {len(model.nodes)} nodes")
    model = sized_by(model, data)
    traced = trace(model)
    all_groups = groups(traced)
    ratios = select_ratios(all_groups, options)
    data = accepted(model, data)
    calibrated_on = calibration(model, data, loss_metric(data, options), evaluated=evaluation_data)
    measured = measure(
        traced, all_groups, ratios, calibrated_on, options, levels=levels, progress=progress, workers=workers
    )  # fmt: skip
    if not measured.groups:
        raise nothing_to_prune(traced, all_groups, ratios, options)
    return measured
