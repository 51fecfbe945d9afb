"""The axis algebra: atoms, products and sums; `dependency.partition` unifies them.

An axis is an ordered composition of atoms. ``64`` channels are an `Atom`; a flattened ``C·H·W`` is
the `Product` ``(c h w)`` in row-major order; a concatenation is the `Sum` ``[a + b]``. Both nest: the fused
query, key and value of GPT-NeoX is ``(h [d + d + d])``.

Axes of size 1 carry no atom: they are the empty product `ONE`. Axes without indices are the empty sum `NONE`.

In normal form sums are flat, and every factor of a product has at least two indices. So a factor has half of the
indices of its product at most, and an axis nests no deeper than its size has bits: functions that call themselves on
resolved axes are safe. What atoms are bound to can be nested to any depth; only `Partition.resolve` looks at that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.errors import CannotUnify

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(eq=False, slots=True)
class Atom:
    """An indivisible run of indices; two atoms are the same only if they are the same object."""

    size: int  # number of indices, > 1
    name: str = "x"  # a letter for people, from the pattern that made it
    dynamic: bool = False  # whether the size is known at run time alone (`size` is then the probe's)


@dataclass(frozen=True, slots=True)
class Product:
    """Row-major composition: the last factor runs fastest. Build it with `product`."""

    factors: tuple[Axis, ...]
    size: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Sum:
    """Concatenation, first part first. Build it with `concat`."""

    parts: tuple[Axis, ...]
    size: int = field(compare=False)


Axis: TypeAlias = Atom | Product | Sum
Axes: TypeAlias = tuple[Axis, ...]
Pop: TypeAlias = Callable[[list[Axis]], Axis]
Cut: TypeAlias = Callable[[Axis, int], tuple[Axis, Axis]]
ONE = Product((), 1)
NONE = Sum((), 0)


def product(*factors: Axis) -> Axis:
    """Return the normal form of the row-major product of `factors`.

    Nested products are flattened, `ONE` is dropped, and a sum in front is distributed:
    ``([a + b] c)`` is ``[(a c) + (b c)]``. A product without indices is `NONE`.
    """
    flat: list[Axis] = []
    for axis in factors:
        if axis.size == 0:
            return NONE
        flat.extend(axis.factors if isinstance(axis, Product) else (axis,))
    if len(flat) == 1:
        return flat[0]
    if flat and isinstance(flat[0], Sum):
        return concat(*(product(part, *flat[1:]) for part in flat[0].parts))
    return Product(tuple(flat), math.prod(axis.size for axis in flat)) if flat else ONE


def concat(*parts: Axis) -> Axis:
    """Return the normal form of the concatenation of `parts`: flat, without empty parts."""
    flat: list[Axis] = []
    for axis in parts:
        flat.extend(axis.parts if isinstance(axis, Sum) else (axis,))
    if len(flat) == 1:
        return flat[0]
    return Sum(tuple(flat), sum(axis.size for axis in flat)) if flat else NONE


def fresh(size: int, name: str = "x", dynamic: bool = False) -> Axis:
    """Return a new free axis of `size` indices; sizes 1 and 0 need no atom.

    Raises:
        CannotUnify: for a negative size, which a damaged attribute may come to.
    """
    if size < 0:
        raise CannotUnify(f"an axis cannot have {size} indices")
    return ONE if size == 1 else NONE if size == 0 else Atom(size, name, dynamic)


def parts_reversed(axis: Axis) -> list[Axis]:
    """Return the parts of a sum from last to first; an axis of another kind alone."""
    return [*reversed(axis.parts)] if isinstance(axis, Sum) else [axis]


def walk(axis: Axis) -> Iterator[Atom]:
    """Yield the atoms of a resolved axis, left to right, once per occurrence."""
    if isinstance(axis, Atom):
        yield axis
        return
    for child in axis.factors if isinstance(axis, Product) else axis.parts:
        yield from walk(child)


def kept_mask(axis: Axis, kept: Mapping[Atom, Mask]) -> Mask:
    """Return which indices of a resolved axis survive, bool ``[axis.size]``.

    `kept` holds a bool ``[atom.size]`` for every atom that loses units. A sum concatenates, a product is
    the outer AND.
    """
    if isinstance(axis, Atom):
        mask = kept.get(axis)
        return np.ones(axis.size, bool) if mask is None else mask
    if isinstance(axis, Sum):
        whole, start = np.ones(axis.size, bool), 0
        for part in axis.parts:
            if part.size > 1:
                whole[start : start + part.size] = kept_mask(part, kept)
            start += part.size
        return whole
    mask = np.ones(1, bool)
    for factor in axis.factors:
        mask = np.logical_and.outer(mask, kept_mask(factor, kept)).ravel()
    return mask


def kept_size(axis: Axis, sizes: Mapping[Atom, int]) -> int:
    """Return the size of a resolved axis when its atoms have the given `sizes` (default: their own)."""
    if isinstance(axis, Atom):
        return sizes.get(axis, axis.size)
    if isinstance(axis, Sum):
        return sum(kept_size(part, sizes) for part in axis.parts)
    return math.prod(kept_size(factor, sizes) for factor in axis.factors)


def positions(axis: Axis, atom: Atom) -> npt.NDArray[np.intp]:
    """Return where the units of `atom` lie on a resolved axis, int ``[atom.size, occurrences]``; see `places`.

    >>> h, d = Atom(2, "h"), Atom(3, "d")
    >>> positions(product(h, d), d).tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    return places(axis).get(atom, np.empty((atom.size, 0), np.intp))


