"""The units of groups as parts of the weights of a network: their norms, and factors on what consumes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from onnxprune.dependency.groups import Group, Member
from onnxprune.training.network.module import Network

Tensor = torch.Tensor


@dataclass(frozen=True)
class UnitWeight:
    """One axis of one weight that carries the units of a group."""

    constant: str
    dim: int
    unit_at: Tensor  # of each index of the axis, the unit that it belongs to; -1 where it is of another group

    def norms(self, weights: Mapping[str, Tensor], units: int) -> Tensor:
        """Return the sum of squares of each unit, ``[units]``."""
        weight = weights[self.constant]
        squares = weight.square().movedim(self.dim, 0).flatten(1).sum(1) if weight.dim() > 1 else weight.square()
        of_units = self.unit_at >= 0
        return squares.new_zeros(units).index_add(0, self.unit_at[of_units], squares[of_units])

    def scaled(self, weight: Tensor, gates: Tensor) -> Tensor:
        """Return the weight with each unit times its gate, ``[units]``."""
        factors = torch.where(self.unit_at >= 0, gates[self.unit_at.clamp(min=0)], torch.ones_like(gates[:1]))
        return weight * factors.reshape(-1, *[1] * (weight.dim() - self.dim - 1))


@dataclass(frozen=True)
class Units:
    """The units of one group in a network."""

    name: str
    count: int
    scales: tuple[UnitWeight, ...]  # of a BatchNormalization, one number a unit
    makers: tuple[UnitWeight, ...]  # what makes the units
    consumers: tuple[UnitWeight, ...]  # what reads them

    def importance(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return what sparse training makes small, ``[units]``: the scale's magnitude, else the norm of the makers."""
        parts = [each.norms(weights, self.count) for each in self.scales or self.makers]
        return (torch.stack(parts).sum(0) + 1e-12).sqrt()


def units_of(network: Network, groups: Sequence[Group]) -> tuple[Units, ...]:
    """Return the units of those groups that have weights in a network which are trained: any that make or read units.

    Args:
        network: whose parameters are looked at.
        groups: of the same model.
    """
    made = (_units(network, group) for group in groups)
    return tuple(each for each in made if each.scales or each.makers or each.consumers)


def _units(network: Network, group: Group) -> Units:
    of_batch_norm = {
        (node.inputs[1]) for node in network.model.nodes if node.op == "BatchNormalization" and len(node.inputs) > 1
    }
    known = [member for member in group.members if member.constant in network.weights]
    scales = [member for member in known if member.constant in of_batch_norm]
    return Units(
        group.name,
        group.units,
        _weights(network, scales, group.units),
        _weights(network, [member for member in known if member.role == "out"], group.units),
        _weights(network, [member for member in known if member.role == "in"], group.units),
    )


def _weights(network: Network, members: Sequence[Member], units: int) -> tuple[UnitWeight, ...]:
    """Return one entry for each axis of each constant, however often it is used."""
    by_axis = {(member.constant, member.dim): member for member in members}
    return tuple(UnitWeight(name, dim, _unit_at(network, member, units)) for (name, dim), member in by_axis.items())


def _unit_at(network: Network, member: Member, units: int) -> Tensor:
    at = np.full(network.model.constants[member.constant].shape[member.dim], -1, np.int64)
    at[member.places.reshape(-1)] = np.repeat(np.arange(units), member.places.shape[1])
    return torch.from_numpy(at).to(network.device)


def gated(units: Sequence[Units], gates: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that consume units, each unit times its gate; a gate of zero is a unit that is removed.

    Args:
        units: of the groups.
        gates: ``[units]`` by the name of the group.
        weights: of the network, by name.
    """
    scaled: dict[str, Tensor] = {}
    for each in units:
        gate = gates.get(each.name)
        for consumer in each.consumers if gate is not None else ():
            name = consumer.constant
            assert gate is not None
            scaled[name] = consumer.scaled(scaled.get(name, weights[name]), gate)
    return scaled
