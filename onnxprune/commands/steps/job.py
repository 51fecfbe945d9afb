"""What `prune` is asked for, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxprune import check
from onnxprune.errors import OptionError
from onnxprune.graph.model import Model
from onnxprune.planning.methods import METHODS, TURNS
from onnxprune.planning.options import Options
from onnxprune.training.extra import check_torch
from onnxprune.training.settings import FROZEN, TuneOptions, amount, make_tune_options

_OF_PRUNE = ("eval_data", "preprocess", "inputs")  # options of `tune` that are read from those of `prune`


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
    original: Model | None = None  # what the result is compared with and learns from, where that is another model
    root: Path | None = None  # of the folder that is pruned, where the model is part of one
    timed: Model | None = None  # what the result is raced against, where that is yet another one
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what makes the result again
    scored: int | None = None  # how many tokens, whose ids another file takes, the model scores, where it does


def make_learning(tune: Any, rounds: Any, masks: Any, data: Any, options: Options) -> Learning:
    """Return how a cut is tuned.

    Args:
        tune: a length such as "20m" or "500 steps", a dict of options of `tune`, or None.
        rounds: in how many parts.
        masks: how long masks are learned, as `tune`.
        data: samples.
        options: of pruning: tuning has the same seed and metric where it has none of its own.

    Raises:
        OptionError: for other values; for tuning without data, and without PyTorch; for an option without effect.
    """
    tuning, masked = (_tuning(name, value, data, options) for name, value in (("tune", tune), ("masks", masks)))
    learning = Learning(tuning, check.count("rounds", rounds, 1), masked)
    if options.shortens and learning.rounds > 1 and not options.cuts_widths:
        named = "linearize" if options.linearize else "depth"
        raise OptionError(
            f"rounds have no effect with {named} alone, as branches go before the first of them: say with a target, a "
            "ratio or a shape how much of the widths goes"
        )
    if options.vocabulary is not None and (learning.rounds > 1 or learning.masks is not None):
        raise OptionError("vocabulary goes with one round, and without masks: cut the result again, without it")
    _check_method(learning, options)
    _check_quantize(options)
    if learning.masks is not None and learning.rounds > 1:
        raise OptionError("masks are learned for the whole cut at once: give masks or rounds")
    if learning.masks is not None and learning.masks.lora is not None:
        raise OptionError("masks are learned with the weights themselves: lora has no effect")
    if learning.masks is not None and learning.masks.slim is not None:
        raise OptionError("slim has no effect with masks: their budget says how many units go")
    if learning.masks is not None and learning.masks.statistics != FROZEN:
        raise OptionError("statistics stay as they are while masks are learned: leave them out, or give tune")
    return learning


# What eight bits do not go with in one run, and why.
_NOT_QUANTIZED = {
    "linearize": "the original in eight bits, which it is held against, is not what branches are taken out of",
    "vocabulary": "samples, which ranges are taken from, have the numbers of all tokens",
    "change_io": "samples, which ranges are taken from, have caches of the sizes that were",
    f"method {TURNS}": "it turns the original itself, which the quantized file is to be compared with",
}


def _check_quantize(options: Options) -> None:
    """Raise OptionError for what eight bits do not go with in one run."""
    asked = {
        "linearize": bool(options.linearize),
        "vocabulary": options.vocabulary is not None,
        "change_io": options.change_io,
        f"method {TURNS}": options.method == TURNS,
    }
    name = next((name for name, is_set in asked.items() if is_set), None)
    if options.quantize is not None and name is not None:
        raise OptionError(
            f"quantize does not go with {name}: {_NOT_QUANTIZED[name]}; run onnxprune quantize on the result"
        )


def _check_method(learning: Learning, options: Options) -> None:
    """Raise OptionError where a published method lacks what it learns with, or has no use for it."""
    if options.method is None:
        return
    method = METHODS[options.method]
    if method.torch:
        check_torch(f"--method {options.method}")
    if method.masks and learning.masks is None:
        raise OptionError(f"method {options.method} learns masks: say for how long, as in --masks 20m")
    if learning.masks is not None and not method.masks:
        raise OptionError(f"method {options.method} says itself what goes: masks have no effect")
    if learning.rounds > 1:
        raise OptionError(f"method {options.method} cuts all at once: rounds have no effect")
    if options.vocabulary is not None and options.method == TURNS:
        raise OptionError(f"method {TURNS} turns the original itself: cut the vocabulary first, and turn the result")
    if options.vocabulary is not None and not (options.cuts_widths or options.shortens):
        raise OptionError(f"method {options.method} chooses no tokens: say with vocabulary how much else is to go")


def _tuning(name: str, value: Any, data: Any, options: Options) -> TuneOptions | None:
    if value is None:
        return None
    if data is None:
        raise OptionError(f"{name} needs data: give samples with --data")
    check_torch(f"--{name}")
    values = dict(value) if isinstance(value, Mapping) else amount(name, value)
    for each in _OF_PRUNE:
        if each in values:
            raise OptionError(f"{each} has no effect in {name}: it is an option of prune itself")
    return make_tune_options(**{"seed": options.seed, "metric": options.metric, **values})
