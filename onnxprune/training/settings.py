"""Options of tuning, as one checked value. Nothing of PyTorch is imported here: the command line reads it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from onnxprune import check
from onnxprune.data.images import Preprocess, make_preprocess
from onnxprune.errors import OptionError
from onnxprune.metrics.kinds import checked_name

LOSSES: Mapping[str, str] = MappingProxyType(
    {
        "kl": "KL divergence from the teacher's probabilities",
        "reverse-kl": "KL divergence from the student's probabilities",
        "written": "KL divergence from the student's probabilities along text that it writes itself",
        "mse": "squared error of the outputs over their variance",
        "cosine": "1 - cosine between the outputs",
        "features": "squared error of values between nodes over their variance",
        "labels": "cross-entropy with the labels, or with the words of the text",
    }
)
AUGMENTATIONS = ("crop", "flip", "colour", "mix", "window")
PRECISIONS = ("float32", "bfloat16", "auto")
MOST_WORDS = 64  # that a student writes: it runs once for each
MOST_REUSE = 64  # steps that a text is learned from: by then another student would write
STATISTICS = FROZEN, BATCH = ("frozen", "batch")
DEVICES = ("auto", "cpu", "cuda")
_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """The options of `tune`; one of steps, epochs and time says for how long."""

    steps: int | None = None  # of the optimiser
    epochs: int | None = None  # passes over the samples
    time: float | None = None  # seconds; what comes out then depends on the machine
    loss: tuple[tuple[str, float], ...] = ()  # names of LOSSES or module:function, and weights; (): by the outputs
    temperature: float = 2.0  # of probabilities in KL divergences of classes
    words: int = 32  # that the student goes on from each text, for the loss "written"
    reuse: int = 8  # steps that each text which the student has written is learned from
    rate: float | None = None  # learning rate; None: by a range test
    batch: int | None = None  # samples of a step; None: 32, fewer where outputs have many places, see `batch_of`
    accumulate: int | None = None  # parts in which a step is run, one after the other; None: by memory
    precision: str | None = None  # of PRECISIONS; None: auto, the faster one here, where a time is given, else float32
    segments: int = 1  # parts of the network that are computed again instead of being kept
    lora: int | None = None  # rank of the adapters that are trained instead of the weights
    slim: float | None = None  # strength of the penalty on the size of each unit: sparse training
    statistics: str = FROZEN  # of STATISTICS: those of BatchNormalization as they are, or of each batch while learning
    frozen: tuple[str, ...] = ()  # globs of weights that stay as they are
    augment: tuple[str, ...] | None = None  # of AUGMENTATIONS; None: those that fit the inputs
    decay: float = 0.01  # of weights, per step and learning rate
    clip: float = 1.0  # largest norm of all gradients
    warmup: float = 0.05  # share of the steps in which the learning rate rises
    seed: int = 0
    threads: int = 0  # of PyTorch and the teacher; 0: as they are
    device: str = "auto"  # cuda where there is one
    metric: str | None = None  # what of the outputs is compared, see `metrics.kinds`; None: by the outputs
    eval_data: Any = None  # samples to compare on in the end; None: those that were held out
    preprocess: Preprocess | None = None  # how images become arrays
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()  # shapes of inputs

    def checked(self) -> TuneOptions:
        """Return the same as plain values; raise OptionError for a value of another type or outside its range."""
        _check_lengths(self)
        if self.slim is not None and self.lora is not None:
            raise OptionError("slim makes the weights of whole units small, lora leaves them alone: give one of both")
        return replace(
            self,
            steps=None if self.steps is None else check.count("steps", self.steps, 1),
            epochs=None if self.epochs is None else check.count("epochs", self.epochs, 1),
            time=None if self.time is None else duration("time", self.time),
            loss=_checked_losses(self.loss),
            temperature=check.positive("temperature", self.temperature),
            words=_at_most("words", check.count("words", self.words, 1), MOST_WORDS),
            reuse=_at_most("reuse", check.count("reuse", self.reuse, 1), MOST_REUSE),
            rate=None if self.rate is None else check.positive("rate", self.rate),
            batch=None if self.batch is None else check.count("batch", self.batch, 1),
            accumulate=None if self.accumulate is None else check.count("accumulate", self.accumulate, 1),
            precision=check.choice("precision", self._precision, PRECISIONS),
            segments=check.count("segments", self.segments, 1),
            lora=None if self.lora is None else check.count("lora", self.lora, 1),
            slim=None if self.slim is None else check.positive("slim", self.slim),
            statistics=check.choice("statistics", self.statistics, STATISTICS),
            frozen=check.globs("frozen", self.frozen),
            augment=_checked_augmentations(self.augment),
            decay=_at_least_zero("decay", self.decay),
            clip=check.positive("clip", self.clip),
            warmup=check.fraction("warmup", self.warmup),
            seed=check.count("seed", self.seed, 0),
            threads=check.count("threads", self.threads, 0),
            device=check.choice("device", self.device, DEVICES),
            metric=None if self.metric is None else checked_name(self.metric),
            preprocess=make_preprocess(self.preprocess),
            inputs=check.shapes("inputs", self.inputs),
        )

    @property
    def _precision(self) -> str:
        """Where the length is a time, a run depends on the machine anyway: the faster precision learns more in it."""
        if self.precision is not None:
            return self.precision
        return "float32" if self.time is None else "auto"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; samples in memory are named by their type."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        if self.eval_data is not None:
            named = isinstance(self.eval_data, (str, os.PathLike))
            plain["eval_data"] = os.fspath(self.eval_data) if named else f"({type(self.eval_data).__name__})"
        plain |= {"loss": dict(self.loss), "inputs": {name: list(shape) for name, shape in self.inputs}}
        return {**plain, "preprocess": None if self.preprocess is None else asdict(self.preprocess)}

    @property
    def decided(self) -> dict[str, Any]:
        """What the numbers depend on, as plain values: a run is resumed with the same alone."""
        left_out = ("eval_data", "inputs")
        return {name: value for name, value in self.to_dict().items() if name not in left_out}


def make_tune_options(**values: Any) -> TuneOptions:
    """Return checked `TuneOptions` from keywords.

    Raises:
        OptionError: for an unknown name, or a value of another type or outside its range.
    """
    for name in values:
        check.choice("option", name, TuneOptions.__dataclass_fields__)
    return TuneOptions(**values).checked()


def duration(name: str, value: Any) -> float:
    """Return seconds, from a number or text.

    >>> duration("time", "20m"), duration("time", "1.5h"), duration("time", 90)
    (1200.0, 5400.0, 90.0)

    Raises:
        OptionError: for anything else.
    """
    if not isinstance(value, str):
        return check.positive(name, value)
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", value)
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if match is None or match[2] not in _UNITS or math.isnan(number):
        raise OptionError(f"{name} must be a duration such as 90s, 20m or 1h, got {value!r}")
    return check.positive(name, number * _UNITS[match[2]])


def amount(name: str, value: Any) -> dict[str, Any]:
    """Return what one option says of the length of tuning: a duration, or a number of steps or epochs.

    >>> amount("tune", "20m"), amount("tune", "500 steps"), amount("tune", "3epochs")
    ({'time': 1200.0}, {'steps': 500}, {'epochs': 3})

    Raises:
        OptionError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d+)\s*(step|epoch)s?\s*", value) if isinstance(value, str) else None
    if match is not None:
        return {f"{match[2]}s": check.count(name, int(match[1]), 1)}
    try:
        return {"time": duration(name, value)}
    except OptionError:
        raise OptionError(f"{name} takes 20m, 90s, 1h, '500 steps' or '3 epochs', got {value!r}") from None


