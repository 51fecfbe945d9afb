"""Samples with the answers of two models, and the small pictures of them."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from onnxprune.data.samples import load_data
from onnxprune.evaluation.examples import Words, examples
from onnxprune.evaluation.place import Place, open_whole
from onnxprune.evaluation.thumbnails import MOST_PIXELS, png, thumbnail
from onnxprune.graph.files.read import load
from onnxprune.graph.ports import Port
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


def shown_of(array, answer, other=None, metric=None, words=None, **arrays):
    given = {"x": array, **arrays}
    data = load_data(given, [Port(name, each.dtype, ("n", *each.shape[1:])) for name, each in given.items()])
    return examples((Told(answer), Told(other or answer)), data, metric, words)


def test_vectors_come_with_the_samples_that_are_alike():
    vectors = np.eye(4, 64, dtype=np.float32)
    vectors[3] = vectors[0]
    shown = shown_of(vectors, lambda feeds: {"y": feeds["x"]}, metric="embedding")
    first = shown["samples"][0]
    assert first["closeness"] == {"name": "cosine", "value": 1.0}
    assert first["answers"][1]["best"][0] == {"name": "sample 3", "score": 1.0, "text": None}
    assert [each["name"] for each in first["answers"][1]["best"]] == ["sample 3", "sample 1", "sample 2"]


def test_boxes_come_as_corners_class_and_score():
    def answer(feeds):
        return {"boxes": np.array([[[0.0, 0.0, 8.0, 8.0, 0.9, 2.0], [1.0, 1.0, 2.0, 2.0, 0.1, 1.0]]], np.float32)}

    shown = shown_of(RNG.normal(size=(2, 3, 16, 16)).astype("f4"), answer)
    assert shown["kind"] == "boxes"
    assert shown["samples"][0]["answers"][0]["boxes"] == [[0.0, 0.0, 8.0, 8.0, 2.0, 0.9]]


def test_raw_heads_come_as_boxes():
    """One box of class 1 at the fifth cell of a grid of 4 by 4, and everywhere else a score of nothing."""

    def answer(feeds):
        y, x = np.mgrid[8:64:16, 8:64:16]
        rows = np.concatenate([[x.ravel(), y.ravel()], np.full((2, 16), 16), np.zeros((3, 16))]).astype("f4")
        rows[5, 4] = 0.75
        return {"head": rows[None]}

    def blind(feeds):
        return {"head": answer(feeds)["head"] * np.array([1] * 4 + [0] * 3, np.float32)[:, None]}

    shown = shown_of(RNG.normal(size=(2, 3, 64, 64)).astype("f4"), answer, blind)
    assert shown["kind"] == "dense"
    before, after = shown["samples"][0]["answers"]
    assert before == {"best": [], "boxes": [[0.0, 16.0, 16.0, 32.0, 1.0, 0.75]], "image": None}
    assert after["boxes"] == []


def test_all_samples_tell_how_a_head_is_read():
    """A head with its axes turned: what its first score is, the last sample alone tells, and all are drawn."""

    def answer(feeds):
        y, x = np.mgrid[8:64:16, 8:64:16]
        rows = np.concatenate([[x.ravel(), y.ravel()], np.full((2, 16), 16), np.zeros((3, 16))]).astype("f4")
        rows[4 + int(feeds["x"][0, 0, 0, 0]), 4] = 0.75
        return {"head": rows.T[None]}

    pictures = np.stack([np.full((3, 64, 64), kind, np.float32) for kind in (2, 1, 0)])
    shown = shown_of(pictures, answer)
    kinds = [[box[4] for side in each["answers"] for box in side["boxes"]] for each in shown["samples"]]
    assert kinds == [[2, 2], [1, 1], [0, 0]]


SPOKEN = Words(lambda ids: None if 99 in ids else "".join(f" w{each}" for each in ids), ["x"])


def scores_of(feeds):
    """Scores of 256 words: the next number is the likeliest word."""
    return {"y": 9 * np.eye(256, dtype=np.float32)[(feeds["x"] + 1) % 256]}


def test_ids_come_with_their_text_and_so_does_the_next_word():
    ids = np.array([[5, 6, 7, 0], [9, 10, 11, 12]])
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
    shown = shown_of(ids, scores_of, words=SPOKEN, mask=mask)
    assert shown["kind"] == "language model"
    first, second = shown["samples"]
    assert [each["text"] for each in first["inputs"]] == [" w5 w6 w7", None], "padding and masks are no text"
    assert first["answers"][0]["best"][0]["text"] == " w8"
    assert second["answers"][1]["best"][0] == {"name": "token 13", "score": 0.9695, "text": " w13"}


def test_a_mask_is_that_of_its_own_text():
    """The ids of a decoder are not masked by the mask of an encoder, longer or as long; those of padding alone stay."""
    decoder, ids = np.array([[5, 6, 7, 8], [5, 6, 7, 8]]), np.array([[1, 2, 3, 4, 0, 0], [9, 9, 9, 0, 0, 0]])
    words = Words(SPOKEN.text, ["decoder_input_ids", "input_ids"])
    for width in (6, 4):
        given = {"input_ids": ids[:, :width], "attention_mask": (ids[:, :width] > 0).astype(int)}
        given["attention_mask"][1] = 0
        shown = shown_of(
            np.zeros((2, 1), np.float32),
            lambda feeds: {"y": feeds["x"]},
            metric="dense",
            words=words,
            **given,
            decoder_input_ids=decoder,
        )
        said = [{each["name"]: each["text"] for each in sample["inputs"]} for sample in shown["samples"]]
        assert [each["decoder_input_ids"] for each in said] == [" w5 w6 w7 w8"] * 2
        assert [each["input_ids"] for each in said] == [" w1 w2 w3 w4", None]


def test_a_mask_counts_a_cache_too():
    feeds = {"input_ids": np.array([[5, 6]]), "attention_mask": np.array([[1, 1, 1, 1, 0]])}
    words = Words(SPOKEN.text, ["input_ids"])
    said = []
    for more in ({}, {"past_key_values.0.key": np.zeros((1, 2, 3, 4), np.float32)}):
        shown = shown_of(np.zeros((1, 1), np.float32), lambda given: {"y": given["x"]}, metric="dense", words=words,
                         **feeds, **more)  # fmt: skip
        said.append({each["name"]: each["text"] for each in shown["samples"][0]["inputs"]}["input_ids"])
    assert said == [" w5 w6", " w5"]


@pytest.mark.parametrize("more", [{}, {"decoder_attention_mask": np.array([[1, 1, 0, 0]])}])
def test_the_next_word_follows_the_text_of_the_decoder(more):
    """The encoder's text, as long and of larger numbers, is shorter than that of the decoder, or longer."""
    feeds = {"input_ids": np.array([[90, 91, 92, 0]]), "attention_mask": np.array([[1, 1, 1, 0]]), **more}
    words = Words(SPOKEN.text, ["decoder_input_ids", "input_ids"])
    shown = shown_of(np.zeros((1, 1), np.float32), lambda given: scores_of({"x": given["decoder_input_ids"]}),
                     words=words, **feeds, decoder_input_ids=np.array([[5, 6, 7, 8]]))  # fmt: skip
    assert shown["kind"] == "language model"
    assert shown["samples"][0]["answers"][0]["best"][0]["text"] == (" w7" if more else " w9")


