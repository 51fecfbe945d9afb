"""What nodes and constants take of a file, in bytes, beside the numbers of weights: what a file gains when they go."""

from __future__ import annotations

from collections.abc import Collection

from onnx import TensorProto

from onnxprune.graph.bodies import bodies_of, copy_fields
from onnxprune.graph.files.encode import entry_bytes
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import WEIGHTS, lies_in_file, raw_length

_NUMBERS = {
    "raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data", "string_data"
}  # fmt: skip


def taken_by_nodes(model: Model, indices: Collection[int]) -> dict[int, int]:
    """Return the bytes of some nodes, by index, with the types that the file states of what they make.

    Those of a node that has bodies are without the nodes of these.
    """
    types, taken = _types(model), {}
    for index in indices:
        proto = model.protos[index]
        bodies = list(bodies_of(proto))
        tensors = [tensor for body in bodies for tensor in body.initializer]
        tensors += [attribute.t for attribute in proto.attribute if attribute.HasField("t")]
        own = entry_bytes(proto.ByteSize()) + sum(types.get(name, 0) for name in model.nodes[index].outputs)
        inner = sum(entry_bytes(node.ByteSize()) for body in bodies for node in body.node)
        taken[index] = own - inner - sum(raw_length(each) for each in tensors if each.data_type in WEIGHTS)
    return taken


def taken_by_constants(model: Model, names: Collection[str]) -> dict[str, int]:
    """Return the bytes of some initializers of the main graph, by name; of weights, those beside their numbers.

    Beside a model file the next tensor begins at a multiple of the alignment: what is left free counts.
    """
    types, alignment, taken = _types(model), model.alignment, {}
    for tensor in model.proto.graph.initializer:
        if tensor.name not in names:
            continue
        shell, numbers = TensorProto(), raw_length(tensor)
        copy_fields(tensor, shell, skip=_NUMBERS)
        size, free = shell.ByteSize(), -numbers % alignment
        inside = 0 if lies_in_file(tensor) else entry_bytes(numbers)
        own = entry_bytes(size + inside) - inside + (free if lies_in_file(tensor) else entry_bytes(numbers) - numbers)
        taken[tensor.name] = own + types.get(tensor.name, 0) + (0 if tensor.data_type in WEIGHTS else numbers)
    return taken


def _types(model: Model) -> dict[str, int]:
    """Return the bytes of each type that the main graph states for a value between nodes, by its name."""
    return {info.name: entry_bytes(info.ByteSize()) for info in model.proto.graph.value_info}
