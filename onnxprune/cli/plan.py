"""``onnxprune plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli.failing import failing
from onnxprune.cli.group import cli
from onnxprune.cli.options import DEBUG, FORCE, PATH, QUIET
from onnxprune.cli.prune import checked_options, prune
from onnxprune.cli.recipe import recipe_of
from onnxprune.cli.screen import show_progress, show_result
from onnxprune.errors import OptionError
from onnxprune.graph.files.publish import signals_held

# Options of `prune` that say what is cut, or by what that is decided.
_OF_PLAN = (
    "ratios", "targets", "shape", "depth", "without", "criterion", "scope", "reconstruct", "curves", "effort",
    "round_to", "min_units", "width", "change_io", "ignore", "only", "data", "eval_data", "preprocess", "samples",
    "metric", "inputs", "provider", "threads", "batch", "profile_seconds", "timer", "timer_seconds", "seed",
    "custom_ops",
)  # fmt: skip


@cli.command(params=[param for param in prune.params if param.name in _OF_PLAN])
@click.argument("source", metavar="INPUT", type=PATH)
@click.option("-o", "--output", type=PATH, metavar="PLAN.toml", help="File to write; without it the plan is shown.")
@FORCE
@QUIET
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON instead of a table.")
@DEBUG
@click.pass_context
def plan(
    context: click.Context,
    /,
    source: Path,
    output: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    data: str | None,
    **options: Any,
) -> None:
    """Say what would be cut of INPUT, and what that is expected to cost; no model is written.

    The plan is a file to read, to edit, and to apply: onnxprune apply PLAN.toml MODEL -o OUTPUT.

    A GLOB of --only and --ratio means the groups with this name, or whose units are made by a node or weight with this
    name; where there are none, those in which any node or weight has it. --ignore spares every group that touches it.
    """
    with failing():
        with signals_held():
            from onnxprune.commands.plan import plan_file
            from onnxprune.report.plan import plan_tables

        if source.is_dir():
            raise OptionError(f"{source} is a folder: a plan is for one file; give that")
        recipe = recipe_of(context)
        checked = checked_options(**options)
        with show_progress(quiet) as progress:
            made = plan_file(source, output, checked, data, force=force, progress=progress, recipe=recipe).to_dict()
        show_result(made if as_json else plan_tables(made, None if output is None else str(output)))
