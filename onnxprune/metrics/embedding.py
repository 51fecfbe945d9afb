"""Embeddings: cosines, and whether neighbours keep their order."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from onnxprune.metrics.arrays import (
    Array,
    Arrays,
    Flags,
    Floats,
    broken_rows,
    first_floats,
    have_unit_length,
    in_double,
    is_float,
    mask_input,
    rows_are_probabilities,
    token_inputs,
)
from onnxprune.metrics.metric import CAP, Batch, Drawing, Kind, Metric, counted_tokens

WIDTH, MULTIPLE = 64, 32  # of an embedding
UNIT_WIDTH = 16  # of an embedding of length 1


def _find(outputs: Arrays, feeds: Arrays, labels: Array | None, by_name: bool) -> Metric | None:
    fits = _is_vectors if by_name else looks_embedded
    names = sorted((name for name, a in outputs.items() if fits(a, feeds)), key=lambda name: outputs[name].ndim)
    if not names or not (by_name or first_floats(outputs) in names):
        return None
    tokens = next((outputs[name].shape[:2] for name in names if outputs[name].ndim == 3), None)
    return KIND.metric(names, mask=None if tokens is None else mask_input(feeds, tokens))


def _is_vectors(array: Array, feeds: Arrays) -> bool:
    flat = array.ndim in (2, 3) or (array.ndim == 4 and array.shape[2:] == (1, 1))
    return flat and is_float(array) and _vectors(array).shape[-1] > 1


def looks_embedded(array: Array, feeds: Arrays) -> bool:
    """Whether an output holds vectors of an embedding, by its shape and the lengths of its vectors."""
    if not _is_vectors(array, feeds) or rows_are_probabilities(_vectors(array)):
        return False
    vectors = _vectors(array)
    width = vectors.shape[-1]
    if width >= UNIT_WIDTH and have_unit_length(vectors):
        return True
    is_wide = width >= WIDTH and width % MULTIPLE == 0
    return is_wide and (vectors.ndim == 2 or bool(token_inputs(feeds, vectors.shape[:2])))


def _vectors(array: Array) -> Array:
    """Return the vectors of an output: ``[.., width]``, also of ``[samples, width, 1, 1]``."""
    return array.reshape(array.shape[:2]) if array.shape[2:] == (1, 1) else array


def cosines(reference: Array, other: Array) -> Floats:
    """Return the cosine of each pair of rows ``[rows]``.

    Two zero vectors are alike, one is like no other. A vector that is not finite is like no other, but where the
    reference is not finite either, nothing is known, and they count as alike.

    >>> cosines(np.array([[1.0, 0], [0, 0], [0, 0]]), np.array([[1.0, 1], [0, 0], [0, 1]])).round(3).tolist()
    [0.707, 1.0, 0.0]
    """
    (a, one), (b, another) = _units(reference), _units(other)
    cosine = 1 - np.square(a - b).sum(axis=1) / 2  # exactly 1 for equal rows, exact for small angles
    cosine = np.where(one & another, np.clip(cosine, -1, 1), (one == another) * 1.0)
    known = np.isfinite(reference).all(axis=1)
    return np.where(known, np.where(np.isfinite(other).all(axis=1), cosine, 0.0), 1.0)


def _units(rows: Array) -> tuple[Floats, Flags]:
    """Return rows of length 1, and which of them have a length at all."""
    x = in_double(rows)
    x = np.where(np.isfinite(x).all(axis=1, keepdims=True), x, 0.0)
    size = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
    x = x / np.where(size > 0, size, 1.0)  # no square overflows or vanishes
    norms = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
    return x / np.where(norms > 0, norms, 1.0), norms[:, 0] > 0


def _rows(metric: Metric, outputs: Arrays, name: str, feeds: Arrays | None) -> Array:
    """Return the vectors of an output that count ``[rows, width]``."""
    array = _vectors(outputs[name])
    return array if array.ndim == 2 else array[counted_tokens(metric, feeds, array.shape[:2])]


def _loss(metric: Metric, batch: Batch) -> float:
    reference, outputs, feeds = batch.reference, batch.outputs, batch.feeds
    total = 0.0
    for name in metric.outputs:
        a, b = (_rows(metric, side, name, feeds) for side in (reference, outputs))
        if a.shape != b.shape:
            return CAP
        if broken_rows(a, b).any():
            return math.inf
        total += float((1 - cosines(a, b)).sum()) / max(1, len(a))
    return total


def _sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs, feeds = batch.reference, batch.outputs, batch.feeds
    a, b = (_rows(metric, side, metric.outputs[0], feeds) for side in (reference, outputs))
    return {"rows": float(len(a)), "cosine": float(cosines(a, b).sum()) if a.shape == b.shape else 0.0}


def _figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    return {"cosine": sums["cosine"] / max(1.0, sums["rows"])}


def _sample_vectors(metric: Metric, reference: Arrays, outputs: Arrays, feeds: Arrays | None) -> tuple[Array, Array]:
    """Return a vector per sample before and after ``[samples, width]``: of tokens, their mean."""
    vectors = []
    for side in (reference, outputs):
        array = in_double(_vectors(side[metric.outputs[0]]))
        if array.ndim == 3:
            weights = counted_tokens(metric, feeds, array.shape[:2])[:, :, None]
            array = np.where(weights, array, 0.0).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
        vectors.append(_units(array)[0].astype(np.float32))
    return vectors[0], vectors[1]


def _draw(metric: Metric, drawing: Drawing) -> dict[str, Array]:
    """Return normal numbers less what lies along each vector, over its length: 1 - cosine is half of |d| ** 2 there."""
    drawn = {}
    for name in metric.outputs:
        array = _vectors(drawing.outputs[name])
        counts = np.ones(array.shape[:-1], bool)
        if array.ndim == 3:
            counts = counted_tokens(metric, drawing.feeds, array.shape[:2])
        vectors = in_double(array[counts])
        norms = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
        units = vectors / norms
        noise = drawing.rng.standard_normal(vectors.shape)
        noise -= units * (units * noise).sum(axis=1, keepdims=True)
        v = np.zeros(array.shape, np.float32)
        v[counts] = noise / norms / math.sqrt(max(1, len(vectors)))
        drawn[name] = v.reshape(drawing.outputs[name].shape)
    return drawn


KIND = Kind(
    "embedding", "cosine", True, _find, _loss, _sums, _figures,
    "an output [samples, width] or [samples, tokens, width]",
    _draw, None, _sample_vectors,
)  # fmt: skip
