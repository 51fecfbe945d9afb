"""Loss curves: how much the output suffers when one group loses units and its consumers are refitted.

The original is replayed group by group, in the order in which the groups are consumed. At each group, the moments of
its consumers' inputs give the order in which units are removed (`criteria.elimination`) and the refitted weights at
a few levels; each level is then run to the output on held-out batches. Losses of several groups nearly add up while
they are small; allocation relies on this.

With a single batch there is none to hold out: losses are those of the batch itself, some of its rows are held out for
the errors, and consumers with too few rows keep their weights, as they do in `recovery.refit`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxprune.algebra.threads import one_blas_thread
from onnxprune.calibration.batches import Calibration
from onnxprune.calibration.weight_slopes import WeightSlopes
from onnxprune.criteria.elimination import Consumer, Elimination, eliminate, follow
from onnxprune.criteria.importance import Scores
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.dependency import cost
from onnxprune.dependency.groups import Group, Member
from onnxprune.dependency.trace import Trace
from onnxprune.errors import ModelError
from onnxprune.graph.linear import Layer, is_float, layers
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.planning.curves.curve import Curve, completed, note_curve, noted_curve
from onnxprune.planning.curves.schedule import Measurable, Schedule, schedule
from onnxprune.planning.curves.views import FINEST, Detail, Unseen, View, Views, is_wide, seen_by_some, taps
from onnxprune.planning.work import Work
from onnxprune.progress import Progress, silent
from onnxprune.recovery.moments import precision
from onnxprune.runtime.beside import MOST, beside
from onnxprune.runtime.executors import ALONE, Sent, Workers, sent, shards
from onnxprune.runtime.replay import KeptBatches, Replay
from onnxprune.runtime.rest import Rest, shared_stations
from onnxprune.runtime.room import runs_whole
from onnxprune.runtime.stations import last_read, weight_bytes

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
    detail: Detail = FINEST,
    slopes: WeightSlopes | None = None,
    progress: Progress = silent,
    workers: Workers = ALONE,
    notes: Notes = NOWHERE,
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
        detail: how closely layers are looked at, see `planning.curves.detail`.
        slopes: gradients by the weights that `consuming` names, which tell the losses that are not measured.
        progress: called before each step.
        workers: where curves are measured; they are the same everywhere.
        notes: have the curves that an earlier run measured, and get those of this one; other workers keep none.
    """
    model, place = traced.model, traced.model.places
    ordered = tuple(sorted(cuts, key=lambda cut: _first(cut, place)))
    if to_output and wanted is None:
        wanted = scheduled(traced, cuts, calibration, None, levels=levels)
    settings = _Settings(calibration, wanted if to_output else None, refitted, seed, levels, detail, slopes)
    curves: dict[str, Curve] = {}
    if workers.parallel and ordered and slopes is None:
        settings_sent = replace(settings, calibration=replace(calibration, batches=list(calibration.batches)))
        parts = shards(len(ordered), workers)
        progress(_MEASURING, 1, len(ordered))
        for measured in workers.map(_curves_of, _Job(sent(model, workers), settings_sent, ordered), parts):
            curves.update(measured)
            progress(_MEASURING, min(len(curves) + 1, len(ordered)), len(ordered))
        return _in_order(curves, ordered, cuts)
    with one_blas_thread():
        sampler = _Sampler(model, settings, ordered)
        known = {cut.name: curve for cut in ordered if (curve := noted_curve(notes, cut.name)) is not None}
        for name, curve in sampler.curves(_announced(range(len(ordered)), progress), known):
            if name not in known:
                note_curve(notes, name, curve)
            curves[name] = curve
    return _in_order(curves, ordered, cuts)


def _announced(numbers: range, progress: Progress) -> Iterator[int]:
    for number in numbers:
        progress(_MEASURING, number + 1, len(numbers))
        yield number


def _in_order(curves: Mapping[str, Curve], ordered: Sequence[Cut], cuts: Sequence[Cut]) -> dict[str, Curve]:
    """Return the curves in the order of the cuts, with the losses that were not measured."""
    complete = completed({cut.name: curves[cut.name] for cut in ordered})
    return {cut.name: complete[cut.name] for cut in cuts}


