"""Layer collapse: blocks go into the block in front of them, as long as the last values of the stream stay alike.

Yang et al. 2024, "LaCo: Large Language Model Pruning via Layer Collapse". A block takes over what the blocks behind
it have learned beside what it has itself, one after the other, and they are gone. The published code takes each
difference from what the block has taken over before, so that the weights of the last one are left, between the
normalisations of the first; equation 1 takes all from the block's own weights (W + sum of (W_k - W)), which grow with
each. Figures of the paper are those of its code, so here it is as there. From the last blocks to the first (algorithm
1), a merge is kept where the mean cosine of the end of the stream with the original's is above a threshold on a few
samples; the next one is tried `INTERVAL` blocks in front of it. Where there are several streams, such as those of an
encoder and a decoder, the end of each has to stay alike. The paper sets threshold and extent for each model by hand;
here the extent is given, and the threshold is the highest of `THRESHOLDS` at which so much goes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.calibration.batches import Calibration
from onnxprune.calibration.gradients import one_of
from onnxprune.data.batching import batch_of
from onnxprune.dependency.blocks import Block
from onnxprune.dependency.branches import nodes_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import Trace
from onnxprune.errors import NothingToPrune
from onnxprune.graph.linear import Layer, layers, why_no_layer
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view
from onnxprune.planning.branches.depth import Shortening
from onnxprune.planning.branches.influence import ChannelAxes, cosines
from onnxprune.progress import Progress, silent
from onnxprune.runtime.replay import Feeds, Replay
from onnxprune.surgery.depth import gated

MERGED = 4  # blocks that become one, at most: C of the paper, as for Llama 2
INTERVAL = 2  # blocks from one merge to the next: I
LOWEST = 1  # number of the first block that others may go into: L
SAMPLES = 5
THRESHOLDS = tuple(number / 100 for number in range(95, 0, -10))  # of the mean cosine, those that are tried


@dataclass(frozen=True)
class Collapsed:
    """A model some of whose blocks went into others."""

    left: tuple[int, ...]  # numbers of the blocks that are there, in order
    contents: Mapping[str, Array] = field(default_factory=dict)  # of the constants of those that others went into
    into: Mapping[int, int] = field(default_factory=dict)  # numbers of blocks that are gone, and where each went


def by_collapse(
    traced: Trace,
    each: Sequence[Block],
    able: Collection[str],
    goal: float,
    calibration: Calibration,
    *,
    progress: Progress = silent,
) -> Shortening:
    """Return the branches of the blocks that go into others, and the constants of these; arguments as `by_influence`.

    Raises:
        ModelError: when the model cannot be run.
        NothingToPrune: when no two blocks are alike, and when no merge leaves the stream alike.
    """
    collapser = _Collapser(traced, each, able, goal, calibration, progress)
    best = Collapsed(tuple(range(len(each))))
    for threshold in THRESHOLDS:
        result = collapser.run(threshold)
        if len(result.left) < len(best.left):
            best = result
        if not collapser.may_lose_more(best):
            break
    if not best.into:
        raise NothingToPrune(
            f"nothing to remove: {collapser.measured} merges were tried, and none leaves the end of the stream as much "
            f"as {THRESHOLDS[-1]:g} alike, the mean cosine with the original's"
        )
    into = {branch.name: each[target].name for number, target in best.into.items() for branch in each[number].branches}
    removed = tuple(branch for block in each for branch in block.branches if branch.name in into)
    return Shortening(removed, measured=collapser.measured, merged=into, contents=best.contents)


class _Collapser:
    def __init__(  # noqa: PLR0917 - as `by_collapse`
        self,
        traced: Trace,
        each: Sequence[Block],
        able: Collection[str],
        goal: float,
        calibration: Calibration,
        progress: Progress,
    ) -> None:
        self._traced, self._model, self._blocks, self._progress = traced, traced.model, each, progress
        self._macs, self._goal = NodeMacs(traced), goal
        self._weights = Weights(traced, each)
        self._able = {number for number, block in enumerate(each) if all(one.name in able for one in block.branches)}
        if not any(self._may_follow(number, number + 1) for number in range(len(each) - 1)):
            raise NothingToPrune(f"no block can go into the one in front of it: {self._weights.why_none()}")
        branches = [branch for block in each for branch in block.branches]
        proto, self._gates = gated(self._model, branches, traced.probe.dtype)
        self._gated = view(proto, folder=self._model.folder, is_plain=True)
        self._samples = few(self._model, calibration)
        last, axes = {block.chain: block for block in each}.values(), ChannelAxes(traced)
        self._ends = {
            block.behind: axes.of(block) for block in last
        }  # the axis of the channels, by the end of a stream
        self._wanted = list(Replay(self._model, self._samples).run(self._ends))
        self._likeness: dict[tuple[tuple[int, int], ...], float] = {}
        self.measured = 0

    def run(self, threshold: float) -> Collapsed:
        """Return the model when merges are kept by a threshold, from the last block to the first of each chain."""
        now = Collapsed(tuple(range(len(self._blocks))))
        for chain in sorted({block.chain for block in self._blocks}, reverse=True):
            now = self._within(now, chain, threshold)
        return now

    def _within(self, now: Collapsed, chain: int, threshold: float) -> Collapsed:
        """Return the model with merges in a chain."""
        first, end = self._span(now, chain)
        lowest = min(first + LOWEST, end - 2)
        place = max(lowest, end - MERGED)
        while place >= max(first, lowest) and self.may_lose_more(now):
            tried = self._merged(now, place)
            if tried is not None and self._alike(tried) > threshold:
                now = tried
                place = min(place - INTERVAL, self._span(now, chain)[1] - MERGED)
            else:
                place -= 1
        return now

    def _span(self, now: Collapsed, chain: int) -> tuple[int, int]:
        """Return the place of the first block of a chain, and that behind the last."""
        places = [at for at, number in enumerate(now.left) if self._blocks[number].chain == chain]
        return places[0], places[-1] + 1

    def may_lose_more(self, now: Collapsed) -> bool:
        """Whether one more block could go without more going than the goal."""
        return any(self._fits(now, [now.left[at + 1]]) for at in range(len(now.left) - 1) if self._follows(now, at, 1))

    def _merged(self, now: Collapsed, place: int) -> Collapsed | None:
        """Return the model when the blocks behind one go into it: as many as may; None where none may."""
        count = 0
        while count + 1 < MERGED and self._follows(now, place, count + 1):
            if not self._fits(now, now.left[place + 1 : place + count + 2]):
                break
            count += 1
        if not count:
            return None
        target, gone = now.left[place], now.left[place + 1 : place + 1 + count]
        contents = {name: array for name, array in now.contents.items() if name not in self._weights.names(gone)}
        contents |= self._weights.merged(target, gone, now.contents)
        left = tuple(number for number in now.left if number not in gone)
        return Collapsed(left, contents, {**now.into, **dict.fromkeys(gone, target)})

    def _follows(self, now: Collapsed, place: int, distance: int) -> bool:
        """Whether the block so far behind another one can go into it."""
        return place + distance < len(now.left) and self._may_follow(now.left[place], now.left[place + distance])

    def _may_follow(self, target: int, number: int) -> bool:
        alike = self._blocks[target].chain == self._blocks[number].chain and self._weights.alike(target, number)
        return alike and number in self._able

    def _fits(self, now: Collapsed, more: Sequence[int]) -> bool:
        """Whether no more goes than the goal with some more blocks."""
        gone = (self._blocks[number] for number in (*now.into, *more))
        return self._macs.total(nodes_of(branch for block in gone for branch in block.branches)) <= self._goal

    def _alike(self, now: Collapsed) -> float:
        """Return the mean cosine of the end of a stream with the original's, the least; not measured twice."""
        key = tuple(sorted(now.into.items()))
        if key not in self._likeness:
            self.measured += 1
            self._progress(f"merging blocks: {len(now.into)} of {len(self._blocks)} gone, attempt {self.measured}")
            self._likeness[key] = self._mean_cosine(now)
        return self._likeness[key]

    def _mean_cosine(self, now: Collapsed) -> float:
        gone = [branch for number in now.into for branch in self._blocks[number].branches]
        closed = {self._gates[one.name]: np.zeros((), self._traced.probe.dtype(one.value)) for one in gone}
        replay = Replay(self._gated, self._samples)
        replay.contents = {**now.contents, **closed}
        each = [
            [cosines(wanted[end], found[end], axis).mean() for end, axis in self._ends.items()]
            for wanted, found in zip(self._wanted, replay.run(self._ends), strict=True)
        ]
        return float(np.min(np.mean(each, axis=0)))


