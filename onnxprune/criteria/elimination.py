"""Elimination: which units a layer misses least when its other weights may make up for them. Numpy alone.

Optimal brain surgeon (Hassibi & Stork 1993; for whole columns Frantar & Alistarh 2022, "Optimal Brain Compression"):
with H the Gram matrix of the inputs of a layer, removing the inputs J and refitting the others adds the squared error

    E(J) = tr(W_J ([H⁻¹]_JJ)⁻¹ W_Jᵀ),       W ← W − W_J ([H⁻¹]_JJ)⁻¹ [H⁻¹]_J,:

Units go greedily, the cheapest first. All are looked at `STEPS` times; in between, the cheapest are removed one after
the other, or some at once where there are thousands, from a *pool* in which each removal counts for the others at once.
A group whose units several layers consume adds up their errors, each weighted as `recovery.moments.Moments.weights`
says. How the inverse is held, `criteria.surgeon` knows: as a matrix, or by the rows where there are fewer of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.algebra.blocked import mixing, product
from onnxprune.algebra.quadratic import Quadratic
from onnxprune.criteria.restored import Restored, restored
from onnxprune.criteria.surgeon import PROBES, Pool, surgeon

Matrix: TypeAlias = npt.NDArray[np.float64]
Weight: TypeAlias = npt.NDArray[Any]
Units: TypeAlias = npt.NDArray[np.intp]

DAMPING = 0.01  # of the mean square of each input, added to it: a Gram matrix of few samples is singular
STEPS = 32  # how often all units are looked at, at most, where all of them go
_PICKS = 16  # removals from a pool, one after the other, at most
_POOL_INPUTS = 1024  # inputs of the units of a pool, at most, where it has several units


@dataclass(frozen=True)
class Consumer:
    """One layer that sums over the units of a group."""

    weight: Weight  # [outs, ins]
    seen: Quadratic  # of the inputs; centred where the layer has a bias to take up means
    held: Quadratic  # the same of held-out rows, which decide no removal
    counts: Matrix  # [outs], how much the squared error of each output counts
    inputs: Units  # [units, inputs of one unit]


class Refits(Sequence[tuple[Weight, ...]]):
    """The weights of each consumer at some levels, made on access: zero at removed units."""

    def __init__(self, consumers: Sequence[Consumer], removed: Sequence[Units], refitted: bool, damping: float) -> None:
        """Take the units that are removed at each level, each level the first ones of the next."""
        self._consumers, self._removed = tuple(consumers), tuple(removed)
        self._layers = tuple(self._layer(each, damping) if refitted else None for each in consumers)

    def __len__(self) -> int:
        return len(self._removed)

    def __getitem__(self, level: Any) -> Any:
        if isinstance(level, slice):
            return [self[each] for each in range(*level.indices(len(self)))]
        level = range(len(self))[level]
        return tuple(
            each.weight + self._moved(number, each.weight, level) for number, each in enumerate(self._consumers)
        )

    def _layer(self, consumer: Consumer, damping: float) -> Restored:
        each = consumer.inputs.shape[1]
        counts = [each * len(units) for units in self._removed]
        return restored(consumer.seen, consumer.inputs[self._removed[-1]].ravel(), counts, damping)

    def _moved(self, number: int, weight: Weight, level: int) -> Weight:
        """Return what is added at a level to a weight, or to mixtures of its outputs, of a consumer."""
        layer = self._layers[number]
        if layer is not None:
            return layer.moved(weight, level)
        moved = np.zeros_like(weight)
        gone = self._consumers[number].inputs[self._removed[level]].ravel()
        moved[:, gone] = -weight[:, gone]
        return moved

    def errors(self) -> tuple[float, ...]:
        """Return the squared error at each level: on held-out rows, weighted, summed over the consumers."""
        parts = [self._errors(number, each) for number, each in enumerate(self._consumers)]
        return tuple(sum(part[level] for part in parts) for level in range(len(self)))

    def _errors(self, number: int, consumer: Consumer) -> list[float]:
        mixed = product(mixing(consumer.counts, PROBES).astype(consumer.weight.dtype), consumer.weight)
        layer = self._layers[number]
        if layer is not None:
            return layer.energies(mixed, consumer.held)
        return [float(consumer.held.energies(self._moved(number, mixed, level)).sum()) for level in range(len(self))]


@dataclass(frozen=True)
class Elimination:
    """The order in which units are removed, and the refitted weights of each consumer."""

    order: Units  # removed units, first to last
    weights: Sequence[tuple[Weight, ...]]  # by level, by consumer: see `Refits`
    errors: tuple[float, ...]  # by level: on held-out rows, weighted, summed over the consumers


def eliminate(
    consumers: Sequence[Consumer], levels: Sequence[int], damping: float = DAMPING, steps: int | None = None
) -> Elimination:
    """Return the order in which the units of a group are removed, and the refitted consumers at each level.

    Args:
        consumers: at least one; all with the same units.
        levels: numbers of removed units, ascending, each below the number of units.
        damping: of the Gram matrices, relative to their diagonals.
        steps: how often all units are looked at, at most; None: `STEPS`.
    """
    order = greedy(consumers, levels[-1], damping, steps)
    refits = Refits(consumers, [order[:level] for level in levels], True, damping)
    return Elimination(order, refits, refits.errors())


def greedy(consumers: Sequence[Consumer], count: int, damping: float = DAMPING, steps: int | None = None) -> Units:
    """Return the first `count` units to remove, in their order; see `eliminate`."""
    states = [surgeon(each.weight, each.seen, each.counts, each.inputs, damping) for each in consumers]
    units = len(consumers[0].inputs)
    widest = max(each.inputs.shape[1] for each in consumers)
    at_once = max(1, min(-(-units // (steps or STEPS)), _POOL_INPUTS // (2 * widest)))
    alive, order = np.ones(units, bool), np.empty(0, np.intp)
    while len(order) < min(count, units):
        scores = _finite(sum((state.errors(alive) for state in states), np.zeros(units)))
        cheapest = np.argsort(np.where(alive, scores, np.inf), kind="stable")
        pool = cheapest[: 1 if at_once == 1 else min(2 * at_once, alive.sum())]
        going = min(at_once, count - len(order))
        gone = pool if len(pool) <= going else pool[_picked([state.pool(pool) for state in states], going)]
        for state in states:
            state.remove(gone)
        alive[gone] = False
        order = np.concatenate([order, gone])
    return order[:count]


def _picked(pools: Sequence[Pool], count: int) -> Units:
    """Return which units of a pool go, in their order: each removal counts for those that follow."""
    picked: list[int] = []
    at_once = -(-count // _PICKS)
    while len(picked) < count:
        scores = _finite(np.sum([pool.errors() for pool in pools], axis=0))
        scores[picked] = np.inf
        gone = np.argsort(scores, kind="stable")[: min(at_once, count - len(picked))]
        for pool in pools:
            pool.remove(gone)
        picked.extend(gone.tolist())
    return np.array(picked, np.intp)


def _finite(scores: Matrix) -> Matrix:
    return np.where(np.isfinite(scores), scores, np.finfo(np.float64).max)


def follow(
    order: Units,
    levels: Sequence[int],
    consumers: Sequence[Consumer],
    *,
    scores: Matrix,
    refitted: bool = True,
    damping: float = DAMPING,
) -> Elimination:
    """Return what `eliminate` does, for an order that is fixed.

    Args:
        order: units, the first to be removed first, at least as many as the last level.
        levels: numbers of removed units, ascending.
        consumers: perhaps none; then the errors are the shares of the squared scores that are removed.
        scores: of all units.
        refitted: whether the kept units make up for the removed ones.
        damping: as for `eliminate`.
    """
    order = np.asarray(order[: levels[-1]], np.intp)
    removed = [order[:level] for level in levels]
    refits = Refits(consumers, removed, refitted, damping)
    if consumers:
        return Elimination(order, refits, refits.errors())
    total = max(float(np.square(scores).sum()), 1e-30)
    return Elimination(order, refits, tuple(float(np.square(scores[gone]).sum()) / total for gone in removed))
