"""What plans cost over the original, and which of their cuts do not pay."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxprune.dependency import cost
from onnxprune.dependency.axes import Atom
from onnxprune.dependency.groups import Group
from onnxprune.dependency.trace import Trace
from onnxprune.planning import allocate

GAIN = 1e-3  # of the latency, that a cut must not cost

Bound = tuple[str, float]  # kind of cost -> fraction of the original
Predict = Callable[[Mapping[Atom, int]], float]  # from the sizes of atoms to a fraction of the original


class Costs:
    """The costs of plans, over the original's."""

    def __init__(self, traced: Trace, tied: Mapping[str, Mapping[str, Group]], predict: Mapping[str, Predict]) -> None:
        self._atoms = {first: [group.atom for group in names.values()] for first, names in tied.items()}
        self._units = {first: next(iter(names.values())).units for first, names in tied.items()}
        self._counter, self._predict = cost.Counter(traced), predict

    def of(self, kind: str, removed: Mapping[str, int]) -> float:
        """Return the cost with so many units removed, over the original's."""
        gone = {first: count for first, count in removed.items() if count}
        sizes = {atom: self._units[first] - count for first, count in gone.items() for atom in self._atoms[first]}
        predict = self._predict.get(kind)
        return predict(sizes) if predict is not None else self._counter.fraction(kind, sizes)

    def saved(self, removed: Mapping[str, int]) -> tuple[str, float]:
        """Return the target that a plan reaches: MACs, or params where it saves no MACs."""
        reached = {kind: self.of(kind, removed) for kind in ("macs", "params")}
        return next(((kind, value) for kind, value in reached.items() if 0 < value < 1), ("params", 1.0))

    def over(self, targets: Sequence[Bound], gone: Mapping[str, int], removed: Mapping[str, int]) -> float:
        """Return the worst cost over its target: at most 1 where all are met, and no parameters are added.

        Args:
            targets: fractions of the original's costs.
            gone: units that are removed in any case; parameters that they add are allowed.
            removed: those that are removed beside them.
        """
        both = {**gone, **removed}
        worst = max(self.of(kind, both) / value for kind, value in targets)
        if not self._counter.can_grow:
            return worst
        return max(worst, self.of("params", both) / max(1.0, self.of("params", gone)))


def worthwhile(
    costs: Costs, demands: Mapping[str, allocate.Demand], kept: Mapping[str, npt.NDArray[np.intp]]
) -> dict[str, npt.NDArray[np.intp]]:
    """Return the plan without cuts that make the model slower, by prediction."""
    kept = dict(kept)
    removed = {name: demands[name].units - len(units) for name, units in kept.items()}
    now = costs.of("latency", removed)
    for name in sorted(removed, key=lambda name: removed[name]):
        without = costs.of("latency", {**removed, name: 0})
        if removed[name] and without < now - GAIN:
            kept[name], removed[name], now = np.arange(demands[name].units), 0, without
    return kept


def enlarging_cuts(costs: Costs, removed: Mapping[str, int], named: Collection[str]) -> list[str]:
    """Return the groups to leave whole, so that a plan adds no parameters.

    A weight that one place reads without some units, and another one with them, is stored twice. Groups that are
    `named` lose what was asked for all the same.
    """
    left = {name: count for name, count in removed.items() if count}
    enlarging: list[str] = []
    while (now := costs.of("params", left)) > 1:
        without = {name: costs.of("params", {**left, name: 0}) for name in left if name not in named}
        name = min(without, key=lambda name: without[name], default=None)
        if name is None or without[name] >= now:
            break
        enlarging.append(name)
        del left[name]
    return enlarging
