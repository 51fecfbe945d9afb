"""Figures in words, for tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from onnxprune.metrics.arrays import Figures


def headline(figures: Figures) -> str:
    """Return figures in words; those that are not finite may be None, as in a report.

    >>> headline({"agreement": 0.93, "kl": 0.0412}), headline({"perplexity_before": 25.81, "perplexity_after": 32.1})
    ('top-1 agreement 0.930, KL 0.041', 'perplexity 25.8 -> 32.1')
    """
    for key, shown in _WORDS.items():
        if key in figures:
            return ", ".join(f"{words} {show(figures, name)}" for name, words, show in shown if name in figures)
    listed = [name for name in figures if name.removesuffix("_before") not in figures or not name.endswith("_before")]
    return ", ".join(f"{name} {_change(figures, name)}" for name in listed) or "no output can be compared"


def row(figures: Figures) -> tuple[str, str, str] | None:
    """Return label, before and after for a table; None for class scores, which accuracy and agreement cover.

    >>> row({"cosine": 0.9812}), row({"map_before": 0.52, "map": 0.49}), row({"agreement": 0.9, "kl": 0.1})
    (('mean cosine', '1.000', '0.981'), ('map', '0.52', '0.49'), None)
    """
    for key, label, before, show in _ROWS:
        if key in figures:
            return label, before, show(figures, key)
    if "perplexity_after" in figures:
        return "perplexity", _short(figures["perplexity_before"]), _short(figures["perplexity_after"])
    if "agreement" in figures or not figures:
        return None
    name = next((name for name in figures if f"{name}_before" in figures), next(iter(figures)))
    return name, _short(figures.get(f"{name}_before")), _short(figures[name])


def main_figure(figures: Figures) -> tuple[str, str, float | None]:
    """Return the name of the figure that tells most, in words, and what it is for the original itself.

    >>> main_figure({"agreement": 0.9, "kl": 0.1}), main_figure({"perplexity_before": 20.0, "perplexity_after": 25.0})
    (('agreement', 'top-1 agreement', 1.0), ('perplexity_after', 'perplexity', 20.0))
    """
    for key, ((name, words, _), *_) in _WORDS.items():
        if key in figures:
            exact = None if name == "snr_db" else 1.0
            return name, words, figures["perplexity_before"] if name == "perplexity_after" else exact
    name = next(name for name in figures if f"{name}_before" in figures or not name.endswith("_before"))
    return name, name, figures.get(f"{name}_before")


def _short(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _share(figures: Figures, name: str) -> str:
    value = figures[name]
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _decibels(figures: Figures, name: str) -> str:
    value = figures[name]
    if value is None or value == math.inf:
        return "equal"  # a report has null for what is infinite
    return "-" if math.isnan(value) else f"{value:.1f} dB"


def _change(figures: Figures, name: str) -> str:
    """Return a figure of two models, or of one."""
    before = f"{name.removesuffix('_after')}_before"
    return f"{_short(figures[before])} -> {_short(figures[name])}" if before in figures else _short(figures[name])


_Show: TypeAlias = Callable[[Figures, str], str]
_WORDS: Mapping[str, Sequence[tuple[str, str, _Show]]] = {  # by the figure that tells the kind
    "perplexity_after": [("perplexity_after", "perplexity", _change)],
    "agreement": [
        ("agreement", "top-1 agreement", _share), ("kl", "KL", _share), ("accuracy_after", "accuracy", _change),
    ],
    "cosine": [("cosine", "mean cosine", _share), ("rank_correlation", "rank correlation", _share)],
    "matched": [("matched", "boxes matched", _share), ("mean_iou", "mean IoU", _share)],
    "snr_db": [("snr_db", "SNR", _decibels)],
}  # fmt: skip
_ROWS: Sequence[tuple[str, str, str, _Show]] = [
    ("cosine", "mean cosine", "1.000", _share),
    ("matched", "boxes matched", "1.000", _share),
    ("snr_db", "SNR, worst output", "-", _decibels),
]
