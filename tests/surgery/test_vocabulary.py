"""A model with fewer tokens computes on new ids what the original does on old ones, of the kept tokens."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.commands.steps.prepare import part_to_run
from onnxprune.dependency.trace import trace
from onnxprune.dependency.vocabulary import vocabulary
from onnxprune.evaluation.verify import verify
from onnxprune.graph.files.checks import problems
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.surgery.vocabulary import narrowed, seen_through
from tests.support.words import COUNT, LOOKUP, WIDTH, texts, words
from tests.support.zoo_store import load_zoo, read, refill

KEPT = np.array([0, 3, 4, 9, 17])
FUSED = "e, m = com.microsoft.EmbedLayerNormalization(ids, , table, places, , scale, shift)"
EQUAL = ("p = Equal(ids, pad)", "f = Cast<to=1>(p)", "g = Unsqueeze(f, last)")
AS_FLOATS = ("c = Cast<to=1>(ids)", "p = Equal(c, pad)", *EQUAL[1:])
PADDED = (LOOKUP.replace("e =", "a ="), *EQUAL, "e = Add(a, g)")
PADDED_FLOATS = (PADDED[0], *AS_FLOATS, PADDED[-1])
TURNED = ("t = Transpose<perm=[1,0]>(table)", "c = Gather<axis=1>(t, ids)", "e = Transpose<perm=[1,2,0]>(c)")
NORM = {"places": (64, WIDTH), "scale": (WIDTH,), "shift": (WIDTH,)}
FORMS = {
    "untied": words(),
    "tied": words("t = Transpose<perm=[1,0]>(table)", "z = MatMul(h, t)", "y = Add(z, bias)", bias=(COUNT,)),
    "capped": words("z = MatMul(h, head)", "u = Tanh(z)", "y = Add(u, bias)", head=(WIDTH, COUNT), bias=(COUNT,)),
    "compared": words(front=PADDED, pad=[3], last=[-1]),
    "compared as floats": words(front=PADDED_FLOATS, pad=np.array([3.0], np.float32), last=[-1]),
    "lookup alone": words("y = Relu(h)"),
    "a table of columns": words(front=TURNED),
    "a fused embedding": words(x="int32[n,s] ids", front=(FUSED,), imports='"com.microsoft" : 1', **NORM),
}
ZOO = (
    "genai_llama_fp16.genai", "genai_llama_int4.genai", "hf_mt5.dynamo", "hf_roberta.dynamo",
    "optimum_whisper_past.optimum", "hf_t5_encoder.dynamo",
)  # fmt: skip


def cut(proto, kept):
    """Return the original, the smaller model, and the original behind the map."""
    model = part_to_run(load(proto), {})
    seen = vocabulary(model)
    return model, narrowed(seen, kept).proto, seen_through(seen, kept)


def proof(proto, kept):
    model, small, behind = cut(proto, kept)
    assert problems(small) is None or problems(model.proto) is not None
    through = part_to_run(view(behind, folder=model.folder, is_plain=True), {})
    return verify(trace(through), {}, view(small, folder=model.folder))


def outputs(proto, ids):
    session = ort.InferenceSession(proto.SerializeToString())
    return session.run(None, {"ids": ids.astype(np.int32 if "int32" in session.get_inputs()[0].type else np.int64)})[0]


@pytest.mark.parametrize("form", FORMS)
def test_new_ids_give_what_old_ones_gave(form):
    model, small, behind = cut(FORMS[form], KEPT)
    new = texts(below=len(KEPT))
    expected = outputs(model.proto, KEPT[new])
    expected = expected[..., KEPT] if expected.shape[-1] == COUNT else expected
    np.testing.assert_allclose(outputs(small, new), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs(behind, new), expected, rtol=1e-5, atol=1e-5)
    assert small.ByteSize() < model.proto.ByteSize()
    assert proof(FORMS[form], KEPT).passed


def test_the_proof_sees_a_wrong_map():
    model, small, _ = cut(FORMS["untied"], KEPT)
    _, _, other = cut(FORMS["untied"], np.array([0, 3, 4, 9, 18]))
    through = part_to_run(view(other, folder=model.folder, is_plain=True), {})
    assert "differs from the masked model" in str(verify(trace(through), {}, view(small)).problem)


def test_a_tied_table_is_stored_once():
    proto = words("t = Transpose<perm=[1,0]>(table)", "y = MatMul(h, t)")
    _, small, _ = cut(proto, KEPT)
    assert [list(each.dims) for each in small.graph.initializer if each.name.startswith("table")] == [[5, WIDTH]]


def test_an_id_that_ids_are_compared_with_and_that_is_gone_is_equal_to_none():
    _, small, _ = cut(FORMS["compared"], np.array([1, 2]))
    (pad,) = [each for each in small.graph.initializer if each.name == "pad_renumbered"]
    assert np.frombuffer(pad.raw_data, np.int64).tolist() == [-1]


@settings(max_examples=6, deadline=None)
@given(st.sets(st.integers(0, COUNT - 1), min_size=1), st.sampled_from(sorted(FORMS)))
def test_any_tokens_may_be_kept(kept, form):
    assert proof(FORMS[form], np.array(sorted(kept))).passed


@pytest.mark.parametrize("name", ZOO)
def test_graphs_of_the_zoo(name):
    proto = refill(read(load_zoo()[name].path), 0)
    model = part_to_run(load(proto), {})
    size = vocabulary(model).size
    kept = np.sort(np.random.default_rng(0).permutation(size)[: size // 2])
    assert proof(proto, kept).passed
