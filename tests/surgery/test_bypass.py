"""A linear map of zeros beside a branch: the model computes what it did."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.dependency.branches import branches, branches_at, place_of
from onnxprune.dependency.bypass import Bypass, bypass_of
from onnxprune.dependency.trace import trace
from onnxprune.evaluation.verify import verify
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.surgery.bypass import bypassed
from tests.support.build import model
from tests.support.paths import MODELS
from tests.support.zoo_store import load_zoo, read, refill

CONV = (
    "c = Conv<pads = [1, 1, 1, 1]>(x, w1)", "r = Relu(c)", "o = Conv(r, w2)", "s = Add(o, x)", "y = Relu(s)",
)  # fmt: skip
INNER = (
    "n = Tanh(x)", "t = MatMul(n, wt)", "k = Relu(t)", "o = MatMul(k, wo)", "u = Add(n, o)", "y = Add(x, u)",
)  # fmt: skip
ZOO = ("hf_bert.torchscript", "hf_bert_sdpa.dynamo")


def checked(source):
    """Return a model with maps beside all branches that can have one, proven to be what it was, and its maps."""
    traced = trace(load(source))
    found = branches(traced)
    each = [bypass for branch in found if isinstance(bypass := bypass_of(traced, branch), Bypass)]
    made = bypassed(traced.model, each, traced.probe.dtype)
    whole = view(made.rewritten.proto, folder=traced.model.folder)
    verification = verify(traced, {}, whole)
    assert verification.passed, verification.problem
    assert verification.max_rel_diff < 1e-6  # sums are fused otherwise where there is one more
    places = {branch.name: place_of(traced, branch) for branch in found}
    places |= {name: (total, 0) for name, total in made.sums.items()}
    maps = {name + "'s": (total, 1) for name, total in made.sums.items()}
    again = branches_at(trace(whole), {**places, **maps})
    own = {branch.name: branch.macs for branch in again}
    assert all(own[branch.name] >= branch.macs for branch in found)  # with the maps inside of them
    assert all(own[name] for name in maps)
    return whole, made


@pytest.mark.parametrize("name", ["vit", "resnet_bn", "mobilenet", "resnet_folded"])
def test_bundled_models_compute_what_they_did(name):
    _, made = checked(MODELS / f"{name}.onnx")
    assert made.sums


@pytest.mark.parametrize("name", ZOO)
def test_exported_models_compute_what_they_did(name):
    _, made = checked(refill(read(load_zoo()[name].path)))
    assert made.sums


def test_convolutional_branches_have_maps_of_one_tap():
    whole, made = checked(model(*CONV, x="float[b,6,9,9] x", w1=(4, 6, 3, 3), w2=(6, 4, 1, 1)))
    assert (made.sums, made.weights) == ({"o": "o_linear_added"}, {"o": "o_linear_weight"})
    shapes = {tensor.name: tuple(tensor.dims) for tensor in whole.proto.graph.initializer}
    assert (shapes["o_linear_weight"], shapes["o_linear_bias"]) == ((6, 6, 1, 1), (6,))
    (conv,) = (node for node in whole.proto.graph.node if node.output[0] == "o_linear")
    assert (conv.op_type, list(conv.input)) == ("Conv", ["x", "o_linear_weight", "o_linear_bias"])


def test_maps_have_the_type_of_what_is_added():
    proto = model(
        "o = MatMul(x, w)", "y = Add(x, o)", x="float16[b,8] x", y="float16[b,8] y", w=np.ones((8, 8), np.float16)
    )
    whole, _ = checked(proto)
    kinds = {tensor.name: tensor.data_type for tensor in whole.proto.graph.initializer}
    assert kinds["o_linear_weight"] == kinds["o_linear_bias"] == onnx.TensorProto.FLOAT16


def test_a_name_that_is_taken_is_not_given_twice():
    proto = model(
        "o = MatMul(x, w)", "s = Add(x, o)", "y = Add(s, o_linear)", x="float[b,8] x", w=(8, 8), o_linear=(8,)
    )
    whole, made = checked(proto)
    assert made.weights == {"o": "o_linear_weight"}
    assert "o_linear_2" in {name for node in whole.proto.graph.node for name in node.output}


def test_a_branch_that_is_a_sum_inside_of_it_is_found_at_its_place():
    """Beside its map, it would be taken for a stream of its own that the map is added to."""
    _, made = checked(model(*INNER, x="float[b,8] x", wt=(8, 8), wo=(8, 8)))
    assert set(made.sums) == {"o", "u"}
