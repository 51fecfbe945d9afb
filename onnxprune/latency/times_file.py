"""The file that keeps measured times: read whatever it holds, and written in one step.

It is a cache. A file that is damaged, foreign, or not to be had is as none: what it would have said is measured again,
and no run fails or waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from onnxprune.data.opening import read_json

fcntl: ModuleType | None
try:
    import fcntl  # of Unix alone
except ImportError:  # pragma: no cover
    fcntl = None

_MOST_BYTES = 64 * 2**20  # of a file that is read
_LONGEST_MS = 1e9  # a week and a half; what takes longer has not been measured
_WAIT_S = 5.0  # for another process that writes


def read_times(path: Path) -> dict[str, float]:
    """Return the times of a file by key, those that can be times; none where it is missing or damaged."""
    held = read_json(path, _MOST_BYTES)
    return {key: float(ms) for key, ms in held.items() if _is_time(ms)} if isinstance(held, dict) else {}


def _is_time(value: object) -> bool:
    """Whether a value of JSON is a time: its NaN and infinities are none, and whole numbers may be of any length."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _LONGEST_MS


def add_times(path: Path, new: Mapping[str, float]) -> None:
    """Add to the file in one step; where that cannot be done, it is left as it is."""
    if not new:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock")):
            text = json.dumps({**read_times(path), **new}, indent=0)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
                scratch = Path(file.name)
                try:
                    file.write(text)
                    file.close()  # before it is moved: Windows moves no open file
                    scratch.replace(path)
                finally:
                    scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process reads and writes; where the system has no such locks, the last one wins.

    Raises:
        OSError: when the file of the lock is none, or another process holds it for long.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    number = os.open(lock, flags, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(f"{lock} is no ordinary file")
        _wait_for(number)
        yield
    finally:
        os.close(number)


def _wait_for(number: int) -> None:
    deadline = time.monotonic() + _WAIT_S
    while fcntl is not None:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
