"""Boxes of detectors: how many are found again, and how well they overlap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.metrics import matching
from onnxprune.metrics.arrays import Array, Arrays, in_double, in_unit_interval, is_float, is_number
from onnxprune.metrics.dense import draw_dense, relative_error
from onnxprune.metrics.metric import CAP, Batch, Kind, Metric

LEAST_SCORE = 0.25  # of a box that counts, where the original gives any


def _find(outputs: Arrays, feeds: Arrays, labels: Array | None, by_name: bool) -> Metric | None:
    for name, array in outputs.items():
        if array.ndim not in (2, 3) or not is_float(array) or array.shape[-1] not in (4, 6):
            continue
        if array.shape[-1] == 6:
            if by_name or _is_packed(array):
                return _with_least(KIND.metric([name]), outputs)
            continue
        parts = _beside(outputs, name)
        ordered, centers = _are_corners(array), array.ndim == 3 and in_unit_interval(array)
        if by_name or (parts[0] is not None and (ordered or centers)):
            rest = [other for other, a in outputs.items() if other not in (name, *parts) and is_float(a)]
            are = parts[0] is not None and in_unit_interval(outputs[parts[0]])
            return _with_least(
                KIND.metric([name, *rest], parts=parts, centers=centers and not ordered, probabilities=are),
                outputs,
            )
    return None


def _is_packed(array: Array) -> bool:
    x = in_double(array.reshape(-1, 6))
    return _are_corners(x[:, :4]) and in_unit_interval(x[:, 4]) and bool((x[:, 5] == np.round(x[:, 5])).all())


def _are_corners(array: Array) -> bool:
    return bool((array[..., 0] <= array[..., 2]).all() and (array[..., 1] <= array[..., 3]).all())


def _beside(outputs: Arrays, name: str) -> tuple[str | None, str | None]:
    """Return the outputs that score and class the boxes of one: a number for each, or the scores of all classes."""
    shape = outputs[name].shape[:-1]
    alike = {other: array for other, array in outputs.items() if array.shape == shape and is_number(array)}
    whole = [other for other, array in alike.items() if not is_float(array) or _are_classes(array)]
    single = [other for other, array in alike.items() if other not in whole and in_unit_interval(array)]
    many = [
        other
        for other, array in outputs.items()
        if is_float(array) and array.shape[:-1] == shape and array.ndim == len(shape) + 1 and array.shape[-1] != 4
    ]
    return next(iter(single + many), None), next(iter(whole), None)


def _are_classes(array: Array) -> bool:
    """Whether floats are class numbers, as TensorFlow writes them."""
    x = in_double(array)
    return bool(x.size and (x == np.round(x)).all() and x.max() > 1)


def _with_least(metric: Metric, outputs: Arrays) -> Metric:
    with np.errstate(all="ignore"):
        best = max((each.scores.max(initial=0.0) for each in found_boxes(metric, outputs)), default=0.0)
    return replace(metric, least=LEAST_SCORE if best >= LEAST_SCORE else 0.0)


def found_boxes(metric: Metric, outputs: Arrays) -> Sequence[matching.Detections]:
    """Return the boxes of every image of a batch."""
    array = in_double(outputs[metric.outputs[0]])
    if array.shape[-1] == 6:
        return matching.images(array[..., :4], array[..., 4], array[..., 5], False)
    shape = array.shape[:-1]
    parts = [None if part is None else outputs[part] for part in metric.parts]
    fitting = (part if part is not None and part.shape[: len(shape)] == shape else None for part in parts)
    scores, classes = fitting  # numbers of another count are not those of the boxes, which a batch without any hides
    points = None if scores is None else in_double(scores)
    if points is not None and points.ndim == array.ndim:
        points = points if metric.probabilities else 1 / (1 + np.exp(-points))
        classes = points.argmax(axis=-1) if classes is None else classes
        points = points.max(axis=-1, initial=0.0)
    return matching.images(array, points, classes, metric.centers)


def _loss(metric: Metric, batch: Batch) -> float:
    reference, outputs = batch.reference, batch.outputs
    names = [name for name in (metric.outputs[0], *metric.parts) if name is not None]
    if any(np.isfinite(reference[name]).all() and not np.isfinite(outputs[name]).all() for name in names):
        return math.inf
    before, after = found_boxes(metric, reference), found_boxes(metric, outputs)
    if len(before) != len(after):
        return CAP
    apart = [matching.distance(one, other) for one, other in zip(before, after, strict=True)]
    rest = sum(relative_error(reference[name], outputs[name]) for name in metric.outputs[1:])
    return sum(apart) / max(1, len(apart)) + rest


def _sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs = batch.reference, batch.outputs
    sums = {"boxes": 0.0, "matched": 0.0, "iou": 0.0}
    for one, other in zip(found_boxes(metric, reference), found_boxes(metric, outputs), strict=False):
        before, after = (matching.above(each, metric.least) for each in (one, other))
        pairs = matching.match(before, after)
        sums["boxes"] += len(before.scores) + len(after.scores)
        sums["matched"] += 2 * len(pairs)
        sums["iou"] += 2 * sum(pairs)
    return sums


def _figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    return {
        "matched": sums["matched"] / sums["boxes"] if sums["boxes"] else 1.0,
        "mean_iou": sums["iou"] / sums["matched"] if sums["matched"] else float(not sums["boxes"]),
    }


KIND = Kind(
    "boxes", "matched", True, _find, _loss, _sums, _figures,
    "an output [.., 4] of boxes, or [.., 6] with score and class", draw_dense,
)  # fmt: skip