class Weights:
    """The matrices and biases of the layers of blocks, in order, so that those of two blocks lie side by side."""

    def __init__(self, traced: Trace, each: Sequence[Block]) -> None:
        """Take a model and its blocks."""
        self._model, self._macs = traced.model, NodeMacs(traced).of
        known = {layer.node.index: layer for layer in layers(traced.model)}
        self._blocks_of: dict[str, set[int]] = {}  # numbers of the blocks that read a weight
        for number, block in enumerate(each):
            for name in (name for branch in block.branches for at in branch.nodes for name in self._weights_of(at)):
                self._blocks_of.setdefault(name, set()).add(number)
        self._of = [self._layers(block, known) for block in each]
        self._forms = [[*map(self._form, self._all(number)), self._shared(block)] for number, block in enumerate(each)]

    def _weights_of(self, index: int) -> list[str]:
        return self._model.weights_of(index) if self._macs(index) else []

    def _shared(self, block: Block) -> tuple[str, ...]:
        """Return the weights of a block that others read as well, in order: they stay as they are."""
        read = (name for branch in block.branches for at in branch.nodes for name in self._weights_of(at))
        return tuple(name for name in read if len(self._blocks_of[name]) > 1)

    def _layers(self, block: Block, known: Mapping[int, Layer]) -> list[Layer] | str:
        """Return the layers of a block, or why its weights cannot be told from those of others."""
        found = list[Layer]()
        others = list[int]()  # nodes with weights that are no such layers
        for index in (index for branch in block.branches for index in branch.nodes):
            if index in known:
                found.append(known[index])
            elif self._weights_of(index):
                others.append(index)
        own = [at for at in others if any(len(self._blocks_of[name]) < 2 for name in self._weights_of(at))]
        for index in own or (() if found else others):
            node = self._model.nodes[index]
            why = why_no_layer(node, self._model)
            return f"node {node.name!r} ({node.op}) cannot be merged with another one: {why}"
        return found

    def names(self, numbers: Collection[int]) -> set[str]:
        """Return the constants of some blocks."""
        return {name for number in numbers for layer in self._all(number) for name in layer.constants}

    def alike(self, one: int, other: int) -> bool:
        """Whether two blocks have layers of the same operators and shapes, in the same order, and share the rest."""
        return bool(self._all(one)) and self._forms[one] == self._forms[other]

    def merged(self, target: int, gone: Sequence[int], contents: Mapping[str, Array]) -> dict[str, Array]:
        """Return the constants of a block that others go into: W + (W_k - W) for one after the other, the last W_k.

        Args:
            target: number of the block.
            gone: numbers of the others, in order.
            contents: constants that hold other numbers than in the model.
        """
        merged = dict[str, Array]()
        for own, last in zip(self._all(target), self._all(gone[-1]), strict=True):
            for name, other in zip(own.constants, last.constants, strict=True):
                known = contents.get(other)
                merged[name] = self._model.array(other) if known is None else known
        return merged

    def why_none(self) -> str:
        """Return why no two blocks are alike."""
        return next((each for each in self._of if isinstance(each, str)), "no two neighbours have layers alike")

    def _all(self, number: int) -> list[Layer]:
        each = self._of[number]
        return [] if isinstance(each, str) else each

    def _form(self, layer: Layer) -> tuple[object, ...]:
        shapes = tuple(self._model.constants[name].shape for name in layer.constants)
        return layer.node.op, layer.transposed, layer.window, layer.groups, shapes


def few(model: Model, calibration: Calibration) -> list[Feeds]:
    """Return a few samples, one at a time; whole batches where the model takes no single ones."""
    if batch_of(model.inputs).fixed is not None:
        return [calibration.batches[0]]
    places = [(number, at) for number, count in enumerate(calibration.counts) for at in range(count)]
    taken = [places[int(at)] for at in np.unique(np.linspace(0, len(places) - 1, SAMPLES).round())]
    return [one_of(calibration.batches[number], model, at) for number, at in taken]
