"""Sizes of dynamic dims on which models are compared: networks that go on with a text."""

from __future__ import annotations

from onnxprune.evaluation.difference import open_proto
from onnxprune.evaluation.settings import settings
from onnxprune.graph.probe import settled
from onnxprune.graph.view import view
from tests.support.build import model


def decoder(past):
    """Return a model that puts keys of new tokens behind those of the past, `past` of them."""
    return settled(
        view(
            model(
                "e = Gather(table, input_ids)", "h = Reshape(e, heads)", "t = Transpose<perm = [0, 2, 1, 3]>(h)",
                "present = Concat<axis = 2>(past_key, t)",
                "later = Concat<axis = 2>(past_value, t)",
                x=f"int64[n,sequence_length] input_ids, float[n,2,{past},4] past_key, float[n,2,p,4] past_value",
                y="float[n,2,t,4] present, float[n,2,u,4] later", table=(20, 8), heads=[0, 0, 2, 4], infer=False,
            )
        )
    )  # fmt: skip


def sizes_of(proto):
    with open_proto(proto.proto, proto.folder) as session:
        cases = settings(proto, session)
    return [{name: array.shape[2 if "past" in name else 1] for name, array in case.feeds.items()} for case in cases]


def test_a_text_from_its_first_token_and_one_token_more():
    first, second, *_ = sizes_of(decoder("past"))
    assert first["past_key"] == 0
    assert first["input_ids"] > 1
    assert second["past_key"] > 0
    assert second["input_ids"] == 1


def test_a_buffer_of_the_past_is_filled():
    first, second, *_ = sizes_of(decoder(12))
    assert (first["past_key"], second["past_key"]) == (12, 12)
    assert first["input_ids"] >= 12
    assert second["past_value"] >= 12
