"""Files that hold samples, options or memories: opened if they are ordinary files, and never waited for."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import IO, Any

from onnxprune.errors import DataError

_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def open_ordinary(path: Path) -> IO[bytes]:
    """Return an ordinary file, open for reading; a pipe that nobody writes to is refused, not waited for.

    Raises:
        DataError: when there is none, it is a folder, device, pipe or socket, or it may not be read.
    """
    try:
        refuse_others(path, path.stat())  # before it is opened: some devices act when they are
        number = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    file = os.fdopen(number, "rb")
    try:
        refuse_others(path, os.fstat(number))  # it may be another one by now
    except DataError:
        file.close()
        raise
    return file


def read_json(path: Path, most_bytes: int) -> Any:
    """Return what a file holds that an earlier run left; None where it is missing, damaged, foreign or too large."""
    try:
        with open_ordinary(path) as file:
            content = file.read(most_bytes + 1)
        return json.loads(content) if len(content) <= most_bytes else None
    except (DataError, OSError, ValueError, RecursionError):
        return None


def refuse_others(path: Path, status: os.stat_result) -> None:
    """Raise DataError unless the status is that of an ordinary file."""
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path}: is a folder, expected a file")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: is a device, pipe or socket; expected an ordinary file, which can be read twice")
