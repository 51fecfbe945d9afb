"""Work of nodes: what is behind a place, with the sizes of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.planning.work import CALL, OPENED_BYTE, OPENED_NODE, WRITTEN, Work
from tests.support.build import model


def work(proto, **feeds):
    return Work(trace(load(proto)), {name: np.zeros(shape, np.float32) for name, shape in feeds.items()})


def two_layers():
    return model("a = MatMul(x, w1)", "b = Relu(a)", "y = MatMul(b, w2)", x="float[n,6] x", w1=(6, 8), w2=(8, 5))


def test_work_is_that_of_products_numbers_and_nodes():
    counted = work(two_layers(), x=(10, 6))
    products, written = 10 * (6 * 8 + 8 * 5), 10 * (8 + 8 + 5)
    assert counted.run == pytest.approx(products + WRITTEN * written + 3 * CALL)


def test_what_lies_behind_a_place():
    counted = work(two_layers(), x=(10, 6))
    last = 10 * 8 * 5 + WRITTEN * 10 * 5 + CALL
    assert counted.behind(2, 1) - counted.behind(2, 0) == pytest.approx(last)
    assert counted.behind(2, 0) == pytest.approx(OPENED_NODE + OPENED_BYTE * 8 * 5 * 4)
    assert counted.behind(2, 4) == pytest.approx(OPENED_NODE + OPENED_BYTE * 8 * 5 * 4 + 4 * last)
    assert counted.behind(0, 1) - counted.behind(0, 0) == pytest.approx(counted.run)
    assert counted.behind(3, 7) == 0


def test_work_grows_with_the_batch_and_with_other_dynamic_dims():
    proto = model("y = MatMul(x, w1)", x="float[n,length,6] x", w1=(6, 8), y="float[n,length,8] y")
    short, long, many = (work(proto, x=shape).run - CALL for shape in ((1, 5, 6), (1, 10, 6), (4, 5, 6)))
    assert long == pytest.approx(2 * short)
    assert many == pytest.approx(4 * short)


def test_nodes_of_bodies_stand_where_their_holder_does():
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)",
        "y = If (on) <then_branch = one () => (float[n,8] p) { p = MatMul(b, w2) }, "
        "else_branch = two () => (float[n,8] q) { q = MatMul(b, w3) }>",
        x="float[n,6] x, bool on", y="float[n,8] y", infer=False, w1=(6, 8), w2=(8, 8), w3=(8, 8),
    )  # fmt: skip
    traced = trace(load(proto))
    place = traced.model.places
    assert sorted(place.values()) == [0, 1, 2, 2, 2]
    counted = Work(traced, {"x": np.zeros((3, 6), np.float32), "on": np.array(True)})
    assert counted.behind(2, 1) - counted.behind(2, 0) >= 2 * 3 * 8 * 8


def test_dynamic_images_take_the_work_of_fixed_ones():
    """Strides make new sizes of those of the inputs: they are the batch's, too, and not those that a probe tried."""
    nodes = (
        "a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w1)", "b = Relu(a)",
        "c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)",
        "d = Conv<pads=[1,1,1,1]>(c, w2)", "e = Flatten(d)", "y = ReduceMean<keepdims=0>(e)",
    )  # fmt: skip
    dynamic, fixed = (
        work(model(*nodes, x=f"float[n,3,{sides}] x", w1=(8, 3, 3, 3), w2=(8, 8, 3, 3)), x=(4, 3, 96, 128)).run
        for sides in ("h,w", "96,128")
    )
    assert dynamic == pytest.approx(fixed, rel=1e-6)
