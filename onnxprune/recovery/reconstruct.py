"""Reconstruction: least squares that restore the outputs of a layer after a cut. Numpy alone.

For a layer with weight W, inputs X in the pruned model and outputs Y in the original, the fit is

    W' = argmin ||Y - W' X||² + λ ||(W' - W) D||²,    D² = diag(X Xᵀ)

It shrinks towards W, the plain cut, not towards zero: with λ → ∞ nothing is changed. λ is chosen on batches that the
normal equations did not see; where no λ is better there than the plain cut with its bias corrected, that stays.

With E = Y − W X, what the plain cut leaves, the step of p inputs and n rows is one of

    W' − W = E Xᵀ (X Xᵀ + λ D²)⁻¹ = E (Xᵀ D⁻² X + λ)⁻¹ Xᵀ D⁻²

The first solves with ``[p, p]``, the second with ``[n, n]`` (Woodbury): the smaller one is taken, see `Moments`. λ is
chosen on `PROBES` mixtures of the outputs; the fit itself is that of all. Groups of a wide layer are fitted one after
the other, each with a λ of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.algebra.blocked import Factor, blocks, gram, mixing, product
from onnxprune.algebra.quadratic import WIDE, Gram, Rows
from onnxprune.algebra.threads import cores, spread
from onnxprune.recovery.moments import Moments, error, is_wide, take_outer

Matrix = npt.NDArray[np.float64]
Form: TypeAlias = Literal["gram", "rows"]

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # of the ridge, relative to the mean square of each input, falling
PROBES = 128  # mixtures of outputs that choose the strength, where there are more outputs
_QUIET_SHARE = 1e-6  # of a mean: an input that varies less does not vary
_FLOOR = 1e-6  # of the mean of the diagonal: inputs that are (nearly) zero get at least this much
_ABREAST, _ABREAST_INPUTS = 2, 1536  # systems that are solved side by side, of so many inputs at most
_BATCHED = 128  # inputs of a group up to which all groups are solved at once


@dataclass(frozen=True)
class Fit:
    """A fitted layer."""

    weight: Matrix  # [groups, outs, ins]
    bias: Matrix | None  # [groups, outs], None where the layer has none
    strength: float | None  # of the ridge, None where the plain cut stays
    error_before: float  # of the plain cut on held-out rows: squared error over the variance of the targets
    error_after: float  # of the fit
    rows: int  # that it was made from, those held out among them
    form: Form = "gram"  # in which the inputs were seen: their products, or the rows themselves


def fit(
    train: Moments, held: Moments, weight: Matrix, bias: Matrix | None, strengths: Sequence[float] = STRENGTHS
) -> Fit:
    """Return the layer that is nearest to the targets on rows that it was not fitted to.

    Args:
        train: of the rows to fit.
        held: of the rows that choose the strength of the ridge, and whether the plain cut stays.
        weight: the plain cut, ``[groups, outs, ins]``.
        bias: its bias, ``[groups, outs]``; None where there is no place for one.
        strengths: of the ridge, to choose from; once a weaker one is worse, still weaker ones are not tried.
    """
    if len(weight) > 1 and is_wide(train.shape):
        return _one_by_one(train, held, weight, bias, strengths)
    before = error(held, weight, bias)
    form: Form = "rows" if train.keeps_rows else "gram"
    rows = train.rows + held.rows
    if not train.rows:
        return Fit(weight, bias, None, before, before, rows, form)
    mean_x, mean_y = (train.mean_x, train.mean_y) if bias is not None else (0 * train.mean_x, 0 * train.mean_y)
    seen, judge = spread(lambda each: _left(each, weight, mean_x, mean_y), (train, held))
    strength = _strength(seen, judge, held.weights(), strengths)
    candidates = [(weight, _bias(train, weight, bias), np.inf)]
    if strength is not None:
        fitted = seen.moved(weight, strength)
        candidates.insert(0, (fitted, _bias(train, fitted, bias), strength))
    errors = [error(held, *candidate[:2]) for candidate in candidates]
    best = min(range(len(errors)), key=lambda at: errors[at] if np.isfinite(errors[at]) else np.inf)
    if not errors[best] < before:
        return Fit(weight, bias, None, before, before, rows, form)
    best_fit = Fit(*candidates[best], before, errors[best], rows, form)
    whole = _joined(seen, judge)
    del seen, judge
    final = _from_all((train, held), weight, best_fit, whole)
    return final if error(held, final.weight, final.bias) <= before else best_fit


def _one_by_one(train: Moments, held: Moments, weight: Matrix, bias: Matrix | None, strengths: Sequence[float]) -> Fit:
    """Return the fits of all groups as one: the strongest of their ridges, and the means of their errors."""
    fits = []
    for number in range(len(weight)):
        at = slice(number, number + 1)
        own = None if bias is None else bias[at]
        fits.append(fit(train.of_group(number), held.of_group(number), weight[at], own, strengths))
    return Fit(
        np.concatenate([each.weight for each in fits]),
        None if bias is None else np.concatenate([np.asarray(each.bias) for each in fits]),
        max((each.strength for each in fits if each.strength is not None), default=None),
        float(np.mean([each.error_before for each in fits])),
        float(np.mean([each.error_after for each in fits])),
        train.rows + held.rows,
        "rows",
    )


def _bias(moments: Moments, weight: Matrix, bias: Matrix | None) -> Matrix | None:
    """Return the bias with which the mean of the outputs is that of the targets; None where there is no place."""
    return None if bias is None else moments.mean_y - np.einsum("goi,gi->go", weight, moments.mean_x)


def _from_all(parts: tuple[Moments, Moments], weight: Matrix, fitted: Fit, left: _Left) -> Fit:
    """Return a fit of the same strength to all rows, also the held-out ones.

    Args:
        parts: the moments of both kinds of rows.
        weight: the plain cut.
        fitted: to the first kind alone.
        left: what the plain cut leaves of all rows, less the means of the first where there is a bias.
    """
    strength = fitted.strength if fitted.strength is not None else np.inf
    if fitted.bias is None:
        return replace(fitted, weight=left.moved(weight, strength))
    train, held = parts
    share = train.rows / (train.rows + held.rows)
    mean_x = share * train.mean_x + (1 - share) * held.mean_x
    mean_y = share * train.mean_y + (1 - share) * held.mean_y
    solved = weight
    if np.isfinite(strength):
        moved = mean_y - train.mean_y - np.einsum("goi,gi->go", weight, mean_x - train.mean_x)
        solved = left.recentred(mean_x - train.mean_x, moved).moved(weight, strength)
    return replace(fitted, weight=solved, bias=mean_y - np.einsum("goi,gi->go", solved, mean_x))


def _strength(seen: _Left, judge: _Left, weights: Matrix, strengths: Sequence[float]) -> float | None:
    """Return the strength with the least error on held-out rows; None where none is better than no step."""
    if len(weights) == 1:
        mixture = mixing(weights[0], PROBES)
        seen, judge, weights = seen.mixed(mixture), judge.mixed(mixture), np.ones((1, len(mixture)))
    best_gain, best = 0.0, None
    for strength, gain in zip(strengths, _gains(seen, judge, weights, strengths), strict=False):
        if gain > best_gain:
            best_gain, best = gain, strength
        elif best is not None:
            break
    return best


def _gains(seen: _Left, judge: _Left, weights: Matrix, strengths: Sequence[float]) -> Iterator[float]:
    """Yield by how much each strength lowers the error on held-out rows, until a system cannot be solved.

    Two systems that are small are solved side by side: dividing each among the cores would gain less.
    """

    def gain(strength: float) -> float | None:
        try:
            return float((judge.gain(seen.step(strength)) * weights).sum())
        except np.linalg.LinAlgError:
            return None

    each = _ABREAST if isinstance(seen, _Products) and seen.xx.shape[-1] <= _ABREAST_INPUTS and cores() > 1 else 1
    for at in blocks(len(strengths), each):
        for value in spread(gain, strengths[at]):
            if value is None:
                return
            yield value


def _ridge(diagonal: Matrix, strength: float) -> Matrix:
    """Return the penalty of each input, ``[groups, ins]``: `strength` times its mean square, and a little more."""
    ridge = strength * diagonal + max(strength, _FLOOR) * 0.01 * diagonal.mean(-1, keepdims=True) + 1e-12
    return np.asarray(ridge)


@dataclass(frozen=True, eq=False)
class _Products:
    """What the plain cut leaves, and the inputs, as products: of any number of groups."""

    xx: Matrix  # [groups, ins, ins]
    ex: Matrix  # [groups, outs, ins]
    count: int  # of rows

    def step(self, strength: float) -> Matrix:
        """Return what a ridge of this strength adds to the weight, ``[groups, outs, ins]``."""
        ridge = _ridge(np.einsum("gii->gi", self.xx), strength)
        if self.xx.shape[-1] <= _BATCHED:
            systems = self.xx + ridge[:, :, None] * np.eye(self.xx.shape[-1])
            return np.asarray(np.linalg.solve(systems, self.ex.transpose(0, 2, 1))).transpose(0, 2, 1)
        return np.stack([_damped(*group) for group in zip(self.xx, ridge, self.ex, strict=True)])

    def moved(self, weight: Matrix, strength: float) -> Matrix:
        """Return the weight ``[groups, outs, ins]`` with what a ridge of this strength adds to it."""
        moved = np.ascontiguousarray(self.step(strength))
        moved += weight
        return moved

    def gain(self, step: Matrix) -> Matrix:
        """Return by how much a step lowers the squared error of each output, ``[groups, outs]``."""
        energies = [Gram(xx).energies(each) for xx, each in zip(self.xx, step, strict=True)]
        return np.asarray(2 * np.einsum("goi,goi->go", step, self.ex) - np.array(energies))

    def mixed(self, mixture: Matrix) -> _Products:
        """Return the same of mixtures of the outputs of the only group."""
        return replace(self, ex=product(mixture, self.ex[0])[None])

    def recentred(self, x: Matrix, left: Matrix) -> _Products:
        """Return the same less means of inputs, and of what is left, that these numbers still hold; in place."""
        take_outer(self.xx, x, x)
        take_outer(self.ex, left, x)
        return self


def _damped(xx: Matrix, ridge: Matrix, ex: Matrix) -> Matrix:
    system = xx.copy()
    system.flat[:: len(system) + 1] += ridge
    return Factor(system).solve(ex.T).T


class _Kernel:
    """Rows of inputs ``[rows, ins]`` and the products of rows with one another, made when they are needed first."""

    def __init__(self, x: npt.NDArray[Any]) -> None:
        self.x = x
        self.count = max(1, len(x))

    @cached_property
    def scale(self) -> npt.NDArray[Any]:
        """What each input is multiplied with: one over the penalty of a ridge of strength 1."""
        return (1 / _ridge(Rows(self.x).diagonal(), 1.0)).astype(self.x.dtype)

    @cached_property
    def matrix(self) -> Matrix:
        """Mean products of rows, ``[rows, rows]``, over all inputs."""
        return sum(
            (gram(self.x[:, at].T, self.scale[at] / self.count) for at in blocks(self.x.shape[1], WIDE)),
            np.zeros((len(self.x), len(self.x))),
        )


@dataclass(frozen=True, eq=False)
class _Rows:
    """What the plain cut leaves, and the inputs, row by row: of one group."""

    kernel: _Kernel
    left: npt.NDArray[Any]  # [rows, outs]

    @property
    def x(self) -> npt.NDArray[Any]:
        """The inputs, ``[rows, ins]``."""
        return self.kernel.x

    def step(self, strength: float) -> Matrix:
        """Return what a ridge of this strength adds to the weight, ``[1, outs, ins]``."""
        return self.moved(np.zeros((1, self.left.shape[1], self.x.shape[1]), self.x.dtype), strength)

    def moved(self, weight: Matrix, strength: float) -> Matrix:
        """Return the weight ``[1, outs, ins]`` with what a ridge of this strength adds, some outputs at a time."""
        system = self.kernel.matrix.copy()
        system.flat[:: len(system) + 1] += max(strength, _FLOOR)
        solved = Factor(system).solve(self.left / self.kernel.count).T.astype(self.x.dtype)  # [outs, rows]
        moved = weight.copy()
        for at in blocks(len(solved)):
            step = product(solved[at], self.x)
            step *= self.kernel.scale
            moved[0, at] += step
        return moved

    def gain(self, step: Matrix) -> Matrix:
        """Return by how much a step lowers the squared error of each output, ``[1, outs]``."""
        moved = product(self.x, step[0].T.astype(self.x.dtype, copy=False))
        gained = ((2.0 * self.left - moved) * moved).sum(0, dtype=np.float64)
        return np.asarray(gained[None] / self.kernel.count)

    def mixed(self, mixture: Matrix) -> _Rows:
        """Return the same of mixtures of the outputs."""
        return replace(self, left=product(self.left, mixture.T.astype(self.left.dtype)))

    def recentred(self, x: Matrix, left: Matrix) -> _Rows:
        """Return the same less means of inputs, and of what is left, that these numbers still hold."""
        return _Rows(_Kernel(self.x - x.astype(self.x.dtype)), self.left - left.astype(self.left.dtype))

    def products(self) -> _Products:
        """Return the same as products."""
        return _Products(
            gram(self.x)[None] / self.kernel.count,
            product(self.left.T, self.x)[None] / self.kernel.count,
            len(self.x),
        )


_Left: TypeAlias = _Products | _Rows


def _left(moments: Moments, weight: Matrix, mean_x: Matrix, mean_y: Matrix) -> _Left:
    """Return what the plain cut leaves of some rows less these means."""
    if moments.keeps_rows:
        x, y = moments.centred_rows(mean_x, mean_y)
        return _Rows(_Kernel(x), y - product(x, weight[0].T.astype(x.dtype, copy=False)))
    xx, left, _ = moments.centred(mean_x, mean_y)
    for wanted, each, products in zip(left, weight, xx, strict=True):
        np.subtract(wanted, product(each, products), out=wanted)
    return _Products(xx, left, moments.rows)


def _joined(one: _Left, other: _Left) -> _Left:
    """Return the rows of both, whose products are used up: those of a vocabulary are large."""
    if isinstance(one, _Rows) and isinstance(other, _Rows):
        return _Rows(_Kernel(np.concatenate([one.x, other.x])), np.concatenate([one.left, other.left]))
    first, second = (each.products() if isinstance(each, _Rows) else each for each in (one, other))
    share = first.count / max(1, first.count + second.count)
    for mine, theirs in ((first.xx, second.xx), (first.ex, second.ex)):
        np.multiply(mine, share, out=mine)
        np.multiply(theirs, 1 - share, out=theirs)
        np.add(mine, theirs, out=mine)
    return replace(first, count=first.count + second.count)


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
    weight, bias, rows = gain.reshape(-1, 1, 1), offset.reshape(-1, 1), train.rows + held.rows
    before = error(held, weight, bias)
    xx, _, wanted = train.centred(train.mean_x, train.mean_y)
    spread, wanted = np.sqrt(np.maximum(xx[:, 0], 0)), np.sqrt(np.maximum(wanted, 0))
    varies = (spread > _QUIET_SHARE * np.abs(train.mean_x)) & (wanted > 0)
    ratio = np.minimum(wanted / np.where(varies, spread, 1), most.reshape(-1, 1))
    moved = np.where(varies, np.sign(weight[:, 0]) * ratio, weight[:, 0])
    shifted = np.where(weight[:, 0] == 0, bias, train.mean_y - moved * train.mean_x)
    after = error(held, moved[:, :, None], shifted)
    if not (train.rows and after < before):
        return Fit(weight, bias, None, before, before, rows)
    return Fit(moved[:, :, None], shifted, 0.0, before, after, rows)
