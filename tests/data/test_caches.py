"""Feeds and samples of two models whose caches differ: an empty past suits both, another one neither."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from onnxprune.data.caches import check_no_past, load_suited, suited, suited_data
from onnxprune.data.columns import Column
from onnxprune.data.samples import Data
from onnxprune.errors import DataError
from onnxprune.graph.ports import Port, Role

IDS = Port("ids", np.dtype("i8"), ("n", "s"), below=9)
PAST = Port("past", np.dtype("f4"), ("n", 2, "p", 4), role=Role.PAST)
LARGER = replace(PAST, shape=("n", 3, "p", 4))
HELD = (
    "the samples hold a past in 'past', a cache whose size changes; give samples without it: it is empty then, and "
    "each sample a text from its first token"
)


def empty(samples=5, heads=2):
    return np.zeros((samples, heads, 0, 4), np.float32)


def test_feeds_get_an_empty_past_of_the_size_that_a_model_takes():
    ids = np.ones((5, 7), np.int64)
    fed = suited({"ids": ids, "past": empty(), "other": empty()}, [IDS, LARGER])
    assert list(fed) == ["ids", "past"]
    assert fed["ids"] is ids
    assert fed["past"].shape == (5, 3, 0, 4)
    assert suited({"ids": ids}, [IDS, PAST])["past"].shape == (5, 2, 0, 4)


def test_feeds_that_suit_stay_as_they_are():
    past = np.ones((5, 2, 3, 4), np.float32)
    assert suited({"ids": np.ones((5, 7), np.int64), "past": past}, [IDS, PAST])["past"] is past


def test_a_past_that_holds_something_suits_no_other_size():
    feeds = {"ids": np.ones((5, 7), np.int64), "past": np.ones((5, 2, 3, 4), np.float32)}
    with pytest.raises(DataError, match=re.escape(HELD)):
        suited(feeds, [IDS, LARGER])


def test_samples_get_the_past_of_another_model_and_lose_what_it_lacks():
    ids = np.arange(20).reshape(5, 4)
    data = Data({"ids": ids, "past": empty()}, None, 2, rows=np.array([3, 1]))
    other = suited_data(data, [IDS, LARGER])
    assert other.take([0, 1])["past"].shape == (2, 3, 0, 4)
    assert other.take([0, 1])["ids"].tolist() == ids[[3, 1]].tolist()
    assert list(suited_data(data, [IDS]).columns) == ["ids"]
    assert suited_data(data, [IDS, PAST]).columns["past"] is data.columns["past"]


def test_a_past_that_suits_stays():
    data = Data({"ids": np.ones((5, 7), np.int64), "past": np.ones((5, 2, 3, 4), np.float32)}, None, 5)
    assert suited_data(data, [IDS, PAST]) is data
    assert load_suited(data, [IDS, PAST]) is data
    with pytest.raises(DataError, match=re.escape(HELD)):
        load_suited(data, [IDS, LARGER])


@pytest.mark.parametrize("port", [PAST, replace(PAST, shape=(2, "n", "p", 4), batch=1)])
def test_samples_whose_past_has_the_sizes_of_a_model_stay_as_they_are(port):
    past = np.ones((5, 2, 3, 4), np.float32)
    data = Data({"ids": np.ones((5, 4)), "past": past}, None, 5)
    assert suited_data(data, [IDS, port]).columns["past"] is past
    with pytest.raises(DataError, match=re.escape(HELD)):
        suited_data(data, [IDS, replace(port, shape=tuple(3 if dim == 2 else dim for dim in port.shape))])


def test_a_buffer_of_zeros_is_no_past():
    buffer = replace(PAST, shape=("n", 2, 6, 4))
    data = Data({"ids": np.ones((5, 4)), "past": np.zeros((5, 3, 6, 4), np.float32)}, None, 5)
    assert suited_data(data, [IDS, buffer]).columns["past"].shape == (5, 2, 6, 4)


def test_samples_of_different_lengths_are_looked_at_one_by_one():
    shapes = [(2, 0, 4), (2, 1, 4)]
    column = Column(shapes, np.dtype("f4"), lambda row: np.full(shapes[row], 2.0, np.float32))
    data = Data({"past": column}, None, 2)
    check_no_past(data, ["ids"])
    check_no_past(None, ["past"])
    with pytest.raises(DataError, match=re.escape(HELD)):
        check_no_past(data, ["past"])
