"""Two models side by side: size, latency, memory, accuracy, and how far their outputs lie apart.

Both sessions are open before anything is timed, both get the same feeds, and their runs are interleaved: the
ratio of the two medians comes with an interval, so that noise is not taken for a speedup.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import check
from onnxprune.data.batching import Piece, samples_in
from onnxprune.data.caches import check_no_past
from onnxprune.data.samples import Data, as_taken, taken_by, with_shapes
from onnxprune.errors import OptionError
from onnxprune.evaluation.comparison import Comparison, Side
from onnxprune.evaluation.outputs import difference_of, run_both
from onnxprune.evaluation.place import (
    Place,
    common_inputs,
    cut_caches,
    dims_for,
    gone_caches,
    open_model,
    open_whole,
    pieces_to_compare,
    without_past,
)
from onnxprune.graph.files.write import as_file, runnable
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port
from onnxprune.graph.punished import punished
from onnxprune.graph.tensors import Array
from onnxprune.latency.bench import noise_of, raced
from onnxprune.latency.speedup import (
    QUANTILES,
    OpTime,
    Throughput,
    Times,
    by_op,
    check_open_batch,
    checked_sweep,
    interval,
    is_noise,
    resized,
    sweep,
)
from onnxprune.latency.timer import SECONDS, Timer, checked_seconds, make_timer
from onnxprune.metrics.arrays import Function
from onnxprune.metrics.kinds import checked_name
from onnxprune.runtime.chain import Chain, Runner
from onnxprune.runtime.concessions import conceded, opened_alike
from onnxprune.runtime.machine import affinity
from onnxprune.runtime.memory import peak_memory_bytes
from onnxprune.runtime.random_feeds import random_feeds
from onnxprune.runtime.room import piece_bytes
from onnxprune.runtime.session import Session
from onnxprune.runtime.stations import weight_bytes
from onnxprune.runtime.timing import node_times, time_creation, time_interleaved, time_pieces

_ASIDE = 0.25  # of the time for the timed runs: for each combination of a sweep, and for the profile of each model


@dataclass(frozen=True)
class CompareOptions:
    """How two models are compared; `checked` says which values are taken."""

    provider: str = "cpu"  # short name, see `runtime.session.PROVIDERS`
    threads: int = 1  # of each session on the CPU; 0 leaves it to ONNX Runtime
    batch: int = 1  # samples per timed run, where the model does not fix it
    budget_s: float = 10.0  # time for the timed runs of both
    rounds: int = 30  # runs of each that are timed even beyond it, up to three times of it
    seed: int = 0  # of random feeds and of the bootstrap
    memory: bool = True  # whether to measure the peak memory, which starts a process per model
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of inputs, by name, where the caller fixes them
    metric: str | Function | None = None  # what of the outputs is compared, see `metrics.kinds.choose_metric`
    detail: bool = True  # whether to time the creation of sessions and each type of node, and the 95th percentiles
    sweep_threads: Sequence[int] = ()  # counts of threads to time both with as well; those of `threads` when empty
    sweep_batch: Sequence[int] = ()  # batches to time both with as well; that of `batch` when empty
    provider_options: Mapping[str, str] = field(default_factory=dict)  # by ONNX Runtime's names
    timer: Any = None  # what tells how long a file takes, see `latency.timer.make_timer`; None: ONNX Runtime, here
    timer_seconds: float = SECONDS  # that one call of a timer may take

    def checked(self) -> CompareOptions:
        """Return the same with values of the right types.

        Raises:
            OptionError: for a value outside its range, and for other threads and batches with a timer.
        """
        if self.timer is not None and (self.sweep_threads or self.sweep_batch):
            raise OptionError("sweep_threads and sweep_batch have no effect with a timer, which has its own")
        by_name = self.metric is not None and not callable(self.metric)
        return replace(
            self,
            batch=check.count("batch", self.batch, 1),
            seed=check.count("seed", self.seed, 0),
            threads=check.count("threads", self.threads, 0),
            budget_s=check.positive("budget_s", self.budget_s),
            rounds=check.count("rounds", self.rounds, 1),
            memory=check.flag("memory", self.memory),
            metric=checked_name(self.metric) if by_name else self.metric,
            detail=check.flag("detail", self.detail) and self.timer is None,
            timer=make_timer(self.timer, self.timer_seconds),
            timer_seconds=checked_seconds(self.timer_seconds, self.timer),
            sweep_threads=checked_sweep("sweep_threads", self.sweep_threads, 0),
            sweep_batch=checked_sweep("sweep_batch", self.sweep_batch, 1),
        )

    @property
    def place(self) -> Place:
        """Where both models run."""
        return Place(self.provider, self.threads, self.provider_options)


def compare_models(
    before: Model,
    after: Model,
    *,
    data: Data | None = None,
    macs: tuple[int | None, int | None] = (None, None),
    timed: Model | None = None,
    share: float = 1.0,
    **options: Any,
) -> Comparison:
    """Return two models measured side by side, on the same feeds.

    Args:
        before: the reference.
        after: the model that is to replace it.
        data: samples, all of which are run for differences and accuracy; random feeds when None.
        macs: of both models, as the caller counted them.
        timed: what is timed and described in the place of `before`, which has the outputs; it takes the same feeds.
        share: of the rounds that a timer is usually asked for.
        **options: the fields of `CompareOptions`.

    Raises:
        ModelError: when the inputs or outputs do not match, or ONNX Runtime cannot run a model.
        DataError: when random feeds cannot be made, or outputs do not fit the labels or the metric.
        OptionError: for a value outside its range or a provider that is not here.
    """
    request = CompareOptions(**options).checked()
    with opened_alike(before, after, *([] if timed is None else [timed]), provider=request.provider):
        return _compared((before, after), request, data=data, macs=macs, timed=timed, share=share)


def _compared(
    both: tuple[Model, Model],
    request: CompareOptions,
    *,
    data: Data | None,
    macs: tuple[int | None, int | None],
    timed: Model | None,
    share: float,
) -> Comparison:
    """Return two models measured, with arguments as of `compare_models`."""
    before, after = both
    models, place, seed = (timed or before, after), request.place, request.seed
    inputs = _inputs(before, after, request)
    caches, left_out = cut_caches(before, after)
    gone = gone_caches(before, after, left_out)
    check_no_past(data, caches)
    pair, request = _opened(both, place, request)
    data = None if data is None else taken_by(pair[0].run, as_taken(data, inputs), request.batch)
    feeds, compared = _feeds(inputs, before, pair[0], data, request, caches=caches)
    batches, classes, fidelity = run_both(pair, compared, data, request.metric, left_out)
    times = before_ms, after_ms = _latencies(models, lambda: _clocked(pair, timed, place), feeds, request, share)
    old, new = _sides(models, feeds, times, request, macs=macs, classes=classes)
    bounds = interval(before_ms, after_ms, seed)
    return Comparison(
        before=old,
        after=new,
        speedup=old.median_ms / new.median_ms,
        speedup_interval=bounds,
        within_noise=is_noise(bounds),
        difference=difference_of(batches, classes.get("agreement"), sorted(left_out.difference(gone)), gone),
        samples=sum(part.samples for part in batches),
        feeds="random" if data is None else "data",
        provider=request.provider,
        threads=request.threads,
        batch=samples_in(feeds, inputs),
        runs=len(before_ms),
        fidelity=fidelity,
        p95_speedup=old.p95_ms / new.p95_ms,
        p95_speedup_interval=interval(before_ms, after_ms, seed, 95) if request.detail else None,
        affinity=affinity(),
        provider_options=place.options,
        sweep=_swept(models, feeds, request, inputs, data),
        ops=_ops(*models, feeds, place, _ASIDE * request.budget_s) if request.detail else (),
        timer=None if request.timer is None else request.timer.name,
    )


def _opened(
    models: tuple[Model, Model], place: Place, request: CompareOptions
) -> tuple[tuple[Runner, Runner], CompareOptions]:
    """Return what runs both models, and what is measured of them.

    Where one of them does not fit the memory, both are chains, and what needs whole sessions is left out.
    """
    before, after = (open_model(model, place) for model in models)
    chained = isinstance(before, Chain), isinstance(after, Chain)
    if not any(chained):
        return (before, after), request
    request = replace(request, memory=False, detail=False, sweep_threads=(), sweep_batch=())
    if all(chained):
        return (before, after), request
    first, second = (Chain(model, threads=place.threads) for model in models)
    return (first, second), request


def _clocked(pair: tuple[Runner, Runner], timed: Model | None, place: Place) -> tuple[Runner, Runner]:
    """Return what is timed of an opened pair: `timed`, opened as they are, stands for the first where it is given."""
    if timed is None:
        return pair
    return Chain(timed, threads=place.threads) if isinstance(pair[0], Chain) else open_whole(timed, place), pair[1]


def _feeds(
    inputs: tuple[Port, ...],
    before: Model,
    session: Runner,
    data: Data | None,
    request: CompareOptions,
    *,
    caches: Collection[str],
) -> tuple[dict[str, Array], Iterator[Piece]]:
    """Return what both models are timed on, and what their outputs are compared on; `caches` are those that differ."""
    batch, seed = request.batch, request.seed
    if data is not None:
        return resized(data, batch), pieces_to_compare(inputs, data, batch, seed, {})
    dims, shown = dims_for(inputs, before, session, batch, seed), without_past(inputs, caches)
    sizes = dims if shown == inputs else dims_for(shown, before, session, batch, seed)
    return random_feeds(inputs, dims, seed), pieces_to_compare(shown, None, batch, seed, sizes, caches=caches)


def _inputs(before: Model, after: Model, request: CompareOptions) -> tuple[Port, ...]:
    """Return the inputs that both models take, in the shapes that the options fix."""
    inputs = with_shapes(common_inputs(before, after), request.shapes)
    check_open_batch(inputs, request.sweep_batch)
    return inputs


def _latencies(
    models: tuple[Model, Model],
    opened: Callable[[], tuple[Runner, Runner]],
    feeds: Mapping[str, Array],
    request: CompareOptions,
    share: float,
) -> Sequence[Times]:
    """Return the latencies of both in ms, as a timer of the user tells them, or as they are here.

    Of the rounds that a timer is usually asked for, a `share` is made.
    """
    timer: Timer | None = request.timer
    if timer is None:
        return _timed(opened(), feeds, request)
    with as_file(models[0]) as before, as_file(models[1]) as after:
        return raced(timer, before, after, noise_of(timer, before, models[0].sha256()), share)


def _timed(
    pair: tuple[Runner, Runner], feeds: Mapping[str, Array], request: CompareOptions
) -> list[npt.NDArray[np.float64]]:
    """Return the latencies of both in ms; nothing else runs meanwhile. Chains are timed piece by piece."""
    before, after = pair
    if isinstance(before, Chain) and isinstance(after, Chain):
        return _timed_by_piece(before, after, feeds, request)
    assert isinstance(before, Session)
    assert isinstance(after, Session)  # see `_opened`: both are chains, or none is
    runs = [session.timed(session.taken(feeds)) for session in (before, after)]
    return time_interleaved(runs, budget_s=request.budget_s, min_rounds=request.rounds)


def _timed_by_piece(
    before: Chain, after: Chain, feeds: Mapping[str, Array], request: CompareOptions
) -> list[npt.NDArray[np.float64]]:
    """Return the latencies of two chains in ms, of which one piece each is open at a time."""
    runs = ((session.timed(fed) for session, fed in chain.pieces(chain.taken(feeds))) for chain in (before, after))
    pairs = itertools.zip_longest(*runs)
    count = math.ceil(weight_bytes(before.model) / piece_bytes())
    return time_pieces(pairs, count, budget_s=request.budget_s, min_rounds=request.rounds)


def _sides(
    models: tuple[Model, Model],
    feeds: Mapping[str, Array],
    timed: Sequence[npt.NDArray[np.float64]],
    options: CompareOptions,
    *,
    macs: tuple[int | None, int | None],
    classes: Mapping[str, float],
) -> list[Side]:
    """Return the measurements of each model; `timed` are the latencies of each, in ms."""
    creation: Sequence[float | None] = (None, None)
    if options.detail:
        creation = time_creation([partial(open_whole, model, options.place) for model in models])
    accuracies = classes.get("accuracy_before"), classes.get("accuracy_after")
    return [
        _side(
            model,
            latencies_ms,
            count,
            accuracy,
            provider=options.provider,
            memory_bytes=_peak(model, feeds, options.provider, options.threads) if options.memory else None,
            creation_ms=creation_ms,
        )
        for model, latencies_ms, count, accuracy, creation_ms in zip(
            models, timed, macs, accuracies, creation, strict=True
        )
    ]


def _sized_feeds(
    batch: int,
    pair: tuple[Runner, Runner],
    *,
    inputs: tuple[Port, ...],
    before: Model,
    data: Data | None,
    seed: int,
) -> Mapping[str, Array]:
    """Return feeds of a batch: the first samples of the data; without data, random ones of sizes that are taken."""
    if data is not None:
        return resized(data, batch)
    return random_feeds(inputs, dims_for(inputs, before, pair[0], batch, seed), seed)


def _swept(
    models: tuple[Model, Model],
    feeds: Mapping[str, Array],
    options: CompareOptions,
    inputs: tuple[Port, ...],
    data: Data | None,
) -> tuple[Throughput, ...]:
    """Return both models timed with other threads and batches, as the options ask for.

    Args:
        models: before and after.
        feeds: of the batch of `options`.
        options: which threads and batches.
        inputs: of the models.
        data: samples, to make feeds of other batches from.
    """
    before, after = models
    place = options.place
    sized = partial(_sized_feeds, inputs=inputs, before=before, data=data, seed=options.seed)
    points = sweep(
        options.sweep_threads or ((options.threads,) if options.sweep_batch else ()),
        options.sweep_batch or (samples_in(feeds, inputs),),
        lambda count: (open_whole(before, place.with_threads(count)), open_whole(after, place.with_threads(count))),
        sized if options.sweep_batch else lambda *_: feeds,
        lambda fed, count: (_peak(before, fed, options.provider, count), _peak(after, fed, options.provider, count)),
        budget_s=_ASIDE * options.budget_s,
        seed=options.seed,
        inputs=inputs,
    )
    return tuple(points)


def _ops(before: Model, after: Model, feeds: Mapping[str, Array], place: Place, budget_s: float) -> tuple[OpTime, ...]:
    """Return the time of each type of node; none off the CPU, where the profile shows when work was handed over."""
    if place.provider != "cpu":
        return ()
    sources = runnable(before), runnable(after)
    old, new = (
        node_times(source, feeds, threads=place.threads, folder=folder, budget_s=budget_s) for source, folder in sources
    )
    return by_op(old, new)


def _peak(model: Model, feeds: Mapping[str, Array], provider: str, threads: int) -> int | None:
    if provider != "cpu":  # the memory of a device is not seen from the process
        return None
    source, folder = runnable(model)
    return peak_memory_bytes(source, feeds, provider=provider, threads=threads, folder=folder)


def _side(
    model: Model,
    latencies_ms: npt.NDArray[np.float64],
    macs: int | None,
    accuracy: float | None,
    *,
    provider: str,
    memory_bytes: int | None,
    creation_ms: float | None,
) -> Side:
    return Side(
        path=None if model.file.path is None else str(model.file.path),
        sha256=model.sha256(),
        params=model.stored_params,
        macs=macs,
        size_bytes=model.size_bytes(),
        median_ms=float(np.median(latencies_ms)),
        p95_ms=float(np.percentile(latencies_ms, 95)),
        peak_memory_bytes=memory_bytes,
        accuracy=accuracy,
        creation_ms=creation_ms,
        quantiles_ms=tuple(map(float, np.percentile(latencies_ms, QUANTILES))),
        warnings=(*punished(model), *conceded(model, provider)),
    )
