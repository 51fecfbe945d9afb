"""Two models timed in turns: ratios with intervals, over threads and batches, and by kinds of node."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune import check
from onnxprune.data.batching import filled, fixed_batches, samples_in
from onnxprune.data.samples import Data, runs
from onnxprune.errors import ModelError, OptionError
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array
from onnxprune.runtime.memory import free_memory_bytes
from onnxprune.runtime.session import Session
from onnxprune.runtime.timing import NodeTime, time_interleaved

RESAMPLES = 2000  # of the bootstrap
# Two sessions of one and the same model differ by up to 2 % for as long as they live (measured on ONNX Runtime
# 1.32): their buffers lie elsewhere. No number of rounds averages that out, so it counts as noise.
FLOOR = 0.02
WIDE = 0.025  # of a ratio: with more than that as half of its 95 % interval, it is not sure
QUANTILES = tuple(range(0, 101, 5))  # percent
_SPARE = 0.9  # of the free memory that a combination may take

Times = npt.NDArray[np.float64]  # [rounds], in ms
Open = Callable[[int], tuple[Session, Session]]  # both models, with so many threads
Feeds = Callable[[int, tuple[Session, Session]], Mapping[str, Array]]  # so many samples
Peaks = Callable[[Mapping[str, Array], int], tuple[int | None, int | None]]  # of a run with so many threads


@dataclass(frozen=True)
class Throughput:
    """Both models with one count of threads and one batch."""

    threads: int
    batch: int
    before_ms: float | None  # medians; None where it was not run
    after_ms: float | None
    before_per_s: float | None  # samples per second
    after_per_s: float | None
    speedup: float | None
    speedup_interval: tuple[float, float] | None
    within_noise: bool | None
    why_not: str | None = None  # why it was not run


@dataclass(frozen=True)
class OpTime:
    """The nodes of one type, in one run of each model, by the runtime's own profile."""

    op: str
    nodes_before: int
    nodes_after: int
    before_ms: float
    after_ms: float


def interval(before_ms: Times, after_ms: Times, seed: int, percent: float = 50) -> tuple[float, float]:
    """Return the 95 % interval of the ratio of medians (or another quantile), by a moving-block bootstrap over rounds.

    Blocks of neighbours (Künsch 1989), because a disturbance lasts for more than one round.
    """
    rng = np.random.default_rng(seed)
    n = len(before_ms)
    length = max(1, round(n ** (1 / 3)))
    starts = rng.integers(0, n, (RESAMPLES, math.ceil(n / length)))
    rounds = ((starts[:, :, None] + np.arange(length)) % n).reshape(RESAMPLES, -1)[:, :n]
    old, new = (_quantile(times[rounds], percent) for times in (before_ms, after_ms))
    ratios = old / new
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)


def _quantile(times: Times, percent: float) -> Times:
    """Return a quantile of each row; `np.median` is faster than a percentile, and the same at 50."""
    quantiles: Times = np.median(times, axis=1) if percent == 50 else np.percentile(times, percent, axis=1)
    return quantiles


def is_noise(bounds: tuple[float, float]) -> bool:
    """Whether an interval of a ratio contains 1, or comes within `FLOOR` of it."""
    return bounds[0] <= 1 + FLOOR and bounds[1] >= 1 - FLOOR


def by_op(before: Sequence[NodeTime], after: Sequence[NodeTime]) -> tuple[OpTime, ...]:
    """Return the times of nodes by type, the longest first."""
    ops = dict.fromkeys(node.op for node in (*before, *after))
    rows = [
        OpTime(op, len(old), len(new), sum(old), sum(new))
        for op in ops
        for old, new in [[[node.ms for node in nodes if node.op == op] for nodes in (before, after)]]
    ]
    return tuple(sorted(rows, key=lambda row: -max(row.before_ms, row.after_ms)))


# -- over threads and batches --------------------------------------------------------------------------------


def checked_sweep(name: str, value: object, least: int) -> tuple[int, ...]:
    """Return several counts, each once; raise OptionError for anything else."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise OptionError(f"{name} must be a list of whole numbers, got {value!r}")
    return tuple(dict.fromkeys(check.count(name, each, least) for each in value))


def check_open_batch(inputs: Sequence[Port], wanted: Sequence[int]) -> None:
    """Raise OptionError for batches that the model, or a shape that the user fixed, does not take."""
    fixed = fixed_batches(inputs)
    if wanted and fixed:
        name, size = next(iter(fixed.items()))
        raise OptionError(
            f"sweep_batch needs an open batch, but the first dim of input {name!r} is fixed to {size}: export the "
            "model with a dynamic one"
        )


def resized(data: Data, batch: int) -> dict[str, Array]:
    """Return the first `batch` samples of the data of one shape, from the start again where there are fewer.

    Where the model fixes the number of samples, the feeds hold so many.
    """
    batch = data.batch.of(batch)
    return data.take(filled(next(runs(data, batch)), batch))


def sweep(
    threads: Sequence[int],
    sizes: Sequence[int],
    opened: Open,
    feeds: Feeds,
    peaks: Peaks,
    *,
    budget_s: float,
    seed: int,
    inputs: Sequence[Port] = (),
) -> Iterator[Throughput]:
    """Yield both models timed in turns for every count of threads and batch; `why_not` names what memory excludes.

    Args:
        threads: counts of threads.
        sizes: batches, in samples.
        opened: makes the sessions.
        feeds: makes the inputs.
        peaks: measures the memory of both models.
        budget_s: time for the timed runs of each combination.
        seed: of the bootstrap.
        inputs: of the models: they say along which axis samples lie.
    """
    needs = None
    for count in threads:
        pair = opened(count)
        for batch in sizes:
            try:
                if needs is None and max(sizes) > 1:
                    needs = _needs([feeds(n, pair) for n in (1, 2)], peaks, count)
                why_not = None if needs is None else _too_large(batch, *needs)
                if why_not is None:
                    fed = feeds(batch, pair)
                    yield _throughput(count, fed, pair, budget_s, seed, samples_in(fed, inputs))
                    continue
            except (ModelError, MemoryError) as error:
                why_not = str(error) or "out of memory"
            yield Throughput(count, batch, None, None, None, None, None, None, None, why_not)


def _needs(two: Sequence[Mapping[str, Array]], peaks: Peaks, threads: int) -> tuple[int, int] | None:
    """Return the memory of both models for one sample, and what each further one takes; None if it is not known."""
    one, more = (peaks(feeds, threads) for feeds in two)
    known = [peak for peak in (*one, *more) if peak is not None]
    if len(known) < 4:
        return None
    return known[0] + known[1], max(0, known[2] + known[3] - known[0] - known[1])


def _too_large(batch: int, one: int, further: int) -> str | None:
    free = free_memory_bytes()
    wanted = one + (batch - 1) * further
    if free is None or wanted <= _SPARE * free:
        return None
    return f"both models would take about {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


def _throughput(  # noqa: PLR0917 - as its caller has them
    threads: int, feeds: Mapping[str, Array], pair: tuple[Session, Session], budget_s: float, seed: int, batch: int
) -> Throughput:
    before_ms, after_ms = time_interleaved([session.timed(session.taken(feeds)) for session in pair], budget_s=budget_s)
    bounds = interval(before_ms, after_ms, seed)
    old, new = float(np.median(before_ms)), float(np.median(after_ms))
    return Throughput(
        threads, batch, old, new, 1000 * batch / old, 1000 * batch / new, old / new, bounds, is_noise(bounds)
    )
