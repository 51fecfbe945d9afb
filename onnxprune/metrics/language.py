"""Language models: perplexity, the Kullback-Leibler divergence per token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxprune.metrics.arrays import (
    Array,
    Arrays,
    beside_ids,
    counts_up,
    is_float,
    mask_input,
    rows_are_probabilities,
    side_of,
    token_inputs,
)
from onnxprune.metrics.classification import ROW_SUMS, drawn_rows, row_sums, sloped_rows
from onnxprune.metrics.metric import CAP, Batch, Drawing, Kind, Metric, counted_tokens

VOCABULARY = 256  # words at least: those of a model on bytes
_FIRST = 2  # position at most that a text begins at


def _find(outputs: Arrays, feeds: Arrays, labels: Array | None, by_name: bool) -> Metric | None:
    for name, array in outputs.items():
        if array.ndim != 3 or not is_float(array) or not (by_name or array.shape[2] >= VOCABULARY):
            continue
        ids = _ids_of(feeds, array.shape[:2], array.shape[2])
        if ids is not None:
            mask = mask_input(beside_ids(ids, feeds), array.shape[:2])
            are = rows_are_probabilities(array)
            metric = KIND.metric([name], ids=ids, mask=mask, probabilities=are)
            return replace(metric, shift=_shift(metric, array, feeds))
    return None


def _ids_of(feeds: Arrays, shape: tuple[int, ...], vocabulary: int) -> str | None:
    """Return the input that holds words of a vocabulary: of several, the one of the largest numbers.

    Masks and segments are 0 and 1 alone; positions are smaller than the words of a real text. A decoder predicts the
    words of its own text, not those of an encoder beside it.
    """
    inputs = token_inputs(feeds, shape)
    texts = {name: array for name, array in inputs.items() if _may_be_words(array)}
    inputs = {name: array for name, array in texts.items() if side_of(name) == "decoder"} or inputs
    largest = {name: int(array.max(initial=0)) for name, array in inputs.items()}
    if any(array.min(initial=0) < 0 for array in inputs.values()) or max(largest.values(), default=0) < 2:
        return None
    return max(largest, key=largest.__getitem__) if max(largest.values()) < vocabulary else None


def _may_be_words(ids: Array) -> bool:
    """Whether an input is no mask, and no positions: rows that count from the first numbers on."""
    are_positions = counts_up(ids) and bool((ids[:, 0] <= _FIRST).all())
    return int(ids.max(initial=0)) > 1 and not are_positions


def _shift(metric: Metric, scores: Array, feeds: Arrays) -> int:
    """Return which word is predicted: the next one, or its own where a model that sees all words is surer of that."""
    few = {name: feeds[name][:4] for name in (metric.ids, metric.mask) if name is not None}
    losses = []
    with np.errstate(all="ignore"):
        for shift in (1, 0):
            sums = _word_sums(replace(metric, shift=shift), scores[:4], scores[:4], few)
            losses.append(sums["loss_before"] / sums["predicted"] if sums["predicted"] else math.inf)
    return 0 if losses[1] < losses[0] < math.inf else 1


def _words(metric: Metric, shape: tuple[int, ...], feeds: Arrays | None) -> Array:
    """Return for each token ``[samples, tokens]`` the word that it predicts, -1 where that does not count."""
    ids = None if feeds is None or metric.ids is None else feeds.get(metric.ids)
    if ids is None or ids.shape != shape:
        return np.full(shape, -1)
    words = np.where(counted_tokens(metric, feeds, shape), ids.astype(np.int64), -1)
    if metric.shift:  # padding predicts nothing, and is not predicted
        following = np.where(words[:, :-1] < 0, -1, words[:, 1:])
        words = np.concatenate([following, np.full((len(words), 1), -1)], axis=1)
    return words


def _word_sums(metric: Metric, reference: Array, other: Array, feeds: Arrays | None) -> dict[str, float]:
    """Return sums over the tokens ``[samples, tokens, vocabulary]`` that count."""
    shape = reference.shape[:2]
    if other.shape[:2] != shape:
        return {**dict.fromkeys(ROW_SUMS, 0.0), "rows": 1.0, "kl": math.inf}
    index = np.flatnonzero(counted_tokens(metric, feeds, shape))
    a, b = (side.reshape(-1, side.shape[2]) for side in (reference, other))
    return row_sums(metric, a, b, index, _words(metric, shape, feeds).reshape(-1))


def _loss(metric: Metric, batch: Batch) -> float:
    reference, outputs, feeds = batch.reference, batch.outputs, batch.feeds
    a, b = (side[metric.outputs[0]] for side in (reference, outputs))
    if a.shape != b.shape:
        return CAP
    sums = _word_sums(metric, a, b, feeds)
    return sums["kl"] / max(1.0, sums["rows"])


def _sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs, feeds = batch.reference, batch.outputs, batch.feeds
    return _word_sums(metric, reference[metric.outputs[0]], outputs[metric.outputs[0]], feeds)


def _figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    figures = {}
    if sums["predicted"]:
        for side in ("before", "after"):
            mean = sums[f"loss_{side}"] / sums["predicted"]
            figures[f"perplexity_{side}"] = math.exp(mean) if mean < 700 else math.inf
    rows = max(1.0, sums["rows"])
    return {**figures, "kl": sums["kl"] / rows, "agreement": sums["agreed"] / rows}


def _draw(metric: Metric, drawing: Drawing) -> dict[str, Array]:
    name = metric.outputs[0]
    scores = drawing.outputs[name]
    index = np.flatnonzero(counted_tokens(metric, drawing.feeds, scores.shape[:2]))
    rows = scores.reshape(-1, scores.shape[2])
    drawn = np.zeros(rows.shape, np.float32)
    drawn[index] = drawn_rows(metric, rows[index], drawing.rng) / np.float32(math.sqrt(max(1, len(index))))
    return {name: drawn.reshape(scores.shape)}


def _slope(metric: Metric, batch: Batch) -> dict[str, Array] | None:
    name = metric.outputs[0]
    scores = batch.reference[name]
    words = _words(metric, scores.shape[:2], batch.feeds).reshape(-1)
    index = np.flatnonzero(words >= 0)
    if not len(index):
        return None
    rows = scores.reshape(-1, scores.shape[2])
    slope = np.zeros(rows.shape, np.float32)
    slope[index] = sloped_rows(metric, rows[index], words[index]) / np.float32(len(index))
    return {name: slope.reshape(scores.shape)}


KIND = Kind(
    "language model", "perplexity_after", False, _find, _loss, _sums, _figures,
    "an output [samples, tokens, vocabulary] and an input [samples, tokens] of words in it",
    _draw, _slope,
)  # fmt: skip
