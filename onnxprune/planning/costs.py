"""What plans cost over the original, and which of their cuts do not pay."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from onnxprune.dependency import cost
from onnxprune.dependency.axes import Atom, Axes
from onnxprune.dependency.branches import Branch
from onnxprune.dependency.groups import Group
from onnxprune.dependency.trace import Trace
from onnxprune.planning import allocate

GAIN = 1e-3  # of the latency, that a cut must not cost

Bound = tuple[str, float]  # kind of cost -> fraction of the original
Predict = Callable[[Mapping[Atom, int]], float]  # from the sizes of atoms to a fraction of the original


class Costs:
    """The costs of plans, over the original's."""

    def __init__(
        self,
        traced: Trace,
        tied: Mapping[str, Mapping[str, Group]],
        predict: Mapping[str, Predict],
        branches: Mapping[str, Branch] = MappingProxyType({}),
    ) -> None:
        """Find what costs depend on; `branches` that may go, by name, are units to remove, one each."""
        gates = {name: Atom(1, "gate") for name in branches}
        of_nodes: dict[int, Axes] = {}
        for name, branch in branches.items():
            of_nodes |= {index: (*of_nodes.get(index, ()), gates[name]) for index in branch.nodes}
        self._atoms = {first: [group.atom for group in names.values()] for first, names in tied.items()}
        self._units = {first: next(iter(names.values())).units for first, names in tied.items()}
        self._atoms |= {name: [gate] for name, gate in gates.items()}
        self._units |= dict.fromkeys(gates, 1)
        self._counter, self._predict = cost.Counter(traced, of_nodes), predict
        first_of = {atom: first for first, atoms in self._atoms.items() for atom in atoms}
        # Those that cut one weight, where several places read it: it may be stored once for each of them.
        self.sharing = [{first_of[atom] for atom in atoms if atom in first_of} for atoms in self._counter.sharing]

    @property
    def knows_latency(self) -> bool:
        """Whether latencies can be predicted."""
        return "latency" in self._predict

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

    def over(self, targets: Sequence[Bound], removed: Mapping[str, int]) -> float:
        """Return the worst cost over its target: at most 1 where all are met."""
        return max(self.of(kind, removed) / value for kind, value in targets)


def worthwhile(
    costs: Costs, demands: Mapping[str, allocate.Demand], kept: Mapping[str, npt.NDArray[np.intp]]
) -> dict[str, npt.NDArray[np.intp]]:
    """Return the plan without cuts that make the model slower, by prediction."""
    kept = dict(kept)
    removed = allocate.removed(demands, kept)
    now = costs.of("latency", removed)
    for name in sorted(removed, key=lambda name: removed[name]):
        without = costs.of("latency", {**removed, name: 0})
        if removed[name] and without < now - GAIN:
            kept[name], removed[name], now = np.arange(demands[name].units), 0, without
    return kept


def enlarging_cuts(costs: Costs, removed: Mapping[str, int], named: Collection[str]) -> list[str]:
    """Return the groups to leave whole, so that a plan adds no parameters.

    A weight that several places read, and that they do not cut alike, is stored once for each of them. Groups that are
    `named` lose what was asked for all the same.
    """
    left = {name: count for name, count in removed.items() if count}
    enlarging: list[str] = []
    while (now := costs.of("params", left)) > 1:
        able = left.keys() - named
        together = [names & able for names in ({name} for name in left)] + [names & able for names in costs.sharing]
        without = [(_without(costs, left, names), len(names), sorted(names)) for names in together if names]
        least, _, names = min(without, default=(now, 0, []))
        if least >= now:
            break
        enlarging += names
        left = {name: count for name, count in left.items() if name not in names}
    return enlarging


def _without(costs: Costs, removed: Mapping[str, int], names: Collection[str]) -> float:
    return costs.of("params", {name: count for name, count in removed.items() if name not in names})
