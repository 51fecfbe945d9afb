"""Boxes of two detectors: overlap, matching, distance; numpy alone.

`metrics.boxes` finds the boxes among the outputs of a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.metrics.arrays import Floats

MOST = 300  # boxes of an image that count, those with the best scores: what detectors give at most
OVERLAP = 0.5  # IoU from which on two boxes are the same object (PASCAL VOC, Everingham et al. 2010)


@dataclass(frozen=True, eq=False)
class Detections:
    """The boxes of one image, the best first."""

    corners: Floats  # [boxes, 4]: two opposite corners
    scores: Floats  # [boxes], not negative
    classes: npt.NDArray[Any]  # [boxes]


def detections(corners: Floats, scores: Floats, classes: npt.NDArray[Any]) -> Detections:
    """Return at most `MOST` boxes of an image, sorted by score; boxes of equal scores stay in order."""
    best = np.argsort(-scores, kind="stable")[:MOST]
    return Detections(corners[best], np.maximum(scores[best], 0), classes[best])


def above(boxes: Detections, least: float) -> Detections:
    """Return the boxes with a score of at least `least`."""
    kept = boxes.scores >= least
    return Detections(boxes.corners[kept], boxes.scores[kept], boxes.classes[kept])


def overlaps(one: Detections, other: Detections) -> Floats:
    """Return the IoU of every pair of boxes ``[one, other]``, 0 for boxes of different classes.

    >>> box = detections(np.array([[0.0, 0.0, 2.0, 2.0]]), np.ones(1), np.zeros(1))
    >>> half = detections(np.array([[0.0, 0.0, 2.0, 1.0]]), np.ones(1), np.zeros(1))
    >>> overlaps(box, half).tolist()
    [[0.5]]
    """
    size = max((np.abs(boxes.corners).max(initial=0.0) for boxes in (one, other)), default=0.0) or 1.0
    a, b = one.corners[:, None] / size, other.corners[None, :] / size  # no area overflows
    shared = _area(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - shared
    equal = (a == b).all(axis=-1)  # boxes without an area are equal to themselves alone
    iou = np.where(equal, 1.0, shared / np.where(union > 0, union, 1.0))
    return np.where(one.classes[:, None] == other.classes[None, :], iou, 0.0)


def _area(low: Floats, high: Floats) -> Floats:
    sides: Floats = np.maximum(high - low, 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def match(reference: Detections, other: Detections) -> list[float]:
    """Return the IoU of each pair of boxes that are the same object: the best box first takes its nearest."""
    iou = overlaps(reference, other)
    pairs = []
    for row in iou:
        nearest = int(row.argmax()) if row.size else -1
        if nearest >= 0 and row[nearest] >= OVERLAP:
            pairs.append(float(row[nearest]))
            iou[:, nearest] = 0.0  # taken
    return pairs


def distance(reference: Detections, other: Detections) -> float:
    """Return from 0 (equal) to 1 how far two sets of boxes lie apart, smoothly in places and scores.

    Each box counts by its score, and is as near as its nearest of the other set: IoU times the smaller over the larger
    score. Both directions count alike: boxes that are missing, and boxes that are new.
    """
    if not len(reference.scores) or not len(other.scores):
        return float(len(reference.scores) != len(other.scores))
    a, b = reference.scores[:, None], other.scores[None, :]
    larger = np.maximum(a, b)
    near = overlaps(reference, other) * np.where(larger > 0, np.minimum(a, b) / np.where(larger > 0, larger, 1), 1.0)
    both = _weighted(near.max(axis=1), reference.scores), _weighted(near.max(axis=0), other.scores)
    return max(0.0, 1 - sum(both) / 2)


def _weighted(values: Floats, weights: Floats) -> float:
    """Return a mean; where no weight is above 0, the plain one."""
    largest = weights.max()
    shares = weights / largest if largest > 0 else np.ones_like(weights)
    return float((values * shares).sum() / shares.sum())


def corners(boxes: Floats, are_centers: bool) -> Floats:
    """Return boxes ``[..., 4]`` as two corners each, whichever of them was first.

    >>> corners(np.array([4.0, 4.0, 2.0, 4.0]), are_centers=True).tolist()
    [3.0, 2.0, 5.0, 6.0]
    """
    first, second = boxes[..., :2], boxes[..., 2:]
    if are_centers:
        first, second = first - second / 2, first + second / 2
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)


def images(
    boxes: Floats, scores: Floats | None, classes: npt.NDArray[Any] | None, are_centers: bool
) -> Sequence[Detections]:
    """Return the boxes of every image.

    Args:
        boxes: ``[images, boxes, 4]``, or ``[boxes, 4]`` of one image.
        scores: of each box, of its best class; all 1 when None.
        classes: of each box; all alike when None.
        are_centers: whether boxes are center and size instead of two corners.
    """
    shape = boxes.shape[:-1]
    each = boxes.reshape(-1 if boxes.ndim > 2 else 1, shape[-1], 4) if boxes.size else np.zeros((_many(shape), 0, 4))
    flat = each.shape[:2]
    points = np.ones(flat) if scores is None else scores.reshape(flat)
    kinds = np.zeros(flat) if classes is None else classes.reshape(flat)
    return [detections(corners(b, are_centers), s, c) for b, s, c in zip(each, points, kinds, strict=True)]


def _many(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) > 1 else 1
