"""From a path, protobuf, torch program or onnx-graphsurgeon graph to a checked `Model`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnxprune.errors import ModelError
from onnxprune.graph.files.checks import check_depth, check_graph, check_opsets
from onnxprune.graph.files.contents import checked_contents
from onnxprune.graph.files.publish import stamps
from onnxprune.graph.files.text import with_valid_text
from onnxprune.graph.model import Model
from onnxprune.graph.names import uniquely_named
from onnxprune.graph.order import in_order
from onnxprune.graph.view import view

_LONGEST = 300  # characters of what a library says
Source: TypeAlias = "str | os.PathLike[str] | ModelProto | Any"


def load(source: Source) -> Model:
    """Return the checked model of a path, a ModelProto, a torch ONNXProgram or an onnx-graphsurgeon Graph.

    Nodes that stand before what they read are moved behind it, see `graph.order`; those that have the name of another
    get one of their own, see `graph.names`.

    Raises:
        ModelError: when the file is missing, no protobuf, no valid ONNX, of an unsupported opset, or when its
            external data is missing or lies outside the model's folder.
    """
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    before = stamps([path] if path else [])
    proto, digest = read_file(path) if path else (_proto_of(source), None)
    where = f"{path}" if path else "the model"
    with _reading(where):
        try:
            check_depth(proto)
            proto = uniquely_named(in_order(with_valid_text(proto)))
            check_opsets(proto, where)
            proto, folder = checked_contents(proto, path, where)
            check_graph(proto, where)
            model = view(proto, path, folder)
        except ModelError as error:
            raise ModelError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
        model.value_shapes  # noqa: B018 - read now, so that a fault in it is reported as one of the file
    return dataclasses.replace(model, digest=digest, stamps={**before, **stamps(model.data_files)})


def parse(content: bytes, folder: Path) -> Model:
    """Return the model that `serialize` made the bytes of, without any check; `folder` holds its external data."""
    return view(ModelProto.FromString(content), folder=folder)


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what protobuf and onnx raise on damaged messages (invalid text, unknown types) into one sentence."""
    try:
        yield
    except (ArithmeticError, DecodeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:_LONGEST]
        raise ModelError(f"{where}: not a valid ONNX model: {type(error).__name__}: {reason}") from None


def read_proto(path: Path) -> ModelProto:
    """Return what a file holds, without external data.

    Raises:
        ModelError: when there is no such file, or it is no ONNX file.
    """
    return read_file(path)[0]


def read_file(path: Path) -> tuple[ModelProto, str]:
    """Return what a file holds, without external data, and the SHA-256 of the bytes that it was read from, in hex.

    Raises:
        ModelError: when there is no such file, or it is no ONNX file.
    """
    if path.is_dir():
        raise ModelError(f"{path}: is a folder; give the model file in it")
    if not path.is_file():
        what = "is a device or pipe; give the name of a file" if path.exists() else "no such file"
        raise ModelError(f"{path}: {what}")
    try:
        content = path.read_bytes()
        if not content:
            raise ModelError(f"{path}: the file is empty")
        proto = onnx.load(io.BytesIO(content), format="protobuf", load_external_data=False)
    except DecodeError:
        message = "not an ONNX file, or a truncated one (it cannot be parsed as a protobuf)"
        raise ModelError(f"{path}: {message}") from None
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    return proto, hashlib.sha256(content).hexdigest()


def _proto_of(source: Any) -> ModelProto:
    if isinstance(source, ModelProto):
        return source
    proto = getattr(source, "model_proto", None)  # torch.onnx.ONNXProgram
    if isinstance(proto, ModelProto):
        return proto
    if type(source).__module__.startswith("onnx_graphsurgeon"):
        import onnx_graphsurgeon  # noqa: PLC0415 - takes 0.3 s, and few callers hold such a graph

        exported: ModelProto = onnx_graphsurgeon.export_onnx(source)
        return exported
    expected = "a path, an onnx.ModelProto, a torch ONNXProgram or an onnx_graphsurgeon.Graph"
    raise ModelError(f"expected {expected}, got {type(source).__name__}")
