"""Outlines: a model without the numbers of its large tensors, read from a file of any size in milliseconds.

What ONNX Runtime's optimisers do follows from nodes, types, shapes and the few numbers that stand for sizes. An outline
has all of these, says whether a model computes in half precision, and gives a key that models share whose nodes are
the same whatever their weights and the names of their values.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxprune.graph.bodies import copy_fields, graphs, nodes_of

_LARGE_BYTES = 2**14  # of a field, from which on it is looked into
# Numbers of a tensor, up to which graphs may depend on them: constants of activations, shapes and indices.
_MOST_FLOATS, _MOST_INTEGERS = 8, 2**11
_HALF = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16))
_FLOATS = _HALF | {TensorProto.FLOAT, TensorProto.DOUBLE}
_STATING = ("to", "dtype")  # attributes of nodes that state the type of what they make
_LABELS = {"name", "doc_string", "metadata_props"}
_PLACES = {"external_data", "data_location"}
_CONTENTS = {"raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"}
# Wire types of protobuf: https://protobuf.dev/programming-guides/encoding/#structure
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def outline(source: Path | bytes) -> ModelProto | None:
    """Return a serialized model without its large fields of numbers; None for what is no protobuf of a model."""
    try:
        if isinstance(source, bytes):
            return _outline(memoryview(source))
        with source.open("rb") as file:  # slices may outlive a failure: the mapping ends with the last of them
            return _outline(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except (OSError, ValueError, DecodeError):  # ONNX Runtime says what is wrong with it
        return None


def _outline(content: memoryview) -> ModelProto:
    return ModelProto.FromString(b"".join(_slim(content, ModelProto.DESCRIPTOR)))


def _slim(message: memoryview, descriptor: Any) -> Iterator[bytes]:
    """Yield the bytes of a message without its large fields of numbers; large messages in it are made slim as well.

    Raises:
        ValueError: when a field ends behind the message.
    """
    kept = at = 0  # what lies between them is kept as it is
    while at < len(message):
        start = at
        tag, at = _number(message, at)
        if tag & 7 != _LENGTH:
            at = _behind(message, at, tag & 7)
            continue
        length, begin = _number(message, at)
        at = begin + length
        if at > len(message):
            raise ValueError("a field ends behind its message")
        field = descriptor.fields_by_number.get(tag >> 3) if length >= _LARGE_BYTES else None
        if field is None or field.type == field.TYPE_STRING:
            continue
        yield bytes(message[kept:start])
        kept = at
        if field.message_type is not None:
            inner = b"".join(_slim(message[begin:at], field.message_type))
            yield b"".join((_encoded(tag), _encoded(len(inner)), inner))
    yield bytes(message[kept:at])


def _behind(message: memoryview, at: int, wire: int) -> int:
    """Return where a field of one number ends, which begins at `at`."""
    if wire == _VARINT:
        return _number(message, at)[1]
    if wire in (_EIGHT_BYTES, _FOUR_BYTES):
        return at + (8 if wire == _EIGHT_BYTES else 4)
    raise ValueError(f"no wire type of ONNX: {wire}")


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """Return a varint and where it ends."""
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number without an end")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _encoded(value: int) -> bytes:
    """Return a varint."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


def holds_half(proto: ModelProto) -> bool:
    """Whether any value of a model is stated to be in half precision, float16 or bfloat16."""
    return not _HALF.isdisjoint(_stated_types(proto))


def _stated_types(proto: ModelProto) -> Iterator[int]:
    """Yield the types of tensors, inputs, outputs and values, and those that nodes are told to make."""
    for graph in graphs(proto.graph):
        yield from (tensor.data_type for tensor in graph.initializer)
        yield from (sparse.values.data_type for sparse in graph.sparse_initializer)
        for infos in (graph.input, graph.output, graph.value_info):
            yield from (info.type.tensor_type.elem_type for info in infos)
    called = (GraphProto(node=function.node) for function in proto.functions)
    for node in (node for graph in (proto.graph, *called) for node in nodes_of(graph)):
        for attribute in node.attribute:
            yield attribute.t.data_type
            if attribute.name in _STATING:
                yield attribute.i


def structure_key(proto: ModelProto) -> str:
    """Return a digest that models share which ONNX Runtime's optimisers treat alike.

    They have the same nodes with the same attributes in the same order, types and shapes, and small tensors of integers
    with the same numbers. Names of nodes and values, and the numbers of weights, do not count.
    """
    digest = hashlib.sha256()
    bare = ModelProto()
    copy_fields(proto, bare, skip={"graph", "producer_name", "producer_version", *_LABELS})
    digest.update(bare.SerializeToString(deterministic=True))
    names: dict[str, str] = {}
    for graph in graphs(proto.graph):
        digest.update(b"graph")
        for part in _renamed(graph, names):
            digest.update(part)
    return digest.hexdigest()


def _renamed(graph: GraphProto, names: dict[str, str]) -> Iterator[bytes]:
    """Yield what the structure of one graph depends on, its values numbered in the order of `names`."""

    def number(name: str) -> str:
        return names.setdefault(name, str(len(names))) if name else ""

    for node in graph.node:
        copy = NodeProto()
        copy_fields(node, copy, skip={"input", "output", "attribute", *_LABELS})
        copy.input.extend(map(number, node.input))
        copy.output.extend(map(number, node.output))
        for attribute in node.attribute:
            bare = copy.attribute.add()
            copy_fields(attribute, bare, skip={"g", "graphs", "t", "doc_string"})
            if attribute.HasField("t"):
                bare.t.CopyFrom(_bare(attribute.t))
        yield copy.SerializeToString(deterministic=True)
    for infos in (graph.input, graph.output, graph.value_info):
        for info in infos:
            yield number(info.name).encode() + b":" + info.type.SerializeToString(deterministic=True)
    weights = [
        (number(tensor.name), _bare(tensor).SerializeToString(deterministic=True)) for tensor in graph.initializer
    ]
    for key, content in sorted(weights):
        yield key.encode() + b"=" + content
    for sparse in graph.sparse_initializer:
        yield number(sparse.values.name).encode() + b"=" + _bare(sparse.values).SerializeToString(deterministic=True)


def _bare(tensor: TensorProto) -> TensorProto:
    """Return type and shape of a tensor, and its numbers where an optimiser may look at them."""
    bare = TensorProto()
    is_weight = math.prod(tensor.dims) > (_MOST_FLOATS if tensor.data_type in _FLOATS else _MOST_INTEGERS)
    copy_fields(tensor, bare, skip=_LABELS | _PLACES | (_CONTENTS if is_weight else set()))
    return bare
