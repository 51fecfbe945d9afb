"""Importance: how much a unit matters, from its weights and from activation statistics.

A criterion sees, per group, matrices ``[units, fan]`` of the weights that make and consume the units, and the
activation statistics of the units where they are consumed (`calibration.statistics`). It returns one score per unit;
the units with the lowest scores are removed first. Numpy only; no graph is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.criteria.slopes import Slopes, fisher, taylor, taylor_elements, taylor_weights

Matrix: TypeAlias = npt.NDArray[Any]
Scores: TypeAlias = npt.NDArray[np.float64]
Weight: TypeAlias = "tuple[str, Matrix]"  # role (out, in, scale, vector) and [units, fan]

_ROUND_OFF = 1e-12  # of a mean square: a variance below it is that of a constant


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Activation statistics of the units of a group at one place where a weight consumes them.

    A unit may occur several times there (the dims of a head, the pixels of a flattened channel): the moments tell the
    occurrences apart. They are over all samples and positions.
    """

    weight: Matrix  # [units, fan], the weights of the first occurrence first
    mean: Scores  # [units, occurrences]
    square: Scores  # mean of the squares
    absolute: Scores  # mean of the magnitudes
    positive: Scores  # share above zero
    count: int  # values of each occurrence
    energy: float  # mean square of what all inputs of the consumer add to its outputs, were they uncorrelated

    @property
    def variance(self) -> Scores:
        """The variance of each occurrence; exactly 0 for constants."""
        variance = self.square - self.mean**2
        return np.where(variance > _ROUND_OFF * self.square, variance, 0.0)

    def through(self, power: int, of_inputs: Scores) -> Scores:
        """Return, of each unit, the sum over its weights of ``|weight| ** power * of_inputs``.

        Args:
            power: 1 or 2.
            of_inputs: ``[units, occurrences]``.
        """
        each = magnitudes(self.weight, power, of_inputs.shape[1]) * of_inputs
        return np.asarray(each.sum(1), np.float64)


def magnitudes(weight: Matrix, power: int, occurrences: int) -> Scores:
    """Return ``|weight| ** power`` summed over the weights of each occurrence: ``[units, occurrences]``.

    A weight that does not tell the occurrences apart counts in equal parts for each.
    """
    units, fan = weight.shape
    split = occurrences and fan % occurrences == 0
    parts = weight.reshape(units, occurrences, -1) if split else weight[:, None, :]
    wide = parts if power == 1 else parts.astype(np.float64, copy=False)
    summed = np.abs(wide).sum(2, dtype=np.float64) if power == 1 else np.einsum("uof,uof->uo", wide, wide)
    return summed if split else np.repeat(summed / max(1, occurrences), occurrences, axis=1)


@dataclass(frozen=True, slots=True)
class Criterion:
    """One way to score units."""

    score: Callable[[Iterable[Weight], np.random.Generator, Sequence[Seen]], Scores | None]  # None: no such weights
    summary: str
    scope: Literal["global", "group"] = "group"  # how units are ranked where the options do not say
    comparable: bool = False  # whether raw scores compare across groups
    data: bool = False  # whether it looks at samples
    by_gradients: Callable[[Slopes], Scores | None] | None = None  # of criteria that look at gradients; `score` is then
    # for groups that no gradient reaches


def l1(weights: Iterable[Weight], rng: np.random.Generator, seen: Sequence[Seen] = ()) -> Scores | None:
    """Return the L1 norm of each unit's weights (Li et al. 2017, "Pruning Filters for Efficient ConvNets")."""
    return _kernels(weights, lambda matrix: np.abs(matrix).sum(1, dtype=np.float64))


def l2(weights: Iterable[Weight], rng: np.random.Generator, seen: Sequence[Seen] = ()) -> Scores | None:
    """Return the L2 norm of each unit's weights."""
    return _kernels(weights, lambda matrix: np.sqrt(np.einsum("uf,uf->u", matrix, matrix, dtype=np.float64)))


