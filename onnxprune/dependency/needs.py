"""Needs: which nodes are there for some inputs of others alone, and go with these."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Container

from onnxprune.graph.model import Model
from onnxprune.graph.scopes import Scope


class Needs:
    """Who reads what in one graph of a model; what bodies read, their nodes do."""

    def __init__(self, model: Model, scope: Scope) -> None:
        """Note where the values of a graph are made."""
        self._model, self._scope = model, scope
        self.place = {index: place for place, index in enumerate(scope.nodes)}
        self._made = {name: place for index, place in self.place.items() for name in model.nodes[index].outputs if name}

    def made_at(self, name: str) -> int:
        """Return the place of the node that makes a value, -1 for an input or a constant."""
        return self._made.get(name, -1)

    def maker(self, name: str) -> int | None:
        """Return the node of the graph that makes a value, None for an input or a constant."""
        place = self._made.get(name)
        return None if place is None else self._scope.nodes[place]

    def only_for(self, inputs: Collection[tuple[int, int]], needed: Container[str]) -> list[int]:
        """Return the nodes that are there for some inputs of nodes alone, in order.

        Args:
            inputs: index and slot of each.
            needed: values that are needed beside what nodes read.
        """
        nodes, gone = self._model.nodes, set[int]()
        looked = {-self.made_at(nodes[index].inputs[slot]) for index, slot in inputs} - {1}
        waiting = [*looked]  # places, the last of them first
        heapq.heapify(waiting)
        while waiting:
            node = nodes[self._scope.nodes[-heapq.heappop(waiting)]]
            made = [name for name in node.outputs if name]
            readers = [reader for name in made for reader in self._model.readers.get(name, ())]
            alone = all(reader in inputs or self._scope.owners[reader[0]] in gone for reader in readers)
            if not alone or any(name in needed for name in made):
                continue
            gone.add(node.index)
            for place in {-self.made_at(name) for name in (*node.inputs, *node.captured) if name} - looked:
                if place <= 0:
                    looked.add(place)
                    heapq.heappush(waiting, place)
        return sorted(gone, key=self.place.__getitem__)
