"""The comparison of two models as values, and the bounds that it may miss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxprune import check
from onnxprune.errors import OptionError
from onnxprune.latency.speedup import OpTime, Throughput


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
    creation_ms: float | None = None  # of a fresh session, median; None where it was not measured
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
    gone: tuple[str, ...] = ()  # inputs and outputs of the first model that the second lacks: caches that went


@dataclass(frozen=True)
class Fidelity:
    """How much of what the first model does the second one still does."""

    kind: str  # what is compared: a key of `metrics.kinds.KINDS`, or "function"
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`."""

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
    affinity: tuple[int, ...] | None = None  # logical cores that the process may run on; None where unknown
    provider_options: Mapping[str, str] = field(default_factory=dict)  # those that are not left to ONNX Runtime
    ops: tuple[OpTime, ...] = ()  # by type of node; on the CPU alone
    sweep: tuple[Throughput, ...] = ()  # with other threads and batches
    timer: str | None = None  # of the user, that was asked for the latencies; None: ONNX Runtime was timed

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


def verdict(comparison: Comparison, min_speedup: float | None, max_drop: float | None) -> list[str]:
    """Return a sentence for each bound that was missed; none is good.

    Args:
        comparison: of the models before and after.
        min_speedup: the least ratio of median latencies; None sets no bound.
        max_drop: the largest loss of accuracy, as a fraction: 0.01 is one point; None sets no bound.

    Raises:
        OptionError: when `max_drop` is set without labels, or a bound is outside its range.
    """
    check_bounds(min_speedup, max_drop)
    missed = []
    if min_speedup is not None and comparison.speedup < min_speedup:
        low, high = comparison.speedup_interval
        speedup_text = f"the speedup is {comparison.speedup:.2f}x (95 % interval {low:.2f} to {high:.2f})"
        noise = ", within noise" if comparison.within_noise else ""
        missed.append(f"{speedup_text}{noise}, asked for at least {min_speedup:.2f}x")
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
