"""Activation statistics of each unit of each group, at the weights that consume it, on calibration data.

The weights of role ``in`` of a group consume its units; the value that the node contracts with such a weight is the
activation. Its first two moments, mean magnitude and share above zero are summed in float64, batch by batch: memory is
that of one batch, whatever the number of samples.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxprune.criteria.importance import Seen, magnitudes
from onnxprune.dependency.axes import Atom, Axes, positions
from onnxprune.dependency.groups import Group, Member, Places, by_unit
from onnxprune.dependency.matrices import multiplied
from onnxprune.dependency.rules import Coupling
from onnxprune.dependency.rules.recurrent import GATES
from onnxprune.dependency.trace import Trace, trace
from onnxprune.errors import DataError, ModelError
from onnxprune.graph.effective import ConstantValues
from onnxprune.graph.tensors import Array
from onnxprune.progress import Progress, silent
from onnxprune.runtime.executors import ALONE, Sent, Workers, sent, shards
from onnxprune.runtime.replay import Feeds, Replay

_LOOKING = "looking at activations"
TAPPED_BYTES = 256 * 2**20  # of the values that one run returns; the others take further passes
# Weights that multiply the output of their own op at the previous step: op -> slot.
_FED_BACK: Mapping[str, int] = {**dict.fromkeys(GATES, 2), "com.microsoft.DynamicQuantizeLSTM": 2}


def activations(
    traced: Trace,
    groups: Sequence[Group],
    batches: Sequence[Feeds],
    *,
    progress: Progress = silent,
    tapped_bytes: int = TAPPED_BYTES,
    workers: Workers = ALONE,
) -> dict[str, tuple[Seen, ...]]:
    """Return activation statistics of every group, by name: one entry for each place where a weight consumes its units.

    A group has no entries where no weight consumes it, or only one inside a branch or loop.

    Args:
        traced: the model with its axes.
        groups: those to measure.
        batches: feeds by input name.
        progress: called before each step.
        tapped_bytes: of the values that one run returns, about.
        workers: where the model is run; the statistics are the same everywhere.

    Raises:
        DataError: when there are no batches, or a value that a weight multiplies is NaN or infinite.
        ModelError: when ONNX Runtime cannot run the model.
    """
    if not batches:
        raise DataError("statistics need at least one batch of samples")
    finder = _Finder(traced)
    places = {group.name: tuple(finder.places(group)) for group in groups}
    taps = {place.tap: _Moments.of(place.size) for group_places in places.values() for place in group_places}
    if workers.parallel and taps:
        _merge(taps, _summed(traced, taps, batches, tapped_bytes=tapped_bytes, workers=workers, progress=progress))
    else:
        _collect(traced, [taps] * len(batches), batches, batches[0], tapped_bytes=tapped_bytes, progress=progress)
    totals: dict[tuple[int, ...], float] = {}  # energy by node, slot and dim of the weight
    return {
        name: tuple(_statistics(traced, place, taps[place.tap], finder.values, totals) for place in group_places)
        for name, group_places in places.items()
    }


@dataclass(frozen=True, slots=True)
class _Tap:
    """A value, and the axis of it along which weights multiply."""

    value: str
    dim: int
    node: int | None = None  # whose input is encoded, such as quantized
    slot: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where a weight consumes the units of a group."""

    tap: _Tap
    size: int  # of the axis of the value
    member: Member
    coupling: Coupling  # of the node that consumes them
    order: tuple[int, ...]  # of the dims of the weight: its units, those that number their occurrences, the others
    at: Places  # of the units on the axis of the value
    in_weight: Places  # of the units on the axis of the weight


@dataclass(slots=True)
class _Moments:
    """Sums over the positions of one axis, ``[size]``."""

    total: npt.NDArray[np.float64]
    square: npt.NDArray[np.float64]
    absolute: npt.NDArray[np.float64]
    positive: npt.NDArray[np.float64]
    count: int = 0

    @staticmethod
    def of(size: int) -> _Moments:
        return _Moments(np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size))

    def add(self, tap: _Tap, array: Array) -> None:
        wide = array.astype(np.float64)
        others = tuple(dim for dim in range(wide.ndim) if dim != tap.dim)
        self.total += wide.sum(others)
        self.positive += (wide > 0).sum(others)
        self.absolute += np.abs(wide, out=wide).sum(others)
        self.square += np.square(wide, out=wide).sum(others)
        self.count += wide.size // max(1, len(self.total))
        self._check(tap)

    def join(self, tap: _Tap, other: _Moments) -> None:
        """Add the sums of the next batch."""
        self.total += other.total
        self.positive += other.positive
        self.absolute += other.absolute
        self.square += other.square
        self.count += other.count
        self._check(tap)

    def _check(self, tap: _Tap) -> None:
        if not np.isfinite(self.square).all():
            raise DataError(f"{tap.value!r}, which a weight multiplies, holds NaN or infinite values for these samples")


