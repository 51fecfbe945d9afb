"""``onnxprune apply``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli.failing import failing
from onnxprune.cli.group import cli
from onnxprune.cli.options import DEBUG, PATH, QUIET
from onnxprune.cli.prune import prune
from onnxprune.cli.recipe import recipe_of
from onnxprune.cli.screen import say, show_progress, show_result
from onnxprune.cli.values import parse_reports, parse_shapes
from onnxprune.commands.applied import OPTIONS
from onnxprune.errors import OptionError
from onnxprune.graph.files.publish import signals_held

# Parameters of `prune` beside those options: data, and what is written.
_OF_THE_RUN = (
    "output", "data", "tune", "checkpoint", "resume", "report_paths", "overlay_path", "force", "custom_ops", "as_json",
)  # fmt: skip
_OF_APPLY = {*_OF_THE_RUN, *OPTIONS, *(f"no_{name}" for name in OPTIONS)}


@cli.command(params=[param for param in prune.params if param.name in _OF_APPLY])
@click.argument("plan", metavar="PLAN.toml", type=PATH)
@click.argument("source", metavar="MODEL", type=PATH)
@QUIET
@DEBUG
@click.pass_context
def apply(
    context: click.Context,
    /,
    plan: Path,
    source: Path,
    output: Path,
    data: str | None,
    no_batch_norm: bool,
    no_latency: bool,
    inputs: tuple[str, ...],
    tune: str | None,
    checkpoint: Path | None,
    resume: bool,
    report_paths: tuple[Path, ...],
    overlay_path: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Cut MODEL as PLAN.toml says, prove the result, measure it, and write it.

    MODEL is the file that the plan was made for, or another form of the same network: in half precision, or quantized.
    Where the plan lists the indices of a group, these are kept; where it has a count alone, the most important units.
    """
    written: list[Path] = []
    with failing(lambda: f"{written[0]} was written" if written else "nothing was written"):
        with signals_held():
            from onnxprune.commands.apply import apply_file
            from onnxprune.report.prune import prune_tables

        if plan.suffix == ".onnx" != source.suffix:
            raise OptionError(f"{plan} is no plan: that comes first, and the model behind it: PLAN.toml MODEL")
        if source.is_dir():
            raise OptionError(f"{source} is a folder: a plan is applied to one file; give that")
        recipe = recipe_of(context)
        options |= {"latency": not no_latency, "batch_norm": not no_batch_norm, "inputs": parse_shapes(inputs)}
        report_path, page = parse_reports(report_paths)
        with show_progress(quiet) as progress:
            result = apply_file(
                plan, source, output, options, data, report_path=report_path, tune=tune, checkpoint=checkpoint,
                resume=resume, force=force, progress=progress, on_written=lambda: written.append(output),
                overlay_path=overlay_path, page=page, recipe=recipe,
            )  # fmt: skip
        for path in () if quiet else result.removed:
            say(f"removed old weights {path}")
        show_result(result.report if as_json else prune_tables(result.report))
