"""Ratios with intervals, sweeps over threads and batches, time by type of node."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.data.samples import Data
from onnxprune.errors import ModelError, OptionError
from onnxprune.graph.ports import Port
from onnxprune.latency.speedup import by_op, check_open_batch, checked_sweep, interval, is_noise, resized, sweep
from onnxprune.runtime.timing import NodeTime


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(0.2, 5), st.integers(0, 10**6), st.floats(0.001, 0.05))
def test_the_interval_contains_the_true_ratio(ratio, seed, spread):
    """Nine intervals of one experiment hold it, but for one or two: 95 % of them should."""
    rng = np.random.default_rng(seed)
    held = 0
    for trial in range(9):
        # Latencies have a floor and a tail; a drift is common to both models of a round.
        drift = 1 + 0.1 * np.sin(np.arange(120) / 20)
        noise = np.exp(spread * rng.standard_normal((2, 120)))
        low, high = interval(ratio * drift * noise[0], drift * noise[1], trial)
        held += low <= ratio * (1 + 0.1 * spread) and high >= ratio * (1 - 0.1 * spread)
    assert held >= 5


def test_the_interval_of_a_quantile():
    rng = np.random.default_rng(0)
    before, after = rng.uniform(2, 4, 300), rng.uniform(1, 2, 300)
    low, high = interval(before, after, 0, 95)
    assert low < 2 < high
    slow = np.r_[np.full(90, 1.0), np.full(10, 9.0)]
    assert interval(slow, np.ones(100), 0) == (1.0, 1.0)
    assert interval(slow, np.ones(100), 0, 95)[1] == 9.0


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [((0.9, 1.1), True), ((1.01, 1.5), True), ((0.5, 0.99), True), ((1.03, 1.5), False), ((0.5, 0.97), False)],
)
def test_noise(bounds, expected):
    assert is_noise(bounds) is expected


def test_nodes_are_summed_by_type():
    before = [NodeTime("a", "Conv", 1.0, ()), NodeTime("b", "Relu", 0.5, ()), NodeTime("c", "Conv", 2.0, ())]
    after = [NodeTime("a", "Conv", 1.0, ()), NodeTime("d", "Reorder", 4.0, ())]
    found = [(row.op, row.nodes_before, row.nodes_after, row.before_ms, row.after_ms) for row in by_op(before, after)]
    assert found == [("Reorder", 0, 1, 0, 4.0), ("Conv", 2, 1, 3.0, 1.0), ("Relu", 1, 0, 0.5, 0)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "sweep_batch must be a list of whole numbers, got 3"),
        ("1,2", "sweep_batch must be a list of whole numbers, got '1,2'"),
        ([1, 0], "sweep_batch must be at least 1, got 0"),
        ([1.5], "sweep_batch must be a whole number, got 1.5"),
    ],
)
def test_sweeps_that_are_none(value, message):
    with pytest.raises(OptionError) as caught:
        checked_sweep("sweep_batch", value, 1)
    assert str(caught.value) == message


def test_a_count_is_tried_once():
    assert checked_sweep("sweep_threads", [2, 0, 2], 0) == (2, 0)


def test_a_fixed_batch_is_not_swept():
    fixed = [Port("x", np.dtype("f4"), (4, 3))]
    check_open_batch(fixed, ())
    check_open_batch([Port("x", np.dtype("f4"), ("n", 3))], (1, 2))
    with pytest.raises(OptionError) as caught:
        check_open_batch(fixed, (1, 2))
    assert str(caught.value) == (
        "sweep_batch needs an open batch, but the first dim of input 'x' is fixed to 4: export "
        "the model with a dynamic one"
    )


@pytest.mark.parametrize(("batch", "rows"), [(2, [0, 1]), (3, [0, 1, 2]), (7, [0, 1, 2, 0, 1, 2, 0])])
def test_samples_begin_again(batch, rows):
    data = Data({"x": np.arange(3, dtype=np.float32)[:, None]}, None, 3)
    assert resized(data, batch)["x"][:, 0].tolist() == rows


# -- sweeps ----------------------------------------------------------------------------------------------------


def swept(threads, sizes, *, fails=(), peak=lambda n: n, free=10**12, monkeypatch):
    """Return a sweep over sessions that are none; the first model takes 2 ms, the second 1 ms."""
    monkeypatch.setattr(
        "onnxprune.latency.speedup.time_interleaved", lambda *_, **__: [np.full(9, 2.0), np.full(9, 1.0)]
    )
    monkeypatch.setattr("onnxprune.latency.speedup.free_memory_bytes", lambda: free)

    def timed(feeds):
        if len(feeds["x"]) in fails:
            raise ModelError("ONNX Runtime cannot run the model: no memory")

    session = SimpleNamespace(timed=timed, taken=dict)
    return list(
        sweep(
            threads,
            sizes,
            lambda _: (session, session),
            lambda size, _: {"x": np.zeros((size, 1))},
            lambda feeds, _: (peak(len(feeds["x"])), peak(len(feeds["x"]))),
            budget_s=1.0,
            seed=0,
        )
    )


def test_every_combination_is_timed(monkeypatch):
    found = swept([1, 2], [1, 4], monkeypatch=monkeypatch)
    assert [(each.threads, each.batch) for each in found] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    assert (found[1].before_per_s, found[1].after_per_s) == (2000.0, 4000.0)
    assert (found[1].before_ms, found[1].after_ms, found[1].speedup) == (2.0, 1.0, 2.0)
    assert (found[1].speedup_interval, found[1].within_noise, found[1].why_not) == ((2.0, 2.0), False, None)


def test_what_memory_does_not_hold_is_not_run(monkeypatch):
    gigabytes = 10**9
    found = swept([1], [1, 100], peak=lambda n: n * gigabytes, free=20 * gigabytes, monkeypatch=monkeypatch)
    assert found[0].speedup == 2.0
    assert found[1].speedup is None
    assert found[1].why_not == "both models would take about 200.0 GB, and 20.0 GB are free"


def test_memory_that_is_not_known_forbids_nothing(monkeypatch):
    assert swept([1], [1, 100], peak=lambda _: None, free=1, monkeypatch=monkeypatch)[1].speedup == 2.0
    assert swept([1], [1, 100], free=None, monkeypatch=monkeypatch)[1].speedup == 2.0


def test_a_failure_ends_one_combination(monkeypatch):
    found = swept([1], [2, 4, 8], fails=(4,), monkeypatch=monkeypatch)
    assert [each.why_not for each in found] == [None, "ONNX Runtime cannot run the model: no memory", None]
