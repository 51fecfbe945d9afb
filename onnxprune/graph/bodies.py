"""Graphs inside of graphs: the branches of an If, the bodies of Loop and Scan; and copies of messages without a part.

At the bottom of this package, beside `tensors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto


def copy_fields(source: Any, target: Any, skip: set[str]) -> None:
    """Copy every set field of a message that this version of onnx knows, but those in `skip`."""
    for descriptor, value in source.ListFields():
        if descriptor.name in skip:
            continue
        if descriptor.is_repeated:
            getattr(target, descriptor.name).extend(value)
        elif descriptor.message_type:
            getattr(target, descriptor.name).CopyFrom(value)
        else:
            setattr(target, descriptor.name, value)


def graphs_of(attribute: AttributeProto) -> Iterator[GraphProto]:
    """Yield the graphs that an attribute of a node holds: a branch of If, the body of Loop or Scan."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def bodies_of(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that a node holds."""
    for attribute in node.attribute:
        yield from graphs_of(attribute)


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and all graphs inside of it."""
    yield graph
    for node in graph.node:
        for inner in bodies_of(node):
            yield from graphs(inner)


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and of all graphs inside of it."""
    for inner in graphs(graph):
        yield from inner.node


def stored_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield the tensors that a model holds: initializers and Constant nodes of all graphs and functions.

    Of sparse tensors the values; of a Constant node that holds plain numbers, a tensor of as many.
    """
    for graph in graphs(proto.graph):
        yield from graph.initializer
        yield from (sparse.values for sparse in graph.sparse_initializer)
    called = (GraphProto(node=function.node) for function in proto.functions)
    for node in (node for graph in (proto.graph, *called) for node in nodes_of(graph)):
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            yield from map(_held, node.attribute)


def _held(attribute: AttributeProto) -> TensorProto:
    """Return the tensor of an attribute of a Constant node; of plain numbers, one that has as many but holds none."""
    if attribute.HasField("t"):
        return attribute.t
    if attribute.HasField("sparse_tensor"):
        return attribute.sparse_tensor.values
    if attribute.name in ("value_float", "value_floats"):
        return TensorProto(data_type=TensorProto.FLOAT, dims=[len(attribute.floats)] * (attribute.name[-1] == "s"))
    return TensorProto(data_type=TensorProto.INT64)
