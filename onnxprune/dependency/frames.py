"""Frames: the directions in which the values of a stream are written once it is turned.

A stream, such as the hidden width of a transformer, is a vector x of units. Written in the directions of an orthogonal
matrix Q it is x Q, and what reads it can undo that: nothing is lost (Ashkboos et al. 2024, "SliceGPT", arXiv
2401.15024, section 3). A *frame* is such a Q; values that are added to one another share theirs. A value behind a scale
g and an offset b is ``u Qᵀ * g + b``, where u is what the turned graph has in its place.

What is here says what becomes of a graph; `dependency.turning` finds it, `surgery.rotation` does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxprune.dependency.axes import Atom
from onnxprune.graph.tensors import Array

SKIP = "com.microsoft.SkipLayerNormalization"
SIMPLE_SKIP = "com.microsoft.SkipSimplifiedLayerNormalization"
BIAS_OF_SKIP: Mapping[str, int] = {SKIP: 4, SIMPLE_SKIP: 3}


@dataclass(frozen=True)
class NormForm:
    """Where an operator that normalises has what."""

    scale: int  # slot
    offset: int | None  # slot
    centres: bool  # whether it subtracts the mean


NORMS: Mapping[str, NormForm] = {
    "LayerNormalization": NormForm(1, 2, centres=True),
    "RMSNormalization": NormForm(1, None, centres=False),
    "SimplifiedLayerNormalization": NormForm(1, None, centres=False),
    SKIP: NormForm(2, 3, centres=True),
    SIMPLE_SKIP: NormForm(2, None, centres=False),
}


@dataclass(frozen=True)
class State:
    """How a value is written: ``value = u Qᵀ * gain + offset``."""

    frame: int
    gain: Array | None = None  # [units], float64; None: 1
    offset: Array | None = None  # [units], float64; None: 0
    makers: tuple[int, ...] = ()  # numbers of the turns that alone make it, where it may still be scaled there
    squared: bool = False  # the squares of the units, for a sum of them
    has_mean: bool = True  # whether no mean over the units was subtracted

    @property
    def is_plain(self) -> bool:
        """Whether it is nothing but the vector in the frame."""
        return self.gain is None and self.offset is None and not self.squared


@dataclass(frozen=True)
class Turn:
    """A constant that is written in a frame, along one axis of it."""

    node: int
    slot: int
    dim: int
    frame: int
    reads: bool  # whether a layer sums over this axis; else units are made, or added
    gain: Array | None = None  # [units], by which the axis is multiplied as well


@dataclass(frozen=True)
class Shift:
    """What an offset in front of a layer adds to what the layer gives: its product with the weight."""

    node: int
    slot: int  # of the weight
    dim: int  # of the weight, which is summed over
    offset: Array  # [units]


@dataclass(frozen=True)
class Step:
    """A place where a stream goes on in another frame: a matrix stands on it there."""

    node: int
    slot: int
    source: int  # frames
    target: int


@dataclass(frozen=True)
class Signal:
    """A value that layers read: the vector in the stream's own directions is ``(value - offset) / gain``."""

    value: str
    dim: int
    gain: Array | None
    offset: Array | None


@dataclass
class Frames:
    """What becomes of a graph when one of its streams is turned; frames are numbers."""

    atom: Atom
    centred: bool = False  # whether the mean over the units is taken from what is written to the stream
    turns: list[Turn] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)
    norms: list[int] = field(default_factory=list)  # nodes, which become root mean squares without scale and offset
    steps: list[Step] = field(default_factory=list)
    instead: dict[str, str] = field(default_factory=dict)  # value -> the one that stands for it
    signals: dict[int, list[Signal]] = field(default_factory=dict)  # by frame
    values: dict[int, tuple[str, int]] = field(default_factory=dict)  # by frame, a value in it, and the dim of units


class Joins:
    """Frames that are found to be one: numbers, each with the one that it is joined with."""

    def __init__(self) -> None:
        self._parents: list[int] = []

    def new(self) -> int:
        """Return a new frame."""
        self._parents.append(len(self._parents))
        return len(self._parents) - 1

    def root(self, frame: int) -> int:
        """Return the number that all frames have that are one with this."""
        while self._parents[frame] != frame:
            frame = self._parents[frame]
        return frame

    def join(self, frames: Sequence[int]) -> int:
        """Let some frames be one, a new one where there are none; return it."""
        roots = sorted({self.root(frame) for frame in frames}) or [self.new()]
        for frame in roots[1:]:
            self._parents[frame] = roots[0]
        return roots[0]

    def finish(self, found: Frames) -> Frames:
        """Return what was found, each frame by the number of those that are one with it.

        One that no layer reads from is one with the next, or the last, with the one before it: there is nothing to
        choose its directions by.
        """
        steps = list[Step]()
        read = {self.root(frame) for frame in found.signals}
        for step in reversed(found.steps):
            if self.root(step.source) in read:
                steps.insert(0, step)
            elif self.root(step.target) in read:
                read.add(self.join((step.source, step.target)))
        for step in steps:
            if self.root(step.target) not in read:
                read.add(self.join((step.source, step.target)))
        steps = [replace(step, source=self.root(step.source), target=self.root(step.target)) for step in steps]
        signals: dict[int, list[Signal]] = {}
        for frame, each in found.signals.items():
            signals.setdefault(self.root(frame), []).extend(each)
        return replace(
            found,
            turns=[replace(turn, frame=self.root(turn.frame)) for turn in found.turns],
            steps=[step for step in steps if step.source != step.target],
            signals=signals,
            values={self.root(frame): value for frame, value in reversed(found.values.items())},
        )
