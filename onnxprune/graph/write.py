"""From a protobuf to a file, in a stream, with external data where it is needed."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo

from onnxprune.errors import ModelError
from onnxprune.graph.bodies import copy_fields
from onnxprune.graph.layout import Layout, lay_out
from onnxprune.graph.model import Model, stored_params
from onnxprune.graph.plain import overridable
from onnxprune.graph.ports import Port, port_of
from onnxprune.graph.publish import Staging, check_name, digest_of, resolved, same_bytes, staging
from onnxprune.graph.read import read_proto
from onnxprune.graph.tensors import PAGE, deferred_numbers, has_external_data, lies_in_file, raw_length

_DIGITS = 12  # of a digest that tell the weights of one model from those of the next
_MESSAGE = 2**31  # bytes of one protobuf message at most
_SEARCHED = 2**34  # bytes of files that are searched for the name of one, at most
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
    """Return the bytes of a model whose inline tensors fit one message; numbers that are deferred are made."""
    if any(deferred_numbers(tensor) is not None for tensor in proto.graph.initializer):
        return b"".join(_chunks(proto))
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
def as_file(model: Model, proto: ModelProto | None = None) -> Iterator[Path]:
    """Yield a file that holds a model within the block: the one that it was read from, or a temporary one.

    Args:
        model: the model.
        proto: another version of it, such as a pruned one, to write instead.
    """
    if proto is None and model.file.path is not None:
        yield model.file.path
        return
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
        path = Path(scratch) / "model.onnx"
        write(model.stored if proto is None else proto, path, model.folder, model.is_external, model.alignment)
        yield path


@contextlib.contextmanager
def staged(
    proto: ModelProto,
    target: Path,
    folder: Path,
    external: bool = False,
    files: Staging | None = None,
    *,
    alignment: int = PAGE,
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
        alignment: of external data, in bytes.

    Raises:
        InputError: when the folder of `target` cannot be written.
    """
    if files is None:
        with staging(force=True) as alone, staged(proto, target, folder, external, alone, alignment=alignment) as path:
            yield path
        return
    temporary, place = files.add(target), resolved(target)
    data = write(proto, temporary, folder, external, alignment, lambda written: own_name(place, written))
    if data is not None:
        files.add_weights(data)
    files.stale = lambda: own_weights(place)
    yield temporary


def data_file(path: Path) -> Path:
    """Return the file beside a model at `path` that `write` puts external data into where that name is free."""
    return path.with_name(f"{path.name}.data")


def check_weights_name(target: Path, external: bool) -> None:
    """Raise InputError when weights beside a model at `target` may get a name that the system does not take.

    Args:
        target: the model to write.
        external: whether weights go to a file beside it.
    """
    if external:
        check_name(target, _ending("0" * _DIGITS))


def _ending(digest: str) -> str:
    """Return what stands behind the name of a model in that of its weights, where the usual name is taken."""
    return f".{digest}.data"


def own_name(place: Path, data: Path) -> str:
    """Return the name that the external data of a model at `place` gets, such that no other file is replaced.

    ``NAME.data`` where that is free or holds these very bytes; else ``NAME.DIGEST.data``, after what it holds. A model
    whose weights are replaced gets a file beside the old one, which is removed when the new model is in place.
    """
    usual = data_file(place)
    if not os.path.lexists(usual) or same_bytes(data, usual):
        return usual.name
    return f"{place.name}{_ending(digest_of(data)[:_DIGITS])}"


def own_weights(place: Path) -> set[Path]:
    """Return the files that hold the external data of the model at `place` and of no other one.

    They have a name of `own_name`, the model refers to them, and no other file in the folder mentions them.
    """
    pattern = re.compile(rf"{re.escape(place.name)}(\.[0-9a-f]{{{_DIGITS}}})?\.data")
    named = [path for path in place.parent.iterdir() if pattern.fullmatch(path.name)]
    referred = weights_of(place) if named else set()
    return {path for path in named if path in referred and not _mentioned(path, place)}


def weights_of(path: Path) -> set[Path]:
    """Return the files that hold the external data of the model at `path`; none if there is no model."""
    try:
        graph = read_proto(path).graph
        return {path.parent / ExternalDataInfo(t).location for t in graph.initializer if has_external_data(t)}
    except (ModelError, ValueError):
        return set()