def _check_lengths(options: TuneOptions) -> None:
    lengths = [name for name in ("steps", "epochs", "time") if getattr(options, name) is not None]
    if len(lengths) != 1:
        which = " and ".join(lengths) or "none"
        raise OptionError(f"tuning takes one of steps, epochs and time, got {which}")


def _checked_losses(value: Any) -> tuple[tuple[str, float], ...]:
    """Return names and weights of losses, from text, a dict, or pairs."""
    if isinstance(value, str):
        value = [(name.strip(), weight) for name, _, weight in (each.partition("=") for each in value.split(","))]
    try:
        pairs = [(name, weight) for name, weight in (value.items() if isinstance(value, Mapping) else value)]
    except (TypeError, ValueError):
        raise OptionError(f"loss must be a dict from the name of a loss to its weight, got {value!r}") from None
    return tuple((_checked_loss(name), _weight(name, weight)) for name, weight in pairs)


def _checked_loss(name: Any) -> str:
    if isinstance(name, str) and ":" in name:
        check.function("loss", name)
        return name
    if name not in LOSSES:
        raise OptionError(f"unknown loss {name!r}; there are: {', '.join(LOSSES)}, or MODULE:FUNCTION")
    return str(name)


def _weight(name: str, value: Any) -> float:
    try:
        weight = float(value or 1) if isinstance(value, str) else value
    except ValueError:
        weight = value
    return check.positive(f"weight of loss {name!r}", weight)


def _checked_augmentations(value: Any) -> tuple[str, ...] | None:
    if value is None or value == "auto":
        return None
    names = value.split(",") if isinstance(value, str) else check.globs("augment", value)
    if list(names) in (["none"], [""]):
        return ()
    return tuple(check.choice("augmentation", name.strip(), (*AUGMENTATIONS, "none")) for name in names)


def _at_most(name: str, value: int, most: int) -> int:
    if value > most:
        raise OptionError(f"{name} must be at most {most}, got {value}")
    return value


def _at_least_zero(name: str, value: Any) -> float:
    number = check.number(name, value)
    if not 0 <= number < math.inf:
        raise OptionError(f"{name} must be at least 0, got {number:g}")
    return number
