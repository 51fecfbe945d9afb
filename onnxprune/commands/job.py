"""What `prune` is asked for, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune import check
from onnxprune.errors import OptionError
from onnxprune.graph.model import Model
from onnxprune.planning.options import Options
from onnxprune.training.extra import check_torch
from onnxprune.training.settings import TuneOptions, amount, make_tune_options


@dataclass(frozen=True)
class Learning:
    """How a cut is tuned, and in how many rounds."""

    tuning: TuneOptions | None = None
    rounds: int = 1
    masks: TuneOptions | None = None  # of learning masks, before that

    @property
    def takes_long(self) -> bool:
        """Whether there is something to save on the way."""
        return self.tuning is not None or self.masks is not None or self.rounds > 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        parts = {"tune": self.tuning, "masks": self.masks}
        plain = {name: None if options is None else options.to_dict() for name, options in parts.items()}
        return {"rounds": self.rounds, **plain}


@dataclass(frozen=True)
class Job:
    """A model, and what is made of it."""

    model: Model
    options: Options
    data: Any
    learning: Learning
    name: str = "pruned.onnx"  # of the file to write


def make_learning(tune: Any, rounds: Any, masks: Any, data: Any) -> Learning:
    """Return how a cut is tuned.

    Args:
        tune: a length such as "20m" or "500 steps", a dict of options of `tune`, or None.
        rounds: in how many parts.
        masks: how long masks are learned, as `tune`.
        data: samples.

    Raises:
        OptionError: for other values; for tuning without data, and without PyTorch.
    """
    learning = Learning(_tuning("tune", tune, data), check.count("rounds", rounds, 1), _tuning("masks", masks, data))
    if learning.masks is not None and learning.rounds > 1:
        raise OptionError("masks are learned for the whole cut at once: give masks or rounds")
    if learning.masks is not None and learning.masks.lora is not None:
        raise OptionError("masks are learned with the weights themselves: lora has no effect")
    return learning


def _tuning(name: str, value: Any, data: Any) -> TuneOptions | None:
    if value is None:
        return None
    if data is None:
        raise OptionError(f"{name} needs data: give samples with --data")
    check_torch(f"--{name}")
    return make_tune_options(**(dict(value) if isinstance(value, Mapping) else amount(name, value)))
