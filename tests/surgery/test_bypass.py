"""A linear map of zeros beside a branch: the model computes what it did."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.dependency.branches import branches
from onnxprune.dependency.bypass import Bypass, bypass_of
from onnxprune.dependency.trace import trace
from onnxprune.evaluation.verify import verify
from onnxprune.graph.read import load
from onnxprune.graph.view import view
from onnxprune.surgery.bypass import bypassed
from tests.support.build import model
from tests.support.paths import MODELS
from tests.support.zoo_store import load_zoo, read, refill

CONV = (
    "c = Conv<pads = [1, 1, 1, 1]>(x, w1)", "r = Relu(c)", "o = Conv(r, w2)", "s = Add(o, x)", "y = Relu(s)",
)  # fmt: skip
ZOO = ("hf_bert.torchscript", "hf_bert_sdpa.dynamo")


def with_maps(source):
    """Return a model traced, and the same with maps beside all branches that can have one, with what each gives."""
    traced = trace(load(source))
    each = [bypass for branch in branches(traced) if isinstance(bypass := bypass_of(traced, branch), Bypass)]
    made = bypassed(traced.model, each, traced.probe.dtype)
    return traced, view(made.rewritten.proto, folder=traced.model.folder), made.values


def checked(source):
    traced, whole, values = with_maps(source)
    verification = verify(traced, {}, whole)
    assert verification.passed, verification.problem
    assert verification.max_rel_diff < 1e-6  # sums are fused otherwise where there is one more
    found = {branch.value for branch in branches(trace(whole))}
    assert set(values.values()) <= found  # a map is a branch of its own
    names = {branch.name for branch in branches(traced)}
    assert names <= {branch.name for branch in branches(trace(whole))}  # the others are as they were
    return whole, values


@pytest.mark.parametrize("name", ["vit", "resnet_bn", "mobilenet", "resnet_folded"])
def test_bundled_models_compute_what_they_did(name):
    _, values = checked(MODELS / f"{name}.onnx")
    assert values


@pytest.mark.parametrize("name", ZOO)
def test_exported_models_compute_what_they_did(name):
    _, values = checked(refill(read(load_zoo()[name].path)))
    assert values


def test_convolutional_branches_have_maps_of_one_tap():
    whole, values = checked(model(*CONV, x="float[b,6,9,9] x", w1=(4, 6, 3, 3), w2=(6, 4, 1, 1)))
    assert values == {"o": "o_linear"}
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
    _, values = checked(proto)
    assert values == {"o": "o_linear_2"}
