"""Whether samples keep their order: rank correlation of the similarities of embeddings."""

from __future__ import annotations

import math

import numpy as np

from onnxprune.metrics.arrays import Array, Floats, in_double


def similarities(vectors: Array) -> Floats:
    """Return the cosines of all pairs of different samples."""
    each = in_double(vectors)
    return np.asarray((each @ each.T)[np.triu_indices(len(each), 1)])


def rank_correlation(one: Floats, other: Floats) -> float:
    """Return Spearman's correlation of two series: 1 where both have one order, 0 where one of them has none.

    >>> rank_correlation(np.array([1.0, 2, 3]), np.array([1.0, 10, 100])), rank_correlation(np.arange(3.0), np.ones(3))
    (1.0, 0.0)
    """
    a, b = _ranks(one), _ranks(other)
    if (a == b).all():
        return 1.0
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(np.square(a).sum()) * float(np.square(b).sum()))
    return float(np.clip((a * b).sum() / size, -1, 1)) if size else 0.0


def _ranks(series: Floats) -> Floats:
    """Return the rank of each value; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(series, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)])
