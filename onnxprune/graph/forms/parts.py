"""Models made of parts of a model: a range of nodes, one node alone, several side by side.

Refits replay ranges of nodes; latency is measured on single ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto

from onnxprune.graph.bodies import copy_fields, graphs
from onnxprune.graph.edit import Stated, initializer, set_attribute
from onnxprune.graph.files.checks import skeleton
from onnxprune.graph.files.message import Message, array_in_memory, lay_beside, may_lie_beside
from onnxprune.graph.model import Model, Node
from onnxprune.graph.order import captured
from onnxprune.graph.shapes.inference import element_type
from onnxprune.graph.tensors import Array, Shape, has_external_data
from onnxprune.graph.view import constant_of


def with_outputs(proto: ModelProto, names: Iterable[str]) -> ModelProto:
    """Return a copy whose outputs are these values between nodes."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return copy


def part(
    model: Model,
    nodes: Iterable[int],
    inputs: Mapping[str, np.dtype[Any]],
    outputs: Iterable[str],
    contents: Mapping[str, Array],
) -> Message:
    """Return some nodes of the main graph as a model of its own, with all its weights.

    Args:
        model: where the nodes are taken from.
        nodes: indices of nodes of the main graph, in order.
        inputs: values that are given instead of computed, with their types; of any shape.
        outputs: values to return.
        contents: constants that hold something else than in `model`.
    """
    proto = ModelProto()
    copy_fields(model.proto, proto, skip={"graph"})
    proto.ir_version = max(proto.ir_version, 4)  # before it, every initializer was an input
    graph = proto.graph
    graph.name = "part"
    graph.node.extend(p for p in (model.protos[index] for index in nodes) if constant_of(p) is None)
    read = {name for node in graph.node for name in (*node.input, *captured(node))}.union(outputs)
    stated = {port.name: port for port in model.proto.graph.input}
    for name, dtype in inputs.items():
        if name in read and name in stated:
            graph.input.add().CopyFrom(stated[name])
        elif name in read:
            graph.input.add(name=name).type.tensor_type.elem_type = element_type(dtype)
    beside: dict[str, Array] = {}
    for name in sorted((read & model.constants.keys()) - inputs.keys()):
        if may_lie_beside(model.constants[name].tensor):
            content = contents.get(name)
            stored = array_in_memory(model.constants[name].tensor, model.folder) if content is None else content
            beside[name] = stored
        else:
            graph.initializer.append(initializer(model, name, contents.get(name)))
    lay_beside(graph, beside)
    graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    return Message(proto.SerializeToString(), beside)


def lone(model: Model, node: Node, kinds: Mapping[str, int]) -> ModelProto:
    """Return one node, with the bodies inside of it, as a model: small constants inside, all else as inputs.

    Args:
        model: where the node is from.
        node: a node of it.
        kinds: ONNX element types of values, by name; what has none is taken for float32.
    """
    proto = ModelProto()
    copy_fields(model.proto, proto, skip={"graph"})
    proto.ir_version = max(proto.ir_version, 4)
    graph = proto.graph
    graph.name = "lone"
    graph.node.append(model.protos[node.index])
    for name in dict.fromkeys(name for name in (*node.inputs, *node.captured) if name):
        constant = model.constants.get(name)
        if constant is not None and constant.count <= _SMALL and not has_external_data(constant.tensor):
            graph.initializer.append(initializer(model, name, None))
            continue
        graph.input.add(name=name).type.tensor_type.elem_type = kinds.get(name, onnx.TensorProto.FLOAT)
    graph.output.extend(ValueInfoProto(name=name) for name in node.outputs if name)
    return proto


def element_types(model: Model) -> dict[str, int]:
    """Return the ONNX element types of values by inference, also where shapes are unknown."""
    small = skeleton(model.proto)
    try:
        inferred = onnx.shape_inference.infer_shapes(small)
    except Exception:  # shapes that contradict each other, types that onnx does not know: what is stated remains
        inferred = small
    stated = [info for graph in graphs(inferred.graph) for info in (*graph.value_info, *graph.input, *graph.output)]
    kinds = {info.name: info.type.tensor_type.elem_type for info in stated}
    kinds |= {name: constant.tensor.data_type for name, constant in model.constants.items()}
    return {name: kind for name, kind in kinds.items() if kind}