def places(axis: Axis) -> dict[Atom, npt.NDArray[np.intp]]:
    """Return where the units of every atom lie on a resolved axis, int ``[atom.size, occurrences]``, by one walk.

    >>> d = Atom(3, "d")
    >>> places(concat(d, d))[d].tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    if isinstance(axis, Atom):
        return {axis: np.arange(axis.size)[:, None]}
    by_atom: dict[Atom, list[npt.NDArray[np.intp]]] = {}
    if isinstance(axis, Sum):
        start = 0
        for part in axis.parts:
            for atom, inside in places(part).items():
                by_atom.setdefault(atom, []).append(inside + start)
            start += part.size
        return {atom: np.concatenate(parts, axis=1) for atom, parts in by_atom.items()}
    # A product: index = Σ digit·stride. Factors without the atom take every digit, factors with it only
    # the unit's; an atom that occurs in two factors would need both digits at once, so each occurrence counts.
    stride, outer = axis.size, 1
    for factor in axis.factors:
        stride //= factor.size
        high = np.arange(outer) * (axis.size // outer)
        low = np.arange(stride)
        for atom, inside in places(factor).items():
            index = high[None, :, None, None] + inside[:, None, :, None] * stride + low[None, None, None, :]
            by_atom.setdefault(atom, []).append(index.reshape(atom.size, -1))
        outer *= factor.size
    return {atom: np.concatenate(parts, axis=1) for atom, parts in by_atom.items()}


def outer_factors(axis: Axis) -> dict[Atom, set[Atom]]:
    """Return for every atom of a resolved axis the atoms that stand left of it in a product.

    >>> h, d = Atom(2, "h"), Atom(3, "d")
    >>> [atom.name for atom in outer_factors(product(h, d))[d]]
    ['h']
    """
    if isinstance(axis, Atom):
        return {axis: set()}
    left_of: dict[Atom, set[Atom]] = {}
    left: set[Atom] = set()
    for child in axis.factors if isinstance(axis, Product) else axis.parts:
        inside = outer_factors(child)
        for atom, outers in inside.items():
            left_of.setdefault(atom, set()).update((outers | left) - {atom})
        if isinstance(axis, Product):
            left.update(inside)
    return left_of


def taken(axis: Axis, sizes: Mapping[Atom, int]) -> dict[Atom, int]:
    """Return for every atom of a resolved axis how many indices its units take part in, at the given `sizes`.

    >>> h, d = Atom(2, "h"), Atom(3, "d")
    >>> taken(concat(product(h, d), d), {})[h], taken(concat(product(h, d), d), {d: 5})[d]
    (6, 15)
    """
    if isinstance(axis, Atom):
        return {axis: sizes.get(axis, axis.size)}
    counts: dict[Atom, int] = {}
    if isinstance(axis, Sum):
        for part in axis.parts:
            for atom, count in taken(part, sizes).items():
                counts[atom] = counts.get(atom, 0) + count
        return counts
    total = kept_size(axis, sizes)
    for factor in axis.factors:
        size = kept_size(factor, sizes)
        for atom, count in taken(factor, sizes).items():
            left = total - counts.get(atom, 0)  # what an occurrence in another factor has not taken already
            counts[atom] = counts.get(atom, 0) + left * count // max(1, size)
    return counts


@dataclass(frozen=True, slots=True)
class Lock:
    """Why an axis cannot be cut: one reason sentence and the node, input or output that gives it."""

    reason: str
    node: str

    def __str__(self) -> str:
        """Return the reason with its place, unless it ends with it: the input or output of the graph that it names."""
        return self.reason if self.reason.endswith(repr(self.node)) else f"{self.reason} (at {self.node})"
