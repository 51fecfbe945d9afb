"""Criteria from gradients against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.criteria.importance import score
from onnxprune.criteria.slopes import Slopes

GATES = np.array([[1.0, -2.0, 0.0], [-3.0, 2.0, 0.0]])  # of two answers, by three units
WEIGHTS = np.array([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]], np.float32)


def scores(name, slopes):
    return score(name, iter([("out", WEIGHTS)]), np.random.default_rng(0), slopes=slopes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("taylor", [2, 2, 0]), ("fisher", [2.5, 2, 0]), ("taylor-weights", [5, 6, 7]), ("taylor-elements", [1, 2, 3])],
)
def test_by_hand(name, expected):
    slopes = Slopes(GATES, np.array([5.0, 6.0, 7.0]), np.array([1.0, 2.0, 3.0]))
    assert scores(name, slopes).tolist() == expected


def test_without_gradients_weights_count():
    assert scores("fisher", None) == pytest.approx([1, 0, 2])
    assert scores("taylor-weights", Slopes(GATES)) == pytest.approx([1, 0, 2])


def test_units_that_go_together_have_one_gate():
    both = Slopes(GATES, np.ones(3)) + Slopes(-GATES, np.ones(3))
    assert scores("fisher", both).tolist() == [0, 0, 0]
    assert scores("taylor-weights", both).tolist() == [2, 2, 2]
    assert (Slopes(GATES) + Slopes(GATES)).weights is None
    assert (Slopes(GATES) + Slopes(GATES)).elements is None
    elements = Slopes(GATES, None, np.ones(3)) + Slopes(GATES, None, np.ones(3))
    assert scores("taylor-elements", elements).tolist() == [2, 2, 2]
