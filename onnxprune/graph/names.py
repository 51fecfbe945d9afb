"""Names of nodes: ONNX leaves them free, ONNX Runtime refuses a graph with two nodes of one name."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, NodeProto

from onnxprune.graph.bodies import copy_fields, graphs


def uniquely_named(proto: ModelProto) -> ModelProto:
    """Return the same model with names of nodes that differ within each graph: the first keeps its name.

    It is `proto` itself where they do; nodes without a name have none afterwards.
    """
    if not any(_namesakes(graph.node) for graph in graphs(proto.graph)):
        return proto
    copy = ModelProto()
    copy_fields(proto, copy, skip={"graph"})  # field by field: as a whole, more than 2 GB do not go into a message
    copy_fields(proto.graph, copy.graph, skip={"node"})
    copy.graph.node.extend(proto.graph.node)
    for graph in graphs(copy.graph):
        taken = {node.name for node in graph.node}
        for node in _namesakes(graph.node):
            node.name = _unused(node.name, taken)
    return copy


def _namesakes(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """Return the nodes that have the name of one before them."""
    seen: set[str] = set()
    again = []
    for node in nodes:
        if node.name and node.name in seen:
            again.append(node)
        seen.add(node.name)
    return again


def _unused(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    taken.add(f"{name}_{number}")
    return f"{name}_{number}"
