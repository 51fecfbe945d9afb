"""A function of the user as a metric."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.errors import OptionError, code_of_others, said_where
from onnxprune.metrics.arrays import Array, Arrays, Function, sample_count
from onnxprune.metrics.dense import dense_loss, draw_dense
from onnxprune.metrics.metric import Batch, Kind, Metric

LOWER = ("distance", "divergence", "err", "error", "errors", "kl", "loss", "mae", "mse", "perplexity", "rmse", "wer")


def is_higher_better(name: str) -> bool:
    """Whether a larger figure of this name is the better one: yes, unless a word of it is in `LOWER`.

    >>> [is_higher_better(name) for name in ("mAP", "word_error_rate", "l1Loss", "lossless")]
    [True, False, False, True]
    """
    split = "".join(f" {char}" if char.isupper() else char for char in name) + f" {name}"
    words = "".join(char if char.isalnum() else " " for char in split).lower().split()
    return not set(words) & set(LOWER)


def returned_figures(
    function: Function, reference: Arrays, outputs: Arrays, feeds: Arrays | None, labels: Array | None
) -> dict[str, float]:
    """Return what a user's function gives for a batch, by name.

    Raises:
        OptionError: when it raises, or returns neither a number nor a dict of numbers.
    """
    own = getattr(function, "__name__", type(function).__name__)
    with code_of_others(lambda error: OptionError(f"metric {own!r} raised {said_where(error)}")):
        returned = function(reference, outputs, feeds, labels)
    try:
        figures = {
            str(name): float(value)
            for name, value in (returned if isinstance(returned, Mapping) else {own: returned}).items()
        }
    except (TypeError, ValueError):
        figures = {}
    if not figures:
        raise OptionError(f"metric {own!r} must return a number, or a dict of numbers by name, got {returned!r}")
    return figures


def _sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs, feeds, labels = batch.reference, batch.outputs, batch.feeds, batch.labels
    assert metric.function is not None
    samples = float(sample_count(feeds or {}) or sample_count(reference) or 1)
    before = returned_figures(metric.function, reference, reference, feeds, labels)
    after = returned_figures(metric.function, reference, outputs, feeds, labels)
    sums = {name: value * samples for name, value in after.items()}
    return {**sums, **{f"{name}_before": value * samples for name, value in before.items()}, "": samples}


def _figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    return {name: value / sums[""] for name, value in sums.items() if name}


def _find_none(*_: object) -> None:
    """Outputs never tell that a function of the user is meant."""


KIND = Kind("function", "", True, _find_none, dense_loss, _sums, _figures, "", draw_dense)
