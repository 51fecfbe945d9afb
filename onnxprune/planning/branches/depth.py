"""Depth: which branches go, by what the output loses without them after repair.

A branch that goes leaves a gap in its stream. Where a layer writes to the stream directly in front of the gap, it is
refitted to the stream of the original behind it, and the next layer behind the gap is refitted as well: only then is
the output compared, on held-out samples. What looks free by itself may cost much, and what looks dear may be mended,
so nothing else decides.

All branches are looked at once, each alone and without repair, which is cheap; the better ones are measured with it.
Then they go in a few rounds: in each, those that cost least for what they save are measured again beside what has gone
and was repaired, and the best of them go, no two neighbours in one round. In the end what was chosen so is measured
beside runs of neighbours that save as much, which leave one gap alone: all of these are looked at without repair, the
best few are measured with it. The best of all is taken. The model is replayed from front to back each time; behind
each branch the rest of it is run on few samples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.algebra.threads import one_blas_thread
from onnxprune.calibration.batches import Calibration
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.dependency.branches import Branch, nodes_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import Trace
from onnxprune.errors import ModelError
from onnxprune.graph.linear import Layer
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view
from onnxprune.planning.branches.gaps import Chain, Repair
from onnxprune.planning.curves.detail import rows_of
from onnxprune.planning.curves.measured import EXPECTED_BYTES
from onnxprune.planning.work import atom_sizes, numbers
from onnxprune.progress import Progress, silent
from onnxprune.recovery.alone import refitted, wanted_rows
from onnxprune.runtime.beside import MOST, beside
from onnxprune.runtime.replay import KeptBatches, Replay
from onnxprune.runtime.rest import Rest
from onnxprune.surgery.depth import gated

LOOKED = 2  # branches that are measured again for each that goes in a round
_ALIKE = 0.9  # of what was chosen by itself: runs that save less are not compared with it
_LOOKED_SAMPLES = 8  # held-out samples by which branches are looked at without repair, in whole batches
_RUNS = 8  # of neighbours that are measured with repair, those that cost least without
_FEWEST = 4  # that are measured again in a round, if there are so many
_LEAST_BATCHES = 4  # that layers are fitted to, if there are so many


@dataclass(frozen=True)
class Shortening:
    """Which branches go, and what was measured."""

    removed: tuple[Branch, ...]  # in the order of the graph
    alone: Mapping[str, float] = field(default_factory=dict)  # loss of the output without each branch, repaired
    measured: int = 0  # losses
    scores: Mapping[str, float] = field(default_factory=dict)  # of a published method, of the block of each branch
    merged: Mapping[str, str] = field(default_factory=dict)  # by branch that went into another one, the name of that
    contents: Mapping[str, Array] = field(default_factory=dict)  # constants that hold other numbers then, by name


def fewer(traced: Trace, fitted: Sequence[Layer], calibration: Calibration, rows: int) -> Calibration:
    """Return a calibration with the batches that losses are measured on, and as many others as fits of layers need."""
    batches, judged = calibration.batches, calibration.judged
    others = [number for number in range(len(batches)) if number not in calibration.held]
    if len(batches) < 2 or not fitted:
        return calibration
    sizes, constants = atom_sizes(traced, batches[0]), traced.model.constants
    needed = max(
        wanted_rows(layer.shape(constants[layer.weight].shape), rows)
        / max(1, rows_of(traced, layer, numbers(traced, layer.output, sizes)))
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
    screened: float = 1.0,
    rows: int,
    repairs: bool = True,
    seed: int = 0,
    progress: Progress = silent,
    notes: Notes = NOWHERE,
) -> Shortening:
    """Return the branches that go so that at most `goal` multiply-accumulates go with them.

    Args:
        traced: the model with its axes.
        branches: that may go, in order.
        goal: of one sample.
        calibration: batches, and the loss of an output.
        gone: names of branches that go in any case; they count.
        rounds: in which the others go, at most.
        screened: share of the branches that are measured with repair: those that cost least without it.
        rows: that a fit of a layer that is not narrow sees at most.
        repairs: whether layers next to gaps are refitted before the output is looked at.
        seed: of the rows that are drawn.
        progress: called before each step.
        notes: have the losses that an earlier run measured, and get those of this one.

    Raises:
        ModelError: when the model cannot be run in parts.
    """
    named = {number for number, branch in enumerate(branches) if branch.name in gone}
    chooser = Chooser(traced, branches, named, calibration, rows, repairs, seed, progress, notes)
    return chooser.run(goal, rounds, screened)


class Chooser:
    """Measures what the output loses without branches, and lets some go."""

    def __init__(  # noqa: PLR0917 - as `choose`
        self,
        traced: Trace,
        branches: Sequence[Branch],
        named: Collection[int],
        calibration: Calibration,
        rows: int,
        repairs: bool,
        seed: int,
        progress: Progress,
        notes: Notes,
    ) -> None:
        """Take the arguments of `choose`; `named` are the places of the branches that go in any case."""
        self._notes = notes
        self._model, self._repairs, self._macs = traced.model, repairs, NodeMacs(traced)
        self._rows, self._seed, self._progress = rows, seed, progress
        self._chain = Chain(traced.model, branches)
        self._calibration = fewer(traced, [each for each in self._chain.layers if each is not None], calibration, rows)
        proto, self._gates = gated(traced.model, branches, traced.probe.dtype)
        self._gated = view(proto, folder=traced.model.folder, is_plain=True)
        self._zeros = {branch.name: np.zeros((), traced.probe.dtype(branch.value)) for branch in branches}
        self._named, self.gone = frozenset(named), set(named)
        self._losses: dict[int, float] = {}  # as they were measured last
        self._measured = 0
        self._expected = KeptBatches(EXPECTED_BYTES)
        original = Replay(self._model, self._calibration.batches)
        for values in original.run(self._model.tensor_outputs, self._calibration.judged):
            self._expected.append(values)

    def run(self, goal: float, rounds: int, screened: float) -> Shortening:
        """Let branches go, round by round."""
        branches, alone = self._chain.branches, dict[str, float]()
        left = goal - self._macs.total(self._dead())
        for number in range(rounds):
            fitting = [at for at in range(len(branches)) if 0 < self._saved(at) <= left]
            if not fitting:
                break
            quota = left / (rounds - number)
            looked = self._cheapest(fitting, quota) if number else self._screened(fitting, screened)
            text, sets = f"choosing branches, round {number + 1} of {rounds}", [frozenset([at]) for at in looked]
            losses, base = self._sweep(text, sets, repairs=self._repairs)
            self._losses |= {at: losses[frozenset([at])] for at in looked}
            if not number:
                alone = {branches[at].name: self._losses[at] for at in fitting}
            self.gone |= self._taken(looked, quota, left, base)
            left = goal - self._macs.total(self._dead())
        self._compare_runs(goal)
        return Shortening(tuple(branches[number] for number in sorted(self.gone)), alone, self._measured)

    def alone(self, screened: float) -> dict[str, float]:
        """Return the loss without each branch beyond that of what is gone, by name.

        A share of them is measured with repair, those that cost least without it.
        """
        able = [at for at in range(len(self._chain.branches)) if self._saved(at) > 0]
        looked = self._screened(able, screened)
        sets = [frozenset([at]) for at in looked]
        losses, base = self._sweep("weighing branches", sets, repairs=self._repairs)
        self._losses |= {at: losses[frozenset([at])] for at in looked}
        return {self._chain.branches[at].name: self._losses[at] - base for at in able}

    def together(self, names: Collection[str]) -> float:
        """Return the loss without some branches beyond that of what is gone, with repair."""
        gone = frozenset(at for at, branch in enumerate(self._chain.branches) if branch.name in names)
        losses, base = self._sweep("weighing branches together", [gone], repairs=self._repairs)
        return losses[gone] - base

    def beside_gone(self, text: str, sets: Sequence[frozenset[int]]) -> tuple[list[float], float]:
        """Return the losses without some more branches each, and the loss without what is gone alone, with repair."""
        losses, base = self._sweep(text, sets, repairs=self._repairs)
        return [losses[each] for each in sets], base

    @property
    def measured(self) -> int:
        """How many losses were measured."""
        return self._measured

    def _screened(self, fitting: Sequence[int], share: float) -> list[int]:
        """Return the branches that are measured with repair; of the others the losses without it are known then."""
        count = max(_FEWEST, math.ceil(share * len(fitting)))
        if not self._repairs or count >= len(fitting):
            return list(fitting)
        bare, base = self._sweep("looking at branches", [frozenset([at]) for at in fitting], repairs=False)
        self._losses |= {at: bare[frozenset([at])] for at in fitting}
        ranked = sorted(fitting, key=lambda at: (self._price(at, base), at))
        return sorted(ranked[:count])

    def _compare_runs(self, goal: float) -> None:
        """Take a run of neighbours instead of what was chosen, where the output loses less without it."""
        chosen = frozenset(self.gone - self._named)
        if len(chosen) < 2:
            return
        self.gone = set(self._named)
        left, macs = goal - self._macs.total(self._dead()), self._saved_by(chosen)
        runs = {run for first in range(len(self._chain.branches)) if (run := self._run(first, left))}
        alike = [run for run in runs if run != chosen and self._saved_by(run) >= _ALIKE * macs]
        if self._repairs and len(alike) > _RUNS:
            bare, _ = self._sweep("looking at runs of neighbours", alike, repairs=False)
            alike.sort(key=lambda run: (bare[run], sorted(run)))
        sets = [chosen, *alike[:_RUNS]]
        losses, _ = self._sweep("choosing branches, runs of neighbours", sets, repairs=self._repairs)
        self.gone |= min(losses.items(), key=lambda each: (each[1], sorted(each[0])))[0]

    def _run(self, first: int, left: float) -> frozenset[int]:
        """Return the longest run of branches from one on that may go, with no gap in it but what is gone anyway."""
        taken: frozenset[int] = frozenset()
        for number in range(first, len(self._chain.branches)):
            if number not in self.gone and self._saved_by(taken | {number}) > left:
                break
            taken |= {number} - self.gone
        return taken

    def _saved_by(self, numbers: Collection[int]) -> int:
        """Return the multiply-accumulates that go with some more branches."""
        return self._macs.total(nodes_of(self._chain.branches[number] for number in numbers) - self._dead())

    def _dead(self) -> set[int]:
        """Return the nodes that are gone."""
        return nodes_of(self._chain.branches[number] for number in self.gone)

    def _saved(self, number: int) -> int:
        """Return the multiply-accumulates that go with one more branch; 0 for one that is gone, or inside of one."""
        if number in self.gone:
            return 0
        return self._saved_by([number])

    def _price(self, number: int, base: float) -> float:
        """Return what a branch costs for what it saves."""
        loss = self._losses.get(number, math.inf)
        return (loss - base) / max(1, self._saved(number)) if math.isfinite(loss) else math.inf

    def _cheapest(self, fitting: Sequence[int], quota: float) -> list[int]:
        """Return the branches that are measured again: those that cost least when they were measured last."""
        usual = float(np.mean([self._saved(number) for number in fitting]))
        count = max(_FEWEST, math.ceil(LOOKED * quota / usual))
        ranked = sorted(fitting, key=lambda number: (self._price(number, 0.0), number))
        return sorted(ranked[:count])

    def _taken(self, looked: Sequence[int], quota: float, left: float, base: float) -> set[int]:
        """Return the branches that go in a round: one at least, then more until the quota is met, no two neighbours."""
        taken: set[int] = set()
        dead, saved = self._dead(), 0.0
        for number in sorted(looked, key=lambda number: (self._price(number, base), number)):
            own = set(self._chain.branches[number].nodes)
            more = self._macs.total(own - dead)
            is_free = {number - 1, number + 1}.isdisjoint(taken)
            if more and saved + more <= left and (not taken or (is_free and saved + more <= quota)):
                taken.add(number)
                dead |= own
                saved += more
        return taken

    # -- one round -------------------------------------------------------------------------------------

    def _sweep(
        self, text: str, looked: Sequence[frozenset[int]], *, repairs: bool
    ) -> tuple[dict[frozenset[int], float], float]:
        """Return the losses without some branches beside what has gone, and that without what has gone alone.

        Args:
            text: of the step.
            looked: sets of branches.
            repairs: whether the layers next to their gaps are refitted; those next to what has gone always are.
        """
        repaired, judged = (
            self._repaired(),
            self._judged(_LOOKED_SAMPLES if self._repairs and not repairs else math.inf),
        )
        new, old = self._replays(repaired)
        rest = Rest(self._gated, self._model.tensor_outputs, repaired)
        places = {each: self._chain.first_place(each, self.gone | each) for each in looked}
        losses: dict[frozenset[int], float] = {}
        names = {each: self._name(each, repairs) for each in looked}
        noted = {each: self._notes.value(name, lambda note: float(note.plain["loss"])) for each, name in names.items()}
        known = {each: loss for each, loss in noted.items() if loss is not None}

        def stands() -> Iterator[tuple[frozenset[int], Replay, Replay]]:
            for each in sorted(looked, key=lambda each: (places[each], sorted(each))):
                self._move(places[each], new, old)
                yield each, new.here(), old.here()

        def measured(stand: tuple[frozenset[int], Replay, Replay]) -> tuple[frozenset[int], float]:
            each, here, there = stand
            if each in known:
                return each, known[each]
            contents = self._closed(each)
            for repair in self._chain.all_repairs(each, self.gone | each) if repairs else ():
                contents |= self._fitted(repair, here, there, contents)
            return each, self._mean(judged, rest.outputs(here, judged, contents))

        for done, (each, loss) in enumerate(beside(measured, stands(), MOST), 1):
            self._progress(text, done, len(looked))
            losses[each] = loss
            self._measured += 1
            if each not in known:
                self._notes.write(names[each], {"loss": loss})
        if not self.gone:
            return losses, 0.0
        return losses, self._mean(judged, new.run(self._model.tensor_outputs, judged))

    def _name(self, looked: Collection[int], repairs: bool) -> str:
        """Return the name of the note of a loss."""
        more, gone = ([self._chain.branches[at].name for at in sorted(each)] for each in (looked, self.gone))
        return f"loss without {more} beside {gone}, {'repaired' if repairs else 'as it is'}"

    def _judged(self, samples: float) -> tuple[int, ...]:
        """Return the first held-out batches that hold so many samples, all where they hold fewer."""
        found, held = list[int](), 0
        for number in self._calibration.judged:
            if held < samples:
                found.append(number)
                held += self._calibration.counts[number]
        return tuple(found)

    def _repaired(self) -> dict[str, Array]:
        """Return the constants that hold other numbers without what has gone: gates, and layers that are refitted."""
        contents = self._closed(self.gone)
        if not (self.gone and self._repairs):
            return contents
        new, old = self._replays(contents)
        for repair in self._chain.all_repairs(self.gone, self.gone):
            self._move(repair.place, new, old)
            contents |= self._fitted(repair, new, old, {})
            new.contents = dict(contents)
        return contents

    def _replays(self, contents: Mapping[str, Array]) -> tuple[Replay, Replay]:
        """Return replays of the model with gates, and of the original, in front of the first node."""
        new, old = Replay(self._gated, self._calibration.batches), Replay(self._model, self._calibration.batches)
        new.contents = dict(contents)
        return new, old

    def _move(self, place: int, new: Replay, old: Replay) -> None:
        """Move both to a place of the original, if it is ahead."""
        name = next(name for name in self._model.nodes[self._model.top[place]].outputs if name)
        new.reach(name)
        old.reach(name)

    def _closed(self, gone: Collection[int]) -> dict[str, Array]:
        """Return the gates of branches that are gone."""
        names = [self._chain.branches[number].name for number in gone]
        return {self._gates[name]: self._zeros[name] for name in names}

    def _fitted(self, repair: Repair, new: Replay, old: Replay, contents: Mapping[str, Array]) -> dict[str, Array]:
        """Return the weights of a layer, fitted to what the original has there."""
        calibration, layer = self._calibration, repair.layer

        def seen() -> Iterator[tuple[Array, Array]]:
            wanted = old.run(repair.totals)
            for before, now in zip(wanted, new.run([layer.input, *repair.added], contents=contents), strict=True):
                target = np.zeros((), np.float32)
                for name in repair.totals:
                    target = target + before[name].astype(np.float32)
                for name in repair.added:
                    target = target - now[name].astype(np.float32)
                yield now[layer.input], target

        try:
            return refitted(
                layer, self._gated, {**new.contents, **contents}, seen(),
                held=calibration.held, count=len(calibration.batches), rows=self._rows, seed=self._seed,
            )  # fmt: skip
        except ModelError:  # of a value that no session can give
            return {}

    def _mean(self, judged: Sequence[int], outputs: Iterable[Mapping[str, Array]]) -> float:
        """Return the loss of the outputs of the first held-out batches, whose numbers are given."""
        pairs = ((self._expected[at], self._calibration.batches[number]) for at, number in enumerate(judged))
        triples = ((before, after, feed) for (before, feed), after in zip(pairs, outputs, strict=True))
        metric = self._calibration.metric
        return float(np.mean([metric.loss(before, after, feed) for before, after, feed in triples]))
