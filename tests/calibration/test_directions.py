"""In which directions a stream varies most."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.calibration.directions import directions, second_moments
from onnxprune.dependency.frames import Signal
from onnxprune.errors import DataError
from onnxprune.graph.files.read import load
from onnxprune.runtime.replay import Replay
from tests.support.build import model
from tests.support.streams import WIDTH, network

BATCHES = [{"x": np.random.default_rng(seed).standard_normal((2, 5, 16)).astype(np.float32)} for seed in range(3)]


def rows(model, name):
    return np.concatenate([each[name].reshape(-1, WIDTH) for each in Replay(model, BATCHES).run([name])])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_directions_are_orthogonal_and_sorted(size, seed):
    x = np.random.default_rng(seed).standard_normal((size + 3, size))
    basis, shares = directions(x.T @ x)
    np.testing.assert_allclose(basis.T @ basis, np.eye(size), atol=1e-10)
    assert (np.diff(shares) <= 1e-12).all()
    assert shares.sum() == pytest.approx(1)
    turned = x @ basis
    np.testing.assert_allclose(turned.T @ turned / (x**2).sum(), np.diag(shares), atol=1e-10)


@pytest.mark.parametrize("tapped_bytes", [1, 2**20])
def test_moments_are_of_what_layers_read_before_scale_and_offset(tapped_bytes):
    model = load(network("layer"))
    names = ("n0", "n1", "n2")
    signals = [
        Signal(name, 2, model.array(f"{name}g").astype(float), model.array(f"{name}b").astype(float)) for name in names
    ]
    told = []
    moments = second_moments(
        model, {0: signals[:2], 5: signals[2:]}, BATCHES, progress=told.append, tapped_bytes=tapped_bytes
    )
    expected = []
    for number in range(len(names)):
        x = rows(model, f"s{number}").astype(float)
        x -= x.mean(1, keepdims=True)
        x /= np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)
        expected.append(x.T @ x / len(x))
    np.testing.assert_allclose(moments[0], expected[0] + expected[1], atol=1e-3)
    np.testing.assert_allclose(moments[5], expected[2], atol=1e-3)
    assert len(told) == (3 if tapped_bytes == 1 else 1)


@pytest.mark.parametrize("tapped_bytes", [1, 2**20])
def test_places_of_fewer_rows_are_divided_by_their_own(tapped_bytes):
    """As where a head reads one token alone."""
    proto = model(
        "n = Identity(x)", "c = Gather<axis=1>(n, zero)", "y = MatMul(n, w)", "z = MatMul(c, v)",
        x=f"float[n,5,{WIDTH}] x", zero=np.array(0), w=(WIDTH, 3), v=(WIDTH, 3),
    )  # fmt: skip
    batch = {"x": np.ones((2, 5, WIDTH), np.float32)}
    signals = {0: [Signal("n", 2, None, None)], 1: [Signal("c", 1, None, None)]}
    moments = second_moments(load(proto), signals, [batch], tapped_bytes=tapped_bytes)
    np.testing.assert_array_equal(moments[0], np.ones((WIDTH, WIDTH)))
    np.testing.assert_array_equal(moments[1], np.ones((WIDTH, WIDTH)))


def test_a_unit_that_nobody_reads_counts_for_nothing():
    model = load(network("rms", n0g=np.where(np.arange(WIDTH) == 3, 0, 1).astype(np.float32)))
    gain = model.array("n0g").astype(float)
    moments = second_moments(model, {0: [Signal("n0", 2, gain, None)]}, BATCHES)[0]
    assert moments[3, 3] == 0
    assert (np.delete(np.diag(moments), 3) > 0).all()


def test_numbers_that_are_not_finite_are_refused():
    model = load(network("rms"))
    batch = {"x": np.full((1, 2, 16), np.nan, np.float32)}
    with pytest.raises(DataError, match="'n0', which layers read, holds NaN or infinite values for these samples"):
        second_moments(model, {0: [Signal("n0", 2, None, None)]}, [batch])
