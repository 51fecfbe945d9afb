"""Slopes: what gradients tell of units, and the criteria that are made of them. Numpy alone.

A *gate* is a factor of one on a unit where it is consumed. With log p(y) the log-likelihood of an answer, its
derivative by the gate is the sum over all positions of gradient times activation (Molchanov et al. 2017), and the same
as the sum of gradient times weight over the weights that consume the unit (Molchanov et al. 2019): to first order what
removing the unit does to log p(y). Answers are those of labels where there are any, and drawn from what the model
itself says otherwise, because the gradient of a distance to itself is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """Derivatives of the log-likelihood of answers, a row each, by the units of a group."""

    gates: Scores  # [answers, units]
    weights: Scores | None = None  # [units], of ``(gradient x weight) ** 2`` the sum over weights, mean over answers
    elements: Scores | None = None  # [units], of ``|gradient x weight|`` the sum over weights; the gradient is the mean
    # over answers that are right ones, and the magnitude is where they are drawn

    def __add__(self, other: Slopes) -> Slopes:
        """Return the slopes of groups that lose the same units: derivatives add up."""
        pairs = (self.weights, other.weights), (self.elements, other.elements)
        known = [[each for each in pair if each is not None] for pair in pairs]
        return Slopes(self.gates + other.gates, *(np.sum(pair, axis=0) if pair else None for pair in known))


def taylor(slopes: Slopes) -> Scores:
    """Return the mean magnitude of gradient times activation, summed over all positions of a sample.

    Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", equation 8: the
    magnitude of each sample, then the mean over samples. A unit that several layers consume, or that layers make
    together, is one structure with one gate (as in Ma et al. 2023, "LLM-Pruner", section 3.1).
    """
    return np.asarray(np.abs(slopes.gates).mean(axis=0), np.float64)


def fisher(slopes: Slopes) -> Scores:
    """Return half of the mean square of gradient times activation: the divergence of the outputs without the unit.

    Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning", equation 6; with labels it is
    the empirical Fisher information, with drawn answers the true one.
    """
    return np.asarray(np.square(slopes.gates).mean(axis=0) / 2, np.float64)


def taylor_weights(slopes: Slopes) -> Scores | None:
    """Return the sum over all weights of a unit of the squared gradient times weight; None where no weight has one.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", equation 8. The weights are those of
    all layers that make or consume the unit, added up as LLM-Pruner adds up coupled structures.
    """
    return slopes.weights


def taylor_elements(slopes: Slopes) -> Scores | None:
    """Return the sum over the weights of a unit of the magnitude of gradient times weight; None where none has one.

    Ma et al. 2023, "LLM-Pruner: On the Structural Pruning of Large Language Models", equation 5 to first order, each
    element alone, added up over all layers that make or consume the unit.
    """
    return slopes.elements
