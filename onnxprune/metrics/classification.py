"""Class scores: the same top-1, the Kullback-Leibler divergence, right answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from onnxprune.errors import DataError
from onnxprune.metrics.arrays import (
    Array,
    Arrays,
    Flags,
    Floats,
    broken_rows,
    first_floats,
    flattened,
    in_double,
    is_float,
    row_blocks,
    rows_are_probabilities,
    sample_count,
)
from onnxprune.metrics.embedding import looks_embedded
from onnxprune.metrics.metric import CAP, Batch, Drawing, Kind, Metric

_LEAST = 1e-12  # of a probability, by which is divided


def top1(outputs: Arrays, labels: Array) -> Array:
    """Return the index of the largest score per sample ``[samples]``, checked against the labels of a batch.

    Raises:
        DataError: when the first output of floats is not ``[samples, classes]``, or lacks a class of the labels.
    """
    name = first_floats(outputs)
    scores = np.zeros(0) if name is None else outputs[name]
    if not _is_scores(scores, len(labels)):
        expected = f"[{len(labels)}, classes], one score per class"
        raise DataError(f"accuracy needs a first output {expected}; {name or '(none)'!r} is {list(scores.shape)}")
    classes = scores.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        there = f"labels from {labels.min()} to {labels.max()}"
        raise DataError(f"the data has {there}, but output {name!r} scores classes 0 to {classes - 1}")
    return _tops(in_double(scores.reshape(len(scores), -1)))


def _is_scores(array: Array, samples: int | None) -> bool:
    flat = array.ndim >= 2 and all(dim == 1 for dim in array.shape[2:])
    return flat and is_float(array) and array.shape[1] > 1 and samples in (None, len(array))


def _tops(rows: Floats) -> Array:
    """Return the index of the largest value per row ``[rows]``, the first of equal ones; -1 where any is NaN."""
    return np.where(np.isnan(rows).any(axis=1), -1, np.argmax(rows, axis=1))


def _find(outputs: Arrays, feeds: Arrays, labels: Array | None, by_name: bool) -> Metric | None:
    name = first_floats(outputs)
    samples = sample_count(feeds) if labels is None else len(labels)
    if name is None or not _is_scores(outputs[name], samples):
        return None
    are = rows_are_probabilities(flattened(outputs, name))
    others = [
        other
        for other, array in outputs.items()
        if other != name and _is_scores(array, len(outputs[name])) and not looks_embedded(array, feeds)
    ]
    alike = [other for other in others if rows_are_probabilities(flattened(outputs, other)) == are]
    return KIND.metric([name, *alike], probabilities=are)


def _logs(rows: Floats, are_probabilities: bool) -> Floats:
    """Return the logarithms of probabilities ``[rows, classes]``, of which logits or probabilities are given."""
    x = np.log(np.maximum(rows, 1e-12)) if are_probabilities else np.clip(rows, -1e200, 1e200)
    x -= x.max(axis=1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=1, keepdims=True)))


def _divergences(logs: Floats, other: Floats, is_broken: Flags) -> Floats:
    """Return KL(reference || other) per row, in nats; infinite where the other is broken, 0 without a reference."""
    divergences = np.maximum((np.exp(logs) * (logs - other)).sum(axis=1), 0.0)
    return np.where(is_broken, np.inf, np.where(np.isnan(divergences), 0.0, divergences))


ROW_SUMS = ("rows", "agreed", "kl", "predicted", "loss_before", "loss_after")


def row_sums(
    metric: Metric, reference: Array, other: Array, index: Array, words: Array | None = None
) -> dict[str, float]:
    """Return sums over rows of scores: equal top-1, KL, and minus the logarithms of what was to be predicted.

    Args:
        metric: says whether scores are probabilities.
        reference: of the original ``[rows, classes]``.
        other: of the other model; may have other classes.
        index: the rows that count.
        words: for each row the class that it predicts, -1 where that does not count; None where none is known.
    """
    sums = dict.fromkeys(ROW_SUMS, 0.0)
    for block in row_blocks(len(index), reference.shape[1]):
        a, b = (in_double(side[index[block]]) for side in (reference, other))
        sums["rows"] += len(a)
        sums["agreed"] += float((_tops(a) == _tops(b)).sum())
        if a.shape != b.shape:
            sums["kl"] = sums["loss_after"] = math.inf
            continue
        logs, others, is_broken = _logs(a, metric.probabilities), _logs(b, metric.probabilities), broken_rows(a, b)
        sums["kl"] += float(_divergences(logs, others, is_broken).sum())
        if words is not None:
            target = words[index[block]]
            hit = np.flatnonzero(target >= 0)
            sums["predicted"] += len(hit)
            sums["loss_before"] -= float(logs[hit, target[hit]].sum())
            sums["loss_after"] -= float(np.where(is_broken[hit], -np.inf, others[hit, target[hit]]).sum())
    return sums


def _loss(metric: Metric, batch: Batch) -> float:
    reference, outputs = batch.reference, batch.outputs
    total = 0.0
    for name in metric.outputs:
        a, b = flattened(reference, name), flattened(outputs, name)
        if a.shape != b.shape:
            return CAP
        total += row_sums(metric, a, b, np.arange(len(a)))["kl"] / max(1, len(a))
    return total


def _sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs, labels = batch.reference, batch.outputs, batch.labels
    a, b = (flattened(side, metric.outputs[0]) for side in (reference, outputs))
    sums = row_sums(metric, a, b, np.arange(min(len(a), len(b))))
    if labels is not None:
        for key, side in (("right_before", reference), ("right_after", outputs)):
            sums[key] = float((top1(side, labels) == labels).sum())
    return sums


def _figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    rows = max(1.0, sums["rows"])
    figures = {"agreement": sums["agreed"] / rows, "kl": sums["kl"] / rows}
    if "right_before" in sums:
        figures.update(accuracy_before=sums["right_before"] / rows, accuracy_after=sums["right_after"] / rows)
    return figures


def drawn_rows(metric: Metric, rows: Array, rng: np.random.Generator) -> Array:
    """Return a random direction of each row of scores ``[rows, classes]``, float32.

    With p the probabilities and e normal numbers, ``sqrt(p) e - p <sqrt(p), e>`` has the covariance
    ``diag(p) - p pᵀ`` that the gradient of log p(label) with respect to logits has, for labels drawn from p.
    """
    p = np.exp(_logs(in_double(rows), metric.probabilities)).astype(np.float32)
    roots = np.sqrt(p)
    noise = rng.standard_normal(p.shape, np.float32)
    direction = roots * noise - p * (roots * noise).sum(axis=1, keepdims=True)
    return np.asarray(direction / np.maximum(p, _LEAST) if metric.probabilities else direction, np.float32)


def sloped_rows(metric: Metric, rows: Array, words: Array) -> Array:
    """Return the gradient of log p(word) of each row ``[rows, classes]`` with respect to its scores, float32.

    Args:
        metric: says whether scores are probabilities.
        rows: of scores.
        words: for each row the class that is right.
    """
    p = np.exp(_logs(in_double(rows), metric.probabilities)).astype(np.float32)
    slope = -p
    slope[np.arange(len(p)), words] += 1
    return np.asarray(slope / np.maximum(p, _LEAST) if metric.probabilities else slope, np.float32)


def _draw(metric: Metric, drawing: Drawing) -> dict[str, Array]:
    drawn = {}
    for name in metric.outputs:
        rows = flattened(drawing.outputs, name)
        v = drawn_rows(metric, rows, drawing.rng) / np.float32(math.sqrt(max(1, len(rows))))
        drawn[name] = v.reshape(drawing.outputs[name].shape)
    return drawn


def _slope(metric: Metric, batch: Batch) -> dict[str, Array] | None:
    if batch.labels is None:
        return None
    name = metric.outputs[0]
    rows = flattened(batch.reference, name)
    v = sloped_rows(metric, rows, batch.labels) / np.float32(max(1, len(rows)))
    return {name: v.reshape(batch.reference[name].shape)}


KIND = Kind(
    "classification", "agreement", True, _find, _loss, _sums, _figures,
    "a first output [samples, classes]", _draw, _slope,
)  # fmt: skip
