"""Importance: how much a unit matters, from its weights alone.

A criterion sees, per group, matrices ``[units, fan]`` of the weights that make and consume the units, and
returns one score per unit; the units with the lowest scores go first. Numpy only; no graph is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Matrix: TypeAlias = npt.NDArray[Any]
Scores: TypeAlias = npt.NDArray[np.float64]
Weight: TypeAlias = "tuple[str, Matrix]"  # role (out, in, scale, vector) and [units, fan]


@dataclass(frozen=True, slots=True)
class Criterion:
    """One way to score units."""

    score: Callable[[Iterable[Weight], np.random.Generator], Scores | None]  # None: the group has no such weights
    summary: str
    scope: Literal["global", "group"] = "group"  # how units are ranked unless asked otherwise
    comparable: bool = False  # whether raw scores compare across groups
    data: bool = False  # whether it needs samples


def l1(weights: Iterable[Weight], rng: np.random.Generator) -> Scores | None:
    """Return the L1 norm of each unit's weights (Li et al. 2017, "Pruning Filters for Efficient ConvNets")."""
    return _kernels(weights, lambda matrix: np.abs(matrix).sum(1, dtype=np.float64))


def l2(weights: Iterable[Weight], rng: np.random.Generator) -> Scores | None:
    """Return the L2 norm of each unit's weights."""
    return _kernels(weights, lambda matrix: np.sqrt(np.einsum("uf,uf->u", matrix, matrix, dtype=np.float64)))


def fpgm(weights: Iterable[Weight], rng: np.random.Generator) -> Scores | None:
    """Return each unit's distance to all others: near the geometric median means replaceable.

    He et al. 2019, "Filter Pruning via Geometric Median", equation 6.
    """
    return _kernels(weights, _distances)


def bn(weights: Iterable[Weight], rng: np.random.Generator) -> Scores | None:
    """Return the BatchNorm scale |γ| of each unit, averaged over the norms of the group.

    Liu et al. 2017, "Network Slimming": one threshold for the whole network.
    """
    scales = [np.abs(matrix[:, 0].astype(np.float64)) for role, matrix in weights if role == "scale"]
    return np.mean(np.stack(scales), axis=0, dtype=np.float64) if scales else None


def random(weights: Iterable[Weight], rng: np.random.Generator) -> Scores | None:
    """Return random scores: the baseline that a criterion must beat."""
    units = next(len(matrix) for _, matrix in weights)
    scores: Scores = rng.random(units)
    return scores


CRITERIA: dict[str, Criterion] = {
    "l1": Criterion(l1, "L1 norm of the weights that make and consume a unit"),
    "l2": Criterion(l2, "L2 norm of the weights that make and consume a unit"),
    "bn": Criterion(bn, "BatchNorm scale, one threshold for the network", "global", comparable=True),
    "fpgm": Criterion(fpgm, "distance to the other units (geometric median)"),
    "obs": Criterion(l2, "error of removing a unit when the others make up for it", comparable=True, data=True),
    "random": Criterion(random, "random units, the baseline", comparable=True),
}


def score(name: str, weights: Iterable[Weight], rng: np.random.Generator) -> Scores | None:
    """Return the score of each unit of a group, float64 ``[units]``, mean 1 where they are not comparable as such.

    Args:
        name: a key of `CRITERIA`.
        weights: role and matrix ``[units, fan]`` of each weight of the group; read once, in order.
        rng: for criteria that draw.

    Returns:
        The scores, or None when the group has no weights that the criterion looks at.
    """
    criterion = CRITERIA[name]
    scores = criterion.score(weights, rng)
    return scores if scores is None or criterion.comparable else _relative(scores)


def _kernels(weights: Iterable[Weight], norm: Callable[[Matrix], Matrix]) -> Scores | None:
    """Average the relative norms of the kernels: each weight counts the same, whatever its scale.

    Biases and norms say little about a unit and are used only where a group has nothing else.
    """
    kernels: list[Scores] = []
    vectors: list[Scores] = []
    for role, matrix in weights:
        (kernels if role in ("out", "in") else vectors).append(_relative(norm(matrix)))
    chosen = kernels or vectors
    return np.mean(chosen, axis=0) if chosen else None


def _relative(values: Matrix) -> Scores:
    """Return `values` over their mean; all ones where the mean is zero."""
    values = np.asarray(values, np.float64)
    mean = values.mean()
    return values / mean if mean > 0 else np.ones_like(values)


def _distances(matrix: Matrix) -> Matrix:
    """Return the sum of Euclidean distances from each row to all rows."""
    wide = matrix.astype(np.float64, copy=False)
    squares = np.einsum("uf,uf->u", wide, wide)
    gram = wide @ wide.T
    distances: Matrix = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0))
    total: Matrix = distances.sum(1)
    return total
