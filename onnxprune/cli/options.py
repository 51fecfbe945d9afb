"""Options that several commands have, written once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from onnxprune.cli.failing import DEBUG as _DEBUG
from onnxprune.cli.recipe import HANDLED


def name_libraries(paths: Sequence[Path]) -> None:
    """Let all sessions load these libraries, also those of worker processes."""
    if paths:
        os.environ["ONNXPRUNE_CUSTOM_OPS"] = os.pathsep.join(str(path.resolve()) for path in paths)


def _set_libraries(context: click.Context, param: click.Parameter, paths: Sequence[Path]) -> None:
    context.meta.setdefault(HANDLED, {})[param.name] = paths
    name_libraries(paths)


PATH = click.Path(path_type=Path)

PREPROCESS = click.option(
    "--preprocess",
    metavar="TEXT",
    help="How images become arrays: imagenet, tf, unit or raw, and settings: 'imagenet,size=240'.",
)
METRIC = click.option(
    "--metric", metavar="NAME", help="What is compared on data, see docs/options.md [default: by the outputs]."
)
INPUTS = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=SHAPE",
    help="Shape of an input, or of what a node makes that cannot be run: x=1,3,224,224.",
)
CUSTOM_OPS = click.option(
    "--custom-ops",
    multiple=True,
    type=PATH,
    metavar="LIBRARY",
    expose_value=False,
    callback=_set_libraries,
    help="A library of custom operators that ONNX Runtime shall load; its code runs here. Repeatable.",
)
WORKERS = click.option(
    "--workers", "worker_count", type=int, default=1, show_default=True, metavar="N", help="Processes to run in."
)
SCHEDULER = click.option("--scheduler", metavar="ADDRESS", help="Run on a Dask cluster instead: tcp://HOST:PORT.")
PLOT = click.option(
    "--plot", "plot_path", type=PATH, metavar="FILE", help="Write a plot: .svg, .png, .html with all numbers."
)
REPORT = click.option(
    "--report",
    "report_paths",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Write everything: FILE.html is a page to read, any other name gets JSON; repeatable.",
)
OVERLAY = click.option(
    "--overlay",
    "overlay_path",
    type=PATH,
    metavar="FILE.json",
    help="Write node data for Model Explorer: what is kept; reasons, MACs and times in files beside it.",
)
FORCE = click.option("--force", is_flag=True, help="Replace these files if they exist.")
TIMER = click.option(
    "--timer",
    metavar="COMMAND {} | module:function",
    help="What tells how many ms a model file takes, in place of ONNX Runtime here: docs/timers.md.",
)
TIMER_SECONDS = click.option(
    "--timer-seconds",
    type=float,
    default=600.0,
    show_default=True,
    metavar="S",
    help="Time that one call of the command may take.",
)
QUIET = click.option("--quiet", is_flag=True, help="No progress.")


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[_DEBUG] = value


DEBUG = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_set_debug,
    help="Show the traceback of an unexpected error.",
)
