"""The helper: a process that opens models for this one, and may die of it; `runtime.trial_process` is its program."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from onnxprune.runtime.time_limit import ended_after
from onnxprune.runtime.trial_process import NO_MEMORY, OPENED, READY, REFUSED, Request

PROGRAM = (sys.executable, "-P", "-m", "onnxprune.runtime.trial_process")
_FAULTS = frozenset(("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP"))
# What a process ends with on Windows is the number of an exception that nobody caught: an error of the system, such as
# 0xC0000005 for an access violation (https://learn.microsoft.com/openspecs/windows_protocols/ms-erref, NTSTATUS), a
# breakpoint that asserts set, or an exception of C++.
_OF_THE_SYSTEM, _FURTHER = range(0xC0000000, 0xD0000000), frozenset((0x80000003, 0xE06D7363))
# These are not of its own doing: no memory to have or to promise; a library, or an entry of one, that is missing, of
# another machine or does not start, also at the end of a session; Ctrl-C.
_FROM_OUTSIDE = frozenset(
    (0xC0000017, 0xC000012D, 0xC0000135, 0xC0000139, 0xC000007B, 0xC0000142, 0xC000026B, 0xC000013A)
)
_ABORTED = 3  # what abort() exits with there, in older libraries of C
_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # on Windows, of a program without a console
_TRIES = 2
_END_S = 10.0  # that a process gets to end in, once nobody asks it any more


def child_environment(**more: str) -> dict[str, str]:
    """Return an environment in which another process imports this very package, with further variables."""
    root, paths = str(Path(__file__).parents[2]), [path for path in sys.path if path]
    # The folder of the package is not among them where that was found in the folder in which Python was started.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths if root in paths else [root, *paths]), **more}


def _runs_python() -> bool:
    """Whether `sys.executable` is Python: of a frozen program it is that program, which would start itself."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


@dataclass(frozen=True)
class Answer:
    """What opening a model did to the helper."""

    died_of: str = ""  # what ended it, such as SIGSEGV; empty where it lived, or where that is not known
    is_final: bool = True  # False where the model was refused or nothing is known: next time it may fare otherwise
    is_refused: bool = False  # in an orderly way, by an exception


@dataclass
class Helper:
    """A process for one request after the other; started for the first, and again after one that it died of."""

    program: tuple[str, ...] = PROGRAM
    starts: bool = field(default_factory=_runs_python)  # False once it did not: no model is known to be dangerous
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)  # for the threads that ask
    _process: Any = field(default=None, repr=False)  # a subprocess.Popen

    def asked(self, request: Request, seconds: float) -> Answer:
        """Return what opening a model does to the process.

        A process that dies of its first request died of this model. One that had others before may have died of
        these, and one may be ended from outside, as by a system without memory: then a fresh one is asked, once. A
        model that takes longer than so many seconds counts as one that the process lives with.
        """
        for _ in range(_TRIES):
            is_fresh = self._process is None
            if not self._is_started(seconds):
                continue
            told, is_over = self._told(request, seconds)
            if told or is_over:
                if is_over:
                    self.end()
                return Answer(is_final=is_over or told == OPENED, is_refused=told == REFUSED)
            status = self.end()
            if is_fresh and _fault(status):
                return Answer(_fault(status))
            if is_fresh and status >= 0 and status != NO_MEMORY:  # it gives up by itself, and would with the next model
                self.starts = False
        return Answer(is_final=False)

    def _is_started(self, seconds: float) -> bool:
        """Whether there is a process that takes requests; it is started where there is none."""
        if self._process is not None or not self.starts:
            return self._process is not None
        environment, pipe = child_environment(OPENBLAS_NUM_THREADS="1"), subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                self.program,
                stdin=pipe,
                stdout=pipe,
                stderr=subprocess.DEVNULL,
                env=environment,
                creationflags=_NO_WINDOW,
            )
        except OSError:
            self.starts = False
            return False
        atexit.register(self.end)
        if self._told(None, seconds)[0] == READY:
            return True
        status = self.end()  # what it dies of before it knows a model is no fault of one
        self.starts = status < 0 and not _fault(status)
        return False

    def _told(self, request: Request | None, seconds: float) -> tuple[bytes, bool]:
        """Send a request if there is one; return the byte that comes back, if any, and whether the time was over."""
        process, told = self._process, b""
        try:
            with ended_after(seconds, process.kill) as is_over, contextlib.suppress(OSError):  # it may end meanwhile
                if request is not None:
                    pickle.dump(request, process.stdin, pickle.HIGHEST_PROTOCOL)  # it copies no arrays
                    process.stdin.flush()
                told = process.stdout.read(1)
        except BaseException:  # an interrupt: its answer would be taken for that of the next request
            process.kill()
            self.end()
            raise
        return told, is_over()

    def end(self) -> int:
        """Let the process end, if there is one; return its exit status."""
        process, self._process = self._process, None
        atexit.unregister(self.end)
        if process is None:
            return 0
        with contextlib.suppress(OSError):  # it is told, as a fork of this process may hold the pipe open
            pickle.dump(None, process.stdin)
        _close(process.stdin)
        try:
            status: int = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        _close(process.stdout)
        return status

    def forget(self) -> None:
        """Leave the process to that which started it and which this one is a fork of; the next request starts another.

        Also a lock that a thread of that process holds is replaced: here nobody would let go of it.
        """
        process, self._process, self.lock = self._process, None, threading.Lock()
        atexit.unregister(self.end)
        for pipe in () if process is None else (process.stdin, process.stdout):
            pipe.raw.close()  # alone: what that process has not sent yet is not sent from here


def _close(pipe: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # what was not sent yet is for nobody
        pipe.close()


def _fault(status: int) -> str:
    """Return what a process ended with that ended itself by a fault, empty for any other exit status.

    >>> _fault(-11), _fault(-9), _fault(0), _fault(0xC0000005), _fault(0xC000013A)
    ('SIGSEGV', '', '', '0xC0000005', '')
    """
    if status < 0:
        name = next((each.name for each in signal.Signals if each == -status), "")
        return name if name in _FAULTS else ""
    if status in _FURTHER or (status in _OF_THE_SYSTEM and status not in _FROM_OUTSIDE):
        return f"0x{status:08X}"
    return "abort()" if os.name == "nt" and status == _ABORTED else ""
