"""Messages: models in memory as ONNX Runtime takes them, a small protobuf with the large tensors beside it as arrays.

A weight inside the protobuf is copied when the message is made, again when it is read, and once more into the session.
A weight beside it is not copied at all, which makes opening a session several times as quick; the model is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, numpy_helper

from onnxprune.graph.bodies import copy_fields
from onnxprune.graph.order import reads
from onnxprune.graph.shapes.inference import element_type
from onnxprune.graph.tensors import (
    Array,
    array_of,
    has_external_data,
    has_own_bytes,
    lies_in_file,
    numpy_type,
    raw_length,
)

LARGE_BYTES = 2**14  # of a tensor that lies beside the message; graphs may depend on what smaller ones hold
_NOWHERE = "beside"  # the location of tensors beside a message: there is no such file


@dataclass(frozen=True, eq=False)
class Message:
    """A model that is ready to be opened."""

    content: bytes  # the serialized protobuf
    arrays: Mapping[str, Array]  # the initializers that lie beside it, by name


def message(proto: ModelProto, folder: Path, outputs: Iterable[str] | None = None) -> Message:
    """Return a model as a message; the protobuf is not changed.

    Args:
        proto: the model.
        folder: where its external data lies.
        outputs: values between nodes to return, instead of the outputs of the model.
    """
    small = ModelProto()
    copy_fields(proto, small, skip={"graph"})
    copy_fields(proto.graph, small.graph, skip={"initializer", *([] if outputs is None else ["output"])})
    small.graph.output.extend(ValueInfoProto(name=name) for name in outputs or ())
    listed = {info.name for info in proto.graph.input}
    read = reads(proto.graph)  # ONNX Runtime drops what nobody reads, and then misses it where it lies beside
    beside: dict[str, Array] = {}
    for tensor in proto.graph.initializer:
        if tensor.name in read - listed and may_lie_beside(tensor):
            beside[tensor.name] = array_in_memory(tensor, folder)
        elif has_external_data(tensor) and _is_taken(tensor):
            small.graph.initializer.append(numpy_helper.from_array(array_in_memory(tensor, folder), tensor.name))
        else:
            small.graph.initializer.add().CopyFrom(tensor)
    lay_beside(small.graph, beside)
    return Message(small.SerializeToString(), beside)


def may_lie_beside(tensor: TensorProto) -> bool:
    """Whether a tensor is large, and of a type that numpy has."""
    return raw_length(tensor) >= LARGE_BYTES and _is_taken(tensor)


def _is_taken(tensor: TensorProto) -> bool:
    return has_own_bytes(numpy_type(tensor.data_type))


def array_in_memory(tensor: TensorProto, folder: Path) -> Array:
    """Return the contents of a tensor; a file of external data is not read any more then.

    What was set aside is mapped from a temporary file, which nobody else changes: sessions share it.
    """
    array = array_of(tensor, folder)
    return np.array(array) if lies_in_file(tensor) else array


def lay_beside(graph: GraphProto, beside: Mapping[str, Array]) -> None:
    """Add initializers to a graph whose contents lie beside the message."""
    for name, array in beside.items():
        tensor = graph.initializer.add(name=name, dims=array.shape, data_type=element_type(array.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=_NOWHERE)
        tensor.external_data.add(key="length", value=str(array.nbytes))
