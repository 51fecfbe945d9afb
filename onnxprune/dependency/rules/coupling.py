"""What a rule records for each node: contracted axes, sizes to write back, scales to keep.

Costs, masks and rewriting work from these records and need no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from onnxprune.dependency.axes import Axes, Axis, Lock
from onnxprune.graph.model import Node
from onnxprune.graph.tensors import Array

Size: TypeAlias = "Axis | Position | int | float | None"
NO_SIZES: Mapping[str, str | int] = {}


@dataclass(frozen=True, slots=True)
class Position:
    """A position on an axis, which moves with the cuts in front of it."""

    axis: Axis
    index: int  # before any cut; the size of the axis is the end of it


@dataclass(frozen=True, slots=True)
class Write:
    """Sizes that the node states and that must follow its axes.

    Each entry is an axis (its size is written), a position on an axis, a number (written as it is: 0 and -1 have a
    meaning in Reshape, and the scale of an attention stays that of the original) or None (the entry keeps its value).
    Nothing is written while none of the axes, nor of `follows`, is cut.
    """

    target: int | str  # input slot or attribute
    sizes: tuple[Size, ...]
    scalar: bool = False  # the target is a single number, not a list
    drop: str | None = None  # an attribute that excludes the target, such as num_outputs of Split
    follows: Axes = ()  # axes behind entries that are literals or kept
    if_single: bool = False  # due only when a cut leaves one index of an axis
    absent: bool = False  # the target is left out: it is what the op takes without it
    index: tuple[int, ...] | None = None  # the target holds these positions on the one axis of `sizes`, not its size

    @property
    def axes(self) -> Axes:
        """The axes that entries are sizes of, or positions on."""
        stated = (size.axis if isinstance(size, Position) else size for size in self.sizes)
        return tuple(axis for axis in stated if axis is not None and not isinstance(axis, (int, float)))


Decoder: TypeAlias = Callable[[Sequence["Array | None"]], Array]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the numbers of an input are stored, where that is not as they are: quantized, or packed."""

    decode: Decoder  # from the arrays of the node's inputs to the real numbers, with the axes of this input
    zero: int | None = None  # slot of what stands for zero; None where 0 does
    dim: int = 0  # along which that lies if it is a vector
    is_unscaled: bool = False  # whether `decode` leaves out the scale, which is applied behind the op


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


@dataclass(frozen=True, slots=True)
class Choice:
    """Where an op picks units by their scores: a removed unit has the worst score there, and is never picked."""

    slot: int
    dim: int  # of the scores
    count: int  # units that are picked
    largest: bool = True  # whether high scores are good ones


@dataclass(frozen=True, slots=True)
class Positions:
    """What the integers of a value are: positions on an axis."""

    axis: Axis
    lock: Lock  # of the axis, where somebody reads them in a way that does not follow cuts


@dataclass(frozen=True, slots=True)
class Alone:
    """Where an op takes what one unit has, and nothing of the others: all that it gives belongs to this unit."""

    axis: Axis  # of the units
    unit: int
    slot: int | None  # of the input that it is taken out of; None where it tells where the unit was picked


@dataclass(slots=True)
class Coupling:
    """What is known of one node after its rule: the record that cost, masks and rewriting work from."""

    node: Node
    inputs: list[Axes | None]  # None where an input is absent or of unknown shape
    outputs: list[Axes | None] = field(default_factory=list)
    contracted: list[tuple[int, int]] = field(default_factory=list)  # (input slot, dim)
    chosen: list[Choice] = field(default_factory=list)
    spread: tuple[int, ...] = ()  # dims of the output along which units that were not picked have zeros
    alone: Alone | None = None
    hidden: list[tuple[int, int]] = field(default_factory=list)  # the same for weights whose units stay inside the op
    macs: list[Axes] = field(default_factory=list)  # the sizes of each multiply to multiply-accumulates; they add up
    channels: int | None = None  # the dim of the channels, in and out, of an op that convolves
    heads: Axes = ()  # of an op that attends
    head_dims: Axes = ()
    writes: list[Write] = field(default_factory=list)
    mixed: list[Axis] = field(default_factory=list)  # over which the op mixes
    is_exact: bool = False  # whether units at zero change nothing there for the others, but for the count
    compensation: Compensation | None = None
    addends: tuple[int, ...] = ()  # slots of what is added up unit by unit, a product that the node makes itself aside
    stacks_along: int | None = (
        None  # a dim, where `addends` lie side by side: they are added up by whoever sums over it
    )
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
    """Return a vector in a shape that lies along `dim` of `rank` dims, or ``[directions, rows]`` along the last."""
    if vector.ndim == 2 and rank == 3:  # of a recurrent layer, whose weight is ``[directions, inputs, rows]``
        return vector[:, None, :]
    return vector.reshape(-1, *[1] * (rank - dim - 1)) if vector.ndim == 1 else vector
