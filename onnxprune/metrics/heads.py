"""Raw heads of detectors: a box with its scores for each cell of a grid over the picture, doubles among them.

A file without suppression gives ``[1, 4 + classes, anchors]`` or ``[1, anchors, 5 + classes]`` (Redmon et al. 2016 and
what followed). That an output is such a head is told by three things together: the anchors are as many as the cells of
grids whose strides are powers of two, the boxes lie near their cells, and all other numbers are scores from 0 to 1.
A head whose boxes are still offsets from anchors, or bins of distances, is none: the file does not say what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.metrics.arrays import Array, Arrays, Floats, in_double, is_float
from onnxprune.metrics.matching import Detections, corners, detections, overlaps

LEAST = 0.25  # score of a box that counts, as detectors are shown
DOUBLE = 0.45  # IoU above which the worse of two boxes of a class is a double of the better
_STRIDES = tuple(2**power for power in range(2, 8))  # of grids, in pixels
_MOST_PER_CELL = 9  # anchors (Lin et al. 2017, RetinaNet)
_NEAR = 0.9  # correlation of the places of boxes with those of their cells
_ROUNDING = 2e-3  # of scores in half precision


@dataclass(frozen=True)
class Head:
    """How an output is read."""

    output: str
    anchors_last: bool  # [1, rows, anchors], else [1, anchors, rows]
    are_corners: bool  # two corners, else center and size
    has_objectness: bool  # whether the fifth row says if there is anything, and the others which class it is


def find_head(outputs: Arrays, picture: tuple[int, int]) -> Head | None:
    """Return how the raw head among the outputs of one picture is read; None where there is none.

    Args:
        outputs: of a batch of one.
        picture: height and width of the input, in pixels.
    """
    for name, array in outputs.items():
        if array.ndim != 3 or len(array) != 1 or not is_float(array) or min(array.shape[1:]) < 5:
            continue
        anchors_last = array.shape[2] > array.shape[1]
        rows = _rows(array, anchors_last)
        if not np.isfinite(rows).all() or not _are_scores(rows[:, 4:]):
            continue
        are_corners = bool((rows[:, :2] <= rows[:, 2:4]).all())
        if not are_corners and (rows[:, 2:4] < 0).any():
            continue
        if _lie_near_cells(corners(rows[:, :4], not are_corners), picture):
            return Head(name, anchors_last, are_corners, _has_objectness(rows[:, 4:], anchors_last))
    return None


def head_boxes(head: Head, outputs: Arrays, least: float = LEAST) -> Detections:
    """Return the boxes of a picture that score `least` or more, without doubles, the best first.

    Their numbers are pixels of the input or shares of its sides, as the file gives them.
    """
    rows = _rows(outputs[head.output], head.anchors_last)
    scores = rows[:, 4:5] * rows[:, 5:] if head.has_objectness else rows[:, 4:]
    best = scores.max(axis=1, initial=0.0)
    kept = best >= least
    places = corners(rows[kept, :4], not head.are_corners)
    return without_doubles(detections(places, best[kept], scores[kept].argmax(axis=1)))


def without_doubles(boxes: Detections) -> Detections:
    """Return boxes, sorted by score, without those that overlap a better one of their class: plain suppression.

    >>> two = detections(np.array([[0.0, 0, 8, 8], [0.0, 0, 8, 7]]), np.array([0.9, 0.8]), np.zeros(2))
    >>> without_doubles(two).scores.tolist()
    [0.9]
    """
    kept = list[int]()
    for number, row in enumerate(overlaps(boxes, boxes)):
        if not (row[kept] > DOUBLE).any():
            kept.append(number)
    return Detections(boxes.corners[kept], boxes.scores[kept], boxes.classes[kept])


def _rows(array: Array, anchors_last: bool) -> Floats:
    """Return ``[anchors, rows]``."""
    return in_double(array[0].T if anchors_last else array[0])


def _are_scores(numbers: Floats) -> bool:
    return bool(((numbers >= -_ROUNDING) & (numbers <= 1 + _ROUNDING)).all())


def _has_objectness(scores: Floats, anchors_last: bool) -> bool:
    """Whether the first of the scores ``[anchors, scores]`` says if there is anything.

    Heads with anchors last have no such row (from YOLOv8 on). Those with anchors first were trained with one (YOLOv3 to
    v7, YOLOX): what is there has a class as well. Where it has none, they are heads of the other kind, transposed.
    """
    if anchors_last or scores.shape[1] < 2:
        return False
    surest = scores[scores[:, 0].argmax()]
    return bool(surest[0] < LEAST or surest[1:].max() >= LEAST)


def _lie_near_cells(boxes: Floats, picture: tuple[int, int]) -> bool:
    """Whether boxes ``[anchors, 4]``, as corners, follow the cells of grids over a picture."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return any(all(_correlation(centers[:, axis], cells[:, axis]) >= _NEAR for axis in (0, 1))
               for cells in _grids(len(boxes), picture))  # fmt: skip


def _correlation(values: Floats, others: Floats) -> float:
    a, b = values - values.mean(), others - others.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0


def _grids(anchors: int, picture: tuple[int, int]) -> Iterator[Floats]:
    """Yield the centers ``[anchors, 2]``, x and y, of cells in the orders in which heads list so many anchors.

    Strides follow one another, from the finest on or from the coarsest; each grid goes row by row, for one anchor of
    a cell after the other, or with all anchors of a cell side by side.
    """
    for first in range(len(_STRIDES)):
        for last in range(first + 1, len(_STRIDES) + 1):
            grids = [_grid(stride, picture) for stride in _STRIDES[first:last]]
            each, rest = divmod(anchors, sum(map(len, grids)))
            if rest or not 1 <= each <= _MOST_PER_CELL:
                continue
            for ordered in (grids, grids[::-1]):
                yield np.concatenate([np.tile(grid, (each, 1)) for grid in ordered])
                yield np.concatenate([np.repeat(grid, each, axis=0) for grid in ordered])


def _grid(stride: int, picture: tuple[int, int]) -> Floats:
    """Return the centers ``[cells, 2]``, x and y, of the cells of one stride, row by row."""
    down, across = (np.arange(-(-side // stride)) * stride + stride / 2 for side in picture)
    x, y = np.meshgrid(across, down)
    return np.stack([x.reshape(-1), y.reshape(-1)], axis=1)
