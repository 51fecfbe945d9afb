"""What a loss curve says of a group: one of five tones, from free to expensive, by its loss beside that of the others.

Judged is the loss of the output when half of the units of a group go. The limits are those of a sensitivity: units are
free at a twentieth of the typical loss, which is the median of all groups.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

TONES = (  # the largest loss over the typical one, the class, and what it says
    (1 / 20, "free", "free: next to no loss"),
    (1 / 3, "cheap", "cheap"),
    (3.0, "usual", "typical loss"),
    (10.0, "dear", "costly"),
    (float("inf"), "most", "expensive to cut"),
)
UNKNOWN, WHOLE = ("unknown", "no loss curve"), ("whole", "stays whole")
WORDS = {**{key: words for _, key, words in TONES}, **dict((UNKNOWN, WHOLE))}


def loss_at(removed: Sequence[int], losses: Sequence[float | None], count: float) -> float | None:
    """Return the loss with so many units removed, on straight lines between those that are known.

    What lies behind the last known count is the last loss.

    >>> loss_at([0, 2, 4], [0.0, 0.25, 0.5], 3), loss_at([0, 2, 4], [0.0, 0.25, None], 4)
    (0.375, 0.25)
    """
    known = [(at, loss) for at, loss in zip(removed, losses, strict=True) if loss is not None]
    if not known:
        return None
    for (left, low), (right, high) in itertools.pairwise(known):
        if left <= count <= right:
            return low + (high - low) * (count - left) / max(1, right - left)
    return known[-1][1] if count > known[-1][0] else known[0][1]


def half_losses(curves: Mapping[str, Mapping[str, Any]], units: Mapping[str, int]) -> dict[str, float]:
    """Return by group the loss with half of its units removed, where it is known."""
    found = {
        name: loss_at(curve["removed"], curve["losses"], units[name] / 2)
        for name, curve in curves.items()
        if curve["losses"] is not None and name in units
    }
    return {name: loss for name, loss in found.items() if loss is not None}


def tones_of(losses: Mapping[str, float]) -> dict[str, str]:
    """Return the tone of each group from its loss.

    >>> tones_of({"a": 1.0, "b": 1.0, "c": 0.01, "d": 20.0, "e": 1.5})
    {'a': 'usual', 'b': 'usual', 'c': 'free', 'd': 'most', 'e': 'usual'}
    """
    typical = statistics.median(losses.values()) if losses else 0.0
    return {
        name: next(key for most, key, _ in TONES if loss <= most * typical or most == float("inf"))
        for name, loss in losses.items()
    }
