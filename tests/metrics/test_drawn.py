"""Random directions of outputs: half of the mean square along them is the loss of a small change, for every kind."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.metrics.kinds import choose_metric

RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.standard_normal((4, 7)).astype(np.float32)
SURE = np.array([[14.0, 0, 0, 1], [0, 12, 1, 0]], np.float32)  # of which drawn labels would tell nothing
IDS = RNG.integers(2, 300, (2, 6))
MASKED = {"ids": IDS, "mask": np.array([[1] * 6, [1, 1, 1, 1, 0, 0]])}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


CASES = {
    "classes": ("classification", {"y": LOGITS}, {}),
    "sure": ("classification", {"y": SURE}, {}),
    "probabilities": ("classification", {"y": softmax(LOGITS)}, {}),
    "two heads": ("classification", {"y": LOGITS, "z": LOGITS[:, :3] * 0.5}, {}),
    "words": ("language model", {"y": RNG.standard_normal((2, 6, 300)).astype(np.float32)}, MASKED),
    "embedding": ("embedding", {"y": RNG.standard_normal((3, 64)).astype(np.float32)}, {}),
    "token embedding": ("embedding", {"y": RNG.standard_normal((2, 6, 64)).astype(np.float32)}, MASKED),
    "dense": ("dense", {"y": 5 + RNG.standard_normal((2, 3, 4)).astype(np.float32)}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_half_of_the_mean_square_is_the_loss(case):
    kind, outputs, feeds = CASES[case]
    metric, rng = choose_metric(outputs, feeds, None, kind), np.random.default_rng(1)
    noise = {name: rng.standard_normal(v.shape) for name, v in outputs.items()}
    if case == "probabilities":  # which stay probabilities
        changed = {"y": softmax(np.log(outputs["y"]) + 0.02 * noise["y"])}
    else:
        changed = {name: v.astype(np.float64) + 0.02 * noise[name] for name, v in outputs.items()}
    scales = metric.scales(outputs)
    along = []
    for _ in range(3000):
        drawn = metric.drawn(outputs, feeds, rng, scales)
        along.append(sum(float(((changed[n] - outputs[n]) * v).sum()) for n, v in drawn.items()))
    assert np.square(along).mean() / 2 == pytest.approx(metric.loss(outputs, changed, feeds), rel=0.12)
    assert all(v.dtype == np.float32 and v.shape == outputs[n].shape for n, v in drawn.items())


def test_padding_has_no_part():
    kind, outputs, feeds = CASES["words"]
    metric = choose_metric(outputs, feeds, None, kind)
    drawn = metric.drawn(outputs, feeds, np.random.default_rng(0), {})["y"]
    assert not drawn[1, 4:].any()
    assert drawn[1, :4].any(axis=1).all()
    slope = metric.slope(outputs, feeds, None)["y"]
    assert not slope[1, 4:].any()


def test_slopes_are_gradients_of_what_is_right():
    labels = np.array([1, 0, 3, 6])
    metric = choose_metric({"y": LOGITS}, {}, labels, None)
    expected = (np.eye(7)[labels] - softmax(LOGITS)) / 4
    assert metric.slope({"y": LOGITS}, {}, labels)["y"] == pytest.approx(expected, abs=1e-6)
    assert metric.slope({"y": LOGITS}, {}, None) is None


def test_what_is_not_finite_has_no_part():
    dense = {"y": np.array([[1.0, np.inf, 2.0, 4.0]], np.float32)}
    metric = choose_metric(dense, {}, None, "dense")
    drawn = metric.drawn(dense, {}, np.random.default_rng(0), metric.scales(dense))["y"]
    assert np.isfinite(drawn).all()
    assert drawn[0, 1] == 0
