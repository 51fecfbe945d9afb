"""Room: whether a model runs whole in the memory that is there, or piece by piece.

ONNX Runtime keeps the weights of a session as they are handed over, in the precision in which its kernels compute (half
precision becomes single), and once more packed for its products. Several sessions are open at the same time: the model
before and after a cut, the parts behind weights that are tried. What is too large for that is run in pieces, each of
which is opened, run on all samples, and closed: the values are the same up to the round-off at the seams.

The limit is half of the memory that is free, or what the environment variable ``ONNXPRUNE_MAX_MEMORY`` says.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator

from onnxprune.graph.files.limits import bytes_stated_by
from onnxprune.runtime.memory import free_memory_bytes

VARIABLE = "ONNXPRUNE_MAX_MEMORY"
SHARE = 0.5  # of the memory that is free
HELD_BYTES = 256 * 2**20  # of weights that a model may hold in memory itself; larger ones are set aside in files
PER_BYTE = 10  # bytes for each byte of weights, of all sessions that are open at the same time
ABREAST = 4  # pieces that are open at the same time: of two models, each on two cores
_LIMIT: contextvars.ContextVar[float | None] = contextvars.ContextVar("memory", default=None)


def limit_bytes() -> float:
    """Return the memory that models may take; infinity where nothing is known of it.

    Raises:
        OptionError: when ``ONNXPRUNE_MAX_MEMORY`` is no number of bytes.
    """
    known = _LIMIT.get()
    stated = bytes_stated_by(VARIABLE) if known is None else None
    if known is not None or stated is not None:
        return known if known is not None else float(stated or 0)
    free = free_memory_bytes()
    return math.inf if free is None else SHARE * free


def runs_whole(weight_bytes: int) -> bool:
    """Whether models with so many bytes of weights fit the memory as a whole."""
    return PER_BYTE * weight_bytes <= limit_bytes()


def piece_bytes() -> float:
    """Return the bytes of weights that a piece may have; a single node may have more."""
    return max(1.0, limit_bytes() / (PER_BYTE * ABREAST))


@contextlib.contextmanager
def memory_limited(limit: float | None = None) -> Iterator[None]:
    """Let models take so much memory at most within the block; by default what is free at its beginning.

    Whether a model runs whole is then decided alike throughout.
    """
    token = _LIMIT.set(limit_bytes() if limit is None else limit)
    try:
        yield
    finally:
        _LIMIT.reset(token)
