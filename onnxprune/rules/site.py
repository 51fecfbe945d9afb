"""Where a rule works: one node, its axes, and what the rule says about them.

A rule is a function ``(Site) -> None``. It equates axes, gives the axes of every output, and records what a
later cut means for the node: which axes it contracts, how many MACs it does, and which sizes are written
back to its attributes and shape inputs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, SupportsIndex, TypeAlias

import numpy as np

from onnxprune.axes import ONE, Axes, Axis, Lock, Partition, concat, fresh, product
from onnxprune.errors import CannotUnify
from onnxprune.model import Array, Node, Shape
from onnxprune.pattern import Group, Letter, Operand, Spread, Term, letters, parse
from onnxprune.probe import Probe, Sizes

Size: TypeAlias = "Axis | int | float | None"


NONE_GIVEN: Mapping[str, str | int] = {}


@dataclass(frozen=True, slots=True)
class Write:
    """Sizes that the node states and that must follow its axes.

    Each entry is an axis (its size is written), a number (written as it is: 0 and -1 have a meaning in Reshape, and
    the scale of an attention stays that of the original) or None (the entry keeps its value). Nothing is written while
    none of the axes, nor of `follows`, is cut.
    """

    target: int | str  # input slot or attribute
    sizes: tuple[Size, ...]
    scalar: bool = False  # the target is a single number, not a list
    drop: str | None = None  # an attribute that excludes the target, such as num_outputs of Split
    follows: Axes = ()  # axes behind entries that are literals or kept
    if_single: bool = False  # due only when a cut leaves one index of an axis
    absent: bool = False  # the target is left out: it is what the op takes without it
    index: tuple[int, ...] | None = None  # the target holds these positions on the one axis of `sizes`, not its size


Decoder: TypeAlias = Callable[[Sequence["Array | None"]], Array]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the numbers of an input are stored, where that is not as they are: quantized, or packed."""

    decode: Decoder  # from the arrays of the node's inputs to the real numbers, with the axes of this input
    zero: int | None = None  # slot of what stands for zero; None where 0 does
    dim: int = 0  # along which that lies if it is a vector


@dataclass(frozen=True, slots=True)
class Compensation:
    """What keeps a normalisation what it was when it goes over fewer units.

    Sums then go over the kept units, and are divided by the original count, as if the others were zero. With d units
    before and d' after: a mean is multiplied by d'/d; a scale behind a division by the deviation, by sqrt(d/d'), and
    the epsilon under the root by d/d'.
    """

    power: float  # of d/d', by which the scale, or the output, is multiplied
    slot: int | None = None  # the input that is the scale; None is the output itself
    epsilon: float | None = None  # default of the attribute epsilon, where there is one


@dataclass(slots=True)
class Coupling:
    """What is known of one node after its rule: the record that cost, masks and rewriting work from."""

    node: Node
    inputs: list[Axes | None]  # None where an input is absent or of unknown shape
    outputs: list[Axes | None] = field(default_factory=list)
    contracted: list[tuple[int, int]] = field(default_factory=list)  # (input slot, dim)
    hidden: list[tuple[int, int]] = field(default_factory=list)  # the same for weights whose units stay inside the op
    macs: list[Axes] = field(default_factory=list)  # the sizes of each multiply to multiply-accumulates; they add up
    channels: int | None = None  # the dim of the channels, in and out, of an op that convolves
    heads: Axes = ()  # of an op that attends
    head_dims: Axes = ()
    writes: list[Write] = field(default_factory=list)
    mixed: list[Axis] = field(default_factory=list)  # over which the op mixes
    compensation: Compensation | None = None
    encodings: dict[int, Encoding] = field(default_factory=dict)  # by input slot
    read: set[int] = field(default_factory=set)  # slots whose axes the rule took part in


def dequantized(slot: int, scale: int | None, zero: int | None, dim: int, inputs: Sequence[Array | None]) -> Array:
    """Return the real numbers of the input `slot`, float32; see `Site.encoded`."""
    stored = inputs[slot]
    assert stored is not None
    real: Array = stored.astype(np.float32)
    shift, factor = (inputs[at] if at is not None and at < len(inputs) else None for at in (zero, scale))
    if shift is not None:
        real = real - beside(shift.astype(np.float32), dim, real.ndim)
    return real if factor is None else real * beside(factor.astype(np.float32), dim, real.ndim)


