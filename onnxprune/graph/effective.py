"""Effective weights: the values that nodes compute from constants alone, such as a dequantized or normed weight.

A criterion has to see the numbers that an op multiplies with, not the ones that the file happens to keep. They are
evaluated on demand, by onnx's reference, and only the last few are held.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property

from onnxprune.graph.inference import Inference
from onnxprune.graph.model import Model, Node
from onnxprune.graph.tensors import Array

HELD_BYTES = 256 * 2**20  # of evaluated values


class ConstantValues:
    """Evaluates what follows from the constants of a model."""

    def __init__(self, model: Model, held_bytes: int = HELD_BYTES) -> None:
        self._model = model
        self._limit = held_bytes
        self._held: OrderedDict[str, list[Array] | None] = OrderedDict()  # by first output of the node

    @cached_property
    def _inference(self) -> Inference:
        return Inference(self._model)

    @cached_property
    def _producers(self) -> dict[str, Node]:
        return {name: node for node in self._model.nodes for name in node.outputs if name}

    def array(self, name: str) -> Array | None:
        """Return a value that follows from constants alone; None for any other, and where the reference fails."""
        if name in self._model.constants:
            return self._model.array(name)
        node = self._producers.get(name)
        if node is None or not node.inputs or node.captured:
            return None
        key = node.outputs[0]
        if key not in self._held:
            self._hold(key, self._evaluate(node))
        self._held.move_to_end(key)
        outputs = self._held[key]
        return None if outputs is None else outputs[node.outputs.index(name)]

    def _evaluate(self, node: Node) -> list[Array] | None:
        values = {name: self.array(name) for name in node.inputs if name}
        known = {name: value for name, value in values.items() if value is not None}
        return self._inference.evaluate(node, known) if len(known) == len(values) else None

    def _hold(self, key: str, outputs: list[Array] | None) -> None:
        self._held[key] = outputs
        total = sum(map(_bytes, self._held.values()))
        while total > self._limit and len(self._held) > 1:
            total -= _bytes(self._held.popitem(last=False)[1])


def _bytes(arrays: list[Array] | None) -> int:
    return sum(array.nbytes for array in arrays or ())
