"""The rest of a model behind constants that are replaced, in parts that are opened once.

To see what a few other weights do to the output, a session with these weights is needed, but only up to the next
*station* behind the last node that reads them. From there on the model is as it was: sessions from station to station
serve all weights that are tried. Opening sessions then takes the time of a few models, not of one for each try.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from onnxprune.errors import ModelError
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.runtime.replay import Feeds, Replay, last_reads, opened, order_of
from onnxprune.runtime.session import Session

PARTS = 8  # between stations, at most
_NODE_BYTES = 2**16  # of weights that take as long to open as a node


def stations(model: Model, parts: int = PARTS) -> tuple[int, ...]:
    """Return places in `model.top` that divide a model into parts, each where few values are alive.

    Parts take about as long to open as each other; each place is the one nearby with the fewest values that pass it.
    """
    costs = [0.0]
    for index in model.top:
        read = (model.constants[name] for name in model.nodes[index].inputs if name in model.constants)
        costs.append(costs[-1] + 1 + sum(one.count * one.dtype.itemsize for one in read) / _NODE_BYTES)
    alive = _alive_counts(model)
    chosen: list[int] = []
    for number in range(1, parts):
        low, high = ((number + move) * costs[-1] / parts for move in (-0.4, 0.4))
        near = [place for place in range(1, len(model.top)) if low <= costs[place] <= high and alive[place]]
        if near:
            chosen.append(min(near, key=lambda place: (alive[place], abs(costs[place] - (low + high) / 2))))
    return tuple(sorted(set(chosen)))


def last_read(model: Model, names: Iterable[str]) -> int:
    """Return the place of the last node that reads some constants, or what is computed from them alone; -1 for none."""
    changed, last = set(names), -1
    for place, index in enumerate(model.top):
        node = model.nodes[index]
        if not changed.isdisjoint((*node.inputs, *node.captured)):
            last = place
            changed.update(name for name in node.outputs if name in model.fixed)
    return last


def _alive_counts(model: Model) -> list[int]:
    """Return how many values pass each place of `model.top`."""
    order, counts = order_of(model), [0] * (len(model.top) + 1)
    for name, last in last_reads(model, order).items():
        for place in range(order.get(name, -1) + 1, min(last, len(model.top)) + 1):
            counts[place] += 1
    return counts


class Rest:
    """The outputs of a model, from stations on; several threads may ask at the same time."""

    def __init__(
        self, model: Model, outputs: Iterable[str], contents: Mapping[str, Array] = MappingProxyType({})
    ) -> None:
        """Take a model in plain form and the outputs that are wanted; `contents` of constants hold for all sessions."""
        self._model, self._outputs, self._order, self._contents = model, list(outputs), order_of(model), contents
        self._last_read = last_reads(model, self._order)
        self._stations = stations(model)
        self._sessions: dict[tuple[int, ...], tuple[Session, tuple[str, ...]]] = {}
        self._lock = threading.Lock()

    def outputs(
        self, replay: Replay, which: Iterable[int], contents: Mapping[str, Array]
    ) -> Iterator[dict[str, Array]]:
        """Yield the outputs of some batches with the contents of some constants replaced.

        Args:
            replay: of the model; it stands before the first node that reads these constants.
            which: numbers of batches.
            contents: by the names of the constants.

        Raises:
            ModelError: when ONNX Runtime cannot run the model.
        """
        which, behind = list(which), last_read(self._model, contents)
        ahead = tuple(place for place in self._stations if place > behind)
        while ahead:
            runs = replay.run(self._alive(ahead[0]), which, contents)
            try:
                first = [self._from(ahead, values) for values in itertools.islice(runs, 1)]
            except ModelError:  # perhaps a value at a station is no tensor: it cannot be handed on
                ahead = ahead[1:]
                continue
            yield from first
            yield from (self._from(ahead, values) for values in runs)
            return
        yield from replay.run(self._outputs, which, contents)

    def _from(self, ahead: tuple[int, ...], values: Feeds) -> dict[str, Array]:
        """Return the outputs, from the values that are alive at the first of some stations."""
        for at in range(len(ahead)):
            between = ahead[at : at + 2]
            wanted = self._alive(between[1]) if len(between) > 1 else self._outputs
            computed = [name for name in wanted if name not in values]
            ready = {name: values[name] for name in wanted if name in values}
            if computed:
                session, inputs = self._opened(between, values, computed)
                ready.update(session.run({name: values[name] for name in inputs}))
            values = ready
        return dict(values)

    def _opened(
        self, between: tuple[int, ...], values: Feeds, computed: Sequence[str]
    ) -> tuple[Session, tuple[str, ...]]:
        """Return the session from one station to the next, and what it takes of the values; opened once."""
        with self._lock:
            if between not in self._sessions:
                types = {name: array.dtype for name, array in values.items()}
                self._sessions[between] = opened(self._model, self._order, types, computed, contents=self._contents)
            return self._sessions[between]

    def _alive(self, place: int) -> list[str]:
        """Return the values that are made before a place and read behind it."""
        return [name for name, last in self._last_read.items() if last >= place and self._order.get(name, -1) < place]