def consuming(model: Model, cuts: Sequence[Cut]) -> tuple[str, ...]:
    """Return the constants that change when units are cut: the weights that consume them, and biases beside these."""
    linear = {layer.node.index: layer for layer in layers(model)}
    names = dict[str, None]()
    for cut in cuts:
        for member in _consumed(cut):
            layer = linear.get(member.sink[0])
            own = layer.constants if layer is not None and layer.weight == member.constant else (member.constant,)
            names.update(dict.fromkeys(name for name in own if is_float(model.constants[name].dtype)))
    return tuple(names)


def scheduled(
    traced: Trace, cuts: Sequence[Cut], calibration: Calibration, budget: float | None, *, levels: int = MEASURED
) -> Schedule:
    """Return which losses are measured within a budget of work; None: all of them. See `measure_curves`."""
    samples = calibration.counts[0] if calibration.counts else 1
    each = measurable(traced, cuts, calibration, levels=levels)
    return schedule(each, len(calibration.judged), budget, samples=samples)


def measurable(
    traced: Trace, cuts: Sequence[Cut], calibration: Calibration, *, levels: int = MEASURED
) -> dict[str, Measurable]:
    """Return what it costs to measure the losses of each cut, by name, in the order in which they are consumed."""
    place, work = traced.model.places, Work(traced, calibration.batches[0])
    stops = (*shared_stations(traced.model), len(traced.model.top))
    shares = cost.shares(traced, [group for cut in cuts for group in cut.groups])
    costs = {}
    for cut in sorted(cuts, key=lambda cut: _first(cut, place)):
        first = min(_first(cut, place), len(traced.model.top))
        run = work.behind(first, 1) - work.behind(first, 0)
        opened = work.behind(first, 0) - work.behind(_station(stops, last_read(traced.model, _consumed_names(cut))), 0)
        share = sum(shares[group.name] for group in cut.groups)
        costs[cut.name] = Measurable(len(measured_counts(cut.removed, levels)), share, opened, run)
    return costs


def _consumed_names(cut: Cut) -> set[str]:
    return {member.constant for member in _consumed(cut)}


def _station(stops: Sequence[int], place: int) -> int:
    """Return the first station behind a place, from which sessions are opened once for all losses."""
    return next((stop for stop in stops if stop > place), stops[-1])


@dataclass(frozen=True, eq=False)
class _Settings:
    """How curves are measured; see `measure_curves`."""

    calibration: Calibration
    wanted: Schedule | None  # the losses that are measured; None: those of the output are not looked at
    refitted: bool
    seed: int
    levels: int
    detail: Detail
    slopes: WeightSlopes | None = None


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
    sampler = _Sampler(job.model.open(), job.settings, job.ordered)
    for number in range(which.start):
        sampler.pass_by(number, which)
    return dict(sampler.curves(which))


Pair = tuple[Member, Layer]


@dataclass(frozen=True, eq=False)
class _Stand:
    """A cut and what its curve is made from, which stays when the replay moves on."""

    cut: Cut
    pairs: Sequence[Pair]  # the layers that consume the units
    replay: Replay  # before the first of them
    views: Sequence[View] | None  # of each layer; None where one could not be looked at
    known: Curve | None = None  # its curve, where it was measured before


@dataclass(frozen=True)
class _Seen:
    """One consumer and what it sees."""

    view: View
    consumer: Consumer
    refitted: bool  # whether it is refitted after the cut


def _consumed(cut: Cut) -> list[Member]:
    return [member for group in cut.groups for member in group.members if member.role == "in"]


def _first(cut: Cut, places: Mapping[int, int]) -> int:
    """Return the place of the first node that consumes the units; cuts that no node consumes come last."""
    return min((places.get(member.sink[0], len(places)) for member in _consumed(cut)), default=len(places))


