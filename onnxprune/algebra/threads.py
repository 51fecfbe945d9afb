"""Threads of linear algebra: each product has one, and independent blocks run side by side.

OpenBLAS divides a product among its threads and then rounds by how it was divided: one core more, and the last digits
differ. So it gets one thread, and `spread` divides the work instead, in blocks that do not depend on how many cores
there are. Each block is computed as a whole by one thread, and nothing is summed across blocks in another order.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

_SPELLINGS = (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", ""))  # before and behind OpenBLAS's names
_ARENA_MAX = -8  # as malloc.h of glibc says
_BESIDE = contextvars.ContextVar("beside", default=False)  # whether this is a block that runs beside others
_CORES: contextvars.ContextVar[int] = contextvars.ContextVar("cores", default=0)

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many blocks run side by side: the cores that this process may use, or what `cores_limited` says."""
    allowed = getattr(os, "sched_getaffinity", None)
    return _CORES.get() or (os.cpu_count() or 1 if allowed is None else len(allowed(0)))


@contextlib.contextmanager
def cores_limited(count: int) -> Iterator[None]:
    """Let `spread` use so many cores within the block; 0 changes nothing."""
    token = _CORES.set(count or _CORES.get())
    try:
        yield
    finally:
        _CORES.reset(token)


def spread(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return what `function` makes of each item, in order; several items are computed side by side.

    What an item gives must not depend on the others: then the results are the same on any number of cores. Within a
    block that runs beside others, items are computed one after the other: each core has its work already.
    """
    count = min(cores(), len(items))
    with one_blas_thread():
        if count < 2 or _BESIDE.get():
            return [function(item) for item in items]
        contexts = [contextvars.copy_context() for _ in items]  # numpy's `errstate` is part of it
        pool = _pool(os.getpid(), cores())
        return list(pool.map(lambda pair: pair[0].run(_beside, function, pair[1]), zip(contexts, items, strict=True)))


@cache
def share_heap() -> None:
    """Let threads that start from now on allocate from one heap, where the C library is glibc.

    With a heap each, what one has freed is of no use to the others, and a process takes up to twice its memory.
    """
    if sys.platform != "linux" or "MALLOC_ARENA_MAX" in os.environ:
        return
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def _beside(function: Callable[[Item], Result], item: Item) -> Result:
    _BESIDE.set(True)
    return function(item)


@cache
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    """Return the threads of a process: starting some for each product would take longer than many a product does."""
    return ThreadPoolExecutor(count, f"onnxprune-algebra-{process}")


@dataclass
class _Limit:
    """How many blocks of all threads want one thread: the setting is the process's."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    blocks: int = 0
    before: int | None = None  # threads before the first of them, restored after the last


_LIMIT = _Limit()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Give numpy's linear algebra one thread until this block ends, and all that other threads have begun meanwhile."""
    share_heap()
    with _LIMIT.lock:
        if not _LIMIT.blocks:
            _LIMIT.before = _set_blas_threads(1)
        _LIMIT.blocks += 1
    try:
        yield
    finally:
        with _LIMIT.lock:
            _LIMIT.blocks -= 1
            if not _LIMIT.blocks and _LIMIT.before is not None:
                _set_blas_threads(_LIMIT.before)


def _set_blas_threads(count: int) -> int | None:
    """Set the threads of the OpenBLAS that came with numpy; return how many it had, None where it is another one."""
    functions = _openblas()
    if functions is None:
        return None
    get, set_to = functions
    before = int(get())
    if before != count:
        set_to(count)
    return before


@cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], object]] | None:
    """Return the functions that get and set the number of threads of the OpenBLAS inside numpy's wheels."""
    home = Path(np.__file__).parent
    for folder in (home.with_name("numpy.libs"), home / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))
            for name in itertools.starmap("{}openblas_{{}}_num_threads{}".format, _SPELLINGS):
                if hasattr(library, name.format("set")):
                    return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None
