"""Where a rule works: one node, its axes, and what the rule says about them.

A rule is a function ``(Site) -> None``. It equates axes, gives the axes of every output, and records what a
later cut means for the node: which axes it contracts, how many MACs it does, and which sizes are written
back to its attributes and shape inputs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, SupportsIndex

import numpy as np

from onnxprune.dependency.axes import ONE, Axes, Axis, Lock, fresh
from onnxprune.dependency.partition import Partition
from onnxprune.dependency.rules.coupling import (
    NO_SIZES,
    Alone,
    Choice,
    Compensation,
    Coupling,
    Decoder,
    Encoding,
    Positions,
    Size,
    Write,
    dequantized,
)
from onnxprune.dependency.rules.match import Match
from onnxprune.errors import CannotUnify
from onnxprune.graph.model import Node
from onnxprune.graph.shapes.probe import Probe, Sizes
from onnxprune.graph.tensors import Array, Shape


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
        unread: Collection[str] = (),
        renumbered: Collection[int] = (),
        positions: dict[str, Positions] | None = None,
    ) -> None:
        self.node = node
        self.partition = partition
        self.coupling = Coupling(node, inputs, [None] * len(node.outputs))
        self._probe = probe
        self.body_inputs: dict[str, Axes] = {}  # axes of the inputs of bodies, by name
        self._look_up = look_up  # axes of a value inside a body
        self._sequences = {} if sequences is None else sequences  # of the trace: the axes of each tensor
        self._unread = unread  # names of outputs that nobody reads
        self._positions = {} if positions is None else positions  # of the trace: what values are positions on
        self.followed: set[int] = set()  # slots whose positions the rule follows
        self._renumbered = renumbered  # slots of tables whose rows may go: indices follow

    # -- what is there ----------------------------------------------------------------------------

    def has(self, slot: int) -> bool:
        """Whether an optional input is present."""
        return slot < len(self.node.inputs) and bool(self.node.inputs[slot])

    def is_read(self, index: int) -> bool:
        """Whether the node has an output that another node, a body or the graph's caller reads."""
        name = self.node.outputs[index] if index < len(self.node.outputs) else ""
        return bool(name) and name not in self._unread

    def needs(self, index: int) -> bool:
        """Whether an output gets axes: one that nobody reads does so where its shape is known."""
        known = self._probe.shape(self.node.outputs[index]) is not None
        return bool(self.node.outputs[index]) and (known or self.is_read(index))

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
        tensors = self._sequences.get(self.node.inputs[slot])
        if tensors is None:
            raise CannotUnify(f"the tensors of the sequence {self.node.inputs[slot]!r} are unknown")
        return tensors

    def output_sequence(self, tensors: Sequence[Sequence[Axis]]) -> None:
        """Give the axes of each tensor of the output."""
        self._sequences[self.node.outputs[0]] = tuple(tuple(axes) for axes in tensors)

    def give_inner(self, name: str, axes: Sequence[Axis]) -> None:
        """Give the axes of an input of a body."""
        self.body_inputs[name] = tuple(axes)

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

    def pick(self, slot: int, axis: Axis, reason: str) -> None:
        """Forbid cuts on an axis of an input whose positions mean something, unless indices follow: see `trace`."""
        if slot not in self._renumbered:
            self.lock(axis, reason)

    def choose(self, slot: int, dim: int, count: int, largest: bool = True) -> None:
        """Record that the op picks so many units along this axis of an input by their scores there.

        A removed unit counts as the one with the worst score: it is never picked while enough others are left. So
        what the op makes of picked units is summed over none of the others.
        """
        axis = self.axes(slot)[dim]
        if self.dtype(slot).kind not in "fV":
            self.lock(
                axis, f"{self.node.op} picks by {self.dtype(slot).name} numbers, none of which is below all others"
            )
            return
        self.coupling.chosen.append(Choice(slot, dim, count, largest))
        own = self.partition.resolve(axis)
        places = self.coupling.contracted
        places[:] = [(at, n) for at, n in places if self.partition.resolve(self.axes(at)[n]) != own]

    def picks_from(self, axis: Axis) -> bool:
        """Whether some op before this one picks units of an axis by their scores, and gives their positions."""
        own = self.partition.resolve(axis)
        return any(self.partition.resolve(each.axis) == own for each in self._positions.values())

    def take_alone(self, axis: Axis, unit: int, slot: int | None = None) -> None:
        """Record that what the op gives belongs to one unit of an axis alone; see `Alone`."""
        self.coupling.alone = Alone(axis, unit, slot)

    def spread(self, dim: int) -> None:
        """Record that the output has zeros, along a dim, for all units that were not picked."""
        self.coupling.spread = (*self.coupling.spread, dim)

    def give_positions(self, index: int, axis: Axis, reason: str) -> None:
        """Record that an output holds positions on an axis; whoever reads them as such follows its cuts."""
        self._positions[self.node.outputs[index]] = Positions(axis, Lock(reason, self.node.name))

    def positions(self, slot: int) -> Axis | None:
        """Return the axis on which the integers of an input are positions, and follow them; None for other integers."""
        found = self._positions.get(self.node.inputs[slot])
        if found is not None:
            self.followed.add(slot)
        return None if found is None else found.axis

    def mix(self, axis: Axis, verb: str = "normalises over") -> None:
        """Mark an axis as one over which the op mixes."""
        self.coupling.mixed.append(axis)
        self.partition.mix(axis, Lock(f"{self.node.op} {verb} it", self.node.name))

    def average(self, slot: int, dim: int, verb: str, factor: Axis | None = None) -> None:
        """Record that the op sums over this axis of an input, and divides by its size or by the root of the sum.

        Removed units count as zero, and change nothing for the others once `compensate` has put the count right.

        Args:
            slot: the input.
            dim: of the axis.
            verb: what the op does to it, in the words for its users.
            factor: of the axis, where the sum is over that alone.
        """
        axis = self.axes(slot)[dim] if factor is None else factor
        self.coupling.mixed.append(axis)
        self.coupling.is_exact = True
        self.contract(slot, dim)
        self.partition.average(axis, Lock(f"{self.node.op} {verb} it", self.node.name))

    def compensate(self, power: float, slot: int | None = None, epsilon: float | None = None) -> None:
        """Record what keeps the normalisation what it was; see `Compensation`.

        Whole numbers take no such factor, and what they are divided by is rounded: what was mixed over stays whole.
        """
        dtype = self.dtype(slot or 0).name
        if "float" in dtype:
            self.coupling.compensation = Compensation(power, slot, epsilon)
            return
        for axis in self.coupling.mixed:
            self.lock(axis, f"{self.node.op} divides {dtype} numbers by its size, and rounds them")

    def contract(self, slot: int, dim: int) -> None:
        """Record that the op sums over this axis: a removed unit counts as zero here."""
        if self.has(slot) and (slot, dim) not in self.coupling.contracted:
            self.coupling.contracted.append((slot, dim))

    def add(self, *slots: int, stacks_along: int | None = None) -> None:
        """Record inputs that the op adds up unit by unit, or puts side by side along a dim; see `Coupling`.

        Where one of them is what a layer makes of another, it is a stream that is added to; see `streams`.
        """
        self.coupling.addends = tuple(slot for slot in slots if self.has(slot))
        self.coupling.stacks_along = stacks_along

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
        decode = partial(dequantized, slot, scale, zero, dim)
        self.coupling.encodings[slot] = Encoding(decode, zero, dim, is_unscaled=scale is None)

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
        self, text: str, macs: str = "", *, sums: bool = False, sizes: Mapping[str, str | int] = NO_SIZES
    ) -> Mapping[str, Axis]:
        """Apply a line of the notation.

        Args:
            text: the line; see `dependency.pattern`.
            macs: letters whose sizes multiply to the multiply-accumulates.
            sums: whether the op sums over a letter that one input alone has.
            sizes: sizes that the shapes do not tell: a number, or the name of an attribute (default 1), to which
                the size is written back.

        Returns:
            The axis of every letter.
        """
        return Match(self, text, sizes, sums).run(macs.split())
