"""Reconstruction: least squares that restore the outputs of a layer after a cut. Numpy alone.

For a layer with weight W, inputs X in the pruned model and outputs Y in the original, the fit is

    W' = argmin ||Y - W' X||² + λ ||(W' - W) D||²,    D² = diag(X Xᵀ)

It shrinks towards W, the plain cut, not towards zero: with λ → ∞ nothing is changed. λ is chosen on batches that the
normal equations did not see; where no λ is better there than the plain cut with its bias corrected, that stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, relative to the mean square of each input
_QUIET = 0.1  # of the mean variance: outputs that vary less than this get less weight
_LARGE = 1e15  # numbers above it are summed in float64: their squares leave float32
_ROUND_OFF = 1e-12  # of a mean square: a variance below it is that of a constant
_QUIET_SHARE = 1e-6  # of a mean: an input that varies less does not vary
_FLOOR = 1e-6  # of the mean of the diagonal: inputs that are (nearly) zero get at least this much


class Moments:
    """Sums over the rows of inputs and targets of a layer, for each of its groups: all that least squares needs.

    Products are summed in float32, less an origin near the mean: inputs that hardly vary around a large one keep their
    variance. The origin is that of the first rows.
    """

    def __init__(self, groups: int, ins: int, outs: int) -> None:
        self.rows = 0
        self._origin_x, self._origin_y = np.zeros((groups, ins)), np.zeros((groups, outs))
        self._x, self._y = np.zeros((groups, ins)), np.zeros((groups, outs))
        self._xx, self._yx = np.zeros((groups, ins, ins)), np.zeros((groups, outs, ins))
        self._yy = np.zeros((groups, outs))  # squares of each output

    def add(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
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
        self._xx += x.transpose(0, 2, 1) @ x
        self._yx += y.transpose(0, 2, 1) @ x
        self._yy += np.einsum("gro,gro->go", y, y, dtype=np.float64)

    def __add__(self, other: Moments) -> Moments:
        if not self.rows or not other.rows:
            return self if self.rows else other
        total = Moments(*self._x.shape, self._y.shape[1])
        total.rows, total._origin_x, total._origin_y = self.rows + other.rows, self._origin_x, self._origin_y
        xx, yx, yy = other.centred(self._origin_x, self._origin_y)
        total._x = self._x + other.rows * (other.mean_x - self._origin_x)
        total._y = self._y + other.rows * (other.mean_y - self._origin_y)
        total._xx, total._yx, total._yy = (
            mine + other.rows * theirs for mine, theirs in ((self._xx, xx), (self._yx, yx), (self._yy, yy))
        )
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
        n = max(1, self.rows)
        mx, my = self._x / n, self._y / n
        mean_x, mean_y = mean_x - self._origin_x, mean_y - self._origin_y
        xx = self._xx / n - _outer(mx, mean_x) - _outer(mean_x, mx) + _outer(mean_x, mean_x)
        yx = self._yx / n - _outer(my, mean_x) - _outer(mean_y, mx) + _outer(mean_y, mean_x)
        yy = self._yy / n - 2 * my * mean_y + mean_y**2
        return xx, yx, yy


def _origin(rows: npt.NDArray[Any]) -> Matrix:
    """Return the mean of rows, rounded to float32: it is subtracted and added back without round-off."""
    return np.asarray(rows.mean(1, dtype=np.float64).astype(np.float32), np.float64)


def _is_tame(rows: npt.NDArray[Any]) -> bool:
    """Whether all numbers are finite and so small that sums of their products are, too."""
    return not rows.size or bool(max(-rows.min(), rows.max()) < _LARGE)  # false for NaN


def _tamed(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[Matrix, Matrix]:
    """Return the rows that are finite, in float64."""
    finite = np.isfinite(x).all((0, 2)) & np.isfinite(y).all((0, 2))
    return x[:, finite].astype(np.float64), y[:, finite].astype(np.float64)


def _outer(left: Matrix, right: Matrix) -> Matrix:
    return left[:, :, None] * right[:, None, :]


@dataclass(frozen=True)
class Fit:
    """A fitted layer."""

    weight: Matrix  # [groups, outs, ins]
    bias: Matrix | None  # [groups, outs], None where the layer has none
    strength: float | None  # of the ridge, None where the plain cut stays
    error_before: float  # of the plain cut on held-out rows: squared error over the variance of the targets
    error_after: float  # of the fit


def error(moments: Moments, weight: Matrix, bias: Matrix | None) -> float:
    """Return the squared error of a layer on some rows, over the variance of the targets: see `weights`."""
    xx, yx, yy = moments.centred(moments.mean_x, moments.mean_y)
    varying = (
        yy - 2 * np.einsum("goi,goi->go", weight, yx) + np.einsum("goi,gij,goj->go", weight, xx, weight, optimize=True)
    )
    constant = moments.mean_y - np.einsum("goi,gi->go", weight, moments.mean_x) - (0 if bias is None else bias)
    return float(((np.maximum(varying, 0) + constant**2) * moments.weights()).sum())


def fit(
    train: Moments, held: Moments, weight: Matrix, bias: Matrix | None, strengths: Sequence[float] = STRENGTHS
) -> Fit:
    """Return the layer that is nearest to the targets on rows that it was not fitted to.

    Args:
        train: of the rows to fit.
        held: of the rows that choose the strength of the ridge, and whether the plain cut stays.
        weight: the plain cut, ``[groups, outs, ins]``.
        bias: its bias, ``[groups, outs]``; None where there is no place for one.
        strengths: of the ridge, to choose from.
    """
    before = error(held, weight, bias)
    best_error, best_strength = before, None
    for strength in (np.inf, *strengths) if train.rows else ():
        held_error = error(held, *_solved(train, weight, bias, strength))
        if held_error < best_error:  # never what is NaN
            best_error, best_strength = held_error, strength
    if best_strength is None:
        return Fit(weight, bias, None, before, before)
    fitted = _solved(train + held, weight, bias, best_strength)
    if not error(held, *fitted) <= before:
        fitted = _solved(train, weight, bias, best_strength)
    return Fit(*fitted, best_strength, before, best_error)


def _solved(moments: Moments, weight: Matrix, bias: Matrix | None, strength: float) -> tuple[Matrix, Matrix | None]:
    """Return weight and bias by ridge regression towards `weight`; infinitely strong, the bias alone is fitted."""
    mean_x, mean_y = moments.mean_x, moments.mean_y
    if bias is None:
        mean_x, mean_y = np.zeros_like(mean_x), np.zeros_like(mean_y)
    if np.isinf(strength):
        solved = weight
    else:
        xx, yx, _ = moments.centred(mean_x, mean_y)
        diagonal = np.einsum("gii->gi", xx).copy()
        ridge = strength * diagonal + np.maximum(strength, _FLOOR) * 0.01 * diagonal.mean(1, keepdims=True) + 1e-12
        system = xx + ridge[:, :, None] * np.eye(xx.shape[-1])
        residual = yx - weight @ xx  # of the plain cut
        solved = weight + np.linalg.solve(system, residual.transpose(0, 2, 1)).transpose(0, 2, 1)
    if bias is None:
        return solved, None
    return solved, mean_y - np.einsum("goi,gi->go", solved, mean_x)


def reestimate(train: Moments, held: Moments, gain: Matrix, offset: Matrix, most: Matrix) -> Fit:
    """Return the gain and offset of a normalisation whose running statistics follow those of its input.

    The running mean moves as the mean of the input did, and the variance is scaled as it was, so that the bias of the
    calibration samples cancels out. Channels that do not vary, and those that are multiplied by zero, keep their gain.
    Judged on held-out rows as `fit` is.

    Args:
        train: one group for each channel: the input now, and the output of the original.
        held: the same of other rows.
        gain: ``[channels]``, what each channel is multiplied with now.
        offset: ``[channels]``, what is added now.
        most: ``[channels]``, the largest magnitude that a gain can have.
    """
    weight, bias = gain.reshape(-1, 1, 1), offset.reshape(-1, 1)
    before = error(held, weight, bias)
    xx, _, wanted = train.centred(train.mean_x, train.mean_y)
    spread, wanted = np.sqrt(np.maximum(xx[:, 0], 0)), np.sqrt(np.maximum(wanted, 0))
    varies = (spread > _QUIET_SHARE * np.abs(train.mean_x)) & (wanted > 0)
    ratio = np.minimum(wanted / np.where(varies, spread, 1), most.reshape(-1, 1))
    moved = np.where(varies, np.sign(weight[:, 0]) * ratio, weight[:, 0])
    shifted = np.where(weight[:, 0] == 0, bias, train.mean_y - moved * train.mean_x)
    after = error(held, moved[:, :, None], shifted)
    if not (train.rows and after < before):
        return Fit(weight, bias, None, before, before)
    return Fit(moved[:, :, None], shifted, 0.0, before, after)
