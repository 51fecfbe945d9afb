"""What of a network is learned: its weights themselves, or adapters of low rank that are added to its matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import torch

from onnxprune.errors import OptionError
from onnxprune.training.network import Network

Weights: TypeAlias = dict[str, torch.Tensor]


class Learner(Protocol):
    """What the optimiser works on."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is learned."""

    def weights(self) -> Weights:
        """Return what the network uses instead of its own weights, by name."""

    def merged(self) -> Weights:
        """Return the weights of the network as they are now, by name: those that are learned."""


class Whole:
    """All weights that the network learns."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the weights."""
        return list(self._network.weights.values())

    def weights(self) -> Weights:
        """Return nothing: the network has them."""
        return {}

    def merged(self) -> Weights:
        """Return the weights."""
        return {name: value.detach() for name, value in self._network.weights.items()}


class LowRank:
    """Hu et al. 2022, LoRA: W + B A, where B is zero at first; as LLM-Pruner recovers (Ma et al. 2023).

    A weight of more than two axes is a matrix of its first axis by all others.
    """

    def __init__(self, network: Network, rank: int, seed: int) -> None:
        """Put adapters beside all matrices that are larger than the rank.

        Raises:
            OptionError: when there is none.
        """
        self._network, self.rank = network, rank
        self._adapters: dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]] = {}
        generator = torch.Generator().manual_seed(seed)
        for name, weight in network.weights.items():
            rows, columns = _matrix(weight.shape)
            if min(rows, columns) > rank:
                down = torch.randn(rank, columns, generator=generator, dtype=weight.dtype) / math.sqrt(columns)
                up = torch.zeros(rows, rank, dtype=weight.dtype)
                pair = tuple(torch.nn.Parameter(each.to(weight.device)) for each in (up, down))
                self._adapters[name] = (pair[0], pair[1])
        if not self._adapters:
            raise OptionError(f"lora {rank} fits no weight: none has more than {rank} rows and columns")

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the adapters."""
        return [each for pair in self._adapters.values() for each in pair]

    def weights(self) -> Weights:
        """Return the matrices with their adapters."""
        own = self._network.weights
        return {
            name: own[name].detach() + (up @ down).reshape(own[name].shape)
            for name, (up, down) in self._adapters.items()
        }

    def merged(self) -> Weights:
        """Return all weights, the adapters added to theirs."""
        own = {name: value.detach() for name, value in self._network.weights.items()}
        return {**own, **{name: value.detach() for name, value in self.weights().items()}}


def check_learns(network: Network) -> None:
    """Raise OptionError when a network has no weight that is learned."""
    if not network.weights:
        raise OptionError("no weight of the model can be trained: all of them are frozen, quantized or computed")


def learner_of(network: Network, rank: int | None, seed: int) -> Learner:
    """Return what is learned of a network.

    Raises:
        OptionError: when a rank fits no weight.
    """
    if rank is None:
        return Whole(network)
    for value in network.weights.values():
        value.requires_grad_(False)
    return LowRank(network, rank, seed)


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of a weight as a matrix."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> Weights:
    """Return the weights that differ."""
    return {name: value for name, value in after.items() if not torch.equal(value, before[name])}
