"""What was written held against the targets: by point estimates, of races that are long enough to be sure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnxprune.evaluation.comparison import Comparison
from onnxprune.graph.model import Model
from onnxprune.latency.speedup import WIDE
from onnxprune.planning.profile import RACE_S
from onnxprune.planning.promise import Decision, check_written

LENGTHS = (1, 3, 9)  # of races, over the usual one, until half of an interval is `WIDE` at most


@dataclass(frozen=True)
class Accepted:
    """What was written, with what it costs."""

    costs: Mapping[str, float]  # over the original's, by kind of target
    comparison: Comparison | None  # with the original; None where the options want none
    unsure: float | None  # half of the 95 % interval of the latency, over it; None where none was raced


def accepted(
    decision: Decision,
    written: Model,
    counted: Mapping[str, float],
    compare: Callable[[int], Comparison | None],
    *,
    is_raced: bool,
) -> Accepted:
    """Return what was written, compared with the original, when it meets the targets of a decision.

    A latency is that of a race. It is run again, for longer, while it is not sure, and once where it misses; the last
    one decides by its point estimate, however wide its interval is.

    Args:
        decision: has the targets, and what measures for them.
        written: the model in its file.
        counted: costs over the original's that are counted, by kind of target.
        compare: compares it with the original, in a race that takes so many times the usual.
        is_raced: whether targets of latency are of that comparison, and it is timed.

    Raises:
        OptionError: when a target is missed, or cannot be measured.
    """
    costs = dict(counted)
    memory = None if decision.memory is None else decision.memory(written)
    costs |= {} if memory is None else {"memory": memory}
    check_written([pair for pair in decision.bounds if pair[0].kind != "latency"], costs, decision.over)
    bound = next((fraction for target, fraction in decision.bounds if target.kind == "latency"), math.inf)
    limit = decision.over * bound
    for times in LENGTHS:
        comparison = compare(times)
        latency, unsure = _latency(decision, written, comparison if is_raced else None, times)
        if latency is None or unsure is None or bound == math.inf:
            break
        if latency * (1 + unsure) <= limit or (unsure <= WIDE and (latency <= limit or times > 1)):
            break
    costs |= {} if latency is None else {"latency": latency}
    check_written(decision.bounds, costs, decision.over)
    return Accepted(costs, comparison, unsure)


def _latency(
    decision: Decision, written: Model, raced: Comparison | None, times: int
) -> tuple[float | None, float | None]:
    """Return the latency over the original's, and half of its 95 % interval over it; None where none is bounded."""
    if raced is not None:
        low, high = (1 / speedup for speedup in reversed(raced.speedup_interval))
        latency = 1 / raced.speedup
        few = decision.unsure / math.sqrt(times)  # of a timer: a few rounds may agree by chance
        return latency, max(few, (high - low) / 2 / latency)
    if decision.latency is None:
        return None, None
    race = decision.latency(written, times * RACE_S)
    return race.fraction, race.unsure
