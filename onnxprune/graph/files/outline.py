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
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TypeProto

from onnxprune.graph.bodies import copy_fields, graphs

_LARGE_BYTES = 2**14  # of a field, from which on it is looked into
# Numbers of a tensor, up to which graphs may depend on them: constants of activations, shapes and indices.
_MOST_FLOATS, _MOST_INTEGERS = 8, 2**10  # these are smaller than what is left out of an outline
_HALF = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16))
_FLOATS = _HALF | {TensorProto.FLOAT, TensorProto.DOUBLE}
# Attributes of nodes that state the type of what they make, or of what they compute on the way.
_STATING = frozenset(("to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision", "precision"))
_LABELS = {"name", "doc_string", "metadata_props"}
_HOLDING = {"t", "tensors", "sparse_tensor", "sparse_tensors"}  # fields of attributes that hold tensors
_PLACES = {"external_data", "data_location"}
_CONTENTS = {"raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"}
# Wire types of protobuf: https://protobuf.dev/programming-guides/encoding/#structure
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def outline(source: Path | bytes) -> ModelProto | None:
    """Return a serialized model without the numbers of large tensors; None for what is no protobuf of a model."""
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
    """Yield the bytes of a message without its numbers, if it is a large tensor; large messages in it are made slim.

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
        if field is None or not (field.message_type or _is_content(field)):
            continue
        yield bytes(message[kept:start])
        kept = at
        if field.message_type is not None:
            inner = b"".join(_slim(message[begin:at], field.message_type))
            yield b"".join((_encoded(tag), _encoded(len(inner)), inner))
    yield bytes(message[kept:at])


def _is_content(field: Any) -> bool:
    return field.containing_type is TensorProto.DESCRIPTOR and field.name in _CONTENTS


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
    called = (GraphProto(node=function.node, value_info=function.value_info) for function in proto.functions)
    for graph in (inner for root in (proto.graph, *called) for inner in graphs(root)):
        yield from (tensor.data_type for tensor in graph.initializer)
        yield from (sparse.values.data_type for sparse in graph.sparse_initializer)
        for infos in (graph.input, graph.output, graph.value_info):
            for info in infos:
                yield from _element_types(info.type)
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            yield from (tensor.data_type for tensor in _tensors(attribute))
            for stated in (attribute.tp, *attribute.type_protos):
                yield from _element_types(stated)
            if attribute.name in _STATING:
                yield attribute.i


def _element_types(stated: TypeProto) -> Iterator[int]:
    """Yield the type of the numbers in a tensor, or in what holds tensors: a sequence, a map, what may be missing."""
    form = stated.WhichOneof("value")
    if form in ("tensor_type", "sparse_tensor_type"):
        yield getattr(stated, form).elem_type
    elif form == "map_type":
        yield from _element_types(stated.map_type.value_type)
    elif form in ("sequence_type", "optional_type"):
        yield from _element_types(getattr(stated, form).elem_type)


def _tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    """Yield the tensors of an attribute; of sparse ones their values."""
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    yield from (sparse.values for sparse in _sparse_tensors(attribute))


def _sparse_tensors(attribute: AttributeProto) -> Iterator[SparseTensorProto]:
    if attribute.HasField("sparse_tensor"):
        yield attribute.sparse_tensor
    yield from attribute.sparse_tensors


def structure_key(proto: ModelProto) -> str:
    """Return a digest that models share which ONNX Runtime's optimisers treat alike.

    They have the same nodes with the same attributes in the same order, types and shapes, and small tensors of integers
    with the same numbers. Names of nodes and values, and the numbers of weights, do not count. Each part counts with
    its length, so that parts which are divided elsewhere make another key.
    """
    digest = hashlib.sha256()
    bare = ModelProto()
    copy_fields(proto, bare, skip={"graph", "producer_name", "producer_version", *_LABELS})
    names: dict[str, str] = {}
    parts = (part for graph in graphs(proto.graph) for part in (b"graph", *_renamed(graph, names)))
    for part in (bare.SerializeToString(deterministic=True), *parts):
        digest.update(len(part).to_bytes(8, "little"))
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
            copy_fields(attribute, bare, skip={"g", "graphs", "doc_string", *_HOLDING})
            bare.tensors.extend(map(_bare, _tensors(attribute)))
            bare.sparse_tensors.extend(map(_bare_sparse, _sparse_tensors(attribute)))
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
        content = _bare_sparse(sparse).SerializeToString(deterministic=True)
        yield number(sparse.values.name).encode() + b"=" + content


def _bare(tensor: TensorProto) -> TensorProto:
    """Return type and shape of a tensor, and its numbers where an optimiser may look at them."""
    bare = TensorProto()
    is_weight = math.prod(tensor.dims) > (_MOST_FLOATS if tensor.data_type in _FLOATS else _MOST_INTEGERS)
    copy_fields(tensor, bare, skip=_LABELS | _PLACES | (_CONTENTS if is_weight else set()))
    return bare


def _bare_sparse(sparse: SparseTensorProto) -> SparseTensorProto:
    return SparseTensorProto(values=_bare(sparse.values), indices=_bare(sparse.indices), dims=sparse.dims)
