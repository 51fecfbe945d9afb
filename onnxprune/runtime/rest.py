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
from onnxprune.runtime.replay import Feeds, Replay, opened
from onnxprune.runtime.room import runs_whole
from onnxprune.runtime.session import Session
from onnxprune.runtime.stations import last_read, last_reads, order_of, stations, weight_bytes


def shared_stations(model: Model) -> tuple[int, ...]:
    """Return the stations from which sessions stay open for all weights that are tried.

    None where the sessions of a whole model would not fit the memory: what is behind the weights is then run piece by
    piece for each of them.
    """
    return stations(model) if runs_whole(weight_bytes(model)) else ()


class Rest:
    """The outputs of a model, from stations on; several threads may ask at the same time."""

    def __init__(
        self, model: Model, outputs: Iterable[str], contents: Mapping[str, Array] = MappingProxyType({})
    ) -> None:
        """Take a model in plain form and the outputs that are wanted; `contents` of constants hold for all sessions."""
        self._model, self._outputs, self._order, self._contents = model, list(outputs), order_of(model), contents
        self._last_read = last_reads(model, self._order)
        self._stations = shared_stations(model)
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
