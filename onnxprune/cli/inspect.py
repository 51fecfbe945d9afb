"""``onnxprune inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from onnxprune.cli.failing import failing
from onnxprune.cli.group import cli
from onnxprune.cli.options import CUSTOM_OPS, DEBUG, INPUTS, PATH
from onnxprune.cli.screen import show_result
from onnxprune.cli.values import parse_shapes
from onnxprune.graph.files.publish import signals_held


@cli.command()
@click.argument("source", metavar="INPUT", type=PATH)
@INPUTS
@CUSTOM_OPS
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@DEBUG
def inspect(source: Path, inputs: Sequence[str], as_json: bool) -> None:
    """Show the groups of INPUT, what they cost and couple, and why the rest cannot be cut."""
    with failing():
        with signals_held():
            from onnxprune.commands.inspect import inspect as inspect_file
            from onnxprune.report.inspect import inspect_tables

        inspection = inspect_file(source, parse_shapes(inputs))
        show_result(inspection.to_dict() if as_json else inspect_tables(inspection))
