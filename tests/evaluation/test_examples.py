"""Samples with the answers of two models, and the small pictures of them."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from onnxprune.data.samples import load_data
from onnxprune.evaluation.examples import examples
from onnxprune.evaluation.place import Place, open_whole
from onnxprune.evaluation.thumbnails import MOST_PIXELS, png, thumbnail
from onnxprune.graph.ports import Port
from onnxprune.graph.read import load
from tests.support.paths import MODELS

RNG = np.random.default_rng(0)
DATA = MODELS / "mnist_test.npz"


def test_classes_come_with_their_probabilities_and_pictures():
    model = load(MODELS / "vit.onnx")
    session, data = open_whole(model, Place("cpu", 1, {})), load_data(str(DATA), model.inputs)
    shown = examples((session, session), data, None)
    assert (shown["kind"], len(shown["samples"])) == ("classification", 6)
    for each in shown["samples"]:
        before, after = each["answers"]
        assert before == after
        assert len(before["best"]) == 3
        scores = [named["score"] for named in before["best"]]
        assert scores == sorted(scores, reverse=True)
        assert 0 < sum(scores) <= 1.001
        assert each["inputs"][0]["image"].startswith("data:image/png;base64,")
    right = [each["answers"][0]["best"][0]["name"] == f"class {each['label']}" for each in shown["samples"]]
    assert sum(right) >= 5


class Told:
    """A model that answers what it is told."""

    def __init__(self, answer):
        self.answer = answer

    def taken(self, feeds):
        return feeds

    def run(self, feeds):
        return self.answer(feeds)


def shown_of(array, answer, other=None, metric=None):
    data = load_data({"x": array}, [Port("x", np.dtype(array.dtype), ("n", *array.shape[1:]))])
    return examples((Told(answer), Told(other or answer)), data, metric)


def test_vectors_come_with_the_samples_that_are_alike():
    vectors = np.eye(4, 64, dtype=np.float32)
    vectors[3] = vectors[0]
    shown = shown_of(vectors, lambda feeds: {"y": feeds["x"]}, metric="embedding")
    first = shown["samples"][0]
    assert first["closeness"] == {"name": "cosine", "value": 1.0}
    assert first["answers"][1]["best"][0] == {"name": "sample 3", "score": 1.0}
    assert [each["name"] for each in first["answers"][1]["best"]] == ["sample 3", "sample 1", "sample 2"]


def test_boxes_come_as_corners_class_and_score():
    def answer(feeds):
        return {"boxes": np.array([[[0.0, 0.0, 8.0, 8.0, 0.9, 2.0], [1.0, 1.0, 2.0, 2.0, 0.1, 1.0]]], np.float32)}

    shown = shown_of(RNG.normal(size=(2, 3, 16, 16)).astype("f4"), answer)
    assert shown["kind"] == "boxes"
    assert shown["samples"][0]["answers"][0]["boxes"] == [[0.0, 0.0, 8.0, 8.0, 2.0, 0.9]]


def test_pictures_come_out_as_pictures():
    shown = shown_of(RNG.normal(size=(2, 3, 16, 16)).astype("f4"), lambda feeds: {"y": 2 * feeds["x"]}, metric="dense")
    answer = shown["samples"][1]["answers"][0]
    assert answer["image"].startswith("data:image/png;base64,")
    assert answer["best"] == []
    assert shown["samples"][1]["closeness"] == {"name": "SNR in dB", "value": None}  # infinite: equal


def test_numbers_come_as_their_first_ones():
    shown = shown_of(np.arange(100, dtype=np.float32).reshape(2, 50), lambda feeds: {"y": feeds["x"]}, metric="dense")
    put_in = shown["samples"][1]["inputs"][0]
    assert (put_in["image"], len(put_in["values"]), put_in["values"][:2]) == (None, 24, ["50", "51"])
    assert [each["name"] for each in shown["samples"][1]["answers"][0]["best"]] == ["least", "mean", "most"]


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_its_pixels(channels):
    image = RNG.integers(0, 256, (9, 13, channels), dtype=np.uint8)
    read = np.asarray(Image.open(io.BytesIO(png(image)))).reshape(image.shape)
    assert (read == image).all()


@pytest.mark.parametrize("shape", [(3, 300, 200), (300, 200, 3), (1, 300, 200), (300, 200)])
def test_a_thumbnail_is_small_whatever_the_layout(shape):
    found = pixels(thumbnail(RNG.normal(size=shape)))
    assert max(found.shape[:2]) <= MOST_PIXELS
    assert found.shape[0] / found.shape[1] == pytest.approx(1.5, abs=0.05)
    assert found.min() >= 0


def test_a_thumbnail_keeps_what_is_bright():
    image = np.zeros((1, 64, 64))
    image[0, :32] = 7.0
    found = pixels(thumbnail(image))
    assert (found[:32] == 255).all()
    assert (found[32:] == 0).all()


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4)), np.zeros((22, 1029)), np.zeros((2, 64, 64)), np.zeros(9), np.zeros((8, 8), "U3")]
)
def test_what_is_no_picture_has_no_thumbnail(array):
    assert thumbnail(array) is None


def test_what_is_not_finite_is_drawn_all_the_same():
    image = np.full((8, 8), np.nan)
    image[0, 0] = np.inf
    assert pixels(thumbnail(image)).shape == (8, 8)
