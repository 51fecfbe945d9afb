"""A time limit for every run of a model: a Loop may never end, and ONNX Runtime would go on with it for ever.

One thread watches all runs of the process and lets those go that take too long: ONNX Runtime looks between two nodes
whether it shall end. A model without a Loop ends by itself, and gets a limit as well, of a size that no run reaches
which somebody would wait for.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from onnxprune.errors import OptionError

VARIABLE = "ONNXPRUNE_RUN_SECONDS"
LOOP_S, RUN_S = 30.0, 900.0  # what one run may take by default, of a model with a Loop and of any other
_LOOP = b"\x22\x04Loop"  # how a protobuf of a node states its operator: field 4, four bytes


def limit_s(source: Path | bytes) -> float:
    """Return how many seconds one run of a model may take, infinity where the user wants no limit.

    Raises:
        OptionError: when the environment states no number.
    """
    stated = os.environ.get(VARIABLE)
    if not stated:
        return LOOP_S if holds_loop(source) else RUN_S
    try:
        seconds = float(stated)
    except ValueError:
        raise OptionError(f"{VARIABLE} must be seconds, 0 for no limit, got {stated!r}") from None
    if math.isnan(seconds) or seconds < 0:
        raise OptionError(f"{VARIABLE} must be seconds, 0 for no limit, got {stated!r}")
    return seconds or math.inf


def holds_loop(source: Path | bytes) -> bool:
    """Whether a model holds a Loop, anywhere."""
    return holds(source, _LOOP)


def holds(source: Path | bytes, text: bytes) -> bool:
    """Whether a model holds these bytes: seen without reading it as a protobuf."""
    if isinstance(source, bytes):
        return text in source
    try:
        with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text) >= 0
    except (OSError, ValueError):  # ONNX Runtime says what is wrong with the file
        return False


@dataclass
class _Watch:
    """The runs of this process that have a limit, and the thread that ends those which reach it."""

    lock: threading.Condition = field(default_factory=threading.Condition)
    deadlines: dict[int, tuple[float, Callable[[], object]]] = field(default_factory=dict)
    thread: threading.Thread | None = None
    count: int = 0

    def begin(self, seconds: float, end: Callable[[], object]) -> int:
        """Call `end` after so many seconds, unless `forget` comes first; return its key."""
        with self.lock:
            self.count += 1
            deadline = time.monotonic() + seconds
            is_next = all(deadline < other for other, _ in self.deadlines.values())
            self.deadlines[self.count] = deadline, end
            if self.thread is None or not self.thread.is_alive():  # also after a fork
                self.thread = threading.Thread(target=self._watch, name="onnxprune-limit", daemon=True)
                self.thread.start()
            elif is_next:
                self.lock.notify()
            return self.count

    def forget(self, key: int) -> None:
        """Watch a run no longer."""
        with self.lock:
            self.deadlines.pop(key, None)

    def _watch(self) -> None:
        with self.lock:
            while True:
                now = time.monotonic()
                for key in [key for key, (deadline, _) in self.deadlines.items() if deadline <= now]:
                    self.deadlines.pop(key)[1]()
                nearest = min((deadline for deadline, _ in self.deadlines.values()), default=math.inf)
                self.lock.wait(None if nearest == math.inf else nearest - now)


_WATCH = _Watch()


@contextlib.contextmanager
def ended_after(seconds: float, end: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Call `end` from another thread once the block has taken so many seconds; yield whether that has happened."""
    if seconds == math.inf:
        yield lambda: False
        return
    reached: list[bool] = []

    def reach() -> None:
        reached.append(True)
        end()

    key = _WATCH.begin(seconds, reach)
    try:
        yield lambda: bool(reached)
    finally:
        _WATCH.forget(key)
