"""Criteria against numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxprune.criteria.importance import CRITERIA, Seen, magnitudes, score

OUT = np.array([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]], np.float32)  # L1 7, 0, 14; L2 5, 0, 10
IN = np.array([[1.0], [1.0], [4.0]], np.float32)
BIAS = np.array([[100.0], [0.0], [0.0]], np.float32)
GAMMA = np.array([[-2.0], [0.5], [1.0]], np.float32)
GRADIENTS = [name for name, criterion in CRITERIA.items() if criterion.by_gradients]
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
    assert CRITERIA[name].scope == ("global" if name in ("bn", *GRADIENTS) else "group")


# -- from data ---------------------------------------------------------------------------------------------------

DATA = [
    name for name, criterion in CRITERIA.items() if criterion.data and name not in ("obs", *GRADIENTS)
]  # it ranks with curves
WEIGHT = np.array([[1.0, -2.0], [3.0, 0.0], [0.0, 4.0]])  # [units, fan]
INPUTS = np.array([[1.0, 3.0], [-2.0, 2.0], [0.0, -1.0]])  # [units, rows]


def seen(weight, inputs, energy=None):
    """Return what is seen of inputs ``[units, rows]`` or ``[units, occurrences, rows]``, all of a consumer's."""
    each = inputs if inputs.ndim == 3 else inputs[:, None]
    square = (each**2).mean(2)
    of = {"mean": each.mean(2), "square": square, "absolute": np.abs(each).mean(2), "positive": (each > 0).mean(2)}
    found = Seen(weight, **of, count=each.shape[2], energy=0.0)
    return replace(found, energy=found.through(2, square).sum() if energy is None else energy)


def from_data(name, *places, weights=(), seed=0):
    return score(name, iter(weights), np.random.default_rng(seed), places)


# Means 2, 0, -0.5; mean squares 5, 4, 0.5; variances 1, 4, 0.25; squared norms of the weights 5, 9, 16.
ENERGY = 5 * 5 + 9 * 4 + 16 * 0.5
FLUCTUATIONS = np.array([5 * 1, 9 * 4, 16 * 0.25])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wanda", np.array([3 * np.sqrt(5), 3 * 2, 4 * np.sqrt(0.5)]) / np.sqrt(2 * ENERGY)),
        ("flap", (FLUCTUATIONS - FLUCTUATIONS.mean()) / FLUCTUATIONS.std()),
        ("activation", np.array([2, 2, 0.5]) / 1.5),
        ("apoz", np.array([1, 0.5, 0]) / 0.5),
    ],
)
def test_from_data_by_hand(name, expected):
    found = from_data(name, seen(WEIGHT, INPUTS))
    assert found.dtype == np.float64
    assert found == pytest.approx(expected)


def test_a_unit_is_all_its_occurrences():
    inputs = np.array([[[1.0, 3.0], [0.0, 0.0]], [[2.0, 2.0], [-1.0, 1.0]]])  # [units, occurrences, rows]
    weight = np.array([[1.0, 2.0, 5.0, 7.0], [1.0, 0.0, 0.0, 3.0]])  # two weights for each occurrence
    one = seen(weight, inputs)
    assert one.through(1, np.sqrt(one.square)) == pytest.approx([3 * np.sqrt(5), 1 * 2 + 3 * 1])
    assert one.through(2, one.variance) == pytest.approx([5 * 1, 9 * 1])
    assert from_data("activation", one) == pytest.approx(np.array([1, 1.5]) / 1.25)
    assert from_data("apoz", one) == pytest.approx(np.array([0.5, 0.75]) / 0.625)


def test_weights_that_do_not_tell_occurrences_apart_count_in_equal_parts():
    assert magnitudes(np.array([[1.0, -2.0, 3.0]]), 1, 2) == pytest.approx(np.array([[3.0, 3.0]]))
    assert magnitudes(np.array([[1.0, -2.0, 3.0]]), 2, 2) == pytest.approx(np.array([[7.0, 7.0]]))


def test_consumers_are_averaged():
    both = seen(WEIGHT, INPUTS), seen(WEIGHT[::-1], 1e3 * INPUTS)
    for name in ("wanda", "activation", "apoz", "flap"):
        each = [from_data(name, one) for one in both]
        assert from_data(name, *both) == pytest.approx(np.mean(each, axis=0))


