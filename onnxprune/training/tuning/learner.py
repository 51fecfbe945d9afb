"""What of a network is learned: its weights themselves, or adapters of low rank that are added to its matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

import torch

from onnxprune.errors import OptionError
from onnxprune.training.network.module import Network

Weights: TypeAlias = dict[str, torch.Tensor]


class Learner(Protocol):
    """What the optimiser works on."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is learned."""

    def weights(self) -> Weights:
        """Return what the network uses instead of its own weights, by name."""

    def merged(self) -> Weights:
        """Return the state of the network as it is now, by name: weights that are learned, statistics that move."""

    def reset(self, first: Mapping[str, torch.Tensor]) -> None:
        """Take back all that was learned; `first` is the state of the network before that, by name."""


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
        """Return weights and statistics."""
        return dict(self._network.state_dict())

    def reset(self, first: Mapping[str, torch.Tensor]) -> None:
        """Give weights and statistics what they held."""
        self._network.load_state_dict(first)


class LowRank:
    """Hu et al. 2022, LoRA: W + B A, where B is zero at first; as LLM-Pruner recovers (Ma et al. 2023).

    A weight of more than two axes is a matrix of its first axis by all others.
    """

    def __init__(self, network: Network, rank: int, seed: int) -> None:
        """Put adapters beside all matrices that are larger than the rank.

        Raises:
            OptionError: when there is none.
        """
        self._network, self.rank, self._seed = network, rank, seed
        self._adapters = {
            name: (torch.nn.Parameter(up), torch.nn.Parameter(down)) for name, up, down in self._at_first()
        }
        if not self._adapters:
            raise OptionError(f"lora {rank} fits no weight: none has more than {rank} rows and columns")

    def _at_first(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Yield adapters that change nothing yet, and the names of the matrices that they stand beside."""
        generator = torch.Generator().manual_seed(self._seed)
        for name, weight in self._network.weights.items():
            rows, columns = _matrix(weight.shape)
            if min(rows, columns) > self.rank:
                down = torch.randn(self.rank, columns, generator=generator, dtype=weight.dtype) / math.sqrt(columns)
                up = torch.zeros(rows, self.rank, dtype=weight.dtype)
                yield name, up.to(weight.device), down.to(weight.device)

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

    def reset(self, first: Mapping[str, torch.Tensor]) -> None:
        """Make the adapters anew; the weights themselves never changed."""
        self._network.load_state_dict(first)
        with torch.no_grad():
            for name, up, down in self._at_first():
                for own, value in zip(self._adapters[name], (up, down), strict=True):
                    own.copy_(value)

    def merged(self) -> Weights:
        """Return weights, the adapters added to theirs, and statistics."""
        return {**self._network.state_dict(), **{name: value.detach() for name, value in self.weights().items()}}


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
