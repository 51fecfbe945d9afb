"""From a protobuf to a `Model`: nodes of all graphs in one list, constants by name.

Nothing is checked here; `graph.files.read` does that for files of users.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxprune.graph.bodies import graphs, graphs_of
from onnxprune.graph.forms.plain import overridable, plain
from onnxprune.graph.meanings import with_meanings
from onnxprune.graph.model import Body, Constant, Model, Node, opsets_of
from onnxprune.graph.order import captured
from onnxprune.graph.ports import port_of


def view(
    proto: ModelProto,
    path: Path | None = None,
    folder: Path | None = None,
    *,
    is_plain: bool = False,
    with_bodies: bool = True,
) -> Model:
    """Return `proto` as a `Model`, without any check.

    Args:
        proto: the model.
        path: of its file.
        folder: where its external data lies; that of the file by default.
        is_plain: whether it is taken as it stands: in plain form, or a file whose form does not matter.
        with_bodies: whether nodes and constants inside of bodies belong to it. Without them, a constant there may be
            named like a value of the main graph, which only plain form excludes.

    Raises:
        ModelError: when it cannot be brought into plain form, see `graph.forms.plain`.
    """
    place = folder or (path.parent if path else Path())
    original, proto = proto, proto if is_plain else plain(proto, place)
    nodes: list[tuple[Node, NodeProto]] = []
    top = _flatten(proto.graph, opsets_of(proto), nodes, with_bodies)
    seen = graphs(proto.graph) if with_bodies else [proto.graph]
    constants = {t.name: Constant(t.name, t, tuple(t.dims)) for graph in seen for t in graph.initializer}
    for node, node_proto in nodes:
        tensor = constant_of(node_proto)
        if tensor is not None:
            constants[node.outputs[0]] = Constant(node.outputs[0], tensor, tuple(tensor.dims), node.index)
    inputs = (port_of(info) for info in proto.graph.input if info.name not in constants)
    return Model(
        proto=proto,
        path=path,
        folder=place,
        nodes=tuple(node for node, _ in nodes),
        protos=tuple(node_proto for _, node_proto in nodes),
        top=top,
        constants=MappingProxyType(constants),
        inputs=with_meanings(
            inputs, [node for node, _ in nodes], constants, [info.name for info in proto.graph.output]
        ),
        outputs=tuple(port_of(info) for info in proto.graph.output),
        overridable=frozenset(overridable(proto)),
        original=None if original is proto else original,
    )


def _flatten(
    graph: GraphProto, opsets: Mapping[str, int], nodes: list[tuple[Node, NodeProto]], with_bodies: bool = True
) -> tuple[int, ...]:
    """Append the nodes of a graph to `nodes`, those of bodies first if at all; return the indices of its own."""
    own = []
    for proto in graph.node:
        bodies = tuple(
            Body(
                attribute.name,
                tuple(port_of(info) for info in body.input),
                tuple(info.name for info in body.output),
                _flatten(body, opsets, nodes),
            )
            for attribute in (proto.attribute if with_bodies else ())
            for body in graphs_of(attribute)
        )
        own.append(len(nodes))
        nodes.append((_node(len(nodes), proto, opsets, bodies), proto))
    return tuple(own)


def _node(index: int, proto: NodeProto, opsets: Mapping[str, int], bodies: tuple[Body, ...]) -> Node:
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    first = next((name for name in proto.output if name), f"{proto.op_type}_{index}")
    return Node(
        index=index,
        name=proto.name or first,
        op=f"{domain}.{proto.op_type}" if domain else proto.op_type,
        version=opsets.get(domain, 1),
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attrs=MappingProxyType({a.name: _attribute(a) for a in proto.attribute if not any(True for _ in graphs_of(a))}),
        captured=tuple(dict.fromkeys(captured(proto))),
        bodies=bodies,
    )


def _attribute(attribute: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.STRING:
        return value.decode("utf-8", "replace")
    if attribute.type == AttributeProto.STRINGS:
        return [item.decode("utf-8", "replace") for item in value]
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
        return list(value)
    return value


def constant_of(node: NodeProto) -> TensorProto | None:
    """Return the tensor of a Constant node in any of its forms; None for other nodes and sparse values."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor: TensorProto = attribute.t
        return tensor
    if attribute.name in ("value_float", "value_floats"):
        return onnx.numpy_helper.from_array(np.array(_attribute(attribute), np.float32))
    if attribute.name in ("value_int", "value_ints"):
        return onnx.numpy_helper.from_array(np.array(_attribute(attribute), np.int64))
    return None
