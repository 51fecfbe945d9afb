"""Effective weights: the values that nodes compute from constants alone, such as a dequantized or normed weight.

A criterion has to see the numbers that an op multiplies with, not the ones that the file happens to keep. They are
evaluated on demand, by onnx's reference, and only the last few are held.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import cached_property

from onnxprune.graph.model import Model, Node
from onnxprune.graph.shapes.inference import Inference
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
    def producers(self) -> dict[str, Node]:
        """The nodes that make values, by the name of these."""
        return {name: node for node in self._model.nodes for name in node.outputs if name}

    def array(self, name: str) -> Array | None:
        """Return a value that follows from constants alone; None for any other, and where the reference fails."""
        if name in self._model.constants:
            return self._model.array(name)
        node = self._producer(name)
        if node is None:
            return None
        if node.outputs[0] not in self._held:
            self._evaluate(*self._missing(node))
        self._held.move_to_end(node.outputs[0])
        return self._output(name)

    def _producer(self, name: str) -> Node | None:
        """Return the node that computes a value, where that can be evaluated."""
        node = None if name in self._model.constants else self.producers.get(name)
        return None if node is None or not node.inputs or node.captured else node

    def _output(self, name: str) -> Array | None:
        """Return a value that is held."""
        node = self.producers[name]
        outputs = self._held[node.outputs[0]]
        return None if outputs is None else outputs[node.outputs.index(name)]

    def _missing(self, node: Node) -> tuple[list[Node], dict[str, Array | None]]:
        """Return the nodes to evaluate for an output of `node`, in order, and those of their inputs that are held."""
        order: dict[str, Node] = {}  # by first output
        at_hand: dict[str, Array | None] = {}
        pending = [node]
        while pending:  # an explicit stack: constant arithmetic can be thousands of nodes deep
            sources = {name: self._producer(name) for name in pending[-1].inputs if name}
            makers = {name: source for name, source in sources.items() if source is not None}
            at_hand.update({name: self._output(name) for name, at in makers.items() if at.outputs[0] in self._held})
            missing = [at for name, at in makers.items() if at.outputs[0] not in order and name not in at_hand]
            pending.extend(missing)
            if not missing:
                last = pending.pop()
                order.setdefault(last.outputs[0], last)
        return list(order.values()), at_hand

    def _evaluate(self, nodes: Sequence[Node], at_hand: dict[str, Array | None]) -> None:
        """Evaluate nodes in order, and hold what they give; `at_hand` is used up."""
        reads = Counter(name for node in nodes for name in node.inputs)
        for node in nodes:
            values = {
                name: at_hand[name] if name in at_hand else self.array(name)  # a constant, or nothing known
                for name in node.inputs
                if name
            }
            known = {name: value for name, value in values.items() if value is not None}
            outputs = self._inference.evaluate(node, known) if len(known) == len(values) else None
            at_hand.update(dict.fromkeys(node.outputs) if outputs is None else zip(node.outputs, outputs, strict=False))
            reads.subtract(node.inputs)
            for name in [name for name in values if not reads[name]]:
                at_hand.pop(name, None)
            self._hold(node.outputs[0], outputs)

    def _hold(self, key: str, outputs: list[Array] | None) -> None:
        self._held[key] = outputs
        total = sum(map(_bytes, self._held.values()))
        while total > self._limit and len(self._held) > 1:
            total -= _bytes(self._held.popitem(last=False)[1])


def _bytes(arrays: list[Array] | None) -> int:
    return sum(array.nbytes for array in arrays or ())
