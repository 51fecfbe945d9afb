"""Reconstruction: least squares that give a layer back what it computed before the cut. Numpy alone.

For a layer with weight W that sees inputs X of the pruned model where the original gave Y, the fit is

    W' = argmin ||Y - W' X||² + λ ||(W' - W) D||²,    D² = diag(X Xᵀ)

It shrinks towards W, the plain cut, not towards zero: with λ → ∞ nothing is changed. λ is chosen on batches that the
normal equations did not see; where no λ is better there than the plain cut with its bias corrected, that stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, relative to the mean square of each input
_QUIET = 0.1  # of the mean variance: outputs that vary less than this count for less
_FLOOR = 1e-6  # of the mean of the diagonal: inputs that are (nearly) zero get at least this much


class Moments:
    """Sums over the rows that a layer saw, for each of its groups: all that least squares needs."""

    def __init__(self, groups: int, ins: int, outs: int) -> None:
        self.rows = 0
        self.x = np.zeros((groups, ins))
        self.y = np.zeros((groups, outs))
        self.xx = np.zeros((groups, ins, ins))
        self.yx = np.zeros((groups, outs, ins))
        self.yy = np.zeros((groups, outs))  # squares of each output

    def add(self, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> None:
        """Add rows ``[groups, rows, ins]`` and what they shall give, ``[groups, rows, outs]``."""
        self.rows += x.shape[1]
        self.x += x.sum(1, dtype=np.float64)
        self.y += y.sum(1, dtype=np.float64)
        self.xx += x.transpose(0, 2, 1) @ x
        self.yx += y.transpose(0, 2, 1) @ x
        self.yy += np.einsum("gro,gro->go", y, y, dtype=np.float64)

    def __add__(self, other: Moments) -> Moments:
        total = Moments(*self.x.shape, self.y.shape[1])
        total.rows = self.rows + other.rows
        for name in ("x", "y", "xx", "yx", "yy"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def variance(self) -> Matrix:
        """Return the variance of each output, ``[groups, outs]``."""
        n = max(1, self.rows)
        return np.maximum(self.yy / n - (self.y / n) ** 2, 0)

    def weights(self) -> Matrix:
        """Return how much a squared error of each output counts, ``[groups, outs]``; with the variances they sum to 1.

        Outputs count alike, whatever their scale: a few channels of a transformer are a hundred times as large as the
        others, and a normalisation behind the layer mends that. Those that hardly vary count less.
        """
        variance = self.variance()
        raw = 1 / np.maximum(variance + _QUIET * variance.mean(), 1e-30)
        total = max(float((raw * variance).sum()), 1e-30)
        return np.asarray(raw / total)

    def centred(self, mean_x: Matrix, mean_y: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """Return xx, yx and yy of the rows less the given means, per row."""
        n = max(1, self.rows)
        mx, my = self.x / n, self.y / n
        xx = self.xx / n - _outer(mx, mean_x) - _outer(mean_x, mx) + _outer(mean_x, mean_x)
        yx = self.yx / n - _outer(my, mean_x) - _outer(mean_y, mx) + _outer(mean_y, mean_x)
        yy = self.yy / n - 2 * my * mean_y + mean_y**2
        return xx, yx, yy


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
    """Return the squared error of a layer on some rows, over the variance of what they shall give: see `weights`."""
    zero_x, zero_y = np.zeros_like(moments.x), np.zeros_like(moments.y)
    xx, yx, yy = moments.centred(zero_x, zero_y if bias is None else bias)
    squared = (
        yy - 2 * np.einsum("goi,goi->go", weight, yx) + np.einsum("goi,gij,goj->go", weight, xx, weight, optimize=True)
    )
    return float((np.maximum(squared, 0) * moments.weights()).sum())


def fit(
    train: Moments, held: Moments, weight: Matrix, bias: Matrix | None, strengths: Sequence[float] = STRENGTHS
) -> Fit:
    """Return the layer that gives the targets best, judged by rows that it was not fitted to.

    Args:
        train: of the rows to fit.
        held: of the rows that choose the strength of the ridge, and whether the plain cut stays.
        weight: the plain cut, ``[groups, outs, ins]``.
        bias: its bias, ``[groups, outs]``; None where there is no place for one.
        strengths: of the ridge, to choose from.
    """
    before = error(held, weight, bias)
    candidates: list[tuple[float, float | None]] = [(before, None)]
    for strength in (np.inf, *strengths):
        candidates.append((error(held, *_solved(train, weight, bias, strength)), strength))
    best, chosen = min(candidates, key=lambda pair: pair[0])
    if chosen is None or not best < before:
        return Fit(weight, bias, None, before, before)
    fitted, shifted = _solved(train + held, weight, bias, chosen)
    return Fit(fitted, shifted, chosen, before, best)


def _solved(moments: Moments, weight: Matrix, bias: Matrix | None, strength: float) -> tuple[Matrix, Matrix | None]:
    """Return weight and bias by ridge regression towards `weight`; infinitely strong, the bias alone is fitted."""
    n = max(1, moments.rows)
    zeros_x, zeros_y = np.zeros_like(moments.x), np.zeros_like(moments.y)
    mean_x, mean_y = (zeros_x, zeros_y) if bias is None else (moments.x / n, moments.y / n)
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


def reestimate(train: Moments, held: Moments, gain: Matrix, offset: Matrix) -> Fit:
    """Return the gain and offset of a normalisation whose running statistics follow those of its input.

    The running mean moves as the mean of the input did, and the variance is scaled as it was, so that what the
    calibration samples have of their own cancels out. Judged on held-out rows as `fit` is.

    Args:
        train: one group for each channel: the input now, and what the original gave.
        held: the same of other rows.
        gain: ``[channels]``, what each channel is multiplied with now.
        offset: ``[channels]``, what is added now.
    """
    weight, bias = gain.reshape(-1, 1, 1), offset.reshape(-1, 1)
    n = max(1, train.rows)
    mean, wanted = train.x / n, train.y / n
    spread = np.sqrt(np.maximum(train.xx[:, 0] / n - mean**2, 0))
    wanted_spread = np.sqrt(np.maximum(train.yy / n - wanted**2, 0))
    moved = np.where(spread > 0, np.sign(weight[:, 0]) * wanted_spread / np.where(spread > 0, spread, 1), weight[:, 0])
    shifted = wanted - moved * mean
    before, after = error(held, weight, bias), error(held, moved[:, :, None], shifted)
    if not after < before:
        return Fit(weight, bias, None, before, before)
    return Fit(moved[:, :, None], shifted, 0.0, before, after)
