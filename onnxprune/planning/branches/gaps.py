"""Gaps: which layers lie next to a branch that goes, and what of the original they are refitted to.

A branch that goes leaves a gap in its stream. The layer that writes to the stream directly in front of it, where there
is one, is refitted to the stream of the original behind it, and the next layer behind the gap is refitted as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from onnxprune.dependency.branches import Branch, nodes_of, origin, total_of
from onnxprune.graph.linear import Layer, layers
from onnxprune.graph.model import Model, Node
from onnxprune.runtime.stations import order_of

BEHIND = 1  # layers behind a gap that are refitted before losses are measured
# Operators through which what a layer gives reaches a sum in another form.
_FORMS = frozenset(
    ("Identity", "Cast", "Dropout", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Mul", "Add", "Slice")
)


@dataclass(frozen=True)
class Repair:
    """A layer that is refitted next to a gap."""

    place: int  # of its node in `model.top`
    layer: Layer
    totals: tuple[str, ...]  # values of the original whose sum it shall give together with
    added: tuple[str, ...]  # values that are added to its output


class Chain:
    """Branches in order, the layers that they end with, and which of them lies directly in front of which."""

    def __init__(self, model: Model, branches: Sequence[Branch]) -> None:
        """Take branches of a model, in order."""
        self.branches, self._model = branches, model
        self._ends = {layer.output: layer for layer in layers(model)}
        self._makers = {name: node for node in model.nodes for name in node.outputs if name}
        self._order, self._places = order_of(model), model.places
        self._kept = {*(port.name for port in model.outputs), *model.tensor_outputs}
        self._streams = [origin(self._makers, self._stream(number)) for number in range(len(branches))]
        self._behind = {name: number for number, name in reversed([*enumerate(self._streams)])}
        self.layers = [self._end_of(branch.value) for branch in branches]

    def _node_of(self, number: int) -> Node:
        """Return the sum that a branch is added in."""
        return self._model.nodes[self.branches[number].node]

    def _stream(self, number: int) -> str:
        """Return what a branch is added to."""
        return self._node_of(number).inputs[self.branches[number].other]

    def _addends(self, number: int) -> tuple[str, str]:
        """Return both addends of the sum that a branch is added in."""
        return self.branches[number].value, self._stream(number)

    def _end_of(self, value: str) -> Layer | None:
        """Return the layer whose output is a value, perhaps in another form: moved, or multiplied by a constant."""
        while value not in self._ends:
            maker = self._makers.get(value)
            if maker is None or maker.op not in _FORMS or len(self._model.readers.get(value, ())) != 1:
                return None
            moving = [name for name in maker.inputs if name and name not in self._model.fixed]
            if len(moving) != 1:
                return None
            value = moving[0]
        return self._ends[value]

    def repairs(self, number: int, gone: Collection[int]) -> list[Repair]:
        """Return the layers that are refitted where a branch is gone beside others, in order."""
        found = [self._front(number, gone), *self._later(number, gone)]
        return sorted((each for each in found if each is not None), key=lambda each: each.place)

    def all_repairs(self, numbers: Collection[int], gone: Collection[int]) -> list[Repair]:
        """Return the layers that are refitted where some branches are gone beside others, in order, each once."""
        found = {each.place: each for number in sorted(numbers) for each in self.repairs(number, gone)}
        return [found[place] for place in sorted(found)]

    def first_place(self, numbers: Collection[int], gone: Collection[int]) -> int:
        """Return the place from which on anything changes where some branches go beside others."""
        own = [self._order[self.branches[number].value] for number in numbers]
        return min([*own, *(each.place for each in self.all_repairs(numbers, gone))])

    def gaps(self, gone: Collection[int]) -> list[list[int]]:
        """Return the branches of each gap: those that are gone one directly behind the other, in order."""
        ends = {number: total_of(self._node_of(number)) for number in gone}
        after = {number: self._behind.get(total) for number, total in ends.items() if total is not None}
        found = []
        for number in sorted(set(gone) - set(after.values())):
            gap = [number]
            while (following := after.get(gap[-1])) is not None and following in gone and following not in gap:
                gap.append(following)
            found.append(gap)
        return found

    def sum_of(self, number: int) -> int:
        """Return the node in which a branch, perhaps together with others, is added to the stream."""
        node = self._node_of(number)
        while self._streams[number] in self._ends and (outer := self._outer(node)) is not None:
            node = outer[0]
        return node.index

    def _front(self, number: int, gone: Collection[int]) -> Repair | None:
        """Return the layer that writes to the stream in front of a gap; None where none does directly.

        Beside a branch that is added together with another one, that is the layer that the other one ends with.
        """
        dead, node, stream = nodes_of(self.branches[at] for at in gone), self._node_of(number), self._streams[number]
        beside, outer = self._ends.get(stream), self._outer(node)
        if beside is not None and outer is not None:
            if beside.node.index not in dead:
                return self._beside(number, beside, outer, gone)
            node, stream = outer[0], origin(self._makers, outer[1])  # both are gone
        maker = self._makers.get(stream)
        while maker is not None and (before := self._sum_of(maker, stream, gone)) is not None:
            stream = self._streams[before]
            maker = self._makers.get(stream)
        last = self._end_of_sum(node, gone)
        if total_of(last) is None:  # the stream behind the gap has no name that a refit could aim at
            return None
        totals = last.inputs[:2]
        if stream in self._ends:
            return None if self._ends[stream].node.index in dead else self._repair(self._ends[stream], totals, ())
        if maker is None or total_of(maker) != stream:
            return None
        for value, other in (maker.inputs[:2], maker.inputs[1::-1]):
            layer = self._ends.get(value)
            if layer is not None and self._order.get(other, -1) < self._order[value]:
                return self._repair(layer, totals, (other,))
        return None

    def _beside(self, number: int, layer: Layer, outer: tuple[Node, str], gone: Collection[int]) -> Repair | None:
        """Return a layer that does what it did and what the branch beside it did, and mends what the gap left."""
        sum_with_stream, stream = outer
        last = self._end_of_sum(sum_with_stream, gone)
        if self._order.get(stream, -1) >= self._order[layer.node.outputs[0]]:  # what else is added is not known yet
            return self._repair(layer, self._addends(number), ())
        return None if total_of(last) is None else self._repair(layer, last.inputs[:2], (stream,))

    def _outer(self, node: Node) -> tuple[Node, str] | None:
        """Return the sum in which the sum of a node alone is added to a stream, and that stream; None without one."""
        total = total_of(node)
        readers = () if total is None else self._model.readers.get(total, ())
        if len(readers) != 1 or total in self._behind or total in self._kept:
            return None
        index, slot = readers[0]
        outer = self._model.nodes[index]
        if index not in self._places or slot not in (0, 1) or total_of(outer) is None:
            return None
        other = outer.inputs[1 - slot]
        return None if other in self._model.fixed else (outer, other)

    def _sum_of(self, maker: Node, total: str, gone: Collection[int]) -> int | None:
        """Return the branch that is gone from a sum; None where none is."""
        own = (at for at in gone if self.branches[at].node == maker.index and total_of(maker) == total)
        return next(own, None)

    def end(self, number: int, gone: Collection[int]) -> int:
        """Return the last of the branches that are gone directly behind one; itself if there is none."""
        while True:
            total = total_of(self._node_of(number))
            after = None if total is None else self._behind.get(total)
            if after is None or after not in gone or after == number:
                return number
            number = after

    def _end_of_sum(self, node: Node, gone: Collection[int]) -> Node:
        """Return the sum of the last of the branches that are gone directly behind a sum; itself if there is none."""
        total = total_of(node)
        after = None if total is None else self._behind.get(total)
        return node if after is None or after not in gone else self._node_of(self.end(after, gone))

    def _later(self, number: int, gone: Collection[int]) -> Iterator[Repair]:
        """Yield the next layers behind a gap at which branches end that stay."""
        place, left = self._model.places[self.branches[number].node], BEHIND
        dead = nodes_of(self.branches[at] for at in gone)
        for at in range(number + 1, len(self.branches)):
            layer = self.layers[at]
            if at in gone or layer is None or layer.node.index in dead or self._order[layer.node.outputs[0]] <= place:
                continue
            if layer.output == self.branches[at].value and total_of(self._node_of(at)) is not None:
                yield self._repair(layer, self._addends(self.end(at, gone)), (self._stream(at),))
            else:
                yield self._repair(layer, (layer.output,), ())
            left -= 1
            if not left:
                return

    def _repair(self, layer: Layer, totals: tuple[str, ...], added: tuple[str, ...]) -> Repair:
        return Repair(self._order[layer.node.outputs[0]], layer, totals, added)
