"""The process in which models are opened for trial: ``python -m onnxprune.runtime.trial_process``.

It says that it is ready, then takes one request after the other from the standard input, until that ends or None comes,
and answers each with a byte: whether the model was opened, or refused in an orderly way. Where ONNX Runtime ends the
process instead, its exit status says how.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort

READY, OPENED, REFUSED = b"+", b".", b"!"
NO_MEMORY = 71  # exit status of a process that has none for what it is sent
_SILENT = 4  # log severity "fatal"
_SET_DUMPABLE = 4  # PR_SET_DUMPABLE of prctl(2), on Linux


@dataclass(frozen=True)
class Request:
    """A model, and how it is opened on the CPU."""

    source: str | bytes  # the path of a file, or a serialized model
    level: str  # a name in onnxruntime.GraphOptimizationLevel
    disabled: tuple[str, ...] = ()  # optimisers
    weights: tuple[tuple[str, str, tuple[int, ...]], ...] = ()  # that lie beside the model: name, type of numpy, shape
    entries: Mapping[str, str] = field(default_factory=dict)  # of the session's configuration
    libraries: tuple[str, ...] = ()  # of custom operators
    arrays: dict[str, Any] = field(default_factory=dict)  # what the weights hold; zeros where it is not given

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent: arrays as their numbers, also those that are mapped from a file."""
        sent = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        return {**self.__dict__, "arrays": sent}


def attempt(request: Request) -> None:
    """Open a model and drop it.

    ONNX Runtime copies what is beside it, zeros as well; the arrays of the request go one by one as it does, so that
    the model does not take its memory twice.
    """
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = _SILENT, 1
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, request.level)
    for key, value in request.entries.items():
        options.add_session_config_entry(key, value)
    for library in request.libraries:
        options.register_custom_ops_library(library)
    held, beside = request.arrays, dict[str, Any]()
    for name, dtype, shape in request.weights:
        beside[name] = ort.OrtValue.ortvalue_from_numpy(held.pop(name) if name in held else np.zeros(shape, dtype))
    if beside:
        options.add_external_initializers(list(beside), list(beside.values()))
    providers, disabled = ["CPUExecutionProvider"], list(request.disabled)
    ort.InferenceSession(request.source, options, providers=providers, disabled_optimizers=disabled, enable_fallback=0)


def serve() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt of the terminal is for the process that asks
    _die_quietly()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    answers.write(READY)
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        except MemoryError:  # the next request begins somewhere behind
            sys.exit(NO_MEMORY)
        if request is None:
            return
        answers.write(_answer(request))
        del request  # it may hold gigabytes, and the next one may come late or never


def _answer(request: Request) -> bytes:
    try:
        attempt(request)
    except Exception:  # the process that asks gets the same error, and says it
        return REFUSED
    return OPENED


def _die_quietly() -> None:
    """Keep the system from writing the memory of this process to disk, or a window from waiting for somebody."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 - Windows has none

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # where a program gets the memory instead of a file, no limit of its size counts
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    windows: Any = getattr(ctypes, "windll", None)
    if windows is not None:  # SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX
        windows.kernel32.SetErrorMode(0x0001 | 0x0002)


if __name__ == "__main__":
    serve()
