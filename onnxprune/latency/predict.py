"""Latency of a plan, predicted from measured kernels before the model is pruned.

Nodes that multiply are timed one by one at several sizes (`latency.kernels`); sizes between are interpolated. The time
of the others is proportional to the elements that they write. How the two add up to the time of the whole model is
fitted to a few pruned candidates, timed beside the original: the prediction is a fraction of the original's latency.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.dependency.axes import Atom, Axes, Axis, Mask, kept_mask, kept_size, walk
from onnxprune.dependency.cost import Counter, Term, Terms
from onnxprune.dependency.rules import Coupling, Write
from onnxprune.dependency.rules.coupling import Position
from onnxprune.dependency.trace import Trace
from onnxprune.graph.edit import Stated
from onnxprune.graph.forms.parts import Operand, stand
from onnxprune.graph.tensors import Array, Shape
from onnxprune.latency.kernels import Kernel

_ONE: Mapping[Atom, int] = MappingProxyType({})
FRACTIONS = (1.0, 0.8, 0.6, 0.4, 0.2)  # of the units of a group, at which nodes are timed
MOST_POINTS = 125  # of one node
MOST_NUMBERS = 64  # of an operand whose contents are kept
COUNTS = ("bool", "int32", "int64")  # types of lengths, positions, switches; fewer bits are quantized numbers
PULL = 1e-3  # of the ridge towards weights with which times simply add up

Sizes = Mapping[Atom, int]


@dataclass(frozen=True)
class Grid:
    """One node and the sizes at which it is timed."""

    node: int
    parts: tuple[tuple[Axis, ...], ...]  # axes whose sizes move together; one coordinate each
    marks: tuple[tuple[float, ...], ...]  # ascending coordinates, by part
    kernels: tuple[Kernel, ...]  # of all combinations, in the order of `itertools.product`
    macs: tuple[Axes, ...]

    def at(self, sizes: Sizes) -> tuple[float, ...]:
        """Return the coordinates of a plan: by part, the kept share."""
        return tuple(_share(axes, sizes) for axes in self.parts)


def _share(axes: Sequence[Axis], sizes: Sizes) -> float:
    return sum(kept_size(axis, sizes) for axis in axes) / max(1, sum(axis.size for axis in axes))


class Sizing:
    """The sizes of all tensors under a plan, for the inputs of one run."""

    def __init__(self, traced: Trace, shapes: Mapping[str, Shape]) -> None:
        """Take the sizes of dynamic dims from the shapes of values.

        Args:
            traced: the model with its axes.
            shapes: of values, for the inputs of the run; see `graph.shapes.probe.shapes_at`.
        """
        self.traced = traced
        self._shapes = shapes
        self.fixed: dict[Atom, int] = {}
        for name, axes in traced.values.items():
            for axis, size in zip(traced.axes(axes), shapes.get(name, ()), strict=False):
                if isinstance(axis, Atom) and axis.dynamic:
                    self.fixed[axis] = size

    def shape(self, name: str, axes: Axes, sizes: Sizes, moving: set[Atom]) -> Shape:
        """Return the shape of a value at these sizes of atoms."""
        known = self._shapes.get(name, ())
        return tuple(
            known[dim]
            if dim < len(known) and moving.isdisjoint(walk(axis))
            else kept_size(axis, {**self.fixed, **sizes})
            for dim, axis in enumerate(self.traced.axes(axes))
        )


def grids(sizing: Sizing, steps: Mapping[Atom, int], least: Mapping[Atom, int] = _ONE) -> list[Grid]:
    """Return the nodes that multiply, and the sizes at which they are to be timed.

    Args:
        sizing: sizes for the inputs of a run.
        steps: of the atoms that may lose units; fast kernels need multiples of it.
        least: units of some atoms that are kept at least, because the node picks so many of them; 1 by default.
    """
    traced = sizing.traced
    top = set(traced.model.top)
    couplings = (coupling for index, coupling in traced.couplings.items() if index in top)
    candidates = (_grid(coupling, sizing, steps, least) for coupling in couplings)
    return [grid for grid in candidates if grid is not None]


def _grid(coupling: Coupling, sizing: Sizing, steps: Mapping[Atom, int], least: Mapping[Atom, int]) -> Grid | None:
    if not can_stand_alone(coupling):
        return None
    parts = tuple(_parts(coupling, sizing.traced, set(steps)))
    levels: tuple[float, ...] = FRACTIONS
    while len(levels) ** len(parts) > MOST_POINTS and len(levels) > 2:
        levels = (levels[0], *levels[2:])
    marks, choices = [], []
    for axes in parts:
        atoms = [atom for atom in dict.fromkeys(a for axis in axes for a in walk(axis)) if atom in steps]
        at: dict[float, Sizes] = {}
        for level in levels:
            sizes = {atom: max(least.get(atom, 1), aligned(atom.size, level, steps[atom])) for atom in atoms}
            at.setdefault(_share(axes, sizes), sizes)
        order = sorted(at)
        marks.append(tuple(order))
        choices.append([at[mark] for mark in order])
    kernels = []
    for combination in itertools.product(*choices):
        sizes = {atom: size for each in combination for atom, size in each.items()}
        kernels.append(kernel_at(coupling, sizing, sizes, set(steps)))
    macs = tuple(sizing.traced.axes(axes) for axes in coupling.macs)
    return Grid(coupling.node.index, parts, tuple(marks), tuple(kernels), macs)


def can_stand_alone(coupling: Coupling) -> bool:
    """Whether a node multiplies, and is known well enough to be timed alone."""
    known = all(axes is not None or not name for name, axes in _operands(coupling))
    return bool(coupling.macs) and known and not coupling.node.bodies


def aligned(units: int, share: float, step: int) -> int:
    """Return a count near a share of the units that is a multiple of the step, or all of them.

    >>> aligned(64, 0.6, 16), aligned(20, 0.3, 8), aligned(20, 1.0, 8)
    (32, 8, 20)
    """
    if share >= 1:
        return units
    return min(units, max(step, int(share * units / step + 0.5) * step))


def _operands(coupling: Coupling) -> Iterator[tuple[str, Axes | None]]:
    return zip(coupling.node.inputs, coupling.inputs, strict=True)


def _parts(coupling: Coupling, traced: Trace, moving: set[Atom]) -> Iterator[tuple[Axis, ...]]:
    """Yield the axes of the operands that can change, those with common atoms together."""
    axes = {axis for _, operand in _operands(coupling) for axis in traced.axes(operand or ())}
    left = [(axis, {atom for atom in walk(axis) if atom in moving}) for axis in axes]
    left = sorted(((axis, atoms) for axis, atoms in left if atoms), key=lambda pair: (pair[0].size, str(pair[0])))
    while left:
        axis, atoms = left.pop(0)
        part = [axis]
        while more := [pair for pair in left if pair[1] & atoms]:
            left = [pair for pair in left if not pair[1] & atoms]
            part += [axis for axis, _ in more]
            atoms = atoms.union(*(shared for _, shared in more))
        yield tuple(part)


def kernel_at(coupling: Coupling, sizing: Sizing, sizes: Sizes, moving: set[Atom]) -> Kernel:
    """Return the kernel of a node at these sizes, as in a pruned model that keeps the first units.

    Args:
        coupling: the node.
        sizing: sizes for the inputs of a run.
        sizes: of atoms that lose units.
        moving: all atoms that may.
    """
    return _Cut(coupling, sizing, sizes, moving).kernel()


@dataclass(frozen=True)
class _Cut:
    """One node at some sizes."""

    coupling: Coupling
    sizing: Sizing
    sizes: Sizes
    moving: set[Atom]

    def kernel(self) -> Kernel:
        node, due = self.coupling.node, {write.target: write for write in self.coupling.writes if self._is_due(write)}
        pairs = enumerate(_operands(self.coupling))
        operands = [self._operand(name, axes, due.get(slot)) for slot, (name, axes) in pairs]
        attributes: dict[str, Stated] = {
            write.drop: None for write in due.values() if write.drop is not None and write.drop in node.attrs
        }
        for target, write in due.items():
            if isinstance(target, str):
                old = node.attrs.get(target)
                entries = self._entries(write, old if isinstance(old, list) else [old] * len(write.sizes))
                numbers = [entry or 0 for entry in entries]
                attributes[target] = numbers[0] if write.scalar else numbers
        return Kernel(stand(self.sizing.traced.model, node, operands, attributes))

    @cached_property
    def kept(self) -> dict[Atom, Mask]:
        """Masks of the kept units, of the atoms that lose some."""
        return {atom: np.arange(atom.size) < size for atom, size in self.sizes.items() if size < atom.size}

    def _mask(self, axis: Axis) -> Mask | None:
        """Return the mask of the kept positions of an axis, None for all of it."""
        resolved = self.sizing.traced.partition.resolve(axis)
        return None if self.kept.keys().isdisjoint(walk(resolved)) else kept_mask(resolved, self.kept)

    def _is_due(self, write: Write) -> bool:
        """Whether a cut changes sizes that the node states, as in `surgery.rewrite`."""
        masks = [self._mask(axis) for axis in (*write.axes, *write.follows)]
        cut = [int(mask.sum()) for mask in masks if mask is not None]
        return 1 in cut if write.if_single else bool(cut)

    def _entries(self, write: Write, old: Sequence[Any]) -> list[int | float | None]:
        return [
            before if size is None else size if isinstance(size, (int, float)) else self._size(size)
            for size, before in zip(write.sizes, old, strict=True)
        ]

    def _size(self, axis: Axis | Position) -> int:
        if isinstance(axis, Position):  # on an axis that keeps its first units
            return min(axis.index, self._size(axis.axis))
        return kept_size(self.sizing.traced.partition.resolve(axis), {**self.sizing.fixed, **self.sizes})

    def _operand(self, name: str, axes: Axes | None, write: Write | None) -> Operand | None:
        if not name or axes is None or (write is not None and write.absent):
            return None
        model, probe = self.sizing.traced.model, self.sizing.traced.probe
        dtype = model.constants[name].dtype if name in model.constants else probe.dtype(name)
        shape, content = self.sizing.shape(name, axes, self.sizes, self.moving), None
        if dtype.name in COUNTS:
            numbers = self._written(name, write) if write else self._numbers(name, axes, shape)
            shape, content = (shape, None) if numbers is None else (numbers.shape, numbers.astype(dtype).tobytes())
        return Operand(dtype.name, shape, name in model.fixed, content)

    def _written(self, name: str, write: Write) -> Array | None:
        """Return the sizes or positions that a node reads after the cut, None where they are not known."""
        value = self._value(name)
        if write.index is not None:
            (axis,) = write.axes
            mask, index = self._mask(axis), np.array(write.index)
            return index if mask is None else np.cumsum(mask)[index[mask[index]]] - 1
        if value is None:
            return None
        return np.array(self._entries(write, value.ravel().tolist()), np.int64).reshape(value.shape)

    def _numbers(self, name: str, axes: Axes, shape: Shape) -> Array | None:
        """Return the kept numbers of a small operand; None where they are not known."""
        value = self._value(name)
        if value is None or value.size > MOST_NUMBERS:
            return None
        if value.size and (value == value.flat[0]).all():  # it may have other sizes in this run
            return np.full(shape, value.flat[0]) if math.prod(shape) <= MOST_NUMBERS else None
        for dim, axis in enumerate(axes):
            mask = self._mask(axis)
            value = value if mask is None else value.compress(mask, axis=dim)
        return value if value.shape == shape else None

    def _value(self, name: str) -> Array | None:
        model = self.sizing.traced.model
        if name not in model.constants:
            return self.sizing.traced.probe.value(name)
        return model.array(name) if model.constants[name].count <= MOST_NUMBERS else None


# -- from times to a prediction --------------------------------------------------------------------------------


class Timed:
    """The time of the nodes that multiply under any plan, in ms, and the elements that the others write."""

    def __init__(
        self, sizing: Sizing, node_grids: Sequence[Grid], times: Mapping[str, float | None], *, by_timer: bool = False
    ) -> None:
        """Interpolate between times.

        Args:
            sizing: sizes for the inputs of a run.
            node_grids: the nodes, with the sizes at which they were timed.
            times: in ms, by key of a kernel; missing ones are estimated from MACs.
            by_timer: whether the user's timer tells the latency of models. Nodes are timed here, and it may stand for
                another machine: the bytes of the weights are a term as well, as that may read them slowly.
        """
        self._stored = Counter(sizing.traced) if by_timer else None
        self._sizing = sizing
        terms, self.unknown = [], 0
        tables = [self._table(grid, times) for grid in node_grids]
        known = [
            (self._macs(grid, {}), table) for grid, table in zip(node_grids, tables, strict=True) if table is not None
        ]
        rates = [float(table.flat[-1]) / max(1, macs) for macs, table in known]
        rate = float(np.median(rates)) if rates else 1e-6  # ms per multiply-accumulate
        for grid, table in zip(node_grids, tables, strict=True):
            atoms = frozenset(atom for axes in grid.parts for axis in axes for atom in walk(axis))
            if table is None:
                self.unknown += 1
                terms.append(Term(atoms, partial(self._by_macs, grid, rate)))
            else:
                terms.append(Term(atoms, partial(lookup, grid, table)))
        self._kernels = Terms(terms)
        self._elements = Terms(list(self._written({grid.node for grid in node_grids})))

    def _table(self, grid: Grid, times: Mapping[str, float | None]) -> npt.NDArray[np.float64] | None:
        times_ms = [times.get(kernel.key) for kernel in grid.kernels]
        if any(ms is None for ms in times_ms):
            return None
        return np.array(times_ms, np.float64).reshape([len(marks) for marks in grid.marks])

    def _by_macs(self, grid: Grid, rate: float, sizes: Sizes) -> float:
        return rate * self._macs(grid, sizes)

    def _macs(self, grid: Grid, sizes: Sizes) -> float:
        merged = {**self._sizing.fixed, **sizes}
        return float(sum(math.prod(kept_size(axis, merged) for axis in axes) for axes in grid.macs))

    def _written(self, multiplied: set[int]) -> Iterator[Term]:
        """Yield the elements that every other node writes."""
        traced = self._sizing.traced
        for index, coupling in traced.couplings.items():
            if index in multiplied:
                continue
            for name, axes in zip(coupling.node.outputs, coupling.outputs, strict=True):
                if name and axes is not None:
                    resolved = traced.axes(axes)
                    atoms = frozenset(atom for axis in resolved for atom in walk(axis))

                    def count(sizes: Sizes, name: str = name, axes: Axes = resolved) -> float:
                        return float(math.prod(self._sizing.shape(name, axes, sizes, set(sizes))))

                    yield Term(atoms, count)

    def features(self, sizes: Sizes) -> npt.NDArray[np.float64]:
        """Return the terms of a latency: a constant, the ms of the nodes that multiply, the elements of the others.

        By the user's timer, the bytes of the weights are the fourth.
        """
        read = [] if self._stored is None else [self._stored.count("size", sizes)]
        return np.array([1.0, self._kernels.total(sizes), self._elements.total(sizes), *read])


def lookup(grid: Grid, table: npt.NDArray[np.float64], sizes: Sizes) -> float:
    """Return the time of a node under a plan, interpolated linearly along every part."""
    values = table
    for marks, at in zip(grid.marks, grid.at(sizes), strict=True):
        high = int(np.searchsorted(marks, at))
        high = min(max(high, 1), len(marks) - 1) if len(marks) > 1 else 0
        if not high:
            values = values[0]
            continue
        low = high - 1
        share = (at - marks[low]) / (marks[high] - marks[low])
        values = values[low] * (1 - share) + values[high] * share  # also a little beyond the lowest mark
    return max(0.0, float(values))


@dataclass(frozen=True)
class Latency:
    """Predicts the latency of a plan, as a fraction of the original's."""

    timed: Timed
    weights: npt.NDArray[np.float64]  # of the features

    def fraction(self, sizes: Sizes) -> float:
        """Return the latency at these sizes of atoms, over that of the original."""
        return float(self.timed.features(sizes) @ self.weights)


