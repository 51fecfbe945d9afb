"""Sizes of dynamic dims on which models are compared: networks that go on with a text."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.data.samples import load_data
from onnxprune.evaluation.difference import open_proto
from onnxprune.evaluation.settings import settings
from onnxprune.graph.shapes.probe import settled
from onnxprune.graph.view import view
from tests.support.build import model

PAST_KEY = "past_key_values.0.key"


def decoder(past):
    """Return a model that puts keys and values of new tokens behind those of the past, `past` of the keys."""
    proto = model(
        "e = Gather(table, input_ids)", "h = Reshape(e, heads)", "t = Transpose<perm = [0, 2, 1, 3]>(h)",
        "present = Concat<axis = 2>(key, t)", "later = Concat<axis = 2>(value, t)",
        x=f"int64[n,sequence_length] input_ids, float[n,2,{past},4] key, float[n,2,p,4] value",
        y="float[n,2,t,4] present, float[n,2,u,4] later", table=(20, 8), heads=[0, 0, 2, 4], infer=False,
    )  # fmt: skip
    names = {"key": PAST_KEY, "value": "past_key_values.0.value"}
    for holder in (*proto.graph.node, *proto.graph.input):
        if isinstance(holder, onnx.NodeProto):
            holder.input[:] = [names.get(name, name) for name in holder.input]
        else:
            holder.name = names.get(holder.name, holder.name)
    return settled(view(proto))


def sizes_of(proto):
    with open_proto(proto.proto, proto.folder) as session:
        cases = settings(proto, session)
    return [{name: array.shape[2 if "past" in name else 1] for name, array in case.feeds.items()} for case in cases]


def test_a_text_from_its_first_token_and_one_token_more():
    first, second, *_ = sizes_of(decoder("past"))
    assert first[PAST_KEY] == 0
    assert first["input_ids"] > 1
    assert second[PAST_KEY] > 0
    assert second["input_ids"] == 1


def test_samples_are_followed_by_one_token_behind_a_past():
    proto = decoder("past")
    data = load_data({"input_ids": np.ones((8, 5), np.int64)}, proto.inputs)
    with open_proto(proto.proto, proto.folder) as session:
        cases = settings(proto, session, data)
    assert [case.feeds[PAST_KEY].shape[2] > 0 for case in cases] == [False, False, True]
    assert cases[2].feeds["input_ids"].shape[1] == 1


@pytest.mark.parametrize(("length", "filled"), [(5, False), (12, True)])
def test_samples_that_do_not_fill_a_buffer_prove_nothing(length, filled):
    """What a kernel has not written is memory of somebody else: texts of random tokens are run instead."""
    proto = decoder(12)
    ids = np.ones((8, length), np.int64)
    data = load_data({"input_ids": ids}, proto.inputs)
    with open_proto(proto.proto, proto.folder) as session:
        first = settings(proto, session, data)[0].feeds["input_ids"]
    assert first.shape[1] >= 12
    assert bool((first == 1).all()) is filled


def test_a_buffer_of_the_past_is_filled():
    first, second, *_ = sizes_of(decoder(12))
    assert (first[PAST_KEY], second[PAST_KEY]) == (12, 12)
    assert first["input_ids"] >= 12
    assert second["past_key_values.0.value"] >= 12
