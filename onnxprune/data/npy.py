"""Arrays as numpy saves them: a header that says type and shape, and the numbers behind it.

Read here and not by numpy: what a header says is checked before any memory is taken for it, and nothing but numbers and
text is ever made of a file.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxprune.data.opening import open_ordinary
from onnxprune.errors import DataError
from onnxprune.graph.tensors import Array, Shape

_MAGIC = b"\x93NUMPY"
_LENGTHS = {1: 2, 2: 4, 3: 4}  # bytes of the header's length, by version of the format
_HEADER_BYTES = 2**16  # of the longest header that is read; numpy writes some 120
_MOST_AXES = 32  # numpy takes no more, or a few
_KEYS = {"descr", "fortran_order", "shape"}
_PIECE_BYTES = 2**20  # read at a time
_DAMAGED = "cannot be read: the file is damaged"


class Unreadable(ValueError):
    """An array that is not read; the message continues a sentence that begins with its name."""


@dataclass(frozen=True)
class StoredArray:
    """An array in a file that is open at its first number."""

    file: IO[bytes]
    shape: Shape
    dtype: np.dtype[Any]
    is_fortran: bool  # the first axis is the one that varies fastest
    header_bytes: int  # in front of the numbers
    piece_bytes: int = _PIECE_BYTES  # read at a time: what a decompressor makes of few bytes can be long

    @property
    def nbytes(self) -> int:
        """The bytes of all numbers, whatever the file holds."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def has_rows(self) -> bool:
        """Whether samples stand one after the other."""
        return bool(self.shape) and not (self.is_fortran and len(self.shape) > 1)

    def whole(self) -> Array:
        """Return all of it, once.

        Raises:
            Unreadable: when the file ends before.
        """
        return self._read(self.shape).reshape(self.shape, order="F" if self.is_fortran else "C")

    def rows(self, count: int) -> Array:
        """Return the next `count` entries of the first axis, which must be there.

        Raises:
            Unreadable: when the file ends before.
        """
        shape = (count, *self.shape[1:])
        return self._read(shape).reshape(shape)

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes of all of it, once.

        Raises:
            Unreadable: when the file ends before.
        """
        left = self.nbytes
        while left:
            piece = self._piece(left)
            left -= len(piece)
            yield piece

    def mapped(self, file: IO[bytes]) -> Array:
        """Return the array, mapped from another file that holds its bytes."""
        return np.memmap(file, self.dtype, "r", shape=self.shape, order="F" if self.is_fortran else "C")

    def _read(self, shape: Shape) -> Array:
        """Return so many numbers ``[numbers]``."""
        buffer = np.empty(math.prod(shape) * self.dtype.itemsize, np.uint8)
        at = 0
        while at < len(buffer):
            piece = self._piece(len(buffer) - at)
            buffer[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)
        return buffer.view(self.dtype)

    def _piece(self, most: int) -> bytes:
        piece = self.file.read(min(self.piece_bytes, most))
        if not piece:
            raise Unreadable(_DAMAGED)
        return piece


def open_npy(path: Path) -> StoredArray:
    """Return the array of an .npy file; the caller closes its file.

    Raises:
        DataError: when it is none, holds anything but numbers or text, or not as many bytes as its header says.
    """
    file = open_ordinary(path)
    try:
        stored = read_header(file)
        held = path.stat().st_size - stored.header_bytes
        if held != stored.nbytes:
            raise Unreadable(contradiction(stored, held))
    except (Unreadable, OSError) as error:
        file.close()
        said = "" if _is_no_array(error) else f" ({error})"
        message = "not an .npy file of numbers; write one with numpy.save(path, array)"
        raise DataError(f"{path}: {message}{said}") from None
    return stored


def _is_no_array(error: Exception) -> bool:
    return str(error) == _DAMAGED


def contradiction(stored: StoredArray, held_bytes: int) -> str:
    """Return the words for an array of which the file does not hold the bytes that its header says."""
    what = f"its header says {list(stored.shape)} of {stored.dtype}, which are {stored.nbytes} bytes"
    return f"cannot be read: {what}, the file holds {held_bytes}"


def read_header(file: IO[bytes]) -> StoredArray:
    """Return the array that begins where a file is open.

    Raises:
        Unreadable: when it is none, or not one of numbers or text.
    """
    text, length = _header(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parser: backslashes in a text
            values = ast.literal_eval(re.sub(r"(?<=\d)L\b", "", text).strip())  # Python 2 wrote long numbers as 3L
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise Unreadable(_DAMAGED) from None
    if not isinstance(values, dict) or set(values) != _KEYS:
        raise Unreadable(_DAMAGED)
    shape, is_fortran = values["shape"], values["fortran_order"]
    is_shape = isinstance(shape, tuple) and len(shape) <= _MOST_AXES and all(map(_is_size, shape))
    if not isinstance(is_fortran, bool) or not is_shape:
        raise Unreadable(_DAMAGED)
    return StoredArray(file, shape, _dtype(values["descr"]), is_fortran, length)


def _header(file: IO[bytes]) -> tuple[str, int]:
    """Return the text of a header, and how many bytes it took with what stands in front of it."""
    start = file.read(len(_MAGIC) + 2)
    length_bytes = _LENGTHS.get(start[-2]) if len(start) == len(_MAGIC) + 2 and start.startswith(_MAGIC) else None
    if length_bytes is None:
        raise Unreadable(_DAMAGED)
    length = int.from_bytes(file.read(length_bytes), "little")
    if length > _HEADER_BYTES:
        raise Unreadable(f"cannot be read: its header says that it is {length} bytes long itself")
    text = file.read(length)
    if len(text) != length:
        raise Unreadable(_DAMAGED)
    try:
        return text.decode("utf-8" if start[-2] == 3 else "latin-1"), len(start) + length_bytes + length
    except UnicodeDecodeError:
        raise Unreadable(_DAMAGED) from None


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _dtype(description: object) -> np.dtype[Any]:
    """Return the type of a description: numbers or text, nothing that could hold anything else."""
    if isinstance(description, (list, tuple)):
        raise Unreadable("holds records, which are not read; expected an array of numbers")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names of types that are going out of use
            dtype = np.dtype(description) if isinstance(description, str) else None
    except Exception:  # whatever numpy makes of a text that is no type
        dtype = None
    if dtype is None:
        raise Unreadable(_DAMAGED)
    if dtype.hasobject:
        raise Unreadable("holds Python objects, which are not read; expected an array of numbers")
    if dtype.names is not None or dtype.subdtype is not None:
        raise Unreadable("holds records, which are not read; expected an array of numbers")
    if not dtype.itemsize:
        raise Unreadable(f"is of type {dtype}, which has no bytes; expected an array of numbers")
    return dtype
