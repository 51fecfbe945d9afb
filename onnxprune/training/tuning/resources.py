"""What a run of training takes of the machine: its threads, and the memory that it keeps from one step to the next."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt(3)
_MOST = 2**31 - 1  # the largest number that it takes
_USUAL_TRIM, _USUAL_MMAP = 2**26, 2**25  # where glibc's own thresholds end up once large tensors were freed


@contextlib.contextmanager
def resources(threads: int) -> Iterator[None]:
    """Let PyTorch use so many threads within the block, and keep the memory that tensors of a step leave for the next.

    Args:
        threads: of PyTorch; 0 leaves them as they are.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with _freed_memory_kept():
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _freed_memory_kept() -> Iterator[None]:
    """Let the C library keep what is freed within the block, and give it back behind it.

    glibc returns every large tensor to the system at once and asks for the next one page by page, which was a sixth of
    the time of a step. Other C libraries stay as they are.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _MOST)
    library.mallopt(_TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
        library.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process where it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
