"""A line of the notation matched with a node: letters get axes, unknown sizes are solved.

`Site.match` calls it; `dependency.pattern` explains the notation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from onnxprune.dependency.axes import ONE, Axes, Axis, concat, fresh, product
from onnxprune.dependency.pattern import Group, Letter, Operand, Spread, Term, letters, parse
from onnxprune.errors import CannotUnify

if TYPE_CHECKING:
    from onnxprune.dependency.rules.site import Site


class Match:
    """One line of the notation, being matched with the axes of a node."""

    def __init__(self, site: Site, text: str, sizes: Mapping[str, str | int], sums: bool) -> None:
        self.site = site
        self.sums = sums
        self.pattern = parse(text)
        self.sizes: dict[str, int] = {
            name: site.attr(source, 1) if isinstance(source, str) else source for name, source in sizes.items()
        }
        self.written = {name: source for name, source in sizes.items() if isinstance(source, str)}
        self.bound: dict[str, Axis] = {}
        self.spreads: dict[str, Axes] = {}
        # (slot, dim, entry, axis) for every entry of the inputs that is no spread
        self.pairs: list[tuple[int, int, Letter | Group, Axis]] = []

    def run(self, macs: list[str]) -> Mapping[str, Axis]:
        """Match all operands, write the outputs, note the MACs; return the axis of every letter."""
        self._check_arity()
        for slot, operand in enumerate(self.pattern.inputs):
            if operand.entries is not None and self.site.has(slot):
                self._take(slot, operand)
        self._solve()
        for _, _, entry, axis in self.pairs:
            self._bind(entry, axis)
        for index, operand in enumerate(self.pattern.outputs[: len(self.site.node.outputs)]):
            if self.site.needs(index):
                self.site.output(self._give(index, operand), index)
        self._mark()
        for name, attribute in self.written.items():
            self.site.write(attribute, self._letter(name), scalar=True)
        if macs:
            self.site.macs(*(axis for name in macs for axis in self._named(name)))
        return self.bound

    def _check_arity(self) -> None:
        node = self.site.node
        operands = self.pattern.inputs
        missing = [i for i, operand in enumerate(operands) if not operand.optional and not self.site.has(i)]
        if missing or len(node.inputs) > len(operands):
            raise CannotUnify(f"{node.op} has {len(node.inputs)} inputs, expected {self.pattern}")
        if len(node.outputs) > len(self.pattern.outputs):
            raise CannotUnify(f"{node.op} has {len(node.outputs)} outputs, expected {self.pattern}")

    def _take(self, slot: int, operand: Operand) -> None:
        """Pair the entries of an operand with the axes of the input; broadcast its spread."""
        axes, entries = self.site.axes(slot), operand.entries or ()
        spread = next((i for i, entry in enumerate(entries) if isinstance(entry, Spread)), None)
        extra = len(axes) - len(entries) + (spread is not None)
        if extra < 0 or (spread is None and extra):
            raise CannotUnify(f"input {slot} has {len(axes)} axes, expected '{operand}'")
        dim = 0
        for entry in entries:
            if isinstance(entry, Spread):
                spanned = axes[dim : dim + extra]
                known = self.spreads.get(entry.name)
                self.spreads[entry.name] = spanned if known is None else self.site.broadcast(known, spanned)
                dim += extra
            else:
                self.pairs.append((slot, dim, entry, axes[dim]))
                dim += 1

    def _solve(self) -> None:
        """Find the size of every letter: alone, as the cofactor of a product, as the rest of a sum."""
        pending = [(entry, axis.size) for _, _, entry, axis in self.pairs]
        while pending:
            left = [(entry, size) for entry, size in pending if not self._solve_entry(entry, size)]
            if len(left) == len(pending):
                raise CannotUnify(f"sizes of '{left[0][0]}' in '{self.pattern}' cannot be told from the shapes")
            pending = left

    def _solve_entry(self, entry: Term, size: int) -> bool:
        if isinstance(entry, Letter):
            if self._size(entry) not in (None, size):
                raise CannotUnify(f"'{entry.name}' is {self._size(entry)} and {size}")
            self.sizes[entry.name] = size
            return True
        unknown = [term for term in entry.terms if self._size(term) is None]
        known = [s for s in map(self._size, entry.terms) if s is not None]
        total = sum(known) if entry.is_sum else _product(known)
        if not unknown:
            if total != size:
                raise CannotUnify(f"'{entry}' is {total} and {size}")
            return True
        if len(unknown) > 1:
            return False
        if not entry.is_sum and (total == 0 or size % total):
            raise CannotUnify(f"'{entry}' has {size} indices, no multiple of {total}")
        return self._solve_entry(unknown[0], size - total if entry.is_sum else size // total)

    def _size(self, term: Term) -> int | None:
        if isinstance(term, Letter):
            return 1 if term.name == "1" else self.sizes.get(term.name)
        sizes = [self._size(inner) for inner in term.terms]
        known = [size for size in sizes if size is not None]
        return None if len(known) < len(sizes) else sum(known) if term.is_sum else _product(known)

    def _bind(self, entry: Letter | Group, axis: Axis) -> None:
        """Unify an entry with an axis; a letter met for the first time simply becomes it."""
        if isinstance(entry, Letter) and entry.name not in self.bound and entry.name != "1":
            self.bound[entry.name] = axis
        else:
            self.site.unify(self._build(entry), axis)

    def _build(self, term: Term) -> Axis:
        if isinstance(term, Group):
            return (concat if term.is_sum else product)(*map(self._build, term.terms))
        return ONE if term.name == "1" else self._letter(term.name)

    def _letter(self, name: str) -> Axis:
        if name not in self.bound:
            self.bound[name] = fresh(self.sizes[name], name)
        return self.bound[name]

    def _named(self, name: str) -> Axes:
        return self.spreads[name[1:]] if name.startswith("*") else (self._letter(name),)

    def _give(self, index: int, operand: Operand) -> Axes:
        """Build the axes of an output; a letter that no input has is made by the op."""
        shape = self.site.output_shape(index)
        entries = operand.entries or ()
        extra = len(shape) - sum(not isinstance(entry, Spread) for entry in entries)
        axes: list[Axis] = []
        for entry in entries:
            if isinstance(entry, Spread):
                if entry.name not in self.spreads:
                    dims = range(len(axes), len(axes) + extra)
                    self.spreads[entry.name] = tuple(self.site.made(d, index, entry.name) for d in dims)
                axes.extend(self.spreads[entry.name])
                continue
            if isinstance(entry, Letter) and entry.name != "1" and entry.name not in self.sizes:
                self.bound[entry.name] = self.site.made(len(axes), index, entry.name)
                self.sizes[entry.name] = shape[len(axes)]
            axes.append(self._build(entry))
        return tuple(axes)

    def _mark(self) -> None:
        """Record contractions; lock what one input alone has; apply ``~`` and ``!``."""
        op = self.site.node.op
        inside = [{item.name for item in letters(operand)} for operand in self.pattern.inputs]
        outside = {item.name for operand in self.pattern.outputs for item in letters(operand)}
        for slot, operand in enumerate(self.pattern.inputs):
            for item in letters(operand):
                present = item.name in (self.spreads if isinstance(item, Spread) else self.bound)
                if not present or item.name in outside or item.locked:
                    continue
                if sum(item.name in names for names in inside) == 1 and not self.sums:
                    for axis in self._axes_of(item):
                        self.site.pick(slot, axis, f"{op} gives its positions a meaning")
                elif not any(item.name in names for names in inside[slot + 1 :]):
                    self._contract(slot, item)
        for operand in (*self.pattern.inputs, *self.pattern.outputs):
            for item in letters(operand):
                for axis in self._axes_of(item) if item.mixed or item.locked else ():
                    if item.locked:
                        self.site.lock(axis, f"{op} gives its positions a meaning")
                    else:
                        self.site.mix(axis)

    def _axes_of(self, item: Letter | Spread) -> Axes:
        if isinstance(item, Spread):
            return self.spreads.get(item.name, ())
        return (self.bound[item.name],) if item.name in self.bound else ()

    def _contract(self, slot: int, item: Letter | Spread) -> None:
        for other, dim, entry, _ in self.pairs:
            if other == slot and item.name in {letter.name for letter in letters(Operand((entry,)))}:
                self.site.contract(slot, dim)


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
