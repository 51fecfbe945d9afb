"""Two models side by side: size, latency, memory, accuracy, and how far their outputs lie apart.

Both sessions are open before anything is timed, both get the same feeds, and their runs are interleaved: the
ratio of the two medians comes with an interval, so that noise is not taken for a speedup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxprune import check
from onnxprune.data.samples import Data, batch_size, samples_in, with_shapes
from onnxprune.evaluation.comparison import Comparison, Side
from onnxprune.evaluation.outputs import difference_of, run_both
from onnxprune.evaluation.place import (
    NO_OPTIONS,
    NO_SHAPES,
    Place,
    common_inputs,
    dims_for,
    feeds_to_compare,
    open_model,
)
from onnxprune.graph.model import Model
from onnxprune.graph.punished import punished
from onnxprune.graph.tensors import Array
from onnxprune.graph.write import runnable
from onnxprune.latency.speedup import (
    QUANTILES,
    OpTime,
    by_op,
    check_open_batch,
    checked_sweep,
    interval,
    is_noise,
    resized,
    sweep,
)
from onnxprune.metrics.arrays import Function
from onnxprune.metrics.kinds import checked_name
from onnxprune.runtime.machine import affinity
from onnxprune.runtime.memory import peak_memory_bytes
from onnxprune.runtime.random_feeds import random_feeds
from onnxprune.runtime.session import Session
from onnxprune.runtime.timing import node_times, time_creation, time_interleaved

_ASIDE = 0.25  # of the time for the timed runs: for each combination of a sweep, and for the profile of each model


def compare_models(
    before: Model,
    after: Model,
    *,
    data: Data | None = None,
    provider: str = "cpu",
    threads: int = 1,
    batch: int = 1,
    budget_s: float = 10.0,
    seed: int = 0,
    memory: bool = True,
    macs: tuple[int | None, int | None] = (None, None),
    shapes: Mapping[str, Sequence[int]] = NO_SHAPES,
    metric: str | Function | None = None,
    detail: bool = True,
    sweep_threads: Sequence[int] = (),
    sweep_batch: Sequence[int] = (),
    provider_options: Mapping[str, str] = NO_OPTIONS,
) -> Comparison:
    """Return two models measured side by side, on the same feeds.

    Args:
        before: the reference.
        after: the model that shall replace it.
        data: samples, all of which are run for differences and accuracy; random feeds when None.
        provider: short name, see `runtime.PROVIDERS`.
        threads: of each session on the CPU; 0 leaves it to ONNX Runtime.
        batch: samples per timed run, where the model does not fix it.
        budget_s: time for the timed runs of both.
        seed: of random feeds and of the bootstrap.
        memory: whether to measure the peak memory, which starts a process per model.
        macs: of both models, from whoever counted them.
        shapes: of inputs, by name, where the caller fixes them.
        metric: what of the outputs is compared, see `metrics.kinds.choose_metric`; None decides by the outputs.
        detail: whether to time the creation of sessions and, on the CPU, every type of node, and to tell how sure the
            ratio of the 95th percentiles is.
        sweep_threads: counts of threads to time both models with as well; those of `threads` alone when empty.
        sweep_batch: batches to time them with as well; that of `batch` alone when empty.
        provider_options: options of the provider by ONNX Runtime's names.

    Raises:
        ModelError: when the inputs or outputs do not match, or ONNX Runtime cannot run a model.
        DataError: when random feeds cannot be made, or outputs do not fit the labels or the metric.
        OptionError: for a value outside its range or a provider that is not here.
    """
    batch, seed, threads = (
        check.count("batch", batch, 1),
        check.count("seed", seed, 0),
        check.count("threads", threads, 0),
    )
    budget_s = check.positive("budget_s", budget_s)
    memory = check.flag("memory", memory)
    if metric is not None and not callable(metric):
        metric = checked_name(metric)
    detail = check.flag("detail", detail)
    sweep_threads = checked_sweep("sweep_threads", sweep_threads, 0)
    sweep_batch = checked_sweep("sweep_batch", sweep_batch, 1)
    inputs = with_shapes(common_inputs(before, after), shapes)
    check_open_batch(inputs, sweep_batch)
    place = Place(provider, threads, provider_options)
    pair = open_model(before, place), open_model(after, place)
    dims = dims_for(inputs, before, pair[0], batch, seed) if data is None else {}
    feeds = random_feeds(inputs, dims, seed) if data is None else resized(data, batch_size(inputs, batch))
    found, classes, kept = run_both(pair, feeds_to_compare(inputs, data, batch, seed, dims), data, metric)
    before_ms, after_ms = time_interleaved([session.timed(feeds) for session in pair], budget_s=budget_s)
    bounds = interval(before_ms, after_ms, seed)
    right = (classes.get("accuracy_before"), classes.get("accuracy_after"))
    models = before, after
    created = time_creation([lambda m=m: open_model(m, place) for m in models]) if detail else (None, None)  # type: ignore[misc]
    measured = (before_ms, after_ms), macs, right, created
    sides = [
        _side(
            model,
            latencies_ms,
            count,
            share,
            memory_bytes=_peak(model, feeds, provider, threads) if memory else None,
            creation_ms=made,
        )
        for model, latencies_ms, count, share, made in zip(models, *measured, strict=True)
    ]

    def sized(size: int, opened: tuple[Session, Session]) -> Mapping[str, Array]:
        if data is not None:
            return resized(data, size)
        return random_feeds(inputs, dims_for(inputs, before, opened[0], size, seed), seed)

    swept = sweep(
        sweep_threads or ((threads,) if sweep_batch else ()),
        sweep_batch or (samples_in(feeds),),
        lambda count: (open_model(before, place.with_threads(count)), open_model(after, place.with_threads(count))),
        sized if sweep_batch else lambda *_: feeds,
        lambda fed, count: (_peak(before, fed, provider, count), _peak(after, fed, provider, count)),
        budget_s=_ASIDE * budget_s,
        seed=seed,
    )
    return Comparison(
        before=sides[0],
        after=sides[1],
        speedup=sides[0].median_ms / sides[1].median_ms,
        speedup_interval=bounds,
        within_noise=is_noise(bounds),
        difference=difference_of(found, classes.get("agreement")),
        samples=sum(part.samples for part in found),
        feeds="random" if data is None else "data",
        provider=provider,
        threads=threads,
        batch=samples_in(feeds),
        runs=len(before_ms),
        fidelity=kept,
        p95_speedup=sides[0].p95_ms / sides[1].p95_ms,
        p95_speedup_interval=interval(before_ms, after_ms, seed, 95) if detail else None,
        affinity=affinity(),
        provider_options=place.options,
        ops=_ops(before, after, feeds, place, _ASIDE * budget_s) if detail else (),
        sweep=tuple(swept),
    )


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
    right: float | None,
    *,
    memory_bytes: int | None,
    creation_ms: float | None,
) -> Side:
    return Side(
        path=None if model.path is None else str(model.path),
        sha256=model.sha256(),
        params=model.params,
        macs=macs,
        size_bytes=model.size_bytes(),
        median_ms=float(np.median(latencies_ms)),
        p95_ms=float(np.percentile(latencies_ms, 95)),
        peak_memory_bytes=memory_bytes,
        accuracy=right,
        creation_ms=creation_ms,
        quantiles_ms=tuple(map(float, np.percentile(latencies_ms, QUANTILES))),
        warnings=punished(model),
    )
