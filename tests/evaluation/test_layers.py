"""Layers of two models: what they cost, and which kernels count for which."""

from __future__ import annotations

import pytest

from onnxprune.dependency import cost
from onnxprune.dependency.trace import trace
from onnxprune.evaluation.layers import layer_values, layers, op_values, times_by_layer
from onnxprune.graph.read import load
from onnxprune.runtime.timing import NodeTime
from tests.support.paths import MODELS


@pytest.mark.parametrize("name", ["vit", "resnet_bn", "mobilenet"])
def test_layers_have_all_multiplications_and_weights(name):
    traced = trace(load(MODELS / f"{name}.onnx"))
    found = layers(traced)
    assert sum(layer.macs for layer in found) == cost.macs(traced)
    assert {layer.node for layer in found if layer.params} <= {node.name for node in traced.model.nodes}
    order = [node.name for node in traced.model.nodes]
    assert [layer.node for layer in found] == sorted((layer.node for layer in found), key=order.index)


def test_what_one_model_lacks_costs_nothing_there():
    found = layers(trace(load(MODELS / "resnet_bn.onnx")))
    values = layer_values(found, found[1:], ({found[0].node: 1.5}, {}))
    assert values[0]["macs"] == [found[0].macs, 0]
    assert values[0]["shapes"] == [list(found[0].shape), None]
    assert values[0]["ms"] == [1.5, 0.0]
    assert [each["node"] for each in layer_values(found[1:], found)][-1] == found[0].node


def kernels(*pairs):
    return [NodeTime(name, "Conv", ms, ()) for name, ms in pairs]


def test_every_kernel_counts_for_one_layer():
    model = load(MODELS / "resnet_bn.onnx")
    known = [layer.node for layer in layers(trace(model))]
    first, block = "/stem/conv/Conv", "/stage1/stage1.0/first/conv/Conv"
    ran = kernels(
        ("ReorderInput", 1.0),  # means no node, and none ran before: the first layer
        ("/Relu_output_0_nchwc", 2.0),  # named after a value, behind the first layer
        (f"fused {block}", 4.0),
        ("ReorderOutput", 8.0),  # counts for the one before
    )
    times = times_by_layer(model, known, ran)
    behind = next(node for node in reversed(known[: known.index(block)]))
    assert times[block] == 12.0
    assert sum(times.values()) == 15.0
    assert times[first] + (times[behind] if behind != first else 0.0) == 3.0


def test_types_of_kernels_are_added_up():
    before, after = kernels(("a", 1.0), ("b", 2.0)), kernels(("a", 0.5))
    assert op_values(before, after) == [{"op": "Conv", "nodes": [2, 1], "ms": [3.0, 0.5]}]
