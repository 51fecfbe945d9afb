"""From a protobuf to a file, in a stream, with external data where it is needed."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto
from onnx.external_data_helper import ExternalDataInfo

from onnxprune.errors import ModelError
from onnxprune.graph.files.encode import DIGITS, chunks, encoded, inline, is_outside, serialize, slim, weights_ending
from onnxprune.graph.files.layout import lay_out
from onnxprune.graph.files.publish import Staging, check_name, digest_of, resolved, same_bytes, staging
from onnxprune.graph.files.read import read_proto
from onnxprune.graph.forms.plain import overridable
from onnxprune.graph.model import Model, stored_params
from onnxprune.graph.ports import Port, port_of
from onnxprune.graph.tensors import PAGE, has_external_data

_MESSAGE = 2**31  # bytes of one protobuf message at most
_SEARCHED = 2**34  # bytes of files that are searched for the name of one, at most


def signature(model: Model) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return inputs and outputs with types and shapes, as they were read: what a caller of the model depends on.

    Inputs with a default are left out, but for those that callers are meant to replace; see `overridable`.
    """
    graph = (model.original or model.proto).graph
    defaults = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    replaceable = overridable(model.original or model.proto)
    inputs = (info for info in graph.input if info.name not in defaults or info.name in replaceable)
    return tuple(map(port_of, inputs)), tuple(map(port_of, graph.output))


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
        check_name(target, weights_ending())


def own_name(place: Path, data: Path) -> str:
    """Return the name that the external data of a model at `place` gets, such that no other file is replaced.

    ``NAME.data`` where that is free or holds these very bytes; else ``NAME.DIGEST.data``, after what it holds. A model
    whose weights are replaced gets a file beside the old one, which is removed when the new model is in place.
    """
    usual = data_file(place)
    if not os.path.lexists(usual) or same_bytes(data, usual):
        return usual.name
    return f"{place.name}{weights_ending(digest_of(data)[:DIGITS])}"


def own_weights(place: Path) -> set[Path]:
    """Return the files that hold the external data of the model at `place` and of no other one.

    They have a name of `own_name`, the model refers to them, and no other file in the folder mentions them.
    """
    pattern = re.compile(rf"{re.escape(place.name)}(\.[0-9a-f]{{{DIGITS}}})?\.data")
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
    would not fit a protobuf; see `graph.files.layout`. Where no tensor is large there is no such file.

    Args:
        proto: the model; external tensors refer to files in `folder`.
        path: where to write it.
        folder: where the external data of `proto` lies now.
        external: whether weights go to a file beside the model in any case.
        alignment: of external data, in bytes.
        name_of: says how the data file is to be called, once it is written.
    """
    if not is_outside(proto, external):
        with path.open("wb") as file:
            file.writelines(chunks(proto))
        return None
    layout = lay_out(proto.graph.initializer, folder, alignment)
    if not layout.length:
        with path.open("wb") as file:
            file.writelines(chunks(inline(proto, layout)))
        return None
    written = data_file(path)
    with written.open("wb") as file:
        layout.write(file)
    data = written.rename(path.with_name(name_of(written)))
    path.write_bytes(serialize(slim(proto, layout, data.name)))
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
    size_bytes, stored = encoded(proto, folder, external, alignment, name=name)
    return Written(size_bytes, stored_params(stored))
