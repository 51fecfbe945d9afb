"""Errors and signals end a command with one or two lines on stderr and an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

import click

from onnxprune.cli.screen import say_error
from onnxprune.cli.unexpected import sentence_of
from onnxprune.errors import OnnxpruneError, OptionError

DEBUG = "onnxprune.debug"  # key of the context of a command


class _Ended(KeyboardInterrupt):
    """A signal that ends the process: like Ctrl-C, it passes through every block that cleans up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _end(number: int, _: FrameType | None) -> None:
    raise _Ended(number)


def hear_signals() -> None:
    """Let SIGTERM and SIGHUP raise, so that blocks clean up; a signal that is ignored (nohup) stays ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


@contextlib.contextmanager
def failing(state: Callable[[], str] = str) -> Iterator[None]:
    """Turn errors into one or two lines on stderr and an exit code; a traceback comes with ``--debug`` alone.

    Args:
        state: returns what was written so far; it is added where the error itself is about something else.
    """
    try:
        yield
    except OnnxpruneError as error:
        say_error(_as_typed(str(error)) if isinstance(error, OptionError) else str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a file that goes away while it is read
        if error.errno == errno.EPIPE:
            raise
        place = f"{error.filename}: " if error.filename else ""
        say_error(f"{place}{error.strerror or error}", state())
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        say_error("interrupted", state())
        sys.exit(getattr(interrupt, "exit_code", 130))
    except (click.ClickException, click.exceptions.Exit, click.Abort):  # click's own
        raise
    except Exception as error:  # whatever nobody foresaw
        if _debugs():
            traceback.print_exc()
        message, code = sentence_of(error)
        say_error(message, state())
        sys.exit(code)


def _debugs() -> bool:
    """Whether the command has the option ``--debug``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(DEBUG))


def _as_typed(message: str) -> str:
    """Return a message with the Python name of an option, if it begins with one, as it is typed on the command line.

    >>> from onnxprune.cli.prune import prune
    >>> with click.Context(prune):
    ...     _as_typed("round_to must be at least 1, got 0")
    '--round-to must be at least 1, got 0'
    """
    name, space, rest = message.partition(" ")
    typed = f"--{name.replace('_', '-')}"
    context = click.get_current_context(silent=True)
    options = [opt for option in (context.command.params if context else ()) for opt in option.opts]
    return f"{typed}{space}{rest}" if typed in options else message
