"""What experts do on samples: how often each is picked, and how much it adds."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from onnxprune.calibration.experts import _Factor, gates, used_experts
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from tests.support.build import dense as of_rows
from tests.support.build import model
from tests.support.experts import CONTRACTED, FUSED, FUSED_SHARES, SINGLE, mixture, parts, rows
from tests.support.unrolled import EACH, ONCE, dense, gathered


def used(proto, batch=32):
    traced = trace(load(proto))
    batches = [{"x": rows()[at : at + batch]} for at in range(0, len(rows()), batch)]
    return used_experts(traced, groups(traced), batches)


def by_hand(normalised=True):
    """Return load and output of each expert of `mixture`, from its formula."""
    weights = {each.name: each for each in mixture().graph.initializer}
    router, bias, up, down = (numpy_helper.to_array(weights[name]) for name in ("router", "bias", "up", "down"))
    scores = rows() @ router + bias
    picked = np.argsort(-scores, 1)[:, :2]
    share = np.exp(np.take_along_axis(scores, picked, 1))
    share /= (share if normalised else np.exp(scores)).sum(1, keepdims=True)
    load, output = np.zeros(4), np.zeros(4)
    for row, (which, each) in enumerate(zip(picked, share, strict=True)):
        for expert, part in zip(which, each, strict=True):
            load[expert] += part
            answer = down[expert] @ np.maximum(up[expert] @ rows()[row], 0)
            output[expert] += part * np.linalg.norm(answer)
    return load / load.mean(), output / output.mean()


@pytest.mark.parametrize(("fused", "normalised"), [(FUSED, True), (FUSED_SHARES, False)])
def test_a_fused_mixture(fused, normalised):
    (seen,) = used(mixture(fused)).values()
    load, output = by_hand(normalised)
    np.testing.assert_allclose(seen.load, load, rtol=1e-5)
    np.testing.assert_allclose(seen.output, output, rtol=1e-4)


UNROLLED = [gathered("OneHot", EACH), gathered("Equal", ONCE), dense("Gather"), dense("Slice"), dense("Equal")]


@pytest.mark.parametrize("single", [SINGLE, CONTRACTED, *UNROLLED], ids=range(7))
@pytest.mark.parametrize("batch", [64, 1])
def test_a_mixture_of_single_nodes(single, batch):
    (seen,) = used(mixture(single=single), batch).values()
    load, output = by_hand()
    np.testing.assert_allclose(seen.load, load, rtol=1e-5)
    np.testing.assert_allclose(seen.output, output, rtol=1e-4)


def with_weight_of_1(*made):
    """Return what is seen where the weight of expert 1 is made by other nodes."""
    nodes, own = parts(single=[each for node in dense() for each in (made if node.startswith("wu1") else [node])])
    little = np.full((64, 1), 1e-9, np.float32)
    proto = model(*nodes, **{**own, "x": "float[64,8] x", "y": "float[64,5] y"}, little=little)
    (seen,) = used(proto, 64).values()
    return seen


ADDED = ("wq1 = Unsqueeze(w1, last)", "ws1 = Add(wq1, little)")


def test_of_several_values_that_an_expert_adds_its_answer_is_the_widest():
    seen = with_weight_of_1(*ADDED, "one1 = Sign(ws1)", "wu1 = Mul(wq1, one1)")
    np.testing.assert_allclose(seen.output, by_hand()[1], rtol=1e-4)


def test_where_one_expert_gives_no_answer_of_its_own_load_stands_in():
    seen = with_weight_of_1(*ADDED, "wu1 = Identity(ws1)")
    np.testing.assert_array_equal(seen.output, seen.load)


def test_rows_in_another_order_than_the_scores():
    values = np.random.default_rng(0).standard_normal((3, 4, 2, 5))  # [places, experts, samples, width]
    found = _Factor("o", 1, (2, 0)).norms(values)
    expected = np.linalg.norm(values, axis=3).transpose(2, 0, 1).reshape(6, 4)
    np.testing.assert_allclose(found, expected)


def test_other_groups_are_passed_over():
    traced = trace(load(of_rows("b = Relu(a)")))
    assert used_experts(traced, groups(traced), []) == {}


@pytest.mark.parametrize(
    ("scores", "count", "largest", "expected"),
    [
        ([[1.0, 1.0, -5.0]], 2, True, [[0.5, 0.5, 0]]),
        ([[0.2, 0.3, 0.5]], 2, True, [[0, 0.375, 0.625]]),  # shares
        ([[-4.0, 4.0]], 1, False, [[1, 0]]),
    ],
)
def test_weights_of_picked_experts(scores, count, largest, expected):
    np.testing.assert_allclose(gates(np.array(scores), count, largest), expected)
