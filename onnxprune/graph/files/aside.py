"""Weights set aside: a model whose large weights lie in temporary files, as if it had come with external data.

A file that holds its weights itself is read as one message, and every cut, masked or refitted version of it would hold
all of them again. Within a block of `graph.files.deferred.deferring` they are moved to temporary files once, from where
they are mapped: versions refer to them, sessions share them, and the system takes their pages back when it needs
memory.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from onnx import ModelProto, TensorProto

from onnxprune.graph.bodies import copy_fields
from onnxprune.graph.files.deferred import deferred, forget, kept_aside
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import array_of, deferred_numbers, has_own_bytes, numpy_type
from onnxprune.graph.view import view


def with_weights_aside(model: Model) -> Model:
    """Return a model with the same numbers, the large ones in temporary files within a block of `deferring`.

    Weights that its file keeps in external data stay there, and are mapped from it. What its plain form and the file
    hold alike is stored once.

    Args:
        model: as it was read from a file.
    """
    known: dict[tuple[str, bytes], str | None] = {}

    def location(tensor: TensorProto) -> str | None:
        """Return where the numbers of a tensor lie from now on; None where they stay."""
        if not tensor.HasField("raw_data") or not has_own_bytes(numpy_type(tensor.data_type)):
            return None
        if model.original is None:
            return deferred(kept_aside(array_of(tensor, model.folder)))
        key = tensor.name, hashlib.sha256(tensor.raw_data).digest()
        if key not in known:
            known[key] = deferred(kept_aside(array_of(tensor, model.folder)))
        return known[key]

    original = None if model.original is None else _moved(model.original, location)
    slim = view(_moved(model.proto, location), model.path, model.folder, is_plain=True)
    return replace(slim, original=original, digest=model.sha256(), stamps=model.stamps)


@contextlib.contextmanager
def released(model: Model) -> Iterator[Model]:
    """Yield a model that nobody reads behind the block: the files of what was set aside for it go then."""
    try:
        yield model
    finally:
        for proto in (model.proto, model.stored):
            forget(each.value for tensor in proto.graph.initializer for each in tensor.external_data)


def is_aside(proto: ModelProto) -> bool:
    """Whether some initializer of a model was set aside, or is deferred otherwise."""
    return any(deferred_numbers(tensor) is not None for tensor in proto.graph.initializer)


def _moved(proto: ModelProto, location: Callable[[TensorProto], str | None]) -> ModelProto:
    """Return a copy of a model whose initializers lie where `location` says."""
    slim = ModelProto()
    copy_fields(proto, slim, skip={"graph"})
    copy_fields(proto.graph, slim.graph, skip={"initializer"})
    for tensor in proto.graph.initializer:
        place = location(tensor)
        if place is None:
            slim.graph.initializer.add().CopyFrom(tensor)
            continue
        moved = slim.graph.initializer.add(data_location=TensorProto.EXTERNAL)
        copy_fields(tensor, moved, skip={"raw_data", "data_location"})
        moved.external_data.add(key="location", value=place)
    return slim
