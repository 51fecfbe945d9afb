"""The helper: a process that opens models for this one, and may die of it; `runtime.trial_process` is its program."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import IO, Any

from onnxprune.runtime.time_limit import ended_after
from onnxprune.runtime.trial_process import ANSWER, Request

PROGRAM = (sys.executable, "-P", "-m", "onnxprune.runtime.trial_process")
_FAULTS = frozenset(("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP"))
_NTSTATUS, _ABORTED = 0xC0000000, 3  # on Windows: the least status of a fault, and what abort() exits with
_END_S = 10.0  # that a process gets to end in, once nobody asks it any more


@dataclass
class Helper:
    """A process for one request after the other; started for the first, and again after one that it died of."""

    program: tuple[str, ...] = PROGRAM
    starts: bool = True  # False once it did not: then no model is known to be dangerous
    _process: Any = field(default=None, repr=False)  # a subprocess.Popen
    _owner: int = 0  # the process that started it: a fork of that must not use the same pipes

    def dies_of(self, request: Request, seconds: float) -> str:
        """Return what ends the process when it opens a model, such as SIGSEGV; empty where it lives.

        It is also empty where that cannot be found out: because the process cannot be started, takes longer than so
        many seconds, or is ended from outside, as by a system without memory.
        """
        if not self._is_started():
            return ""
        process = self._process
        try:
            with ended_after(seconds, process.kill), contextlib.suppress(OSError):  # it may end while it is asked
                pickle.dump(request, process.stdin)
                process.stdin.flush()
                if process.stdout.read(1) == ANSWER:
                    return ""
        except BaseException:  # an interrupt: its answer would be taken for that of the next request
            process.kill()
            self.end()
            raise
        status = self.end()
        self.starts = status <= 0 or bool(_fault(status))
        return _fault(status)

    def _is_started(self) -> bool:
        if self._owner != os.getpid():
            self._process = None
        if self._process is None and self.starts:
            # It finds the package where this process found it.
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
            try:
                self._process = subprocess.Popen(self.program, stdin=pipe, stdout=pipe, stderr=nowhere, env=env)
            except OSError:
                self.starts = False
                return False
            self._owner = os.getpid()
            atexit.register(self.end)
        return self._process is not None

    def end(self) -> int:
        """Let the process end, if there is one; return its exit status."""
        process, self._process = self._process, None
        atexit.unregister(self.end)
        if process is None or self._owner != os.getpid():
            return 0
        _close(process.stdin)
        try:
            status: int = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        _close(process.stdout)
        return status


def _close(pipe: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # what was not sent yet is for nobody
        pipe.close()


def _fault(status: int) -> str:
    """Return what a process ended with that ended itself by a fault, empty for any other exit status.

    >>> _fault(-11), _fault(-9), _fault(0), _fault(0xC0000005)
    ('SIGSEGV', '', '', '0xC0000005')
    """
    if status < 0:
        name = next((each.name for each in signal.Signals if each == -status), "")
        return name if name in _FAULTS else ""
    if status >= _NTSTATUS:
        return f"0x{status:08X}"
    return "abort()" if os.name == "nt" and status == _ABORTED else ""
