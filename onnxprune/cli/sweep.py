"""``onnxprune sweep``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.failing import failing
from onnxprune.cli.group import cli
from onnxprune.cli.options import DEBUG, PATH, QUIET, REPORT, SCHEDULER, WORKERS
from onnxprune.cli.prune import prune
from onnxprune.cli.recipe import recipe_of
from onnxprune.cli.screen import show_progress, show_result
from onnxprune.cli.values import (
    parse_ratios,
    parse_reports,
    parse_shapes,
    parse_step,
    parse_sweep_values,
    parse_targets,
)
from onnxprune.errors import OptionError
from onnxprune.graph.files.publish import signals_held

# Options of `prune` that hold for all members of a family.
_OF_MEMBERS = (
    "ratios", "targets", "criterion", "scope", "reconstruct", "sweeps", "curves", "effort", "no_batch_norm", "round_to",
    "min_units", "width", "change_io", "ignore", "only", "data", "eval_data", "preprocess", "samples", "metric",
    "inputs", "provider", "threads", "no_latency", "seed", "batch", "profile_seconds", "timer",
    "timer_seconds", "custom_ops",
)  # fmt: skip
_VALUES = (
    ("latency", "0.8,0.65"), ("memory", "0.9,0.8"), ("size", "20MB,10MB"), ("macs", "0.8,0.6"), ("params", "0.8,0.6"),
    ("kv-cache", "0.75,0.5"), ("ratios", "0.2,0.4"),
)  # fmt: skip
_OF_THE_RUN = ("workers", "scheduler", "resume")  # options that have no effect on the family


def _parameter(name: str) -> str:
    """Return what the parameter of an option is called."""
    return f"of_{name.replace('-', '_')}"


_LISTS = [
    click.Option([f"--{name}", _parameter(name)], metavar="X,Y,..", help=f"A member for each: --{name} {example}.")
    for name, example in _VALUES
]


@cli.command(params=[*_LISTS, *(param for param in prune.params if param.name in _OF_MEMBERS)])
@click.argument("source", metavar="INPUT", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, metavar="FOLDER", help="Folder to write to.")
@WORKERS
@SCHEDULER
@click.option("--resume", is_flag=True, help="Fail where members of other options are there, which else are made anew.")
@click.option("--force", is_flag=True, help="Replace files that no sweep has written.")
@REPORT
@QUIET
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@DEBUG
@click.pass_context
def sweep(
    context: click.Context,
    /,
    source: Path,
    output: Path,
    ratios: tuple[str, ...],
    targets: tuple[str, ...],
    data: str | None,
    inputs: tuple[str, ...],
    no_batch_norm: bool,
    no_latency: bool,
    worker_count: int,
    scheduler: str | None,
    resume: bool,
    report_paths: tuple[Path, ...],
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune INPUT to several targets, from one calibration: models, reports, a table and a plot in FOLDER.

    Give one of --latency, --memory, --size, --macs, --params, --kv-cache and --ratios. Run the same command again
    after an interruption: it goes on.
    """
    with failing(lambda: "members that are finished stay"):
        with signals_held():
            from onnxprune.commands.sweep import make_family
            from onnxprune.planning.options import make_options
            from onnxprune.report.sweep import family_tables, without_model
            from onnxprune.runtime.executors import workers

        recipe = {key: value for key, value in recipe_of(context).items() if key not in _OF_THE_RUN}
        kind, values = parse_sweep_values({name: options.pop(_parameter(name)) for name, _ in _VALUES})
        _check_values(kind, values)
        options |= {"latency": not no_latency, "batch_norm": not no_batch_norm, "inputs": parse_shapes(inputs)}
        by_glob = parse_ratios(ratios)
        if "ratio" in by_glob:
            raise OptionError("--ratio takes GLOB=NUMBER here: the values of a sweep say how much goes elsewhere")
        options["round_to"] = parse_step(options["round_to"])
        checked = make_options(**by_glob, targets=parse_targets(targets), **options)
        report_path, page = parse_reports(report_paths)
        with workers(worker_count, scheduler) as pool, show_progress(quiet) as progress:
            family = make_family(
                source, output, kind, values, checked, data=data,
                workers=pool, resume=resume, force=force, report_path=report_path, page=page,
                progress=progress, recipe=recipe,
            )  # fmt: skip
        lines = [*family_tables(family.summary), *without_model(family.summary), _where_written(family.members)]
        show_result(dict(family.summary) if as_json else lines)


def _check_values(kind: str, values: Sequence[Any]) -> None:
    """Raise OptionError, by the name of the option that was typed, for what is no target of its kind."""
    from onnxprune.planning.targets import parse

    for value in values if kind != "ratio" else ():
        try:
            parse(kind, value)
        except OptionError as error:
            raise OptionError(str(error).removeprefix("target ")) from None


def _where_written(members: Sequence[Path]) -> str:
    folder, names = members[0].parent, [path.name for path in members]
    listed = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, each with its report"
    return f"{folder}: {listed}; {folder / 'sweep.html'} has the plot"