def beside(vector: Array, dim: int, rank: int) -> Array:
    """Return a vector such that it lies along `dim` of `rank` dims, one per direction along the last; others as is."""
    if (
        vector.ndim == 2 and rank == 3
    ):  # of a recurrent layer: ``[directions, rows]`` for ``[directions, inputs, rows]``
        return vector[:, None, :]
    return vector.reshape(-1, *[1] * (rank - dim - 1)) if vector.ndim == 1 else vector


class Site:
    """One application of a rule to a node."""

    def __init__(
        self,
        node: Node,
        inputs: list[Axes | None],
        partition: Partition,
        probe: Probe,
        *,
        look_up: Callable[[str], Axes | None] = lambda _: None,
        sequences: dict[str, tuple[Axes, ...]] | None = None,
    ) -> None:
        self.node = node
        self.partition = partition
        self.coupling = Coupling(node, inputs, [None] * len(node.outputs))
        self._probe = probe
        self.given: dict[str, Axes] = {}  # axes of the inputs of bodies, by name
        self._look_up = look_up  # axes of a value inside a body
        self._sequences = {} if sequences is None else sequences  # of the trace: the axes of each tensor

    # -- what is there ----------------------------------------------------------------------------

    def has(self, slot: int) -> bool:
        """Whether an optional input is present."""
        return slot < len(self.node.inputs) and bool(self.node.inputs[slot])

    def axes(self, slot: int = 0) -> Axes:
        """Return the axes of an input; the rule takes responsibility for them."""
        self.coupling.read.add(slot)
        axes = self.coupling.inputs[slot] if slot < len(self.coupling.inputs) else None
        if axes is None:
            raise CannotUnify(f"input {slot} is absent")
        return axes

    def rank(self, slot: int = 0) -> int:
        """Return the number of axes of an input, without taking part in them; 0 for one that is absent."""
        return len(self.coupling.inputs[slot] or ()) if slot < len(self.coupling.inputs) else 0

    def sizes(self, slot: int = 0) -> Shape:
        """Return the sizes of an input, without taking part in its axes."""
        return tuple(axis.size for axis in self.coupling.inputs[slot] or ()) if self.has(slot) else ()

    def dtype(self, slot: int) -> np.dtype[Any]:
        """Return the numpy type of an input."""
        return self._probe.dtype(self.node.inputs[slot])

    def dim(self, position: SupportsIndex, rank: int) -> int:
        """Return a position of an axis counted from the front.

        Raises:
            CannotUnify: when there is no such axis.
        """
        position = operator.index(position)
        if not -rank <= position < rank:
            raise CannotUnify(f"{self.node.op} names axis {position} of {rank} axes")
        return position % rank

    def length(self, slot: int) -> int:
        """Return the number of entries of an input that is a vector of sizes or positions."""
        shape = self._probe.shape(self.node.inputs[slot])
        return math.prod(shape) if shape is not None else 0

    def inner_sizes(self, name: str) -> list[Sizes]:
        """Return the sizes of a value inside a body under every setting of the probe."""
        return self._pairs(name)

    def inner(self, name: str) -> Axes:
        """Return the axes of a value inside a body."""
        axes = self._look_up(name)
        if axes is None:
            raise CannotUnify(f"the shape of {name!r} is unknown")
        return axes

    def sequence(self, slot: int) -> tuple[Axes, ...]:
        """Return the axes of each tensor of an input that is a sequence."""
        self.coupling.read.add(slot)
        found = self._sequences.get(self.node.inputs[slot])
        if found is None:
            raise CannotUnify(f"the tensors of the sequence {self.node.inputs[slot]!r} are unknown")
        return found

    def output_sequence(self, tensors: Sequence[Sequence[Axis]]) -> None:
        """Give the axes of each tensor of the output."""
        self._sequences[self.node.outputs[0]] = tuple(tuple(axes) for axes in tensors)

    def give_inner(self, name: str, axes: Sequence[Axis]) -> None:
        """Give the axes of an input of a body."""
        self.given[name] = tuple(axes)

    def input_sizes(self, slot: int) -> list[Sizes]:
        """Return the sizes of an input under every setting of the probe."""
        return self._pairs(self.node.inputs[slot])

    def output_sizes(self, index: int) -> list[Sizes]:
        """Return the sizes of an output under every setting of the probe."""
        return self._pairs(self.node.outputs[index])

    def _pairs(self, name: str) -> list[Sizes]:
        pairs = self._probe.sizes(name)
        if pairs is None:
            raise CannotUnify(f"the shape of {name!r} is unknown")
        return pairs

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute of the node."""
        return self.node.attrs.get(name, default)

    def value(self, slot: int) -> Array | None:
        """Return the value of an input if it is known and does not depend on dynamic dims."""
        return self._probe.static_value(self.node.inputs[slot]) if self.has(slot) else None

    def is_zero(self, slot: int) -> bool:
        """Whether an input is present and zero throughout, whatever its size."""
        return self.has(slot) and self.node.inputs[slot] in self._probe.zeros

    def entries(self, slot: int) -> list[int | None] | None:
        """Return a known integer input, None for entries that depend on dynamic dims."""
        return self._probe.static_entries(self.node.inputs[slot]) if self.has(slot) else None

    def numbers(self, slot: int) -> list[float | None] | None:
        """Return a known input of any type, None for entries that depend on dynamic dims."""
        return self._probe.static_numbers(self.node.inputs[slot]) if self.has(slot) else None

    def output_shape(self, index: int = 0) -> Shape:
        """Return the probe's shape of an output.

        Raises:
            CannotUnify: if it is unknown.
        """
        shape = self._probe.shape(self.node.outputs[index])
        if shape is None:
            raise CannotUnify(f"the shape of output {index} is unknown")
        return shape

    def is_static(self, dim: int, index: int = 0) -> bool:
        """Whether a dim of an output has the same size under every setting of the probe."""
        return self._probe.is_static(self.node.outputs[index], dim)

    def is_static_input(self, slot: int, dim: int) -> bool:
        """Whether a dim of an input has the same size under every setting of the probe."""
        return self._probe.is_static(self.node.inputs[slot], dim)

    # -- what a rule says -------------------------------------------------------------------------

    def output(self, axes: Sequence[Axis], index: int = 0) -> None:
        """Give the axes of an output; those of outputs that the node does not have are dropped."""
        if index < len(self.coupling.outputs):
            self.coupling.outputs[index] = tuple(axes)

    def made(self, dim: int, index: int = 0, name: str = "t") -> Axis:
        """Return a new locked axis for a dim whose size the op computes."""
        axis = self.new(dim, index, name)
        self.lock(axis, f"its size is computed by {self.node.op}")
        return axis

    def unknown(self, size: int, reason: str) -> Axis:
        """Return a new locked axis whose size is known at run time alone."""
        axis = fresh(size, "t", dynamic=True)
        self.lock(axis, reason)
        return axis

    def new(self, dim: int, index: int = 0, name: str = "x") -> Axis:
        """Return a new free axis for a dim of an output; see `lock_dynamic`."""
        return fresh(self.output_shape(index)[dim], name, dynamic=not self.is_static(dim, index))

    def lock_dynamic(self, axis: Axis) -> None:
        """Lock the dynamic atoms of an axis; static factors beside them, such as heads, stay free."""
        for atom in self.partition.atoms(axis):
            if atom.dynamic:
                self.lock(atom, "its size is known at run time alone")

    def unify(self, left: Axis, right: Axis) -> None:
        """Make two axes equal."""
        self.partition.unify(left, right)

    def lock(self, axis: Axis, reason: str) -> None:
        """Forbid cuts on an axis."""
        self.partition.lock(axis, Lock(reason, self.node.name))

    def mix(self, axis: Axis, verb: str = "normalises over") -> None:
        """Mark an axis as one over which the op mixes."""
        self.coupling.mixed.append(axis)
        self.partition.mix(axis, Lock(f"{self.node.op} {verb} it", self.node.name))

    def compensate(self, power: float, slot: int | None = None, epsilon: float | None = None) -> None:
        """Record what keeps the normalisation what it was; see `Compensation`."""
        self.coupling.compensation = Compensation(power, slot, epsilon)

    def contract(self, slot: int, dim: int) -> None:
        """Record that the op sums over this axis: a removed unit counts as zero here."""
        if self.has(slot) and (slot, dim) not in self.coupling.contracted:
            self.coupling.contracted.append((slot, dim))

    def hide(self, slot: int, dim: int) -> None:
        """Record that a weight makes units here which the same op sums over: it counts as zero for a removed one."""
        if self.has(slot):
            self.coupling.hidden.append((slot, dim))

    def encoded(self, slot: int, scale: int | None, zero: int | None, dim: int) -> None:
        """Record that an input stands for ``(stored - zero) * scale``.

        Args:
            slot: the input.
            scale: slot of the scale, None where it is applied later.
            zero: slot of the zero point.
            dim: along which both lie if they are vectors.
        """
        zero = zero if zero is not None and self.has(zero) else None
        rank = self.rank(slot)
        dim = dim % rank if rank else 0
        self.coupling.encodings[slot] = Encoding(partial(dequantized, slot, scale, zero, dim), zero, dim)

    def decoded(self, slot: int, decode: Decoder) -> None:
        """Record that the numbers of an input are stored otherwise; masks are not put there."""
        self.coupling.encodings[slot] = Encoding(decode)

    def write(
        self,
        target: int | str,
        *sizes: Size,
        scalar: bool = False,
        drop: str | None = None,
        follows: Axes = (),
        if_single: bool = False,
        absent: bool = False,
        index: tuple[int, ...] | None = None,
    ) -> None:
        """Record sizes that the node states in an attribute or an input; see `Write`."""
        self.coupling.writes.append(Write(target, sizes, scalar, drop, follows, if_single, absent, index))

    def macs(self, *axes: Axis) -> None:
        """Record axes whose sizes multiply to multiply-accumulates of the node; several products add up."""
        self.coupling.macs.append(axes)

    def broadcast(self, *operands: Axes) -> Axes:
        """Unify operands right-aligned by numpy's broadcasting and return the common axes."""
        rank = max(map(len, operands))
        result: list[Axis] = []
        for dim in range(1, rank + 1):
            common: Axis = ONE
            for axes in operands:
                axis = axes[-dim] if dim <= len(axes) else ONE
                if common.size == 1:
                    common = axis
                elif axis.size != 1:
                    self.unify(common, axis)
            result.insert(0, common)
        return tuple(result)

    def match(
        self, text: str, macs: str = "", *, sums: bool = False, sizes: Mapping[str, str | int] = NONE_GIVEN
    ) -> Mapping[str, Axis]:
        """Apply a line of the notation.

        Args:
            text: the line; see `onnxprune.pattern`.
            macs: letters whose sizes multiply to the multiply-accumulates.
            sums: whether the op sums over a letter that one input alone has.
            sizes: sizes that the shapes do not tell: a number, or the name of an attribute (default 1), to which
                the size is written back.

        Returns:
            The axis of every letter.
        """
        return _Match(self, text, sizes, sums).run(macs.split())


