"""Arrays in .npz files."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxprune.data import columns
from onnxprune.data.fitting import LABELS, fits
from onnxprune.errors import DataError
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array

_PART_BYTES = 32 * 2**20  # of a large file, read at a time
_DAMAGES = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


def read_archive(path: Path) -> dict[str, Array]:
    """Return the arrays of an .npz file by name.

    Raises:
        DataError: when it is not there, damaged, or holds Python objects.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with contextlib.ExitStack() as stack:
        try:
            # Opened here: numpy leaves a file open that turns out to be no archive.
            archive = np.load(stack.enter_context(path.open("rb")), allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):
            archive = None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: not an .npz file; write one with numpy.savez(path, INPUT_NAME=array)")
        return {name: _member(path, archive, name) for name in archive.files}


def _member(path: Path, file: np.lib.npyio.NpzFile, name: str) -> Array:
    try:
        return np.asarray(file[name])
    except ValueError:
        message = "holds Python objects, which are not read; expected an array of numbers"
        raise DataError(f"{path}: array {name!r} {message}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise DataError(f"{path}: array {name!r} cannot be read: the file is damaged") from None


# -- large files -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    """An array of an archive, open at its first number."""

    file: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, rows: int) -> Array:
        """Return the next samples; all of a scalar, which is read once."""
        shape = (rows, *self.shape[1:]) if self.shape else ()
        return np.frombuffer(self.file.read(math.prod(shape) * self.dtype.itemsize), self.dtype).reshape(shape)


def in_parts(path: Path, inputs: Sequence[Port]) -> Iterator[tuple[str, dict[str, Array]]] | None:
    """Return the samples of a large .npz file part by part, each with the words for its source; None to read it whole.

    It is read whole when it is small, and when it is faulty: `read_archive` and the checks then raise the error.
    """
    try:
        with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
            if sum(info.file_size for info in archive.infolist()) <= columns.LIMIT_BYTES:
                return None
            shapes = {name: member.shape for name, member in _members(archive, stack).items()}
    except _DAMAGES:
        return None
    counts = {shape[0] for shape in shapes.values() if shape}
    stated = {port.name: port.shape for port in inputs}
    if not set(stated) <= set(shapes) <= {*stated, LABELS} or len(counts) != 1:
        return None
    if not all(fits(shape, stated.get(name) or shape) for name, shape in shapes.items()):
        return None
    return _parts(path, shapes, counts.pop())


def _members(archive: zipfile.ZipFile, stack: contextlib.ExitStack) -> dict[str, _Member]:
    """Return the arrays by name.

    Raises:
        ValueError: for one that is not stored sample after sample.
    """
    members = {}
    for entry in archive.namelist():
        file = stack.enter_context(archive.open(entry))
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(entry)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = header(file)
        if (is_fortran and len(shape) > 1) or dtype.hasobject:
            raise ValueError(entry)
        members[entry.removesuffix(".npy")] = _Member(file, shape, dtype)
    return members


def _parts(path: Path, shapes: Mapping[str, tuple[int, ...]], count: int) -> Iterator[tuple[str, dict[str, Array]]]:
    with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
        members = _members(archive, stack)
        bytes_each = sum(math.prod(m.shape[1:]) * m.dtype.itemsize for m in members.values() if m.shape)
        rows = max(_PART_BYTES // max(bytes_each, 1), 1)
        scalars = {name: member.read(1) for name, member in members.items() if not member.shape}
        for start in range(0, count, rows):
            part, end = dict(scalars), min(start + rows, count)
            for name in (name for name in shapes if shapes[name]):
                try:
                    part[name] = members[name].read(end - start)
                except _DAMAGES:
                    raise DataError(f"{path}: array {name!r} cannot be read: the file is damaged") from None
            yield f"{path}, counted from sample {start}", part
