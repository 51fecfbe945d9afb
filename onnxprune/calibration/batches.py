"""Calibration: the batches that statistics, loss curves and reconstruction use, and the metric.

Samples are read batch by batch when they are needed. Every `HELD_EVERY`-th batch is *held out*: nothing is fitted to
it, and a fit to the others is kept only if it is better there. Batches hold samples that stand together, so that
several crops of one photo, one after the other, rarely fall on both sides. Of a single batch, rows are held out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from onnxprune.algebra.threads import cores_limited
from onnxprune.data.samples import Data, runs, taken_by
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.metrics.arrays import Function
from onnxprune.metrics.kinds import choose_metric
from onnxprune.metrics.metric import Metric
from onnxprune.runtime.replay import Batches, Feeds, Replay

HELD_EVERY = 4
BATCH = 16  # samples of a batch at most
BATCH_BYTES = 4 * 2**20  # of the inputs of a batch: its activations are many times as large
OUTPUT_BYTES = 128 * 2**20  # of the outputs of a batch: those of a language model are a number for each word
BATCHES = 8  # wanted at least, so that some can be held out
ROW_BLOCKS = 8  # that the rows of a single batch are divided into; whole ones are held out
ROWS_TO_DIVIDE = 64  # of a single batch, at least: fits to fewer are often worse than none, on other samples
JUDGED = 64  # held-out samples on which the loss of an output is measured, in whole batches
_TOLD = 2**12  # bytes, for each number that a model states, of one sample: positions that it leaves open, of 4 bytes
JUDGED_BYTES = 512 * 2**20  # of their outputs, where they are more than one batch


@dataclass(frozen=True, eq=False)
class Calibration:
    """The batches and the metric that a model is calibrated with."""

    batches: Sequence[Feeds]
    samples: int  # that the batches hold, copies that fill a batch up aside
    metric: Metric
    source: Literal["data", "generated"] = "data"
    description: str = ""  # of generated samples, in words
    evaluated: int = 0  # the last so many batches are of other data: these alone are held out
    counts: Sequence[int] = ()  # samples of each batch
    labels: Sequence[Array | None] = ()  # of the samples of each batch; none where there are none
    output_bytes: int = 0  # of the first batch
    batch_seconds: float = 0.0  # that the first batch took here, to tell how long a run may take; decides nothing

    @property
    def held(self) -> tuple[int, ...]:
        """The numbers of the batches that nothing is fitted to; none where there is but one batch."""
        count = len(self.batches)
        return tuple(range(count - self.evaluated, count)) if self.evaluated else held_out(count)

    @property
    def judged(self) -> tuple[int, ...]:
        """The numbers of the batches on which losses of an output are measured: held-out ones, if any."""
        each = max(1, self.samples // len(self.batches))
        most = max(1, JUDGED_BYTES // max(1, self.output_bytes))
        return self.held[: min(self.evaluated or -(-JUDGED // each), most)] or (0,)

    @property
    def judged_samples(self) -> int:
        """How many samples losses of an output are measured on."""
        return sum(self.counts[number] for number in self.judged)


@dataclass(frozen=True, eq=False)
class Taken(Batches):
    """Batches of samples, read on access."""

    data: Data
    runs: tuple[range, ...] = field(repr=False)  # of samples

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def counts(self) -> tuple[int, ...]:
        """The samples of each batch, copies aside that fill one up."""
        return tuple(map(len, self.runs))

    @property
    def labels(self) -> tuple[Array | None, ...]:
        """The labels of the samples of each batch."""
        return tuple(None if self.data.labels is None else self.data.labels[list(run)] for run in self.runs)

    def at(self, number: int) -> Feeds:
        """Return the samples of one run."""
        return self.data.piece(self.runs[number]).feeds


def batched(data: Data, size: int = BATCH) -> Taken:
    """Return the samples of `data` in batches of one shape and of `size` at most, `BATCHES` if there can be.

    Where the model fixes the number of samples, that is the size. Batches that lack some would have to be filled up
    with copies, which what is looked at between the nodes would count, so that they are left out, if there are others.
    """
    if data.batch.fixed is None:
        bytes_each = sum(array.nbytes for array in data.take([0]).values())
        size = max(1, min(size, BATCH_BYTES // max(1, bytes_each), data.count // BATCHES))
        return Taken(data, tuple(runs(data, size)))
    pieces = tuple(runs(data, data.batch.fixed))
    whole = tuple(run for run in pieces if len(run) == data.batch.fixed)
    return Taken(data, whole or pieces)


@dataclass(frozen=True, eq=False)
class Joined(Batches):
    """Batches of two sources, one after the other."""

    first: Sequence[Feeds]
    second: Sequence[Feeds]

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def at(self, number: int) -> Feeds:
        """Return a batch of the first source, or of the second behind it."""
        return self.first[number] if number < len(self.first) else self.second[number - len(self.first)]


def held_out(batches: int) -> tuple[int, ...]:
    """Return which of so many batches are held out.

    >>> held_out(9), held_out(2), held_out(1)
    ((3, 7), (1,), ())
    """
    if batches < HELD_EVERY:
        return (batches - 1,) if batches > 1 else ()
    return tuple(range(HELD_EVERY - 1, batches, HELD_EVERY))


def held_rows(count: int) -> npt.NDArray[np.bool_]:
    """Return which of the rows of a single batch are held out: every `HELD_EVERY`-th block; none where they are few.

    Blocks, because neighbouring rows are nearly alike: rows between those of a fit would not be independent of it.

    >>> np.flatnonzero(held_rows(64)).tolist() == [*range(24, 32), *range(56, 64)], held_rows(8).any()
    (True, np.False_)
    """
    if count < ROWS_TO_DIVIDE:
        return np.zeros(count, bool)
    return np.isin(np.arange(count) * ROW_BLOCKS // count, held_out(ROW_BLOCKS))


def accepted(model: Model, data: Data) -> Data:
    """Return samples with the number of them that `model` takes at once, as running it shows.

    Raises:
        ModelError: when the model cannot be run.
    """
    return taken_by(
        lambda feeds: next(Replay(model, [feeds]).run(model.tensor_outputs)), data, len(batched(data).runs[0])
    )


def calibration(
    model: Model,
    data: Data,
    metric: str | Function | None,
    *,
    source: Literal["data", "generated"] = "data",
    description: str = "",
    evaluated: Data | None = None,
) -> Calibration:
    """Return the batches and the metric that `model` is calibrated with.

    Args:
        model: the original.
        data: the samples; some batches of them are held out where `evaluated` is None.
        metric: on the outputs; None chooses one by their values, see `choose_metric`.
        source: whether the samples are the user's.
        description: of generated samples, in words.
        evaluated: other samples, held out instead of batches of `data`.

    Raises:
        ModelError: when the model cannot be run.
        DataError: when its outputs do not fit the metric.
    """
    size = _size(model, data)
    own, others = batched(data, size), None if evaluated is None else batched(evaluated, size)
    first = own[0]
    outputs, seconds = _timed(model, first, model.tensor_outputs)
    resolved_metric = choose_metric(outputs, first, None, metric)
    return Calibration(
        Joined(own, others) if others else own,
        sum(own.counts),
        resolved_metric,
        source,
        description,
        len(others or ()),
        (*own.counts, *(others.counts if others else ())),
        (*own.labels, *(others.labels if others else ())),
        sum(array.nbytes for array in outputs.values()),
        seconds,
    )


def _size(model: Model, data: Data) -> int:
    """Return how many samples a batch holds at most, by what its outputs take.

    Sizes that the model states are a lower bound; only where they are many is one sample run to know them all.
    """
    stated = sum(math.prod(dim for dim in port.shape or () if isinstance(dim, int)) for port in model.outputs)
    if stated * _TOLD * BATCH < OUTPUT_BYTES or data.batch.fixed is not None:
        return BATCH
    outputs = next(Replay(model, [batched(data, 1)[0]]).run(model.tensor_outputs))
    return max(1, min(BATCH, OUTPUT_BYTES // max(1, sum(array.nbytes for array in outputs.values()))))


def _timed(model: Model, batch: Feeds, names: Sequence[str]) -> tuple[dict[str, Array], float]:
    """Return the values of a batch, and the seconds of a run in a session that has run before."""
    with cores_limited(1):  # one run after the other
        runs = Replay(model, [batch]).run(names, (0, 0))
        outputs = next(runs)
        start = time.perf_counter()
        next(runs)
        return outputs, time.perf_counter() - start


def in_pieces(calibration: Calibration, numbers: Sequence[int], most: int) -> Iterator[Feeds]:
    """Yield the samples of some batches, at most so many at once where the model takes any number."""
    for number in numbers:
        batches = calibration.batches
        if isinstance(batches, Taken) and batches.data.batch.fixed is None:
            run = batches.runs[number]
            yield from (batches.data.piece(run[start : start + most]).feeds for start in range(0, len(run), most))
        else:
            yield batches[number]
