"""Shapes that the table states are those that the runtime gives."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest

from onnxprune.evaluation.settings import settings
from onnxprune.graph.files.read import load
from onnxprune.graph.shapes.operators import SHAPES
from onnxprune.graph.shapes.probe import probe
from onnxprune.graph.view import view
from onnxprune.runtime.random_feeds import random_feeds
from onnxprune.runtime.session import open_session
from tests.dependency.rules.fused_cases import FUSED
from tests.support.build import conv, model

RUNNABLE = [case for case in FUSED if not case.trace_only and case.op in SHAPES]


def running_shapes(proto, dims):
    """Return the shape of every value between nodes, and the sizes of the dims, as the runtime has them."""
    taped = onnx.ModelProto()
    taped.CopyFrom(proto)
    known = {info.name for info in taped.graph.output}
    names = dict.fromkeys(name for node in taped.graph.node for name in node.output if name)
    taped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(taped.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(None, random_feeds(view(proto).inputs, dims, 0))
    return {info.name: value.shape for info, value in zip(session.get_outputs(), values, strict=True)}


@pytest.mark.parametrize("case", RUNNABLE, ids=str)
def test_shapes_are_those_of_the_runtime(case):
    loaded = load(case.proto)
    dims = settings(loaded, open_session(case.proto.SerializeToString()))[0].dims
    fixed = onnx.ModelProto()
    fixed.CopyFrom(case.proto)
    for info in fixed.graph.input:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = dims[dim.dim_param]
    del fixed.graph.value_info[:]
    found = probe(view(fixed))
    real = running_shapes(case.proto, dims)
    made = {name for node in loaded.nodes if node.op == case.op for name in node.outputs}
    named = {name: shape for name, shape in real.items() if name in made}
    assert named
    assert {name: found.shape(name) for name in named} == named


def shape_of(proto, name="b"):
    return probe(view(proto)).shape(name)


def test_attributes_that_the_standard_operator_does_not_know_are_dropped():
    text = 'b = com.microsoft.FusedConv<activation="Relu", strides=[2, 2]>(a, k)'
    assert shape_of(conv(text, k=(4, 8, 3, 3), imports='"com.microsoft" : 1', infer=False))[1:] == (4, 2, 2)


@pytest.mark.parametrize(
    "text",
    [
        "b = com.microsoft.FusedConv(a)",
        "b = com.microsoft.FusedConv(a, k)",
        "b = com.microsoft.FusedMatMul(a, w9)",
        "b = com.microsoft.Pad(a, a)",
        "b = com.microsoft.Attention(a, k)",
        "b = com.microsoft.Unheard(a)",
        "b = com.microsoft.RotaryEmbedding()",
    ],
)
def test_what_does_not_fit_is_unknown(text):
    assert shape_of(conv(text, k=(4, 8, 3), imports='"com.microsoft" : 1', infer=False)) is None


def test_stated_shapes_come_last():
    proto = model("y = com.microsoft.Gelu(x)", y="float[9] y", imports='"com.microsoft" : 1', infer=False)
    assert shape_of(proto, "y")[1:] == (3, 6, 6)


@pytest.mark.parametrize(
    ("text", "weights", "shape"),
    [
        ("b = com.microsoft.RelativePositionBias(r, five, seven)", {"r": (8, 4)}, (1, 4, 5, 7)),
        ("b = com.microsoft.BiasAdd(x, c, x)", {"c": (6,)}, (6, 6)),
        ("b = com.microsoft.BiasSplitGelu(x, c)", {"c": (6,)}, (6, 3)),
        ("b = com.microsoft.GatedRelativePositionBias(x, x, r)", {"r": (1, 4, 6, 6)}, (6, 4, 6, 6)),
        ("b = com.microsoft.FusedMatMul<transB=1>(v, r)", {"v": (6,), "r": (5, 6)}, (5,)),
        (
            "b = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>(q, q, q, , , five, x)",
            {"q": (2, 5, 16)},
            (2, 5, 16),
        ),
        ("b = com.microsoft.nchwc.ReorderInput<channels_last=1>(q)", {"q": (2, 5, 6, 16)}, (2, 16, 5, 6)),
        ("b = com.microsoft.nchwc.ReorderOutput<channels=14, channels_last=1>(q)", {"q": (2, 16, 5, 6)}, (2, 5, 6, 14)),
    ],
)
def test_operators_without_a_kernel_here(text, weights, shape):
    proto = model(
        text, "y = Identity(b)", x="float[6,6] x", five=[5], seven=[7], infer=False,
        imports='"com.microsoft" : 1, "com.microsoft.nchwc" : 1', **weights
    )  # fmt: skip
    assert shape_of(proto) == shape
