"""``onnxprune compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.failing import failing
from onnxprune.cli.group import cli
from onnxprune.cli.options import (
    CUSTOM_OPS,
    DEBUG,
    FORCE,
    INPUTS,
    METRIC,
    OVERLAY,
    PATH,
    PLOT,
    PREPROCESS,
    QUIET,
    REPORT,
    TIMER,
    TIMER_SECONDS,
)
from onnxprune.cli.recipe import recipe_of
from onnxprune.cli.screen import show_progress, show_result
from onnxprune.cli.values import parse_numbers, parse_provider_options, parse_reports, parse_shapes
from onnxprune.errors import OptionError
from onnxprune.graph.files.publish import signals_held


@cli.command()
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@click.option("--data", metavar="SOURCE", help="Samples to compare on: FILE.npz, a folder, or module:function.")
@PREPROCESS
@METRIC
@INPUTS
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="cpu, cuda, ...; repeatable.")
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads; 0: all.")
@click.option("--batch", type=int, default=1, show_default=True, help="Samples per timed run.")
@click.option("--seconds", "budget_s", type=float, default=10.0, show_default=True, help="Time for the timed runs.")
@click.option("--sweep-threads", metavar="1,2,4", default="", help="Time them with other counts of threads as well.")
@click.option("--sweep-batch", metavar="1,8,32", default="", help="Time them with other batches as well.")
@click.option(
    "--provider-option",
    "provider_option_texts",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the provider; repeatable.",
)
@TIMER
@TIMER_SECONDS
@click.option("--min-speedup", type=float, metavar="X", help="Exit with 1 when AFTER is not X times as fast.")
@click.option("--max-drop", type=float, metavar="Y", help="Exit with 1 when accuracy falls by more; 0.01 is a point.")
@PLOT
@REPORT
@OVERLAY
@FORCE
@QUIET
@CUSTOM_OPS
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@DEBUG
@click.pass_context
def compare(
    context: click.Context,
    /,
    before: Path,
    after: Path,
    data: str | None,
    inputs: tuple[str, ...],
    providers: tuple[str, ...],
    budget_s: float,
    sweep_threads: str,
    sweep_batch: str,
    provider_option_texts: tuple[str, ...],
    min_speedup: float | None,
    max_drop: float | None,
    plot_path: Path | None,
    report_paths: tuple[Path, ...],
    overlay_path: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure BEFORE and AFTER side by side: latency, memory, size, outputs, accuracy."""
    with failing():
        with signals_held():
            from onnxprune import check
            from onnxprune.commands.compare import compare_files
            from onnxprune.evaluation.comparison import check_bounds
            from onnxprune.report.compare import bounds_line, compare_tables
            from onnxprune.runtime.session import check_provider

        providers = providers or ("cpu",)
        for provider in providers:
            check_provider(provider)
        check.positive("seconds", budget_s)
        check_bounds(min_speedup, max_drop)
        if max_drop is not None and data is None:
            raise OptionError("--max-drop needs --data with an array 'labels'")
        if options["timer"] is not None and len(providers) > 1:
            raise OptionError("--timer says where models run: give one --provider, where their outputs are compared")
        options |= {"budget_s": budget_s, "shapes": parse_shapes(inputs)}
        options["provider_options"] = parse_provider_options(provider_option_texts)
        options["sweep_threads"] = parse_numbers("--sweep-threads", sweep_threads)
        options["sweep_batch"] = parse_numbers("--sweep-batch", sweep_batch)
        report_path, page = parse_reports(report_paths)
        with show_progress(quiet) as progress:
            compared = compare_files(
                before, after, data, providers=providers, min_speedup=min_speedup, max_drop=max_drop,
                plot_path=plot_path, report_path=report_path, page=page, overlay_path=overlay_path,
                recipe=recipe_of(context), force=force, progress=progress, **options,
            )  # fmt: skip
        if as_json:
            show_result(compared.report)
        else:
            met = [bounds_line(min_speedup, max_drop)] if (min_speedup, max_drop) != (None, None) else []
            for comparison, missed in zip(compared.comparisons, compared.missed, strict=True):
                show_result(compare_tables(comparison, missed or met))
    if any(compared.missed):
        sys.exit(1)
