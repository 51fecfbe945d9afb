"""From a protobuf to a file, in a stream, with external data where it is needed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo

from onnxprune.errors import ModelError
from onnxprune.graph.checks import SMALL_BYTES
from onnxprune.graph.model import Model
from onnxprune.graph.plain import copy_fields, overridable
from onnxprune.graph.ports import Port, port_of
from onnxprune.graph.publish import Staging, resolved, staging
from onnxprune.graph.read import read_proto
from onnxprune.graph.tensors import has_external_data, raw_length
from onnxprune.graph.view import view

INLINE_LIMIT = 2**31 - 2**20  # bytes of one protobuf message, less a margin for the graph


def signature(model: Model) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return inputs and outputs with types and shapes, as they were read: what a caller of the model depends on.

    Inputs with a default are left out, but for those that callers are meant to replace; see `overridable`.
    """
    graph = (model.original or model.proto).graph
    defaults = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    replaceable = overridable(model.original or model.proto)
    inputs = (info for info in graph.input if info.name not in defaults or info.name in replaceable)
    return tuple(map(port_of, inputs)), tuple(map(port_of, graph.output))


def serialize(proto: ModelProto) -> bytes:
    """Return the bytes of a model whose inline tensors fit one message."""
    data: bytes = proto.SerializeToString()
    return data


def runnable(model: Model, proto: ModelProto | None = None) -> tuple[Path | bytes, Path | None]:
    """Return the file of a model, or its bytes and where their external data lies.

    Args:
        model: the model.
        proto: another version of it, such as a pruned one, to return instead.
    """
    if proto is None and model.path is not None:
        return model.path, None
    return serialize(model.proto if proto is None else proto), model.folder if model.is_external else None


@contextlib.contextmanager
def staged(
    proto: ModelProto, target: Path, folder: Path, external: bool = False, files: Staging | None = None
) -> Iterator[Path]:
    """Write `proto` to a temporary place beside `target`; move it into place when the block ends well.

    Yields the path of the temporary file, complete with external data, so that the very bytes that will be
    published can be run first. If the block raises (a failed check, Ctrl-C) nothing is left behind.

    Args:
        proto: the model; external tensors refer to files in `folder`.
        target: the final path; a link is followed.
        folder: where the external data of `proto` lies now.
        external: whether weights go to a file beside the model, see `write`.
        files: what `target` is published with; by itself, and by force, when None.

    Raises:
        InputError: when the folder of `target` cannot be written.
    """
    if files is None:
        with staging(force=True) as alone, staged(proto, target, folder, external, alone) as path:
            yield path
        return
    temporary, place = files.add(target), resolved(target)
    data = write(proto, temporary, folder, external)
    if data is not None:
        files.moves.append((data, data_file(place)))
    elif data_file(place) in _data_files_of(place):
        files.stale.append(data_file(place))
    yield temporary


def _data_files_of(path: Path) -> set[Path]:
    """Return the files that hold the external data of the model at `path`; none if there is no model."""
    try:
        return view(read_proto(path), path).data_files
    except (ModelError, ValueError):
        return set()


def data_file(path: Path) -> Path:
    """Return the file beside a model at `path` that `write` puts external data into."""
    return path.with_name(f"{path.name}.data")


def write(proto: ModelProto, path: Path, folder: Path, external: bool = False) -> Path | None:
    """Write `proto` to `path`; return the data file beside it, if external data was needed.

    Large tensors go to ``NAME.data`` when that is asked for, when some tensor is external already, or when the model
    would not fit a protobuf.
    """
    tensors = proto.graph.initializer
    external = external or any(has_external_data(tensor) for tensor in tensors) or not fits_one_message(proto)
    if not external:
        with path.open("wb") as file:
            file.writelines(_chunks(proto))
        return None
    slim = ModelProto()
    copy_fields(proto, slim, skip={"graph"})
    copy_fields(proto.graph, slim.graph, skip={"initializer"})
    data = data_file(path)
    with data.open("wb") as file:
        for tensor in tensors:
            slim.graph.initializer.append(_moved(tensor, folder, file, data.name))
    path.write_bytes(serialize(slim))
    return data


def fits_one_message(proto: ModelProto) -> bool:
    """Whether the inline tensors of a model leave room for a protobuf message of less than 2 GiB."""
    inline = (tensor for tensor in proto.graph.initializer if not has_external_data(tensor))
    return sum(map(raw_length, inline)) < INLINE_LIMIT  # ByteSize() would serialize all of it to count


def _chunks(proto: ModelProto) -> Iterator[bytes]:
    """Yield the serialized model piece by piece: serializing it at once would take its size twice over.

    A protobuf message is the concatenation of its fields in any order, so the graph is written as its small fields
    followed by one initializer after the other.
    """
    model, graph = ModelProto(), GraphProto()
    copy_fields(proto, model, skip={"graph"})
    copy_fields(proto.graph, graph, skip={"initializer"})
    head = graph.SerializeToString()
    tag = _field(GraphProto, "initializer")
    sizes = [tensor.ByteSize() for tensor in proto.graph.initializer]
    total = len(head) + sum(len(tag) + len(_varint(size)) + size for size in sizes)
    yield from (model.SerializeToString(), _field(ModelProto, "graph"), _varint(total), head)
    for tensor, size in zip(proto.graph.initializer, sizes, strict=True):
        yield from (tag, _varint(size), tensor.SerializeToString())


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


def _moved(tensor: TensorProto, folder: Path, file: Any, location: str) -> TensorProto:
    """Append the bytes of `tensor` to `file`, page-aligned; return the tensor that refers to them."""
    if not has_external_data(tensor) and len(tensor.raw_data) <= SMALL_BYTES:
        return tensor
    moved = TensorProto()
    copy_fields(tensor, moved, skip={"raw_data", "external_data", "data_location"})
    file.seek(-file.tell() % 4096, os.SEEK_CUR)
    offset = file.tell()
    if has_external_data(tensor):
        info = ExternalDataInfo(tensor)
        with (folder / info.location).open("rb") as source:
            source.seek(info.offset or 0)
            left = raw_length(tensor)
            while left:
                left -= file.write(source.read(min(left, 1 << 24)))
    else:
        file.write(tensor.raw_data)
    moved.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": file.tell() - offset}
    moved.external_data.extend(onnx.StringStringEntryProto(key=k, value=str(v)) for k, v in entries.items())
    return moved
