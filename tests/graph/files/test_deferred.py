"""Deferred tensors: read and written they hold what they would hold at once, and they are not held meanwhile."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.errors import ModelError
from onnxprune.graph.edit import Part, with_contents, with_deferred_inside
from onnxprune.graph.files.deferred import PREFIX, deferred, deferring, kept_aside, numbers_at
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import foreseen, write
from onnxprune.graph.view import view
from tests.support.build import ROWS, model

WIDE = (300, 200)  # of float32: more than what is held as it is


@pytest.fixture
def wide(tmp_path):
    """A model with external data: two weights that are equal, one that is not, and a small one."""
    proto = model(
        "a = MatMul(x, w1)", "b = MatMul(x, w2)", "c = Add(a, b)", "d = MatMul(c, w3)", "y = Add(d, b3)",
        x=ROWS.replace("6", "300"), w1=WIDE, w2=WIDE, w3=(200, 300), b3=(300,),
    )  # fmt: skip
    proto.graph.initializer[1].raw_data = proto.graph.initializer[0].raw_data
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    return load(tmp_path / "m.onnx")


def kept(loaded, count=150):
    """What is left of all weights without units of their first axis; of the small one, all."""
    mask = np.arange(300) % 2 == 0 if count == 150 else np.arange(300) < count
    cut = {name: Part(loaded, name, {0: mask}) for name in ("w1", "w2")}
    return {**cut, "b3": loaded.array("b3") + 1}


def external(proto):
    """Return the names of the tensors that are deferred."""
    located = {each.name: each.external_data[0].value for each in proto.graph.initializer if each.external_data}
    return [name for name, location in located.items() if location.startswith(PREFIX)]


def test_only_what_is_large_and_made_of_something_is_deferred(wide):
    assert external(with_contents(wide, kept(wide))) == []
    with deferring():
        proto = with_contents(wide, {**kept(wide), "w3": np.ones((200, 300), np.float32)})
        assert external(proto) == ["w1", "w2"]
        assert proto.ByteSize() < 2 * 240_000  # w3 alone
        after = view(proto, folder=wide.folder)
        np.testing.assert_array_equal(after.array("w1"), wide.array("w1")[::2])
        assert after.constants["w1"].shape == (150, 200)


@pytest.mark.parametrize("count", [150, 299])
def test_the_files_are_the_same(wide, tmp_path, count):
    places = tmp_path / "one", tmp_path / "other"
    for place in places:
        place.mkdir()
    write(with_contents(wide, kept(wide, count)), places[0] / "m.onnx", wide.folder)
    with deferring():
        proto = with_contents(wide, kept(wide, count))
        said = foreseen(proto, wide.folder, name="m.onnx")
        write(proto, places[1] / "m.onnx", wide.folder)
    for name in ("m.onnx", "m.onnx.data"):
        assert (places[0] / name).read_bytes() == (places[1] / name).read_bytes()
    after = load(places[1] / "m.onnx")
    assert said.size_bytes >= after.size_bytes()
    assert after.size_bytes() < 4 * (count * 200 + 200 * 300) + 20_000  # equal weights are stored once


def test_models_are_filled_in_place(wide):
    expected = with_contents(wide, kept(wide))
    with deferring():
        proto = with_deferred_inside(with_contents(wide, kept(wide)))
    assert external(proto) == []
    assert proto == expected


def test_models_cannot_be_read_behind_the_block(wide):
    with deferring():
        proto = with_contents(wide, kept(wide))
    with pytest.raises(ModelError, match="what makes them is gone: read the model from the file that was written"):
        view(proto, folder=wide.folder).array("w1")


def test_what_is_kept_aside_lies_in_a_file():
    array = np.random.default_rng(0).standard_normal(WIDE).astype(np.float16)
    assert kept_aside(array) is array
    with deferring():
        aside = kept_aside(array.T)
        assert isinstance(aside, np.memmap)
        np.testing.assert_array_equal(aside, array.T)
        small = np.ones(3)
        assert kept_aside(small) is small
        key = deferred(aside)
        numbers = numbers_at(key)
        np.testing.assert_array_equal(np.asarray(numbers), array.T)
        np.testing.assert_array_equal(numbers.head(2), array.T[:2])
        assert (numbers.shape, numbers.dtype) == ((200, 300), np.float16)
        assert deferred(array) is None
    assert numbers_at("weights.data") is None
