"""Gradients of a model on calibration samples: by a gate on each unit, and by weights.

A gate is a factor of one on each index of an axis, in front of the input of a node that sums over it: where the oracle
puts its masks. The derivative of the log-likelihood of an answer by the gate is the sum of gradient times activation,
and one backward pass gives it for all groups. Samples go through the network one at a time, so that each has a
derivative of its own, and memory is that of one. `training` does the work; what is returned is numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.batches import Calibration
from onnxprune.criteria.slopes import Slopes
from onnxprune.data.batching import batch_of
from onnxprune.dependency.axes import Axis, positions
from onnxprune.dependency.groups import Group, Member, Places
from onnxprune.dependency.rules import Coupling
from onnxprune.dependency.trace import Trace
from onnxprune.errors import ModelError
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.progress import Progress, silent
from onnxprune.runtime.replay import Feeds, Replay
from onnxprune.training.network.unit_gate import Gate

ANSWERS = 256  # drawn in all, where there is a budget for them
FEWEST, MOST = 2, 8  # that are drawn for a sample
LEAST_SAMPLES = 16  # whatever they cost
FORWARD, BACKWARD, OF_WEIGHTS = 3.0, 4.0, 5.0  # runs in ONNX Runtime that a pass takes as long as, about
_SCALED = 4  # batches that the scale of an output is told from
_LOOKING = "looking at gradients"
NO_SUM = "no operator sums over its units"
NO_GRADIENT = "no gradient reaches it from the outputs"


@dataclass(frozen=True)
class Place:
    """A gate, and where the units of a group lie along it."""

    gate: Gate
    at: Places  # [units, occurrences]


@dataclass(frozen=True)
class Gradients:
    """What gradients tell of groups."""

    slopes: Mapping[str, Slopes]  # by name of the group
    why_none: Mapping[str, str]  # by name, why a group has no slopes
    samples: int  # that were differentiated
    draws: int  # answers that were drawn for each; 0 where they are those of labels or texts


def gradients(
    traced: Trace,
    groups: Sequence[Group],
    calibration: Calibration,
    *,
    of_weights: bool = False,
    of_elements: bool = False,
    passes: float = float("inf"),
    seed: int = 0,
    progress: Progress = silent,
) -> Gradients:
    """Return the slopes of groups.

    Args:
        traced: the model with its axes.
        groups: those to look at.
        calibration: samples, labels and the metric that says what outputs are.
        of_weights: whether weights are looked at as well as gates.
        of_elements: whether each number of them is looked at by itself, which takes as much memory as they do.
        passes: over all samples that may be spent, forward or backward; 16 samples are looked at whatever they cost.
        seed: of the answers that are drawn.
        progress: called before each step.

    Raises:
        ModelError: when an operator has no gradient, or the network in PyTorch computes something else.
    """
    from onnxprune.training.network.pullback import Pullback  # noqa: PLC0415

    model = traced.model
    places = {group.name: gate_places(traced, group) for group in groups}
    why_none = {name: NO_SUM for name, each in places.items() if not each}
    of_weights = of_weights or of_elements
    names = learned_weights(model, (member for group in groups for member in group.members)) if of_weights else ()
    gates = dict.fromkeys(place.gate for each in places.values() for place in each)
    pullback = Pullback(model, tuple(gates), names)
    source = Answers(model, calibration, passes, seed, of_weights=of_weights)
    look_at = _Elements(by_sum=source.by_labels) if of_elements else None
    sums = {group.name: _Sums(group, places[group.name], model, frozenset(names), look_at) for group in groups}
    for number, sample in enumerate(source):
        if not number:
            pullback.check(sample.feeds)
        progress(_LOOKING, number + 1, len(source))
        for derivatives in pullback.run(sample.feeds, sample.directions):
            for each in sums.values():
                each.add(derivatives)
    slopes = {name: each.slopes() for name, each in sums.items() if each.reached}
    why_none |= {name: NO_GRADIENT for name in sums if name not in slopes and name not in why_none}
    return Gradients(slopes, why_none, len(source), source.draws)


# -- where gates stand -------------------------------------------------------------------------------------


def gate_places(traced: Trace, group: Group) -> tuple[Place, ...]:
    """Return a gate at each node that sums over the units of a group; none where all of them sum integers.

    A sum has two factors, of which one gate is enough. Where the weight is recorded as the factor and the other one
    is computed, that gets the gate: its gradient is on the way back anyhow.
    """
    places = []
    for index, coupling in traced.couplings.items():
        contracted = _carrying(traced, coupling, coupling.contracted, group)
        hidden = _carrying(traced, coupling, coupling.hidden, group)
        for slot, dim, axis in contracted[:1] or hidden:
            places.append(
                Place(Gate(index, *_beside(traced, coupling, slot, dim), axis.size), positions(axis, group.atom))
            )
    return tuple(places)


def _carrying(
    traced: Trace, coupling: Coupling, where: Sequence[tuple[int, int]], group: Group
) -> list[tuple[int, int, Axis]]:
    """Return the slots and dims, of those that are summed over, whose axes have the units; no integers among them."""
    carrying = []
    for slot, dim in where:
        axis = traced.partition.resolve((coupling.inputs[slot] or ())[dim])
        atoms = traced.partition.atoms(axis)
        if group.atom in atoms and not any(atom.dynamic for atom in atoms):
            beside = _beside(traced, coupling, slot, dim)
            if beside[0] not in coupling.encodings:
                carrying.append((slot, dim, axis))
    return carrying


def _beside(traced: Trace, coupling: Coupling, slot: int, dim: int) -> tuple[int, int]:
    """Return the slot and dim of the computed factor of a sum whose other factor is a constant; else those of that."""
    names, fixed = coupling.node.inputs, traced.model.fixed
    if names[slot] not in fixed or not coupling.macs:
        return slot, dim
    axis = traced.partition.resolve((coupling.inputs[slot] or ())[dim])
    for other, axes in enumerate(coupling.inputs):
        if other == slot or axes is None or not names[other] or names[other] in fixed:
            continue
        alike = [at for at, each in enumerate(traced.axes(axes)) if each == axis]
        if len(alike) == 1:
            return other, alike[0]
    return slot, dim


def learned_weights(model: Model, members: Iterable[Member]) -> tuple[str, ...]:
    """Return the constants of some members that are weights: no statistics, nor what is shared with such."""
    from onnxprune.training.network.trainable import trainable  # noqa: PLC0415

    learned = set(trainable(model))
    return tuple(dict.fromkeys(member.constant for member in members if member.constant in learned))


# -- samples and their answers -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sample:
    """What goes through the network at once: one sample, or as many as the model always takes."""

    feeds: Feeds
    labels: Array | None
    source: Answers
    rng: np.random.Generator

    def directions(self, outputs: Mapping[str, Array]) -> list[dict[str, Array]]:
        """Return the gradients of the log-likelihood of the right answer, or of some that are drawn."""
        metric = self.source.metric
        right = metric.slope(outputs, self.feeds, self.labels) if self.source.by_labels else None
        if right is not None:
            return [right]
        scales = self.source.scales
        return [metric.drawn(outputs, self.feeds, self.rng, scales) for _ in range(max(1, self.source.draws))]


class Answers:
    """Samples of a calibration, one at a time, with what their answers are."""

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        passes: float,
        seed: int,
        *,
        of_weights: bool = False,
        drawn: bool = False,
        which: Sequence[int] | None = None,
        answers: int = ANSWERS,
        fewest: int = FEWEST,
    ) -> None:
        """Choose the samples.

        Args:
            model: in plain form.
            calibration: samples, labels and the metric.
            passes: that may be spent, in those over all samples.
            seed: of what is drawn.
            of_weights: whether weights are differentiated, too, which takes a backward pass as long as two.
            drawn: whether answers are drawn even where there are right ones.
            which: numbers of the batches that are used; None: all.
            answers: that are drawn in all, where there is a budget for them.
            fewest: that are drawn for a sample.
        """
        self.metric, self._model, self._seed = calibration.metric, model, seed
        self._calibration = calibration
        batches = range(len(calibration.batches)) if which is None else which
        self._alone = self._takes_one()
        all_samples = [
            (number, at) for number in batches for at in range(calibration.counts[number] if self._alone else 1)
        ]
        outputs = self._first_outputs()
        each = [self.metric.scales(one) for one in outputs]
        self.scales = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
        self.by_labels = not drawn and self._has_right(outputs[0])
        self.draws = 0 if self.by_labels else fewest
        backward, runs = OF_WEIGHTS if of_weights else BACKWARD, passes * calibration.samples
        affordable = runs / (FORWARD + backward * max(1, self.draws))
        count = int(min(len(all_samples), max(LEAST_SAMPLES, affordable)))
        self._samples = [all_samples[at] for at in np.unique(np.linspace(0, len(all_samples) - 1, count).astype(int))]
        if not self.by_labels:
            most = min(MOST, max(fewest, (runs / count - FORWARD) / backward))
            self.draws = int(np.clip(round(answers / count), fewest, most))

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples, batch by batch."""
        batch, feeds = -1, {}
        rng = np.random.default_rng(self._seed)
        for number, at in self._samples:
            if number != batch:
                batch, feeds = number, self._calibration.batches[number]
            labels = self._calibration.labels[number] if self._calibration.labels else None
            if self._alone:
                labels = None if labels is None else labels[at : at + 1]
                yield Sample(one_of(feeds, self._model, at), labels, self, rng)
            else:
                yield Sample(feeds, _filled(labels, feeds, self._model), self, rng)

    def _takes_one(self) -> bool:
        """Whether the model takes a single sample, as running it shows."""
        if batch_of(self._model.inputs).fixed is not None:
            return False
        first = one_of(self._calibration.batches[0], self._model, 0)
        try:
            next(Replay(self._model, [first]).run(self._model.tensor_outputs))
        except ModelError:
            return False
        return True

    def _first_outputs(self) -> list[dict[str, Array]]:
        """Return what the original gives for the first batches."""
        which = range(min(_SCALED, len(self._calibration.batches)))
        return list(Replay(self._model, self._calibration.batches).run(self._model.tensor_outputs, which))

    def _has_right(self, outputs: Mapping[str, Array]) -> bool:
        labels = self._calibration.labels[0] if self._calibration.labels else None
        feeds = self._calibration.batches[0]
        return self.metric.slope(outputs, feeds, _filled(labels, feeds, self._model)) is not None


