"""What is left of a layer makes up for removed inputs: its weights at several levels of one order. Numpy alone.

Removing the inputs J of an order, the first ones, leaves (see `criteria.elimination`)

    W' = W − W_J A⁻¹ [H⁻¹]_J,:  with  A = [H⁻¹]_JJ = L Lᵀ,    so    W' = W − T R  with  T = W_J L⁻ᵀ,  R = L⁻¹ [H⁻¹]_J,:

The factor of the first so many inputs of an order is the corner of the factor of all, and so are T and R: one factor
serves all levels. By the rows, where there are fewer than inputs, each level has a factor of its own, for which
`criteria.surgeon` has the formulas, but the products of rows grow from the last level to the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.algebra.blocked import Factor, blocks, gram, product
from onnxprune.algebra.quadratic import WIDE, Gram, Quadratic, Rows, safe_factor
from onnxprune.criteria.surgeon import kernel, scaled_rows

Matrix: TypeAlias = npt.NDArray[np.float64]
Weight: TypeAlias = npt.NDArray[Any]
Units: TypeAlias = npt.NDArray[np.intp]

HELD_BYTES = 64 * 2**20  # of factors by rows that are kept; others are made again when they are asked for


class Restored(Protocol):
    """A layer whose inputs are removed in an order, at some levels."""

    def moved(self, weight: Weight, level: int) -> Weight:
        """Return what is added to a weight ``[outs, ins]`` at a level; where inputs are removed, less the weight."""

    def energies(self, weight: Weight, held: Quadratic) -> list[float]:
        """Return at each level the summed mean squares of what the outputs of a weight change by on other inputs."""


def restored(seen: Quadratic, order: Units, levels: Sequence[int], damping: float) -> Restored:
    """Return a layer that makes up for removed inputs.

    Args:
        seen: the second moments of its inputs.
        order: inputs, the first to be removed first.
        levels: how many are removed, ascending.
        damping: added to the mean square of each input, relative to it.
    """
    return _ByMatrix(seen, order, levels, damping) if isinstance(seen, Gram) else _ByRows(seen, order, levels, damping)


class _ByMatrix:
    """A layer whose Gram matrix is known."""

    def __init__(self, seen: Gram, order: Units, levels: Sequence[int], damping: float) -> None:
        self._order, self._levels = order, tuple(levels)
        rows = seen.inverse(damping)[order]
        self._factor = safe_factor(rows[:, order])
        self._right = self._factor.halved(rows)

    def moved(self, weight: Weight, level: int) -> Weight:
        """See `Restored.moved`."""
        count = self._levels[level]
        left = self._factor.halved(weight[:, self._order].T)
        moved = -product(left[:count].T, self._right[:count])
        return _without(moved, weight, self._order[:count])

    def energies(self, weight: Weight, held: Quadratic) -> list[float]:
        """See `Restored.energies`: with few removed inputs, T (R H Rᵀ) Tᵀ takes less time than the changes do."""
        if not isinstance(held, Gram) or len(self._order) >= len(self._levels) * len(weight) / 2:
            return [float(held.energies(self.moved(weight, level)).sum()) for level in range(len(self._levels))]
        left = self._factor.halved(weight[:, self._order].T).T
        seen = Gram(product(product(self._right, held.matrix), self._right.T))
        return [float(Gram(seen.matrix[:n, :n]).energies(left[:, :n]).sum()) for n in self._levels]


class _ByRows:
    """A layer of which rows of inputs are known, fewer than inputs."""

    def __init__(self, seen: Rows, order: Units, levels: Sequence[int], damping: float) -> None:
        self._order, self._levels = order, tuple(levels)
        self._rows, self._scale = scaled_rows(seen, damping)
        self._most = HELD_BYTES // (8 * max(1, len(self._rows)) ** 2)
        self._factors: dict[int, Factor] = {}
        self._products: tuple[int, Matrix] | None = None  # how many inputs are removed, and the kernel of the others

    def moved(self, weight: Weight, level: int) -> Weight:
        """See `Restored.moved`."""
        gone = self._order[: self._levels[level]]
        lost = product(self._rows[:, gone], (weight[:, gone] * self._scale[gone]).T.astype(self._rows.dtype))
        solved = self._solver(level).solve(lost).T.astype(self._rows.dtype)
        moved = np.empty(weight.shape, np.result_type(weight, solved))
        for at in blocks(weight.shape[1], WIDE):
            moved[:, at] = product(solved, self._rows[:, at]) / self._scale[at].astype(self._rows.dtype)
        return _without(moved, weight, gone)

    def energies(self, weight: Weight, held: Quadratic) -> list[float]:
        """See `Restored.energies`: from the last level to the first, so that products of rows are added to."""
        levels = reversed(range(len(self._levels)))
        return [float(held.energies(self.moved(weight, level)).sum()) for level in levels][::-1]

    def _solver(self, level: int) -> Factor:
        factor = self._factors.get(level)
        if factor is None:
            factor = Factor(self._kernel(self._levels[level]))
            if len(self._factors) < self._most:
                self._factors[level] = factor
        return factor

    def _kernel(self, count: int) -> Matrix:
        """Return the kernel of what is left without so many inputs: of the last one that was made, and more inputs."""
        if self._products is None or self._products[0] < count:
            products = kernel(self._rows, np.setdiff1d(np.arange(self._rows.shape[1]), self._order[:count]))
        else:
            products = self._products[1] + gram(self._rows[:, self._order[count : self._products[0]]].T)
        self._products = count, products
        return products


def _without(moved: Weight, weight: Weight, gone: Units) -> Weight:
    moved[:, gone] = -weight[:, gone]
    return moved
