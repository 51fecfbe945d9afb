"""Depth: which branches go, by what the output loses without them after repair.

A branch that goes leaves a gap in its stream. The layer in front of the gap is refitted to the stream behind it, and so
are the layers that write to the stream next, each to what the original has there: only then is the output compared, on
held-out samples. What looks free by itself may cost much, and what looks dear may be mended, so nothing else decides.

All branches are measured once, each alone. Then they go in a few rounds: in each, those that cost least for what they
save are measured again beside what has gone, and the best of them go, no two neighbours in one round. The model is
replayed from front to back in each round, so that the cost grows with the depth and not with its square.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.algebra.threads import one_blas_thread
from onnxprune.calibration.batches import Calibration
from onnxprune.dependency.branches import Branch, origin
from onnxprune.dependency.trace import Trace
from onnxprune.errors import ModelError
from onnxprune.graph.linear import Layer, layers
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view
from onnxprune.planning.curves import EXPECTED_BYTES
from onnxprune.planning.work import atom_sizes, numbers
from onnxprune.progress import Progress, silent
from onnxprune.recovery.alone import refitted, wanted_rows
from onnxprune.runtime.beside import MOST, beside
from onnxprune.runtime.replay import KeptBatches, Replay
from onnxprune.runtime.rest import Rest
from onnxprune.surgery.depth import gated

BEHIND = 1  # layers behind a gap that are refitted before losses are measured
LOOKED = 2  # branches that are measured again for each that goes in a round
_FEWEST = 4  # that are measured again in a round, if there are so many
_LEAST_BATCHES = 4  # that layers are fitted to, if there are so many
_PLAIN = ("Add", "Sum")


@dataclass(frozen=True)
class Shortening:
    """Which branches go, and what was measured."""

    removed: tuple[Branch, ...]  # in the order of the graph
    alone: Mapping[str, float] = field(default_factory=dict)  # loss of the output without each branch, repaired
    measured: int = 0  # losses


class Chain:
    """Branches in order, the layers that they end with, and which of them lies directly in front of which."""

    def __init__(self, model: Model, branches: Sequence[Branch]) -> None:
        """Take branches of a model, in order."""
        self.branches = branches
        ends = {layer.output: layer for layer in layers(model)}
        self.layers = [ends.get(branch.value) for branch in branches]
        makers = {name: node for node in model.nodes for name in node.outputs if name}
        at = {branch.node: number for number, branch in enumerate(branches)}
        self._before: dict[int, int] = {}
        for number, branch in enumerate(branches):
            stream = origin(makers, model.nodes[branch.node].inputs[branch.other])
            maker = makers.get(stream)
            is_sum = maker is not None and stream in (maker.outputs if maker.op in _PLAIN else maker.outputs[3:])
            if maker is not None and is_sum and maker.index in at:
                self._before[number] = at[maker.index]
        self._after = {one: other for other, one in self._before.items()}

    def front(self, number: int, gone: Collection[int]) -> int | None:
        """Return the branch that writes to the stream in front of the gap that one leaves; None where none does."""
        at = self._before.get(number)
        while at is not None and at in gone:
            at = self._before.get(at)
        return at

    def end(self, number: int, gone: Collection[int]) -> int:
        """Return the last of the branches that are gone directly behind one; itself if there is none."""
        at = self._after.get(number)
        while at is not None and at in gone:
            number, at = at, self._after.get(at)
        return number

    def behind(self, number: int, gone: Collection[int]) -> list[int]:
        """Return the next branches that stay behind one, and end with layers."""
        later = range(number + 1, len(self.branches))
        return [at for at in later if at not in gone and self.layers[at] is not None][:BEHIND]

    def repaired(self, gone: Collection[int]) -> list[int]:
        """Return the branches whose layers are refitted where others are gone, in order."""
        fronts = {self.front(number, gone) for number in gone}
        behind = {at for number in gone for at in self.behind(number, gone)}
        return sorted(at for at in fronts | behind if at is not None and self.layers[at] is not None)


def _outputs_of(layer: Layer, model: Model) -> int:
    groups, outs, _ = layer.shape(model.constants[layer.weight].shape)
    return groups * outs


def fewer(traced: Trace, fitted: Sequence[Layer], calibration: Calibration, rows: int) -> Calibration:
    """Return a calibration with the batches that losses are measured on, and as many others as fits of layers need."""
    batches, judged = calibration.batches, calibration.judged
    others = [number for number in range(len(batches)) if number not in calibration.held]
    if len(batches) < 2 or not fitted:
        return calibration
    sizes, constants = atom_sizes(traced, batches[0]), traced.model.constants
    needed = max(
        wanted_rows(layer.shape(constants[layer.weight].shape), rows)
        / max(1.0, numbers(traced, layer.output, sizes) / _outputs_of(layer, traced.model))
        for layer in fitted
    )
    taken = others[: max(_LEAST_BATCHES, math.ceil(needed))]
    order = [*taken, *judged]
    return replace(
        calibration,
        batches=[batches[number] for number in order],
        counts=tuple(calibration.counts[number] for number in order),
        labels=(),
        evaluated=len(judged),
    )


@one_blas_thread()
def choose(
    traced: Trace,
    branches: Sequence[Branch],
    goal: float,
    calibration: Calibration,
    *,
    gone: Collection[str] = (),
    rounds: int,
    rows: int,
    seed: int = 0,
    progress: Progress = silent,
) -> Shortening:
    """Return the branches that go so that at most `goal` multiply-accumulates go with them.

    Args:
        traced: the model with its axes.
        branches: that may go, in order.
        goal: of one sample.
        calibration: batches, and the loss of an output.
        gone: names of branches that go in any case; they count.
        rounds: in which the others go, at most.
        rows: that a fit of a layer that is not narrow sees at most.
        seed: of the rows that are drawn.
        progress: called before each step.

    Raises:
        ModelError: when the model cannot be run in parts.
    """
    chooser = _Chooser(traced, branches, calibration, rows, seed, progress)
    chooser.gone.update(number for number, branch in enumerate(branches) if branch.name in gone)
    return chooser.run(goal, rounds)


class _Chooser:
    def __init__(  # noqa: PLR0917 - as `choose`
        self,
        traced: Trace,
        branches: Sequence[Branch],
        calibration: Calibration,
        rows: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self._model = traced.model
        self._rows, self._seed, self._progress = rows, seed, progress
        self._chain = Chain(traced.model, branches)
        self._calibration = fewer(traced, [each for each in self._chain.layers if each is not None], calibration, rows)
        proto, self._gates = gated(traced.model, branches, traced.probe.dtype)
        self._gated = view(proto, folder=traced.model.folder, is_plain=True)
        self._zeros = {branch.name: np.zeros((), traced.probe.dtype(branch.value)) for branch in branches}
        self.gone: set[int] = set()
        self._losses: dict[int, float] = {}  # as they were measured last
        self._measured = 0
        self._expected = KeptBatches(EXPECTED_BYTES)
        for values in self._outputs():
            self._expected.append(values)

    def _outputs(self) -> Iterator[dict[str, Array]]:
        calibration = self._calibration
        return Replay(self._model, calibration.batches).run(self._model.tensor_outputs, calibration.judged)

    def run(self, goal: float, rounds: int) -> Shortening:
        """Let branches go, round by round."""
        branches, alone = self._chain.branches, dict[str, float]()
        left = goal - sum(branches[number].macs for number in self.gone)
        for number in range(rounds):
            fitting = [at for at in self._staying() if branches[at].macs <= left]
            if not fitting:
                break
            quota = left / (rounds - number)
            looked = self._cheapest(fitting, quota) if number else fitting
            base = self._sweep(f"choosing branches, round {number + 1} of {rounds}", looked)
            if not number:
                alone = {branches[at].name: loss for at, loss in self._losses.items()}
            taken = self._taken(looked, quota, left, base)
            left -= sum(branches[at].macs for at in taken)
            self.gone |= taken
        return Shortening(tuple(branches[number] for number in sorted(self.gone)), alone, self._measured)

    def _staying(self) -> list[int]:
        return [number for number in range(len(self._chain.branches)) if number not in self.gone]

    def _price(self, number: int, base: float) -> float:
        """Return what a branch costs for what it saves."""
        loss = self._losses.get(number, math.inf)
        return (loss - base) / self._chain.branches[number].macs if math.isfinite(loss) else math.inf

    def _cheapest(self, fitting: Sequence[int], quota: float) -> list[int]:
        """Return the branches that are measured again: those that cost least when they were measured last."""
        usual = float(np.mean([self._chain.branches[number].macs for number in fitting]))
        count = max(_FEWEST, math.ceil(LOOKED * quota / usual))
        ranked = sorted(fitting, key=lambda number: (self._price(number, 0.0), number))
        return sorted(ranked[:count])

    def _taken(self, looked: Sequence[int], quota: float, left: float, base: float) -> set[int]:
        """Return the branches that go in a round: one at least, then more until the quota is met, no two neighbours."""
        taken: set[int] = set()
        saved = 0.0
        for number in sorted(looked, key=lambda number: (self._price(number, base), number)):
            macs = self._chain.branches[number].macs
            is_free = {number - 1, number + 1}.isdisjoint(taken)
            if saved + macs <= left and (not taken or (is_free and saved + macs <= quota)):
                taken.add(number)
                saved += macs
        return taken

    # -- one round -------------------------------------------------------------------------------------

    def _sweep(self, text: str, looked: Sequence[int]) -> float:
        """Measure branches beside what has gone, from front to back; return the loss without what has gone."""
        new, old = Replay(self._gated, self._calibration.batches), Replay(self._model, self._calibration.batches)
        new.contents.update(self._closed(self.gone))
        rest = Rest(self._gated, self._model.tensor_outputs, self._closed(self.gone))

        def stands() -> Iterator[tuple[int, Replay, Replay]]:
            for name, at, is_measured in self._stops(looked):
                new.reach(name)
                old.reach(name)
                if is_measured:
                    yield at, new.here(), old.here()
                else:
                    new.contents = {**new.contents, **self._fitted(at, self.gone, new, old, {})}

        def measured(stand: tuple[int, Replay, Replay]) -> tuple[int, float]:
            at, here, there = stand
            return at, self._loss(rest, here, self._repair(at, here, there))

        for done, (at, loss) in enumerate(beside(measured, stands(), MOST), 1):
            self._progress(text, done, len(looked))
            self._losses[at] = loss
            self._measured += 1
        return self._loss(rest, new, {}) if self.gone else 0.0

    def _stops(self, looked: Sequence[int]) -> Iterator[tuple[str, int, bool]]:
        """Yield where the replay stops, in order: a value, and a branch that is measured there, or else refitted."""
        chain, makers = self._chain, {name: node.index for node in self._model.nodes for name in node.outputs}
        place = {index: at for at, index in enumerate(self._model.top)}
        stops: list[tuple[int, bool, str, int]] = []
        for number in looked:
            front = chain.front(number, self.gone)
            layer = None if front is None else chain.layers[front]
            first = chain.branches[number].value if layer is None else layer.node.outputs[0]
            stops.append((place[makers[first]], False, first, number))
        for number in chain.repaired(self.gone):
            layer = chain.layers[number]
            assert layer is not None
            stops.append((place[layer.node.index], True, layer.node.outputs[0], number))
        for _, is_refitted, name, number in sorted(stops):
            yield name, number, not is_refitted

    def _closed(self, gone: Collection[int]) -> dict[str, Array]:
        """Return the gates of branches that are gone."""
        names = [self._chain.branches[number].name for number in gone]
        return {self._gates[name]: self._zeros[name] for name in names}

    def _repair(self, number: int, new: Replay, old: Replay) -> dict[str, Array]:
        """Return constants that hold other numbers without one more branch: its gate, and its neighbours refitted."""
        gone = self.gone | {number}
        contents = self._closed([number])
        front = self._chain.front(number, gone)
        for at in (*([] if front is None else [front]), *self._chain.behind(number, gone)):
            if self._chain.layers[at] is not None:
                contents |= self._fitted(at, gone, new, old, contents)
        return contents

    def _fitted(
        self, number: int, gone: Collection[int], new: Replay, old: Replay, contents: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Return the weights of the layer of a branch, fitted to the stream of the original behind it and its gap."""
        layer = self._chain.layers[number]
        assert isinstance(layer, Layer)
        own, last = (self._chain.branches[at] for at in (number, self._chain.end(number, gone)))
        addends = [self._model.nodes[last.node].inputs[slot] for slot in (last.slot, last.other)]
        other = self._model.nodes[own.node].inputs[own.other]
        calibration = self._calibration

        def seen() -> Iterator[tuple[Array, Array]]:
            pairs = zip(old.run(addends), new.run([layer.input, other], contents=contents), strict=True)
            for before, now in pairs:
                total = before[addends[0]].astype(np.float32) + before[addends[1]].astype(np.float32)
                yield now[layer.input], total - now[other].astype(np.float32)

        try:
            return refitted(
                layer, self._gated, {**new.contents, **contents}, seen(),
                held=calibration.held, count=len(calibration.batches), rows=self._rows, seed=self._seed,
            )  # fmt: skip
        except ModelError:  # of a value that no session can give
            return {}

    def _loss(self, rest: Rest, new: Replay, contents: Mapping[str, Array]) -> float:
        """Return the loss of the output on held-out batches."""
        judged, metric = self._calibration.judged, self._calibration.metric
        feeds = [self._calibration.batches[number] for number in judged]
        outputs = rest.outputs(new, judged, contents)
        pairs = zip(self._expected, outputs, feeds, strict=True)
        return float(np.mean([metric.loss(before, after, feed) for before, after, feed in pairs]))
