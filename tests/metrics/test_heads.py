"""Raw heads of detectors: what their shapes and values tell, and when they tell nothing."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.metrics.heads import LEAST, Head, find_head, head_boxes, without_doubles
from onnxprune.metrics.matching import detections

RNG = np.random.default_rng(0)
PICTURE = (96, 128)  # height and width: grids of 12 x 16, 6 x 8, 3 x 4
STRIDES = (8, 16, 32)


def cells(strides=STRIDES, each=1):
    """Centers ``[anchors, 2]``, x and y, and strides ``[anchors]``, one anchor of a cell after the other."""
    centers, sizes = [], []
    for stride in strides:
        y, x = np.mgrid[stride / 2 : PICTURE[0] : stride, stride / 2 : PICTURE[1] : stride]
        centers.append(np.tile(np.stack([x.ravel(), y.ravel()], axis=1), (each, 1)))
        sizes.append(np.full(len(centers[-1]), stride))
    return np.concatenate(centers), np.concatenate(sizes)


def head(classes=3, *, strides=STRIDES, each=1, objectness=False, corners=False, last=True, scale=1.0):
    """A head that finds class 2 around (40, 40) at three neighbours, and class 0 at (100, 60)."""
    centers, sizes = cells(strides, each)
    places = centers + RNG.uniform(-0.5, 0.5, centers.shape) * sizes[:, None]
    extents = sizes[:, None] * RNG.uniform(1, 3, centers.shape)
    scores = RNG.uniform(0, 0.1, (len(centers), classes))
    nothing = RNG.uniform(0, 0.05, len(centers))
    order = np.argsort(np.square(centers - [40, 40]).sum(axis=1), kind="stable")
    for at, score in zip(order[:3], (0.9, 0.8, 0.7), strict=True):
        places[at], extents[at], scores[at, 2], nothing[at] = (40, 40), (20, 30), score, 1.0
    far = np.square(centers - [100, 60]).sum(axis=1).argmin()
    places[far], extents[far], scores[far, 0], nothing[far] = (100, 60), (16, 16), 0.6, 1.0
    boxes = [places - extents / 2, places + extents / 2] if corners else [places, extents]
    rows = np.concatenate(
        [*[part * scale for part in boxes], *([nothing[:, None]] if objectness else []), scores], axis=1
    )
    return {"y": (rows.T if last else rows)[None].astype(np.float32)}


EXPECTED = [[30, 25, 50, 55], [92, 52, 108, 68]]


@pytest.mark.parametrize(
    ("made", "read"),
    [
        ({}, Head("y", True, False, False)),
        ({"corners": True}, Head("y", True, True, False)),
        ({"last": False, "objectness": True, "each": 3}, Head("y", False, False, True)),
        ({"last": False, "objectness": True, "strides": STRIDES[::-1]}, Head("y", False, False, True)),
        ({"last": False}, Head("y", False, False, False)),
        ({"strides": (16, 32)}, Head("y", True, False, False)),
    ],
)
def test_a_head_is_known_by_its_grid_its_places_and_its_scores(made, read):
    outputs = {"other": np.zeros((1, 5), np.float32), **head(**made)}
    assert find_head([outputs], PICTURE) == read
    found = head_boxes(read, outputs)
    np.testing.assert_allclose(found.corners, EXPECTED, atol=1e-4)
    assert found.classes.tolist() == [2, 0]
    np.testing.assert_allclose(found.scores, [0.9, 0.6], atol=1e-6)


def test_shares_of_the_sides_stay_shares():
    outputs = head()
    outputs["y"][:, [0, 2]] /= PICTURE[1]
    outputs["y"][:, [1, 3]] /= PICTURE[0]
    read = find_head([outputs], PICTURE)
    assert read == Head("y", True, False, False)
    np.testing.assert_allclose(head_boxes(read, outputs).corners[0] * [128, 96, 128, 96], EXPECTED[0], atol=1e-4)


def transposed(kind):
    """A head of YOLOv8 with its axes turned that is sure of one box of a class, and of no other."""
    outputs = head(last=False)
    scores = outputs["y"][0, :, 4:]
    scores[:] = np.minimum(scores, 0.1)
    scores[40, kind] = 0.9
    return outputs


def test_all_pictures_tell_how_a_head_is_read():
    """Of class 1 alone nobody could say whether the first score is a class or says if there is anything."""
    other, first = transposed(1), transposed(0)
    assert find_head([other], PICTURE) is None
    read = find_head([other, first], PICTURE)
    assert read == Head("y", False, False, False)
    assert [head_boxes(read, each).classes.tolist() for each in (other, first)] == [[1], [0]]


def test_a_head_that_is_sure_of_no_class_is_not_told():
    """YOLOv5 with weak classes is no transposed YOLOv8; another picture tells."""
    weak, strong = (head(last=False, objectness=True) for _ in range(2))
    weak["y"][0, :, 5:] = np.minimum(weak["y"][0, :, 5:], 0.2)
    assert find_head([weak], PICTURE) is None
    assert find_head([weak, strong, strong, strong, strong], PICTURE) == Head("y", False, False, True)


def test_a_box_with_swapped_corners_is_one_all_the_same():
    outputs = head(corners=True)
    outputs["y"][0, :4, 100] = outputs["y"][0, [2, 1, 0, 3], 100]
    assert find_head([outputs], PICTURE) == Head("y", True, True, False)
    outputs["y"][0, :4, :60] = outputs["y"][0, [2, 1, 0, 3], :60]
    assert find_head([outputs], PICTURE) is None, "many are neither corners nor center and size"


def test_a_picture_that_contradicts_leaves_no_head():
    asked = []

    def samples():
        for outputs in (head(), head(last=False), head()):
            asked.append(outputs)
            yield outputs

    assert find_head(samples(), PICTURE) is None
    assert len(asked) == 2, "nobody asks on once it is clear"
    assert find_head([], PICTURE) is None
    assert find_head([head(), head(corners=True), head()], PICTURE) is None


def beside(numbers, **made):
    """A head with more numbers ``[anchors, ...]`` behind its scores."""
    array = head(**made)["y"]
    more = numbers.T if made.get("last", True) else numbers
    return {"y": np.concatenate([array, more[None].astype(np.float32)], axis=1 if made.get("last", True) else 2)}


@pytest.mark.parametrize("made", [{}, {"last": False, "objectness": True}])
def test_numbers_that_are_no_scores_leave_no_head(made):
    """Key points in shares of the sides, and angles, which may be from 0 to 1 by chance."""
    points = cells()[0] / [128, 96]
    assert find_head([beside(points, **made)], PICTURE) is None
    angles = RNG.uniform(0, 1, (len(points), 1))
    assert find_head([beside(angles, **made) for _ in range(8)], PICTURE) is None
    assert find_head([beside(3 * angles - np.pi / 4, **made)], PICTURE) is None, "as Ultralytics exports them"
    assert find_head([beside(0.2 * angles, **made)], PICTURE) is not None, "nobody can tell these from a rare class"


def test_bins_of_angles_beside_objectness_leave_no_head():
    """Of a box that is turned, the bins next to its angle count as well."""
    angles = RNG.uniform(20, 160, (len(cells()[0]), 1))
    bins = np.exp(-np.square((np.arange(180) - angles) / 6) / 2)
    assert find_head([beside(bins, last=False, objectness=True)], PICTURE) is None


def test_some_boxes_of_two_classes_are_a_head_all_the_same():
    outputs = head(last=False, objectness=True)
    sure = np.flatnonzero(outputs["y"][0, :, 4] >= LEAST)
    outputs["y"][0, sure[:1], 5:] = 0.9
    assert find_head([outputs], PICTURE) == Head("y", False, False, True)
    outputs["y"][0, sure[:2], 5:] = 0.9
    assert find_head([outputs], PICTURE) is None


def changed(change):
    outputs = head()
    change(outputs["y"])
    return outputs


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": RNG.uniform(size=(1, 7, 252)).astype("f4")},  # boxes anywhere
        {"y": RNG.uniform(size=(1, 7, 250)).astype("f4")},  # no grid
        changed(lambda y: y.__isub__(np.where(np.arange(7) == 5, 0.5, 0)[:, None].astype("f4"))),  # no scores
        changed(lambda y: np.negative(y[:, 2:4], out=y[:, 2:4])),  # no sizes
        changed(lambda y: y.__setitem__((0, 0, 0), np.nan)),
        {"y": np.repeat(head()["y"], 2, axis=0)},  # two pictures
        {"y": head()["y"].astype(np.int64)},
        {"y": head()["y"][:, :4]},  # no score
        {"y": RNG.normal(size=(1, 21, 12, 16)).astype("f4")},  # one grid of a head that is not decoded
    ],
)
def test_what_is_not_told_is_no_head(outputs):
    assert find_head([outputs], PICTURE) is None


def test_a_picture_of_another_size_has_other_grids():
    assert find_head([head()], (100, 100)) is None


def test_doubles_of_a_class_go():
    corners = np.array([[0.0, 0, 10, 10], [1, 1, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    boxes = detections(corners, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 0]))
    assert without_doubles(boxes).scores.tolist() == [0.9, 0.7, 0.6]


def test_boxes_are_cut_after_doubles_went():
    """Thirty objects with thirty boxes each: the 300 best boxes are of ten of them."""
    places = np.array([(40 * column, 60 * row) for row in range(5) for column in range(6)], float)
    boxes = np.concatenate([np.repeat(places, 30, axis=0), np.tile([20.0, 30.0], (900, 1))], axis=1)
    scores = np.linspace(0.95, 0.3, 900)
    outputs = {"y": np.concatenate([boxes, scores[:, None]], axis=1)[None].astype(np.float32)}
    found = head_boxes(Head("y", False, False, False), outputs)
    np.testing.assert_allclose(found.scores, scores[::30], atol=1e-6)
    assert {(left + 10, top + 15) for left, top, _, _ in found.corners.tolist()} == set(map(tuple, places.tolist()))


def test_at_most_300_boxes_come():
    boxes = np.concatenate([np.mgrid[:20, :20].reshape(2, -1).T * 9.0, np.full((400, 2), 5.0), np.ones((400, 1))], 1)
    found = head_boxes(Head("y", False, False, False), {"y": boxes[None].astype(np.float32)})
    assert len(found.scores) == 300


def test_what_is_not_finite_is_no_box():
    outputs = head()
    outputs["y"][0, 5, :50] = np.nan
    outputs["y"][0, 0, 50:] = np.inf
    assert len(head_boxes(Head("y", True, False, False), outputs).scores) == 0


def test_nothing_found_is_no_box():
    outputs = head()
    outputs["y"][:, 4:] *= 0.1
    found = head_boxes(find_head([outputs], PICTURE), outputs)
    assert (found.corners.shape, len(found.scores)) == ((0, 4), 0)
