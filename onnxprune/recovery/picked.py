"""Picked rows: a layer of an expert sees the rows that are picked for it, which a pruned model picks otherwise.

What an expert answers is put back to the rows of all by their numbers. By the same numbers the rows that a layer has in
the original are told apart from those that it has in the pruned model: it is fitted to those that it has in both. Where
rows are put nowhere, their numbers are the positions of what counted: no axis is cut of that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.dependency.axes import Atom
from onnxprune.dependency.trace import Trace
from onnxprune.graph.model import Node
from onnxprune.graph.tensors import Array

_COUNTED = {"NonZero": 1}  # dims of outputs with as many indices as there are values that count
_SCATTERS = frozenset(("Scatter", "ScatterElements", "ScatterND"))  # of data, indices and updates


@dataclass(frozen=True)
class Rows:
    """Rows of a value that are picked by other values."""

    atom: Atom
    dim: int  # of the value
    numbers: str | None  # the value that numbers the rows in the whole; None where nothing does
    along: int  # dim of the numbers that has the rows
    traced: Trace

    def in_both(self, old: Mapping[str, Array], new: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return values of the original and the pruned model with the rows that both have, in the same order.

        Rows of the same number cannot be told apart: they are left out.
        """
        assert self.numbers is not None
        before, after = _codes(*(np.moveaxis(each[self.numbers], self.along, 0) for each in (old, new)))
        (numbers_old, of_old), (numbers_new, of_new) = map(_single, (before, after))
        _, *both = np.intersect1d(numbers_old, numbers_new, assume_unique=True, return_indices=True)
        places = of_old[both[0]], of_new[both[1]]
        taken_old, taken_new = (
            {name: self._taken(name, array, at, len(codes)) for name, array in values.items()}
            for values, at, codes in zip((old, new), places, (before, after), strict=True)
        )
        return taken_old, taken_new

    def _taken(self, name: str, array: Array, at: npt.NDArray[np.intp], count: int) -> Array:
        """Return some of the rows of a value; one that the original lacks has them where the layer has."""
        axes = self.traced.values.get(name)
        own = self.dim if axes is None else next(iter(_dims(self.traced, name, self.atom)), None)
        return array.take(at, axis=own) if own is not None and array.shape[own] == count else array


class Picked:
    """The rows that are picked in a model."""

    def __init__(self, traced: Trace) -> None:
        """Find what counts rows, and what numbers them."""
        self._traced = traced
        self._numbers: dict[Atom, tuple[str | None, int]] = {}
        top = set(traced.model.top)
        for node in traced.model.nodes:
            dim = _COUNTED.get(node.op)
            axes = traced.values.get(node.outputs[0]) if dim is not None else None
            if axes is not None and dim is not None:
                counted = traced.partition.resolve(axes[dim])
                is_one = node.index in top and isinstance(counted, Atom) and counted not in self._numbers
                positions = node.outputs[0] if is_one else None
                self._numbers.update(dict.fromkeys(traced.partition.atoms(counted), (positions, dim)))
            places = traced.values.get(node.inputs[1]) if node.op in _SCATTERS else None
            if places and _is_of_rows(node, len(places)):
                first = traced.partition.resolve(places[0])
                if isinstance(first, Atom) and first in self._numbers:
                    self._numbers[first] = node.inputs[1], 0

    @property
    def numbers(self) -> list[str]:
        """The values that number rows."""
        return [name for name, _ in self._numbers.values() if name is not None]

    def of(self, name: str) -> Rows | None:
        """Return the rows of a value that are picked; None where it has all that there are."""
        for atom, (numbers, along) in self._numbers.items():
            for dim in _dims(self._traced, name, atom):
                return Rows(atom, dim, numbers, along, self._traced)
        return None


def _dims(traced: Trace, name: str, atom: Atom) -> list[int]:
    """Return the dims of a value that have the indices of an axis."""
    return [dim for dim, axis in enumerate(traced.axes(traced.values.get(name, ()))) if axis is atom]


def _is_of_rows(node: Node, rank: int) -> bool:
    """Whether an op puts rows: its indices are positions on the first axis, and not on that of the columns."""
    return node.op == "ScatterND" or node.attrs.get("axis", 0) % rank == 0


def _single(codes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """Return the numbers that are there once, ascending, and their places."""
    numbers, places, counts = np.unique(codes, return_index=True, return_counts=True)
    return numbers[counts == 1], places[counts == 1]


def _codes(*several: Array) -> list[npt.NDArray[np.int64]]:
    """Return a number for each row of arrays of integers, the same for equal rows."""
    flat = [array.reshape(len(array), math.prod(array.shape[1:])) for array in several]
    if any((each != each[:, :1]).any() for each in flat):
        _, codes = np.unique(np.concatenate(flat), axis=0, return_inverse=True)
        return np.split(codes.ravel(), np.cumsum([len(each) for each in flat])[:-1])
    return [each[:, 0].astype(np.int64) if each.size else np.zeros(0, np.int64) for each in flat]
