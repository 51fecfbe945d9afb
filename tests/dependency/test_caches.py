"""Caches: which inputs and outputs belong together, when they may change, and what the reasons say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxprune.dependency.account import frees
from onnxprune.dependency.branches import branches
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.graph.shapes.probe import settled
from tests.support import zoo_store
from tests.support.decoder import decoder

KEPT = "it is part of a cache, which the model takes and gives back (at past_{})"


def traced(proto, *, changes_io):
    return trace(replace(settled(load(proto)), changes_io=changes_io))


def zoo(name):
    return zoo_store.refill(zoo_store.read(zoo_store.load_zoo()[name].path))


def locked(proto, *, changes_io):
    return {group.name: group.locked for group in groups(traced(proto, changes_io=changes_io))}


# -- pairs -------------------------------------------------------------------------------------------------


def test_an_input_and_the_output_that_comes_back_as_it_are_a_cache():
    found = traced(decoder(), changes_io=False).caches
    assert [(cache.past, cache.present, cache.dims) for cache in found] == [
        ("past_key", "present_key", (1, 3)),
        ("past_value", "present_value", (1, 3)),
    ]


def test_names_of_outputs_decide_nothing():
    found = traced(decoder(present=("a", "b")), changes_io=False).caches
    assert [(cache.past, cache.present) for cache in found] == [("past_key", "a"), ("past_value", "b")]


def test_an_output_in_another_form_does_not_come_back():
    turned = ("turned = Transpose <perm = [0, 2, 1, 3]> (present_key)",)
    proto = decoder(*turned, outputs="float[n,s,v] logits, float[n,q,2,4] turned, float[n,2,q,4] present_value")
    assert [cache.past for cache in traced(proto, changes_io=True).caches] == ["past_value"]
    reasons = locked(proto, changes_io=True).values()
    assert "it is part of the graph input 'past_key'" in reasons
    assert KEPT.format("key") not in reasons


@pytest.mark.parametrize(
    ("name", "count"),
    [("genai_llama_fp32.genai", 4), ("optimum_bart_past.optimum", 4), ("optimum_bart_merged.optimum", 4)],
)
def test_caches_of_exported_decoders(name, count):
    """Keys and values of the encoder do not come back from the one, and as they were from the other."""
    found = traced(zoo(name), changes_io=False).caches
    assert len(found) == count
    assert all(cache.past.replace("past_key_values", "present") == cache.present for cache in found)


# -- what may change ---------------------------------------------------------------------------------------


def test_without_being_asked_no_cache_changes_and_the_reason_says_how():
    reasons = locked(decoder(), changes_io=False)
    assert reasons["wq:heads"] == reasons["wq:positions"] == KEPT.format("key")
    assert reasons["wv"] == KEPT.format("value")
    assert frees(reasons["wv"]) == "--change-io"


def test_when_asked_heads_and_their_dims_are_free():
    reasons = locked(decoder(), changes_io=True)
    assert [reasons[name] for name in ("wq:heads", "wq:head_dims", "wv")] == [None] * 3
    assert "it is part of the graph output 'logits'" in reasons.values()


def test_a_lock_of_another_kind_is_told_first():
    """`--change-io` is not said to free what it would not: heads of this operator have certain sizes alone."""
    reasons = locked(zoo("genai_llama_fp32.genai"), changes_io=False)
    dims = {name: reason for name, reason in reasons.items() if name.endswith("head_dims")}
    assert len(dims) == 2
    assert all(reason.startswith("its kernels take heads of 8, 16, 24 or more dims alone") for reason in dims.values())


def test_a_branch_goes_with_its_caches_when_asked():
    (kept,) = branches(traced(decoder(), changes_io=False))
    assert kept.locked == "it computes a cache, which the model gives as an output (at present_key)"
    assert frees(kept.locked) == "--change-io"
    assert kept.ports == ()
    (free,) = branches(traced(decoder(), changes_io=True))
    assert free.locked is None
    assert free.ports == ("past_key", "present_key", "past_value", "present_value")
    assert free.macs > kept.macs
