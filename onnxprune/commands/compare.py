"""`compare`: two models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from onnxprune import check
from onnxprune.commands.files import check_plot, write_plot, write_report
from onnxprune.data.samples import files_of, load_data
from onnxprune.dependency import cost
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.evaluation.compare import compare_models
from onnxprune.evaluation.comparison import Comparison
from onnxprune.graph.publish import Reads, check_written, staging
from onnxprune.graph.read import Source, load
from onnxprune.report.charts import comparison_html, comparison_svg


def compare(before: Source, after: Source, *, data: Any = None, preprocess: Any = None, **options: Any) -> Comparison:
    """Return two models measured side by side; see `compare_models` for the options.

    Args:
        before: the reference, as for `prune`.
        after: the model that shall replace it.
        data: samples, as for `prune`.
        preprocess: how images become arrays: text such as 'imagenet,size=240', or a `Preprocess`.
        **options: provider, threads, batch, budget_s, seed, memory, shapes (a dict from input to shape), metric,
            detail, sweep_threads, sweep_batch, provider_options.

    Raises:
        InputError: for models that cannot be read or run, or that have different inputs, and for unknown options.
    """
    known = [name for name in compare_models.__kwdefaults__ or () if name not in ("data", "macs")]
    for name in options:
        check.choice("option", name, known)
    models = load(before), load(after)
    options["shapes"] = dict(check.shapes("shapes", options.get("shapes", ())))
    if preprocess is not None and data is None:
        raise OptionError("preprocess has no effect without --data")
    data = None if data is None else load_data(data, models[0].inputs, preprocess=preprocess)
    counted = cost.macs(trace(models[0])), cost.macs(trace(models[1]))
    return compare_models(*models, data=data, macs=counted, **options)


def check_compared(
    pair: Sequence[Path], data: Any, plot_path: Path | None, report_path: Path | None, force: bool
) -> None:
    """Raise InputError when a plot or report of a comparison cannot be written, before anything is measured."""
    check_plot(plot_path)
    given = [(plot_path, "the plot"), (report_path, "the report")]
    for source in pair:
        outputs = [(path, role) for path, role in given if path is not None]
        beside = tuple(load(source).data_files) if outputs and source.exists() else ()
        check_written(outputs, Reads(source, beside, files_of(data)), force)


def write_compared(
    found: Sequence[Comparison],
    report: Mapping[str, Any],
    plot_path: Path | None,
    report_path: Path | None,
    force: bool,
) -> None:
    """Write comparisons as a plot (by its name, SVG, PNG or HTML) and as JSON.

    Raises:
        InputError: when a file cannot be written.
    """
    with staging(force) as files:
        if plot_path is not None:
            drawn = partial(comparison_svg, found), partial(comparison_html, found)
            write_plot(plot_path, files.add(plot_path), *drawn)
        if report_path is not None:
            write_report(report, report_path, files.add(report_path))
