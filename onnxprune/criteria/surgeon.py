"""The optimal brain surgeon's view of one layer while inputs are removed: as a matrix, or by rows. Numpy alone.

With H = X Xᵀ + D of p inputs and n rows, both know what a removal costs (see `criteria.elimination`):

- by the matrix: H⁻¹ ``[p, p]``, from which what is removed is eliminated;
- by the rows, where n < p: with Z = D^-1/2 X and K = 1 + Zᵀ Z over the inputs that are left, ``[n, n]``,

      D^1/2 H⁻¹ D^1/2 = 1 − Z K⁻¹ Zᵀ,        W' = W + (W_J X_J) K⁻¹ Zᵀ D^-1/2

  is exact for any set J of removed inputs (Woodbury). A step then takes n² p, and no ``[p, p]`` is ever made.

Costs are those of `PROBES` mixtures of the outputs where there are more: only their order counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.algebra.blocked import Factor, blocks, gram, mixing, product
from onnxprune.algebra.quadratic import WIDE, Gram, Quadratic, Rows, ridge

Matrix: TypeAlias = npt.NDArray[np.float64]
Weight: TypeAlias = npt.NDArray[Any]
Units: TypeAlias = npt.NDArray[np.intp]
Mask: TypeAlias = npt.NDArray[np.bool_]

DOUBLE = 2.0  # multiply-accumulates in float32 that one in float64 takes as long as
PROBES = 128  # mixtures of outputs that costs are those of, where there are more outputs
ROWS = 1024  # that costs are computed from at most, where the rows are used
_COMPACT = 0.8  # of the inputs that a matrix holds: it is made smaller when fewer are left
_ROWS_OF_MANY = 512  # the same where a unit has more inputs than this


def gram_work(rows: int, ins: int, units: Sequence[int]) -> float:
    """Return the multiply-accumulates of all that is done by the matrix: its sum, its inverse, and removals.

    Args:
        rows: that it is summed over.
        ins: of the layer.
        units: inputs of each group of which most are removed.
    """
    inverse = 1.5 * ins**3
    removed = sum(1.4 * each**3 + 0.5 * ins * each**2 for each in units)
    return rows * ins**2 / 2 + DOUBLE * (inverse + removed)


def rows_work(rows: int, ins: int, steps: int, groups: int) -> float:
    """Return the same of removals from `groups` groups by the rows, where all units are looked at so many times."""
    return groups * (rows**2 * ins + steps * (DOUBLE * rows**3 / 1.2 + rows**2 * ins))


class Surgeon(Protocol):
    """A layer while units are removed."""

    def errors(self, alive: Mask) -> Matrix:
        """Return what the removal of each kept unit would add to the error, ``[units]``; 0 for removed units."""

    def pool(self, units: Units) -> Pool:
        """Return some of the kept units as a small problem of its own."""

    def remove(self, units: Units) -> None:
        """Remove units and let the kept ones make up for them."""


class Pool:
    """Some units of a layer: the inverse and the weight at their inputs alone."""

    def __init__(self, inverse: Matrix, columns: Matrix) -> None:
        """Take an inverse ``[units · inputs of one, ...]`` and columns ``[units, inputs of one, outs]``."""
        self._units, self._each, _ = columns.shape
        self._inverse, self._columns = inverse, columns

    def errors(self) -> Matrix:
        """Return what the removal of each unit would add to the error, ``[units]``."""
        if self._each == 1:
            return np.asarray(np.square(self._columns[:, 0]).sum(1) / np.diagonal(self._inverse))
        square = self._inverse.reshape(self._units, self._each, self._units, self._each)
        return costs(np.einsum("uiuj->uij", square), self._columns)

    def remove(self, units: Units) -> None:
        """Remove units and let the others make up for them."""
        gone = (units[:, None] * self._each + np.arange(self._each)).ravel()
        flat = self._columns.reshape(len(self._inverse), -1)
        rows = self._inverse[gone]
        solved = solve(rows[:, gone], rows)
        flat -= solved.T @ flat[gone]
        self._inverse -= rows.T @ solved
        flat[gone] = 0
        _forget(self._inverse, gone)


def surgeon(weight: Weight, seen: Quadratic, counts: Matrix, inputs: Units, damping: float) -> Surgeon:
    """Return a layer from which units can be removed.

    Args:
        weight: ``[outs, ins]``.
        seen: the second moments of its inputs.
        counts: ``[outs]``, how much the squared error of each output counts.
        inputs: ``[units, inputs of one unit]``.
        damping: added to the mean square of each input, relative to it.
    """
    mixed = product(mixing(counts, PROBES).astype(weight.dtype), weight).astype(np.float64, copy=False)
    if isinstance(seen, Gram):
        return _ByMatrix(mixed, seen, inputs, damping)
    return _ByRows(mixed, seen, inputs, damping)


def costs(inverse: Matrix, columns: Matrix) -> Matrix:
    """Return the errors that units add, from blocks ``[units, i, i]`` of the inverse and columns ``[units, i, o]``."""
    solved = columns / inverse if columns.shape[1] == 1 else solve(inverse, columns)
    return np.asarray(np.einsum("uio,uio->u", columns, solved))


def solve(left: Weight, right: Weight) -> Matrix:
    """Solve linear systems ``[..., n, n]``; where round-off made one singular, all by the pseudo-inverse."""
    try:
        return np.asarray(np.linalg.solve(left, right))
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.pinv(left) @ right)


def _forget(inverse: Matrix, gone: Units) -> None:
    """Clear what is left of round-off, and keep the blocks of removed units regular."""
    inverse[gone] = 0
    inverse[:, gone] = 0
    inverse[gone, gone] = 1


class _ByMatrix:
    """A layer whose inverse Gram matrix is held, at the inputs of the group that are left: a removal needs no others.

    What was removed is dropped from the matrix when it is a good part of it.
    """

    def __init__(self, weight: Matrix, seen: Gram, inputs: Units, damping: float) -> None:
        flat = inputs.ravel()
        self._inputs: Units = np.arange(flat.size).reshape(inputs.shape)  # [units, inputs of one], in the matrix
        self._weight = weight[:, flat]
        self._inverse = seen.inverse(damping)[np.ix_(flat, flat)]
        self._alive = np.ones(len(inputs), bool)

    def errors(self, alive: Mask) -> Matrix:
        inputs = self._inputs[alive]
        added = np.zeros(len(alive))
        columns = self._weight[:, inputs].transpose(1, 2, 0)
        added[alive] = costs(self._inverse[inputs[:, :, None], inputs[:, None, :]], columns)
        return added

    def pool(self, units: Units) -> Pool:
        inputs = self._inputs[units]
        flat = inputs.ravel()
        return Pool(self._inverse[np.ix_(flat, flat)], self._weight[:, inputs].transpose(1, 2, 0).copy())

    def remove(self, units: Units) -> None:
        gone = self._inputs[units].ravel()
        rows = self._inverse[gone]
        solved = solve(rows[:, gone], rows)
        self._weight -= self._weight[:, gone] @ solved
        self._inverse -= product(rows.T, solved)
        self._weight[:, gone] = 0
        _forget(self._inverse, gone)
        self._alive[units] = False
        if self._alive.sum() * self._inputs.shape[1] < _COMPACT * len(self._inverse):
            self._compact()

    def _compact(self) -> None:
        left = self._inputs[self._alive].ravel()
        self._inverse, self._weight = self._inverse[np.ix_(left, left)], self._weight[:, left]
        self._inputs = np.zeros_like(self._inputs)
        self._inputs[self._alive] = np.arange(left.size).reshape(-1, self._inputs.shape[1])


def scaled_rows(seen: Rows, damping: float) -> tuple[Weight, Matrix]:
    """Return the rows ``[n, ins]`` whose Gram matrix is that of a damping of 1, and by what each input was divided."""
    scale = np.sqrt(ridge(seen.diagonal(), damping))
    rows = seen.rows / (scale * np.sqrt(max(1, len(seen.rows)))).astype(seen.rows.dtype)
    return rows, scale


def kernel(scaled: Weight, kept: Units) -> Matrix:
    """Return 1 + Zᵀ Z over some inputs, ``[n, n]``."""
    result = np.eye(len(scaled))
    for at in blocks(len(kept), WIDE):
        result += gram(scaled[:, kept[at]].T)
    return result


class _ByRows:
    """A layer of which rows of inputs are held, fewer than inputs."""

    def __init__(self, weight: Matrix, seen: Rows, inputs: Units, damping: float) -> None:
        self._inputs, count = inputs, len(seen.rows)
        most = ROWS if inputs.shape[1] <= _ROWS_OF_MANY else _ROWS_OF_MANY
        rows = seen.rows if count <= most else seen.rows[np.linspace(0, count - 1, most).astype(np.intp)]
        self._rows, scale = scaled_rows(Rows(rows), damping)
        self._weight = weight * scale
        self._lost = np.zeros((len(rows), len(weight)))  # what removed inputs gave to each row
        self._kernel = kernel(self._rows, np.arange(self._rows.shape[1]))
        self._half = np.empty(0)  # the inverse of the factor of the kernel, when all units were looked at last

    def errors(self, alive: Mask) -> Matrix:
        self._half = np.ascontiguousarray(Factor(self._kernel).halved(np.eye(len(self._kernel))), self._rows.dtype)
        added, each = np.zeros(len(alive)), self._inputs.shape[1]
        numbers = np.flatnonzero(alive)
        for at in blocks(len(numbers), max(1, WIDE // each)):
            rows, columns = self._view(numbers[at])
            if each == 1:
                left = np.maximum(1 - np.square(rows[:, :, 0], dtype=np.float64).sum(0), 1e-6)
                added[numbers[at]] = np.square(columns[:, 0]).sum(1) / left
            else:
                added[numbers[at]] = _costs_by_rows(rows, columns)
        return added

    def _view(self, units: Units) -> tuple[Weight, Matrix]:
        """Return L⁻¹ Z ``[n, units, inputs of one]`` and the refitted columns ``[units, inputs of one, outs]``."""
        inputs = self._inputs[units]
        rows = product(self._half, self._rows[:, inputs.ravel()])
        moved = product(rows.T, self._half @ self._lost.astype(rows.dtype))
        columns = self._weight[:, inputs.ravel()].T + moved
        return rows.reshape(len(rows), *inputs.shape), columns.reshape(*inputs.shape, -1)

    def pool(self, units: Units) -> Pool:
        rows, columns = self._view(units)
        flat = rows.reshape(len(rows), -1)
        return Pool(np.eye(flat.shape[1]) - gram(flat), columns)

    def remove(self, units: Units) -> None:
        gone = self._inputs[units].ravel()
        rows = self._rows[:, gone]
        self._kernel -= gram(rows.T)
        self._lost += product(rows, self._weight[:, gone].T.astype(rows.dtype))


def _costs_by_rows(rows: Weight, columns: Matrix) -> Matrix:
    """Return the errors that units of several inputs add, from the smaller of two systems for each.

    Args:
        rows: L⁻¹ Z, ``[n, units, inputs of one]``.
        columns: ``[units, inputs of one, outs]``.
    """
    count, _, each = rows.shape
    of_units = rows.transpose(1, 0, 2)  # [units, n, inputs of one]
    if each <= count:
        return costs(np.eye(each) - of_units.transpose(0, 2, 1) @ of_units, columns)
    moved = of_units @ columns  # (1 − TᵀT)⁻¹ = 1 + Tᵀ (1 − TTᵀ)⁻¹ T
    solved = solve(np.eye(count) - of_units @ of_units.transpose(0, 2, 1), moved)
    return np.asarray(np.square(columns).sum((1, 2)) + np.einsum("uno,uno->u", moved, solved))