def test_the_next_word_follows_the_new_tokens_of_a_mask_that_counts_a_cache():
    feeds = {"attention_mask": np.array([[1, 1, 1, 1, 0]]), "past_key_values.0.key": np.zeros((1, 2, 2, 4), np.float32)}
    shown = shown_of(np.array([[5, 6, 7]]), scores_of, words=SPOKEN, **feeds)
    assert shown["samples"][0]["answers"][0]["best"][0]["text"] == " w7"


def test_of_a_long_text_come_both_ends():
    shown = shown_of(
        np.arange(200)[None] + 2, lambda feeds: {"y": feeds["x"].astype("f4")}, words=SPOKEN, metric="dense"
    )
    text = shown["samples"][0]["inputs"][0]["text"]
    assert text.startswith(" w2 w3 ")
    assert text.endswith(" w200 w201")
    assert "w33 …  w170" in text


def test_ids_that_are_no_tokens_stay_ids():
    shown = shown_of(np.array([[5, 99, 7, 8]]), scores_of, words=SPOKEN)
    put_in = shown["samples"][0]["inputs"][0]
    assert (put_in["text"], put_in["values"]) == (None, ["5", "99", "7", "8"])
    assert shown["samples"][0]["answers"][0]["best"][0]["text"] == " w9"


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