# -- where units are consumed --------------------------------------------------------------------------------------


class _Finder:
    """Finds where the units of groups are consumed, and by what."""

    def __init__(self, traced: Trace) -> None:
        self.values = ConstantValues(traced.model)
        self._traced = traced
        self._constant = traced.model.fixed
        self._top = set(traced.model.top)

    def places(self, group: Group) -> Iterator[_Place]:
        """Yield the places of a group in graph order; two weights of a node that multiply the same value are one."""
        seen: set[tuple[int, _Tap]] = set()
        consuming: dict[tuple[int, int], Member] = {}
        for member in group.members:
            if member.role == "in":
                consuming.setdefault(member.sink, member)
        for (node, slot), member in consuming.items():
            coupling = self._traced.couplings.get(node)
            place = self._place(member, group.atom, coupling, slot) if coupling and node in self._top else None
            if place is not None and (node, place.tap) not in seen:
                seen.add((node, place.tap))
                yield place

    def _place(self, member: Member, atom: Atom, coupling: Coupling, slot: int) -> _Place | None:
        weight = self._axes(coupling.inputs[slot])
        carrying = [dim for dim, axis in enumerate(weight) if positions(axis, atom).size]
        summed = [dim for dim in carrying if (slot, dim) in coupling.contracted] or carrying
        for tap, axes in self._operands(coupling, slot) if summed else ():
            value_dims = [dim for dim, axis in enumerate(axes) if positions(axis, atom).size]
            alike = [dim for dim in value_dims if axes[dim] == weight[summed[0]]] or value_dims
            parts = self._traced.partition.atoms(axes[alike[0]]) if alike else ()
            if alike and not any(part.dynamic for part in parts):
                axis, own = axes[alike[0]], weight[summed[0]]
                order = self._order(weight, summed[0], {*parts} - {*self._traced.partition.atoms(own)})
                unit_positions = positions(axis, atom), positions(own, atom)
                return _Place(replace(tap, dim=alike[0]), axis.size, member, coupling, order, *unit_positions)
        return None

    def _order(self, weight: Axes, dim: int, elsewhere: set[Atom]) -> tuple[int, ...]:
        """Return the dims of a weight, those behind `dim` that hold further factors of what it multiplies with.

        The groups of a convolution lie on its outputs, the places in a block of packed numbers on an axis of their own.
        """
        rest = [at for at in range(len(weight)) if at != dim]
        return (dim, *sorted(rest, key=lambda at: not elsewhere & {*self._traced.partition.atoms(weight[at])}))

    def _operands(self, coupling: Coupling, slot: int) -> Iterator[tuple[_Tap, Axes]]:
        """Yield the values that a weight may multiply, with their axes."""
        node = coupling.node
        if _FED_BACK.get(node.op) == slot:
            for name, axes in zip(node.outputs, coupling.outputs, strict=True):
                if name:
                    yield _Tap(name, 0), self._axes(axes)
            return
        for other, (name, axes) in enumerate(zip(node.inputs, coupling.inputs, strict=True)):
            if name and other != slot and name not in self._constant:
                encoded = other in coupling.encodings
                yield (_Tap(name, 0, node.index, other) if encoded else _Tap(name, 0)), self._axes(axes)

    def _axes(self, axes: Axes | None) -> Axes:
        return self._traced.axes(axes or ())


# -- activation statistics -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Job:
    """What all tasks of workers share."""

    model: Sent
    sizes: Mapping[_Tap, int]
    batches: Sequence[Feeds]
    tapped_bytes: int


def _summed(
    traced: Trace,
    taps: Mapping[_Tap, _Moments],
    batches: Sequence[Feeds],
    *,
    tapped_bytes: int,
    workers: Workers,
    progress: Progress,
) -> Iterator[dict[_Tap, _Moments]]:
    """Yield the moments of every batch, in order, from workers that get some batches each."""
    sizes = {tap: len(moments.total) for tap, moments in taps.items()}
    job = _Job(sent(traced.model, workers), sizes, list(batches), tapped_bytes)
    parts = shards(len(batches), workers, 1)
    progress(_LOOKING, 1, len(parts))
    for number, batch_moments in enumerate(workers.map(_moments_of, job, parts)):
        progress(_LOOKING, min(number + 2, len(parts)), len(parts))
        yield from batch_moments


def _moments_of(job: _Job, which: range) -> list[dict[_Tap, _Moments]]:
    """Return the moments of some batches, each on its own, in a worker: the sums over all are made in their order."""
    batch_moments = [{tap: _Moments.of(size) for tap, size in job.sizes.items()} for _ in which]
    batches = [job.batches[number] for number in which]
    _collect(
        trace(job.model.open()), batch_moments, batches, job.batches[0], tapped_bytes=job.tapped_bytes, progress=silent
    )
    return batch_moments


