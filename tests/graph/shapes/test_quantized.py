"""Shapes of the quantized ops of com.microsoft are those that ONNX Runtime gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.graph.files.read import load
from onnxprune.graph.model import Node
from onnxprune.graph.shapes.probe import probe
from onnxprune.graph.shapes.quantized import SHAPES
from onnxprune.runtime.random_feeds import random_feeds
from onnxprune.runtime.session import open_session
from tests.dependency.rules.cases import CASES
from tests.support.build import conv, model

CONTRIBUTED = [case for case in CASES if case.op in SHAPES and not case.trace_only]


@pytest.mark.parametrize("case", CONTRIBUTED, ids=str)
def test_shapes_and_types_are_those_of_the_runtime(case):
    loaded = load(case.proto)
    found = probe(loaded)
    names = [name for node in loaded.nodes if node.op in SHAPES for name in node.outputs if name]
    exposed = onnx.ModelProto.FromString(case.proto.SerializeToString())
    present = {port.name for port in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    feeds = random_feeds(loaded.inputs, found.first.dims, 0)
    given = open_session(exposed.SerializeToString()).run(feeds)
    assert names
    for name in names:
        assert (found.shape(name), found.dtype(name)) == (given[name].shape, given[name].dtype)


def test_every_function_has_a_case():
    assert {case.op for case in CONTRIBUTED} == set(SHAPES)


POOL = "com.microsoft.QLinearAveragePool"


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape=[3, 2], strides=[2, 3]",
        "kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 1]",
        "kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1",
        'kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"',
        'kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"',
        'kernel_shape=[3, 3], strides=[2, 2], auto_pad="VALID"',
    ],
)
def test_pooled_sides(attributes):
    proto = conv(
        "q = QuantizeLinear(a, s, z)", f"p = {POOL}<{attributes}>(q, s, z, s, z)", "b = DequantizeLinear(p, s, z)",
        s=0.05, z=np.uint8(7), x="float[2,3,8,9] x", y="float[2,5,k,l] y", imports='"com.microsoft": 1'
    )  # fmt: skip
    given = open_session(proto.SerializeToString()).run({"x": np.zeros((2, 3, 8, 9), np.float32)})
    assert probe(load(proto)).shape("y") == given["y"].shape


def test_inputs_that_do_not_fit_give_no_shape():
    proto = model(
        "p = com.microsoft.QLinearAdd(x, s, z, k, s, z, s, z)", "y = DequantizeLinear(p, s, z)", x="uint8[n,6] x",
        y="float[n,6] y", k=np.zeros((7,), np.uint8), s=0.05, z=np.uint8(7), imports='"com.microsoft": 1'
    )  # fmt: skip
    assert probe(load(proto)).shape("p") is None


def test_an_unknown_input_gives_no_shape():
    node = Node(0, "a", "com.microsoft.QGemm", 1, ("x", "s", "z", "w"), ("y",), {})
    with pytest.raises(TypeError, match="the type of input 0 is unknown"):
        SHAPES[node.op](node, [None] * 4, {})
