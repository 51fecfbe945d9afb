"""Coverage is measured in the first moments of each test function: tracing lines takes two thirds of their time again.

What a function runs later, in further cases or examples, takes ways through the code that it has taken, or that quicker
tests take. Cases that each take a way of their own are marked `traced`, and are measured to their end.
"""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import onnxprune

SECONDS = 0.25  # of the processor, for all cases of a function in a process
_LEFT: defaultdict[str, float] = defaultdict(lambda: SECONDS)


@contextmanager
def traced_at_first(function: str) -> Iterator[None]:
    """Trace until the seconds of a test function are used up, where lines are traced at all."""
    if sys.gettrace() is None or not hasattr(signal, "setitimer"):
        yield
        return

    def end(*_: object) -> None:
        _LEFT[function] = 0.0
        _trace(None)

    with _traced_again():
        before, start = signal.signal(signal.SIGVTALRM, end), time.process_time()
        if _LEFT[function] > 0:
            signal.setitimer(signal.ITIMER_VIRTUAL, _LEFT[function])
        else:
            _trace(None)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            _LEFT[function] -= time.process_time() - start
            signal.signal(signal.SIGVTALRM, before)


@contextmanager
def imports_traced_alone() -> Iterator[None]:
    """Trace no line but those that run when the modules of the package are imported."""
    if sys.gettrace() is None:
        yield
        return
    for module in pkgutil.walk_packages(onnxprune.__path__, "onnxprune."):
        importlib.import_module(module.name)
    with _traced_again():
        _trace(None)
        yield


@contextmanager
def _traced_again() -> Iterator[None]:
    """Trace at the end what was traced at the start."""
    tracer = sys.gettrace()
    try:
        yield
    finally:
        _trace(tracer)


def _trace(tracer: object) -> None:
    """Trace this thread, and those that it starts, by a function or not at all."""
    threading.settrace(tracer)
    sys.settrace(tracer)
