"""Loss curves: how much the output suffers when one group loses units and its consumers are refitted.

The original is replayed group by group, in the order in which the groups are consumed. At each group, the moments of
its consumers' inputs give the order in which units are removed (`criteria.elimination`) and the refitted weights at
a few levels; each level is then run to the output on held-out batches. Losses of several groups nearly add up while
they are small; allocation relies on this.

With a single batch there is none to hold out: losses are those of the batch itself, some of its rows are held out for
the errors, and consumers with too few rows keep their weights, as they do in `recovery.refit`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxprune.algebra.threads import one_blas_thread
from onnxprune.calibration.batches import Calibration, held_rows
from onnxprune.criteria.elimination import Consumer, Elimination, eliminate, follow
from onnxprune.criteria.importance import Scores
from onnxprune.dependency import cost
from onnxprune.dependency.groups import Group, Member
from onnxprune.dependency.trace import Trace
from onnxprune.errors import ModelError
from onnxprune.graph.linear import Layer, layers
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.planning.curve import Curve, completed
from onnxprune.planning.schedule import Measurable, Schedule, schedule
from onnxprune.planning.work import Work, places
from onnxprune.progress import Progress, silent
from onnxprune.recovery.moments import Moments, most_rows, precision
from onnxprune.runtime.executors import ALONE, Sent, Workers, sent, shards
from onnxprune.runtime.replay import KeptBatches, Replay

LEAST_ROWS, ROWS_PER_INPUT = 8_192, 8  # that moments are made of
WIDEST = 1600  # inputs of a layer whose Gram matrix is inverted; of a wider convolution its channels are
_MEASURING = "measuring loss curves"
MEASURED = 6  # levels of a curve at most
EXPECTED_BYTES = 256 * 2**20  # of the outputs of the original that are kept in memory


@dataclass(frozen=True)
class Cut:
    """Groups that lose the same units, and the counts that may be removed."""

    name: str
    groups: tuple[Group, ...]
    removed: tuple[int, ...]  # counts that are allowed, ascending, without 0
    scores: Scores  # of the units
    by_score: bool  # whether the lowest scores go first, and not the least error


def by_scores(cut: Cut) -> Curve:
    """Return the curve of a cut whose consumers cannot be run, by its scores."""
    counts = measured_counts(cut.removed)
    order = np.argsort(cut.scores, kind="stable")[: counts[-1]]
    elimination = follow(order, counts, (), scores=cut.scores)
    return Curve(tuple(order.tolist()), (0, *counts), None, (0.0, *elimination.errors))


def measured_counts(allowed: Sequence[int], most: int = MEASURED) -> list[int]:
    """Return at most so many of the counts, evenly spread, the last among them.

    >>> measured_counts(range(10, 110, 10))
    [10, 30, 50, 60, 80, 100]
    """
    places = np.linspace(0, len(allowed) - 1, min(most, len(allowed)))
    return [allowed[int(place)] for place in np.unique(np.round(places).astype(int))]


def measure_curves(
    traced: Trace,
    cuts: Sequence[Cut],
    calibration: Calibration,
    *,
    to_output: bool = True,
    wanted: Schedule | None = None,
    refitted: bool = True,
    seed: int = 0,
    levels: int = MEASURED,
    progress: Progress = silent,
    workers: Workers = ALONE,
) -> dict[str, Curve]:
    """Return the curve of each cut, by name.

    Args:
        traced: the model with its axes.
        cuts: what may be removed.
        calibration: batches and the loss of an output.
        to_output: whether losses of the output are measured; the errors of consumers alone otherwise.
        wanted: which losses are measured, from `scheduled` with the same arguments; the others follow from the
            errors. None: all are measured.
        refitted: whether the consumers are refitted after the cut.
        seed: of the sampled rows.
        levels: counts of a curve at most.
        progress: called before each step.
        workers: where curves are measured; they are the same everywhere.
    """
    model, place = traced.model, places(traced.model)
    ordered = tuple(sorted(cuts, key=lambda cut: _first(cut, place)))
    if to_output and wanted is None:
        wanted = scheduled(traced, cuts, calibration, None, levels=levels)
    settings = _Settings(calibration, wanted if to_output else None, refitted, seed, levels)
    curves: dict[str, Curve] = {}
    if workers.parallel and ordered:
        settings_sent = replace(settings, calibration=replace(calibration, batches=list(calibration.batches)))
        parts = shards(len(ordered), workers)
        progress(_MEASURING, 1, len(ordered))
        for measured in workers.map(_curves_of, _Job(sent(model, workers), settings_sent, ordered), parts):
            curves.update(measured)
            progress(_MEASURING, min(len(curves) + 1, len(ordered)), len(ordered))
        return _in_order(curves, ordered, cuts)
    with one_blas_thread():
        sampler = _Sampler(model, settings)
        for number, cut in enumerate(ordered):
            progress(_MEASURING, number + 1, len(cuts))
            curves[cut.name] = sampler.curve_or_scores(cut)
    return _in_order(curves, ordered, cuts)


def _in_order(curves: Mapping[str, Curve], ordered: Sequence[Cut], cuts: Sequence[Cut]) -> dict[str, Curve]:
    """Return the curves in the order of the cuts, with the losses that were not measured."""
    complete = completed({cut.name: curves[cut.name] for cut in ordered})
    return {cut.name: complete[cut.name] for cut in cuts}


def scheduled(
    traced: Trace, cuts: Sequence[Cut], calibration: Calibration, budget: float | None, *, levels: int = MEASURED
) -> Schedule:
    """Return which losses are measured within a budget of work; None: all of them. See `measure_curves`."""
    place, work = places(traced.model), Work(traced, calibration.batches[0])
    shares = cost.shares(traced, [group for cut in cuts for group in cut.groups])
    measurable = {}
    for cut in cuts:
        first = min(_first(cut, place), len(traced.model.top))
        opened, run = work.behind(first, 0), work.behind(first, 1) - work.behind(first, 0)
        share = sum(shares[group.name] for group in cut.groups)
        measurable[cut.name] = Measurable(len(measured_counts(cut.removed, levels)), share, opened, run)
    samples = calibration.counts[0] if calibration.counts else 1
    return schedule(measurable, len(calibration.judged), budget, samples=samples)


@dataclass(frozen=True, eq=False)
class _Settings:
    """How curves are measured; see `measure_curves`."""

    calibration: Calibration
    wanted: Schedule | None  # the losses that are measured; None: those of the output are not looked at
    refitted: bool
    seed: int
    levels: int


@dataclass(frozen=True, eq=False)
class _Job:
    """What all workers need to measure curves."""

    model: Sent
    settings: _Settings
    ordered: tuple[Cut, ...]


def _curves_of(job: _Job, which: range) -> dict[str, Curve]:
    """Return the curves of some neighbouring cuts, in a worker.

    The replay stops where it would if it measured the cuts before them, too: parts of a model that are run one by one
    are fused otherwise than together, and round otherwise.
    """
    sampler = _Sampler(job.model.open(), job.settings)
    for cut in job.ordered[: which.start]:
        sampler.pass_by(cut)
    return {cut.name: sampler.curve_or_scores(cut) for cut in (job.ordered[number] for number in which)}


Pair = tuple[Member, Layer]


@dataclass(frozen=True)
class _ConsumerMoments:
    """The moments of the inputs and outputs of one consumer."""

    train: Moments
    held: Moments
    consumer: Consumer
    refitted: bool  # whether it is refitted after the cut


def _consumed(cut: Cut) -> list[Member]:
    return [member for group in cut.groups for member in group.members if member.role == "in"]


def _first(cut: Cut, places: Mapping[int, int]) -> int:
    """Return the place of the first node that consumes the units; cuts that no node consumes come last."""
    return min((places.get(member.sink[0], len(places)) for member in _consumed(cut)), default=len(places))


class _Sampler:
    def __init__(self, model: Model, settings: _Settings) -> None:
        calibration = settings.calibration
        self._model, self._calibration, self._seed, self._levels = model, calibration, settings.seed, settings.levels
        self._wanted, self._refitted = settings.wanted, settings.refitted
        self._replay = Replay(model, calibration.batches)
        self._layers = {layer.node.index: layer for layer in layers(model)}
        self._held = set(calibration.held)
        self._judged = calibration.judged[: self._wanted.batches] if self._wanted is not None else ()
        self._outputs = model.tensor_outputs
        self._expected = KeptBatches(EXPECTED_BYTES)
        for values in self._replay.run(self._outputs, self._judged) if self._judged else ():
            self._expected.append(values)
        self._feeds = [calibration.batches[number] for number in self._judged]
        self._place = places(model)

    def pass_by(self, cut: Cut) -> None:
        """Move to where a cut is measured, if it is ahead."""
        place = _first(cut, self._place)
        if place < len(self._place):
            self._replay.stand_before(place, self._seen(self._pairs(cut)))

    def curve_or_scores(self, cut: Cut) -> Curve:
        """Return the curve of one cut; where a part cannot be run alone, units are removed by their scores."""
        try:
            return self.curve(cut)
        except ModelError:
            return by_scores(cut)

    def curve(self, cut: Cut) -> Curve:
        """Return the curve of one cut."""
        counts = measured_counts(cut.removed, self._levels)
        pairs = self._pairs(cut)
        self.pass_by(cut)
        moments = self._consumer_moments(pairs)
        elimination = self._elimination(cut, counts, moments)
        losses, told = self._losses(cut, counts, pairs, moments, elimination)
        return Curve(tuple(elimination.order.tolist()), (0, *counts), losses, (0.0, *elimination.errors), told)

    def _losses(
        self,
        cut: Cut,
        counts: Sequence[int],
        pairs: Sequence[Pair],
        moments: Sequence[_ConsumerMoments],
        elimination: Elimination,
    ) -> tuple[tuple[float, ...] | None, tuple[int, ...]]:
        """Return the losses at 0 and all counts, NaN where they are not measured, and the counts where this is so."""
        if self._wanted is None or not any(self._float(member) for member in _consumed(cut)):
            return None, ()
        losses = [0.0, *[math.nan] * len(counts)]
        which = self._wanted.levels.get(cut.name, ())
        for level in which:
            removed = elimination.order[: counts[level]]
            losses[level + 1] = self._loss(cut, pairs, moments, elimination.weights[level], removed)
        return tuple(losses), tuple(count for level, count in enumerate(counts) if level not in which)

    def _pairs(self, cut: Cut) -> list[Pair]:
        return [pair for member in _consumed(cut) for pair in self._layer(member)]

    def _seen(self, pairs: Sequence[Pair]) -> list[str]:
        """Return the names of the inputs and outputs of layers."""
        return list(dict.fromkeys(name for _, layer in pairs for name in (layer.input, layer.output)))

    def _layer(self, member: Member) -> list[Pair]:
        """Return the linear layer that consumes the units, if each unit has inputs of its own there."""
        layer = self._layers.get(member.sink[0])
        fits = layer is not None and layer.groups == 1 and layer.weight == member.constant
        return [(member, layer)] if fits and layer is not None else []

    def _taps(self, layer: Layer) -> int:
        """Return how many inputs of a row one channel has."""
        return 1 if layer.window is None else math.prod(layer.window.kernel)

    def _is_wide(self, layer: Layer) -> bool:
        """Whether channels are correlated, and not all inputs of a patch."""
        shape = layer.shape(self._model.constants[layer.weight].shape)
        return self._taps(layer) > 1 and shape[-1] > WIDEST

    def _float(self, member: Member) -> bool:
        return self._model.constants[member.constant].dtype.kind == "f"

    def _elimination(self, cut: Cut, counts: Sequence[int], moments: Sequence[_ConsumerMoments]) -> Elimination:
        consumers, refitted = [each.consumer for each in moments], all(each.refitted for each in moments)
        if cut.by_score or not consumers:
            order = np.argsort(cut.scores, kind="stable")[: counts[-1]]
            return follow(order, counts, consumers, scores=cut.scores, refitted=refitted)
        elimination = eliminate(consumers, counts)
        if refitted:
            return elimination
        return follow(elimination.order, counts, consumers, scores=cut.scores, refitted=False)

    def _consumer_moments(self, pairs: Sequence[Pair]) -> list[_ConsumerMoments]:
        moments = []
        for _, layer in pairs:
            groups, outs, ins = layer.shape(self._model.constants[layer.weight].shape)
            ins = ins // self._taps(layer) if self._is_wide(layer) else ins
            moments.append((Moments(groups, ins, outs), Moments(groups, ins, outs)))
        rng = np.random.default_rng(self._seed)
        names = self._seen(pairs)
        for number, values in enumerate(self._replay.run(names)) if names else ():
            for (_, layer), pair in zip(pairs, moments, strict=True):
                limit = most_rows(pair[0].shape, ROWS_PER_INPUT, LEAST_ROWS) // len(self._replay) + 1
                at = layer.places(values[layer.output].shape, limit, rng)
                inputs = (layer.channels if self._is_wide(layer) else layer.rows)(values[layer.input], at)
                targets = layer.targets(values[layer.output], at)
                out = held_rows(len(at)) if len(self._replay) == 1 else np.full(len(at), number in self._held)
                pair[0].add(inputs[:, ~out], targets[:, ~out])
                pair[1].add(inputs[:, out], targets[:, out])
        refitted = self._refitted and (len(self._replay) > 1 or all(held.rows for _, held in moments))
        return [self._consumer(*pair, *each, refitted) for pair, each in zip(pairs, moments, strict=True)]

    def _consumer(
        self, member: Member, layer: Layer, train: Moments, held: Moments, refitted: bool
    ) -> _ConsumerMoments:
        stored = self._model.array(layer.weight)
        weight = layer.matrix(stored, precision(layer.shape(stored.shape)))[0]
        has_mean = layer.bias is not None and refitted
        mean = train.mean_x if has_mean else np.zeros_like(train.mean_x)
        seen = train.inputs(mean)
        judged = held.inputs(mean) if held.rows else seen
        counts, taps = (train + held).weights()[0], self._taps(layer)
        if self._is_wide(layer):  # each tap of an output is an output of its own
            weight = weight.reshape(len(weight), -1, taps).transpose(0, 2, 1).reshape(len(weight) * taps, -1)
            counts, taps = np.repeat(counts, taps), 1
        inputs = (member.places[:, :, None] * taps + np.arange(taps)).reshape(len(member.places), -1)
        return _ConsumerMoments(train, held, Consumer(weight, seen, judged, counts, inputs), refitted)

    def _loss(
        self,
        cut: Cut,
        pairs: Sequence[Pair],
        moments: Sequence[_ConsumerMoments],
        weights: Sequence[npt.NDArray[np.float64]],
        removed: npt.NDArray[np.intp],
    ) -> float:
        """Return the loss of the output on held-out batches without the removed units."""
        contents = self._without(cut, removed)
        for (_, layer), each, weight in zip(pairs, moments, weights, strict=True):
            whole, taps = weight, self._taps(layer) if self._is_wide(layer) else 1
            if taps > 1:
                whole = weight.reshape(-1, taps, weight.shape[1]).transpose(0, 2, 1).reshape(len(weight) // taps, -1)
            contents[layer.weight] = layer.stored(whole[None], self._model.array(layer.weight))
            if layer.bias is not None and each.refitted:
                like = self._model.array(layer.bias)
                moved = (each.consumer.weight - weight) @ each.train.mean_x[0]
                added = layer.added(like) + moved.reshape(-1, taps).sum(1)
                contents[layer.bias] = layer.stored_bias(added, like)
        metric, losses = self._calibration.metric, []
        outputs = self._replay.run(self._outputs, self._judged, contents)
        for before, after, feeds in zip(self._expected, outputs, self._feeds, strict=True):
            losses.append(metric.loss(before, after, feeds))
        return float(np.mean(losses))

    def _without(self, cut: Cut, removed: npt.NDArray[np.intp]) -> dict[str, Array]:
        """Return the consuming weights with zeros for the removed units."""
        contents: dict[str, Array] = {}
        for member in _consumed(cut):
            if self._float(member):
                array = contents.get(member.constant)
                array = self._model.array(member.constant).copy() if array is None else array
                np.moveaxis(array, member.dim, 0)[member.places[removed].ravel()] = 0
                contents[member.constant] = array
        return contents
