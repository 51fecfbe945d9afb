"""Equal tensors become one: what plain form computes or copies several times is stored once.

The branches of an If compute the same permuted gates of an LSTM from one weight; each call of a function brings the
constants of the function along. Only such tensors are merged: two weights of a file that happen to be equal stay two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
    moving = [name for name in dict.fromkeys(renamed.values()) if name not in main]
    copies = [_copied(places[name][1]) for name in moving]
    _drop([places[name][0] for name in (*moving, *renamed)], {*moving, *renamed})
    for tensor in copies:
        proto.graph.initializer.append(tensor)
        if proto.ir_version < 4:  # where every initializer must be listed as an input
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for node in nodes_of(proto.graph):
        if not renamed.keys().isdisjoint(node.input):
            node.input[:] = [renamed.get(name, name) for name in node.input]


def _copied(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy


def _drop(places: Sequence[GraphProto], names: set[str]) -> None:
    """Remove initializers, by name, from some graphs, each of which is gone through once."""
    for graph in {id(graph): graph for graph in places}.values():
        fields: tuple[Any, ...] = (graph.initializer, graph.input, graph.value_info)
        for items in fields:
            _remove(items, lambda item: item.name in names)


def _remove(items: Any, goes: Callable[[Any], bool]) -> None:
    """Remove messages from a repeated field all at once, in its order: one by one, each moves all that follow."""
    count = sum(map(goes, items))
    if count:
        items.sort(key=goes)  # stable; it moves no contents
        del items[len(items) - count :]


def merge_constants(proto: ModelProto, new: Iterable[str]) -> None:
    """Make one initializer of Constant nodes that hold the same, in place.

    Args:
        proto: a model in which no two values have one name.
        new: outputs of the nodes that may go.
    """
    names = set(new)
    equal: dict[bytes, list[tuple[GraphProto, NodeProto]]] = {}
    for graph in graphs(proto.graph):
        able = names - {info.name for info in graph.output}
        for node in graph.node:
            if node.op_type == "Constant" and node.output[0] in able:
                content = node.attribute[0].SerializeToString() if len(node.attribute) == 1 else b""
                if len(content) >= LEAST_BYTES and node.attribute[0].name == "value":
                    equal.setdefault(content, []).append((graph, node))
    same = {node.output[0]: alike[0][1].output[0] for alike in equal.values() for _, node in alike if len(alike) > 1}
    for graph in graphs(proto.graph):
        _hold(graph, same.keys())
    merge(proto, {name: other for name, other in same.items() if name != other})


def _hold(graph: GraphProto, names: Collection[str]) -> None:
    """Make initializers of Constant nodes, by the names of their outputs."""

    def goes(node: NodeProto) -> bool:
        return node.op_type == "Constant" and node.output[0] in names

    for node in filter(goes, graph.node):
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
    _remove(graph.node, goes)
