"""The least memory that a run takes, and models that take more than is allowed."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.commands.compare import compare
from onnxprune.commands.inspect import inspect
from onnxprune.commands.prune import prune
from onnxprune.errors import DataError, ModelError, TooLarge
from onnxprune.graph.files.limits import VARIABLE
from onnxprune.graph.files.read import load
from onnxprune.graph.ports import Port
from onnxprune.graph.shapes.footprint import check_run, check_runnable, peak_bytes
from onnxprune.graph.shapes.probe import probe
from onnxprune.runtime.random_feeds import random_feeds
from tests.support.build import conv, dense, model


def test_values_count_while_they_are_alive():
    loaded = load(dense("r = Relu(a)", "b = Add(r, a)", mid=16))
    sizes = {"x": 1, "a0": 10, "a": 100, "r": 1000, "b": 10_000, "y": 100_000}
    assert peak_bytes(loaded, sizes) == (110_000, "MatMul 'y'")
    assert peak_bytes(loaded, {**sizes, "y": 0}) == (11_100, "Add 'b'")
    assert peak_bytes(loaded, {"x": 7}) == (7, "")


def test_gates_of_all_steps_count():
    """Two directions of eight units at 10 steps and 2 samples: four gates of each."""
    weights = {"w": np.ones((2, 32, 3)), "r": np.ones((2, 32, 8))}
    graph = model(
        "y = LSTM<hidden_size = 8, direction = \"bidirectional\">(x, w, r)", x="float[10,2,3] x", y="float[10,2,2,8] y",
        infer=False, **{name: value.astype(np.float32) for name, value in weights.items()},
    )  # fmt: skip
    values, gates = 4 * 10 * 2 * 3 + 4 * 10 * 2 * 16, 4 * 10 * 2 * 64
    assert peak_bytes(load(graph), {"x": 4 * 10 * 2 * 3, "y": 4 * 10 * 2 * 16}) == (values + gates, "LSTM 'y'")


@pytest.mark.parametrize(
    ("proto", "text"),
    [
        (
            dense("big = Expand(one, n)", "s = ReduceMax<keepdims = 0>(big)", "c = Add(a, s)", "b = Relu(c)",
                  infer=False, y="float[n,5] y", mid=16, one=np.ones(1, np.float32), n=np.array([10**10])),
            r"a run of the model, at \w+ '\w+', would take 40 GB of memory, more than the 1.61 GB that are allowed .* "
            r"smaller sizes with --input. The largest value is 'big' \[10000000000\]",
        ),
        (
            conv("b = Relu(a)", mid=16, x="float[n,3,100000,100000] x", y="float[n,5,h,w] y", infer=False),
            "The largest value is 'a'",
        ),
    ],
    ids=["constant", "input"],
)  # fmt: skip
def test_what_no_run_can_hold_is_refused(proto, text):
    with pytest.raises(ModelError, match=text):
        prune(proto, 0.5, criterion="l2", latency=False)


def test_what_no_run_can_hold_is_not_inspected():
    with pytest.raises(ModelError, match=r"would take \S+ TB of memory"):
        inspect(conv("b = Relu(a)", mid=16, x="float[n,3,100000,100000] x", y="float[n,5,h,w] y", infer=False))


def test_models_that_are_compared_are_bounded(tmp_path):
    path = tmp_path / "wide.onnx"
    wide = conv("b = Relu(a)", mid=16, x="float[1,3,100000,100000] x", y="float[1,5,100000,100000] y", infer=False)
    path.write_bytes(wide.SerializeToString())
    with pytest.raises(ModelError, match=f"{path}: a run of the model, at Relu 'b', would take 2.88 TB"):
        compare(path, path)


def test_sizes_of_dynamic_dims_are_bounded():
    """At a batch of one the model fits, at two and more it does not."""
    loaded = load(model("y = Relu(x)", x="float[n,20000000] x", y="float[n,20000000] y", infer=False))
    check_runnable(loaded, probe(loaded))
    check_run(loaded, {"n": 1})
    with pytest.raises(TooLarge, match=r"would take 3\.2 GB .* The largest value is 'x' \[4, 20000000\]"):
        check_run(loaded, {"n": 4})


def test_the_limit_is_stated(monkeypatch):
    proto = dense("b = Relu(a)", mid=16)
    monkeypatch.setenv(VARIABLE, "0")
    with pytest.raises(DataError, match="set ONNXPRUNE_MAX_BYTES to allow more"):
        prune(proto, 0.5, criterion="l2", latency=False)
    monkeypatch.setenv(VARIABLE, "1MB")
    assert prune(proto, 0.5, criterion="l2", latency=False).report["verification"]["passed"]


def test_random_feeds_are_bounded():
    ports = [Port("x", np.dtype("f4"), tuple(f"d{i}" for i in range(40))), Port("n", np.dtype("i8"), (1,))]
    with pytest.raises(TooLarge, match=r"random values for the inputs would take .* The largest input is 'x' \[17, 17"):
        random_feeds(ports, {f"d{i}": 17 for i in range(40)}, 0)