class _Match:
    """One line of the notation, being matched with the axes of a node."""

    def __init__(self, site: Site, text: str, sizes: Mapping[str, str | int], sums: bool) -> None:
        self.site = site
        self.sums = sums
        self.pattern = parse(text)
        self.sizes: dict[str, int] = {
            name: site.attr(given, 1) if isinstance(given, str) else given for name, given in sizes.items()
        }
        self.written = {name: given for name, given in sizes.items() if isinstance(given, str)}
        self.bound: dict[str, Axis] = {}
        self.spreads: dict[str, Axes] = {}
        # (slot, dim, entry, axis) for every entry of the inputs that is no spread
        self.pairs: list[tuple[int, int, Letter | Group, Axis]] = []

    def run(self, macs: list[str]) -> Mapping[str, Axis]:
        self._check_arity()
        for slot, operand in enumerate(self.pattern.inputs):
            if operand.entries is not None and self.site.has(slot):
                self._take(slot, operand)
        self._solve()
        for _, _, entry, axis in self.pairs:
            self._bind(entry, axis)
        for index, operand in enumerate(self.pattern.outputs[: len(self.site.node.outputs)]):
            if self.site.node.outputs[index]:
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
                given = axes[dim : dim + extra]
                known = self.spreads.get(entry.name)
                self.spreads[entry.name] = given if known is None else self.site.broadcast(known, given)
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
        """Build the axes of an output; what no input told is made by the op."""
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
                        self.site.lock(axis, f"{op} gives its positions a meaning")
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
            if other == slot and item.name in {found.name for found in letters(Operand((entry,)))}:
                self.site.contract(slot, dim)


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
