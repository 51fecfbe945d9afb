"""``onnxprune sensitivity``."""

from __future__ import annotations

import contextlib
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
    PLOT,
    PREPROCESS,
    QUIET,
    REPORT,
    SCHEDULER,
    WORKERS,
)
from onnxprune.cli.recipe import recipe_of
from onnxprune.cli.screen import show_progress, show_result
from onnxprune.cli.values import parse_reports, parse_shapes, parse_step
from onnxprune.graph.files.publish import signals_held
from onnxprune.planning.curves.effort import ALL


@cli.command()
@click.argument("source", metavar="INPUT", type=PATH)
@click.option("--data", metavar="SOURCE", help="Samples, needed: FILE.npz, a folder, or module:function.")
@click.option("--eval-data", metavar="SOURCE", help="Samples to measure losses on [default: a part of --data].")
@PREPROCESS
@click.option("--samples", type=int, metavar="N", help="Take so many at most; 0: all [default: 256].")
@METRIC
@click.option("--only", multiple=True, metavar="GLOB", help="Look at these groups and no others; repeatable.")
@click.option("--ignore", multiple=True, metavar="GLOB", help="Leave these nodes, weights or groups out; repeatable.")
@click.option("--width", is_flag=True, help="Look also at what is normalised over, such as the hidden width.")
@click.option("--round-to", metavar="N", help="Keep multiples of N [default: 8 for channels].")
@click.option("--no-reconstruct", is_flag=True, help="Do not refit the layers that consume the units.")
@click.option(
    "--levels", type=int, default=8, show_default=True, metavar="N", help="Losses to measure for each group, at most."
)
@click.option(
    "--curves",
    default="measured",
    show_default=True,
    metavar="measured|gradient",
    help="How losses are known: measured, or told by gradients (with PyTorch), of which a few are measured.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples that are drawn.")
@INPUTS
@click.option(
    "--effort",
    default=ALL,
    show_default=True,
    metavar="quick|normal|thorough",
    help="Losses to measure; the others are told by the errors of the layers.",
)
@WORKERS
@SCHEDULER
@PLOT
@REPORT
@FORCE
@QUIET
@CUSTOM_OPS
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@DEBUG
@click.pass_context
def sensitivity(
    context: click.Context,
    /,
    source: Path,
    data: str | None,
    inputs: tuple[str, ...],
    no_reconstruct: bool,
    levels: int,
    worker_count: int,
    scheduler: str | None,
    plot_path: Path | None,
    report_paths: tuple[Path, ...],
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what the output of INPUT loses when each group loses units: what to protect, and what is free."""
    with failing():
        with signals_held():
            from onnxprune.commands.sensitivity import sensitivity_file
            from onnxprune.planning.options import make_options
            from onnxprune.report.sensitivity import sensitivity_tables
            from onnxprune.runtime.executors import ALONE, workers

        recipe = recipe_of(context)
        options |= {"round_to": parse_step(options["round_to"]), "inputs": parse_shapes(inputs)}
        checked = make_options(reconstruct=not no_reconstruct, **options)
        report_path, page = parse_reports(report_paths)
        alone = worker_count == 1 and scheduler is None
        opened = contextlib.nullcontext(ALONE) if alone else workers(worker_count, scheduler)
        with opened as pool, show_progress(quiet) as progress:
            measured = sensitivity_file(
                source,
                checked,
                data,
                levels=levels,
                plot_path=plot_path,
                report_path=report_path,
                page=page,
                force=force,
                progress=progress,
                workers=pool,
                recipe=recipe,
            )
        show_result({**measured.to_dict(), "recipe": recipe} if as_json else sensitivity_tables(measured))
