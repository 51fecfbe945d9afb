"""Timing: latencies of several models measured in turns, of creating their sessions, and of single nodes."""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.graph.tensors import Array, Shape
from onnxprune.runtime.session import open_session

WINDOW = 5  # rounds of the medians that decide when the warm-up is over
STABLE = 0.05  # relative change of these medians that counts as none
MIN_ROUNDS = 3  # measured however slow the models are
PIECE_ROUNDS = 5  # of a piece of a model, likewise: a run or two that are held up move no median
MAX_ROUNDS = 1000
_KERNEL = "_kernel_time"  # ends the names of events that are a node's run in ORT's profile


def time_interleaved(
    runs: Sequence[Callable[[], object]],
    *,
    budget_s: float,
    min_rounds: int = 30,
    warmup_s: float | None = None,
    least: int = MIN_ROUNDS,
) -> list[npt.NDArray[np.float64]]:
    """Return the latencies in ms of each callable, ``[rounds]`` each; entry i of all is from one round.

    A round calls each once, every other round in reverse order, so that drift and the order of calls hit all
    alike. Rounds go on until `budget_s` is spent and `min_rounds` are done; slow callables stop at three
    times the budget, with `least` rounds at least, and fast ones at `MAX_ROUNDS`.

    Args:
        runs: the callables.
        budget_s: time for the measured rounds, all callables together.
        min_rounds: rounds wanted even beyond the budget.
        warmup_s: longest time of the warm-up; a third of the budget when None.
        least: rounds that are made however long they take.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        _warm_up(runs, budget_s / 3 if warmup_s is None else warmup_s)
        rounds: list[list[float]] = []
        start = time.perf_counter()
        while not _is_done(len(rounds), time.perf_counter() - start, budget_s, min_rounds, least):
            rounds.append(_round(runs, backwards=len(rounds) % 2 == 1))
    finally:
        if was_enabled:
            gc.enable()
    return list(np.array(rounds, np.float64).T)


def time_pieces(
    pairs: Iterable[Sequence[Callable[[], object] | None]],
    count: int,
    *,
    budget_s: float,
    min_rounds: int,
) -> list[npt.NDArray[np.float64]]:
    """Return the latencies in ms of two models whose pieces are timed one after the other, ``[rounds]`` each.

    A round of a model is the sum of one round of each of its pieces. Their number is that of the piece that takes
    longest, which says how sure the sums are; of a piece that was timed less often, some rounds count again. Copies
    between the pieces are not in it.

    Args:
        pairs: a piece of each model, made when it is its turn; None behind the last of the shorter model.
        count: of the pairs, about.
        budget_s: time for the measured rounds of all.
        min_rounds: as of `time_interleaved`.
    """
    pieces = []
    for pair in pairs:
        runs = [(lambda: None) if run is None else run for run in pair]
        share_s = budget_s / max(1, count)
        pieces.append(time_interleaved(runs, budget_s=share_s, min_rounds=min_rounds, least=PIECE_ROUNDS))
    longest = max(pieces, key=lambda latencies_ms: sum(float(np.median(each)) for each in latencies_ms))
    rounds = len(longest[0])
    return [np.sum([np.resize(latencies_ms[side], rounds) for latencies_ms in pieces], axis=0) for side in (0, 1)]


def _is_done(rounds: int, spent_s: float, budget_s: float, min_rounds: int, least: int) -> bool:
    if rounds >= MAX_ROUNDS:
        return True
    if rounds >= max(min_rounds, least):
        return spent_s >= budget_s
    return rounds >= least and spent_s >= 3 * budget_s


def _warm_up(runs: Sequence[Callable[[], object]], limit_s: float) -> None:
    """Run rounds until the medians of two windows in a row agree for every callable, or time is up."""
    start = time.perf_counter()
    window: list[list[float]] = []
    last = None
    while True:
        window.append(_round(runs, backwards=len(window) % 2 == 1))
        if len(window) == WINDOW:
            medians = np.median(np.array(window), axis=0)
            if last is not None and (np.abs(medians - last) <= STABLE * last).all():
                return
            last, window = medians, []
        if time.perf_counter() - start >= limit_s:
            return


def _round(runs: Sequence[Callable[[], object]], backwards: bool) -> list[float]:
    """Call each once; return the latencies in ms in the order of `runs`."""
    latencies_ms = [0.0] * len(runs)
    order = range(len(runs))
    for i in reversed(order) if backwards else order:
        start = time.perf_counter_ns()
        runs[i]()
        latencies_ms[i] = (time.perf_counter_ns() - start) / 1e6
    return latencies_ms


def time_creation(makers: Sequence[Callable[[], object]], *, rounds: int = 5, budget_s: float = 5.0) -> list[float]:
    """Return the median time in ms in which each callable makes its session: fresh ones, in turns, not the first.

    Args:
        makers: the callables; what they return is dropped at once.
        rounds: sessions of each that are measured at most.
        budget_s: time for them; one of each is measured even beyond it.
    """
    _round(makers, backwards=False)  # the first reads the file and loads libraries
    start = time.perf_counter()
    latencies_ms = [_round(makers, backwards=True)]
    while len(latencies_ms) < rounds and time.perf_counter() - start < budget_s:
        latencies_ms.append(_round(makers, backwards=len(latencies_ms) % 2 == 0))
    return [float(median) for median in np.median(np.array(latencies_ms), axis=0)]


@dataclass(frozen=True, slots=True)
class NodeTime:
    """The time of one node, as ONNX Runtime runs it after fusing and reordering."""

    name: str
    op: str
    ms: float  # mean over the runs, without the slowest quarter
    output: Shape  # of the first output


def node_times(
    source: Path | bytes,
    feeds: Mapping[str, Array],
    *,
    provider: str = "cpu",
    threads: int = 0,
    folder: Path | None = None,
    rounds: int = 10,
    budget_s: float = 10.0,
) -> list[NodeTime]:
    """Return how long each node takes, in the order in which they run, by ONNX Runtime's own profile.

    Nodes that another provider than the CPU takes whole are one node. Work that a GPU does after the call returns is
    not counted.

    Args:
        source: the file, or a serialized model.
        feeds: one array per input.
        provider: short name, see `PROVIDERS`.
        threads: as for `open_session`.
        folder: where the external data of a model in bytes lies.
        rounds: runs that are measured at most.
        budget_s: time for them; three are made even beyond it.

    Raises:
        ModelError: when ONNX Runtime cannot load or run the model.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
        session = open_session(source, provider=provider, threads=threads, folder=folder, profile=Path(scratch))
        feeds = session.taken(feeds)
        session.run(feeds)
        start, done = time.perf_counter(), 0
        while done < MIN_ROUNDS or (done < rounds and time.perf_counter() - start < budget_s):
            session.run(feeds)
            done += 1
        written = session.ort.end_profiling()
        events = json.loads(Path(written).read_text(encoding="utf-8"))
    by_node: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            by_node.setdefault(event["args"].get("node_index", "") + event["name"], []).append(event)
    return [_node_time(events[len(events) // (done + 1) :], done) for events in by_node.values()]


def _node_time(events: Sequence[dict[str, Any]], runs: int) -> NodeTime:
    """Return the time of one node in one run, of its events; a node of a loop's body has several in each."""
    durations = np.sort([event["dur"] for event in events])
    arguments = events[0]["args"]
    shape = next((tuple(dims) for out in arguments.get("output_type_shape", ()) for dims in out.values()), ())
    mean = float(durations[: max(1, 3 * len(durations) // 4)].mean())
    times = max(1, round(len(events) / runs))
    return NodeTime(events[0]["name"].removesuffix(_KERNEL), arguments["op_name"], times * mean / 1000, shape)