def one_of(feeds: Feeds, model: Model, at: int) -> dict[str, Array]:
    """Return one sample of a batch; inputs that all samples share stay as they are."""
    taken = dict(feeds)
    for port in model.inputs:
        array = taken.get(port.name)
        if array is not None and port.batch is not None and array.ndim > port.batch and port.shape != ():
            taken[port.name] = array.take(range(at, at + 1), axis=port.batch)
    return taken


def _filled(labels: Array | None, feeds: Feeds, model: Model) -> Array | None:
    """Return labels for a batch that is filled up with copies from its start."""
    sizes = [feeds[p.name].shape[p.batch] for p in model.inputs if p.batch is not None and feeds[p.name].ndim > p.batch]
    return labels if labels is None or not sizes else np.resize(labels, max(sizes[0], len(labels)))


# -- sums --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Elements:
    """How each number of a weight is looked at by itself."""

    by_sum: bool  # whether gradients of all answers are added up before magnitudes are taken: drawn ones cancel out


class _Sums:
    """What is kept of the derivatives by one group."""

    def __init__(
        self,
        group: Group,
        places: Sequence[Place],
        model: Model,
        weights: frozenset[str],
        elements: _Elements | None = None,
    ) -> None:
        self._units, self._places = group.units, places
        self._gates: list[npt.NDArray[np.float64]] = []
        self._weights = np.zeros(group.units)
        self._answers = 0
        firsts = {(m.constant, m.dim): m for m in group.members if m.constant in weights}
        self._members = [(member, model.array(member.constant)) for member in firsts.values()]
        self._elements, self._products = elements, dict[int, npt.NDArray[np.float32]]()  # by member, [units, fan]
        self.reached = False

    def add(self, derivatives: Mapping[str, Array]) -> None:
        """Add those of one answer."""
        total = np.zeros(self._units)
        for place in self._places:
            slope = derivatives.get(place.gate.name)
            if slope is not None:
                self.reached = True
                total += slope.astype(np.float64)[place.at].sum(axis=1)
        self._gates.append(total)
        self._answers += 1
        for number, (member, weight) in enumerate(self._members):
            slope = derivatives.get(member.constant)
            if slope is not None:
                self.reached = True
                products = member.matrix(slope.astype(np.float32) * weight.astype(np.float32))
                self._weights += np.square(products.astype(np.float64)).sum(axis=1)
                if self._elements is not None:
                    each = products if self._elements.by_sum else np.abs(products)
                    self._products[number] = self._products.get(number, np.float32(0)) + each

    def slopes(self) -> Slopes:
        """Return what was added up."""
        weights = self._weights / max(1, self._answers) if self._members else None
        sums = [np.abs(each).sum(axis=1, dtype=np.float64) for each in self._products.values()]
        elements = np.sum(sums, axis=0) / max(1, self._answers) if sums else None
        return Slopes(np.stack(self._gates), weights, elements)