class _Sampler:
    def __init__(self, model: Model, settings: _Settings, ordered: Sequence[Cut]) -> None:
        calibration = settings.calibration
        self._detail = settings.detail
        self._model, self._calibration, self._levels, self._ordered = model, calibration, settings.levels, ordered
        self._wanted, self._refitted, self._slopes = settings.wanted, settings.refitted, settings.slopes
        self._replay = Replay(model, calibration.batches)
        self._layers = {layer.node.index: layer for layer in layers(model)}
        self._judged = calibration.judged[: self._wanted.batches] if self._wanted is not None else ()
        self._outputs = model.tensor_outputs
        self._expected = KeptBatches(EXPECTED_BYTES)
        for values in self._replay.run(self._outputs, self._judged) if self._judged else ():
            self._expected.append(values)
        self._feeds = [calibration.batches[number] for number in self._judged]
        self._place = model.places
        self._rest = Rest(model, self._outputs)
        consumers = [[layer for _, layer in self._pairs(cut)] for cut in ordered]
        self._views = Views(
            model, self._replay, calibration, consumers, refitted=self._refitted, seed=settings.seed,
            detail=settings.detail, judged=self._judged,
        )  # fmt: skip

    def pass_by(self, number: int, later: range) -> None:
        """Move to where a cut is measured, and look at those of its layers alone that cuts behind it consume, too."""
        self._stand_before(number)
        wanted = {layer.node.index for at in later for _, layer in self._pairs(self._ordered[at])}
        with contextlib.suppress(ModelError):  # none of these cuts has a curve then
            self._views.look(number, wanted)
        self._views.pass_by(number)

    def _stand_before(self, number: int) -> None:
        """Move to where a cut is measured, if it is ahead."""
        place = _first(self._ordered[number], self._place)
        if place < len(self._place):
            self._replay.stand_before(place, self._views.names(number))

    def curves(self, numbers: Iterable[int], known: Mapping[str, Curve] | None = None) -> Iterator[tuple[str, Curve]]:
        """Yield the names and curves of some cuts, in order: several are measured side by side where memory allows.

        Those that are known are not measured, but the replay moves as if they were.
        """
        stands = (self._stand(number, known or {}) for number in numbers)
        is_bounded = self._slopes is not None or not runs_whole(weight_bytes(self._model))
        return beside(self._curve_or_scores, stands, 1 if is_bounded else MOST)

    def _stand(self, number: int, known: Mapping[str, Curve]) -> _Stand:
        """Move to where a cut is measured, and look at its layers."""
        cut, views = self._ordered[number], None
        if cut.name in known:
            self.pass_by(number, range(number + 1, len(self._ordered)))
            return _Stand(cut, (), self._replay, None, known[cut.name])
        pairs = self._pairs(cut)
        try:
            self._stand_before(number)
            self._views.look(number)
            views = seen_by_some([self._views.of(layer) for _, layer in pairs])
        except (ModelError, Unseen):
            pass
        finally:
            self._views.pass_by(number)
        return _Stand(cut, pairs, self._replay.here(self._judged), views)

    def _curve_or_scores(self, stand: _Stand) -> tuple[str, Curve]:
        """Return the name and the curve of a cut; where a part cannot be run alone, units are removed by scores."""
        if stand.known is not None:
            return stand.cut.name, stand.known
        if stand.views is not None:
            with contextlib.suppress(ModelError):
                return stand.cut.name, self._curve(stand, self._seen(stand.pairs, stand.views))
        return stand.cut.name, by_scores(stand.cut)

    def _curve(self, stand: _Stand, seen: Sequence[_Seen]) -> Curve:
        """Return the curve of one cut."""
        cut, counts = stand.cut, measured_counts(stand.cut.removed, self._levels)
        elimination = self._elimination(cut, counts, seen)
        losses, told = self._losses(stand, counts, seen, elimination)
        foretold = None if losses is None else self._foretold(cut, counts, stand.pairs, seen, elimination)
        order = tuple(elimination.order.tolist())
        sums = 0 if foretold is None or self._slopes is None else self._slopes.rows
        return Curve(order, (0, *counts), losses, (0.0, *elimination.errors), told, foretold, sums)

    def _foretold(
        self,
        cut: Cut,
        counts: Sequence[int],
        pairs: Sequence[Pair],
        seen: Sequence[_Seen],
        elimination: Elimination,
    ) -> tuple[float, ...] | None:
        """Return the losses at 0 and all counts that gradients tell; None where they tell none."""
        changed = {member.constant for member in _consumed(cut) if self._float(member)}
        if self._slopes is None or not changed <= self._slopes.names:
            return None
        losses = [0.0]
        for level, count in enumerate(counts):
            removed = elimination.order[:count]
            contents = self._changed(cut, pairs, seen, elimination.weights[level], removed)
            known = {name: content for name, content in contents.items() if name in self._slopes.names}
            losses.append(self._slopes.loss(known))
        return tuple(losses)

    def _losses(
        self, stand: _Stand, counts: Sequence[int], seen: Sequence[_Seen], elimination: Elimination
    ) -> tuple[tuple[float, ...] | None, tuple[int, ...]]:
        """Return the losses at 0 and all counts, NaN where they are not measured, and the counts where this is so."""
        cut = stand.cut
        if self._wanted is None or not any(self._float(member) for member in _consumed(cut)):
            return None, ()
        if seen and not any(each.view.judged for each in seen):  # such as those of an expert that is hardly ever picked
            return None, ()
        losses = [0.0, *[math.nan] * len(counts)]
        which = self._wanted.levels.get(cut.name, ())
        for level in which:
            removed = elimination.order[: counts[level]]
            losses[level + 1] = self._loss(stand, seen, elimination.weights[level], removed)
        return tuple(losses), tuple(count for level, count in enumerate(counts) if level not in which)

    def _pairs(self, cut: Cut) -> list[Pair]:
        return [pair for member in _consumed(cut) for pair in self._layer(member)]

    def _layer(self, member: Member) -> list[Pair]:
        """Return the linear layer that consumes the units, if each unit has inputs of its own there."""
        layer = self._layers.get(member.sink[0])
        fits = layer is not None and layer.groups == 1 and layer.weight == member.constant
        return [(member, layer)] if fits and layer is not None else []

    def _float(self, member: Member) -> bool:
        return self._model.constants[member.constant].dtype.kind == "f"

    def _elimination(self, cut: Cut, counts: Sequence[int], seen: Sequence[_Seen]) -> Elimination:
        consumers, refitted = [each.consumer for each in seen], all(each.refitted for each in seen)
        if cut.by_score or not consumers:
            order = np.argsort(cut.scores, kind="stable")[: counts[-1]]
            return follow(order, counts, consumers, scores=cut.scores, refitted=refitted)
        elimination = eliminate(consumers, counts, steps=self._detail.steps)
        if refitted:
            return elimination
        return follow(elimination.order, counts, consumers, scores=cut.scores, refitted=False)

    def _seen(self, pairs: Sequence[Pair], views: Sequence[View]) -> list[_Seen]:
        refitted = self._refitted and (len(self._replay) > 1 or all(view.held is not None for view in views))
        return [_Seen(view, self._consumer(*pair, view), refitted) for pair, view in zip(pairs, views, strict=True)]

    def _consumer(self, member: Member, layer: Layer, view: View) -> Consumer:
        stored = self._model.array(layer.weight)
        weight = layer.matrix(stored, precision(layer.shape(stored.shape)))[0]
        counts, each = view.counts, taps(layer)
        if is_wide(layer, self._model, self._detail.widest):  # each tap of an output is an output of its own
            weight = weight.reshape(len(weight), -1, each).transpose(0, 2, 1).reshape(len(weight) * each, -1)
            counts, each = np.repeat(counts, each), 1
        inputs = (member.places[:, :, None] * each + np.arange(each)).reshape(len(member.places), -1)
        return Consumer(weight, view.seen, view.seen if view.held is None else view.held, counts, inputs)

    def _loss(
        self,
        stand: _Stand,
        seen: Sequence[_Seen],
        weights: Sequence[npt.NDArray[np.float64]],
        removed: npt.NDArray[np.intp],
    ) -> float:
        """Return the loss of the output on held-out batches without the removed units."""
        contents = self._changed(stand.cut, stand.pairs, seen, weights, removed)
        metric, losses = self._calibration.metric, []
        outputs = self._rest.outputs(stand.replay, self._judged, contents)
        for before, after, feeds in zip(self._expected, outputs, self._feeds, strict=True):
            losses.append(metric.loss(before, after, feeds))
        return float(np.mean(losses))

    def _changed(
        self,
        cut: Cut,
        pairs: Sequence[Pair],
        seen: Sequence[_Seen],
        weights: Sequence[npt.NDArray[np.float64]],
        removed: npt.NDArray[np.intp],
    ) -> dict[str, Array]:
        """Return the constants that hold other numbers without the removed units, their consumers refitted."""
        contents = self._without(cut, removed)
        for (_, layer), each, weight in zip(pairs, seen, weights, strict=True):
            whole, count = weight, taps(layer) if is_wide(layer, self._model, self._detail.widest) else 1
            if count > 1:
                whole = weight.reshape(-1, count, weight.shape[1]).transpose(0, 2, 1).reshape(len(weight) // count, -1)
            contents[layer.weight] = layer.stored(whole[None], self._model.array(layer.weight))
            if layer.bias is not None and each.refitted:
                like = self._model.array(layer.bias)
                moved = (each.consumer.weight - weight) @ each.view.mean[0]
                added = layer.added(like) + moved.reshape(-1, count).sum(1)
                contents[layer.bias] = layer.stored_bias(added, like)
        return contents

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
