"""Timers of the user: what says how long a model file takes, on another machine or in another runtime.

A timer is a command with ``{}`` in the place of the file, or the name ``module:function``, or a function; given a path,
it prints or returns milliseconds. docs/timers.md has recipes.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxprune import check
from onnxprune.data.feeds import function_of, importable, is_function
from onnxprune.errors import OptionError, code_of_others, said_where, shortened

FILE = "{}"  # stands for the file in a command
SECONDS = 600.0  # that one call may take
_SHOWN = 3  # lines of what a command said last, in errors
_UNITS = {"": 1.0, "ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3, "ns": 1e-6}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RESULT = re.compile(rf"(?:^|[\s:=])({_NUMBER})\s*(ns|us|µs|ms|s|)$")
# What stands before a number that is a part of something else: 0:12.5 is a time of day, 3 s 200 ms are two numbers.
_PART = re.compile(rf"(?:^|[\s:=]){_NUMBER}(?::|\s*(?:h|min|m|ns|us|µs|ms|s)?\s+)$")
_FORMS = "a number of milliseconds at the end of the last line, such as '12.5', 'latency: 12.5 ms' or 'mean = 0.0125 s'"


@dataclass(frozen=True)
class Timer:
    """What tells how long a file takes."""

    name: str  # as the user wrote it
    source: Any = field(repr=False)  # a command, module:function, or a function from a path to ms
    seconds: float = SECONDS  # that one call of a command may take
    # by the SHA-256 of a model, the times in ms that showed how much the timer varies: they are measured once
    noise: dict[str, Sequence[float]] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker gets no function, which may not be pickled, and times nothing."""
        return Timer, (self.name, self.source if isinstance(self.source, str) else None, self.seconds)

    def ms(self, path: Path) -> float:
        """Return how long the model in a file takes, in ms.

        Raises:
            OptionError: when the timer fails, takes too long, or gives no number above 0.
            DataError: when its function cannot be imported.
        """
        path = path.absolute()  # and not resolved: weights lie beside the name, not beside what a link points to
        if not isinstance(self.source, str):
            return _called(self.name, self.source, path)
        if is_function(self.source):
            return _called(self.name, _function(self.source), path)
        return _ran(self.name, _arguments(self.source), self.seconds, path)


def make_timer(source: Any, seconds: float = SECONDS) -> Timer | None:
    """Return the timer that a command, the name of a function, or a function is; None for None.

    Args:
        source: text, a function from a path to milliseconds, or a timer, which is returned as it is.
        seconds: that one call of a command may take.

    Raises:
        OptionError: for text that is neither a command with ``{}`` nor ``module:function``, and for other values.
        DataError: when a function cannot be imported.
    """
    seconds = check.positive("timer_seconds", seconds)
    if source is None or isinstance(source, Timer):
        return source
    if callable(source):
        return Timer(getattr(source, "__qualname__", type(source).__name__), source, seconds)
    if not isinstance(source, str):
        raise OptionError(f"timer must be a command, module:function or a function, got {type(source).__name__}")
    _ = _function(source) if is_function(source) else _arguments(source)  # says now what is wrong with it
    return Timer(source, source, seconds)


def checked_seconds(seconds: object, timer: object) -> float:
    """Return how long one call of a timer may take; raise OptionError for no such time, and where there is no timer."""
    checked = check.positive("timer_seconds", seconds)
    if timer is None and checked != SECONDS:
        raise OptionError("timer_seconds has no effect without a timer")
    return checked


def _arguments(command: str) -> list[str]:
    """Return the program of a command and its arguments, with `FILE` in at least one of these."""
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise OptionError(f"timer {command!r}: {str(error).lower()}") from None
    if not any(FILE in argument for argument in arguments[1:]):
        raise OptionError(
            f"timer {command!r} is neither module:function nor a command with {FILE} in the place of the file, such as "
            f"'./time_on_board {FILE}'"
        )
    return arguments


# -- functions ---------------------------------------------------------------------------------------------------


def _function(source: str) -> Callable[..., Any]:
    with importable():
        return function_of(source, "a function that takes a path and returns milliseconds")


def _called(name: str, function: Callable[[Path], object], path: Path) -> float:
    with importable(), code_of_others(lambda error: OptionError(f"timer {name}: it raised {said_where(error)}")):
        result = function(path)
    number = result.item() if isinstance(result, np.generic) else result
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        told = shortened(repr(result), 80)
        raise OptionError(f"timer {name}: expected milliseconds, a number, got {told} for {path.name}")
    return _sane(name, float(number), path)


def _sane(name: str, ms: float, path: Path) -> float:
    if not (math.isfinite(ms) and ms > 0):
        raise OptionError(f"timer {name}: expected milliseconds above 0, got {ms:g} for {path.name}")
    return ms


# -- commands ----------------------------------------------------------------------------------------------------


def _ran(name: str, arguments: Sequence[str], seconds: float, path: Path) -> float:
    filled = [arguments[0], *(argument.replace(FILE, os.fspath(path)) for argument in arguments[1:])]
    return _sane(name, _last_number(name, _output(name, filled, seconds)), path)


def _output(name: str, arguments: Sequence[str], seconds: float) -> str:
    """Return what a command prints; it is started without a shell, in a process group of its own.

    It prints to files: the end of a pipe may be kept open by what it started, and waiting for that would have no limit.

    Raises:
        OptionError: when it cannot be started, fails, or takes too long; it is ended then, with what it started.
    """
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complained:
        try:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=printed, stderr=complained, start_new_session=True
            )
        except OSError as error:
            raise OptionError(f"timer {name}: cannot start {arguments[0]}: {error.strerror or error}") from None
        try:
            code = process.wait(seconds)
        except BaseException as error:  # an interrupt, too
            _end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            limit = f"it did not end within {seconds:g} s (more with --timer-seconds)"
            raise OptionError(f"timer {name}: {limit}{_last_lines(*map(_read, (printed, complained)))}") from None
        said = _read(printed), _read(complained)
    if code:
        raise OptionError(f"timer {name}: it ended with exit code {code}{_last_lines(*said)}")
    return said[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, with what it started in its group where the system has such."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _read(file: IO[bytes]) -> str:
    """Return what a command has written so far."""
    file.seek(0)
    return file.read().decode("utf-8", errors="replace")


def _last_lines(printed: str, complained: str) -> str:
    """Return in words what a command said last, on stderr if it said anything there."""
    lines = [line.strip() for line in (complained.strip() or printed.strip()).splitlines()][-_SHOWN:]
    return f"; it said last: {shortened(' | '.join(lines))}" if lines else "; it said nothing"


def _last_number(name: str, printed: str) -> float:
    r"""Return the milliseconds that a command printed at the end.

    >>> [_last_number("", text) for text in ("12.5", "ran 3 times\nmean = 2 s\n", "latency: 8e2 us")]
    [12.5, 2000.0, 0.8]

    Raises:
        OptionError: when the last line that is not empty does not end with a number, or a number and a unit.
    """
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    result = _RESULT.search(lines[-1]) if lines else None
    if result is None or _PART.search(lines[-1][: result.start(1)]):
        told = f"its last line is {shortened(lines[-1], 120)!r}" if lines else "it printed nothing"
        raise OptionError(f"timer {name}: expected {_FORMS}; {told}")
    return float(result[1]) * _UNITS[result[2]]