_SMALL = 256  # numbers of a constant that stays one, where a node stands alone: some kernels need theirs


@dataclass(frozen=True, slots=True)
class Operand:
    """An input of a node that stands alone: a tensor of some shape."""

    dtype: str
    shape: Shape
    is_constant: bool
    content: bytes | None = None  # its numbers, where they decide what the node does, such as lengths

    @property
    def array(self) -> Array | None:
        """The numbers that it must hold, if there are any."""
        return None if self.content is None else np.frombuffer(self.content, np.dtype(self.dtype)).reshape(self.shape)

    @property
    def mark(self) -> str:
        """A short hash of its numbers; empty where any numbers do."""
        return "" if self.content is None else hashlib.sha256(self.content).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Stand:
    """A node that is to stand alone, with operands of given shapes."""

    op: str
    node: bytes  # the serialized NodeProto, without names
    operands: tuple[Operand | None, ...]  # None where an optional input is absent
    outputs: int
    opsets: tuple[tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        """The size of its operands."""
        return sum(math.prod(o.shape) * np.dtype(o.dtype).itemsize for o in self.operands if o is not None)


def stand(model: Model, node: Node, operands: Sequence[Operand | None], attributes: Mapping[str, Stated]) -> Stand:
    """Return a node with other attributes, as one that is to stand alone.

    Args:
        model: where the node is from.
        node: a node of it.
        operands: what it shall take.
        attributes: those that shall have another value.
    """
    proto = NodeProto()
    proto.CopyFrom(model.protos[node.index])
    for name, value in attributes.items():
        set_attribute(proto, name, value)
    for names in (proto.input, proto.output):
        del names[:]
    proto.name = proto.doc_string = ""
    del proto.metadata_props[:]
    opsets = tuple(sorted((name, version) for name, version in model.opsets.items() if name in ("", proto.domain)))
    return Stand(node.op, proto.SerializeToString(deterministic=True), tuple(operands), len(node.outputs), opsets)


def side_by_side(
    stands: Sequence[Stand], content: Callable[[np.dtype[Any], Shape, int], Array]
) -> tuple[bytes, dict[str, Array]]:
    """Return a serialized model of some nodes beside one another, ``k0``, ``k1``..., and what to feed it.

    Args:
        stands: the nodes; their opsets must agree.
        content: makes the numbers of an operand that may hold any: of its type, shape, and a number that no other
            constant has and that is 0 for what is fed.
    """
    proto = ModelProto(ir_version=8)
    opsets = {name: version for stand in stands for name, version in stand.opsets}
    proto.opset_import.extend(onnx.helper.make_opsetid(name, version) for name, version in opsets.items())
    graph, feeds, number = proto.graph, {}, 0
    graph.name = "side_by_side"
    for index, one in enumerate(stands):
        node = NodeProto.FromString(one.node)
        node.name = f"k{index}"
        for slot, operand in enumerate(one.operands):
            if operand is None:
                node.input.append("")
                continue
            number += 1
            dtype = np.dtype(operand.dtype)
            if operand.is_constant:
                node.input.append(f"c{number}")
                array = operand.array
                array = content(dtype, operand.shape, number) if array is None else array
                graph.initializer.append(onnx.numpy_helper.from_array(array, f"c{number}"))
                continue
            name = f"x_{operand.dtype}_{'_'.join(map(str, operand.shape))}_{slot}{operand.mark}"
            node.input.append(name)
            if name not in feeds:
                array = operand.array
                feeds[name] = content(dtype, operand.shape, 0) if array is None else array
                kind = element_type(dtype)
                graph.input.append(onnx.helper.make_tensor_value_info(name, kind, operand.shape))
        node.output.extend(f"k{index}_{out}" for out in range(one.outputs))
        graph.output.append(ValueInfoProto(name=f"k{index}_0"))
        graph.node.append(node)
    return proto.SerializeToString(), feeds
