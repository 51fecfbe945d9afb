"""Any other outputs: the ratio of signal to error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from onnxprune.metrics.arrays import Array, Arrays, Floats, in_double, is_float, is_number, row_blocks
from onnxprune.metrics.metric import CAP, Batch, Drawing, Kind, Metric, error_scale, usual_scale


def gaps(reference: Array, other: Array) -> Floats:
    """Return absolute differences; infinities at the same place are equal, as in masks, and so are NaNs.

    >>> gaps(np.array([1.0, np.nan, np.inf, 0]), np.array([3.0, np.nan, np.inf, np.nan])).tolist()
    [2.0, 0.0, 0.0, inf]
    """
    a, b = in_double(reference), in_double(other)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return np.where(np.isnan(apart), np.inf, apart)


def snr_db(error: float, signal: float) -> float:
    """Return the ratio of two sums of squares in decibels: infinite without an error.

    >>> snr_db(1.0, 100.0), snr_db(0.0, 1.0), snr_db(1.0, 0.0)
    (20.0, inf, -inf)
    """
    if error == 0 or signal == 0 or math.isinf(error):
        return -math.inf if error else math.inf
    return 10 * (math.log10(signal) - math.log10(error))


def _find(outputs: Arrays, feeds: Arrays, labels: Array | None, by_name: bool) -> Metric | None:
    numbers = [name for name, array in outputs.items() if is_number(array)]
    floats = [name for name in numbers if is_float(outputs[name])]
    return KIND.metric(floats or numbers)


def _padded(reference: Array, other: Array) -> tuple[Array, Array]:
    """Return arrays of one shape: where their sizes follow from values, what one of them lacks counts as zeros."""
    if reference.shape == other.shape:
        return reference, other
    a, b = in_double(reference), in_double(other)
    if a.ndim != b.ndim:
        a, b = a.reshape(-1), b.reshape(-1)
    shape = tuple(map(max, zip(a.shape, b.shape, strict=True)))
    return _grown(a, shape), _grown(b, shape)


def _grown(array: Array, shape: tuple[int, ...]) -> Array:
    return np.pad(array, [(0, size - n) for size, n in zip(shape, array.shape, strict=True)])


def relative_error(reference: Array, other: Array) -> float:
    """Return the mean square error over the variance of the reference; over its mean square where that is constant."""
    pair = _padded(reference, other)
    count, size = 0, 0.0
    for values, others in _known(*pair):
        if not np.isfinite(others).all():
            return math.inf
        count += len(values)
        size = max(size, float(np.abs(values).max(initial=0.0)))
    if not count:
        return 0.0
    size = size or 1.0
    total = sum(float((values / size).sum()) for values, _ in _known(*pair))
    square = variance = error = 0.0
    for known, at_known in _known(*pair):
        values, others = known / size, at_known / size  # no square of the reference overflows
        square += float(np.square(values).sum()) / count
        variance += float(np.square(values - total / count).sum()) / count
        error += float(np.square(values - others).sum()) / count
    return min(error / usual_scale(variance, square), CAP)


def _blocks(reference: Array, other: Array) -> Iterator[tuple[Array, Array]]:
    """Yield both arrays in flat pieces, so that what is computed of them takes bounded memory."""
    a, b = reference.reshape(-1), other.reshape(-1)
    yield from ((a[at], b[at]) for at in row_blocks(len(a), 1))


def _known(reference: Array, other: Array) -> Iterator[tuple[Floats, Floats]]:
    """Yield what is finite in the reference, and the other at the same places, in double precision."""
    for a, b in _blocks(reference, other):
        values = in_double(a)
        finite = np.isfinite(values)
        yield values[finite], in_double(b)[finite]


def dense_loss(metric: Metric, batch: Batch) -> float:
    """Return the relative squared errors of all outputs, added up."""
    reference, outputs = batch.reference, batch.outputs
    return sum(relative_error(reference[name], outputs[name]) for name in metric.outputs)


def _sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs = batch.reference, batch.outputs
    sums = {}
    for name in metric.outputs:
        a, b = _padded(reference[name], outputs[name])
        sums[f"error {name}"] = sum(float(np.square(gaps(*pair)).sum()) for pair in _blocks(a, b))
        sums[f"signal {name}"] = sum(float(np.square(values).sum()) for values, _ in _known(a, b))
    return sums


def _figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    each = {name: snr_db(sums[f"error {name}"], sums[f"signal {name}"]) for name in metric.outputs}
    several = {f"snr_db of {name}": value for name, value in each.items()} if len(each) > 1 else {}
    return {"snr_db": min(each.values()), **several}


def draw_dense(metric: Metric, drawing: Drawing) -> dict[str, Array]:
    """Return normal numbers where outputs are finite, scaled as `dense_loss` scales errors."""
    drawn = {}
    for name in metric.compared:
        array = drawing.outputs.get(name)
        if array is None or not is_float(array):
            continue
        finite = np.isfinite(in_double(array))
        scale = drawing.scales.get(name) or error_scale(array)
        noise = drawing.rng.standard_normal(array.shape, np.float32) * finite
        drawn[name] = np.asarray(noise * math.sqrt(2 / max(1, finite.sum()) / scale), np.float32)
    return drawn


KIND = Kind(
    "dense", "snr_db", True, _find, dense_loss, _sums, _figures,
    "an output of numbers", draw_dense,
)  # fmt: skip
