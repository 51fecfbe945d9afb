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


def between(first, second, **weights):
    """Return a network of two layers with a ReLU between them, its images, and how it is pruned by weights alone."""
    proto = model(first, "b = Relu(a)", second, x="float[n,6,4,4] x", **weights)
    drawn = np.random.default_rng(0).standard_normal((64, 2, 4, 4))
    images = np.einsum("nchw,ck->nkhw", drawn, array("directions", (2, 6))).astype(np.float32)
    return proto, {"x": images}, {"criterion": "l2", "reconstruct": True, "latency": False}


def last(report):
    return report["reconstruction"][-1]


WIDE_KINDS = {
    "1x1": ("y = Conv(b, w2, b2)", lambda units: (4, units, 1, 1)),
    "3x3": ("y = Conv<pads=[1,1,1,1]>(b, w2, b2)", lambda units: (4, units, 3, 3)),
    "transposed": ("y = ConvTranspose<strides=[2,2]>(b, w2, b2)", lambda units: (units, 4, 2, 2)),
    "transposed 1x1": ("y = ConvTranspose(b, w2, b2)", lambda units: (units, 4, 1, 1)),
}


def convolutions(kind, units):
    second, shape = WIDE_KINDS[kind]
    weights = {"w1": (units, 6, 1, 1), "b1": (units,), "w2": shape(units), "b2": (4,)}
    return between("a = Conv(x, w1, b1)", second, **weights)


@pytest.mark.parametrize("kind", WIDE_KINDS)
def test_a_wide_convolution_takes_no_memory_of_its_square(kind, peak):
    """A square of its channels takes 288 MB."""
    proto, images, options = convolutions(kind, 6_000)
    fitted = last(prune(proto, 0.5, data=images, **options).report)
    assert (fitted["form"], fitted["why_not"]) == ("rows", None)
    assert fitted["error_after"] < 0.5 * fitted["error_before"]
    assert peak() < 150e6


@pytest.mark.parametrize("kind", WIDE_KINDS)
def test_a_convolution_of_many_channels_is_fitted_as_one_of_few(kind, monkeypatch):
    """Outputs are fitted where channels would be mixed by a square matrix: in what they give, both are alike."""
    proto, images, options = convolutions(kind, 96)
    errors = []
    for most in (2048, 16):
        monkeypatch.setattr(refit, "MOST_MIXED", most)
        monkeypatch.setattr(refit, "WIDEST", 50)
        errors.append(last(prune(proto, 0.5, data=images, **options).report)["error_after"])
    assert errors[1] < 0.1
    assert abs(errors[0] - errors[1]) < 0.05


def test_a_layer_of_many_outputs_keeps_rows_and_no_products(peak, monkeypatch):
    x, (groups, outs, ins) = wide_rows(60, 0)[None, :, :800], (1, 20_000, 800)
    monkeypatch.setattr(moments, "MOST_PRODUCTS", 2**23)
    train, held = Moments(groups, ins, outs), Moments(groups, ins, outs)
    weight = np.full((1, outs, ins), 1e-3, np.float32)
    y = x @ (1.3 * weight[0].T)
    train.add(x[:, :45], y[:, :45])
    held.add(x[:, 45:], y[:, 45:])
    fitted = fit(train, held, weight, np.zeros((1, outs)))
    assert fitted.form == "rows"
    assert fitted.error_after < 0.5 * fitted.error_before
    assert fitted.weight.dtype == np.float32
    assert peak() < 4.5 * weight.nbytes  # with it: the fit to the first rows, that to all, and what is on the way


@pytest.mark.parametrize("bias", [True, False])
def test_groups_that_are_too_wide_are_fitted_one_after_the_other(monkeypatch, bias):
    weights = {"w0": (20, 6, 1, 1), "w1": (24, 20, 1, 1), "b1": (24,), "w2": (16, 6, 3, 3), "b2": (16,),
               "w3": (5, 16, 1, 1)}  # fmt: skip
    grouped = f"c = Conv<group=4, kernel_shape=[3,3]>({'b, w2, b2' if bias else 'b, w2'})"
    proto = model("u = Conv(x, w0)", "v = Relu(u)", "a = Conv(v, w1, b1)", "b = Relu(a)", grouped, "d = Relu(c)",
                  "y = Conv(d, w3)", x="float[n,6,6,6] x", **weights)  # fmt: skip
    images = {"x": np.random.default_rng(0).standard_normal((64, 6, 6, 6)).astype(np.float32)}
    options = {"criterion": "l2", "reconstruct": True, "min_units": 1, "round_to": 1, "latency": False}
    fits = {}
    for widest in (5120, 10):
        monkeypatch.setattr(moments, "WIDEST", widest)
        report = prune(proto, 0.5, data=images, **options).report
        fits[widest] = next(each for each in report["reconstruction"] if each["node"] == "c")
    few = fits[10]
    assert (fits[5120]["form"], few["form"], few["why_not"]) == ("gram", "rows", None)
    assert few["error_after"] < few["error_before"]
    assert few["error_after"] == pytest.approx(fits[5120]["error_after"], abs=0.05)


def test_many_groups_take_no_memory_of_all_their_products(peak):
    """These would take 410 MB."""
    groups, outs, ins = 50, 2, 1000
    assert moments.is_wide((groups, outs, ins))
    x = np.stack([np.random.default_rng(g).standard_normal((60, 8)) @ array("d", (8, ins)) for g in range(groups)])
    weight = array("weight", (groups, outs, ins))
    y = x @ (1.3 * weight.transpose(0, 2, 1))
    train, held = Moments(groups, ins, outs), Moments(groups, ins, outs)
    train.add(x[:, :45].astype(np.float32), y[:, :45].astype(np.float32))
    held.add(x[:, 45:].astype(np.float32), y[:, 45:].astype(np.float32))
    fitted = fit(train, held, weight, np.zeros((groups, outs)))
    assert fitted.form == "rows"
    assert fitted.error_after < 0.5 * fitted.error_before
    assert fitted.weight.shape == weight.shape
    assert peak() < 150e6


def test_a_mixer_of_what_was_several_groups_keeps_the_plain_cut(monkeypatch):
    monkeypatch.setattr(moments, "WIDEST", 30)
    monkeypatch.setattr(refit, "WIDEST", 30)
    weights = {"w1": (16, 3, 1, 1), "w2": (8, 8, 3, 3), "w3": (5, 8, 1, 1)}
    grouped = "c = Conv<group=2, kernel_shape=[3,3]>(b, w2)"
    proto = model("a = Conv(x, w1)", "b = Relu(a)", grouped, "d = Relu(c)", "y = Conv(d, w3)", **weights)
    images = {"x": np.random.default_rng(0).standard_normal((64, 3, 6, 6)).astype(np.float32)}
    by_weights = {"criterion": "l2", "reconstruct": True, "min_units": 1, "round_to": 1}
    report = prune(proto, 0.5, data=images, latency=False, **by_weights).report
    assert "it had several groups before the cut" in [fit["why_not"] for fit in report["reconstruction"]]
