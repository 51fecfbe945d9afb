"""Names: those of nodes, which ONNX leaves free and ONNX Runtime wants to differ, and names for new values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from onnx import ModelProto, NodeProto

from onnxprune.graph.bodies import copy_fields, graphs

if TYPE_CHECKING:
    from onnxprune.graph.model import Model


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


class FreshNames:
    """Gives names for new values of a model: as they are wanted, with a number where there is such a name."""

    def __init__(self, model: Model) -> None:
        """Take a model in plain form, or a part of one: names are new in the whole file."""
        file = model.file
        self._taken = {name for node in file.nodes for name in (*node.inputs, *node.outputs)}
        self._taken.update(file.constants, (port.name for port in file.inputs))
        self._taken.update(port.name for node in file.nodes for body in node.bodies for port in body.inputs)

    def fresh(self, wanted: str) -> str:
        """Return a name that no value has, and that is not given again."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name
