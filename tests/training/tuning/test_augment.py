"""Views of samples."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.data.samples import load_data
from onnxprune.errors import OptionError
from onnxprune.graph.ports import Port
from onnxprune.training.tuning.augment import augmenter

IMAGE = Port("x", np.dtype(np.float32), ("n", 3, "h", "w"))
GREY = Port("x", np.dtype(np.float32), ("n", 1, 20, 20))
LAST = Port("x", np.dtype(np.float32), ("n", 64, 64, 3))
IDS = Port("ids", np.dtype(np.int64), ("n", "s"))
MASK = Port("attention_mask", np.dtype(np.int64), ("n", "s"))
POSITIONS = Port("positions", np.dtype(np.int64), ("n", "s"))


def make(arrays, ports, ways=None, is_language=False, has_labels=False, seed=0):
    data = load_data(arrays, ports)
    return augmenter(ways, data, ports, is_language=is_language, has_labels=has_labels, seed=seed)


def images(*shape):
    return np.random.default_rng(0).random(shape).astype(np.float32)


def test_views_by_what_inputs_look_like():
    assert make({"x": images(2, 3, 64, 64)}, [IMAGE]).ways == ("crop", "flip", "colour", "mix")
    assert make({"x": images(2, 64, 64, 3)}, [LAST]).ways == ("crop", "flip", "colour", "mix")
    assert make({"x": images(2, 1, 20, 20)}, [GREY]).ways == ("crop", "colour", "mix")  # digits are not mirrored
    assert make({"x": images(2, 3, 64, 64)}, [IMAGE], has_labels=True).ways == ("crop", "flip", "colour")
    with pytest.raises(OptionError, match=r"augmentation 'mix' does not fit a loss that sees labels, .*: leave it out"):
        make({"x": images(2, 3, 64, 64)}, [IMAGE], ("crop", "mix"), has_labels=True)
    rows = Port("x", np.dtype(np.float32), ("n", 8))
    assert make({"x": images(2, 8)}, [rows]).ways == ()


@pytest.mark.parametrize("port", [IMAGE, LAST], ids=["channels first", "channels last"])
@pytest.mark.parametrize("way", ["crop", "flip", "colour", "mix"])
def test_images_keep_shape_type_and_range(port, way):
    array = images(4, *((3, 64, 64) if port is IMAGE else (64, 64, 3)))
    view = make({"x": array}, [port], [way])({"x": array}, 3, 0)["x"]
    assert view.shape == array.shape
    assert view.dtype == array.dtype
    assert array.min() - 1e-6 <= view.min()
    assert view.max() <= array.max() + 1e-6
    assert not np.array_equal(view, array)


def test_half_precision_stays():
    port = Port("x", np.dtype(np.float16), ("n", 3, 32, 32))
    array = images(2, 3, 32, 32).astype(np.float16)
    assert make({"x": array}, [port])({"x": array}, 0, 0)["x"].dtype == np.float16


def test_a_view_follows_from_seed_step_and_part():
    array = images(4, 3, 32, 32)
    one, other = make({"x": array}, [IMAGE]), make({"x": array}, [IMAGE])
    views = [one({"x": array}, step, part)["x"] for step, part in ((0, 0), (0, 1), (1, 0))]
    assert np.array_equal(views[2], other({"x": array}, 1, 0)["x"])
    assert not np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])
    assert not np.array_equal(views[0], make({"x": array}, [IMAGE], seed=1)({"x": array}, 0, 0)["x"])


def test_mirrored_images_are_mirrored():
    array = images(16, 3, 32, 32)
    view = make({"x": array}, [IMAGE], ["flip"])({"x": array}, 0, 0)["x"]
    same = [np.allclose(view[i], array[i], atol=1e-5) for i in range(16)]
    mirrored = [np.allclose(view[i], array[i, :, :, ::-1], atol=1e-5) for i in range(16)]
    assert any(same)
    assert any(mirrored)
    assert all(a != b for a, b in zip(same, mirrored, strict=True))


def test_windows_of_text():
    ids = np.arange(40, dtype=np.int64).reshape(2, 20) % 7
    positions = np.tile(np.arange(20), (2, 1))
    feeds = {"ids": ids, "positions": positions}
    augment = make(feeds, [IDS, POSITIONS], is_language=True)
    assert augment.ways == ("window",)
    lengths = set()
    for step in range(12):
        view = augment(feeds, step, 0)
        length = view["ids"].shape[1]
        lengths.add(length)
        starts = [at for at in range(21 - length) if np.array_equal(ids[:, at : at + length], view["ids"])]
        assert starts
        assert view["positions"].tolist() == [list(range(length))] * 2
    assert lengths == {16, 20}
    assert make(feeds, [IDS, POSITIONS], is_language=False).ways == ()


def test_an_encoder_and_a_decoder_have_windows_of_their_own():
    whole, short = np.ones((2, 64), np.int64), np.tile((np.arange(64) < 20).astype(np.int64), (2, 1))
    feeds = {"ids": whole, "attention_mask": whole, "decoder_ids": short * 5, "decoder_attention_mask": short}
    ports = [Port(name, np.dtype(np.int64), ("n", "s")) for name in feeds]
    augment = make(feeds, ports, is_language=True)
    for step in range(8):
        view = augment(feeds, step, 0)
        assert view["decoder_attention_mask"].sum(1).tolist() == [20, 20]
        assert np.array_equal(view["decoder_ids"], view["decoder_attention_mask"] * 5)
        assert view["attention_mask"].all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_windows_hold_as_much_text_as_they_can(side):
    """Of texts of 20, 40 and 64 tokens, padded to 64 on a side."""
    mask = np.arange(64) < np.array([[20], [40], [64]])
    mask = (mask if side == "right" else mask[:, ::-1]).astype(np.int64)
    feeds = {"ids": mask * 5, "attention_mask": mask}
    augment = make(feeds, [IDS, MASK], is_language=True)
    lengths = set()
    for step in range(20):
        view = augment(feeds, step, 0)
        length = view["ids"].shape[1]
        assert view["attention_mask"].sum(1).tolist() == [min(length, text) for text in (20, 40, 64)]
        assert np.array_equal(view["ids"], view["attention_mask"] * 5)
        lengths.add(length)
    assert lengths == {64, 48, 32}
