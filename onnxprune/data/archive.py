"""Arrays in .npz and .npy files.

Names, types, shapes and sizes are known from the headers, and checked against the inputs of the model, before any
number is read: what the model cannot take costs neither time nor memory, however long it would become.
"""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnxprune.data.columns import storing
from onnxprune.data.companions import given
from onnxprune.data.fitting import (
    LABELS,
    check_array,
    check_labels,
    check_names,
    check_text,
    count_in,
    lacks_axis,
    one_count,
)
from onnxprune.data.npy import StoredArray, Unreadable, contradiction, open_npy, read_header
from onnxprune.data.opening import open_ordinary
from onnxprune.errors import DataError
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array

_PART_BYTES = 32 * 2**20  # of a large file, read at a time
_BOMB_BYTES, _BOMB_FACTOR = 2**30, 200  # what is longer, and so many times as long as its file, is not unpacked
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # these are unpacked as far as they are asked to be
_METHODS = (*_PLAIN, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_CAUTIOUS_BYTES = 4096  # read at a time of others, whose bytes may each become a hundred kB

Feeds = Iterator[tuple[str, dict[str, Array]]]  # each behind the words for its source


def read_archive(path: Path, inputs: Sequence[Port]) -> dict[str, Array]:
    """Return the arrays of an .npz file by name, one for each input and perhaps labels.

    Raises:
        DataError: when it is not there, damaged, holds anything but numbers and text, or does not fit the inputs.
    """
    with _arrays(path, inputs, may_lack_axis=False) as arrays:
        return _whole(path, arrays)


def in_parts(path: Path, inputs: Sequence[Port]) -> Feeds | None:
    """Return the samples of a large .npz file part by part; None for one that is small.

    Raises:
        DataError: as `read_archive`.
    """
    with _arrays(path, inputs, may_lack_axis=False) as arrays:
        return feeds_in(path, inputs, may_lack_axis=False) if _divides(arrays, inputs) else None


def feeds_in(path: Path, inputs: Sequence[Port], *, may_lack_axis: bool = True) -> Feeds:
    """Yield the samples of an .npz file, at once or in parts: several, or one, which may lack the axis of samples.

    Raises:
        DataError: as `read_archive`.
    """
    with _arrays(path, inputs, may_lack_axis=may_lack_axis) as arrays:
        yield from _feeds(path, arrays, inputs)


def array_in(path: Path, port: Port) -> Feeds:
    """Yield the samples of an .npy file of a folder, for the one input of a model, as `feeds_in`.

    Raises:
        DataError: as `read_archive`.
    """
    stored = open_npy(path)
    with stored.file:
        check_array(path, port, stored.shape, stored.dtype, may_lack_axis=True)
        check_text(path, port.name, stored.dtype, stored.nbytes)
        yield from _feeds(path, {port.name: stored}, [port])


def _whole(path: Path, arrays: Mapping[str, StoredArray]) -> dict[str, Array]:
    whole = {}
    for name, stored in arrays.items():
        with _reading(path, name):
            whole[name] = stored.whole()
    return whole


def _divides(arrays: Mapping[str, StoredArray], inputs: Sequence[Port]) -> bool:
    """Whether the samples are read in parts: they are large, alike in number, and lie along the first axis of all.

    One sample that lacks the axis of samples is read as a whole, however large it is.
    """
    if any(port.batch != 0 or lacks_axis(arrays[port.name].shape, port) for port in given(inputs, arrays)):
        return False
    counts = {stored.shape[0] for stored in arrays.values() if stored.shape}
    return len(counts) == 1 and sum(stored.nbytes for stored in arrays.values()) > _PART_BYTES


def _feeds(path: Path, arrays: Mapping[str, StoredArray], inputs: Sequence[Port]) -> Feeds:
    if not _divides(arrays, inputs):
        yield str(path), _whole(path, arrays)
        return
    scalars = _whole(path, {name: stored for name, stored in arrays.items() if not stored.shape})
    rest = {name: stored for name, stored in arrays.items() if stored.shape}
    with contextlib.ExitStack() as scratch:
        mapped = {name: _mapped(path, name, rest[name], scratch) for name in rest if not rest[name].has_rows}
        count = next(stored.shape[0] for stored in rest.values())
        rows = max(_PART_BYTES * count // sum(stored.nbytes for stored in rest.values()), 1)
        for start in range(0, count, rows):
            end = min(start + rows, count)
            part = dict(scalars)
            for name, stored in rest.items():
                with _reading(path, name):
                    part[name] = mapped[name][start:end] if name in mapped else stored.rows(end - start)
            yield f"{path}, counted from sample {start}", part


def _mapped(path: Path, name: str, stored: StoredArray, scratch: contextlib.ExitStack) -> Array:
    """Return an array whose samples do not stand one after the other, from a temporary file."""
    with storing():
        file = scratch.enter_context(tempfile.TemporaryFile(prefix="onnxprune-"))  # noqa: SIM115 - it is
    with _reading(path, name):
        for piece in stored.pieces():
            with storing():
                file.write(piece)
    with storing():
        file.flush()
    return stored.mapped(file)


# -- the archive -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _arrays(path: Path, inputs: Sequence[Port], *, may_lack_axis: bool) -> Iterator[dict[str, StoredArray]]:
    """Yield the arrays of a file by name, all of them checked, none of them read.

    Args:
        path: of the file.
        inputs: of the model.
        may_lack_axis: whether the arrays may be of one sample, without the axis of samples.
    """
    with contextlib.ExitStack() as stack:
        archive = _opened(path, stack)
        entries = _entries(path, archive)
        check_names(path, entries, inputs)
        arrays = {name: _stored(path, archive, entry, name, stack) for name, entry in entries.items()}
        _check_fit(path, arrays, inputs, may_lack_axis=may_lack_axis)
        for name, stored in arrays.items():
            _check_size(path, name, stored, entries[name])
        yield arrays


def _check_fit(path: Path, arrays: Mapping[str, StoredArray], inputs: Sequence[Port], *, may_lack_axis: bool) -> None:
    """Raise DataError unless types and shapes are those of the inputs, and of one label per sample."""
    counts: dict[str, int] = {}
    for port in given(inputs, arrays):
        shape = arrays[port.name].shape
        check_array(path, port, shape, arrays[port.name].dtype, may_lack_axis=may_lack_axis)
        count = count_in(shape, port, may_lack_axis=may_lack_axis)
        if count is not None:
            counts[port.name] = count
    if LABELS in arrays and all(port.name != LABELS for port in inputs):
        check_labels(path, arrays[LABELS].shape, arrays[LABELS].dtype, one_count(path, counts))


def _opened(path: Path, stack: contextlib.ExitStack) -> zipfile.ZipFile:
    file = stack.enter_context(open_ordinary(path))
    try:
        if not file.read(2) == b"PK":  # a zip file may begin with anything, one of numpy does not
            raise zipfile.BadZipFile
        return stack.enter_context(zipfile.ZipFile(file))
    except Exception:  # whatever damaged tables of contents make of the reader
        raise DataError(f"{path}: not an .npz file; write one with numpy.savez(path, INPUT_NAME=array)") from None


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        if name in entries:
            raise DataError(f"{path}: holds array {name!r} twice; expected one array for each input")
        entries[name] = entry
    return entries


def _stored(
    path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, stack: contextlib.ExitStack
) -> StoredArray:
    method = entry.compress_type
    with _reading(path, name):
        if entry.flag_bits & 1:
            raise Unreadable("is encrypted; write the file without a password")
        if method not in _METHODS:
            raise Unreadable(f"is packed by method {method}, which is not read; write it with numpy.savez_compressed")
        stored = read_header(stack.enter_context(archive.open(entry)))
        return stored if method in _PLAIN else replace(stored, piece_bytes=_CAUTIOUS_BYTES)


def _check_size(path: Path, name: str, stored: StoredArray, entry: zipfile.ZipInfo) -> None:
    """Raise DataError where sizes contradict each other, or far more would be unpacked than the file holds."""
    held = entry.file_size - stored.header_bytes
    if held != stored.nbytes:
        raise DataError(f"{path}: array {name!r} {contradiction(stored, held)}")
    if held > _BOMB_BYTES and held > _BOMB_FACTOR * path.stat().st_size:
        gib = held / 2**30
        message = f"takes {gib:.1f} GiB and is packed into {entry.compress_size} bytes, which is not unpacked"
        raise DataError(f"{path}: array {name!r} {message}; write it with numpy.savez if it is meant")
    check_text(path, name, stored.dtype, held)


@contextlib.contextmanager
def _reading(path: Path, name: str) -> Iterator[None]:
    """Turn what damaged bytes make of a reader into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Unreadable as error:
        raise DataError(f"{path}: array {name!r} {error}") from None
    except MemoryError:
        raise DataError(f"{path}: array {name!r} cannot be read: it takes more memory than there is") from None
    except Exception as error:  # zlib, lzma and bz2 have errors of their own, and zipfile has seven kinds
        said = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ": the file is damaged"
        raise DataError(f"{path}: array {name!r} cannot be read{said}") from None