def fitted(timed: Timed, candidates: Sequence[tuple[Sizes, float]], whole: float = 1.0) -> Latency:
    """Return the prediction that agrees best with candidates: sizes, and latency over the original's.

    Without cuts the latency is `whole`: another one than the original's where models are quantized before they are
    timed.

    A non-negative weight of each term is fitted to relative errors; a weak ridge towards times that simply add up
    decides where the candidates do not.
    """
    rows = np.array([timed.features({}), *(timed.features(sizes) for sizes, _ in candidates)])
    wanted = np.array([whole, *(fraction for _, fraction in candidates)])
    scale = np.maximum(rows[0], 1e-12)
    rows = rows / scale
    usual = whole * np.array([0.0, 0.9, 0.1, 0.0])[: len(scale)]
    weighted = np.vstack([rows / wanted[:, None], PULL * np.eye(len(scale))])
    return Latency(timed, _not_negative(weighted, np.concatenate([np.ones(len(rows)), PULL * usual])) / scale)


def _not_negative(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the least-squares solution without negative entries, by trying every set of entries that are zero."""
    best, solution = math.inf, np.zeros(a.shape[1])
    for used in itertools.product((True, False), repeat=a.shape[1]):
        columns = np.flatnonzero(used)
        if not len(columns):
            continue
        part = np.linalg.lstsq(a[:, columns], b, rcond=None)[0]
        error = float(np.sum((a[:, columns] @ part - b) ** 2))
        if (part >= 0).all() and error < best:
            best, solution = error, np.zeros(a.shape[1])
            solution[columns] = part
    return solution
