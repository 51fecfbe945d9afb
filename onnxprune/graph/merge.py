"""Equal tensors become one: what plain form computes or copies several times is stored once.

The branches of an If compute the same permuted gates of an LSTM from one weight; each call of a function brings the
constants of the function along. Only such tensors are merged: two weights of a file that happen to be equal stay two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxprune.graph.bodies import graphs, nodes_of

LEAST_BYTES = 256  # of a constant of a function that is worth a name in the main graph


def merge(proto: ModelProto, same: Mapping[str, str]) -> None:
    """Let one initializer stand for several equal ones, in place; it moves to the main graph, which all bodies see.

    Args:
        proto: a model in which no two values have one name.
        same: by the name of an initializer that goes, the one that stays.
    """
    places = {tensor.name: (graph, tensor) for graph in graphs(proto.graph) for tensor in graph.initializer}
    kept_names = {info.name for graph in graphs(proto.graph) for info in graph.output}
    able = {name for name in places if name not in kept_names}
    renamed = {name: other for name, other in same.items() if name in able and other in able}
    if not renamed:
        return
    main = {tensor.name for tensor in proto.graph.initializer}
    for name in dict.fromkeys(renamed.values()):
        if name not in main:
            _hoist(proto, *places[name])
    for name in renamed:
        _drop(*places[name])
    for node in nodes_of(proto.graph):
        if not renamed.keys().isdisjoint(node.input):
            node.input[:] = [renamed.get(name, name) for name in node.input]


def _hoist(proto: ModelProto, graph: GraphProto, tensor: TensorProto) -> None:
    """Move an initializer of a body to the main graph."""
    copy = proto.graph.initializer.add()
    copy.CopyFrom(tensor)
    if proto.ir_version < 4:  # where every initializer must be listed as an input
        proto.graph.input.append(helper.make_tensor_value_info(copy.name, copy.data_type, copy.dims))
    _drop(graph, tensor)


def _drop(graph: GraphProto, tensor: TensorProto) -> None:
    name = tensor.name
    fields: tuple[Any, ...] = (graph.initializer, graph.input, graph.value_info)
    for items in fields:
        for place in reversed([place for place, item in enumerate(items) if item.name == name]):
            del items[place]


def merge_constants(proto: ModelProto, new: Iterable[str]) -> None:
    """Make one initializer of Constant nodes that hold the same, in place.

    Args:
        proto: a model in which no two values have one name.
        new: outputs of the nodes that may go.
    """
    names = set(new)
    equal: dict[bytes, list[tuple[GraphProto, NodeProto]]] = {}
    for graph in graphs(proto.graph):
        outputs = {info.name for info in graph.output}
        for node in graph.node:
            if node.op_type == "Constant" and node.output[0] in names - outputs:
                content = node.attribute[0].SerializeToString() if len(node.attribute) == 1 else b""
                if len(content) >= LEAST_BYTES and node.attribute[0].name == "value":
                    equal.setdefault(content, []).append((graph, node))
    same: dict[str, str] = {}
    for alike in (alike for alike in equal.values() if len(alike) > 1):
        first = alike[0][1].output[0]
        for graph, node in alike:
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            same[tensor.name] = first
            graph.node.remove(node)
    merge(proto, {name: other for name, other in same.items() if name != other})