def test_fluctuations_of_a_head_are_standardised_over_all_inputs_and_averaged():
    """Two heads of two dims, variances 1, 3, 5 and 7 and one weight of one each: mean 4, deviation the root of 5."""
    signs = np.array([[1, -1, 1, -1]]).T
    inputs = signs * np.sqrt([1, 3, 5, 7])
    moments = seen(np.ones((2, 2)), inputs.T.reshape(2, 2, 4))
    assert from_data("flap", moments) == pytest.approx([-2 / np.sqrt(5), 2 / np.sqrt(5)])


def test_a_part_of_the_inputs_counts_for_less_than_all_of_them():
    alone, beside = seen(WEIGHT, INPUTS), seen(WEIGHT, INPUTS, energy=100 * ENERGY)
    assert from_data("wanda", beside) == pytest.approx(from_data("wanda", alone) / 10)


@examples
@given(some_weights, st.integers(0, 9), st.floats(1e-2, 1e2), st.sampled_from(DATA))
def test_the_scale_of_what_is_seen_does_not_matter(matrix, seed, factor, name):
    inputs = np.random.default_rng(seed).standard_normal((len(matrix), 7))
    once = from_data(name, seen(matrix, inputs))
    assert from_data(name, seen(matrix, factor * inputs)) == pytest.approx(once, rel=1e-4, abs=1e-4)
    assert from_data(name, seen(factor * matrix.astype(float), inputs)) == pytest.approx(once, rel=1e-4, abs=1e-4)


@examples
@given(some_weights, st.integers(0, 9))
def test_what_a_bias_can_replace_does_not_fluctuate(matrix, seed):
    inputs = np.random.default_rng(seed).standard_normal((len(matrix), 7))
    moved = from_data("flap", seen(matrix, inputs + 3))
    assert moved == pytest.approx(from_data("flap", seen(matrix, inputs)), rel=1e-4, abs=1e-4)


@examples
@given(some_weights, st.integers(0, 9))
def test_shares_of_the_energy_are_at_most_one(matrix, seed):
    inputs = np.random.default_rng(seed).standard_normal((len(matrix), 7))
    assert (from_data("wanda", seen(matrix, inputs)) ** 2).sum() <= 1 + 1e-9


@pytest.mark.parametrize("name", DATA)
def test_dead_units_score_lowest(name):
    inputs = np.abs(np.random.default_rng(0).standard_normal((4, 9)))
    inputs[2] = 0
    weight = np.ones((4, 3), np.float32)
    weight[2] = 1e6
    found = from_data(name, seen(weight, inputs))
    assert found.argmin() == 2
    assert np.sort(found)[1] > found[2]


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("value", [0.0, 0.1], ids=["zeros", "constants"])
def test_units_that_are_all_alike_score_alike(name, value):
    found = from_data(name, seen(np.ones((3, 2)), np.full((3, 11), value)))
    assert found == pytest.approx(found[0])
    assert np.isfinite(found).all()


def test_constants_have_no_variance():
    assert seen(WEIGHT, np.full((3, 11), 0.1)).variance.tolist() == [[0.0]] * 3


@pytest.mark.parametrize("name", DATA)
def test_the_weights_stand_in_for_what_was_not_seen(name):
    """Their order is that of the L2 norms, on the scale that the criterion has where it sees activations."""
    norms = scores("l2", ("out", OUT), ("in", IN))
    found = from_data(name, weights=[("out", OUT), ("in", IN)])
    assert np.argsort(found).tolist() == np.argsort(norms).tolist()
    if name == "flap":
        assert (found.mean(), found.std()) == pytest.approx((0, 1))
    else:
        assert found == pytest.approx(norms / np.sqrt(3) if name == "wanda" else norms)


@pytest.mark.parametrize("name", DATA)
def test_without_any_weights_there_is_no_score(name):
    assert from_data(name) is None


@pytest.mark.parametrize("name", CRITERIA)
def test_criteria_of_weights_do_not_look_at_data(name):
    weights = [("out", OUT), ("scale", GAMMA)]
    with_data = from_data(name, seen(WEIGHT, INPUTS), weights=weights)
    assert (with_data == from_data(name, weights=weights)).all() != (name in DATA)