def fpgm(weights: Iterable[Weight], rng: np.random.Generator, seen: Sequence[Seen] = ()) -> Scores | None:
    """Return each unit's distance to all others: near the geometric median means replaceable.

    He et al. 2019, "Filter Pruning via Geometric Median", equation 6.
    """
    return _kernels(weights, _distances)


def bn(weights: Iterable[Weight], rng: np.random.Generator, seen: Sequence[Seen] = ()) -> Scores | None:
    """Return the BatchNorm scale |γ| of each unit, averaged over the norms of the group.

    Liu et al. 2017, "Network Slimming": one threshold for the whole network.
    """
    scales = [np.abs(matrix[:, 0].astype(np.float64)) for role, matrix in weights if role == "scale"]
    return np.mean(np.stack(scales), axis=0, dtype=np.float64) if scales else None


def random(weights: Iterable[Weight], rng: np.random.Generator, seen: Sequence[Seen] = ()) -> Scores | None:
    """Return random scores: the baseline that a criterion must beat."""
    units = next(len(matrix) for _, matrix in weights)
    scores: Scores = rng.random(units)
    return scores


# -- from data -----------------------------------------------------------------------------------------------


def wanda(weights: Iterable[Weight], rng: np.random.Generator, seen: Sequence[Seen] = ()) -> Scores | None:
    """Return |W|·‖X‖, summed over the weights of each unit: what it adds to the outputs of its consumers.

    Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language Models", equation 1. To compare across
    groups, ‖X‖ is the root mean square, a sum over f weights is divided by √f, and both by the root of the consumer's
    energy: were inputs uncorrelated and all |W| of a unit the same, squares would be shares of the output's energy.
    """
    if not seen:  # without statistics, the weights alone share out the energy
        norms = l2(weights, rng)
        return norms if norms is None else norms / np.sqrt(len(norms))
    shares = [_over(one.through(1, np.sqrt(one.square)), np.sqrt(one.weight.shape[1] * one.energy)) for one in seen]
    return _mean(shares)


def flap(weights: Iterable[Weight], rng: np.random.Generator, seen: Sequence[Seen] = ()) -> Scores | None:
    """Return how much the outputs fluctuate with each unit: the variance of the input times the squared weight norm.

    What does not fluctuate is a bias. An et al. 2024, "Fluctuation-based Adaptive Structured Pruning for Large
    Language Models". To compare across groups, scores of the inputs of a layer are standardised, (S − mean S) / std S,
    and a unit of several inputs, such as a head, has the mean of theirs, as in the code that the authors published.
    That squares the scores of the last layer of an attention before; here they are as those of all layers.
    """
    if not seen:
        scores = l2(weights, rng)
        return scores if scores is None else _standardised(scores)
    fluctuations = [magnitudes(one.weight, 2, one.variance.shape[1]) * one.variance for one in seen]
    return _mean([_standardised(each).mean(1) for each in fluctuations])


def _standardised(values: Scores) -> Scores:
    """Return `values` less their mean, over their deviation; zeros where they are all alike."""
    spread = values.std()
    return (values - values.mean()) / spread if spread > _ROUND_OFF * abs(values.mean()) else np.zeros_like(values)


def activation(weights: Iterable[Weight], rng: np.random.Generator, seen: Sequence[Seen] = ()) -> Scores | None:
    """Return the mean magnitude of each unit where it is consumed.

    Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", section 2.2.
    """
    return _over_consumers(seen, lambda one: one.absolute.mean(1)) if seen else l2(weights, rng)


def apoz(weights: Iterable[Weight], rng: np.random.Generator, seen: Sequence[Seen] = ()) -> Scores | None:
    """Return how often each unit is above zero, which is 1 − APoZ behind a ReLU.

    Hu et al. 2016, "Network Trimming", equation 1: the average percentage of zeros.
    """
    return _over_consumers(seen, lambda one: one.positive.mean(1)) if seen else l2(weights, rng)


