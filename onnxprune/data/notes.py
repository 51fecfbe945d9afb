"""Notes of a long run: what it measured and fitted so far, in files by name, so that a run that was ended goes on.

A note is plain values and arrays. Each lies in a file of its own that appears whole; one that is damaged, or of another
name, counts as missing, and what it held is computed anew. Whoever keeps notes says which run they are of.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onnxprune.data.opening import open_ordinary
from onnxprune.errors import DataError, InputError
from onnxprune.graph.tensors import Array

SUFFIX = ".note"
Value = TypeVar("Value")


@dataclass(frozen=True)
class Note:
    """What was written down."""

    plain: dict[str, Any]
    arrays: dict[str, Array]


@dataclass(frozen=True)
class Notes:
    """Notes of one run, or of one part of it."""

    folder: Path | None = None  # None: nothing is kept
    topic: str = ""  # the part of the run, in front of all names

    def of(self, topic: str) -> Notes:
        """Return the notes of a part: the same names mean other notes there."""
        return Notes(self.folder, f"{self.topic}{topic}/")

    def read(self, name: str) -> Note | None:
        """Return a note; None where there is none that is whole."""
        path = self._path(name)
        if path is None:
            return None
        try:
            with open_ordinary(path) as file:
                return _unpacked(file.read(), self.topic + name)
        except (DataError, OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def value(self, name: str, make: Callable[[Note], Value]) -> Value | None:
        """Return what is made of a note; None where there is none, or nothing can be made of it."""
        note = self.read(name)
        try:
            return None if note is None else make(note)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # somebody else wrote it
            return None

    def write(self, name: str, plain: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
        """Write a note down, in the place of one of the same name.

        Args:
            name: of the note, within its topic.
            plain: values that JSON can hold.
            arrays: by name, of any type.

        Raises:
            InputError: when it cannot be written, as on a full disk; notes before it stay.
        """
        path = self._path(name)
        if path is None:
            return
        temporary = None
        try:
            path.parent.mkdir(exist_ok=True)
            handle, scratch = tempfile.mkstemp(prefix=".note-", dir=path.parent)
            temporary = Path(scratch)
            with os.fdopen(handle, "wb") as file:
                file.write(_packed(self.topic + name, plain, arrays or {}))
            temporary.replace(path)
        except OSError as error:
            raise InputError(
                f"{path}: what was measured cannot be saved: {error.strerror or error}; notes before it are whole, go "
                "on with --resume"
            ) from None
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    temporary.unlink()

    def remove(self) -> None:
        """Remove all notes of the folder, and the folder where nothing else is in it."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if path.suffix == SUFFIX or path.name.startswith(".note-"):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else is in it
            self.folder.rmdir()

    def _path(self, name: str) -> Path | None:
        digest = hashlib.sha256((self.topic + name).encode()).hexdigest()
        return None if self.folder is None else self.folder / f"{digest[:32]}{SUFFIX}"


NOWHERE = Notes()  # nothing is kept


def _packed(name: str, plain: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """Return the bytes of a note: a checksum of the rest, the size of its head, the head as JSON, the arrays."""
    told = [[key, array.dtype.name, list(array.shape)] for key, array in arrays.items()]
    head = json.dumps({"name": name, "plain": plain, "arrays": told}).encode()
    body = len(head).to_bytes(8, "little") + head + b"".join(np.asarray(array).tobytes() for array in arrays.values())
    return hashlib.sha256(body).digest() + body


def _unpacked(content: bytes, name: str) -> Note | None:
    """Return the note in these bytes; None where they are damaged, or of another name."""
    checksum, body = content[:32], content[32:]
    if hashlib.sha256(body).digest() != checksum:
        return None
    stream = io.BytesIO(body)
    head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    if head["name"] != name:
        return None
    arrays = {}
    for key, kind, shape in head["arrays"]:
        dtype = _dtype(kind)
        count = int(np.prod(shape, dtype=np.int64))
        arrays[key] = np.frombuffer(stream.read(count * dtype.itemsize), dtype).reshape(shape)
    return Note(head["plain"], arrays)


def _dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes  # noqa: PLC0415 - comes with onnx; few notes need it

    return np.dtype(getattr(ml_dtypes, name, name))
