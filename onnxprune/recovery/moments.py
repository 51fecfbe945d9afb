"""Moments: sums over the rows of inputs and targets of a layer, all that least squares needs. Numpy alone."""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.algebra.blocked import blocks, gram, product
from onnxprune.algebra.quadratic import Gram, Quadratic, Rows

Matrix = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

WIDEST = 5120  # inputs whose products are summed; of more inputs the rows are kept, as many as `most_rows` says
MOST_PRODUCTS = 2**25  # of inputs with one another and with targets, of all groups, that are summed
MOST_ROWS = 16_384  # whose products are summed
NARROW = 256  # inputs of a layer that has as many rows as it wants
MOST_WIDE_ROWS = 4096  # of a wide layer, those held out among them
ROW_BYTES = 256 * 2**20  # of these rows' inputs, and of their targets
_QUIET = 0.1  # of the mean variance: outputs that vary less than this get less weight
_LARGE = 1e15  # numbers above it are summed in float64: their squares leave float32
_ROUND_OFF = 1e-12  # of a mean square: a variance below it is that of a constant
_PENDING = 1024  # rows that are collected before their products are summed, at least


Shape: TypeAlias = tuple[int, int, int]  # groups, and outputs and inputs of each


def is_wide(shape: Shape) -> bool:
    """Whether the rows of a layer are kept, because the products of its inputs and targets would be too many.

    >>> is_wide((1, 4096, 4096)), is_wide((1, 64, 8192)), is_wide((1, 131072, 768)), is_wide((12, 8, 4608))
    (False, True, True, True)
    """
    groups, outs, ins = shape
    return ins > WIDEST or groups * ins * (ins + outs) > MOST_PRODUCTS


