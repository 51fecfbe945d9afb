"""The sizes of many axes at once: axes are compiled to a few array operations, which any sizes of atoms go through.

Searches ask for the cost of thousands of plans. A dense network joins every earlier layer in each axis, so that a walk
along all axes would take the square of the depth for every one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.dependency.axes import ONE, Atom, Axes, Axis, Product, Sum

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Step:
    """Sums or products of places that are known by then, written to consecutive places."""

    combine: np.ufunc
    sources: npt.NDArray[np.intp]  # places, of one result after the other
    starts: npt.NDArray[np.intp]  # where the sources of each result begin
    first: int  # the place of the first result

    def run(self, places: Floats) -> None:
        end = self.first + len(self.starts)
        places[self.first : end] = self.combine.reduceat(places[self.sources], self.starts)


class Volumes:
    """The products of the sizes of axes, such as numbers in tensors, for any sizes of atoms.

    >>> a, b = Atom(4), Atom(3)
    >>> volumes = Volumes([(a, b), (Sum((a, b), 7),), ()], {})
    >>> volumes.at({}).tolist(), volumes.at({a: 2}).tolist()
    ([12.0, 7.0, 1.0], [6.0, 5.0, 1.0])
    """

    def __init__(self, axes_of: Iterable[Axes], fixed: Mapping[Atom, int]) -> None:
        """Compile the products.

        Args:
            axes_of: the resolved axes of each.
            fixed: sizes of atoms that hold where no others are given; of all the rest, their own do.
        """
        wholes: list[Axis] = [Product(axes, 0) if axes else ONE for axes in axes_of]
        self._place: dict[Axis, int] = {}
        levels = _by_level(wholes)
        for axis in (axis for level in levels for axis in level):
            self._place[axis] = len(self._place)
        self._sizes = np.array([_own(axis, fixed) for axis in self._place], np.float64)
        self._steps = [step for level in levels[1:] for step in self._compiled(level)]
        self._wholes = np.array([self._place[axis] for axis in wholes], np.intp)

    def at(self, sizes: Mapping[Atom, int]) -> Floats:
        """Return every product when atoms have the given `sizes`."""
        places = self._sizes.copy()
        for atom, size in sizes.items():
            place = self._place.get(atom)
            if place is not None:
                places[place] = size
        for step in self._steps:
            step.run(places)
        return places[self._wholes]

    def _compiled(self, level: Sequence[Axis]) -> Iterable[_Step]:
        """Yield the steps that compute a level, whose sums stand before its products."""
        for kind, combine in ((Sum, np.add), (Product, np.multiply)):
            axes = [axis for axis in level if isinstance(axis, kind)]
            if axes:
                sources = [[self._place[child] for child in _children(axis)] for axis in axes]
                starts = np.cumsum([0, *map(len, sources[:-1])])
                yield _Step(combine, np.concatenate(sources).astype(np.intp), starts, self._place[axes[0]])


def _children(axis: Axis) -> Axes:
    return axis.parts if isinstance(axis, Sum) else axis.factors if isinstance(axis, Product) else ()


def _own(axis: Axis, fixed: Mapping[Atom, int]) -> int:
    """Return the size of an atom, or of an axis that has none; others are computed."""
    return fixed.get(axis, axis.size) if isinstance(axis, Atom) else axis.size


def _by_level(wholes: Iterable[Axis]) -> list[list[Axis]]:
    """Return all axes in some axes: those without children, then those whose children stand before them, and so on.

    Of each level but the first, sums come first.
    """
    depth: dict[Axis, int] = {}

    def measure(axis: Axis) -> int:
        if axis not in depth:  # resolved axes nest no deeper than their size has bits
            depth[axis] = 1 + max(map(measure, _children(axis)), default=-1)
        return depth[axis]

    deepest = max(map(measure, wholes), default=0)
    levels: list[list[Axis]] = [[] for _ in range(deepest + 1)]
    for axis in sorted(depth, key=lambda axis: not isinstance(axis, Sum)):
        levels[depth[axis]].append(axis)
    return levels
