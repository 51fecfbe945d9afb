"""Where a factor of one stands in front of an input of a node: its gradient is what a unit does there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gate:
    """A factor for each index along one axis of an input of a node."""

    node: int  # index of the node
    slot: int  # of its inputs
    dim: int  # of the input
    size: int  # of that dim

    @property
    def name(self) -> str:
        """The name of the factor among the parameters of a network."""
        return f"gate of input {self.slot} of node {self.node} along {self.dim}"
