"""``onnxprune report``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxprune.cli.failing import failing
from onnxprune.cli.group import cli
from onnxprune.cli.options import DEBUG, PATH
from onnxprune.cli.screen import say
from onnxprune.graph.files.publish import signals_held


@cli.command()
@click.argument("source", metavar="REPORT.json", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE.html", help="Page to write.")
@click.option("--force", is_flag=True, help="Replace the page if it exists.")
@DEBUG
def report(source: Path, output: Path, force: bool) -> None:
    """Make a page of REPORT.json, as prune, quantize, compare, sensitivity, sweep and tune write it."""
    with failing():
        with signals_held():
            from onnxprune.commands.report import report_file

        say(f"{output}: {report_file(source, output, force=force) / 1000:.0f} kB")
