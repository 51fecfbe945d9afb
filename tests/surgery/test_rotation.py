"""A stream in other directions: the graph computes what it did, whatever they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.commands.steps.prepare import part_to_run
from onnxprune.dependency.blocks import entries
from onnxprune.dependency.branches import branches
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.dependency.turning import frames_of
from onnxprune.evaluation.verify import verify
from onnxprune.graph.effective import ConstantValues
from onnxprune.graph.files.checks import problems
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.planning.slicing import streams_of
from onnxprune.surgery.rotation import turned
from tests.support.build import model
from tests.support.paths import ZOO
from tests.support.streams import FORMS, WIDTH, network
from tests.support.zoo_store import load_zoo, read, refill

DECODERS = ("hf_llama.torchscript.ort_extended", "hf_gpt_neox.torchscript", "hf_opt.torchscript", "hf_t5.torchscript")


def orthogonal(size, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def turn(proto, *, each=False, basis=orthogonal):
    """Turn the first stream of a model; return the turned model, the proof, and what was found."""
    part = part_to_run(load(proto), {})
    traced = trace(part)
    (stream, *_), arrays = streams_of(traced, groups(traced)), ConstantValues(part)
    parted = entries(traced, branches(traced)) if each else {}
    frames = frames_of(traced, stream.atom, parted, arrays)
    bases = {frame: basis(stream.atom.size, frame) for frame in frames.signals}
    rewritten = turned(traced, frames, bases, arrays)
    after = view(rewritten.proto, folder=part.folder)
    names = {
        name for name, axes in traced.values.items() if any(stream.atom in traced.partition.atoms(a) for a in axes)
    }
    return after, verify(traced, {}, after, rewritten=names), frames


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_turned_network_computes_what_it_did(form, each):
    proto = network(form)
    after, proof, frames = turn(proto, each=each)
    assert proof.passed, proof.problem
    assert proof.max_rel_diff < 1e-5
    assert problems(after.proto) is None or problems(proto) is not None
    assert len(frames.signals) == (3 if each else 1)
    assert len(frames.steps) == (2 if each else 0)
    assert frames.centred == ("layer" in form)
    assert not any(node.op_type in ("LayerNormalization", "SkipLayerNormalization") for node in after.proto.graph.node)


def test_directions_that_are_not_orthogonal_are_found_out():
    _, proof, _ = turn(network("rms"), basis=lambda size, seed: orthogonal(size, seed) * 1.05)
    assert not proof.passed


def test_scales_of_branches_go_into_the_layers_that_make_them():
    after, proof, _ = turn(network("layer", scaled=True))
    assert proof.passed, proof.problem
    assert "k0" not in after.constants
    assert "k1" not in after.constants


def test_a_table_that_the_head_shares_becomes_two():
    after, proof, _ = turn(network("rms", tied=True))
    assert proof.passed, proof.problem
    assert sorted(constant.shape for constant in after.constants.values() if 11 in constant.shape) == [
        (11, 24),
        (24, 11),
    ]


def test_half_precision_is_normalised_in_single():
    after, proof, _ = turn(network("layer", dtype="float16"))
    assert proof.passed, proof.problem
    casts = [node for node in after.proto.graph.node if node.op_type == "Cast"]
    assert [node.attribute[0].i for node in casts] == [1, 10] * 3


def test_constants_that_are_turned_twice_are_rounded_once():
    """A layer from the stream to the stream, in half precision: read in one frame, written in another."""
    nodes = ["n = RMSNormalization(s, g)", "o = MatMul(n, both)", "t = Add(s, o)", "m = RMSNormalization(t, g)"]
    weights = {"w": (16, WIDTH), "both": (WIDTH, WIDTH), "g": np.ones(WIDTH, np.float16), "h": (WIDTH, 5)}
    proto = model(
        "s = MatMul(x, w)",
        *nodes,
        "y = MatMul(m, h)",
        x="float16[n,s,16] x",
        y="float16[n,s,5] y",
        opset=23,
        dtype="float16",
        **weights,
    )
    after, proof, frames = turn(proto)
    assert proof.passed, proof.problem
    basis = orthogonal(WIDTH, next(iter(frames.signals)))
    expected = basis.T @ load(proto).array("both").astype(np.float64) @ basis
    np.testing.assert_array_equal(after.array("both"), expected.astype(np.float16))


def test_old_opsets_take_axes_as_an_attribute():
    proto = network("layer")
    proto.opset_import[0].version = 17
    after, proof, _ = turn(proto)
    assert proof.passed, proof.problem
    means = [node for node in after.proto.graph.node if node.op_type == "ReduceMean"]
    assert all(len(node.input) == 1 and node.attribute[0].ints == [-1] for node in means if node.attribute[0].ints)


def test_what_a_layer_gives_may_be_an_output_as_well():
    """An offset is not taken over by the sum behind the layer then."""
    proto = network("layer")
    proto.graph.output.append(onnx.helper.make_tensor_value_info("e0", onnx.TensorProto.FLOAT, ["n", "s", 32]))
    after, proof, _ = turn(proto)
    assert proof.passed, proof.problem
    assert any("e0_shift" in node.input for node in after.proto.graph.node)


@settings(max_examples=20, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    blocks=st.integers(1, 4),
    each=st.booleans(),
    scaled=st.booleans(),
    tied=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_network_in_any_directions(form, blocks, each, scaled, tied, seed):
    proto = network(form, blocks, scaled=scaled, tied=tied)
    _, proof, _ = turn(proto, each=each, basis=lambda size, frame: orthogonal(size, seed + frame))
    assert proof.passed, proof.problem


@pytest.mark.parametrize("name", [name for name in DECODERS if name in load_zoo()])
def test_exported_networks_are_turned(name):
    proto = refill(read(ZOO / f"{name}.onnx.gz"))
    for each in (False, True):
        _, proof, frames = turn(proto, each=each)
        assert proof.passed, proof.problem
        assert (len(frames.signals) > 1) == each


def test_the_width_is_that_of_the_network():
    after, _, frames = turn(network("rms"))
    assert frames.atom.size == WIDTH
    assert after.constants["w"].shape == (16, WIDTH)
