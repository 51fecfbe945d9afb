"""Replay: run a model on calibration data piece by piece, each node as seldom as memory allows.

Reconstruction changes a layer and needs what the next one then gets. Running the whole model for every layer costs
the square of its depth. A `Replay` keeps the values that are alive at one place of the graph, for all batches, runs
from there, and moves the place on when it is told to. Where these values take more than the budget it stays where it
is, and runs a longer way the next time: memory is bounded, whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from onnxprune.errors import ModelError
from onnxprune.model import Array, Model, part, serialize
from onnxprune.runtime import Session, open_session

BUDGET_BYTES = 640 * 2**20  # of the values that one replay keeps, beside the samples themselves

Feeds = Mapping[str, Array]


class Replay:
    """A model, batches of samples, and the values that are alive at the place where it stands."""

    def __init__(
        self, model: Model, batches: Sequence[Feeds], *, budget_bytes: int = BUDGET_BYTES, threads: int = 0
    ) -> None:
        """Stand in front of the first node.

        Args:
            model: in plain form.
            batches: feeds by input name, kept as they are.
            budget_bytes: of the values that are kept.
            threads: of the sessions, 0 is ONNX Runtime's choice.
        """
        self.model = model
        self.contents: dict[str, Array] = {}  # constants that hold something else than in the model
        self._stored: list[Feeds] = list(batches)
        self._place = 0  # the first of `model.top` that has not been passed
        self._budget, self._threads = budget_bytes, threads
        self._order = {name: place for place, index in enumerate(model.top) for name in model.nodes[index].outputs}
        self._last_read = self._find_last_reads()

    def __len__(self) -> int:
        return len(self._stored)

    def run(
        self, names: Iterable[str], which: Iterable[int] | None = None, contents: Mapping[str, Array] | None = None
    ) -> Iterator[dict[str, Array]]:
        """Yield the values of `names` for every batch, or for those of `which`.

        Args:
            names: of values between nodes, outputs, or inputs.
            which: numbers of batches.
            contents: constants that hold something else, for this run alone.

        Raises:
            ModelError: when ONNX Runtime cannot run the part.
        """
        wanted = list(dict.fromkeys(names))
        given = [name for name in wanted if name in self._stored[0]]
        computed = [name for name in wanted if name not in self._stored[0]]
        session, inputs = self._session(computed, {**self.contents, **(contents or {})}) if computed else (None, ())
        for number in range(len(self._stored)) if which is None else which:
            stored = self._stored[number]
            found = {name: stored[name] for name in given}
            if session is not None:
                found.update(session.run({name: stored[name] for name in inputs}))
            yield found

    def advance(self, name: str) -> None:
        """Move to right behind the node that makes `name`, if what is alive there fits the budget."""
        place = self._order[name] + 1
        if place <= self._place:
            return
        alive = [value for value, last in self._last_read.items() if last >= place and self._is_before(value, place)]
        per_sample = next(self.run(alive, which=[0]))
        if sum(array.nbytes for array in per_sample.values()) * len(self._stored) > self._budget:
            return
        self._stored = list(self.run(alive))
        self._place = place

    def _is_before(self, name: str, place: int) -> bool:
        return self._order.get(name, -1) < place

    def _find_last_reads(self) -> dict[str, int]:
        """Return for every runtime value the place of the last node that reads it; graph outputs are read at the end."""
        end = len(self.model.top)
        last = {port.name: end for port in self.model.outputs}
        known = {*self._order, *(port.name for port in self.model.inputs)} - self.model.constants.keys()
        for place, index in enumerate(self.model.top):
            node = self.model.nodes[index]
            for name in (*node.inputs, *node.captured):
                if name in known:
                    last[name] = max(place, last.get(name, 0))
        return {name: place for name, place in last.items() if name not in self.model.constants}

    def _session(self, names: Sequence[str], contents: Mapping[str, Array]) -> tuple[Session, tuple[str, ...]]:
        """Return a session from the stored values to `names`, and the stored values that it takes."""
        stored = self._stored[0]
        needed, nodes = set(names), []
        for place in range(max(self._order[name] for name in names), -1, -1):
            node = self.model.nodes[self.model.top[place]]
            if any(name in needed and name not in stored for name in node.outputs):
                nodes.append(node.index)
                needed.update(name for name in (*node.inputs, *node.captured) if name)
        types = {name: array.dtype for name, array in stored.items() if name in needed}
        proto = part(self.model, reversed(nodes), types, names, contents)
        session = open_session(serialize(proto), threads=self._threads)
        if set(session.outputs) != set(names):
            raise ModelError(f"{sorted(set(names) - set(session.outputs))} are no tensors")
        return session, tuple(name for name in types if name in {port.name for port in session.ort.get_inputs()})


def values_of(batches: Iterable[Mapping[str, Array]], name: str) -> Array:
    """Return one value over all batches, along its first axis."""
    return np.concatenate([batch[name] for batch in batches])
