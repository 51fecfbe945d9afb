"""`compare`: two models side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnxprune import check
from onnxprune._version import __version__
from onnxprune.commands.beside.tokenizer import folder_of
from onnxprune.commands.beside.tokenizer_text import reader_of
from onnxprune.commands.records.report_files import PageFile, ReportFiles
from onnxprune.commands.steps.overlay import Overlay
from onnxprune.commands.steps.pages import traced_pair
from onnxprune.data.samples import evaluated, files_of, load_data
from onnxprune.dependency import cost
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.evaluation.compare import CompareOptions, compare_models
from onnxprune.evaluation.comparison import Comparison, verdict
from onnxprune.evaluation.details import Look, details
from onnxprune.graph.files.publish import Reads, check_written
from onnxprune.graph.files.read import Source, load
from onnxprune.graph.forms.remainder import same_part
from onnxprune.graph.shapes.footprint import check_runnable
from onnxprune.graph.shapes.probe import settled
from onnxprune.progress import Progress
from onnxprune.report.charts import comparison_html, comparison_svg
from onnxprune.runtime.concessions import conceded
from onnxprune.runtime.support import runnable_part


def compare(before: Source, after: Source, *, data: Any = None, preprocess: Any = None, **options: Any) -> Comparison:
    """Return two models measured side by side; see `evaluation.compare.CompareOptions`.

    Args:
        before: the reference, as for `prune`.
        after: the model that shall replace it.
        data: samples, as for `prune`.
        preprocess: how images become arrays: text such as 'imagenet,size=240', or a `Preprocess`.
        **options: the fields of `CompareOptions`: provider, threads, batch, budget_s, seed, memory, shapes (a dict
            from input to shape), metric, detail, sweep_threads, sweep_batch, provider_options.

    Raises:
        InputError: for models that cannot be read or run, or that have different inputs, and for unknown options.
    """
    known = [field.name for field in dataclasses.fields(CompareOptions)]
    for name in options:
        check.choice("option", name, known)
    options["shapes"] = dict(check.shapes("shapes", options.get("shapes", ())))
    loaded = load(before), load(after)
    for model in loaded:
        conceded(model, options.get("provider", "cpu"))  # an error names the file
    first, second = (runnable_part(model, options["shapes"]) for model in loaded)
    models = settled(first), settled(same_part(second.file, first))
    if preprocess is not None and data is None:
        raise OptionError("preprocess has no effect without --data")
    if data is not None:
        data = evaluated(load_data(data, models[0].inputs, preprocess=preprocess), options.get("seed", 0))
    traces = trace(models[0]), trace(models[1])
    for traced in traces:
        check_runnable(traced.model, traced.probe)
    macs = cost.macs(traces[0]), cost.macs(traces[1])
    return compare_models(*models, data=data, macs=macs, **options)


@dataclasses.dataclass(frozen=True)
class ComparedFiles:
    """Comparisons of two files, one for each provider, and the bounds that they miss."""

    comparisons: Sequence[Comparison]
    missed: Sequence[Sequence[str]]  # of each comparison, a sentence for each bound that it misses
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what makes them again

    @property
    def report(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        pairs = zip(self.comparisons, self.missed, strict=True)
        entries = [{**comparison.to_dict(), "missed": missed} for comparison, missed in pairs]
        return {"onnxprune": __version__, "recipe": dict(self.recipe), "comparisons": entries}


def compare_files(
    before: Path,
    after: Path,
    data: Any,
    *,
    providers: Sequence[str],
    min_speedup: float | None,
    max_drop: float | None,
    plot_path: Path | None,
    report_path: Path | None,
    page: PageFile | None = None,
    overlay_path: Path | None = None,
    recipe: Mapping[str, Any] = MappingProxyType({}),
    force: bool,
    progress: Progress,
    **options: Any,
) -> ComparedFiles:
    """Compare two files on each provider, and write a plot (SVG, PNG or HTML, by its suffix), a JSON report and a page.

    Raises:
        InputError: as `compare`; also for files that cannot be written, before anything is measured.
        OptionError: when `max_drop` needs labels that the data lacks.
    """
    report_files = ReportFiles(plot_path, report_path, force, page)
    report_files.check_plot()
    overlay = None if overlay_path is None else _overlay(overlay_path, providers, options)
    outputs = [*report_files.outputs, *(overlay.outputs if overlay else ())]
    for source in (before, after):
        weights = tuple(load(source).data_files) if outputs and source.exists() else ()
        check_written(outputs, Reads(source, weights, files_of(data)), force)
    comparisons = []
    for provider in providers:
        progress(f"measuring {before} and {after} on {provider}")
        comparisons.append(compare(before, after, data=data, provider=provider, **options))
    missed = [verdict(comparison, min_speedup, max_drop) for comparison in comparisons]
    compared = ComparedFiles(comparisons, missed, recipe)
    shown = {} if page is None else {"details": _details(before, after, data, page, options)}
    report_files.write(
        {**compared.report, **shown},
        svg=partial(comparison_svg, comparisons),
        page=partial(comparison_html, comparisons),
        beside=lambda files: None if overlay is None else overlay.write(load(before), after, files),
    )
    return compared


def _details(before: Path, after: Path, source: Any, page: PageFile, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of both models beside their comparisons."""
    shapes = options.get("shapes", {})
    first = runnable_part(load(before), shapes)
    data = None if source is None else load_data(source, first.inputs, preprocess=options.get("preprocess"))
    known = {name: options[name] for name in ("metric", "threads", "batch", "seed") if name in options}
    reader = reader_of(folder_of(before))
    look = Look(command=page.command, data=data, shapes=shapes, reader=reader, **known)
    return details(traced_pair(first, load(after), data), look)


def _overlay(path: Path, providers: Sequence[str], options: Mapping[str, Any]) -> Overlay:
    """Return the overlay of a comparison with these options of `compare`; nodes are timed on the CPU."""
    known = {name: options[name] for name in ("threads", "batch", "seed") if name in options}
    return Overlay(path, dict(options.get("shapes", {})), "cpu" in providers, **known)
