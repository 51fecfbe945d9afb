"""Products, Gram matrices and Cholesky factors in blocks of one size, computed side by side.

How a matrix is divided depends on its shape alone, never on the number of cores: see `algebra.threads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.algebra.threads import spread

Matrix = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

BLOCK = 128  # rows of a block of a factor
TILE = 256  # rows of a block of a product
DEEP = 4096  # summands that are added in the type of the factors; the sums are added in float64
_WHOLE = 48  # rows of a triangular matrix that is inverted whole, at most
_SMALL = 2**24  # multiplications that are not worth dividing


def product(left: Matrix, right: Matrix) -> Matrix:
    """Return ``left @ right`` of matrices ``[m, k]`` and ``[k, n]``, by blocks of the rows or columns of the result."""
    (m, k), n = left.shape, right.shape[1]
    if m * k * n <= _SMALL:
        return np.asarray(left @ right)
    result = np.empty((m, n), np.result_type(left, right))

    def fill(at: slice) -> None:
        if m >= n:
            np.matmul(left[at], right, out=result[at])
        else:
            result[:, at] = left @ right[:, at]

    spread(fill, blocks(max(m, n)))
    return result


def gram(rows: Matrix, weights: Matrix | None = None) -> Doubles:
    """Return ``rows.T @ rows`` of a matrix ``[n, p]``: ``[p, p]``, float64.

    Args:
        rows: sums over so many of them as `DEEP` says are made in their type.
        weights: ``[n]``, of the squares of each row; 1 where there are none.
    """
    count, size = rows.shape
    result = np.zeros((size, size))
    for deep in blocks(count, DEEP):
        part = rows[deep] if weights is None else rows[deep] * np.sqrt(weights[deep, None]).astype(rows.dtype)
        if count * size * size <= _SMALL:
            result += part.T @ part
        else:
            _add_lower(result, part)
    for down, across in _lower(size):
        result[across, down] = result[down, across].T
    return result


def _add_lower(result: Doubles, rows: Matrix) -> None:
    """Add ``rows.T @ rows`` to what lies on and below the diagonal, in tiles."""

    def add(tile: tuple[slice, slice]) -> None:
        down, across = tile
        result[tile] += rows[:, down].T @ rows[:, across]

    spread(add, _lower(len(result)))


def blocks(size: int, each: int = TILE) -> list[slice]:
    """Return the blocks of so many positions.

    >>> blocks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + each, size)) for start in range(0, size, each)]


def _lower(size: int) -> list[tuple[slice, slice]]:
    """Return the tiles on and below the diagonal of a square matrix."""
    parts = blocks(size)
    return [(down, across) for number, down in enumerate(parts) for across in parts[: number + 1]]


class Factor:
    """The Cholesky factor of a symmetric positive definite matrix, and what is solved with it."""

    def __init__(self, matrix: Matrix) -> None:
        """Factor a matrix ``[n, n]``, of which what lies on and below the diagonal is read.

        Raises:
            numpy.linalg.LinAlgError: when it is not positive definite, also for numbers that are not finite.
        """
        lower: Doubles = np.array(matrix, np.float64)
        self._parts = blocks(len(lower), BLOCK)
        self._inverses: list[Doubles] = []  # of the blocks on the diagonal
        for at in self._parts:
            rest = [slice(at.start + each.start, at.start + each.stop) for each in blocks(len(lower) - at.start)]
            before, own = lower[:, : at.start], lower[at, : at.start].T.copy()

            def reduce(rows: slice, at: slice = at, before: Doubles = before, own: Doubles = own) -> None:
                lower[rows, at] -= before[rows] @ own

            if at.start:
                spread(reduce, rest)
            diagonal: Doubles = np.linalg.cholesky(lower[at, at]).astype(np.float64, copy=False)
            if not np.isfinite(diagonal).all():
                raise np.linalg.LinAlgError("not positive definite")
            self._inverses.append(_inverse_of_lower(diagonal))
            lower[at, at] = diagonal
            lower[at.stop :, at] = product(lower[at.stop :, at], self._inverses[-1].T)
        self._lower = lower

    def solve(self, right: Matrix) -> Doubles:
        """Return the solution of the linear systems with the right sides ``[n, r]``."""
        result = np.array(right, np.float64)
        if result.size * len(self._lower) <= _SMALL:
            self._solve(result)
        else:
            spread(self._solve, [result[:, at] for at in blocks(result.shape[1], BLOCK)])
        return result

    def halved(self, right: Matrix) -> Doubles:
        """Return ``L⁻¹ right`` for the factor L: its squares sum to ``rightᵀ matrix⁻¹ right``."""
        result = np.array(right, np.float64)
        spread(self._forward, [result[:, at] for at in blocks(result.shape[1], BLOCK)])
        return result

    def inverse(self) -> Doubles:
        """Return the inverse of the matrix, ``[n, n]``."""
        half = np.eye(len(self._lower))  # becomes the inverse of the factor

        def solve(number: int) -> None:
            self._forward(half[:, self._parts[number]], number)

        spread(solve, range(len(self._parts)))
        result = np.empty_like(half)

        def fill(tile: tuple[slice, slice]) -> None:
            down, across = tile
            result[tile] = half[down.start :, down].T @ half[down.start :, across]
            result[across, down] = result[tile].T

        spread(fill, _lower(len(half)))
        return result

    def _forward(self, right: Doubles, first: int = 0) -> None:
        """Solve with the factor, in place, right sides that are zero in front of the block `first`."""
        start = self._parts[first].start if self._parts else 0
        for at, inverse in zip(self._parts[first:], self._inverses[first:], strict=True):
            right[at] = inverse @ (right[at] - self._lower[at, start : at.start] @ right[start : at.start])

    def _solve(self, right: Doubles) -> None:
        self._forward(right)
        for at, inverse in zip(reversed(self._parts), reversed(self._inverses), strict=True):
            right[at] = inverse.T @ (right[at] - self._lower[at.stop :, at].T @ right[at.stop :])


def _inverse_of_lower(lower: Doubles) -> Doubles:
    """Return the inverse of a triangular matrix, by halves: products take a third of the time of a general inverse."""
    if len(lower) <= _WHOLE:
        return np.asarray(np.linalg.inv(lower))
    half, result = len(lower) // 2, np.zeros_like(lower)
    result[:half, :half] = first = _inverse_of_lower(lower[:half, :half])
    result[half:, half:] = second = _inverse_of_lower(lower[half:, half:])
    result[half:, :half] = -second @ (lower[half:, :half] @ first)
    return result


def mixing(weights: Sequence[float] | Doubles, most: int) -> Doubles:
    """Return a matrix ``[at most `most`, outputs]`` that keeps weighted sums of squares over outputs, about.

    Up to `most` outputs it is diagonal and exact. Beyond, it is random with a fixed seed (Johnson & Lindenstrauss
    1984): a sum of squares then has a relative standard deviation of ``sqrt(2 / most)``.
    """
    scale = np.sqrt(np.asarray(weights, np.float64))
    if len(scale) <= most:
        return np.diag(scale)
    signs = np.random.default_rng(0).integers(0, 2, (most, len(scale))) * 2.0 - 1
    return np.asarray(signs * (scale / np.sqrt(most)))
