"""Where a run is saved, and what makes it this run and no other."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onnxprune.data.samples import Data
from onnxprune.graph.files.publish import digest_of as digest_of_file
from onnxprune.graph.model import Model
from onnxprune.training.settings import TuneOptions
from onnxprune.training.tuning import checkpoint
from onnxprune.training.tuning.checkpoint import digest_of
from onnxprune.training.tuning.places import Place

SAVED_S = 60.0  # between two checkpoints, at least
_SHARE = 0.05  # of the time of a run that saving may take
_LOOKED_AT = 64  # samples that tell data from other data: those in files are read for it


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

    @property
    def pays_at_the_end(self) -> bool:
        """Whether saving a run that is done takes less time than the steps that it would repeat after a kill."""
        return time.monotonic() - self._last > max(self._saving.every_s, self._took)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint.

        Raises:
            InputError: when it cannot be written.
        """
        began = time.monotonic()
        checkpoint.save(self._saving.path, self._saving.run, state)
        self._last = time.monotonic()
        self._took = self._last - began


def run_of(
    model: Model, teacher: Model | None, data: Data, options: TuneOptions, places: Sequence[Place] = ()
) -> dict[str, str]:
    """Return what a run is, as text by name: a checkpoint of a run that differs in any of it is refused.

    Args:
        model: that learns.
        teacher: that it follows.
        data: the samples; of many of them some are looked at, spread over all, and every label.
        options: of tuning.
        places: where values between nodes are compared, and which units of the teacher the model kept there.
    """
    facts = {f"option {name}": value for name, value in options.decided.items()}
    texts = {name: json.dumps(value, sort_keys=True, default=str) for name, value in facts.items()}
    return {
        "the model": _model(model),
        "the teacher": "none" if teacher is None else _model(teacher),
        "the data": f"{data.count} samples, {_samples(data)}",
        "the labels": "none" if data.labels is None else digest_of({"labels": data.labels}),
        **texts,
        "the cut": _digest(f"{place.name} {_kept(place)}" for place in places),
        "PyTorch": str(torch.__version__),
        "the number of threads": str(options.threads or torch.get_num_threads()),
    }


def _model(model: Model) -> str:
    """Return a digest of a model, and of the files that hold its weights."""
    files = sorted(model.data_files)
    return _digest((model.sha256(), *map(digest_of_file, files))) if files else model.sha256()


def _samples(data: Data) -> str:
    """Return a digest of samples, the first and the last among them."""
    rows = np.unique(np.linspace(0, data.count - 1, min(data.count, _LOOKED_AT)).round().astype(np.int64))
    return _digest(digest_of(data.take([row])) for row in rows)


def _kept(place: Place) -> str:
    """Return a digest of what a cut kept of the axes of a value."""
    return digest_of({str(axis): kept for axis, kept in place.kept.items()})


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(texts).encode()).hexdigest()
