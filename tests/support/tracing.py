"""Coverage is measured in the first moments of each test function: tracing lines takes two thirds of their time again.

What a function runs later, in further cases or examples, takes ways through the code that it has taken, or that quicker
tests take. Cases that each take a way of their own are marked `traced`, and are measured to their end.
"""

from __future__ import annotations

import importlib
import pkgutil
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from coverage import Coverage

import onnxprune

SECONDS = 0.25  # of the processor, for all cases of a function in a process
_LEFT: defaultdict[str, float] = defaultdict(lambda: SECONDS)


@contextmanager
def traced_at_first(function: str) -> Iterator[None]:
    """Measure coverage until the seconds of a test function are used up, where it is measured at all.

    Coverage itself is stopped, not the tracing of lines alone: what it knows of the calls that are under way would be
    taken for that of others when it goes on.
    """
    measured = Coverage.current()
    if measured is None or not hasattr(signal, "setitimer"):
        yield
        return
    is_stopped = False

    def stop(*_: object) -> None:
        nonlocal is_stopped
        _LEFT[function] = 0.0
        if not is_stopped:
            is_stopped = True
            measured.stop()

    before, start = signal.signal(signal.SIGVTALRM, stop), time.process_time()
    if _LEFT[function] > 0:
        signal.setitimer(signal.ITIMER_VIRTUAL, _LEFT[function])
    else:
        stop()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        _LEFT[function] -= time.process_time() - start
        signal.signal(signal.SIGVTALRM, before)
        if is_stopped:
            measured.start()


@contextmanager
def imports_traced_alone() -> Iterator[None]:
    """Measure no line but those that run when the modules of the package are imported."""
    measured = Coverage.current()
    if measured is None:
        yield
        return
    for module in pkgutil.walk_packages(onnxprune.__path__, "onnxprune."):
        with suppress(ImportError):  # of an extra that is not there
            importlib.import_module(module.name)
    measured.stop()
    try:
        yield
    finally:
        measured.start()
