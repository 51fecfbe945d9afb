"""Actions in forked children with limits: a time for each, an address space, and whatever they do to their process.

A child takes one action after the other and reports each through a pipe, so that a fork pays for many of them. What
kills a child, or keeps it too long, is known to be the action that it had begun; a new child goes on behind it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECYCLED = 100  # actions after which a child is replaced, so that what one leaves behind does not grow
_HEAD = struct.Struct("!Q")


@dataclass(frozen=True)
class Limits:
    """What one action may take."""

    seconds: float = 60.0  # of a processor; ten times as long on the clock, as the machine may have more to do
    bytes: int = 2 * 2**30  # beyond what the process has before


@dataclass(frozen=True)
class Ended:
    """How an action ended."""

    value: Any = None  # what it returned
    fault: str = ""  # empty, or what went wrong: a traceback, the signal that killed it, "hang", "memory"
    seconds: float = 0.0  # of a processor
    peak: int = 0  # bytes that it added to the resident memory
    clock: float = 0.0  # seconds on the clock


def each(actions: Sequence[Callable[[], Any]], limits: Limits) -> Iterator[Ended]:
    """Yield how each action ended, in order."""
    done = 0
    while done < len(actions):
        for ended in _in_child(actions[done : done + RECYCLED], limits):
            done += 1
            yield ended


def _in_child(actions: Sequence[Callable[[], Any]], limits: Limits) -> Iterator[Ended]:
    """Yield how actions ended, up to the first one that took the child with it."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(reading)
        _serve(writing, actions, limits)
    os.close(writing)
    try:
        for _ in actions:
            clock = _Clock(child, limits.seconds)
            message = _received(reading, clock)
            if message is None:
                seconds = clock.seconds
                yield Ended(fault=_killed(child, is_late=clock.is_over), seconds=seconds, clock=clock.passed)
                return
            yield message
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _serve(writing: int, actions: Sequence[Callable[[], Any]], limits: Limits) -> None:
    """Perform the actions in this process, report each, and end."""
    try:
        _confine(limits)
        for action in actions:
            content = pickle.dumps(_performed(action, limits))
            os.write(writing, _HEAD.pack(len(content)))
            view = memoryview(content)
            while view:
                view = view[os.write(writing, view) :]
    finally:
        os._exit(0)


def _performed(action: Callable[[], Any], limits: Limits) -> Ended:
    before, begun, started = _reset_peak(), time.process_time(), time.monotonic()
    value, fault = None, ""
    try:
        value = action()
    except MemoryError:
        fault = "memory: MemoryError"
    except BaseException:
        fault = traceback.format_exc()
    peak = max(0, _status("VmHWM") - before)
    if not fault and peak > limits.bytes:
        fault = f"memory: {peak / 1e6:.0f} MB"
    return Ended(value, fault, time.process_time() - begun, peak, time.monotonic() - started)


def _confine(limits: Limits) -> None:
    """Limit the address space; the limit is twice that of the resident memory, as threads reserve much."""
    os.setpgid(0, 0)
    most = _status("VmSize") + 2 * limits.bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**31, 2**31))


class _Clock:
    """The time that a child has taken since the clock was made."""

    def __init__(self, child: int, limit: float) -> None:
        self._child, self._limit = child, limit
        self._begun, self._used = time.monotonic(), _processor_seconds(child)

    @property
    def seconds(self) -> float:
        """Seconds of a processor; a tenth of those on the clock, where that is more."""
        return max(_processor_seconds(self._child) - self._used, (time.monotonic() - self._begun) / 10)

    @property
    def passed(self) -> float:
        """Seconds on the clock."""
        return time.monotonic() - self._begun

    @property
    def is_over(self) -> bool:
        """Whether the child has taken as long as it may."""
        return self.seconds >= self._limit


def _processor_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _received(reading: int, clock: _Clock) -> Ended | None:
    """Return the next report; None when the child is gone, or late."""
    head = _exactly(reading, _HEAD.size, clock)
    content = None if head is None else _exactly(reading, _HEAD.unpack(head)[0], clock)
    return None if content is None else pickle.loads(content)


def _exactly(reading: int, size: int, clock: _Clock) -> bytes | None:
    parts = b""
    while len(parts) < size:
        ready, _, _ = select.select([reading], [], [], 0.1)
        if not ready and clock.is_over:
            return None
        part = os.read(reading, size - len(parts)) if ready else None
        if part == b"":
            return None
        parts += part or b""
    return parts


def _killed(child: int, is_late: bool) -> str:
    """End a child with all that it started; return what became of it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if is_late:
        return "hang"
    number = os.waitstatus_to_exitcode(status)
    return f"crash: {signal.Signals(-number).name}" if number < 0 else f"crash: exit code {number}"


def _reset_peak() -> int:
    """Forget the peak of the resident memory; return the memory itself, in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    """Return a size that the system knows of this process, in bytes; 0 where it is not Linux."""
    with contextlib.suppress(OSError), Path("/proc/self/status").open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
