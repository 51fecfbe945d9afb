"""Deferred tensors: the numbers of a cut weight are made when they are read, so that no cut model is held as a whole.

A protobuf holds bytes. Within a block of `deferring`, a large tensor that an edit changes holds the key of what makes
its numbers instead, as external data whose location is no file. `tensors.array_of` makes them, and `layout` does so
when a file is written: one tensor at a time. What is computed and must be kept meanwhile, such as fitted weights, lies
in temporary files, from where it is mapped.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import mmap
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from onnxprune.errors import ModelError

PREFIX = "onnxprune-deferred:"  # in front of the keys, where a location stands
OF_FILE = f"{PREFIX}file:"  # of what stands for a tensor that lay in a file of external data
LARGE_BYTES = 2**16  # of what is deferred, and of what is kept in files


@runtime_checkable
class Numbers(Protocol):
    """An array that is made when it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its type."""

    def head(self, rows: int) -> npt.NDArray[Any]:
        """Return the numbers of the first rows, along the first axis."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the numbers."""


@dataclass(frozen=True)
class _Mapped:
    """An array that lies in a file."""

    array: npt.NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def head(self, rows: int) -> npt.NDArray[Any]:
        return np.asarray(self.array[:rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self.array, dtype)


@dataclass(frozen=True)
class _Filed:
    """An array that is a whole file: mapped anew by each reader, so that its pages go when the reader is done."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def head(self, rows: int) -> npt.NDArray[Any]:
        return np.asarray(self._mapped()[:rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self._mapped(), dtype)

    def _mapped(self) -> npt.NDArray[Any]:
        return np.memmap(self.path, self.dtype, "r", shape=self.shape)


@dataclass(frozen=True)
class _Block:
    """What is deferred within a block."""

    folder: Path
    keys: list[str] = field(default_factory=list)


_BLOCK: contextvars.ContextVar[_Block | None] = contextvars.ContextVar("deferred", default=None)
_NUMBERS: dict[str, Numbers] = {}  # of all blocks, by key
_COUNTER = itertools.count()


@contextlib.contextmanager
def deferring() -> Iterator[None]:
    """Defer what edits change within the block; models that hold such tensors cannot be read behind it."""
    with tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True) as folder:
        block = _Block(Path(folder).resolve())  # as numpy tells the files that it has mapped
        token = _BLOCK.set(block)
        try:
            yield
        finally:
            _BLOCK.reset(token)
            forget(block.keys)


def defers() -> bool:
    """Whether a block of `deferring` is entered."""
    return _BLOCK.get() is not None


def deferred(content: Any, *, is_of_file: bool = False) -> str | None:
    """Return the location under which numbers are made when they are read; None where they are held as they are.

    Args:
        content: an array; `Numbers` and what is mapped from a file may be deferred.
        is_of_file: whether it stands for a tensor that lay in a file of external data, and is to lie in one again.
    """
    block = _BLOCK.get()
    if block is None or content.dtype.itemsize * np.prod(content.shape) < LARGE_BYTES:
        return None
    if isinstance(content, np.memmap) and content.filename is not None:
        path, is_whole = Path(content.filename), isinstance(content.base, mmap.mmap)
        is_ours = is_whole and path.parent == block.folder
        content = _Filed(path, content.shape, content.dtype) if is_ours else _Mapped(content)
    if not isinstance(content, (_Mapped, _Filed, Numbers)) or isinstance(content, np.ndarray):
        return None
    key = f"{OF_FILE if is_of_file else PREFIX}{next(_COUNTER)}"
    _NUMBERS[key] = content
    block.keys.append(key)
    return key


def forget(locations: Iterable[str]) -> None:
    """Let go of what makes numbers, with the files that are theirs alone: nobody reads these locations any more."""
    for location in locations:
        numbers = _NUMBERS.pop(location, None)
        if isinstance(numbers, _Filed):
            with contextlib.suppress(OSError):  # somewhere they stay while they are mapped; the folder goes later
                numbers.path.unlink(missing_ok=True)


def numbers_at(location: str) -> Numbers | None:
    """Return what makes the numbers of a deferred tensor; None for the location of a file.

    Raises:
        ModelError: when the block has ended in which the tensor was deferred.
    """
    if not location.startswith(PREFIX):
        return None
    if location not in _NUMBERS:
        raise ModelError(
            "the numbers of a tensor of this model were to be made when they are read, and what makes them is gone: "
            "read the model from the file that was written"
        )
    return _NUMBERS[location]


def kept_aside(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array that takes no memory while nobody reads it, where tensors are deferred and it is large.

    Where the temporary files have no room for it, it stays in memory.
    """
    block = _BLOCK.get()
    if block is None or array.nbytes < LARGE_BYTES:
        return array
    path = block.folder / str(next(_COUNTER))
    try:
        path.write_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return np.memmap(path, array.dtype, "r", shape=array.shape)
    except OSError:
        path.unlink(missing_ok=True)
        return array


def has_room(size_bytes: int) -> bool:
    """Whether temporary files of so many bytes have room where they would lie."""
    try:
        return shutil.disk_usage(tempfile.gettempdir()).free >= size_bytes
    except OSError:  # there is no such folder
        return False


def out_of_memory(arrays: Iterable[npt.NDArray[Any]]) -> None:
    """Let the system have the memory of arrays that are mapped from files, until they are read again."""
    for array in arrays if hasattr(mmap, "MADV_DONTNEED") else ():
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and not array.flags.writeable:
            base.madvise(mmap.MADV_DONTNEED)
