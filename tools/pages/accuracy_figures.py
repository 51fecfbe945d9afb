"""Figures of what tools/measure/accuracy.py has recorded: which there are, how good they are, what they must be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tools.measure.accuracy_runs import MACS, Record, Run

Records = Mapping[Run, Record]


def figures(record: Record, file: str | None = None) -> Mapping[str, float]:
    """Return the figures on a file of evaluation, the first where none is named."""
    by_file: Mapping[str, Mapping[str, float]] = record["figures"]
    return by_file[file or next(iter(by_file))]


def drop(record: Record) -> float:
    """Return the points of accuracy that are lost."""
    values = figures(record)
    return 100 * (values["accuracy_before"] - values["accuracy_after"])


@dataclass(frozen=True)
class Figure:
    """A number of a record."""

    words: str
    of: Callable[[Record], float]
    show: str  # of a format


FIGURES: Mapping[str, Figure] = {
    "drop": Figure("accuracy drop, points", drop, ".2f"),
    "agreement": Figure("top-1 agreement", lambda record: figures(record)["agreement"], ".3f"),
    "cosine": Figure("mean cosine", lambda record: figures(record)["cosine"], ".3f"),
    "seconds": Figure("seconds", lambda record: record["seconds"], ".0f"),
    "gigabytes": Figure("peak GB", lambda record: record["peak_bytes"] / 1e9, ".2f"),
}


@dataclass(frozen=True)
class Bound:
    """What a figure of a run must be."""

    run: Run
    figure: str  # a key of FIGURES
    at_most: bool
    value: float

    def is_met(self, record: Record) -> bool:
        """Whether a record holds the bound, with MACs no more than asked for."""
        value = FIGURES[self.figure].of(record)
        kept = value <= self.value if self.at_most else value >= self.value
        return kept and record["macs"] <= self.run.macs + 1e-6


def _drops(subject: str, *most: float) -> list[Bound]:
    return [Bound(Run(subject, macs), "drop", True, points) for macs, points in zip(MACS[subject], most, strict=True)]


BOUNDS: Mapping[str, Sequence[Bound]] = {  # by section
    "models": [
        *_drops("resnet_bn", 0.7, 3),
        *_drops("resnet_folded", 0.7, 3),
        *_drops("mobilenet", 2),
        *_drops("vit", 2),
        *_drops("cnn", 1),
    ],
    "photos": [
        Bound(Run("photos", 0.8), "agreement", False, 0.80),
        Bound(Run("photos", 0.7), "agreement", False, 0.68),
    ],
    "sentences": [
        Bound(Run("sentences", 0.8), "cosine", False, 0.97),
        Bound(Run("sentences", 0.7), "cosine", False, 0.94),
    ],
    "cost": [
        Bound(Run("photos", 0.7, samples=128), "seconds", True, 300),
        Bound(Run("photos", 0.7, samples=128), "gigabytes", True, 3),
        Bound(Run("sentences", 0.7), "seconds", True, 180),
    ],
}


def kept(record: Record) -> float:
    """Return one figure from 0 to 1 of any network: how much it still does.

    Accuracy after, agreement, cosine, or perplexity before over after.
    """
    values = figures(record)
    if "perplexity_after" in values:
        return values["perplexity_before"] / values["perplexity_after"]
    return values[next(name for name in ("accuracy_after", "cosine", "agreement") if name in values)]


def headline(record: Record) -> str:
    """Return the main figure in the words of its kind."""
    values = figures(record)
    if "perplexity_after" in values:
        return f"{values['perplexity_after']:,.1f}"
    return f"{100 * kept(record):.2f} %" if "accuracy_after" in values else f"{kept(record):.3f}"


def noise(record: Record, samples: int) -> float:
    """Return how far apart two networks as good may come out: two standard errors of the difference of two shares.

    For cosines and perplexities, means over many tokens, a hundredth.
    """
    if not {"accuracy_after", "agreement"} & set(figures(record)):
        return 0.01
    share = min(max(kept(record), 1 / samples), 1 - 1 / samples)
    return 2 * math.sqrt(2 * share * (1 - share) / samples)


def setbacks(values: Sequence[float], tolerances: Sequence[float]) -> list[int]:
    """Return the places of values that lie below the best one before them by more than their tolerance.

    >>> setbacks([0.5, 0.8, 0.79, 0.6], [0.05] * 4)
    [3]
    """
    best, places = -math.inf, []
    for place, (value, tolerance) in enumerate(zip(values, tolerances, strict=True)):
        if value < best - tolerance:
            places.append(place)
        best = max(best, value)
    return places


EVALUATED = {"mnist_test.npz": 2000, "photos_eval.npz": 238, "text_eval.npz": 256, "decoder_eval.npz": 128}


def is_monotone(records: Sequence[Record]) -> bool:
    """Whether what is kept does not fall from one record to the next, but for noise."""
    tolerances = [noise(record, EVALUATED[next(iter(record["figures"]))]) for record in records]
    return not setbacks([kept(record) for record in records], tolerances)


def lowest(pairs: Sequence[tuple[float, float]], least: float) -> float | None:
    """Return the fewest MACs down to which at least so much is kept, of pairs of both; None where it never is.

    >>> lowest([(0.9, 0.99), (0.7, 0.97), (0.5, 0.8), (0.3, 0.98)], 0.95)
    0.7
    """
    best = None
    for macs, value in sorted(pairs, reverse=True):
        if value < least:
            break
        best = macs
    return best
