"""Elimination: which units a layer misses least when its other weights may make up for them. Numpy alone.

Optimal brain surgeon (Hassibi & Stork 1993; for whole columns Frantar & Alistarh 2022, "Optimal Brain Compression"):
with H the Gram matrix of the inputs of a layer, removing the inputs J and refitting the others adds the squared error

    E(J) = tr(W_J ([H⁻¹]_JJ)⁻¹ W_Jᵀ),       W ← W − W_J ([H⁻¹]_JJ)⁻¹ [H⁻¹]_J,:

Units are removed greedily, the cheapest first, in blocks, so that a layer of 4,096 inputs takes seconds. A group whose
units several layers consume adds up their errors, each weighted as `recovery.reconstruct.Moments.weights` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Units = npt.NDArray[np.intp]

DAMPING = 0.01  # of the mean square of each input, added to it: a Gram matrix of few samples is singular
STEPS = 128  # blocks of units that are removed one after the other, at most


@dataclass(frozen=True)
class Consumer:
    """One layer that sums over the units of a group."""

    weight: Matrix  # [outs, ins]
    gram: Matrix  # [ins, ins], mean over rows; centred where the layer has a bias to take up means
    held: Matrix  # the same over held-out rows, which decide no removal
    counts: Matrix  # [outs], how much the squared error of each output counts
    inputs: Units  # [units, inputs of one unit]


@dataclass(frozen=True)
class Elimination:
    """The order in which units are removed, and the refitted weights of each consumer."""

    order: Units  # removed units, first to last
    weights: tuple[tuple[Matrix, ...], ...]  # by level, by consumer: zero at removed units
    errors: tuple[float, ...]  # by level: on held-out rows, weighted, summed over the consumers


def eliminate(consumers: Sequence[Consumer], levels: Sequence[int], damping: float = DAMPING) -> Elimination:
    """Return the order in which the units of a group are removed, and the refitted consumers at each level.

    Args:
        consumers: at least one; all with the same units.
        levels: numbers of removed units, ascending, each below the number of units.
        damping: of the Gram matrices, relative to their diagonals.
    """
    states = [_State(consumer, damping) for consumer in consumers]
    units = len(consumers[0].inputs)
    alive = np.ones(units, bool)
    order: list[int] = []
    weights, errors = [], []
    step = max(1, -(-units // STEPS))
    for level in levels:
        while len(order) < level:
            scores = np.sum([state.errors(alive) for state in states], axis=0)
            scores = np.where(np.isfinite(scores), scores, np.finfo(np.float64).max)
            gone = np.argsort(np.where(alive, scores, np.inf), kind="stable")[: min(step, level - len(order))]
            for state in states:
                state.remove(gone)
            alive[gone] = False
            order.extend(gone.tolist())
        weights.append(tuple(state.weight.copy() for state in states))
        errors.append(float(sum(state.held_error() for state in states)))
    return Elimination(np.array(order, np.intp), tuple(weights), tuple(errors))


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
    states = [_State(consumer, damping) for consumer in consumers]
    weights, errors, done = [], [], 0
    total = max(float(np.square(scores).sum()), 1e-30)
    for level in levels:
        for state in states:
            if refitted:
                state.remove(order[done:level])
            else:
                state.drop(order[done:level])
        done = level
        weights.append(tuple(state.weight.copy() for state in states))
        gone = float(np.square(scores[order[:level]]).sum()) / total
        errors.append(sum(state.held_error() for state in states) if states else gone)
    return Elimination(np.asarray(order[: levels[-1]], np.intp), tuple(weights), tuple(errors))


def _solve(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> Matrix:
    """Solve linear systems ``[..., n, n]``; where round-off made one singular, all by the pseudo-inverse."""
    try:
        return np.asarray(np.linalg.solve(left, right))
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.pinv(left) @ right)


class _State:
    """A consumer while units are removed."""

    def __init__(self, consumer: Consumer, damping: float) -> None:
        self._consumer = consumer
        diagonal = np.diag(consumer.gram).copy()
        damped = consumer.gram + np.diag(damping * diagonal + 1e-3 * damping * diagonal.mean() + 1e-12)
        self._inverse: Matrix = np.linalg.inv(damped).astype(np.float64, copy=False)
        self.weight = consumer.weight.astype(np.float64, copy=True)
        self._scale: Matrix = np.sqrt(consumer.counts, dtype=np.float64)[:, None]  # of each output

    def errors(self, alive: npt.NDArray[np.bool_]) -> Matrix:
        """Return what the removal of each kept unit would add to the error; 0 for removed units."""
        inputs = self._consumer.inputs[alive]
        blocks: Matrix = self._inverse[inputs[:, :, None], inputs[:, None, :]]
        columns: Matrix = (self.weight * self._scale)[:, inputs].transpose(1, 2, 0)  # [units, inputs of one, outs]
        solved = columns / blocks if inputs.shape[1] == 1 else _solve(blocks, columns)
        added = np.zeros(len(alive))
        added[alive] = np.einsum("uio,uio->u", columns, solved)
        return added

    def remove(self, units: Units) -> None:
        """Remove units and let the kept ones make up for them."""
        gone = self._consumer.inputs[units].ravel()
        rows = self._inverse[gone]
        solved = _solve(rows[:, gone], rows)
        self.weight -= self.weight[:, gone] @ solved
        self._inverse -= rows.T @ solved
        self.weight[:, gone] = 0
        self._inverse[gone] = 0  # what is left of round-off
        self._inverse[:, gone] = 0
        self._inverse[gone, gone] = 1  # keeps the blocks of removed units regular

    def drop(self, units: Units) -> None:
        """Remove units and leave the kept ones as they are."""
        self.weight[:, self._consumer.inputs[units].ravel()] = 0

    def held_error(self) -> float:
        """Return the squared error on held-out rows weighted over the outputs."""
        change = (self.weight - self._consumer.weight) * self._scale
        return float(np.einsum("oi,oi->", change @ self._consumer.held, change))
