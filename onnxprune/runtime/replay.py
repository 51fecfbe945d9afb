"""Replay: run a model on calibration data part by part, each node as seldom as memory allows.

Reconstruction changes a layer and needs what the next one then gets. Running the whole model for every layer costs
the square of its depth. A `Replay` keeps the values that are alive at one place of the graph, for all batches, runs
from there, and moves the place forward on request. What does not fit into its budget of memory goes to temporary
files: memory is bounded, whatever the number of samples, and the time grows with the depth, not with its square.

Nodes whose weights are more than `runtime.room` allows for run piece by piece: each piece is opened, run on all batches
up to the next station, and closed, so that the weights of one piece are in memory, whatever the size of the model.
"""

from __future__ import annotations

import copy
import pickle
import shutil
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, overload

import numpy as np

from onnxprune.algebra.threads import cores
from onnxprune.errors import ModelError
from onnxprune.graph.files.deferred import defers
from onnxprune.graph.forms.parts import part
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port, taken
from onnxprune.graph.tensors import Array
from onnxprune.runtime.beside import beside, side_by_side
from onnxprune.runtime.room import piece_bytes, runs_whole
from onnxprune.runtime.session import Session, open_session
from onnxprune.runtime.stations import alive_counts, last_reads, order_of, read_bytes, seams

BESIDE_BATCHES = 2  # that run at the same time: their values are in memory together, with those of one that is done
BUDGET_BYTES = 256 * 2**20  # of the values that one replay keeps, beside the samples themselves

Feeds: TypeAlias = Mapping[str, Array]
Opener: TypeAlias = Callable[..., Session]  # as `open_session`, of a message and `threads`


class Batches(Sequence[Feeds]):
    """Batches that are made on access, by `at`."""

    @abstractmethod
    def at(self, number: int) -> Feeds:
        """Return a batch, counted from the front."""

    @overload
    def __getitem__(self, number: int) -> Feeds: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Feeds]: ...
    def __getitem__(self, number: Any) -> Any:
        selected = range(len(self))[number]
        return [self.at(each) for each in selected] if isinstance(selected, range) else self.at(selected)


class Taken(Batches):
    """Batches of a model as one takes them whose caches were cut; see `graph.ports.taken`."""

    def __init__(self, batches: Sequence[Feeds], inputs: Iterable[Port]) -> None:
        self._batches, self._shapes = batches, {port.name: port.shape or () for port in inputs}

    def __len__(self) -> int:
        return len(self._batches)

    def at(self, number: int) -> Feeds:
        """Return a batch, cut to what the model takes."""
        return taken(self._batches[number], self._shapes)