def _merge(taps: Mapping[_Tap, _Moments], batch_moments: Iterable[Mapping[_Tap, _Moments]]) -> None:
    for batch in batch_moments:
        for tap, moments in batch.items():
            taps[tap].join(tap, moments)


def _collect(
    traced: Trace,
    into: Sequence[Mapping[_Tap, _Moments]],
    batches: Sequence[Feeds],
    first: Feeds,
    *,
    tapped_bytes: int,
    progress: Progress,
) -> None:
    """Add up the moments of all taps, in as many passes as the values of the first batch take.

    Args:
        traced: the model.
        into: what the moments of each batch are added to.
        batches: feeds, as many as entries of `into`.
        first: the first of all batches, also of those of other workers: each worker then makes the same passes.
        tapped_bytes: of the values that one run returns.
        progress: called before each step.
    """
    taps = into[0]
    model, replay, values = traced.model, Replay(traced.model, batches), ConstantValues(traced.model)
    made = {name: place for place, index in enumerate(model.top) for name in model.nodes[index].outputs}
    passes = list(_passes(traced, sorted(taps, key=lambda tap: made.get(tap.value, -1)), first, tapped_bytes))
    for number, pass_taps in enumerate(passes):
        progress(_LOOKING, number + 1, len(passes))
        start = min(made.get(tap.value, -1) for tap in pass_taps)
        if number and start > 0:
            with contextlib.suppress(ModelError):  # a sequence is alive there: it cannot be kept
                replay.advance(next(name for name in model.nodes[model.top[start - 1]].outputs if name))
        names = {name for tap in pass_taps for name in _read(traced, tap, values)}
        for moments, computed in zip(into, replay.run(names), strict=True):
            for tap in pass_taps:
                moments[tap].add(tap, _array(traced, tap, computed, values))
            computed.clear()  # before the next batch is run


def _passes(traced: Trace, taps: Sequence[_Tap], feeds: Feeds, tapped_bytes: int) -> Iterator[list[_Tap]]:
    """Yield the taps of each pass. Their sizes are those of the trace, scaled as the inputs are."""
    scale = max([array.size / max(1, _elements(traced, name)) for name, array in feeds.items()], default=1.0)
    pass_taps: list[_Tap] = []
    held = 0.0
    for tap in taps:
        size = 4 * scale * _elements(traced, tap.value)
        if pass_taps and held + size > tapped_bytes:
            yield pass_taps
            pass_taps, held = [], 0.0
        pass_taps.append(tap)
        held += size
    if pass_taps:
        yield pass_taps


def _elements(traced: Trace, name: str) -> int:
    return math.prod(axis.size for axis in traced.values.get(name, ()))


def _read(traced: Trace, tap: _Tap, values: ConstantValues) -> list[str]:
    """Return the names of the values that a tap is computed from: an encoded one also needs scales and zero points."""
    if tap.node is None:
        return [tap.value]
    inputs = traced.model.nodes[tap.node].inputs
    return [name for name in dict.fromkeys(inputs) if name and values.array(name) is None]


def _array(traced: Trace, tap: _Tap, computed: Mapping[str, Array], values: ConstantValues) -> Array:
    if tap.node is None:
        return computed[tap.value]
    coupling = traced.couplings[tap.node]
    arrays = [computed[name] if name in computed else values.array(name) for name in coupling.node.inputs]
    return coupling.encodings[tap.slot].decode(arrays)


def _statistics(
    traced: Trace, place: _Place, moments: _Moments, values: ConstantValues, totals: dict[tuple[int, ...], float]
) -> Seen:
    sums = moments.total, moments.square, moments.absolute, moments.positive
    mean, square, absolute, positive = (total / max(1, moments.count) for total in sums)
    sink, at = place.member.sink, place.at
    whole = multiplied(traced, sink, values)
    if whole is None:  # a weight that cannot be evaluated counts as it is stored
        weight = place.member.matrix(traced.model.array(place.member.constant))
    else:
        weight = by_unit(whole.transpose(place.order), 0, place.in_weight)
    statistics = Seen(weight, mean[at], square[at], absolute[at], positive[at], moments.count, 0.0)
    if whole is None or whole.shape[place.order[0]] != len(square):  # then these units stand for all
        return replace(statistics, energy=float(statistics.through(2, statistics.square).sum()) * len(square) / at.size)
    key = (*sink, place.order[0])
    if key not in totals:
        every = by_unit(whole, place.order[0], np.arange(len(square))[:, None])
        totals[key] = float(magnitudes(every, 2, 1)[:, 0] @ square)
    return replace(statistics, energy=totals[key])
