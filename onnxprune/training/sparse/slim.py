"""Sparse training: a penalty that makes the weights of whole units small, so that a threshold can take them away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import torch

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.training.network.module import Network
from onnxprune.training.network.units import Units, units_of

Tensor = torch.Tensor
Penalty: TypeAlias = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]  # of the weights of a network, by name


def penalty_of(network: Network, strength: float) -> Penalty:
    """Return the penalty on the units of all groups of a network that can lose some.

    Raises:
        OptionError: when no group can.
    """
    prunable = [group for group in groups(trace(network.model)) if group.prunable]
    units = [each for each in units_of(network, prunable) if each.scales or each.makers]
    if not units:
        raise OptionError("slim has no effect: no group of units that can be removed has weights that are trained")
    return partial(slimming_penalty, units, strength=strength)


def slimming_penalty(units: Sequence[Units], weights: Mapping[str, Tensor], strength: float) -> Tensor:
    """Return what is added to the loss: `strength` times the sum over all units of what stands for their size.

    That is the magnitude of the scale of BatchNormalization where there is one (Liu et al. 2017, Learning Efficient
    Convolutional Networks through Network Slimming, equation 1), and the norm of the weights that make the unit where
    it is folded or absent (Wen et al. 2016, Learning Structured Sparsity in Deep Neural Networks, equation 3), divided
    by the root of how many they are, so that wide and narrow layers are pulled alike.

    Args:
        units: of the groups that may lose some.
        weights: of the network, by name.
        strength: the lambda of the papers.
    """
    total = next(iter(weights.values())).new_zeros(())
    for each in units:
        fan = 1.0 if each.scales else _fan(each, weights)
        total = total + each.importance(weights).sum() / fan**0.5
    return strength * total


def _fan(units: Units, weights: Mapping[str, Tensor]) -> float:
    """Return how many numbers make a unit."""
    return max(1.0, sum(weights[each.constant].numel() for each in units.makers) / units.count)
