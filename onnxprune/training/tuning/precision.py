"""The precision in which the runs of a step compute: as asked for, or the faster one on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

AUTO, SINGLE, HALF = "auto", "float32", "bfloat16"
_WORTH = 0.85  # of the time that single precision takes, which half precision may take to be chosen
_TIMES = 2  # that each is timed, by turns, behind one time that is not


def autocast(precision: str, device: str) -> torch.autocast:
    """Return a context in which matrices are multiplied in a precision; weights and sums stay in single precision."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == HALF)


def faster(seconds: Callable[[str], float]) -> str:
    """Return the precision whose steps take less time here; single precision where that is little.

    Processors that multiply in bfloat16 learn up to twice as fast in it, others several times slower, and small
    networks gain nothing anywhere.

    Args:
        seconds: how long a step takes in a precision; called several times for each.
    """
    best = {SINGLE: math.inf, HALF: math.inf}
    for turn in range(1 + _TIMES):
        for precision, least in best.items():
            taken = seconds(precision)
            best[precision] = min(least, taken) if turn else math.inf
    return HALF if best[HALF] < _WORTH * best[SINGLE] else SINGLE
