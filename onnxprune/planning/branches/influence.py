"""Block influence: how far a block turns the values of its stream.

Men et al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", equation 1: one minus
the mean cosine, over all positions of all samples, of the stream in front of a block and behind it. Blocks of low
influence go first, and nothing makes up for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from onnxprune.calibration.batches import Calibration
from onnxprune.dependency.blocks import Block, by_branch
from onnxprune.dependency.branches import nodes_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import Trace
from onnxprune.graph.linear import Layer, layers
from onnxprune.graph.tensors import Array
from onnxprune.planning.branches.depth import Shortening
from onnxprune.planning.work import atom_sizes, numbers
from onnxprune.progress import Progress, silent
from onnxprune.runtime.replay import Replay, in_parts
from onnxprune.runtime.stations import order_of

_AT_ONCE = 512 * 2**20  # bytes of streams of a batch that are looked at in one run
_LEAST_NORM = 1e-12


def by_influence(
    traced: Trace,
    each: Sequence[Block],
    able: Collection[str],
    goal: float,
    calibration: Calibration,
    *,
    progress: Progress = silent,
) -> Shortening:
    """Return the branches of the blocks of least influence that take no more than a goal.

    Args:
        traced: the model with its axes.
        each: its blocks.
        able: names of the branches that may go; a block goes as a whole or not at all.
        goal: multiply-accumulates of one sample that go at most.
        calibration: samples.
        progress: called before each step.

    Raises:
        ModelError: when the model cannot be run.
    """
    scores = influences(traced, each, calibration, progress=progress)
    macs, dead = NodeMacs(traced), set[int]()
    taken: list[Block] = []
    for number in sorted(range(len(each)), key=lambda number: (scores[number], number)):
        block = each[number]
        more = dead | nodes_of(block.branches)
        if all(branch.name in able for branch in block.branches) and macs.total(more) <= goal:
            taken.append(block)
            dead = more
    gone = {branch.name for block in taken for branch in block.branches}
    removed = tuple(branch for block in each for branch in block.branches if branch.name in gone)
    return Shortening(removed, scores=by_branch(each, scores))


def influences(
    traced: Trace, each: Sequence[Block], calibration: Calibration, *, progress: Progress = silent
) -> list[float]:
    """Return the influence of each block, from 0 (it turns nothing) to 2.

    Raises:
        ModelError: when the model cannot be run.
    """
    axes, order = ChannelAxes(traced), order_of(traced.model)
    sums, counts = np.zeros(len(each)), np.zeros(len(each), int)
    replay = Replay(traced.model, calibration.batches)
    done, sizes = 0, atom_sizes(traced, calibration.batches[0])
    walk = sorted(range(len(each)), key=lambda at: order.get(each[at].before, -1))  # chains may lie side by side
    bytes_each = [4 * sum(numbers(traced, name, sizes) for name in (each[at].before, each[at].behind)) for at in walk]
    for part in in_parts(bytes_each, _AT_ONCE):
        numbers_at_once = [walk[place] for place in part]
        names = dict.fromkeys(name for at in numbers_at_once for name in (each[at].before, each[at].behind))
        progress("looking at blocks", done, len(each))
        for values in replay.run(names):
            for at in numbers_at_once:
                block = each[at]
                alike = cosines(values[block.before], values[block.behind], axes.of(block))
                sums[at] += alike.sum()
                counts[at] += alike.size
        done += len(numbers_at_once)
        if done < len(walk) and each[walk[done]].before in order:
            replay.reach(each[walk[done]].before)  # what is still to be looked at is made there or later
    progress("looking at blocks", done, len(each))
    return [float(influence) for influence in 1 - sums / np.maximum(1, counts)]


def cosines(one: Array, other: Array, axis: int) -> Array:
    """Return the cosine of two values along an axis, float64, at each position of the others.

    >>> cosines(np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]]), 1).round(4).tolist()
    [0.7071]
    """
    one, other = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(one, axis=axis) * np.linalg.norm(other, axis=axis)
    return np.asarray((one * other).sum(axis) / np.maximum(norms, _LEAST_NORM))


class ChannelAxes:
    """Tells along which axis of a stream the numbers of one position lie: that which its layers write."""

    def __init__(self, traced: Trace) -> None:
        """Take a model with its axes."""
        self._traced = traced
        self._layers: Mapping[int, Layer] = {layer.node.index: layer for layer in layers(traced.model)}

    def of(self, block: Block) -> int:
        """Return the axis of the stream of a block; the last one where its layers do not tell."""
        stream = self._traced.axes(self._traced.values.get(block.behind, ()))
        for layer in self._from_the_end(block):
            made = self._traced.axes(self._traced.values.get(layer.node.outputs[0], ()))
            channels = made[1 if layer.window else -1] if len(made) > 1 else None
            alike = [dim for dim, axis in enumerate(stream) if axis == channels]
            if len(alike) == 1:
                return alike[0]
        return -1

    def _from_the_end(self, block: Block) -> Iterable[Layer]:
        """Yield the layers of a block, the last ones first."""
        for branch in reversed(block.branches):
            for index in reversed(branch.nodes):
                if index in self._layers:
                    yield self._layers[index]
