"""Contents of tensors: whether they fit what the file states of them, and where they lie.

This is the one place where external data is looked for, in front of every other reader: onnx's checker would look in
the current folder. The rule is ONNX Runtime's: a file lies in the model's folder, or in the folder of the file that
the model's name links to, as in the cache of the Hugging Face Hub, where ``snapshots/.../model.onnx`` and
``model.onnx_data`` are links into ``blobs/``. Where links are followed, the tensors name the real files from then on,
so that every reader opens what was checked.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo

from onnxprune.errors import ModelError
from onnxprune.graph.bodies import copy_fields
from onnxprune.graph.tensors import has_external_data, opened, raw_length

_KNOWN = frozenset(onnx.helper.get_all_tensor_dtypes())
_ADDRESSABLE = 2**62  # bytes


def checked_contents(proto: ModelProto, path: Path | None, where: str) -> tuple[ModelProto, Path]:
    """Return a model whose tensors are all sound, and the folder that its external data lies in.

    The model is `proto` itself, unless links lead to its external data.

    Args:
        proto: the model.
        path: the file that it was read from; external data of a model in memory lies in the current folder.
        where: words for the model, in front of every sentence.

    Raises:
        ModelError: for a tensor whose type, shape or contents do not fit together; for external data that is missing,
            too short, no ordinary file, outside the folder, or of another tensor than an initializer of the main graph.
    """
    external = []
    for tensor in proto.graph.initializer:
        _check(f"initializer {tensor.name!r}", tensor, where)
        if has_external_data(tensor):
            external.append(tensor)
    for owner, tensor in _nested(proto):
        if has_external_data(tensor):
            raise ModelError(
                f"{where}: {owner} is kept in external data, which is supported for initializers of the main graph "
                "alone; save the model with onnx.save(model, path, convert_attribute=False)"
            )
        _check(owner, tensor, where)
    folder = path.parent if path else Path()
    files = _Files(path, folder, where)
    places = [files.place(tensor) for tensor in external]
    return _with_real_names(proto, folder, places)


# -- what a file states of a tensor ----------------------------------------------------------------------


def _check(owner: str, tensor: TensorProto, where: str) -> None:
    """Raise ModelError for a tensor whose type, shape and contents do not fit together."""
    dims = list(tensor.dims)
    if tensor.data_type not in _KNOWN:
        raise ModelError(f"{where}: {owner} has no known element type ({tensor.data_type})")
    if min(dims, default=0) < 0 or math.prod(max(1, dim) for dim in dims) * 16 > _ADDRESSABLE:
        raise ModelError(f"{where}: {owner} states the shape {dims}, which no tensor can have: the file is damaged")
    if tensor.HasField("segment"):
        raise ModelError(f"{where}: {owner} is one segment of a tensor, which no reader supports; store it whole")
    if has_external_data(tensor):
        return
    if tensor.HasField("raw_data"):
        expected = raw_length(tensor)
        if tensor.data_type == TensorProto.STRING:
            raise ModelError(f"{where}: {owner} holds text as raw bytes: the file is damaged")
        if len(tensor.raw_data) != expected:
            raise ModelError(
                f"{where}: {owner} of shape {dims} holds {len(tensor.raw_data)} bytes, expected {expected}: "
                "the file is damaged"
            )
        return
    _check_typed(owner, tensor, where)


def _check_typed(owner: str, tensor: TensorProto, where: str) -> None:
    """Raise ModelError for a tensor whose typed field (such as ``float_data``) holds too few or too many numbers."""
    try:
        onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError):
        raise ModelError(
            f"{where}: {owner} of shape {list(tensor.dims)} does not hold {math.prod(tensor.dims)} numbers: "
            "the file is damaged"
        ) from None


def _nested(proto: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Yield every tensor but the initializers of the main graph, with words for it."""
    yield from _sparse_of(proto.graph)
    yield from _of_nodes(proto.graph.node)
    for function in proto.functions:
        yield from _of_nodes(function.node, f" of function {function.name!r}")
        for attribute in function.attribute_proto:
            yield from _of_attribute(f"attribute {attribute.name!r} of function {function.name!r}", attribute)
    for training in proto.training_info:
        for graph in (training.initialization, training.algorithm):
            yield from _of_graph(graph, " of the training information")


