"""Raw heads of detectors: a box with its scores for each cell of a grid over the picture, doubles among them.

A file without suppression gives ``[1, 4 + classes, anchors]`` or ``[1, anchors, 5 + classes]`` (Redmon et al. 2016 and
what followed). That an output is such a head is told by three things together: the anchors are as many as the cells of
grids whose strides are powers of two, the boxes lie near their cells, and all other numbers are scores from 0 to 1.
All samples of the original are asked, once, and both files are read so: one picture need not hold what tells.
A head whose boxes are still offsets from anchors, or bins of distances, is none: the file does not say what they mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.metrics.arrays import Array, Arrays, Floats, in_double, is_float
from onnxprune.metrics.matching import MOST, Detections, corners, overlaps

LEAST = 0.25  # score of a box that counts, as detectors are shown
DOUBLE = 0.45  # IoU above which the worse of two boxes of a class is a double of the better
_BLOCK = 512  # boxes that are looked at together
_STRIDES = tuple(2**power for power in range(2, 8))  # of grids, in pixels
_MOST_PER_CELL = 9  # anchors (Lin et al. 2017, RetinaNet)
_NEAR = 0.9  # correlation of the places of boxes with those of their cells
_ROUNDING = 2e-3  # of scores in half precision
_MOST_BOXES = 0.99  # share of boxes that must be in order: a file may give some whose corners are swapped
# Share of boxes: what counts for more of them is no score, few centers and sizes look like corners, and few boxes that
# are sure have several classes.
_FEW = 0.25
_CLEAR = 0.8  # share of the boxes whose first score is sure, which must agree on what it is


@dataclass(frozen=True)
class Head:
    """How an output is read."""

    output: str
    anchors_last: bool  # [1, rows, anchors], else [1, anchors, rows]
    are_corners: bool  # two corners, else center and size
    has_objectness: bool  # whether the fifth row says if there is anything, and the others which class it is


@dataclass(frozen=True)
class _Seen:
    """What pictures tell of an output, in counts of its boxes over all of them."""

    anchors_last: bool
    near: tuple[bool, bool]  # whether boxes lie near their cells as center and size, and as two corners
    counts: Counter[str]  # see `_seen`

    def with_more(self, other: _Seen) -> _Seen | None:
        """Return what both tell together; None where they contradict each other."""
        if self.anchors_last != other.anchors_last:
            return None
        near = self.near[0] and other.near[0], self.near[1] and other.near[1]
        return _Seen(self.anchors_last, near, self.counts + other.counts) if any(near) else None

    @property
    def are_corners(self) -> bool | None:
        """Whether boxes are two corners; None where that cannot be told.

        Of centers and sizes few are in the order of corners: those at the left and upper edge, or as large as the
        picture.
        """
        ordered, boxes = self.counts["ordered"], self.counts["boxes"]
        if ordered >= _MOST_BOXES * boxes:
            return True if self.near[1] else None
        is_sized = ordered <= _FEW * boxes and self.counts["sized"] >= _MOST_BOXES * boxes
        return False if is_sized and self.near[0] else None

    @property
    def has_objectness(self) -> bool | None:
        """Whether the first score says if there is anything; None where that cannot be told.

        Heads with anchors last have no such score (from YOLOv8 on). Those with anchors first were trained with one
        (YOLOv3 to v7, YOLOX): what is there has a class as well. Where it has none, they are heads of the other kind,
        transposed. Where it is low everywhere, or weak classes stand beside it, nothing tells. Nor where much of what
        is there would be of several classes at once: some of these may be angles, of boxes that are turned.
        """
        if self.anchors_last or not self.counts["others"]:
            return False
        sure = self.counts["sure"]
        if sure and self.counts["classed"] >= _CLEAR * sure:
            return True if self.counts["several"] <= _FEW * sure else None
        return False if sure and self.counts["alone"] >= _CLEAR * sure else None


def find_head(samples: Iterable[Arrays], picture: tuple[int, int]) -> Head | None:
    """Return how the raw head of a detector is read, by what all samples tell; None where there is none.

    Args:
        samples: the outputs for one picture each; no more are asked for once there can be no head.
        picture: height and width of the input, in pixels.
    """
    found: dict[str, _Seen] | None = None
    for outputs in samples:
        seen = ((name, _seen(outputs[name], picture)) for name in (outputs if found is None else found))
        told = {name: each for name, each in seen if each is not None}
        found = told if found is None else _together(found, told)
        if not found:
            return None
    for name, each in (found or {}).items():
        are_corners, objectness = each.are_corners, each.has_objectness
        if are_corners is not None and objectness is not None and (objectness or not each.counts["common"]):
            return Head(name, each.anchors_last, are_corners, objectness)
    return None


def head_boxes(head: Head, outputs: Arrays, least: float = LEAST) -> Detections:
    """Return the boxes of a picture that score `least` or more, without doubles, the best first.

    Their numbers are pixels of the input or shares of its sides, as the file gives them.
    """
    rows = _rows(outputs[head.output], head.anchors_last)
    scores = rows[:, 4:5] * rows[:, 5:] if head.has_objectness else rows[:, 4:]
    best = scores.max(axis=1, initial=0.0)
    kept = (best >= least) & np.isfinite(rows[:, :4]).all(axis=1)
    places = corners(rows[kept, :4], not head.are_corners)
    order = np.argsort(-best[kept], kind="stable")
    return without_doubles(Detections(places[order], best[kept][order], scores[kept].argmax(axis=1)[order]))


def without_doubles(boxes: Detections) -> Detections:
    """Return boxes, sorted by score, without those that overlap a better one of their class: plain suppression.

    Of all boxes, however many, come at most `MOST` that are no doubles. They are looked at in blocks, which ends once
    there are enough: no array grows with the square of the boxes.

    >>> two = Detections(np.array([[0.0, 0, 8, 8], [0.0, 0, 8, 7]]), np.array([0.9, 0.8]), np.zeros(2))
    >>> without_doubles(two).scores.tolist()
    [0.9]
    """
    kept = list[int]()
    for start in range(0, len(boxes.scores), _BLOCK):
        left = np.arange(start, min(start + _BLOCK, len(boxes.scores)))
        left = left[(overlaps(_chosen(boxes, kept), _chosen(boxes, left)) <= DOUBLE).all(axis=0)]
        while len(left) and len(kept) < MOST:
            kept.append(int(left[0]))
            left = left[1:]
            left = left[overlaps(_chosen(boxes, kept[-1:]), _chosen(boxes, left))[0] <= DOUBLE]
        if len(kept) == MOST:
            break
    return _chosen(boxes, kept)


def _chosen(boxes: Detections, numbers: Sequence[int] | npt.NDArray[Any]) -> Detections:
    chosen = np.asarray(numbers, dtype=np.intp)
    return Detections(boxes.corners[chosen], boxes.scores[chosen], boxes.classes[chosen])


def _together(found: Mapping[str, _Seen], told: Mapping[str, _Seen]) -> dict[str, _Seen]:
    """Return what earlier pictures and another one tell of the outputs that each of them could be a head of."""
    both = ((name, found[name].with_more(each)) for name, each in told.items())
    return {name: each for name, each in both if each is not None}


def _seen(array: Array, picture: tuple[int, int]) -> _Seen | None:
    """Return what one picture tells of an output; None where it is no head."""
    if array.ndim != 3 or len(array) != 1 or not is_float(array) or min(array.shape[1:]) < 5:
        return None
    anchors_last = array.shape[2] > array.shape[1]
    rows = _rows(array, anchors_last)
    if not np.isfinite(rows).all() or not _are_scores(rows[:, 4:]):
        return None
    near = tuple(_lie_near_cells(corners(rows[:, :4], are_centers), picture) for are_centers in (True, False))
    if not any(near):
        return None
    scores = rows[:, 4:]
    common = (scores >= LEAST).mean(axis=0) > _FEW
    if common[0] or _hold_places(scores, picture):
        return None
    beside = scores[scores[:, 0] >= LEAST, 1:]
    others = beside.max(axis=1, initial=0.0)
    counts = {
        "boxes": len(rows),
        "ordered": (rows[:, :2] <= rows[:, 2:4]).all(axis=1).sum(),
        "sized": (rows[:, 2:4] >= 0).all(axis=1).sum(),
        "others": scores.shape[1] - 1,  # scores beside the first
        "common": common.sum(),  # scores that many boxes have, as classes beside objectness do, or angles
        "sure": len(others),  # boxes whose first score counts
        "classed": (others >= LEAST).sum(),  # of these, boxes with another score that counts
        "several": ((beside >= LEAST).sum(axis=1) > 1).sum(),  # of these, boxes with more than one
        "alone": (others < LEAST / 2).sum(),  # of these, boxes whose other scores are far from it
    }
    return _Seen(anchors_last, (near[0], near[1]), Counter({name: int(count) for name, count in counts.items()}))


def _rows(array: Array, anchors_last: bool) -> Floats:
    """Return ``[anchors, rows]``."""
    return in_double(array[0].T if anchors_last else array[0])


def _are_scores(numbers: Floats) -> bool:
    return bool(((numbers >= -_ROUNDING) & (numbers <= 1 + _ROUNDING)).all())


def _lie_near_cells(boxes: Floats, picture: tuple[int, int]) -> bool:
    """Whether boxes ``[anchors, 4]``, as corners, follow the cells of grids over a picture."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    grids = _grids(len(boxes), picture)
    return any((np.diagonal(_correlations(centers, cells)) >= _NEAR).all() for cells in grids)


def _hold_places(scores: Floats, picture: tuple[int, int]) -> bool:
    """Whether some of the scores ``[anchors, scores]`` follow the cells, as key points in shares of the sides do."""
    return any((_correlations(scores, cells) >= _NEAR).any() for cells in _grids(len(scores), picture))


def _correlations(values: Floats, others: Floats) -> Floats:
    """Return the correlation of each column of one with each of the other; 0 where one does not vary."""
    a, b = values - values.mean(axis=0), others - others.mean(axis=0)
    norms = np.linalg.norm(a, axis=0)[:, None] * np.linalg.norm(b, axis=0)
    found: Floats = a.T @ b / np.where(norms > 0, norms, 1.0)
    return found


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
