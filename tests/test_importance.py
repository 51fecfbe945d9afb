"""Criteria against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxprune.importance import CRITERIA, score

OUT = np.array([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]], np.float32)  # L1 7, 0, 14; L2 5, 0, 10
IN = np.array([[1.0], [1.0], [4.0]], np.float32)
BIAS = np.array([[100.0], [0.0], [0.0]], np.float32)
GAMMA = np.array([[-2.0], [0.5], [1.0]], np.float32)
NORMS = [name for name in CRITERIA if name in ("l1", "l2", "fpgm")]

some_weights = npst.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(-8, 8, width=16)
)
examples = settings(max_examples=60, deadline=None, derandomize=True)


def scores(name, *weights, seed=0):
    return score(name, iter(weights), np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("l1", [("out", OUT)], [1, 0, 2]),
        ("l2", [("out", OUT)], [1, 0, 2]),
        ("l1", [("out", OUT), ("in", IN)], [(1 + 0.5) / 2, 0.25, (2 + 2) / 2]),
        ("l2", [("out", OUT), ("in", IN)], [0.75, 0.25, 2]),
        ("l1", [("out", np.array([[1.0, -1.0], [2.0, -4.0]]))], [0.5, 1.5]),
        ("fpgm", [("out", OUT)], [5 + 5, 5 + 10, 5 + 10]),
        ("bn", [("scale", GAMMA), ("out", OUT)], [2, 0.5, 1]),
        ("bn", [("scale", GAMMA), ("scale", 3 * GAMMA)], [4, 1, 2]),
    ],
    ids=["l1", "l2", "l1 both sides", "l2 both sides", "l1 signs", "fpgm", "bn", "two norms"],
)
def test_by_hand(name, weights, expected):
    wanted = np.array(expected, float)
    found = scores(name, *weights)
    assert found.dtype == np.float64
    assert found == pytest.approx(wanted / wanted.mean() if name == "fpgm" else wanted)


@pytest.mark.parametrize("name", NORMS)
def test_biases_and_norms_do_not_count_beside_kernels(name):
    assert scores(name, ("out", OUT), ("vector", BIAS), ("scale", GAMMA)) == pytest.approx(scores(name, ("out", OUT)))


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_biases_and_norms_count_alone(name):
    assert scores(name, ("vector", BIAS)) == pytest.approx([3, 0, 0])


@examples
@given(some_weights, st.floats(1e-3, 1e3), st.sampled_from(NORMS))
def test_the_scale_of_a_weight_does_not_matter(matrix, factor, name):
    once = scores(name, ("out", matrix), ("in", matrix[::-1]))
    scaled = scores(name, ("out", matrix.astype(np.float64) * factor), ("in", matrix[::-1]))
    assert scaled == pytest.approx(once, rel=1e-4, abs=1e-4)


@examples
@given(some_weights, st.sampled_from(NORMS))
def test_scores_have_mean_one(matrix, name):
    assert scores(name, ("out", matrix)).mean() == pytest.approx(1)


@examples
@given(some_weights)
def test_fpgm_sums_the_distances_to_all_units(matrix):
    wide = matrix.astype(np.float64)
    distances = np.sqrt(((wide[:, None] - wide[None]) ** 2).sum(2)).sum(1)
    expected = distances / distances.mean() if distances.mean() > 0 else np.ones(len(matrix))
    assert scores("fpgm", ("out", matrix)) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", NORMS)
def test_weights_of_zero_score_alike(name):
    assert scores(name, ("out", np.zeros((3, 2), np.float32))).tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(np.float16, 6e4), (np.float32, 1e30), (np.float32, 1e-30)],
    ids=["half", "large", "small"],
)
def test_norms_neither_overflow_nor_vanish(name, dtype, size):
    matrix = (size * np.array([[0.5] * 8, [0.25] * 8, [1.0] * 8])).astype(dtype)
    found = scores(name, ("out", matrix))
    assert np.isfinite(found).all()
    assert found[2] > found[1]


def test_bn_needs_a_norm():
    assert scores("bn", ("out", OUT), ("vector", BIAS)) is None


@pytest.mark.parametrize("name", NORMS)
def test_norms_need_a_weight(name):
    assert scores(name) is None


def test_random_scores_follow_the_seed():
    assert scores("random", ("out", OUT), seed=3).tolist() == scores("random", ("out", OUT), seed=3).tolist()
    assert scores("random", ("out", OUT), seed=3).tolist() != scores("random", ("out", OUT), seed=4).tolist()
    assert scores("random", ("out", OUT)).shape == (3,)


def test_one_generator_gives_each_group_other_scores():
    rng = np.random.default_rng(0)
    assert score("random", [("out", OUT)], rng).tolist() != score("random", [("out", OUT)], rng).tolist()


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_says_what_it_does(name):
    assert CRITERIA[name].summary
    assert CRITERIA[name].scope == ("global" if name == "bn" else "group")
