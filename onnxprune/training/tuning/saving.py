"""Where a run is saved, and what makes it this run and no other."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onnxprune.data.samples import Data
from onnxprune.graph.model import Model
from onnxprune.training.settings import TuneOptions
from onnxprune.training.tuning import checkpoint
from onnxprune.training.tuning.checkpoint import digest_of

SAVED_S = 60.0  # between two checkpoints, at least
_SHARE = 0.05  # of the time of a run that saving may take


@dataclass(frozen=True)
class Saving:
    """Where and how often a run is saved."""

    path: Path
    run: Mapping[str, str]  # what it is, see `run_of`
    resume: bool  # whether it goes on from what is there
    every_s: float = SAVED_S  # between two checkpoints at least; 0 saves behind every step


class Saver:
    """Saves a run from time to time: large models, and those on slow disks, less often."""

    def __init__(self, saving: Saving) -> None:
        self._saving, self._last, self._took = saving, time.monotonic(), 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        every = max(self._saving.every_s, self._took / _SHARE) if self._saving.every_s else 0.0
        return time.monotonic() - self._last >= every

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint.

        Raises:
            InputError: when it cannot be written.
        """
        began = time.monotonic()
        checkpoint.save(self._saving.path, self._saving.run, state)
        self._last = time.monotonic()
        self._took = self._last - began


def run_of(model: Model, teacher: Model | None, data: Data, options: TuneOptions) -> dict[str, str]:
    """Return what a run is, as text by name: a checkpoint of a run that differs in any of it is refused."""
    samples = digest_of(data.take([0])) + digest_of(data.take([data.count - 1]))
    facts = {f"option {name}": value for name, value in options.decided.items()}
    texts = {name: json.dumps(value, sort_keys=True, default=str) for name, value in facts.items()}
    return {
        "the model": model.sha256(),
        "the teacher": "none" if teacher is None else teacher.sha256(),
        "the data": f"{data.count} samples, {samples}",
        **texts,
        "PyTorch": str(torch.__version__),
        "the number of threads": str(options.threads or torch.get_num_threads()),
    }
