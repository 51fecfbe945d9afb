"""How samples become what a model takes in one run: how many at once, along which axis, and what fills a run up.

Most models take any number of samples. Many exports fix it, mostly at one: samples then run in *pieces* of that
number. The last piece may lack samples; it is filled up with copies of its own, so that nothing is run that the data
do not hold, and what the model gives for the copies is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array

_ALIKE = 1e-3  # of the largest magnitude: copies and originals are not further apart, whatever kernels make of a place


@dataclass(frozen=True, slots=True)
class BatchSize:
    """How many samples a model takes in one run.

    >>> BatchSize().of(16), BatchSize(1).of(16), BatchSize(4).of(16)
    (16, 1, 4)
    """

    fixed: int | None = None  # always so many; None: as many as one likes

    def of(self, wanted: int) -> int:
        """Return the samples of a run where `wanted` would be right: the fixed number, if there is one."""
        return wanted if self.fixed is None else self.fixed

    @property
    def step(self) -> int:
        """The number that whole runs are multiples of."""
        return self.of(1)


OPEN = BatchSize()  # as many samples as one likes
ALONE = BatchSize(1)  # one after the other


def fixed_batches(inputs: Sequence[Port]) -> dict[str, int]:
    """Return by input the number of samples that the model takes at once, where it fixes it."""
    sizes = {port.name: port.shape[port.batch] for port in inputs if port.shape and port.batch is not None}
    return {name: dim for name, dim in sizes.items() if isinstance(dim, int)}


def batch_of(inputs: Sequence[Port]) -> BatchSize:
    """Return how many samples the inputs of a model take at once; where one of several fixes it, that number.

    >>> batch_of([Port("x", None, (1, 3, 224, 224))]), batch_of([Port("x", None, ("n", 3))])
    (BatchSize(fixed=1), BatchSize(fixed=None))
    """
    return BatchSize(next(iter(fixed_batches(inputs).values()), None))


def moved_axes(inputs: Sequence[Port]) -> dict[str, int]:
    """Return by input the axis along which samples lie, where it is not the first."""
    return {port.name: port.batch for port in inputs if port.batch and port.shape}


def is_shared(port: Port) -> bool:
    """Whether all samples share what an input takes: a scalar, or a tensor without an axis of samples."""
    return port.shape == () or port.batch is None


def sampled(array: Array, port: Port) -> Array:
    """Return what an input takes with its samples along the first axis."""
    return array if is_shared(port) or not port.batch else np.moveaxis(array, port.batch, 0)


def samples_in(feeds: Mapping[str, Array], inputs: Sequence[Port] = ()) -> int:
    """Return the samples of a batch, by the first input that has an axis of them; 1 where none has.

    Args:
        feeds: arrays by input name.
        inputs: of the model; those that are not among them have their samples along the first axis.

    >>> samples_in({"scale": np.float32(2), "x": np.zeros((4, 3))})
    4
    """
    axes = {port.name: port.batch for port in inputs}
    lengths = (
        array.shape[axis] for name, array in feeds.items() if array.ndim and (axis := axes.get(name, 0)) is not None
    )
    return next(lengths, 1)


# -- pieces ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Piece:
    """What goes into one run, and how many of its samples count; the others are copies that fill it up."""

    feeds: Mapping[str, Array]
    samples: int
    size: int  # of the run: samples and copies
    axes: Mapping[str, int | None] = field(default_factory=dict)  # of feeds: where samples lie; None: all share them

    @property
    def own_feeds(self) -> dict[str, Array]:
        """The feeds of this run without the copies."""
        return self.counting(self.feeds, self.axes)

    def counting(self, arrays: Mapping[str, Array], axes: Mapping[str, int | None]) -> dict[str, Array]:
        """Return feeds or outputs of this run without the copies; what does not lie by samples stays whole.

        Args:
            arrays: by name.
            axes: along which the samples of each lie, the first if it is not there; None where they do not.
        """
        if self.samples == self.size:
            return dict(arrays)
        return {name: self._cut(array, axes.get(name, 0)) for name, array in arrays.items()}

    def axes_of(self, outputs: Mapping[str, Array]) -> dict[str, int | None]:
        """Return the axis along which the samples of each output lie; None where no axis can be told.

        The copies tell: along that axis they give what the samples give that they are copies of. It is as long as the
        run, or the first and a multiple of that, as of patches or beams.
        """
        return {name: self._axis_of(array) for name, array in outputs.items()}

    def part(self, places: Array, samples: int, batch: BatchSize) -> Piece:
        """Return a run of some samples of this one.

        Args:
            places: of the samples in this run.
            samples: how many of them count.
            batch: how many samples the model takes at once; copies fill the run up.
        """
        taken = filled(places, batch.of(len(places)))
        feeds = {
            name: array if (axis := self.axes.get(name, 0)) is None else np.take(array, taken, axis)
            for name, array in self.feeds.items()
        }
        return Piece(feeds, samples, len(taken), self.axes)

    def _axis_of(self, array: Array) -> int | None:
        if self.samples == self.size:
            return 0
        axes = [axis for axis, length in enumerate(array.shape) if length == self.size]
        if array.size and array.ndim and len(array) > self.size and len(array) % self.size == 0:
            axes.append(0)
        gaps = [self._gap(array, axis) for axis in axes]
        return axes[int(np.argmin(gaps))] if gaps and min(gaps) < _ALIKE else None

    def _gap(self, array: Array, axis: int) -> float:
        """Return how far copies are from their originals along an axis, over the largest magnitude."""
        rows = np.moveaxis(array, axis, 0).reshape(self.size, -1)
        copies, originals = rows[self.samples :], rows[np.arange(self.samples, self.size) % self.samples]
        if array.dtype.kind in "OUS":
            return float((copies != originals).any())
        one, other = (np.nan_to_num(part.astype(np.float64)) for part in (copies, originals))
        largest = max(np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0), np.finfo(float).tiny)
        return float(np.abs(one - other).max(initial=0.0) / largest)

    def _cut(self, array: Array, axis: int | None) -> Array:
        if axis is None or axis >= array.ndim or array.shape[axis] % self.size:
            return array
        kept = array.shape[axis] // self.size * self.samples
        return array[(*[slice(None)] * axis, slice(kept))]


def filled(rows: Sequence[int] | Array, size: int) -> Array:
    """Return the samples of a run of `size`: those at `rows`, and these from the start again.

    >>> filled([4, 5, 6], 8).tolist()
    [4, 5, 6, 4, 5, 6, 4, 5]
    """
    return np.resize(np.asarray(rows, np.int64), max(size, len(rows)))


def blocks(count: int, size: int) -> Iterator[range]:
    """Yield the positions of `count` samples in runs of `size`; the last may be shorter."""
    yield from (range(start, min(start + size, count)) for start in range(0, count, size))
