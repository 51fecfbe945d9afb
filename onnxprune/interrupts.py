"""Signals that end the process, from its first line to its last: an exception, an exit code, never a traceback.

Nothing is imported here that takes time: whoever interrupts the start is heard, too.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_came: list[int] = []


class Interrupted(KeyboardInterrupt):
    """A signal that ends the process: like Ctrl-C, it passes through every block that cleans up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def hear_signals() -> None:
    """Let signals raise, so that blocks clean up; one that is ignored (by nohup, say) stays ignored."""
    _came.clear()
    _set_handlers(_raise)


def unhear_signals() -> None:
    """Let signals end the process at once, when there is nothing left to clean up."""
    _set_handlers(signal.SIG_DFL)


def exit_code() -> int | None:
    """Return the exit code of the first signal that came, None where none did.

    What it raised may have become another error on its way: an extension module that is interrupted while it is
    imported fails in ways of its own.
    """
    return 128 + _came[0] if _came else None


def _raise(number: int, _: FrameType | None) -> None:
    _came.append(number)
    sys.unraisablehook = lambda _: None  # an object that is half made fails when it is cleared away: nobody asked
    raise Interrupted(number)


def _set_handlers(handler: signal.Handlers | object) -> None:
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, handler)  # type: ignore[arg-type]
