"""Two models side by side: size, latency, memory, accuracy, and how far their outputs lie apart.

Both sessions are open before anything is timed, both get the same feeds, and their runs are interleaved: the
ratio of the two medians comes with an interval, so that noise is not taken for a speedup.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import check, fidelity
from onnxprune.data import Data, batch_size, batches, samples_in, with_shapes
from onnxprune.errors import DataError, ModelError, OptionError
from onnxprune.model import Array, Model, Port, runnable
from onnxprune.probe import dynamic_dims
from onnxprune.punished import punished
from onnxprune.runtime import (
    Session,
    affinity,
    default_dims,
    node_times,
    open_session,
    peak_memory_bytes,
    provider_options,
    random_feeds,
    time_creation,
    time_interleaved,
)
from onnxprune.speed import (
    QUANTILES,
    OpTime,
    Throughput,
    by_op,
    check_open_batch,
    checked_sweep,
    interval,
    is_noise,
    resized,
    sweep,
)
from onnxprune.verify import settings

RANDOM_BATCHES = 4  # feeds on which outputs are compared when there is no data
_ASIDE = 0.25  # of the time for the timed runs: for each combination of a sweep, and for the profile of each model
NO_SHAPES: Mapping[str, Sequence[int]] = MappingProxyType({})
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Side:
    """One of the two models, measured."""

    path: str | None  # None for a model in memory
    sha256: str
    params: int
    macs: int | None  # per sample, as the caller counted them
    size_bytes: int  # on disk, external data included
    median_ms: float
    p95_ms: float
    peak_memory_bytes: int | None  # None off the CPU, or where it cannot be measured
    accuracy: float | None  # top-1, a fraction; None without labels
    creation_ms: float | None = None  # of a fresh session, median; None where it was not asked for
    quantiles_ms: tuple[float, ...] = ()  # of the timed runs: the fastest, each twentieth, the slowest
    warnings: tuple[str, ...] = ()  # what the file holds that the runtime punishes, see `punished`


@dataclass(frozen=True)
class Difference:
    """How far the outputs of two models lie apart; where any output holds floats, those alone count."""

    max_abs_diff: float | None  # None when no output can be compared; infinite when one is NaN and one is not
    max_rel_diff: float | None  # largest difference of an output over its largest magnitude; of the worst output
    snr_db: float | None  # 10 log10(signal / error) of the worst output; infinite when equal
    agreement: float | None  # share of samples with equal top-1 of the first output, if that holds class scores
    incomparable: tuple[str, ...]  # outputs whose shapes differ, as after a non-maximum suppression


@dataclass(frozen=True)
class Fidelity:
    """How much of what the first model does the second one still does."""

    kind: str  # what is compared: a key of `fidelity.KINDS`, or "function"
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    before: Side
    after: Side
    speedup: float  # median latency before / after
    speedup_interval: tuple[float, float]  # 95 %, by a bootstrap over the rounds
    within_noise: bool  # whether the interval contains 1, or comes within FLOOR of it
    difference: Difference
    samples: int  # on which outputs were compared
    feeds: str  # "data" or "random"
    provider: str
    threads: int  # 0 is ONNX Runtime's choice
    batch: int  # samples of a timed run
    runs: int  # timed runs of each model
    fidelity: Fidelity | None = None
    p95_speedup: float | None = None  # of the 95th percentiles
    p95_speedup_interval: tuple[float, float] | None = None  # None without `detail`
    affinity: tuple[int, ...] | None = None  # logical cores that the process may run on; None where nobody says
    provider_options: Mapping[str, str] = field(default_factory=dict)  # those that are not left to ONNX Runtime
    ops: tuple[OpTime, ...] = ()  # by type of node; on the CPU alone
    sweep: tuple[Throughput, ...] = ()  # with other threads and batches

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is infinite (the SNR of equal outputs) becomes None."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    metric: str | fidelity.Function | None = None,
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
        metric: what of the outputs is compared, see `fidelity.choose`; None decides by the outputs.
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
        metric = fidelity.checked_name(metric)
    detail = check.flag("detail", detail)
    sweep_threads = checked_sweep("sweep_threads", sweep_threads, 0)
    sweep_batch = checked_sweep("sweep_batch", sweep_batch, 1)
    inputs = with_shapes(_common_inputs(before, after), shapes)
    check_open_batch(inputs, sweep_batch)
    place = _Place(provider, threads, provider_options)
    pair = _open(before, place), _open(after, place)
    dims = _dims(inputs, before, pair[0], batch, seed) if data is None else {}
    feeds = random_feeds(inputs, dims, seed) if data is None else resized(data, batch_size(inputs, batch))
    found, classes, kept = _run_all(pair, _all_feeds(inputs, data, batch, seed, dims), data, metric)
    before_ms, after_ms = time_interleaved([session.timed(feeds) for session in pair], budget_s=budget_s)
    bounds = interval(before_ms, after_ms, seed)
    right = (classes.get("accuracy_before"), classes.get("accuracy_after"))
    models = before, after
    created = time_creation([lambda m=m: _open(m, place) for m in models]) if detail else (None, None)  # type: ignore[misc]
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
        return random_feeds(inputs, _dims(inputs, before, opened[0], size, seed), seed)

    swept = sweep(
        sweep_threads or ((threads,) if sweep_batch else ()),
        sweep_batch or (samples_in(feeds),),
        lambda count: (_open(before, place.with_threads(count)), _open(after, place.with_threads(count))),
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
        difference=_difference(found, classes.get("agreement")),
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


def verdict(comparison: Comparison, min_speedup: float | None, max_drop: float | None) -> list[str]:
    """Return a sentence for each bound that was missed; none is good.

    Args:
        comparison: of the models before and after.
        min_speedup: the least ratio of median latencies; None asks for nothing.
        max_drop: the largest loss of accuracy, as a fraction: 0.01 is one point; None asks for nothing.

    Raises:
        OptionError: when `max_drop` is asked for without labels, or a bound is outside its range.
    """
    check_bounds(min_speedup, max_drop)
    missed = []
    if min_speedup is not None and comparison.speedup < min_speedup:
        low, high = comparison.speedup_interval
        found = f"the speedup is {comparison.speedup:.2f}x (95 % interval {low:.2f} to {high:.2f})"
        noise = ", within noise" if comparison.within_noise else ""
        missed.append(f"{found}{noise}, asked for at least {min_speedup:.2f}x")
    if max_drop is not None:
        old, new = comparison.before.accuracy, comparison.after.accuracy
        if old is None or new is None:
            raise OptionError("max_drop needs labels: give data with an array 'labels' of class indices")
        if old - new > max_drop + 1e-12:
            fell = f"the accuracy fell by {100 * (old - new):.2f} points, from {old:.2%} to {new:.2%}"
            missed.append(f"{fell}, allowed are {100 * max_drop:.2f}")
    return missed


def check_bounds(min_speedup: float | None, max_drop: float | None) -> None:
    """Raise OptionError for bounds that nothing could miss or meet."""
    if min_speedup is not None:
        check.positive("min_speedup", min_speedup)
    if max_drop is not None:
        check.fraction("max_drop", max_drop)


def accuracy(session: Session, data: Data, batch: int) -> float:
    """Return the share of samples whose largest score in the first output is that of the label.

    Args:
        session: of a classifier: its first output is ``[samples, classes]``.
        data: samples with labels.
        batch: samples per run; must be what the model takes, see `data.batch_size`.

    Raises:
        DataError: without labels, or when the first output or the labels do not fit.
    """
    if data.labels is None:
        raise DataError("accuracy needs an array 'labels' of class indices in the data")
    right = start = 0
    for feeds in batches(data, batch):
        expected = data.labels[start : start + samples_in(feeds)]
        start += len(expected)
        right += int((fidelity.top1(session.run(feeds), expected) == expected).sum())
    return right / data.count


# -- inputs, feeds and sessions --------------------------------------------------------------------------


def _common_inputs(before: Model, after: Model) -> tuple[Port, ...]:
    """Return the inputs that both models take; a dim that one of them fixes is fixed."""
    others = {port.name: port for port in after.inputs}
    names = [port.name for port in before.inputs]
    strange = [port.name for port in after.inputs if port.name not in names]
    missing = [name for name in names if name not in others]
    if missing or strange:
        which, has, lacks = (missing, "first", "second") if missing else (strange, "second", "first")
        raise ModelError(f"the models cannot be compared: input {which[0]!r} is in the {has}, not in the {lacks}")
    return tuple(_common(port, others[port.name]) for port in before.inputs)


def _common(one: Port, other: Port) -> Port:
    if one.shape is None or other.shape is None:
        agree, shape = one.dtype == other.dtype, one.shape or other.shape
    else:
        pairs = list(zip(one.shape, other.shape, strict=False))
        fixed = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        agree = one.dtype == other.dtype and len(one.shape) == len(other.shape)
        agree = agree and all(a == b for a, b in fixed)
        shape = tuple(b if isinstance(b, int) else a for a, b in pairs)
    if not agree:
        both = " and ".join(f"{port.dtype} {port.shape and list(port.shape)}" for port in (one, other))
        raise ModelError(f"the models cannot be compared: input {one.name!r} differs, {both}")
    return Port(one.name, one.dtype, shape, one.below)


def _all_feeds(
    inputs: tuple[Port, ...], data: Data | None, batch: int, seed: int, dims: Mapping[str, int]
) -> Iterator[dict[str, Array]]:
    if data is not None:
        yield from batches(data, batch_size(inputs, batch))
        return
    yield from (random_feeds(inputs, dims, seed + i) for i in range(RANDOM_BATCHES))


def timed_feeds(
    model: Model, data: Data | None, *, batch: int, seed: int, shapes: Mapping[str, Sequence[int]] = NO_SHAPES
) -> dict[str, Array]:
    """Return what a model is timed on: the first samples of the data, random ones without any.

    Raises:
        ModelError, DataError: when the model cannot be run, or random feeds cannot be made.
    """
    inputs = with_shapes(model.inputs, shapes)
    if data is not None:
        return resized(data, batch_size(inputs, batch))
    return random_feeds(inputs, _dims(inputs, model, _open(model, _Place("cpu", 0, {})), batch, seed), seed)


def _dims(inputs: tuple[Port, ...], before: Model, session: Session, batch: int, seed: int) -> dict[str, int]:
    """Return sizes for the dynamic dims: the usual ones, or those that `verify` finds for a model that refuses them."""
    usual = default_dims(inputs, batch)
    try:
        session.run(random_feeds(inputs, usual, seed))
    except ModelError:
        try:
            found, _ = settings(before, session, None, seed)[0]
        except DataError:
            return usual  # the first error says it best, and comes again
        first = {key: batch for port in inputs for i, key in dynamic_dims(port) if i == 0}
        with contextlib.suppress(ModelError):
            session.run(random_feeds(inputs, {**found, **first}, seed))
            return {**found, **first}
        return dict(found)
    return usual


@dataclass(frozen=True)
class _Place:
    """Where sessions run."""

    provider: str
    threads: int
    asked: Mapping[str, str]

    @property
    def options(self) -> dict[str, str]:
        return provider_options(self.provider, self.asked)

    def with_threads(self, threads: int) -> _Place:
        return dataclasses.replace(self, threads=threads)


def _open(model: Model, place: _Place) -> Session:
    source, folder = runnable(model)
    return open_session(source, provider=place.provider, threads=place.threads, folder=folder, asked=place.asked)


def _ops(before: Model, after: Model, feeds: Mapping[str, Array], place: _Place, budget_s: float) -> tuple[OpTime, ...]:
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


# -- outputs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Deviation:
    """How far one output of a batch lies from the reference."""

    is_float: bool
    max_diff: float
    max_reference: float
    error: float  # sum of squares
    signal: float  # sum of squares


@dataclass(frozen=True)
class _Batch:
    """What remains of a batch that went through both models."""

    samples: int
    deviations: Mapping[str, _Deviation | None]  # by output; None where it cannot be compared


def _run_all(
    pair: tuple[Session, Session],
    all_feeds: Iterable[Mapping[str, Array]],
    data: Data | None,
    metric: str | fidelity.Function | None,
) -> tuple[list[_Batch], dict[str, float], Fidelity]:
    """Run both models over all of the data, or over random feeds; the second are the figures of class scores."""
    found: list[_Batch] = []
    tallies: list[fidelity.Tally] = []
    start = 0
    for feeds in all_feeds:
        n = samples_in(feeds)
        labels = None if data is None or data.labels is None else data.labels[start : start + n]
        before, after = (_run(session, feeds, data is None) for session in pair)
        after = {name: after[other] for name, other in _pairs(before, after)}
        tallies = tallies or [each.start() for each in _watched(before, feeds, labels, metric)]
        for tally in tallies:
            tally.add(before, after, feeds, labels)
        found.append(_Batch(n, {name: _deviation(before[name], after[name]) for name in after}))
        start += n
    classes = [tally for tally in tallies if tally.metric.kind == "classification"]
    kept = Fidelity(tallies[0].metric.kind, tallies[0].figures())
    return found, classes[0].figures() if classes else {}, kept


def _watched(
    before: Mapping[str, Array],
    feeds: Mapping[str, Array],
    labels: Array | None,
    metric: str | fidelity.Function | None,
) -> list[fidelity.Metric]:
    """Return what is compared, and class scores beside it where another metric is asked for."""
    asked = fidelity.choose(before, feeds, labels, metric)
    if metric is None or asked.kind == "classification":
        return [asked]
    return [asked, *(each for each in [fidelity.choose(before, feeds)] if each.kind == "classification")]


def _run(session: Session, feeds: Mapping[str, Array], is_random: bool) -> dict[str, Array]:
    try:
        outputs = session.run(feeds)
    except ModelError as error:
        if not is_random:
            raise
        hint = "the feeds were random, of default sizes; give real ones with --data"
        raise ModelError(f"{error} ({hint})") from None
    if not outputs:
        raise ModelError("the models cannot be compared: no output is a tensor")
    return outputs


def _pairs(before: Mapping[str, Array], after: Mapping[str, Array]) -> list[tuple[str, str]]:
    """Return which outputs belong together: those of equal names, or all by position if no name is shared."""
    shared = [(name, name) for name in before if name in after]
    if len(before) != len(after) or 0 < len(shared) < len(before):
        both = f"{', '.join(before)} in the first, {', '.join(after)} in the second"
        raise ModelError(f"the models cannot be compared: their outputs differ, {both}")
    return shared or list(zip(before, after, strict=True))


def _deviation(reference: Array, other: Array) -> _Deviation | None:
    """Compare two arrays, see `fidelity.gaps`."""
    if reference.shape != other.shape or not (fidelity.is_number(reference) and fidelity.is_number(other)):
        return None
    diff, a = fidelity.gaps(reference, other), reference.astype(np.float64)
    finite = np.where(np.isfinite(a), a, 0.0)
    with np.errstate(over="ignore"):
        error, signal = float(np.square(diff).sum()), float(np.square(finite).sum())
    maxima = float(diff.max(initial=0.0)), float(np.abs(finite).max(initial=0.0))
    return _Deviation(fidelity.is_float(reference), *maxima, error, signal)


def _difference(found: Sequence[_Batch], agreement: float | None) -> Difference:
    outputs = {name: [batch.deviations[name] for batch in found] for name in found[0].deviations}
    whole = {name: _merged(parts) for name, parts in outputs.items()}
    good = [deviation for deviation in whole.values() if deviation is not None]
    counted = [deviation for deviation in good if deviation.is_float] or good
    return Difference(
        max_abs_diff=max((each.max_diff for each in counted), default=None),
        max_rel_diff=max((_ratio(each.max_diff, each.max_reference) for each in counted), default=None),
        snr_db=min((fidelity.snr_db(each.error, each.signal) for each in counted), default=None),
        agreement=agreement,
        incomparable=tuple(name for name, deviation in whole.items() if deviation is None),
    )


def _merged(parts: Sequence[_Deviation | None]) -> _Deviation | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return _Deviation(
        is_float=known[0].is_float,
        max_diff=max(part.max_diff for part in known),
        max_reference=max(part.max_reference for part in known),
        error=sum(part.error for part in known),
        signal=sum(part.signal for part in known),
    )


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else math.inf
