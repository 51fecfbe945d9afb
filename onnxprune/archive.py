"""Arrays in .npz files."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from pathlib import Path

import numpy as np

from onnxprune.errors import DataError
from onnxprune.model import Array


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
            found = np.load(stack.enter_context(path.open("rb")), allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):
            found = None
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: not an .npz file; write one with numpy.savez(path, INPUT_NAME=array)")
        return {name: _member(path, found, name) for name in found.files}


def _member(path: Path, file: np.lib.npyio.NpzFile, name: str) -> Array:
    try:
        return np.asarray(file[name])
    except ValueError:
        message = "holds Python objects, which are not read; expected an array of numbers"
        raise DataError(f"{path}: array {name!r} {message}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise DataError(f"{path}: array {name!r} cannot be read: the file is damaged") from None
