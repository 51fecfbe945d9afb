"""One layer is refitted to targets that the caller has."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.graph.files.read import load
from onnxprune.graph.linear import layers
from onnxprune.recovery.alone import LEAST_ROWS, refitted, wanted_rows
from tests.support.build import ROWS, model

RNG = np.random.default_rng(0)
W, B = RNG.standard_normal((6, 5)).astype(np.float32), np.zeros(5, np.float32)


def loaded(*nodes, **weights):
    found = load(model(*nodes, x=ROWS, **weights))
    return next(iter(layers(found))), found


def seen(count, weight=W, bias=1.0, rows=100):
    for _ in range(count):
        inputs = RNG.standard_normal((rows, 6)).astype(np.float32)
        yield inputs, inputs @ weight + np.float32(bias)


def test_weight_and_bias_are_those_that_the_targets_come_from():
    layer, found = loaded("y = Gemm(x, w, b)", w=W, b=B)
    new = refitted(layer, found, {"w": np.zeros_like(W)}, seen(8), held=(3, 7), count=8, rows=4096)
    np.testing.assert_allclose(new["w"], W, atol=0.05)
    np.testing.assert_allclose(new["b"], 1, atol=0.05)


def test_nothing_is_gained_where_the_layer_gives_its_targets_already():
    layer, found = loaded("y = Gemm(x, w, b)", w=W, b=B)
    assert refitted(layer, found, {}, seen(8, bias=0.0), held=(3, 7), count=8, rows=4096) == {}


def test_a_bias_that_others_read_stays():
    layer, found = loaded("a = Gemm(x, w, b)", "c = Gemm(x, v, b)", "y = Add(a, c)", w=W, v=W, b=B)
    new = refitted(layer, found, {"w": np.zeros_like(W)}, seen(8, bias=0.0), held=(3, 7), count=8, rows=4096)
    assert list(new) == ["w"]


@pytest.mark.parametrize(("rows", "is_fitted"), [(100, True), (20, False)])
def test_of_a_single_batch_rows_are_held_out_if_there_are_enough(rows, is_fitted):
    layer, found = loaded("y = Gemm(x, w, b)", w=W, b=B)
    new = refitted(layer, found, {"w": np.zeros_like(W)}, seen(1, rows=rows), held=(), count=1, rows=4096)
    assert bool(new) == is_fitted


def test_rows_grow_with_the_inputs_within_bounds():
    assert [wanted_rows((1, 64, ins), 8192) for ins in (64, 1536, 4096)] == [LEAST_ROWS, 6144, 8192]
