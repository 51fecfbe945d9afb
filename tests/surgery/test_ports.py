"""What a cut changes of inputs and outputs: the arrays that go through them, and the signature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxprune.data.samples import load_data
from onnxprune.dependency.branches import branches
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.evaluation.verify import verify
from onnxprune.graph.edit import with_contents
from onnxprune.graph.files.read import load
from onnxprune.graph.ports import Port, taken
from onnxprune.graph.shapes.probe import settled
from onnxprune.graph.view import view
from onnxprune.surgery.depth import without
from onnxprune.surgery.ports import UNCHANGED, PortChanges, port_changes
from onnxprune.surgery.rewrite import rewrite
from tests.support.decoder import decoder
from tests.support.zoo_store import load_zoo, read, refill

SECOND = np.array([False, True])


def traced(proto=None):
    return trace(replace(settled(load(proto or decoder())), changes_io=True))


def kept_of(found, **masks):
    atoms = {group.name: group.atom for group in groups(found)}
    return {atoms[name.replace("_", ":", 1)]: np.array(mask, bool) for name, mask in masks.items()}


def dims(proto):
    return {
        port.name: [dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim]
        for port in (*proto.graph.input, *proto.graph.output)
    }


# -- arrays --------------------------------------------------------------------------------------------------


def test_arrays_lose_what_ports_lose():
    changes = PortChanges({"past": {1: SECOND}}, frozenset(["gone"]))
    arrays = {"past": np.arange(6).reshape(1, 2, 3), "gone": np.zeros(1), "ids": np.ones(2)}
    left = changes.of(arrays)
    assert sorted(left) == ["ids", "past"]
    assert left["past"].tolist() == [[[3, 4, 5]]]
    ports = [Port("past", np.dtype("f4"), ("n", 2, "p")), Port("gone", None, None), Port("other", None, None)]
    assert [(port.name, port.shape) for port in changes.ports(ports)] == [("past", ("n", 1, "p")), ("other", None)]
    assert changes
    assert not UNCHANGED


def test_feeds_of_larger_caches_are_cut_to_the_first_units():
    feeds = {"past": np.arange(8).reshape(1, 2, 4), "ids": np.ones((1, 3)), "scalar": np.float32(1)}
    cut = taken(feeds, {"past": ("n", 1, None), "scalar": ()})
    assert cut["past"].tolist() == [[[0, 1, 2, 3]]]
    assert sorted(cut) == ["past", "scalar"]


# -- heads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("masks", "sizes"),
    [
        ({"wq_heads": SECOND}, {"key": (1, 4), "value": (1, 4)}),
        ({"wq_head_dims": [1, 0, 0, 1]}, {"key": (2, 2), "value": (2, 4)}),
        ({"wv": [0, 1, 1, 1]}, {"key": (2, 4), "value": (2, 3)}),
        ({"wq_heads": SECOND, "wq_head_dims": [1, 1, 1, 0], "wv": [1, 0, 0, 0]}, {"key": (1, 3), "value": (1, 1)}),
    ],
)
def test_past_and_present_lose_the_same_and_masked_is_pruned(masks, sizes):
    found = traced()
    kept = kept_of(found, **masks)
    proto = rewrite(found, kept).proto
    for name, (heads, inner) in sizes.items():
        assert dims(proto)[f"past_{name}"] == ["n", heads, "p", inner]
        assert dims(proto)[f"present_{name}"] == ["n", heads, "q", inner]
    proof = verify(found, kept, view(proto))
    assert proof.passed, proof.problem
    lengths = [run.dims["p"] for run in proof.runs]
    assert lengths[0] == 0
    assert max(lengths) > 1000


def test_the_wrong_units_of_a_cache_are_found_wrong():
    """The first head is kept of what makes the queries, the second of the rest: every shape is right."""
    found = traced()
    kept = kept_of(found, wq_heads=SECOND)
    right = view(rewrite(found, kept).proto)
    wrong = with_contents(right, {"wk": found.model.array("wk")[:, :4]})
    problem = verify(found, kept, view(wrong)).problem
    assert "differs from the masked model by" in problem


def test_a_signature_that_lost_something_else_is_found_wrong():
    found = traced()
    kept = kept_of(found, wq_heads=SECOND)
    proto = rewrite(found, kept).proto
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 3
    assert verify(found, kept, view(proto)).problem == "the pruned model has other inputs or outputs than the original"


# -- whole attentions ------------------------------------------------------------------------------------------


def shortened(proto):
    found = traced(proto)
    cut = without(found.model, branches(found), found.probe.dtype)
    proof = verify(found, {}, view(cut.rewritten.proto), gone=cut.branches)
    assert proof.passed, proof.problem
    return cut


def test_an_attention_goes_with_its_caches():
    proto = shortened(decoder()).rewritten.proto
    assert list(dims(proto)) == ["input_ids", "logits"]
    assert [node.op_type for node in proto.graph.node] == ["Gather", "Identity", "MatMul"]
    assert sorted(tensor.name for tensor in proto.graph.initializer) == ["head", "table"]


def test_a_past_whose_length_others_read_stays_where_no_other_tells_it():
    cut = shortened(decoder(measured=True))
    assert list(dims(cut.rewritten.proto)) == ["input_ids", "past_key", "logits"]
    (branch,) = cut.branches
    assert branch.ports == ("present_key", "past_value", "present_value")


def test_a_length_is_read_off_another_cache_where_one_of_its_shape_stays():
    found = traced(refill(read(load_zoo()["optimum_llama.optimum"].path)))
    (first,) = [each for each in branches(found) if "past_key_values.0.key" in each.ports]
    cut = without(found.model, [first], found.probe.dtype)
    proto = cut.rewritten.proto
    measured = {node.input[0] for node in proto.graph.node if node.op_type == "Shape"}
    assert "past_key_values.1.key" in measured
    assert not any(name.startswith(("past_key_values.0", "present.0")) for name in dims(proto))
    ids = np.random.default_rng(0).integers(3, 90, (4, 6))
    data = load_data({"input_ids": ids}, found.model.inputs)
    proof = verify(found, {}, view(proto), data, gone=cut.branches)
    assert proof.passed, proof.problem
    assert any(run.dims["past_sequence_length"] for run in proof.runs)


def test_port_changes_tell_gone_from_cut():
    found = traced()
    changes = port_changes(found, kept_of(found, wq_heads=SECOND), branches(found))
    assert changes.kept == {}
    assert changes.gone == {"past_key", "past_value", "present_key", "present_value"}


def test_models_with_other_caches_pass_the_checker():
    onnx.checker.check_model(shortened(decoder()).rewritten.proto, full_check=True)
