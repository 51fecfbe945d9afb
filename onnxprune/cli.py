"""The command line: ``onnxprune INPUT -o OUT`` prunes; ``compare`` and ``inspect`` look.

Progress goes to stderr, results to stdout. Heavy modules are imported when a command runs, so that ``--help`` answers
at once. Exit codes: 0 done, 1 a check or bound was missed, 2 bad input, 3 nothing to prune.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from onnxprune._version import __version__
from onnxprune.errors import OnnxpruneError, OptionError
from onnxprune.publish import signals_held

_PATH = click.Path(path_type=Path)
_PREPROCESS = click.option(
    "--preprocess",
    metavar="TEXT",
    help="How images become arrays: imagenet, tf, unit or raw, and settings: 'imagenet,size=240'.",
)
_FILE_WIDTH = 100_000  # in a pipe or file each row of a table is one line, however long its names are
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Commands(click.Group):
    """A group whose default command is `prune`, and whose usage errors are short."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; say in one line what is wrong with its options."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            message = " ".join(error.format_message().split()).rstrip(".")
            click.echo(f"onnxprune: {message}; see '{(error.ctx or ctx).command_path} --help'", err=True)
            ctx.exit(error.exit_code)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            meant = difflib.get_close_matches(args[0], self.commands, 1)
            if meant and not Path(args[0]).exists():
                raise click.UsageError(f"No file or command {args[0]!r}, did you mean {meant[0]!r}?", ctx)
            args = ["prune", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let options of `prune` stand in front of the input."""
        own = {"-h", "--help", "--version"}
        if args and args[0].startswith("-") and args[0] not in own:
            args = ["prune", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Commands, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="onnxprune")
def cli() -> None:
    """Make a trained ONNX model smaller and faster by removing whole channels, heads and neurons.

    \b
    onnxprune model.onnx --ratio 0.3 -o small.onnx      prune (the default command)
    onnxprune compare model.onnx small.onnx             measure both side by side
    onnxprune inspect model.onnx                        what can be pruned, and what cannot
    onnxprune sensitivity model.onnx --data d.npz       what each group costs that loses units
    onnxprune sweep model.onnx --macs 0.8,0.6 -o out/   several targets from one calibration

    'onnxprune prune --help' lists the options of the default command.
    """  # noqa: D301 - click keeps paragraphs behind a backspace as they are


@cli.command()
@click.argument("source", metavar="INPUT", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True, help="File to write.")
@click.option(
    "--ratio",
    "ratios",
    multiple=True,
    metavar="R | GLOB=R",
    help="Share of the units to remove, in [0, 1); default 0.3. GLOB=R for those it means, see above; repeatable.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="KIND=X",
    help="What the result may cost, instead of a ratio: latency, memory, size, macs or params; a fraction of the "
    "original, or as in latency=8ms, size=20MB, params=1500000; repeatable.",
)
@click.option(
    "--criterion",
    help="l1, l2, bn, fpgm, random; with --data obs (default), wanda, flap, activation, apoz [default: l2].",
)
@click.option(
    "--scope",
    metavar="loss|global|group",
    help="Share out by loss curves, rank units over all groups, or in each [default: loss with --data; else group].",
)
@click.option(
    "--reconstruct/--no-reconstruct",
    default=None,
    help="Refit each layer to what it computed before [default: with --data].",
)
@click.option("--sweeps", type=int, metavar="N", help="Refit all layers so many times [default: 1].")
@click.option("--no-batch-norm", is_flag=True, help="Keep the running statistics of BatchNormalization.")
@click.option(
    "--round-to",
    metavar="N|auto",
    help="Keep multiples of N, rounding down; auto: of what kernels like, as measured, the default for latency "
    "[default: 8 for channels, at the ratio overall].",
)
@click.option("--min-units", type=int, metavar="N", help="Keep at least N units in each group [default: a tenth].")
@click.option("--width", is_flag=True, help="Prune also what is normalised over, such as the hidden width; inexact.")
@click.option("--ignore", multiple=True, metavar="GLOB", help="Leave these nodes, weights or groups alone; repeatable.")
@click.option("--only", multiple=True, metavar="GLOB", help="Prune these and no others, see above; repeatable.")
@click.option("--data", metavar="SOURCE", help="Samples to verify on: FILE.npz, a folder, or module:function.")
@click.option("--eval-data", metavar="SOURCE", help="Samples to compare on; with 'labels', accuracy [default: --data].")
@_PREPROCESS
@click.option("--samples", type=int, metavar="N", help="Calibrate on so many at most; 0: all [default: 256].")
@click.option("--metric", metavar="NAME", help="What is compared on data, see README.md [default: by the outputs].")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=SHAPE", help="Shape of an input in random feeds: x=1,3,224,224."
)
@click.option("--provider", default="cpu", show_default=True, help="Where latency is measured: cpu, cuda, ...")
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads for latency; 0: all.")
@click.option("--batch", type=int, default=1, show_default=True, help="Samples of a timed run.")
@click.option(
    "--profile-seconds",
    type=float,
    default=60.0,
    show_default=True,
    metavar="S",
    help="Time for timing nodes, where plans depend on it; what was timed before takes none.",
)
@click.option("--no-latency", is_flag=True, help="Do not measure latency.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random feeds and of --criterion random.")
@click.option("--report", "report_path", type=_PATH, metavar="FILE.json", help="Write the report of all cuts.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the report instead of tables.")
def prune(
    source: Path,
    output: Path,
    ratios: tuple[str, ...],
    data: str | None,
    inputs: tuple[str, ...],
    targets: tuple[str, ...],
    no_batch_norm: bool,
    no_latency: bool,
    report_path: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune INPUT, prove the result, measure it, and write it.

    A GLOB of --only and --ratio means the groups with this name, or whose units are made by a node or weight with this
    name; where there are none, those in which any node or weight has it. --ignore spares every group that touches it.
    """
    written: list[Path] = []
    with _failing(lambda: f"{written[0]} was written" if written else "nothing was written"):
        with signals_held():  # an extension module that is interrupted while it is imported fails with other errors
            from onnxprune.options import make_options  # noqa: PLC0415
            from onnxprune.pipeline import prune_file  # noqa: PLC0415
            from onnxprune.report import prune_tables  # noqa: PLC0415

        options |= {"latency": not no_latency, "batch_norm": not no_batch_norm, "inputs": _shapes(inputs)}
        options["round_to"] = _step(options["round_to"])
        chosen = make_options(**_ratios(ratios), targets=_targets(targets), **options)
        with _progress(quiet) as progress:
            result = prune_file(
                source,
                output,
                chosen,
                data,
                report_path=report_path,
                force=force,
                progress=progress,
                on_written=lambda: written.append(output),
            )
        _show(result.report if as_json else prune_tables(result.report))


@cli.command()
@click.argument("before", type=_PATH)
@click.argument("after", type=_PATH)
@click.option("--data", metavar="SOURCE", help="Samples to compare on: FILE.npz, a folder, or module:function.")
@_PREPROCESS
@click.option("--metric", metavar="NAME", help="What is compared on data, see README.md [default: by the outputs].")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=SHAPE", help="Shape of an input in random feeds: x=1,3,224,224."
)
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="cpu, cuda, ...; repeatable.")
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads; 0: all.")
@click.option("--batch", type=int, default=1, show_default=True, help="Samples per timed run.")
@click.option("--seconds", "budget_s", type=float, default=10.0, show_default=True, help="Time for the timed runs.")
@click.option("--sweep-threads", metavar="1,2,4", default="", help="Time them with other counts of threads as well.")
@click.option("--sweep-batch", metavar="1,8,32", default="", help="Time them with other batches as well.")
@click.option(
    "--provider-option", "given", multiple=True, metavar="KEY=VALUE", help="An option of the provider; repeatable."
)
@click.option("--min-speedup", type=float, metavar="X", help="Exit with 1 when AFTER is not X times as fast.")
@click.option("--max-drop", type=float, metavar="Y", help="Exit with 1 when accuracy falls by more; 0.01 is a point.")
@click.option(
    "--plot", "plot_path", type=_PATH, metavar="FILE", help="Write a plot: .svg, .png, .html with all numbers."
)
@click.option("--report", "report_path", type=_PATH, metavar="FILE.json", help="Write everything as JSON.")
@click.option("--force", is_flag=True, help="Replace these files if they exist.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(
    before: Path,
    after: Path,
    data: str | None,
    inputs: tuple[str, ...],
    providers: tuple[str, ...],
    budget_s: float,
    sweep_threads: str,
    sweep_batch: str,
    given: tuple[str, ...],
    min_speedup: float | None,
    max_drop: float | None,
    plot_path: Path | None,
    report_path: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure BEFORE and AFTER side by side: latency, memory, size, outputs, accuracy."""
    with _failing():
        with signals_held():
            from onnxprune import check, pipeline  # noqa: PLC0415
            from onnxprune.measure import check_bounds, verdict  # noqa: PLC0415
            from onnxprune.report import bounds_line, compare_tables  # noqa: PLC0415
            from onnxprune.runtime import check_provider  # noqa: PLC0415

        chosen = providers or ("cpu",)
        for provider in chosen:
            check_provider(provider)
        check.positive("seconds", budget_s)
        check_bounds(min_speedup, max_drop)
        if max_drop is not None and data is None:
            raise OptionError("--max-drop needs --data with an array 'labels'")
        options.update(budget_s=budget_s, shapes=_shapes(inputs), provider_options=_settings(given))
        options["sweep_threads"] = _numbers("--sweep-threads", sweep_threads)
        options["sweep_batch"] = _numbers("--sweep-batch", sweep_batch)
        pipeline.check_compared((before, after), data, plot_path, report_path, force)
        found = []
        with _progress(quiet) as progress:
            for name in chosen:
                progress(f"measuring {before} and {after} on {name}")
                found.append(pipeline.compare(before, after, data=data, provider=name, **options))
        missed = [verdict(comparison, min_speedup, max_drop) for comparison in found]
        listed = [{**c.to_dict(), "missed": m} for c, m in zip(found, missed, strict=True)]
        report = {"onnxprune": __version__, "comparisons": listed}
        pipeline.write_compared(found, report, plot_path, report_path, force)
        if as_json:
            _show(report)
        else:
            met = [bounds_line(min_speedup, max_drop)] if (min_speedup, max_drop) != (None, None) else []
            for comparison, sentences in zip(found, missed, strict=True):
                _show(compare_tables(comparison, sentences or met))
    if any(missed):
        sys.exit(1)


@cli.command()
@click.argument("source", metavar="INPUT", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(source: Path, as_json: bool) -> None:
    """Show the groups of INPUT, what they cost and couple, and why the rest cannot be cut."""
    with _failing():
        with signals_held():
            from onnxprune import pipeline  # noqa: PLC0415
            from onnxprune.report import inspect_tables  # noqa: PLC0415

        found = pipeline.inspect(source)
        _show(found.to_dict() if as_json else inspect_tables(found))


@cli.command()
@click.argument("source", metavar="INPUT", type=_PATH)
@click.option("--data", metavar="SOURCE", help="Samples, needed: FILE.npz, a folder, or module:function.")
@click.option("--eval-data", metavar="SOURCE", help="Samples to measure losses on [default: a part of --data].")
@_PREPROCESS
@click.option("--samples", type=int, metavar="N", help="Take so many at most; 0: all [default: 256].")
@click.option("--metric", metavar="NAME", help="What is compared on data, see README.md [default: by the outputs].")
@click.option("--only", multiple=True, metavar="GLOB", help="Look at these groups and no others; repeatable.")
@click.option("--ignore", multiple=True, metavar="GLOB", help="Leave these nodes, weights or groups out; repeatable.")
@click.option("--width", is_flag=True, help="Look also at what is normalised over, such as the hidden width.")
@click.option("--round-to", metavar="N", help="Keep multiples of N [default: 8 for channels].")
@click.option("--no-reconstruct", is_flag=True, help="Do not refit the layers that consume the units.")
@click.option(
    "--levels", type=int, default=8, show_default=True, metavar="N", help="Losses to measure for each group, at most."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples that are drawn.")
@click.option("--workers", "count", type=int, default=1, show_default=True, metavar="N", help="Processes to run in.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on a Dask cluster instead: tcp://HOST:PORT.")
@click.option(
    "--plot", "plot_path", type=_PATH, metavar="FILE", help="Write a plot: .svg, .png, .html with all numbers."
)
@click.option("--report", "report_path", type=_PATH, metavar="FILE.json", help="Write everything as JSON.")
@click.option("--force", is_flag=True, help="Replace these files if they exist.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def sensitivity(
    source: Path,
    data: str | None,
    no_reconstruct: bool,
    levels: int,
    count: int,
    scheduler: str | None,
    plot_path: Path | None,
    report_path: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what the output of INPUT loses when each group loses units: what to protect, and what is free."""
    with _failing():
        with signals_held():
            from onnxprune.executors import ALONE, workers  # noqa: PLC0415
            from onnxprune.options import make_options  # noqa: PLC0415
            from onnxprune.pipeline import sensitivity_file  # noqa: PLC0415
            from onnxprune.report import sensitivity_tables  # noqa: PLC0415

        options["round_to"] = _step(options["round_to"])
        chosen = make_options(reconstruct=not no_reconstruct, **options)
        alone = count == 1 and scheduler is None
        where = contextlib.nullcontext(ALONE) if alone else workers(count, scheduler)
        with where as found_workers, _progress(quiet) as progress:
            found = sensitivity_file(
                source,
                chosen,
                data,
                levels=levels,
                plot_path=plot_path,
                report_path=report_path,
                force=force,
                progress=progress,
                workers=found_workers,
            )
        _show(found.to_dict() if as_json else sensitivity_tables(found))


# Options of `prune` that hold for all members of a family.
_OF_MEMBERS = (
    "ratios", "targets", "criterion", "scope", "reconstruct", "sweeps", "no_batch_norm", "round_to", "min_units",
    "width", "ignore", "only", "data", "eval_data", "preprocess", "samples", "metric", "inputs", "provider", "threads",
    "no_latency", "seed", "batch", "profile_seconds",
)  # fmt: skip
_VALUES = (
    ("latency", "0.8,0.65"), ("memory", "0.9,0.8"), ("size", "20MB,10MB"), ("macs", "0.8,0.6"), ("params", "0.8,0.6"),
    ("ratios", "0.2,0.4"),
)  # fmt: skip
_LISTS = [
    click.Option([f"--{name}", f"of_{name}"], metavar="X,Y,..", help=f"A member for each: --{name} {example}.")
    for name, example in _VALUES
]


@cli.command(params=[*_LISTS, *(param for param in prune.params if param.name in _OF_MEMBERS)])
@click.argument("source", metavar="INPUT", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True, metavar="FOLDER", help="Folder to write to.")
@click.option("--workers", "count", type=int, default=1, show_default=True, metavar="N", help="Processes to run in.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on a Dask cluster instead: tcp://HOST:PORT.")
@click.option("--resume", is_flag=True, help="Fail where members of other options are there, which else are made anew.")
@click.option("--force", is_flag=True, help="Replace files that no sweep has written.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def sweep(
    source: Path,
    output: Path,
    ratios: tuple[str, ...],
    targets: tuple[str, ...],
    data: str | None,
    inputs: tuple[str, ...],
    no_batch_norm: bool,
    no_latency: bool,
    count: int,
    scheduler: str | None,
    resume: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune INPUT to several targets, from one calibration: models, reports, a table and a plot in FOLDER.

    Give one of --latency, --memory, --size, --macs, --params and --ratios. Run the same command again after an
    interruption: it goes on.
    """
    with _failing(lambda: "members that are finished stay"):
        with signals_held():
            from onnxprune import family  # noqa: PLC0415
            from onnxprune.executors import workers  # noqa: PLC0415
            from onnxprune.options import make_options  # noqa: PLC0415
            from onnxprune.report import family_tables  # noqa: PLC0415

        kind, values = _values({name: options.pop(f"of_{name}") for name, _ in _VALUES})
        options |= {"latency": not no_latency, "batch_norm": not no_batch_norm, "inputs": _shapes(inputs)}
        by_glob = _ratios(ratios)
        if "ratio" in by_glob:
            raise OptionError("--ratio takes GLOB=NUMBER here: the values of a sweep say how much goes elsewhere")
        options["round_to"] = _step(options["round_to"])
        chosen = make_options(**by_glob, targets=_targets(targets), **options)
        with workers(count, scheduler) as found, _progress(quiet) as progress:
            made = family.make_family(
                source, output, kind, values, chosen, data=data,
                workers=found, resume=resume, force=force, progress=progress,
            )  # fmt: skip
        told = [*family_tables(made.summary), *family.without_model(made.summary), _where_written(made.members)]
        _show(dict(made.summary) if as_json else told)


def _where_written(members: Sequence[Path]) -> str:
    folder, names = members[0].parent, [path.name for path in members]
    listed = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, each with its report"
    return f"{folder}: {listed}; sweep.html has the plot"


def _values(given: dict[str, str | None]) -> tuple[str, list[Any]]:
    """Return the one kind of target that a family is of, and its values."""
    asked = {name: text for name, text in given.items() if text is not None}
    if len(asked) != 1:
        raise OptionError(f"give one of {', '.join(f'--{name}' for name in given)}, got {len(asked)}")
    ((name, text),) = asked.items()
    return {"ratios": "ratio"}.get(name, name), [_number(each.strip()) for each in text.split(",") if each.strip()]


def _number(text: str) -> Any:
    """Return a number, or the text where it is none: 8ms."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def main() -> None:
    """Run the command line."""
    _hear_signals()
    cli(prog_name="onnxprune")


def _ratios(given: Sequence[str]) -> dict[str, Any]:
    """Split ``--ratio`` values into the common ratio and those by glob."""
    options: dict[str, Any] = {}
    by_glob: list[tuple[str, float]] = []
    for text in given:
        glob, equals, number = text.rpartition("=")
        try:
            ratio = float(number)
        except ValueError:
            ratio = None
        if ratio is None or (equals and not glob):
            raise OptionError(f"--ratio takes a number or GLOB=NUMBER, got {text!r}")
        if glob:
            by_glob.append((glob, ratio))
        else:
            options["ratio"] = ratio
    return {**options, "ratios": by_glob}


def _targets(given: Sequence[str]) -> dict[str, str]:
    """Split ``--target`` values into what is bounded, and a fraction or an amount."""
    found: dict[str, str] = {}
    for text in given:
        for each in text.split(","):
            name, equals, value = each.partition("=")
            if not equals:
                raise OptionError(f"--target takes KIND=VALUE such as macs=0.7 or latency=8ms, got {each!r}")
            name = name.strip()
            if name in found:
                raise OptionError(f"--target {name} is given twice, as {found[name]} and {value.strip()}: give one")
            found[name] = value.strip()
    return found


def _step(given: str | None) -> int | str | None:
    """Return the value of ``--round-to``: a number, or a word that the options know or refuse."""
    return int(given) if given is not None and given.lstrip("-").isdigit() else given


def _shapes(given: Sequence[str]) -> dict[str, list[int]]:
    """Split ``--input`` values into the name of an input and its shape."""
    found: dict[str, list[int]] = {}
    for text in given:
        name, _, dims = text.rpartition("=")
        try:
            found[name] = [int(dim) for dim in dims.split(",")]
        except ValueError:
            found.pop(name, None)
        if not name or name not in found:
            raise OptionError(f"--input takes NAME=SHAPE such as x=1,3,224,224, got {text!r}")
    return found


def _numbers(name: str, text: str) -> list[int]:
    """Split a list of counts."""
    try:
        return [int(each) for each in text.split(",")] if text else []
    except ValueError:
        raise OptionError(f"{name} takes whole numbers such as 1,2,4, got {text!r}") from None


def _settings(given: Sequence[str]) -> dict[str, str]:
    """Split ``--provider-option`` values into keys and values."""
    for text in given:
        if not text.partition("=")[0] or "=" not in text:
            raise OptionError(f"--provider-option takes KEY=VALUE, got {text!r}")
    return {text.partition("=")[0]: text.partition("=")[2] for text in given}


class _Ended(KeyboardInterrupt):
    """A signal asks for the end: like Ctrl-C, it passes through every block that cleans up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _end(number: int, _: FrameType | None) -> None:
    raise _Ended(number)


def _hear_signals() -> None:
    """Let the signals that end a process end it in order; those that are ignored (nohup) stay so."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


@contextlib.contextmanager
def _failing(state: Callable[[], str] = str) -> Iterator[None]:
    """Turn errors into one or two lines on stderr and an exit code; never a traceback.

    Args:
        state: says whether anything was written, when that is not what the error itself is about.
    """
    try:
        yield
    except OnnxpruneError as error:
        _say(_as_typed(str(error)) if isinstance(error, OptionError) else str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a file that goes away while it is read
        if error.errno == errno.EPIPE:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _say(f"{place}{error.strerror or error}", state())
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        _say("interrupted", state())
        sys.exit(getattr(interrupt, "exit_code", 130))


def _as_typed(message: str) -> str:
    """Return a message that begins with the Python name of an option with the name as it is typed here.

    >>> with click.Context(cli.commands["prune"]):
    ...     _as_typed("round_to must be at least 1, got 0")
    '--round-to must be at least 1, got 0'
    """
    name, space, rest = message.partition(" ")
    typed = f"--{name.replace('_', '-')}"
    options = [opt for option in click.get_current_context().command.params for opt in option.opts]
    return f"{typed}{space}{rest}" if typed in options else message


def _say(what: str, state: str = "") -> None:
    """Print an error, and what it left."""
    _tell(f"onnxprune: {what}; {state}" if state else f"onnxprune: {what}")


def _tell(text: str) -> None:
    """Print a line to stderr; names in it come from the file, and control characters are escaped."""
    from onnxprune.report import printable  # noqa: PLC0415

    click.echo(printable(text), err=True)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """Yield a `Progress` to stderr: one line that changes in place on a terminal, one line per phase elsewhere."""
    from onnxprune.progress import silent  # noqa: PLC0415

    if quiet or sys.stderr is None:
        yield silent
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _live() as progress:
            yield progress
    else:
        told: list[str] = []

        def line(text: str, _step: int = 0, _steps: int = 0) -> None:
            if told[-1:] != [text]:
                told[:] = [text]
                _tell(f"{text} ...")

        yield line


@contextlib.contextmanager
def _live() -> Iterator[Any]:
    """Yield a `Progress` that keeps one line of the terminal up to date and takes it away when the block ends.

    The line changes only when a step begins: a thread that redraws it would be measured with the latency.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    from rich.progress import Progress as Line  # noqa: PLC0415
    from rich.table import Column  # noqa: PLC0415

    from onnxprune.report import printable  # noqa: PLC0415

    console = Console(stderr=True, force_terminal=True, highlight=False, emoji=False)
    cut = Column(no_wrap=True, overflow="ellipsis")
    columns = (
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}", markup=False, table_column=cut),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[place]}", markup=False),
    )
    with Line(*columns, console=console, transient=True, auto_refresh=False) as line:
        task = line.add_task("", what="starting", place="", total=None, visible=False)

        def update(text: str, step: int = 0, steps: int = 0) -> None:
            place = f"{step} of {steps}" if steps else "..."
            line.update(
                task, total=steps or 1, completed=max(0, step - 1), visible=True, what=printable(text), place=place
            )
            line.refresh()

        yield update


def _show(what: Any) -> None:
    """Print a dict as JSON, or tables and sentences, to stdout; a file gets no colour and unbroken sentences."""
    if sys.stdout is None:  # closed by the caller, as by >&-
        return
    if isinstance(what, dict):
        click.echo(json.dumps(what, indent=1))
        return
    from rich.console import Console  # noqa: PLC0415

    terminal = sys.stdout.isatty()
    console = Console(highlight=False, markup=False, emoji=False, width=None if terminal else _FILE_WIDTH)
    for part in what:
        if isinstance(part, str):
            text = _wrapped(part, console.width) if terminal else part
        else:
            with console.capture() as captured:
                console.print(part)
            text = "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
        click.echo(text)


def _wrapped(text: str, width: int) -> str:
    """Return each line broken between words, continued with an indent; names and paths stay whole."""
    wrapper = textwrap.TextWrapper(
        width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
    return "\n".join(wrapper.fill(line) for line in text.splitlines())
