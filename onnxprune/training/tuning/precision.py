"""The precision in which the runs of a step compute: as asked for, or the faster one on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

AUTO, SINGLE, HALF = "auto", "float32", "bfloat16"
_WORTH = 0.85  # of the time that single precision takes, which half precision may take to be chosen
_TIMES = 2  # that each is timed, by turns, behind one time that is not
_TRYING = 0.05  # share of a run whose length is a time, after which no turn begins


def autocast(precision: str, device: str) -> torch.autocast:
    """Return a context in which matrices are multiplied in a precision; weights and sums stay in single precision."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == HALF)


def seconds_of(run: Callable[[], object]) -> float:
    """Return how long a run takes; infinity where it fails, as operators and losses of users may in half precision.

    Where single precision fails too, the first step says so.
    """
    before = time.monotonic()
    try:
        run()
    except Exception:  # whatever PyTorch or a loss of the user raises, and a loss that is not finite
        return math.inf
    return time.monotonic() - before


def faster(seconds: Callable[[str], float], length: float | None = None) -> str:
    """Return the precision whose steps take less time here; single precision where that is little.

    Processors that multiply in bfloat16 learn up to twice as fast in it, others several times slower, and small
    networks gain nothing anywhere.

    Args:
        seconds: how long a step takes in a precision; called several times for each. Infinity: it cannot be run.
        length: seconds of the run, a small share of which may be spent on trying; the first times count then, where
            there are no others. None: that is no time.
    """
    limit = math.inf if length is None else _TRYING * length
    times: dict[str, list[float]] = {SINGLE: [], HALF: []}
    for _ in range(1 + _TIMES):
        for precision, taken in times.items():
            taken.append(seconds(precision))
        if math.isinf(times[HALF][0]) or sum(map(sum, times.values())) > limit:
            break
    best = {precision: min(taken[1:] or taken) for precision, taken in times.items()}
    return HALF if best[HALF] < _WORTH * best[SINGLE] else SINGLE