def _of_gradients(by_gradients: Callable[[Slopes], Scores | None], summary: str) -> Criterion:
    return Criterion(l2, summary, "global", comparable=True, data=True, by_gradients=by_gradients)


CRITERIA: dict[str, Criterion] = {
    "l1": Criterion(l1, "L1 norm of the weights that make and consume a unit"),
    "l2": Criterion(l2, "L2 norm of the weights that make and consume a unit"),
    "bn": Criterion(bn, "BatchNorm scale, one threshold for the network", "global", comparable=True),
    "fpgm": Criterion(fpgm, "distance to the other units (geometric median)"),
    "obs": Criterion(l2, "error of removing a unit when the others make up for it", comparable=True, data=True),
    "random": Criterion(random, "random units, the baseline", comparable=True),
    "wanda": Criterion(wanda, "weight times norm of the input, summed", comparable=True, data=True),
    "flap": Criterion(flap, "fluctuation: variance of the input times squared weights", comparable=True, data=True),
    "activation": Criterion(activation, "mean magnitude of the unit where it is consumed", data=True),
    "apoz": Criterion(apoz, "how often the unit is above zero (1 - APoZ)", data=True),
    "taylor": _of_gradients(taylor, "magnitude of gradient times activation"),
    "taylor-weights": _of_gradients(taylor_weights, "squared gradient times weight, summed over the weights"),
    "taylor-elements": _of_gradients(taylor_elements, "magnitude of gradient times weight, summed over the weights"),
    "fisher": _of_gradients(fisher, "square of gradient times activation: the divergence without the unit"),
}


def score(
    name: str,
    weights: Iterable[Weight],
    rng: np.random.Generator,
    seen: Sequence[Seen] = (),
    slopes: Slopes | None = None,
) -> Scores | None:
    """Return the score of each unit of a group, float64 ``[units]``, mean 1 where they are not comparable as such.

    Args:
        name: a key of `CRITERIA`.
        weights: role and matrix ``[units, fan]`` of each weight of the group; read once, in order, or not at all.
        rng: for criteria that draw.
        seen: the places where the units are consumed, for criteria from data. Where there are none (the units of
            queries and keys meet each other, no weight), the L2 norm of the weights is used.
        slopes: for criteria from gradients; without them the L2 norm of the weights is used, mean 1.

    Returns:
        The scores, or None when the group has no weights that the criterion looks at.
    """
    criterion = CRITERIA[name]
    if criterion.by_gradients is not None:
        scores = None if slopes is None else criterion.by_gradients(slopes)
        return l2(weights, rng) if scores is None else scores
    scores = criterion.score(weights, rng, seen)
    return scores if scores is None or criterion.comparable else _relative(scores)


def _over_consumers(seen: Sequence[Seen], measure: Callable[[Seen], Scores]) -> Scores:
    """Average relative scores over the consumers: each counts the same, whatever its scale."""
    relative = [_relative(measure(one)) for one in seen]
    return _mean(relative)


def _mean(scores: Sequence[Scores]) -> Scores:
    return np.asarray(np.mean(scores, axis=0), np.float64)


def _over(values: Scores, total: float) -> Scores:
    """Return `values` over `total`; zeros where that is zero."""
    return values / total if total > 0 else np.zeros_like(values)


def _kernels(weights: Iterable[Weight], norm: Callable[[Matrix], Matrix]) -> Scores | None:
    """Average the relative norms of the kernels: each weight counts the same, whatever its scale.

    Biases and norms say little about a unit and are used only where a group has nothing else.
    """
    kernels: list[Scores] = []
    vectors: list[Scores] = []
    for role, matrix in weights:
        (kernels if role in ("out", "in") else vectors).append(_relative(norm(matrix)))
    norms = kernels or vectors
    return np.mean(norms, axis=0) if norms else None


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
