"""Inputs that follow from tokens: masks, places, an empty past, whether there is one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.data import generated
from onnxprune.data.samples import load_data, pieces
from onnxprune.errors import DataError
from onnxprune.graph.files.read import load
from onnxprune.graph.meanings import with_meanings
from onnxprune.graph.ports import Port, Role, with_batches
from tests.support.build import model

FIVE = np.arange(10).reshape(2, 5)


def ports(*more):
    """Return inputs of a decoder: tokens, looked up among 20, and what is asked for beside them."""
    known = {
        "attention_mask": ("i8", ("n", "past + s")),
        "position_ids": ("i8", ("n", "s")),
        "cache_position": ("i8", ("s",)),
        "past_key_values.0.key": ("f4", ("n", 2, "past", 4)),
        "past_key_values.0.value": ("f4", ("n", 2, "past", 4)),
        "use_cache_branch": ("?", (1,)),
    }
    tokens = Port("input_ids", np.dtype("i8"), ("n", "s"), below=20)
    others = [Port(name, np.dtype(known[name][0]), known[name][1]) for name in more]
    return with_batches((tokens, *with_meanings(others, (), {})), fits_any=True)


def feeds(source, inputs):
    (piece,) = pieces(load_data(source, inputs), 8)
    return {name: array.tolist() for name, array in piece.feeds.items() if name != "input_ids"}


def test_tokens_alone_are_a_text_from_its_first_token():
    inputs = ports("attention_mask", "position_ids", "cache_position", "past_key_values.0.key", "use_cache_branch")
    found = feeds({"input_ids": FIVE}, inputs)
    assert found["attention_mask"] == [[1] * 5] * 2
    assert found["position_ids"] == [[0, 1, 2, 3, 4]] * 2
    assert found["cache_position"] == [0, 1, 2, 3, 4]
    assert found["use_cache_branch"] == [False]
    data = load_data({"input_ids": FIVE}, inputs)
    assert data.take([0, 1])["past_key_values.0.key"].shape == (2, 2, 0, 4)
    assert data.take([1])["past_key_values.0.key"].dtype == np.float32


def test_places_are_counted_by_the_mask():
    padded = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    found = feeds({"input_ids": FIVE, "attention_mask": padded}, ports("attention_mask", "position_ids"))
    assert found["attention_mask"] == padded.tolist()
    assert found["position_ids"] == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


def test_a_past_that_is_given_is_counted():
    inputs = ports("attention_mask", "position_ids", "past_key_values.0.key", "past_key_values.0.value")
    found = feeds({"input_ids": FIVE, "past_key_values.0.key": np.ones((2, 2, 3, 4))}, inputs)
    assert found["attention_mask"] == [[1] * 8] * 2
    assert found["position_ids"] == [[3, 4, 5, 6, 7]] * 2
    assert np.shape(found["past_key_values.0.value"]) == (2, 2, 3, 4)


def test_texts_of_different_lengths_one_after_the_other():
    inputs = ports("attention_mask", "position_ids", "past_key_values.0.key")
    texts = [{"input_ids": np.ones((1, length), np.int64)} for length in (3, 3, 4)]
    shapes = [piece.feeds["position_ids"].shape for piece in pieces(load_data(texts, inputs), 8)]
    assert shapes == [(2, 3), (1, 4)]


def test_files_and_folders_may_hold_tokens_alone(tmp_path):
    inputs = ports("attention_mask", "past_key_values.0.key")
    np.savez(tmp_path / "one.npz", input_ids=FIVE)
    np.savez(tmp_path / "two.npz", input_ids=FIVE)
    assert load_data(tmp_path / "one.npz", inputs).count == 2
    data = load_data(tmp_path, inputs)
    assert data.count == 4
    assert data.take([3])["attention_mask"].tolist() == [[1] * 5]


def test_what_does_not_follow_is_asked_for():
    with pytest.raises(DataError, match="no array for input 'input_ids'"):
        load_data({"attention_mask": np.ones((2, 5), np.int64)}, ports("attention_mask"))
    image = Port("image", np.dtype("f4"), ("n", 3))
    with pytest.raises(DataError, match="no array for input 'image'"):
        load_data({"input_ids": FIVE}, (*ports("attention_mask"), image))
    fixed = Port("past_key_values.0.key", np.dtype("f4"), ("n", 2, 8, 4), role=Role.PAST)
    with pytest.raises(DataError, match=r"no array for input 'past_key_values\.0\.key'"):
        load_data({"input_ids": FIVE}, (*ports(), fixed))


def test_a_buffer_beside_a_past_that_grows_is_empty():
    fixed = Port("past_key_values.1.key", np.dtype("f4"), ("n", 2, 8, 4), role=Role.PAST)
    data = load_data({"input_ids": FIVE}, (*ports("past_key_values.0.key"), fixed))
    assert data.take([0])["past_key_values.1.key"].shape == (1, 2, 8, 4)
    assert not data.take([0])["past_key_values.1.key"].any()


def test_tokens_of_another_rank_do_not_tell():
    choices = Port("input_ids", np.dtype("i8"), ("n", "c", "s"), below=20)
    with pytest.raises(DataError, match=r"shape \[2, 1, 5\]; the model takes 'attention_mask', too, which follows"):
        load_data({"input_ids": FIVE[:, None]}, (choices, *ports("attention_mask")[1:]))


# -- samples that are made up ------------------------------------------------------------------------------


@pytest.mark.generated
def test_texts_that_are_made_up_have_no_past():
    proto = model(
        "e = Gather(table, input_ids)", "h = Reshape(e, heads)", "t = Transpose<perm = [0, 2, 1, 3]>(h)",
        "present = Concat<axis = 2>(past_key, t)", "m = Cast<to = 1>(attention_mask)", "p = Cast<to = 1>(position_ids)",
        "u = Unsqueeze(m, places)", "v = Mul(present, u)",
        x="int64[n,sequence_length] input_ids, int64[n,total_sequence_length] attention_mask, "
          "int64[n,sequence_length] position_ids, float[n,3,past_sequence_length,4] past_key",
        y="float[n,3,t,4] present, float[n,3,t,4] v, float[n,s] p", table=(20, 12), heads=[0, 0, 3, 4], places=[1, 3],
        infer=False,
    )  # fmt: skip
    data = generated.inputs(load(proto), 6).data
    assert {name: column.shape for name, column in data.columns.items()} == {
        "input_ids": (6, generated.LONGEST),
        "attention_mask": (6, generated.LONGEST),
        "position_ids": (6, generated.LONGEST),
        "past_key": (6, 3, 0, 4),
    }
    assert data.columns["position_ids"][2].tolist() == list(range(generated.LONGEST))
    assert (data.columns["attention_mask"] == 1).all()