def most_rows(shape: Shape, per_input: int, least: int, most: int = MOST_ROWS) -> int:
    """Return how many rows a fit to a layer of a shape sees at most, those held out among them.

    Args:
        shape: of the layer.
        per_input: rows that are enough for one input.
        least: rows that are seen for the fewest inputs.
        most: rows that layers of more than `NARROW` inputs see at most; the others take no time to speak of.

    >>> [most_rows((1, 64, ins), 16, 8192) for ins in (256, 768, 2048, 8192, 32768)]
    [8192, 12288, 16384, 4096, 2048]
    """
    groups, outs, ins = shape
    most = most if ins > NARROW else MOST_ROWS
    if not is_wide(shape):
        return min(most, max(least, min(per_input * ins, MOST_ROWS)))
    return min(most, max(64, min(MOST_WIDE_ROWS, ROW_BYTES // (4 * groups * max(outs, ins)))))


def precision(shape: Shape) -> type[np.float32 | np.float64]:
    """Return the type in which the weight of a layer is fitted: float32 where it is wide, as its rows are."""
    return np.float32 if is_wide(shape) else np.float64


class Moments:
    """Sums over the rows of inputs and targets of a layer, for each of its groups.

    While there are fewer rows than inputs, the rows themselves are kept; then their products are summed, unless the
    layer is wide: see `is_wide`. Rows are kept in float32, less an origin near the mean: inputs that hardly vary
    around a large one keep their variance. The origin is that of the first rows.
    """

    def __init__(self, groups: int, ins: int, outs: int) -> None:
        self.shape = groups, outs, ins
        self.rows = 0
        self._origin_x, self._origin_y = np.zeros((groups, ins)), np.zeros((groups, outs))
        self._x, self._y = np.zeros((groups, ins)), np.zeros((groups, outs))
        self._yy = np.zeros((groups, outs))  # squares of each output
        self._products: tuple[Matrix, Matrix] | None = None  # xx and yx, [groups, ins or outs, ins]
        self._kept: list[tuple[Array, Array]] = []  # rows whose products are not summed
        self._most = np.inf if is_wide(self.shape) else ins if groups == 1 else 0
        self._pending = max(ins, _PENDING)

    def add(self, x: Array, y: Array) -> None:
        """Add inputs ``[groups, rows, ins]`` and targets ``[groups, rows, outs]``; finite rows alone."""
        if not (_is_tame(x) and _is_tame(y)):
            x, y = _tamed(x, y)
        if not x.shape[1]:
            return
        if not self.rows:
            self._origin_x, self._origin_y = _origin(x), _origin(y)
        x = x - self._origin_x[:, None].astype(x.dtype)
        y = y - self._origin_y[:, None].astype(y.dtype)
        self.rows += x.shape[1]
        self._x += x.sum(1, dtype=np.float64)
        self._y += y.sum(1, dtype=np.float64)
        self._yy += np.einsum("gro,gro->go", y, y, dtype=np.float64)
        self._kept.append((x, y))
        count = sum(rows.shape[1] for rows, _ in self._kept)
        if self.rows > self._most and (self._products is None or count >= self._pending):
            self._sum()

    @property
    def keeps_rows(self) -> bool:
        """Whether the rows themselves are kept, and no products."""
        return self._products is None and self.shape[0] == 1

    def of_group(self, number: int) -> Moments:
        """Return the moments of one group of a wide layer."""
        only = copy.copy(self)
        only.shape = (1, *self.shape[1:])
        at = slice(number, number + 1)
        only._origin_x, only._origin_y = self._origin_x[at], self._origin_y[at]
        only._x, only._y, only._yy = self._x[at], self._y[at], self._yy[at]
        only._kept = [(x[at], y[at]) for x, y in ([self._stacked()] if self._kept else [])]
        return only

    def _sum(self) -> None:
        """Sum the products of the rows that are kept."""
        groups, outs, ins = self.shape
        xx, yx = self._products or (np.zeros((groups, ins, ins)), np.zeros((groups, outs, ins)))
        x, y = self._stacked() if self._kept else (np.zeros((groups, 0, ins)), np.zeros((groups, 0, outs)))
        if groups == 1:
            xx[0] += gram(x[0])
            yx[0] += product(y[0].T, x[0])
        else:
            xx += x.transpose(0, 2, 1) @ x
            yx += y.transpose(0, 2, 1) @ x
        self._products, self._kept = (xx, yx), []

    def _stacked(self) -> tuple[Array, Array]:
        """Return all rows that are kept, as one array each of inputs and targets, and keep these."""
        if len(self._kept) > 1:
            x, y = (np.concatenate(arrays, axis=1) for arrays in zip(*self._kept, strict=True))
            self._kept = [(x, y)]
        return self._kept[0]

    def __add__(self, other: Moments) -> Moments:
        if not self.rows or not other.rows:
            return self if self.rows else other
        total = copy.copy(self)
        total._x, total._y, total._yy, total._kept = self._x.copy(), self._y.copy(), self._yy.copy(), [*self._kept]
        if self._products is not None:
            total._products = self._products[0].copy(), self._products[1].copy()
        if other._products is None:
            for x, y in other._kept:
                total.add(_moved(x, other._origin_x), _moved(y, other._origin_y))
            return total
        total._sum()
        assert total._products is not None
        xx, yx, yy = other.centred(self._origin_x, self._origin_y)
        total.rows += other.rows
        total._x += other.rows * (other.mean_x - self._origin_x)
        total._y += other.rows * (other.mean_y - self._origin_y)
        for products, theirs in zip((*total._products, total._yy), (xx, yx, yy), strict=True):
            np.add(products, other.rows * theirs, out=products)
        return total

    @property
    def mean_x(self) -> Matrix:
        """The mean of each input, ``[groups, ins]``; 0 without rows."""
        return self._origin_x + self._x / max(1, self.rows)

    @property
    def mean_y(self) -> Matrix:
        """The mean of each output, ``[groups, outs]``; 0 without rows."""
        return self._origin_y + self._y / max(1, self.rows)

    def variance(self) -> Matrix:
        """Return the variance of each output, ``[groups, outs]``."""
        n = max(1, self.rows)
        return np.maximum(self._yy / n - (self._y / n) ** 2, 0)

    def weights(self) -> Matrix:
        """Return the weights of the squared errors of outputs, ``[groups, outs]``; times the variances they sum to 1.

        Outputs are normalised by their variance: a few channels of a transformer are a hundred times as large as the
        others, and a normalisation behind the layer levels that. Those that hardly vary get less weight. Where none
        varies, errors are divided by the mean square.
        """
        variance, energy = self.variance(), float((self.variance() + self.mean_y**2).sum())
        if variance.sum() <= _ROUND_OFF * energy:
            return np.full_like(variance, 1 / energy if energy > 0 else 1)
        raw = variance.mean() / (variance + _QUIET * variance.mean())
        return np.asarray(raw / (raw * variance).sum())

    def centred(self, mean_x: Matrix, mean_y: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """Return xx, yx and yy of the rows less these means, per row."""
        if self._products is None:
            summed = copy.copy(self)  # the rows stay kept
            summed._sum()
            return summed.centred(mean_x, mean_y)
        if self._kept:
            self._sum()
        n = max(1, self.rows)
        mx, my = self._x / n, self._y / n
        mean_x, mean_y = mean_x - self._origin_x, mean_y - self._origin_y
        xx, yx = (products / n for products in self._products)
        add_outer(xx, mx - mean_x, mx - mean_x)
        take_outer(xx, mx, mx)
        add_outer(yx, my - mean_y, mx - mean_x)
        take_outer(yx, my, mx)
        return xx, yx, self._yy / n - 2 * my * mean_y + mean_y**2

    def centred_rows(self, mean_x: Matrix, mean_y: Matrix) -> tuple[Array, Array]:
        """Return the rows that are kept less these means: inputs ``[rows, ins]`` and targets ``[rows, outs]``."""
        if not self._kept:
            return np.zeros((0, self.shape[2]), np.float32), np.zeros((0, self.shape[1]), np.float32)
        x, y = (rows[0] for rows in self._stacked())
        return x - (mean_x - self._origin_x).astype(x.dtype), y - (mean_y - self._origin_y).astype(y.dtype)

    def inputs(self, mean_x: Matrix) -> Quadratic:
        """Return the second moments of the inputs of the only group, less a mean ``[1, ins]``."""
        if self.keeps_rows:
            return Rows(self.centred_rows(mean_x, np.zeros_like(self._origin_y))[0])
        return Gram(self.centred(mean_x, np.zeros_like(self._origin_y))[0][0])


def error(moments: Moments, weight: Matrix, bias: Matrix | None) -> float:
    """Return the squared error of a layer on some rows, over the variance of the targets: see `Moments.weights`.

    Args:
        moments: of the rows.
        weight: ``[groups, outs, ins]``.
        bias: ``[groups, outs]``, or None.
    """
    constant = moments.mean_y - np.einsum("goi,gi->go", weight, moments.mean_x) - (0 if bias is None else bias)
    if moments.keeps_rows:
        x, y = moments.centred_rows(moments.mean_x, moments.mean_y)
        left = y - product(x, weight[0].T.astype(x.dtype, copy=False))
        varying = np.square(left, dtype=np.float64).sum(0)[None] / max(1, moments.rows)
    else:
        xx, yx, yy = moments.centred(moments.mean_x, moments.mean_y)
        varying = yy - 2 * np.einsum("goi,goi->go", weight, yx)
        del yx  # of a vocabulary it is large, and so are the products below
        varying += [Gram(each).energies(rows) for each, rows in zip(xx, weight, strict=True)]
    return float(((np.maximum(varying, 0) + constant**2) * moments.weights()).sum())


def add_outer(total: Matrix, left: Matrix, right: Matrix) -> None:
    """Add the products of ``[groups, outs]`` with ``[groups, ins]`` to ``[groups, outs, ins]``, in place.

    Some outputs at a time: those of a vocabulary have hundreds of megabytes of products.
    """
    for at in blocks(left.shape[1]):
        total[:, at] += left[:, at, None] * right[:, None, :]


def take_outer(total: Matrix, left: Matrix, right: Matrix) -> None:
    """Subtract the products that `add_outer` adds."""
    for at in blocks(left.shape[1]):
        total[:, at] -= left[:, at, None] * right[:, None, :]


def _moved(rows: Array, origin: Matrix) -> Array:
    return np.asarray(rows + origin[:, None].astype(rows.dtype))


def _origin(rows: Array) -> Matrix:
    """Return the mean of rows, rounded to float32: it is subtracted and added back without round-off."""
    return np.asarray(rows.mean(1, dtype=np.float64).astype(np.float32), np.float64)


def _is_tame(rows: Array) -> bool:
    """Whether all numbers are finite and so small that sums of their products are, too."""
    return not rows.size or bool(max(-rows.min(), rows.max()) < _LARGE)  # false for NaN


def _tamed(x: Array, y: Array) -> tuple[Matrix, Matrix]:
    """Return the rows that are finite, in float64."""
    finite = np.isfinite(x).all((0, 2)) & np.isfinite(y).all((0, 2))
    return x[:, finite].astype(np.float64), y[:, finite].astype(np.float64)
