"""What a run of training takes of the machine: its threads, and the memory that it keeps from one step to the next."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # parameters of glibc's mallopt(3)
_NEVER = 2**31 - 1  # the largest number that it takes
_USUAL_TRIM, _USUAL_MMAP = 2**26, 2**25  # where glibc's own thresholds end up once large tensors were freed
_USUAL_MAPS = 2**16  # blocks that glibc maps one by one, at most


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
    the time of a step. A process holds the most that it ever needed until the block ends. Large tensors are kept from
    being mapped by the number of maps: releases before 2.35 refuse a threshold above 32 MiB. Behind the block its
    thresholds stand where they usually end up, for as long as the process lives. Other C libraries stay as they are.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.malloc_trim(0)  # what was freed before is not kept
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, _USUAL_MAPS)
        library.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
        library.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process where it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
