"""The order of nodes: ONNX asks for a topological one, ONNX Runtime takes any, and some converters write any.

https://github.com/onnx/onnx/blob/main/docs/IR.md#graphs
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, MutableSequence, Sequence

from onnx import GraphProto, ModelProto, NodeProto

from onnxprune.graph.bodies import bodies_of, copy_fields, graphs


def in_order(proto: ModelProto) -> ModelProto:
    """Return the same model with the nodes of every graph and function after those that they read.

    It is `proto` itself where they are. Of nodes that could come next, the one that came first before does; nodes of a
    cycle stay as they are, for the checker to name.
    """
    if all(_order(nodes) is None for nodes in _lists(proto)):
        return proto
    copy = ModelProto()
    copy_fields(proto, copy, skip={"graph"})  # field by field: as a whole, more than 2 GB do not go into a message
    copy_fields(proto.graph, copy.graph, skip={"node"})
    copy.graph.node.extend(proto.graph.node)
    for nodes in reversed(list(_lists(copy))):  # bodies before the graph whose nodes hold them
        order = _order(nodes)
        if order is not None:
            moved = [NodeProto.FromString(nodes[place].SerializeToString()) for place in order]
            del nodes[:]
            nodes.extend(moved)
    return copy


def _lists(proto: ModelProto) -> Iterator[MutableSequence[NodeProto]]:
    """Yield the nodes of every graph and function, and after these the nodes of their bodies."""
    for function in proto.functions:
        yield function.node
        yield from (graph.node for node in function.node for body in bodies_of(node) for graph in graphs(body))
    yield from (graph.node for graph in graphs(proto.graph))


def _order(nodes: Sequence[NodeProto]) -> list[int] | None:
    """Return the places of the nodes in a topological order; None where they are in one, or in a cycle."""
    made = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    needs = [{made[name] for name in _reads(node) if name in made} for node in nodes]
    if all(max(before, default=-1) < place for place, before in enumerate(needs)):
        return None
    readers: dict[int, list[int]] = {}
    for place, before in enumerate(needs):
        for each in before:
            readers.setdefault(each, []).append(place)
    candidates, order = [place for place, before in enumerate(needs) if not before], []
    while candidates:
        order.append(heapq.heappop(candidates))
        for reader in readers.get(order[-1], ()):
            needs[reader].discard(order[-1])
            if not needs[reader]:
                heapq.heappush(candidates, reader)
    return order if len(order) == len(nodes) else None


def reads(graph: GraphProto) -> set[str]:
    """Return the values that a graph reads: by its nodes, by their bodies from outside, and by its outputs."""
    return {name for node in graph.node for name in _reads(node)} | {output.name for output in graph.output}


def captured(node: NodeProto) -> Iterator[str]:
    """Yield the names that the bodies of a node read from outside of themselves."""
    for body in bodies_of(node):
        inside = set(_made(body))
        yield from (name for inner in body.node for name in _reads(inner) if name not in inside)
        yield from (output.name for output in body.output if output.name not in inside)


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield the values that a node reads, also those that its bodies take from outside."""
    yield from filter(None, node.input)
    yield from captured(node)


def _made(body: GraphProto) -> Iterator[str]:
    """Yield the values that a body has of its own."""
    yield from (port.name for port in body.input)
    yield from (tensor.name for tensor in body.initializer)
    yield from (tensor.values.name for tensor in body.sparse_initializer)
    yield from (name for inner in body.node for name in inner.output)