def _mentioned(weights: Path, place: Path) -> bool:
    """Whether another file in the folder mentions a file; what cannot be read, or is too much, counts as if it did.

    A model has any name: a copy, a backup, one in text form. A file that no message can be is none of them.
    """
    left = _SEARCHED
    for path in weights.parent.iterdir():
        try:
            size = path.stat().st_size if path.is_file() else 0
            if path in (place, weights) or not 0 < size <= _MESSAGE:
                continue
            left -= size
            if left < 0:
                return True
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content.find(os.fsencode(weights.name)) >= 0:
                    return True
        except OSError:
            return True
    return False


def _usual_name(data: Path) -> str:
    return data.name


def write(  # noqa: PLR0917 - the same order as of `staged`
    proto: ModelProto,
    path: Path,
    folder: Path,
    external: bool = False,
    alignment: int = PAGE,
    name_of: Callable[[Path], str] = _usual_name,
) -> Path | None:
    """Write `proto` to `path`; return the data file beside it, if external data was needed.

    Large tensors go to ``NAME.data`` when that is asked for, when some tensor is external already, or when the model
    would not fit a protobuf; see `graph.layout`. Where no tensor is large there is no such file.

    Args:
        proto: the model; external tensors refer to files in `folder`.
        path: where to write it.
        folder: where the external data of `proto` lies now.
        external: whether weights go to a file beside the model in any case.
        alignment: of external data, in bytes.
        name_of: says how the data file is to be called, once it is written.
    """
    if not _is_outside(proto, external):
        with path.open("wb") as file:
            file.writelines(_chunks(proto))
        return None
    layout = lay_out(proto.graph.initializer, folder, alignment)
    if not layout.length:
        with path.open("wb") as file:
            file.writelines(_chunks(_inline(proto, layout)))
        return None
    written = data_file(path)
    with written.open("wb") as file:
        layout.write(file)
    data = written.rename(path.with_name(name_of(written)))
    path.write_bytes(serialize(_slim(proto, layout, data.name)))
    return data


@dataclass(frozen=True)
class Written:
    """What the files of a model will hold, before any of them is written."""

    size_bytes: int
    params: int


def foreseen(
    proto: ModelProto, folder: Path, external: bool = False, alignment: int = PAGE, *, name: str = "pruned.onnx"
) -> Written:
    """Return what `write` with the same arguments makes of a model at most.

    Every tensor holds the name of the file of weights, which follows from `name`, that of the model: the longer one of
    those that it may get is counted.
    """
    if not _is_outside(proto, external):
        return Written(_inline_bytes(proto), stored_params(proto))
    layout = lay_out(proto.graph.initializer, folder, alignment)
    if not layout.length:
        return Written(sum(map(len, _chunks(_inline(proto, layout)))), stored_params(proto))
    slim = _slim(proto, layout, f"{name}{_ending('0' * _DIGITS)}")
    return Written(layout.length + slim.ByteSize(), stored_params(slim))


def _is_outside(proto: ModelProto, external: bool) -> bool:
    tensors = proto.graph.initializer
    return external or any(map(lies_in_file, tensors)) or sum(map(raw_length, tensors)) >= INLINE_LIMIT


def _slim(proto: ModelProto, layout: Layout, location: str) -> ModelProto:
    """Return a model whose tensors of a layout lie in the file `location`."""
    slim = ModelProto()
    copy_fields(proto, slim, skip={"graph"})
    copy_fields(proto.graph, slim.graph, skip={"initializer"})
    for place, tensor in enumerate(proto.graph.initializer):
        if place not in layout.ranges:
            slim.graph.initializer.append(tensor)
            continue
        offset, length = layout.ranges[place]
        moved = slim.graph.initializer.add(data_location=TensorProto.EXTERNAL)
        copy_fields(tensor, moved, skip={"raw_data", "external_data", "data_location"})
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            moved.external_data.add(key=key, value=str(value))
    return slim


def _inline(proto: ModelProto, layout: Layout) -> ModelProto:
    """Return a model whose tensors of a layout, all of which are empty, lie in the model itself."""
    inline = ModelProto()
    inline.CopyFrom(proto)
    for place in layout.ranges:
        tensor = inline.graph.initializer[place]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = b""
    return inline


def fits_one_message(proto: ModelProto) -> bool:
    """Whether the inline tensors of a model leave room for a protobuf message of less than 2 GiB."""
    inline = (tensor for tensor in proto.graph.initializer if not has_external_data(tensor))
    return sum(map(raw_length, inline)) < INLINE_LIMIT  # ByteSize() would serialize all of it to count


def _chunks(proto: ModelProto) -> Iterator[bytes | memoryview]:
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
    """Return how many bytes `_chunks` yields; no numbers are made for it."""
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
