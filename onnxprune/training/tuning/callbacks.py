"""Who is told what was measured while a network is tuned: TensorBoard, or any function of the user."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from onnxprune.errors import InputError, OptionError


class Callback(Protocol):
    """A logger."""

    def __call__(self, step: int, figures: Mapping[str, float], /) -> object:
        """Take figures by name, as they are after a step."""


class TensorBoard:
    """Writes figures for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        """Open the log.

        Raises:
            OptionError: when the package tensorboard is not installed.
            InputError: when the folder cannot be written.
        """
        try:
            module: Any = importlib.import_module("torch.utils.tensorboard")
        except ImportError:
            raise OptionError("tensorboard needs the package tensorboard: pip install tensorboard") from None
        try:
            self._writer = module.SummaryWriter(str(folder))
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror}") from None

    def __call__(self, step: int, figures: Mapping[str, float], /) -> None:
        """Write figures."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