def _of_graph(graph: GraphProto, inside: str) -> Iterator[tuple[str, TensorProto]]:
    for tensor in graph.initializer:
        yield f"initializer {tensor.name!r}{inside}", tensor
    yield from _sparse_of(graph)
    yield from _of_nodes(graph.node, inside)


def _sparse_of(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    for sparse in graph.sparse_initializer:
        yield f"sparse initializer {sparse.values.name!r}", sparse.values
        yield f"the indices of sparse initializer {sparse.values.name!r}", sparse.indices


def _of_nodes(nodes: Iterable[NodeProto], inside: str = "") -> Iterator[tuple[str, TensorProto]]:
    for node in nodes:
        for attribute in node.attribute:
            name = node.name or next(iter(node.output), "") or node.op_type
            yield from _of_attribute(f"attribute {attribute.name!r} of {node.op_type} {name!r}{inside}", attribute)


def _of_attribute(owner: str, attribute: AttributeProto) -> Iterator[tuple[str, TensorProto]]:
    if attribute.HasField("t"):
        yield owner, attribute.t
    yield from ((owner, tensor) for tensor in attribute.tensors)
    sparse: Any = (
        *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()),
        *attribute.sparse_tensors,
    )
    for each in sparse:
        yield from ((owner, each.values), (owner, each.indices))
    for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
        yield from _of_graph(graph, f" in {owner}")


# -- external data ---------------------------------------------------------------------------------------


class _Files:
    """The files of external data of one model; each is opened once."""

    def __init__(self, path: Path | None, folder: Path, where: str) -> None:
        self._folder = folder
        self._where = where
        folders = [folder, *([Path(os.path.realpath(path)).parent] if path and path.is_symlink() else [])]
        self._allowed = tuple(Path(os.path.realpath(each)) for each in folders)
        self._sizes: dict[Path, int] = {}

    def place(self, tensor: TensorProto) -> tuple[TensorProto, Path]:
        """Return an external tensor and the real file that it lies in, which is there and long enough."""
        what = f"{self._where}: external data of initializer {tensor.name!r}"
        try:
            info = ExternalDataInfo(tensor)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{what}: {error}") from None
        expected = raw_length(tensor)
        if info.length not in (None, expected):
            raise ModelError(
                f"{what} of shape {list(tensor.dims)} has {info.length} bytes, expected {expected}: the file is damaged"
            )
        real = self._real(what, info.location)
        size, end = self._size(what, info.location, real), (info.offset or 0) + expected
        if size < end:
            raise ModelError(f"{what} ends at byte {end}, but {info.location} has {size} bytes")
        return tensor, real

    def _real(self, what: str, location: str) -> Path:
        if not location or "\0" in location:
            raise ModelError(f"{what} names no file: the location is {location!r}")
        real = Path(os.path.realpath(self._folder / location))
        if Path(location).is_absolute() or not any(real.is_relative_to(folder) for folder in self._allowed):
            raise ModelError(
                f"{what} lies outside the model's folder ({location}); it is not read, move it beside the model"
            )
        return real

    def _size(self, what: str, location: str, real: Path) -> int:
        if real not in self._sizes:
            try:
                with opened(real) as file:
                    self._sizes[real] = os.fstat(file.fileno()).st_size
            except FileNotFoundError:
                raise ModelError(f"{what} is missing: no file {location}") from None
            except OSError as error:
                raise ModelError(f"{what} cannot be read: {location}: {error.strerror}") from None
        return self._sizes[real]


def _with_real_names(
    proto: ModelProto, folder: Path, places: list[tuple[TensorProto, Path]]
) -> tuple[ModelProto, Path]:
    """Return the model whose external tensors name real files, and the folder that they are named from."""
    home = Path(os.path.realpath(folder))
    if all(real == home / os.path.normpath(ExternalDataInfo(tensor).location) for tensor, real in places):
        return proto, folder
    common = Path(os.path.commonpath([real.parent for _, real in places]))
    names = {tensor.name: real.relative_to(common).as_posix() for tensor, real in places}
    copy = ModelProto()
    copy_fields(proto, copy, skip={"graph"})  # field by field: as a whole, more than 2 GB do not go into a message
    copy_fields(proto.graph, copy.graph, skip={"initializer"})
    for tensor in proto.graph.initializer:
        copy.graph.initializer.append(tensor)
        if has_external_data(tensor):
            _rename(copy.graph.initializer[-1], names[tensor.name])
    return copy, common


def _rename(tensor: TensorProto, location: str) -> None:
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = location
