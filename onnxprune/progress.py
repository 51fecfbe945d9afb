"""Progress: how long-running steps report how far they are."""

from __future__ import annotations

import logging
from typing import Protocol

_LOGGER = logging.getLogger("onnxprune")


class Progress(Protocol):
    """A callback that learns which phase or step begins.

    A phase that has steps calls once before each step, always with the same text, so that a log can show it once.
    """

    def __call__(self, text: str, step: int = 0, steps: int = 0, /) -> object:
        """Take the name of a phase, and which of how many steps begins; 0 of 0 where there are none."""


def silent(_text: str, _step: int = 0, _steps: int = 0, /) -> None:
    """Report nothing."""


def logged(text: str, step: int = 0, steps: int = 0, /) -> None:
    """Report to the logger `onnxprune`: each phase once at level INFO, its further steps at level DEBUG."""
    if step > 1:
        _LOGGER.debug("%s: %d of %d", text, step, steps)
    else:
        _LOGGER.info("%s", text)
