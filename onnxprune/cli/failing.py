"""Errors and signals end a command with one or two lines on stderr and an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator

import click
from click.core import ParameterSource

from onnxprune.cli.screen import say_error
from onnxprune.cli.unexpected import sentence_of
from onnxprune.errors import OnnxpruneError, OptionError
from onnxprune.interrupts import Interrupted, exit_code

DEBUG = "onnxprune.debug"  # key of the context of a command
DEFAULTS = "onnxprune.defaults"  # another: the names of the parameters that a pyproject.toml has defaults of
NO_DEFAULTS = "--no-defaults"


@contextlib.contextmanager
def failing(state: Callable[[], str] = str, helper: str = "") -> Iterator[None]:
    """Turn errors into one or two lines on stderr and an exit code; a traceback comes with ``--debug`` alone.

    Args:
        state: returns what was written so far; it is added where the error itself is about something else.
        helper: what messages begin with in a process that only helps another one; it leaves interrupts to that one.
    """
    try:
        with _interrupts_first():
            yield
    except OnnxpruneError as error:
        say_error(helper + (_as_typed(str(error)) + _by_default() if isinstance(error, OptionError) else str(error)))
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a file that goes away while it is read
        place = f"{error.filename}: " if error.filename else ""
        say_error(f"{helper}{place}{error.strerror or error}", state())
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        if not helper:
            say_error("interrupted", state())
        sys.exit(getattr(interrupt, "exit_code", 130))
    except (click.ClickException, click.exceptions.Exit, click.Abort, SystemExit):  # click's own, and the end
        raise
    except BaseException as error:  # whatever nobody foresaw: a task that is cancelled is no Exception
        if _debugs():
            traceback.print_exc()
        message, code = sentence_of(error, _less())
        say_error(helper + message, state())
        sys.exit(code)


@contextlib.contextmanager
def _interrupts_first() -> Iterator[None]:
    """Raise an interrupt again where code of others has turned it into an error of its own."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        code = exit_code()
        if code is None:
            raise
        raise Interrupted(code - 128) from error


def _debugs() -> bool:
    """Whether the command has the option ``--debug``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(DEBUG))


def _less() -> list[str]:
    """Return how the command can be asked for less: by options that it has, and that have an effect with its others.

    >>> from onnxprune.cli.prune import prune
    >>> with click.Context(prune):
    ...     _less()
    ['smaller shapes with --input', 'fewer samples with --effort quick']
    """
    context = click.get_current_context(silent=True)
    names = {param.name for param in context.command.params} if context else set()
    has_data = context is not None and context.params.get("data") is not None
    fewer = [("samples", "fewer samples with --samples")] if has_data else []
    fewer += [("effort", "less with --effort quick" if has_data else "fewer samples with --effort quick")]
    return [words for name, words in (("inputs", "smaller shapes with --input"), *fewer) if name in names]


def _by_default() -> str:
    """Return what to do about options that nobody typed, where a pyproject.toml has some of this command."""
    context = click.get_current_context(silent=True)
    names = context.meta.get(DEFAULTS, ()) if context else ()
    used = [
        param.opts[-1]
        for param in (context.command.params if context else ())
        if context and param.name in names and context.get_parameter_source(param.name) is ParameterSource.DEFAULT_MAP
    ]
    if not used:
        return ""
    return (
        f"; {', '.join(used)} came from [tool.onnxprune] of a pyproject.toml: 'onnxprune {NO_DEFAULTS} ...' takes none"
    )


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
