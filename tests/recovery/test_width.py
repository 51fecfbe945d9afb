"""Layers of many inputs: what they take stays in proportion, and no bit depends on cores or threads."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from onnxprune import prune
from onnxprune.algebra import blocked
from onnxprune.algebra.quadratic import Rows
from onnxprune.algebra.threads import cores_limited
from onnxprune.criteria.elimination import Consumer, eliminate
from onnxprune.recovery import moments, refit
from onnxprune.recovery.moments import Moments
from onnxprune.recovery.reconstruct import fit
from tests.support.build import ROWS, array, model

WIDTH = 7_000  # its Gram matrix takes 392 MB


@pytest.fixture
def peak():
    """A function that gives the most memory, in bytes, that was held since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def wide_rows(count, seed):
    drawn = np.random.default_rng(seed).standard_normal((count, 20)) @ array("directions", (20, WIDTH))
    return np.maximum(drawn, 0).astype(np.float32)


def test_a_wide_fit_takes_no_memory_of_its_square(peak):
    x, weight = wide_rows(60, 0), array("weight", (1, 8, WIDTH))
    y = x @ (1.3 * weight[0].T)
    train, held = Moments(1, WIDTH, 8), Moments(1, WIDTH, 8)
    train.add(x[None, :45], y[None, :45])
    held.add(x[None, 45:], y[None, 45:])
    fitted = fit(train, held, weight, np.zeros((1, 8)))
    assert fitted.form == "rows"
    assert fitted.error_after < 0.5 * fitted.error_before
    assert peak() < 60e6


def test_a_wide_elimination_takes_no_memory_of_its_square(peak):
    x, weight = wide_rows(60, 0), array("weight", (8, WIDTH))
    one = Consumer(weight, Rows(x[:45]), Rows(x[45:]), np.ones(8), np.arange(WIDTH)[:, None])
    removed = eliminate([one], [100, 1000])
    assert len(set(removed.order.tolist())) == 1000
    assert removed.errors[0] <= removed.errors[1]
    assert peak() < 60e6


def test_a_unit_of_many_inputs(peak):
    """As behind a Flatten: 7 channels of 1,000 places each."""
    x, weight = wide_rows(60, 0), array("weight", (8, WIDTH))
    one = Consumer(weight, Rows(x), Rows(x), np.ones(8), np.arange(WIDTH).reshape(7, 1000))
    assert len(set(eliminate([one], [3]).order.tolist())) == 3
    assert peak() < 60e6


def tower(units):
    """Return a network of two layers with so many units between them."""
    return model("a = Gemm(x, w1, b1)", "b = Relu(a)", "y = Gemm(b, w2, b2)", x=ROWS, w1=(6, units), b1=(units,),
                 w2=(units, 4), b2=(4,))  # fmt: skip


def samples(count=80):
    return {"x": np.random.default_rng(0).standard_normal((count, 6)).astype(np.float32)}


def test_a_wide_layer_is_pruned_and_the_report_says_how(monkeypatch):
    monkeypatch.setattr(moments, "WIDEST", 50)
    monkeypatch.setattr(moments, "MOST_WIDE_ROWS", 64)
    monkeypatch.setattr(refit, "WIDEST", 50)
    report = prune(tower(120), 0.4, data=samples(400), latency=False).report
    last = report["reconstruction"][-1]
    assert (last["form"], last["why_not"]) == ("rows", None)
    assert 64 <= last["rows"] <= 64 + 20  # of 300; one more for each batch at most
    assert last["error_after"] < last["error_before"]


def test_no_bit_depends_on_cores_or_threads(monkeypatch, blas):
    monkeypatch.setattr(blocked, "_SMALL", 0)
    assert blas() == 2
    written = []
    for count in (1, 2, 3):
        with cores_limited(count):
            written.append(prune(tower(600), 0.4, data=samples(), latency=False).model.SerializeToString())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize(
    ("count", "why"),
    [(2, "it had several groups before the cut"), (4, "it has more than 30 inputs in each of 2 groups")],
)
def test_groups_that_are_too_wide_keep_the_plain_cut(monkeypatch, count, why):
    monkeypatch.setattr(moments, "WIDEST", 30)
    monkeypatch.setattr(refit, "WIDEST", 30)
    weights = {"w1": (8 * count, 3, 1, 1), "w2": (4 * count, 8, 3, 3), "w3": (5, 4 * count, 1, 1)}
    grouped = f"c = Conv<group={count}, kernel_shape=[3,3]>(b, w2)"
    proto = model("a = Conv(x, w1)", "b = Relu(a)", grouped, "d = Relu(c)", "y = Conv(d, w3)", **weights)
    images = {"x": np.random.default_rng(0).standard_normal((64, 3, 6, 6)).astype(np.float32)}
    by_weights = {"criterion": "l2", "reconstruct": True, "min_units": 1, "round_to": 1}
    report = prune(proto, 0.5, data=images, latency=False, **by_weights).report
    assert why in [fit["why_not"] for fit in report["reconstruction"]]
