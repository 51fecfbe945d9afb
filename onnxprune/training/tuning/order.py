"""The order in which samples are taken: every epoch another one, known from the seed and the number of the step alone.

A run that was ended goes on at its step; nothing of the order has to be stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.data.columns import Column
from onnxprune.data.samples import Data
from onnxprune.errors import OptionError
from onnxprune.graph.tensors import Array

_BLOCKS = 4  # that held-out samples are taken in: neighbours are often views of one photo
_HELD, _MOST_HELD = 8, 512  # one sample in so many is held out, but no more than that
_RUN = 2**31  # bytes that a run may keep for its backward pass
_USUAL, _LEAST, _LEARNED = 32, 4, 512  # samples of a step, and places of outputs that a step learns from
_PLACES, _FEWEST = 2**14, 64  # of the outputs that decide; samples that do, however many places each of them has


def held_out(data: Data) -> tuple[Data, Data]:
    """Return the samples to tune on and those that decide, in blocks that stand together; a single one is both.

    Of a model that takes several at once, blocks are whole runs.
    """
    step = data.batch.step
    runs = data.count // step
    if runs < 2:
        return data, data
    wanted = max(1, min(runs // _HELD, _MOST_HELD // step))
    blocks = min(_BLOCKS, wanted)
    each = wanted // blocks
    starts = [(number + 1) * runs // blocks - each for number in range(blocks)]
    held = np.concatenate([np.arange(start * step, (start + each) * step) for start in starts])
    return data.subset(np.setdiff1d(np.arange(data.count), held)), data.subset(held)


def deciding(held: Data, places: int) -> tuple[Data, Data | None]:
    """Return those of the held-out samples that are looked at, spread over all of them, and the others.

    Where each sample has many places (words, pixels), few samples say enough, and a look at all of them would take as
    long as a good part of a run. Of a model that takes several samples at once, whole runs are taken.

    Args:
        held: held-out samples.
        places: of the outputs of one sample.
    """
    step = held.batch.step
    runs, wanted = held.count // step, max(1, max(_FEWEST, _PLACES // places) // step)
    if wanted >= runs:
        return held, None
    taken = np.arange(wanted) * runs // wanted
    looked_at = (taken[:, np.newaxis] * step + np.arange(step)).ravel()
    return held.subset(looked_at), held.subset(np.setdiff1d(np.arange(runs * step), looked_at))


@dataclass(frozen=True)
class Order:
    """Which samples each step takes."""

    data: Data
    size: int  # samples of a run of the network
    runs: int  # of a step
    seed: int

    @cached_property
    def _classes(self) -> Array:
        """A number for each sample ``[samples]``: those of one shape have the same."""
        if not any(isinstance(column, Column) for column in self.data.columns.values()):
            return np.zeros(self.data.count, np.int64)
        shapes = [self.data.shapes(row) for row in range(self.data.count)]
        numbers = {shape: number for number, shape in enumerate(dict.fromkeys(shapes))}
        return np.array([numbers[shape] for shape in shapes])

    @cached_property
    def runs_of_epoch(self) -> int:
        """How many runs go once over all samples."""
        counts = np.bincount(self._classes)
        return int(sum(-(-count // self.size) for count in counts if count))

    @property
    def steps_of_epoch(self) -> int:
        """How many steps that takes."""
        return -(-self.runs_of_epoch // self.runs)

    def at(self, step: int) -> list[Array]:
        """Return the samples of each run of a step."""
        return [self._run(number) for number in range(step * self.runs, (step + 1) * self.runs)]

    def _run(self, number: int) -> Array:
        epoch, place = divmod(number, self.runs_of_epoch)
        return self._epoch(epoch)[place]

    def _epoch(self, epoch: int) -> list[Array]:
        if epoch in self._last:
            return self._last[epoch]
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(self.data.count)
        parts = [order[self._classes[order] == number] for number in np.unique(self._classes)]
        runs = [part[at : at + self.size] for part in parts for at in range(0, len(part), self.size)]
        if len(parts) > 1:
            runs = [runs[place] for place in rng.permutation(len(runs))]
        self._last.clear()
        self._last[epoch] = runs
        return runs

    @cached_property
    def _last(self) -> dict[int, list[Array]]:
        """The runs of the epoch that was drawn last."""
        return {}


def batch_of(asked: int | None, places: int) -> int:
    """Return the samples of a step.

    Where each has many places (words, pixels), few of them make a good gradient, and more steps fit into a time.

    Args:
        asked: what was asked for; None: the usual number.
        places: of the outputs of one sample, each of which is learned from.

    >>> batch_of(None, 1), batch_of(None, 64), batch_of(None, 128), batch_of(None, 10_000), batch_of(16, 10_000)
    (32, 8, 4, 4, 16)
    """
    return asked or min(_USUAL, max(_LEAST, _LEARNED // places))


def parts_of(batch: int, kept: int) -> int:
    """Return in how many runs a step is taken so that each keeps little for its backward pass.

    Args:
        batch: samples of a step.
        kept: bytes that a sample leaves for the backward pass.

    >>> parts_of(32, 2**20), parts_of(32, 2**28), parts_of(32, 2**40)
    (1, 4, 32)
    """
    return -(-batch // max(1, _RUN // max(1, kept)))


def order_of(data: Data, batch: int, accumulate: int, seed: int) -> Order:
    """Return the order in which samples are taken.

    Args:
        data: the samples.
        batch: of a step; where the model fixes how many it takes, a step has several runs.
        accumulate: runs of a step at least.
        seed: of the order.
    """
    batch = min(batch, data.count)
    size = data.batch.of(max(1, -(-batch // accumulate)))
    return Order(data, size, max(1, -(-batch // size)), seed)


def check_statistics(order: Order) -> None:
    """Make sure that runs have statistics to learn by.

    Raises:
        OptionError: when a run has one sample, or fewer than the model takes at once.
    """
    fixed = order.data.batch.fixed
    if fixed == 1:
        raise OptionError(
            "statistics of batches need several samples in a run, and the model takes one at once: export it with a "
            "free batch, or leave out statistics"
        )
    if order.size < 2:
        raise OptionError(
            "statistics of batches need several samples in a run, and runs have one: give a larger --batch, or a "
            "smaller --accumulate"
        )
    if order.data.count < order.size:
        raise OptionError(
            f"statistics of batches need {order.size} samples to learn from, as many as the model takes at once; there "
            f"are {order.data.count}"
        )
