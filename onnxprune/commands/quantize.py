"""`quantize`: a model in float32 in, the same in eight bits out, measured beside the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxprune import check
from onnxprune._version import __version__
from onnxprune.commands.prune import Result
from onnxprune.commands.records.recipe import recipe_of_call
from onnxprune.commands.records.report_files import PageFile, check_page
from onnxprune.commands.steps.finish import Publish, compare_pair, is_held_out, kept_in_memory, published
from onnxprune.commands.steps.int8 import chosen, features_of, is_loss_held_out
from onnxprune.commands.steps.pages import details_beside
from onnxprune.commands.steps.prepare import prepare, sample_files
from onnxprune.dependency import cost
from onnxprune.graph.files.publish import Reads, blamed_on_change, check_files, check_unchanged, resolved
from onnxprune.graph.files.read import Source, load
from onnxprune.graph.files.write import data_file
from onnxprune.graph.model import Model
from onnxprune.planning.forms import QUANTIZE
from onnxprune.planning.options import Options, make_options
from onnxprune.progress import Progress, logged
from onnxprune.report.document import calibration_values, comparison_values, file_values
from onnxprune.report.quantize import quantization_values

# Options of `prune` that mean something where nothing is cut.
OPTIONS = (
    "eval_data", "preprocess", "samples", "metric", "inputs", "provider", "threads", "batch", "timer", "timer_seconds",
    "latency", "effort", "seed",
)  # fmt: skip


def quantize(source: Source, form: str = "int8", *, data: Any = None, **options: Any) -> Result:
    """Return `source` in eight bits, with what that costs and saves.

    Args:
        source: as for `prune`, a model in float32.
        form: "int8", the fastest of the forms whose loss is at most 1.5 times the least; "int8-static" or
            "int8-dynamic", the same of those of one kind.
        data: samples that ranges are taken from, as for `prune`; generated ones without.
        **options: of those of `prune`: eval_data, preprocess, samples, metric, inputs, provider, threads, batch, timer,
            timer_seconds, latency, effort, seed.

    Raises:
        InputError: for a model, data or option that cannot be used, and for a model that cannot be quantized.
    """
    checked = quantize_options(form, **options)
    model = load(source)
    with kept_in_memory(model, "quantized.onnx") as publish:
        recipe = recipe_of_call("quantize", source, {"form": form, "data": data, **options})
        return _quantize(model, checked, data, publish, recipe, logged)


def quantize_options(form: str, **options: Any) -> Options:
    """Return checked options; raise OptionError for those that have no effect where nothing is cut."""
    for name in options:
        check.choice("option", name, OPTIONS)
    checked = make_options(ratio=0.0, quantize=check.choice("form", form, QUANTIZE), **options)
    checked.check_timer()
    return checked


def quantize_file(
    source: Path,
    target: Path,
    options: Options,
    data: Any = None,
    *,
    report_path: Path | None = None,
    page: PageFile | None = None,
    recipe: Mapping[str, Any] | None = None,
    force: bool,
    progress: Progress,
    on_written: Callable[[], object] = lambda: None,
) -> Result:
    """Quantize the file `source` to the file `target`; arguments as of `prune_file`.

    Raises:
        InputError: as `quantize`; also when a file exists without `force`, or cannot be written.
    """
    reads = Reads(source, data=sample_files(data, options))
    check_files(target, data_file(resolved(target)), report_path, reads, force)
    check_page(page, [(target, "the output"), (report_path, "the report")], reads, force)
    progress(f"reading {source}")
    model = load(source)
    check_files(
        target, data_file(resolved(target)), report_path, replace(reads, weights=tuple(model.data_files)), force
    )
    publish = published(model, target, report_path, page=page, force=force, on_written=on_written)
    return _quantize(model, options, data, publish, recipe, progress, page)


def _quantize(  # noqa: PLR0917 - as they follow from one another
    model: Model,
    options: Options,
    data: Any,
    publish: Publish,
    recipe: Mapping[str, Any] | None,
    progress: Progress,
    page: PageFile | None = None,
) -> Result:
    with blamed_on_change(model.stamps, model.path):
        prepared = prepare(model, options, data, progress)
        before, macs = prepared.traced.model, cost.macs(prepared.traced)
        with chosen(prepared, progress) as int8, publish(int8.alone.stored, model.folder) as (path, complete):
            after = load(path)
            comparison = compare_pair(before, after, options, prepared.evaluation_data, progress)
            figures = comparison_values(comparison, options, held_out=is_held_out(prepared))
            alone = {"size_bytes": after.size_bytes(), **figures}
            report: dict[str, Any] = {
                "onnxprune": __version__,
                "recipe": None if recipe is None else dict(recipe),
                "input": file_values(before, macs),
                "output": file_values(after, macs),
                "options": {name: options.to_dict()[name] for name in ("quantize", *OPTIONS)},
                "calibration": calibration_values(int8.calibration),
                **figures,
                "quantization": quantization_values(
                    int8.best, int8.tried, int8.calibration.samples, features_of(options),
                    held_out=is_loss_held_out(int8.calibration), before=before.size_bytes(), alone=alone,
                ),
            }  # fmt: skip
            check_unchanged(model.stamps, model.path)
            if page is not None:
                report["details"] = details_beside(before, after, options, prepared.evaluation_data, page, progress)
            complete(report)
            proto = int8.alone.stored
    reads = Reads(model.path, tuple(model.data_files), sample_files(data, options))
    return Result(proto, report, model.folder, model.is_external, model.alignment, reads, {})
