"""Which axes are equal: a partition that unifies, splits and factors atoms.

Ops equate axes. `Partition.unify` makes two axes equal by binding atoms to finer compositions, as
Hindley-Milner inference binds type variables:

==================  ===============================================================================
unify               how
==================  ===============================================================================
atom ~ atom         one class
atom ~ composition  bind the atom
product ~ product   refine at the common boundaries of the cumulative products, innermost first
sum ~ sum           cut at the union of the boundaries
sum ~ product       cut the product's first factor at the sum's boundaries
cut in a product    on the first factor when the cut is a multiple of the rest; else the first
                    factor is expanded into a sum of copies of the rest
factor of a sum     if every part divides, the parts' outers and one common inner;
                    else the sum is cut into equal pieces that are one class
==================  ===============================================================================

>>> p = Partition()
>>> qkv, heads, dim = Atom(192, "qkv"), Atom(4, "h"), Atom(16, "d")
>>> p.unify(qkv, product(Atom(3), heads, dim))
>>> [p.show(piece) for piece in p.pieces(qkv, 64)]
['(h:4 d:16)', '(h:4 d:16)', '(h:4 d:16)']
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from onnxprune.dependency.axes import (
    NONE,
    ONE,
    Atom,
    Axis,
    Cut,
    Lock,
    Pop,
    Product,
    Sum,
    concat,
    fresh,
    parts_reversed,
    product,
    walk,
)
from onnxprune.errors import CannotUnify

Pairs: TypeAlias = Iterator[tuple[Axis, Axis]]
PIECES = 2**16  # into which one axis is cut at most: beyond that it is locked
SHOWN = 16  # parts of a sum that a message shows


class Partition:
    """The substitution built while tracing: what atoms are bound to, which are locked or mixed over.

    The only mutable object of the algebra. `locks` and `mixed` are kept for atoms that are not bound; when a
    locked atom is refined, its parts are locked for the same reason.
    """

    def __init__(self) -> None:
        self._bound: dict[Atom, Axis] = {}
        self._locks: dict[Atom, Lock] = {}
        self._mixed: dict[Atom, Lock] = {}
        self._averaged: dict[Atom, Lock] = {}
        self._normal: dict[int, tuple[Sum, Axis]] = {}  # normal forms of sums since the last binding, by id

    # -- looking ---------------------------------------------------------------------------------

    def resolve(self, axis: Axis) -> Axis:
        """Return `axis` in normal form, every bound atom replaced by what it is bound to."""
        if isinstance(axis, Atom):
            if axis not in self._bound:
                return axis
            target = self._target(axis)
            resolved = target if isinstance(target, Atom) else self._resolve_inside(target)
            self._bound[axis] = resolved
            return resolved
        return self._resolve_inside(axis)

    def _target(self, atom: Atom) -> Axis:
        """Return what a chain of atoms that are bound to each other ends in, and shorten the chain."""
        chain: list[Atom] = []
        axis: Axis = atom
        while isinstance(axis, Atom) and axis in self._bound:  # not by recursion: residual chains are long
            chain.append(axis)
            axis = self._bound[axis]
        for link in chain:
            self._bound[link] = axis
        return axis

    def _resolve_inside(self, axis: Product | Sum) -> Axis:
        if isinstance(axis, Sum):
            if id(axis) not in self._normal:
                parts = self._parts(axis)
                same = len(parts) == len(axis.parts) and all(map(operator.is_, parts, axis.parts))
                self._normal[id(axis)] = axis, axis if same else concat(*parts)
            return self._normal[id(axis)][1]
        factors = [self.resolve(factor) for factor in axis.factors]  # each has half of the indices at most
        return axis if all(map(operator.is_, factors, axis.factors)) else product(*factors)

    def _parts(self, axis: Sum) -> list[Axis]:
        """Return the parts of a sum in normal form; sums in it, which a file may nest to any depth, are opened."""
        parts: list[Axis] = []
        pending = parts_reversed(axis)
        while pending:
            part = pending.pop()
            part = self._target(part) if isinstance(part, Atom) else part
            part = self.resolve(part) if isinstance(part, Product) and part.factors else part
            if isinstance(part, Sum):
                pending.extend(reversed(part.parts))
            else:
                parts.append(part)
        return parts

    def atoms(self, axis: Axis) -> tuple[Atom, ...]:
        """Return the distinct unbound atoms of `axis`, left to right."""
        return tuple(dict.fromkeys(walk(self.resolve(axis))))

    def lock_of(self, atom: Atom) -> Lock | None:
        """Return why an unbound atom cannot be cut, or None if it is free."""
        return self._locks.get(atom)

    def mix_of(self, atom: Atom) -> Lock | None:
        """Return the op that mixes over an unbound atom, so that a cut is inexact; None if there is none."""
        return self._mixed.get(atom)

    def show(self, axis: Axis) -> str:
        """Return `axis` in the pattern notation, such as ``(h:12 d:64)``; a long sum without its middle."""
        axis = self.resolve(axis)
        if isinstance(axis, Atom):
            return f"{axis.name}:{axis.size}"
        if isinstance(axis, Product):
            return "(" + " ".join(map(self.show, axis.factors)) + ")" if axis.factors else "1"
        if len(axis.parts) <= SHOWN:
            return "[" + " + ".join(map(self.show, axis.parts)) + "]"
        ends = [" + ".join(map(self.show, parts)) for parts in (axis.parts[: SHOWN // 2], axis.parts[-SHOWN // 2 :])]
        return f"[{ends[0]} + ... + {ends[1]}]"

    # -- marking ---------------------------------------------------------------------------------

    def lock(self, axis: Axis, lock: Lock) -> None:
        """Forbid cuts on every atom of `axis`; the first reason stays."""
        for atom in self.atoms(axis):
            self._locks.setdefault(atom, lock)

    def mix(self, axis: Axis, lock: Lock) -> None:
        """Mark every atom of `axis` as mixed over: removing a unit is not the same as masking it."""
        for atom in self.atoms(axis):
            self._mixed.setdefault(atom, lock)

    def unmix(self, atom: Atom) -> None:
        """Take back that an atom is mixed over: who mixes knows of units that are never picked."""
        self._mixed.pop(atom, None)

    def average(self, axis: Axis, lock: Lock) -> None:
        """Mark every atom of `axis` as averaged over: units at zero count as if they were not there."""
        for atom in self.atoms(axis):
            self._averaged.setdefault(atom, lock)

    def averaged(self) -> dict[Atom, Lock]:
        """Return the unbound atoms that ops average over, with the first op of each."""
        return dict(self._averaged)

    def make_static(self, axis: Axis) -> None:
        """Replace the dynamic atoms of an axis whose size is known: factors of one number vary no more than it does."""
        for atom in self.atoms(axis):
            if atom.dynamic:
                self._bind(atom, Atom(atom.size, atom.name))

    # -- unification -----------------------------------------------------------------------------

    def unify(self, left: Axis, right: Axis) -> None:
        """Make two axes equal.

        Raises:
            CannotUnify: if they have no common refinement, unless both are locked: nothing of them is ever cut, so that
                they need none. What was unified before stays unified, which is safe (it only couples more); the caller
                locks what took part.
        """
        frames = [(left, right, self._pairs(left, right))]  # not by recursion: a file decides how deep sums nest
        while frames:
            try:
                pair = next(frames[-1][2], None)
            except CannotUnify as refusal:
                self._drop_refused(frames, refusal)
                continue
            if pair is None:
                frames.pop()
            else:
                frames.append((*pair, self._pairs(*pair)))

    def _drop_refused(self, frames: list[tuple[Axis, Axis, Pairs]], refusal: CannotUnify) -> None:
        """Give up the innermost pair that needs no refinement, with all inside of it; raise where none is left."""
        while frames:
            left, right, _ = frames.pop()
            if left.size == right.size and self.is_locked(left) and self.is_locked(right):
                return
        raise refusal

    def is_locked(self, axis: Axis) -> bool:
        """Whether no atom of an axis can be cut."""
        return all(atom in self._locks for atom in self.atoms(axis))

    def _pairs(self, left: Axis, right: Axis) -> Pairs:
        """Bind an atom, or yield the pairs of pieces that have to be unified instead."""
        left, right = self.resolve(left), self.resolve(right)
        if left is right or left == right:
            return
        if left.size != right.size:
            raise CannotUnify(f"{self.show(left)} and {self.show(right)} differ in size")
        if isinstance(left, Atom) and not (left.dynamic and isinstance(right, Atom)):
            self._bind(left, right)
        elif isinstance(right, Atom):
            self._bind(right, left)
        elif isinstance(left, Product) and isinstance(right, Product):
            yield from self._pairs_of_factors(left, right)
        else:  # a product or atom counts as a sum of one part
            yield from self._pairs_of_runs(parts_reversed(left), parts_reversed(right), self._pop_part, self.split)

    def split(self, axis: Axis, at: int) -> tuple[Axis, Axis]:
        """Cut `axis` as a sum; return its first `at` indices and the others.

        >>> p = Partition()
        >>> a = Atom(6, "a")
        >>> [p.show(part) for part in p.split(a, 2)], p.show(a)
        (['a:2', 'a:4'], '[a:2 + a:4]')
        """
        axis = self.resolve(axis)
        if at in (0, axis.size):
            return (NONE, axis) if at == 0 else (axis, NONE)
        if not 0 < at < axis.size:
            raise CannotUnify(f"{self.show(axis)} cannot be cut at {at}")
        if isinstance(axis, Atom):
            if axis.dynamic and at == axis.size - 1:  # the rest has other sizes too, and must not count as 1
                raise CannotUnify(f"{self.show(axis)} cannot be cut at {at}: it is dynamic")
            head, tail = fresh(at, axis.name), fresh(axis.size - at, axis.name, axis.dynamic)
            self._bind(axis, concat(head, tail))
            return head, tail
        if isinstance(axis, Product):
            return self._split_product(axis, at)
        start = 0
        for i, part in enumerate(axis.parts):
            if start + part.size > at:
                head, tail = self.split(part, at - start)
                return concat(*axis.parts[:i], head), concat(tail, *axis.parts[i + 1 :])
            start += part.size
        raise AssertionError("unreachable: `at` lies inside the axis")

    def factor(self, axis: Axis, inner: int) -> tuple[Axis, Axis]:
        """Write `axis` as a product whose inner factor has `inner` indices; return outer and inner.

        >>> p = Partition()
        >>> a = Atom(6, "a")
        >>> [p.show(part) for part in p.factor(a, 2)], p.show(a)
        (['a:3', 'a:2'], '(a:3 a:2)')
        """
        axis = self.resolve(axis)
        if inner in (1, axis.size):
            return (axis, ONE) if inner == 1 else (ONE, axis)
        if inner < 1 or axis.size % inner:
            raise CannotUnify(f"{self.show(axis)} is no multiple of {inner}")
        if isinstance(axis, Atom):
            high, low = fresh(axis.size // inner, axis.name, axis.dynamic), fresh(inner, axis.name)
            self._bind(axis, product(high, low))
            return high, low
        if isinstance(axis, Product):
            return self._factor_product(axis, inner)
        if all(part.size % inner == 0 for part in axis.parts):
            pairs = [self.factor(part, inner) for part in axis.parts]
            self._tie([low for _, low in pairs])
            return concat(*(high for high, _ in pairs)), pairs[0][1]
        pieces = self.pieces(axis, inner)
        self._tie(pieces)
        return concat(*[ONE] * len(pieces)), pieces[0]

    def pieces(self, axis: Axis, size: int) -> list[Axis]:
        """Cut `axis` into consecutive pieces of `size` indices each; the last one may be shorter.

        Raises:
            CannotUnify: if there would be more than `PIECES`.
        """
        self._check_pieces(axis, -(-axis.size // size))
        return self.cut(axis, range(size, axis.size, size))

    def cut(self, axis: Axis, at: Iterable[int]) -> list[Axis]:
        """Cut `axis` at increasing positions; return the pieces, one more than there are positions.

        >>> p = Partition()
        >>> [p.show(piece) for piece in p.cut(Atom(9, "a"), (2, 5))]
        ['a:2', 'a:3', 'a:4']
        """
        rest = parts_reversed(self.resolve(axis))
        pieces: list[Axis] = []
        start = 0
        for end in at:
            pieces.append(concat(*self._take(rest, end - start)))
            start = end
        return [*pieces, concat(*reversed(rest))]

    def _take(self, rest: list[Axis], size: int) -> Iterator[Axis]:
        """Take parts of `size` indices together off a list of parts, the first of them last."""
        while size:
            part = self._pop_part(rest)
            if part.size > size:
                part, behind = self.split(part, size)
                rest.append(behind)
            size -= part.size
            yield part

    def ones(self, axis: Axis) -> Axis:
        """Return an axis of as many single indices as `axis` has: each has a meaning of its own, and is never cut.

        Raises:
            CannotUnify: if there are more than `PIECES`.
        """
        self._check_pieces(axis, axis.size)
        return concat(*[ONE] * axis.size)

    # -- inside ----------------------------------------------------------------------------------

    def _bind(self, atom: Atom, axis: Axis) -> None:
        if atom in walk(axis):
            raise CannotUnify(f"{self.show(atom)} would contain itself in {self.show(axis)}")
        self._bound[atom] = axis
        self._normal.clear()
        lock, mixed, averaged = (marks.pop(atom, None) for marks in (self._locks, self._mixed, self._averaged))
        if lock:
            self.lock(axis, lock)
        if mixed:
            self.mix(axis, mixed)
        if averaged:
            self.average(axis, averaged)

    def _tie(self, axes: Iterable[Axis]) -> None:
        first, *others = axes
        for other in others:
            self.unify(first, other)

    def _check_pieces(self, axis: Axis, count: int) -> None:
        if count > PIECES:
            raise CannotUnify(f"{self.show(axis)} would be cut into {count:,} pieces, {PIECES:,} at most")

    def _pairs_of_factors(self, left: Product, right: Product) -> Pairs:
        def cut(axis: Axis, size: int) -> tuple[Axis, Axis]:
            outer, inner = self.factor(axis, size)
            return inner, outer

        yield from self._pairs_of_runs([*left.factors], [*right.factors], self._pop_factor, cut)

    def _pairs_of_runs(self, lefts: list[Axis], rights: list[Axis], pop: Pop, cut: Cut) -> Pairs:
        """Yield two runs piece by piece, from their ends; each pair is unified before the next is made.

        Args:
            lefts: one run, the next piece last.
            rights: the other run.
            pop: takes the next piece of a run.
            cut: takes a piece of some size off a piece; returns it and the rest.
        """
        while lefts and rights:
            a, b = pop(lefts), pop(rights)
            if a.size > b.size:
                a, rest = cut(a, b.size)
                lefts.append(rest)
            elif b.size > a.size:
                b, rest = cut(b, a.size)
                rights.append(rest)
            yield a, b

    def _pop_factor(self, factors: list[Axis]) -> Axis:
        """Take the innermost factor, in its present normal form."""
        last = self.resolve(factors.pop())
        if isinstance(last, Product):
            factors.extend(last.factors)
            return factors.pop() if last.factors else ONE
        return last

    def _pop_part(self, parts: list[Axis]) -> Axis:
        """Take the first part (lists are reversed), in its present normal form."""
        first = self.resolve(parts.pop())
        if isinstance(first, Sum):
            parts.extend(reversed(first.parts))
            return parts.pop()
        return first

    def _split_product(self, axis: Product, at: int) -> tuple[Axis, Axis]:
        first, rest = axis.factors[0], product(*axis.factors[1:])
        if at % rest.size == 0:
            head, tail = self.split(first, at // rest.size)
            return product(head, rest), product(tail, rest)
        if isinstance(first, Atom) and first.dynamic:
            raise CannotUnify(f"{self.show(axis)} cannot be cut at {at}: its first factor is dynamic")
        self.unify(first, self.ones(first))
        return self.split(axis, at)

    def _factor_product(self, axis: Product, inner: int) -> tuple[Axis, Axis]:
        outers = list(axis.factors)
        inners: list[Axis] = []
        size = 1
        while size < inner:
            last = outers.pop()
            if inner % (size * last.size):
                outer, last = self.factor(last, inner // size)
                outers.append(outer)
            inners.insert(0, last)
            size *= last.size
        return product(*outers), product(*inners)
