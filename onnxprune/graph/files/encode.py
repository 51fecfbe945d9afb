"""From a protobuf to the bytes of a file: piece by piece, and how many there will be, before any of them is made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto

from onnxprune.graph.bodies import copy_fields
from onnxprune.graph.files.layout import Layout, lay_out
from onnxprune.graph.tensors import PAGE, deferred_numbers, has_external_data, lies_in_file, raw_length

DIGITS = 12  # of a digest that tell the weights of one model from those of the next
INLINE_LIMIT = 2**31 - 2**20  # bytes of one protobuf message, less a margin for the graph


def serialize(proto: ModelProto) -> bytes:
    """Return the bytes of a model whose inline tensors fit one message; numbers that are deferred are made."""
    if any(deferred_numbers(tensor) is not None for tensor in proto.graph.initializer):
        return b"".join(chunks(proto))
    data: bytes = proto.SerializeToString()
    return data


def encoded(
    proto: ModelProto, folder: Path, external: bool = False, alignment: int = PAGE, *, name: str = "pruned.onnx"
) -> tuple[int, ModelProto]:
    """Return how many bytes the files of a model take at most, and the model as its file will hold it.

    Args:
        proto: the model; external tensors refer to files in `folder`.
        folder: where its external data lies now.
        external: whether weights go to a file beside the model in any case.
        alignment: of external data, in bytes.
        name: of its file. The file of weights is called after it; the longer one of the names that it may get counts.
    """
    if not is_outside(proto, external):
        return _inline_bytes(proto), proto
    layout = lay_out(proto.graph.initializer, folder, alignment)
    if not layout.length:
        within = inline(proto, layout)
        return _inline_bytes(within), within
    outside = slim(proto, layout, f"{name}{weights_ending()}")
    return layout.length + outside.ByteSize(), outside


def digest_of_message(proto: ModelProto) -> str:
    """Return the SHA-256 of a serialized model, in hex; of numbers that are deferred, not of what stands for them."""
    if all(deferred_numbers(tensor) is None for tensor in proto.graph.initializer):
        return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    digest = hashlib.sha256()
    for chunk in chunks(proto):
        digest.update(chunk)
    return digest.hexdigest()


def weights_ending(digest: str = "0" * DIGITS) -> str:
    """Return what stands behind the name of a model in that of its weights, where their usual name is taken."""
    return f".{digest}.data"


def is_outside(proto: ModelProto, external: bool) -> bool:
    """Whether large tensors go to a file beside the model: on demand, or because some lie in one, or need one."""
    tensors = proto.graph.initializer
    return external or any(map(lies_in_file, tensors)) or sum(map(raw_length, tensors)) >= INLINE_LIMIT


def slim(proto: ModelProto, layout: Layout, location: str) -> ModelProto:
    """Return a model whose tensors of a layout lie in the file `location`."""
    outside = ModelProto()
    copy_fields(proto, outside, skip={"graph"})
    copy_fields(proto.graph, outside.graph, skip={"initializer"})
    for place, tensor in enumerate(proto.graph.initializer):
        if place not in layout.ranges:
            outside.graph.initializer.append(tensor)
            continue
        offset, length = layout.ranges[place]
        moved = outside.graph.initializer.add(data_location=TensorProto.EXTERNAL)
        copy_fields(tensor, moved, skip={"raw_data", "external_data", "data_location"})
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            moved.external_data.add(key=key, value=str(value))
    return outside


def inline(proto: ModelProto, layout: Layout) -> ModelProto:
    """Return a model whose tensors of a layout, all of which are empty, lie in the model itself."""
    within = ModelProto()
    within.CopyFrom(proto)
    for place in layout.ranges:
        tensor = within.graph.initializer[place]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = b""
    return within


def fits_one_message(proto: ModelProto) -> bool:
    """Whether the inline tensors of a model leave room for a protobuf message of less than 2 GiB."""
    within = (tensor for tensor in proto.graph.initializer if not has_external_data(tensor))
    return sum(map(raw_length, within)) < INLINE_LIMIT  # ByteSize() would serialize all of it to count


def chunks(proto: ModelProto) -> Iterator[bytes | memoryview]:
    """Yield the serialized model piece by piece: serializing it at once would take its size twice over.

    A protobuf message is the concatenation of its fields in any order, so the graph is written as its small fields
    followed by one initializer after the other.
    """
    model, head, sizes = _parts(proto)
    tag = _field(GraphProto, "initializer")
    yield from (model, _field(ModelProto, "graph"), _varint(_graph_bytes(head, sizes)), head)
    for tensor, size in zip(proto.graph.initializer, sizes, strict=True):
        yield from (tag, _varint(size))
        numbers = deferred_numbers(tensor)
        if numbers is None:
            yield tensor.SerializeToString()
            continue
        front, back = _around(tensor)
        yield from (front, _field(TensorProto, "raw_data"), _varint(raw_length(tensor)))
        yield np.ascontiguousarray(np.asarray(numbers)).reshape(-1).view(np.uint8).data
        yield back


def _parts(proto: ModelProto) -> tuple[bytes, bytes, list[int]]:
    """Return the serialized model without its graph, that without its initializers, and the bytes of each of these."""
    model, graph = ModelProto(), GraphProto()
    copy_fields(proto, model, skip={"graph"})
    copy_fields(proto.graph, graph, skip={"initializer"})
    return model.SerializeToString(), graph.SerializeToString(), [_tensor_bytes(t) for t in proto.graph.initializer]


def _inline_bytes(proto: ModelProto) -> int:
    """Return how many bytes `chunks` yields; no numbers are made for it."""
    model, head, sizes = _parts(proto)
    graph = _graph_bytes(head, sizes)
    return len(model) + len(_field(ModelProto, "graph")) + len(_varint(graph)) + graph


def _graph_bytes(head: bytes, sizes: Sequence[int]) -> int:
    tag = _field(GraphProto, "initializer")
    return len(head) + sum(len(tag) + len(_varint(size)) + size for size in sizes)


def _tensor_bytes(tensor: TensorProto) -> int:
    """Return the serialized bytes of a tensor with its numbers inside."""
    if deferred_numbers(tensor) is None:
        return int(tensor.ByteSize())
    length = raw_length(tensor)
    own = len(_field(TensorProto, "raw_data")) + len(_varint(length)) + length
    return own + sum(map(len, _around(tensor)))


def _around(tensor: TensorProto) -> tuple[bytes, bytes]:
    """Return the serialized fields of a deferred tensor in front of its numbers and behind them, by their tags."""
    place = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
    outside = {"raw_data", "external_data", "data_location"}
    behind = {field.name for field in TensorProto.DESCRIPTOR.fields if field.number > place}
    front, back = TensorProto(), TensorProto()
    copy_fields(tensor, front, skip=outside | behind)
    copy_fields(tensor, back, skip=outside | {field.name for field in TensorProto.DESCRIPTOR.fields} - behind)
    return front.SerializeToString(), back.SerializeToString()


def entry_bytes(length: int) -> int:
    """Return the bytes of a message, string or bytes of some length as a field, one of the first 15 of its message.

    >>> entry_bytes(5), entry_bytes(200)
    (7, 203)
    """
    return 1 + len(_varint(length)) + length


def _field(message: Any, name: str) -> bytes:
    """Return the tag of a length-delimited field (protobuf encoding, wire type 2)."""
    return _varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | 2)


def _varint(number: int) -> bytes:
    """Return a number in base 128, least significant group first."""
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
