"""Second moments of inputs in the form that is smaller: their Gram matrix, or the rows themselves. Numpy alone.

With p inputs and n rows, ``X Xᵀ`` is ``[p, p]``; where n < p the same is known from the n rows. All that is asked of it
then takes the time of n² p and not of p³, and the memory of n p and not of p²: layers of 32,768 inputs take seconds.
Both forms are exact; only rows that are left out to save memory are an approximation.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.algebra.blocked import Factor, blocks, product

Matrix: TypeAlias = npt.NDArray[Any]
Doubles: TypeAlias = npt.NDArray[np.float64]

WIDE = 4096  # columns of rows that are turned into float64 at a time


@dataclass(frozen=True, eq=False)
class Gram:
    """Mean products of inputs, ``[p, p]``."""

    matrix: Doubles
    _inverses: dict[float, Doubles] = field(default_factory=dict, repr=False)  # by damping
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def diagonal(self) -> Doubles:
        """Return the mean square of each input, ``[p]``."""
        return np.diagonal(self.matrix).copy()

    def inverse(self, damping: float) -> Doubles:
        """Return the inverse of the matrix with a `ridge`, ``[p, p]``; made once, for all groups that look at it."""
        with self._lock:
            if damping not in self._inverses:
                matrix = np.nan_to_num(self.matrix)
                matrix.flat[:: len(matrix) + 1] += ridge(np.diagonal(matrix).copy(), damping)
                self._inverses[damping] = safe_factor(matrix).inverse()
            return self._inverses[damping]

    def energies(self, weight: Matrix) -> Doubles:
        """Return the mean square of each output of a weight ``[outs, p]``."""
        return np.asarray(np.einsum("oi,oi->o", product(weight, self.matrix), weight))


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of inputs, ``[n, p]``, of which means are taken."""

    rows: Matrix

    def diagonal(self) -> Doubles:
        """Return the mean square of each input, ``[p]``."""
        count, size = self.rows.shape
        parts = [np.square(self.rows[:, at], dtype=np.float64).sum(0) for at in blocks(size, WIDE)]
        return np.concatenate(parts) / max(1, count) if parts else np.zeros(0)

    def energies(self, weight: Matrix) -> Doubles:
        """Return the mean square of each output of a weight ``[outs, p]``."""
        outputs = product(self.rows, weight.astype(self.rows.dtype, copy=False).T)
        return np.asarray(np.square(outputs, dtype=np.float64).sum(0) / max(1, len(outputs)))


Quadratic: TypeAlias = Gram | Rows


def ridge(diagonal: Doubles, damping: float) -> Doubles:
    """Return what is added to each mean square: so much of it, and a little where it is zero."""
    return np.asarray(damping * diagonal + 1e-3 * damping * diagonal.mean() + 1e-12)


def safe_factor(matrix: Doubles) -> Factor:
    """Return the factor of a damped matrix; where round-off is as large as the damping, with more of it."""
    for _ in range(5):
        try:
            return Factor(matrix)
        except np.linalg.LinAlgError:
            matrix = matrix.copy()
            matrix.flat[:: len(matrix) + 1] += 1e-6 * np.abs(np.diagonal(matrix)).max() + 1e-12
    return Factor(np.diag(np.maximum(np.diagonal(matrix), 1e-12)))
