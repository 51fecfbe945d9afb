"""Handing: what one file of a network gives of its caches, and another one takes.

Exporters write a decoder into a file for the first token, which gives keys and values of all attentions, and one for
those behind it, which takes them. In neither is such a cache what `dependency.caches` calls one: an input and the
output that comes back as it. Which ports these are says `Model.handed_on`; here is which of them go with a branch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from onnxprune.dependency.needs import Needs
from onnxprune.graph.model import Model
from onnxprune.graph.scopes import Scope

SIZES = frozenset(("Shape", "Size"))  # operators that read nothing of their input but its size
_COPIES = frozenset(("Identity", "Cast"))  # by which a graph gives back what it takes


class Handing:
    """What one graph of a model takes and gives of the caches of its network."""

    def __init__(self, model: Model, scope: Scope, needs: Needs) -> None:
        """Note what the graph gives, and which nodes are there for that alone."""
        self._model, self._scope, self._needs = model, scope, needs
        self._taken = [port.name for port in model.inputs if port.name in model.handed_on]
        ports = {value: port for value, port in scope.ports.items() if port in model.handed_on}
        makers = ((value, needs.maker(value)) for value in ports)
        self._makers = {value: maker for value, maker in makers if maker is not None}
        self._given = {value: ports[value] for value in self._makers}
        self._ends = {value: self._end(maker) for value, maker in self._makers.items() if self._is_end(value, maker)}

    def reads_of(self, nodes: Iterable[int]) -> set[tuple[int, int]]:
        """Return the places at which nodes read something."""
        return {(index, slot) for index in nodes for slot, name in enumerate(self._model.nodes[index].inputs) if name}

    def ends_of(self, index: int, slot: int) -> list[frozenset[int]]:
        """Return for each output that is given of what a branch computes the nodes that are there for it alone.

        Args:
            index: of the node that adds the branch.
            slot: of the branch there.
        """
        if not self._ends:
            return []
        every = frozenset().union(*self._ends.values())
        alone = {*self._needs.only_for({(index, slot), *self.reads_of(every)}, ())} - every
        upstream, waiting = set[int](), [self._model.nodes[index].inputs[slot]]
        while waiting:
            maker = self._needs.maker(waiting.pop())
            if maker is not None and maker in alone and maker not in upstream:
                upstream.add(maker)
                waiting.extend(self._model.nodes[maker].inputs)
        return [ends for ends in self._ends.values() if not upstream.isdisjoint(self._before(ends))]

    def ports_of(self, nodes: Collection[int]) -> dict[str, str]:
        """Return the inputs and outputs of the model that are handed on for nodes alone, by their names in the graph.

        An input that the graph gives back as it is, for the next run, goes as that output, too. One whose length others
        read stays: files would not agree on which of them are left.
        """
        inside = set(nodes)
        passed = {value: name for value in self._given if (name := self._passed(value)) is not None}
        passing: dict[int | None, str] = {self._makers[value]: name for value, name in passed.items()}
        taken = {
            name: name
            for name in self._taken
            if (readers := self._readers(name)) and all(at in inside or passing.get(at) == name for at in readers)
        }
        given = {
            value: port
            for value, port in self._given.items()
            if (self._makers[value] in inside or passed.get(value) in taken)
            and (value in self._ends or self._readers(value) <= inside)
        }
        return taken | given

    def are_read_by(self, ends: Collection[int], nodes: Collection[int]) -> bool:
        """Whether nobody but some nodes reads what others give, which are among them."""
        made = (name for index in ends for name in self._model.nodes[index].outputs if name)
        return all(self._readers(name) <= set(nodes) for name in made)

    def _is_end(self, value: str, maker: int) -> bool:
        """Whether nobody in the model reads what a node gives, but for its size."""
        readers = self._model.readers.get(value, ())
        is_alone = [name for name in self._model.nodes[maker].outputs if name] == [value]
        return is_alone and all(self._model.nodes[at].op in SIZES for at, _ in readers)

    def _end(self, maker: int) -> frozenset[int]:
        """Return a node that makes what is given, and those that are there for it alone."""
        return frozenset((maker, *self._needs.only_for(self.reads_of([maker]), self._scope.outputs)))

    def _before(self, nodes: Collection[int]) -> Iterator[int]:
        """Yield the nodes that make what some nodes read."""
        for name in (name for index in nodes for name in self._model.nodes[index].inputs):
            maker = self._needs.maker(name)
            if maker is not None and maker not in nodes:
                yield maker

    def _passed(self, value: str) -> str | None:
        """Return the input that a value is as it is; None where it is none."""
        node = self._model.nodes[self._makers[value]]
        return node.inputs[0] if node.op in _COPIES and node.inputs[0] in self._taken else None

    def _readers(self, name: str) -> set[int | None]:
        """Return the nodes of the graph that read a value; None for one elsewhere that does not hold the graph."""
        owners, readers = self._scope.owners, self._model.readers.get(name, ())
        return {owners.get(index) for index, slot in readers if slot >= 0 or index in owners}
