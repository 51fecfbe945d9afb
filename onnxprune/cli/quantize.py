"""``onnxprune quantize``."""

from __future__ import annotations

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
    PATH,
    PREPROCESS,
    QUIET,
    REPORT,
    TIMER,
    TIMER_SECONDS,
)
from onnxprune.cli.recipe import recipe_of
from onnxprune.cli.screen import show_progress, show_result
from onnxprune.cli.values import parse_reports, parse_shapes
from onnxprune.graph.files.publish import signals_held


@cli.command()
@click.argument("source", metavar="INPUT", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="File to write.")
@click.option(
    "--form",
    default="int8",
    show_default=True,
    metavar="int8|int8-static|int8-dynamic",
    help="int8: the fastest of the forms that lose at most 1.5 times what the best one does, as measured.",
)
@click.option("--data", metavar="SOURCE", help="Samples that ranges are taken from; made up without it.")
@click.option("--eval-data", metavar="SOURCE", help="Samples to compare on; with 'labels', accuracy [default: --data].")
@PREPROCESS
@click.option("--samples", type=int, metavar="N", help="Take ranges from so many at most; 0: all [default: 256].")
@METRIC
@INPUTS
@click.option("--provider", default="cpu", show_default=True, help="Where latency is measured: cpu, cuda, ...")
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads for latency; 0: all.")
@click.option("--batch", type=int, default=1, show_default=True, help="Samples of a timed run.")
@TIMER
@TIMER_SECONDS
@click.option("--no-latency", is_flag=True, help="Do not measure latency.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn: samples, feeds.")
@REPORT
@FORCE
@QUIET
@CUSTOM_OPS
@click.option("--json", "as_json", is_flag=True, help="Print the report instead of tables.")
@DEBUG
@click.pass_context
def quantize(
    context: click.Context,
    /,
    source: Path,
    output: Path,
    form: str,
    data: str | None,
    inputs: tuple[str, ...],
    no_latency: bool,
    report_paths: tuple[Path, ...],
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write INPUT in eight bits, and tell what that keeps, saves and takes."""
    written: list[Path] = []
    with failing(lambda: f"{written[0]} was written" if written else "nothing was written"):
        with signals_held():
            from onnxprune.commands.quantize import quantize_file, quantize_options
            from onnxprune.report.quantize import quantize_tables

        checked = quantize_options(form, **options, latency=not no_latency, inputs=parse_shapes(inputs))
        report_path, page = parse_reports(report_paths)
        with show_progress(quiet) as progress:
            result = quantize_file(
                source, output, checked, data, report_path=report_path, page=page, recipe=recipe_of(context),
                force=force, progress=progress, on_written=lambda: written.append(output),
            )  # fmt: skip
        show_result(result.report if as_json else quantize_tables(result.report))
