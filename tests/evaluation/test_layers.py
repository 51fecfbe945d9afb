"""Layers of two models: what they cost, and which kernels count for which."""

from __future__ import annotations

import dataclasses
import math

import pytest
from onnx import TensorProto, helper

import onnxprune
from onnxprune.dependency import cost
from onnxprune.dependency.trace import trace
from onnxprune.evaluation.layers import layer_values, layers, op_values, standing_for, times_by_layer
from onnxprune.graph.files.read import load
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
    assert [each["node"] for each in layer_values(found[1:], found)] == [each.node for each in found]


def test_layers_in_eight_bits_stand_for_those_they_were_made_of():
    """Dynamic forms have other nodes in the place of each: none costs nothing, none costs more, none is new."""
    before = trace(load(MODELS / "vit.onnx"))
    data = str(MODELS / "mnist_calibration.npz")
    quantized = onnxprune.quantize(MODELS / "vit.onnx", "int8-dynamic", data=data, samples=8, latency=False)
    after = trace(load(quantized.model))
    both, meant = (layers(before), layers(after)), standing_for(before.model, after.model)
    values = layer_values(*both, ({}, {layer.node: 1.0 for layer in both[1]}), meant)
    assert [each["node"] for each in values] == [layer.node for layer in both[0]]
    assert [each["macs"][0] for each in values] == [each["macs"][1] for each in values]
    assert all(each["params"][1] for each in values if each["params"][0])
    assert sum(each["params"][1] for each in values) == sum(layer.params for layer in both[1])
    assert sum(each["ms"][1] for each in values) == len(both[1]), "times go with their nodes"
    shapes = [(set(old), set(new)) for old, new in (each["shapes"] for each in values) if old or new]
    assert all(old == new for old, new in shapes), "of the weight, no scale of it"


def test_what_stands_for_nothing_comes_behind_the_layer_in_front_of_it():
    found = layers(trace(load(MODELS / "resnet_bn.onnx")))
    other = dataclasses.replace(found[2], node="new")
    names = [each["node"] for each in layer_values(found, (*found[:2], other, *found[2:]))]
    assert names.index("new") == 2


def test_the_largest_weight_has_the_most_numbers_not_the_most_axes():
    shapes = {"c": (1, 1, 6), "d": (64, 6)}
    held = [
        helper.make_tensor(key, TensorProto.FLOAT, shape, [1.0] * math.prod(shape)) for key, shape in shapes.items()
    ]
    ports = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("x", [64, 6]), ("y", [1, 64, 6]))
    ]
    graph = helper.make_graph([helper.make_node("Sum", ["x", "c", "d"], ["y"], name="sum")], "g", *ports, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert [layer.shape for layer in layers(trace(load(model)))] == [(64, 6)]


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
