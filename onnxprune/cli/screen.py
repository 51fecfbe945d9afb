"""What is printed: progress to stderr, results to stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from onnxprune.errors import shortened

_MESSAGE = 4000  # characters of an error that are shown
_NARROW = 20  # columns that any terminal has, whatever it says
_FILE_WIDTH = 120  # of tables in a pipe or file; --json has the names as they are


def say_error(message: str, state: str = "") -> None:
    """Print an error, and what was written before it."""
    text = shortened(message, _MESSAGE)
    say(f"{text}; {state}" if state else text)


def say(text: str) -> None:
    """Print a line that stays to stderr."""
    _print_line(f"onnxprune: {text}")


def _print_line(text: str) -> None:
    """Print a line to stderr; its control characters, as names from a model may have, are escaped."""
    from onnxprune.report.words import printable

    with contextlib.suppress(OSError):  # whoever read it has gone: no reason to stop
        click.echo(printable(text), err=True)


@contextlib.contextmanager
def show_progress(quiet: bool) -> Iterator[Any]:
    """Yield a `Progress` to stderr: one line that changes in place on a terminal, one line per phase elsewhere."""
    from onnxprune.progress import silent

    if quiet or sys.stderr is None:
        yield silent
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _live() as progress:
            yield progress
    else:
        last: list[str] = []

        def line(text: str, _step: int = 0, _steps: int = 0) -> None:
            if last != [text]:
                last[:] = [text]
                _print_line(f"{text} ...")

        yield line


@contextlib.contextmanager
def _live() -> Iterator[Any]:
    """Yield a `Progress` that keeps one line of the terminal up to date and takes it away when the block ends.

    The line changes only when a step begins: a thread that redraws it would be measured with the latency.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Line
    from rich.table import Column

    from onnxprune.report.words import printable

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


def show_result(result: Any) -> None:
    """Print a dict as JSON, or tables and sentences, to stdout; a file gets no colour and unbroken sentences.

    Where nobody reads any more, nothing is printed, and that is no failure.
    """
    if sys.stdout is None:  # closed by the caller, as by >&-
        return
    with readers_may_leave():
        _print_result(result)


@contextlib.contextmanager
def readers_may_leave() -> Iterator[None]:
    """End the block where stdout is a pipe that nobody reads any more, as behind ``| head``: they have seen enough."""
    try:
        yield
    except BrokenPipeError:
        with Path(os.devnull).open("w", encoding="utf-8") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())  # for what is still to be flushed


def _print_result(result: Any) -> None:
    if isinstance(result, dict):
        click.echo(json.dumps(result, indent=1))
        return
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(highlight=False, markup=False, emoji=False, width=None if terminal else _FILE_WIDTH)
    for part in result:
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
        max(width, _NARROW),
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    return "\n".join(wrapper.fill(line) for line in text.splitlines())