class Replay:
    """A model, batches of samples, and the values that are alive at the place where it stands."""

    def __init__(
        self,
        model: Model,
        batches: Sequence[Feeds],
        *,
        budget_bytes: int = BUDGET_BYTES,
        threads: int = 0,
        opener: Opener | None = None,
        lasting: Iterable[str] = (),
    ) -> None:
        """Stand in front of the first node.

        Args:
            model: in plain form.
            batches: feeds by input name, kept as they are.
            budget_bytes: of the values that are kept.
            threads: of the sessions, 0 is ONNX Runtime's choice.
            opener: makes the sessions, `open_session` by default.
            lasting: values that are kept behind all nodes that read them.
        """
        self.model = model
        self.contents: dict[str, Array] = {}  # constants whose contents replace those of the model
        self._stored: Sequence[Feeds] = batches
        self._example = 0  # a batch that is stored
        self._place = 0  # the first of `model.top` that has not been passed
        self._ahead: frozenset[str] = frozenset()  # stored values that are computed behind the place
        self._budget, self._threads, self._opener = budget_bytes, threads, opener
        self._order = order_of(model)
        last = last_reads(model, self._order)
        self._last_read = {**last, **{name: len(model.top) for name in lasting if name in last}}
        self._made = self._order.keys() - model.fixed  # values that are not computed again in each piece
        self._alive: Sequence[int] = ()  # values that pass each place, once they are needed

    def __len__(self) -> int:
        return len(self._stored)

    def run(
        self, names: Iterable[str], which: Iterable[int] | None = None, contents: Mapping[str, Array] | None = None
    ) -> Iterator[dict[str, Array]]:
        """Yield the values of `names` for every batch, or for those of `which`.

        Args:
            names: of values between nodes, outputs, or inputs.
            which: numbers of batches.
            contents: constants whose contents are replaced, for this run alone.

        Raises:
            ModelError: when ONNX Runtime cannot run the part.
        """
        wanted, replaced = list(dict.fromkeys(names)), {**self.contents, **(contents or {})}
        first = self._usable(replaced)
        constant = {name: self._constant(name, contents) for name in wanted if name in self.model.constants}
        runtime = [name for name in wanted if name not in constant]
        numbers = list(range(len(self._stored)) if which is None else which)
        start = _Start(self._stored, numbers, _types(first))
        for values in self._in_pieces(start, runtime, replaced) if runtime else ({} for _ in numbers):
            yield {name: constant[name] if name in constant else values[name] for name in wanted}

    def _in_pieces(
        self, start: _Start, wanted: Sequence[str], replaced: Mapping[str, Array]
    ) -> Iterator[dict[str, Array]]:
        """Yield values of the batches of a start, by way of those at the ends of pieces where weights are many."""
        needed = needed_places(self.model, self._order, start.types, wanted)
        for end in self._ends(needed):
            carried = self._carried(end, needed, start, wanted)
            kept = KeptBatches(self._budget)
            try:
                for values in self._computed(start, carried, replaced):
                    kept.append(values)
            except ModelError:  # perhaps a value there is no tensor: the piece goes on to the next end
                continue
            start = _Start(kept, range(len(kept)), _types(kept[0]))
        yield from self._computed(start, wanted, replaced)

    def pieces(self, names: Sequence[str]) -> Iterator[tuple[Session, Feeds]]:
        """Yield a session of each piece on the way to some values, and what it is fed of the first batch.

        Raises:
            ModelError: when ONNX Runtime cannot run a piece alone.
        """
        stored = self._stored[0]
        start = _Start(self._stored, [0], _types(stored))
        needed = needed_places(self.model, self._order, start.types, names)
        for end in (*self._ends(needed), None):
            carried = list(names) if end is None else self._carried(end, needed, start, names)
            computed = [name for name in carried if name not in start.types]
            if not computed:
                continue
            try:
                session, inputs = self._session(computed, start.types, self.contents, self._threads)
            except ModelError:
                if end is None:
                    raise
                continue  # perhaps a value there is no tensor: the piece goes on to the next end
            feeds = {name: stored[name] for name in inputs}
            yield session, feeds
            stored = {**{name: stored[name] for name in carried if name in start.types}, **session.run(feeds)}
            start = _Start([stored], [0], _types(stored))

    def _carried(self, end: int, needed: Sequence[int], start: _Start, wanted: Sequence[str]) -> list[str]:
        """Return the values in front of a place that are wanted, or that the needed nodes behind it read."""
        nodes = (self.model.nodes[self.model.top[place]] for place in needed if place >= end)
        read = {name for node in nodes for name in (*node.inputs, *node.captured)}.union(wanted)
        return [n for n in sorted(read) if n in start.types or (n in self._made and self._order[n] < end)]

    def _ends(self, needed: Sequence[int]) -> list[int]:
        """Return the places where pieces of some nodes end, but for the last; none where they may run at once."""
        if runs_whole(read_bytes(self.model, needed)):
            return []
        self._alive = self._alive or alive_counts(self.model)
        return seams({place: read_bytes(self.model, [place]) for place in needed}, self._alive, piece_bytes())

    def _computed(
        self, start: _Start, wanted: Sequence[str], replaced: Mapping[str, Array]
    ) -> Iterator[dict[str, Array]]:
        """Yield values of the batches of a start, from one session."""
        fed = [name for name in wanted if name in start.types]
        computed = [name for name in wanted if name not in start.types]
        room = side_by_side(BESIDE_BATCHES) if computed and len(start.numbers) > 1 else 1
        threads = self._threads or (max(1, cores() // room) if room > 1 else 0)
        session, inputs = self._session(computed, start.types, replaced, threads) if computed else (None, ())

        def of_batch(stored: Feeds) -> dict[str, Array]:
            values = {name: stored[name] for name in fed}
            if session is not None:
                values.update(session.run({name: stored[name] for name in inputs}))
            return values

        yield from beside(
            of_batch, (start.stored[number] for number in start.numbers), room
        )  # read here, one after the other

    def _constant(self, name: str, contents: Mapping[str, Array] | None) -> Array:
        content = (contents or {}).get(name, self.contents.get(name))
        return self.model.array(name) if content is None else content

    def _usable(self, replaced: Mapping[str, Array]) -> Feeds:
        """Return what is stored of one batch, without what a constant that is replaced may change."""
        first = self._stored[self._example]
        return {name: first[name] for name in first if name not in self._ahead} if replaced else first

    def here(self, which: Sequence[int] | None = None) -> Replay:
        """Return a replay that stays at this place when this one moves on; of some batches alone where they are named.

        Values of the others need no memory then.
        """
        other = copy.copy(self)
        if which:
            other._example = which[0]
            if isinstance(self._stored, KeptBatches):
                other._stored = self._stored.only(which)
        return other

    def advance(self, name: str) -> None:
        """Move to right behind the node that makes `name`, see `stand_before`."""
        self.stand_before(self._order[name] + 1)

    def reach(self, name: str, ahead: Iterable[str] = ()) -> None:
        """Move to right before the node that makes `name`, see `stand_before`."""
        self.stand_before(self._order[name], ahead)

    def stand_before(self, place: int, ahead: Iterable[str] = ()) -> None:
        """Move in front of the node at a place of `model.top`, if it is ahead; `KeptBatches` says what is kept where.

        Values that are no tensors cannot be kept: the replay then stays where it is.

        Args:
            place: in `model.top`.
            ahead: values that will be wanted there and are computed behind it. They are computed on the way and kept,
                so that their nodes need not run once for them and once more to pass by; used as long as no constant
                is replaced.
        """
        read = (value for value, last in self._last_read.items() if last >= place)
        alive = [value for value in read if self._order.get(value, -1) < place]
        if place <= self._place or not alive:
            return
        beyond = frozenset() if self.contents else frozenset(n for n in ahead if self._order.get(n, -1) >= place)
        for more in (beyond, frozenset[str]()) if beyond else (beyond,):
            kept = KeptBatches(self._budget)
            try:
                for values in self.run([*alive, *sorted(more)]):
                    kept.append(values)
            except ModelError:
                continue
            self._stored, self._place, self._ahead = kept, place, more
            return

    def _session(
        self, names: Sequence[str], types: Mapping[str, np.dtype[Any]], contents: Mapping[str, Array], threads: int
    ) -> tuple[Session, tuple[str, ...]]:
        """Return a session from values of some types to `names`, and those that it takes."""
        return opened(self.model, self._order, types, names, contents=contents, threads=threads, opener=self._opener)


def in_parts(sizes: Sequence[float], most: float) -> Iterator[range]:
    """Yield the numbers of things of some sizes in runs, each as long as what it holds is no more than `most`.

    >>> list(in_parts([3, 3, 3, 9, 1], 6))
    [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]
    """
    first, held = 0, 0.0
    for number, size in enumerate(sizes):
        if held + size > most and number > first:
            yield range(first, number)
            first, held = number, 0.0
        held += size
    if first < len(sizes):
        yield range(first, len(sizes))


@dataclass(frozen=True)
class _Start:
    """Stored values of batches, from which others are computed."""

    stored: Sequence[Feeds]
    numbers: Sequence[int]  # of the batches that are wanted
    types: Mapping[str, np.dtype[Any]]  # of the values that may be used


def _types(values: Feeds) -> dict[str, np.dtype[Any]]:
    return {name: array.dtype for name, array in values.items()}


def needed_places(
    model: Model, order: Mapping[str, int], types: Mapping[str, np.dtype[Any]], names: Sequence[str]
) -> list[int]:
    """Return the places in `model.top`, ascending, of the nodes that compute values from others.

    Args:
        model: in plain form.
        order: see `order_of`.
        types: of the values that may be fed.
        names: of the values to compute.
    """
    needed, places = {name for name in names if name not in types}, list[int]()
    for place in range(max((order[name] for name in needed), default=-1), -1, -1):
        node = model.nodes[model.top[place]]
        if any(name in needed and name not in types for name in node.outputs):
            places.append(place)
            needed.update(name for name in (*node.inputs, *node.captured) if name)
    return places[::-1]


def opened(
    model: Model,
    order: Mapping[str, int],
    types: Mapping[str, np.dtype[Any]],
    names: Sequence[str],
    *,
    contents: Mapping[str, Array] = MappingProxyType({}),
    threads: int = 0,
    opener: Opener | None = None,
) -> tuple[Session, tuple[str, ...]]:
    """Return a session from some values to others, and the values that it takes.

    Args:
        model: in plain form.
        order: see `order_of`.
        types: of the values that may be fed.
        names: of the values to compute.
        contents: constants whose contents are replaced.
        threads: of the session, 0 is ONNX Runtime's choice.
        opener: makes the sessions, `open_session` by default. That lets them give back the memory of a run where
            tensors are deferred: several are open, and what an arena keeps is up to twice the values of each.

    Raises:
        ModelError: when ONNX Runtime cannot run the part.
    """
    places = needed_places(model, order, types, names)
    nodes = [model.nodes[model.top[place]] for place in places]
    needed = {name for node in nodes for name in (*node.inputs, *node.captured) if name}.union(names)
    fed = {name: dtype for name, dtype in types.items() if name in needed}
    content = part(model, (node.index for node in nodes), fed, names, contents)
    session = (opener or partial(open_session, frees=defers()))(content, threads=threads)
    if set(session.outputs) != set(names):
        raise ModelError(f"{sorted(set(names) - set(session.outputs))} are no tensors")
    return session, tuple(name for name in fed if name in {port.name for port in session.ort.get_inputs()})


class _Scratch:
    """A folder of temporary files, which ends with the last that refers to it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="onnxprune-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)  # without a ResourceWarning


class KeptBatches(Batches):
    """Values of batches: in memory up to a budget, beyond it in temporary files."""

    def __init__(self, budget_bytes: int) -> None:
        self._left = budget_bytes
        self._batches: list[Feeds | Path] = []
        self._scratch: _Scratch | None = None

    def append(self, values: Feeds) -> None:
        """Keep one more batch."""
        self._left -= sum(array.nbytes for array in values.values())
        if self._left >= 0:
            self._batches.append(values)
            return
        if self._scratch is None:
            self._scratch = _Scratch()
        path = self._scratch.folder / str(len(self._batches))
        with path.open("wb") as file:
            pickle.dump(dict(values), file, protocol=pickle.HIGHEST_PROTOCOL)
        self._batches.append(path)

    def only(self, which: Iterable[int]) -> KeptBatches:
        """Return the same with some of the batches alone, under the same numbers: the others are empty."""
        kept, wanted = KeptBatches(0), set(which)
        kept._batches = [batch if number in wanted else {} for number, batch in enumerate(self._batches)]
        kept._scratch = self._scratch
        return kept

    def __len__(self) -> int:
        return len(self._batches)

    def at(self, number: int) -> Feeds:
        """Return a batch, from its file where it has one."""
        batch = self._batches[number]
        return dict(pickle.loads(batch.read_bytes())) if isinstance(batch, Path) else batch
