"""What a function of output shapes sees: a node, with the types and known values of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnxprune.graph.model import Node
from onnxprune.graph.shapes.inference import Inference, TensorType
from onnxprune.graph.tensors import Array, Shape


@dataclass(frozen=True)
class Call:
    """A node with the types and known values of its inputs."""

    node: Node
    types: Mapping[str, TensorType]
    values: Mapping[str, Array]
    inference: Inference

    def has(self, slot: int) -> bool:
        """Whether an optional input is present and of known shape."""
        return slot < len(self.node.inputs) and self.node.inputs[slot] in self.types

    def type(self, slot: int) -> TensorType:
        """Return element type and shape of an input; KeyError if they are unknown."""
        return self.types[self.node.inputs[slot]]

    def shape(self, slot: int) -> Shape:
        """Return the shape of an input."""
        return self.type(slot)[1]

    def number(self, name: str, default: int = 0) -> int:
        """Return an attribute that is an integer."""
        return int(self.node.attrs.get(name, default))

    def scalar(self, slot: int) -> int:
        """Return the value of an input that is one integer; KeyError if it is unknown."""
        return int(self.values[self.node.inputs[slot]].ravel()[0])

    def typed(self, shape: Shape, slot: int = 0) -> TensorType:
        """Return `shape` with the element type of an input."""
        return self.type(slot)[0], shape


Outputs: TypeAlias = "Sequence[TensorType | None]"
Rule: TypeAlias = Callable[[Call], Outputs]
