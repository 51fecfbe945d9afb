"""Blocks against numpy on the whole: values, the same bits on any number of cores, and what cannot be factored."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.algebra import blocked
from onnxprune.algebra.blocked import Factor, gram, mixing, product
from onnxprune.algebra.quadratic import Gram, Rows
from onnxprune.algebra.threads import cores_limited

SIZES = [1, 3, 255, 256, 257, 600]


def rows(count, size, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal((count, size)).astype(dtype)


@pytest.fixture(autouse=True)
def everything_is_divided(monkeypatch):
    monkeypatch.setattr(blocked, "_SMALL", 0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (700, 3, 5), (5, 3, 700), (513, 40, 512), (0, 4, 3), (3, 0, 4)])
def test_products_are_those_of_the_whole(shape):
    m, k, n = shape
    left, right = rows(m, k), rows(k, n, 1)
    np.testing.assert_allclose(product(left, right), left @ right, rtol=1e-12, atol=1e-12)
    assert product(left.astype("float32"), right.astype("float32")).dtype == np.float32


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [0, 1, 30])
def test_gram_matrices_are_those_of_the_whole(size, count, monkeypatch):
    monkeypatch.setattr(blocked, "DEEP", 16)
    x = rows(count, size)
    np.testing.assert_allclose(gram(x), x.T @ x, rtol=1e-12, atol=1e-12)
    weights = np.random.default_rng(1).random(count)
    np.testing.assert_allclose(gram(x, weights), (x.T * weights) @ x, rtol=1e-12, atol=1e-12)
    assert (gram(x) == gram(x).T).all()


def test_long_sums_are_made_in_float64():
    x = np.full((2**18, 1), 0.1, np.float32)
    assert gram(x)[0, 0] == pytest.approx(2**18 * float(np.float32(0.1)) ** 2, rel=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_factors_solve_and_invert(size):
    x = rows(size + 5, size)
    matrix = x.T @ x / len(x) + 0.1 * np.eye(size)
    factor, right = Factor(np.tril(matrix)), rows(size, 300, 2)
    np.testing.assert_allclose(factor.solve(right), np.linalg.solve(matrix, right), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(factor.inverse(), np.linalg.inv(matrix), rtol=1e-9, atol=1e-9)
    energies = np.square(factor.halved(right)).sum(0)
    np.testing.assert_allclose(energies, (right * np.linalg.solve(matrix, right)).sum(0), rtol=1e-9)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 299])
def test_what_is_not_positive_definite_has_no_factor(bad, at):
    matrix = np.eye(300)
    matrix[at, at] = bad
    with np.errstate(invalid="ignore"), pytest.raises(np.linalg.LinAlgError):
        Factor(matrix)


def test_bits_do_not_depend_on_cores():
    x = rows(900, 700, dtype="float32")

    def all_of_it():
        matrix = gram(x) / len(x) + np.eye(700)
        factor = Factor(matrix)
        return [matrix, factor.solve(x.T), factor.inverse(), factor.halved(x.T), product(x, x.T)]

    with cores_limited(1):
        alone = all_of_it()
    for count in (2, 5):
        with cores_limited(count):
            for one, other in zip(alone, all_of_it(), strict=True):
                np.testing.assert_array_equal(one, other)


def test_few_outputs_are_mixed_exactly_and_many_about():
    counts = np.array([1.0, 4.0, 9.0])
    np.testing.assert_array_equal(mixing(counts, 3), np.diag([1.0, 2.0, 3.0]))
    weight, counts = rows(5000, 20), np.random.default_rng(1).random(5000)
    mixed = mixing(counts, 400) @ weight
    np.testing.assert_allclose(np.square(mixed).sum(0), counts @ np.square(weight), rtol=0.3)
    np.testing.assert_array_equal(mixing(counts, 400), mixing(counts, 400))


def test_both_forms_of_second_moments_say_the_same():
    x, weight = rows(30, 9), rows(4, 9, 1)
    by_matrix, by_rows = Gram(x.T @ x / 30), Rows(x)
    np.testing.assert_allclose(by_rows.diagonal(), by_matrix.diagonal(), rtol=1e-12)
    np.testing.assert_allclose(by_rows.energies(weight), by_matrix.energies(weight), rtol=1e-12)
    assert not Rows(x[:0]).diagonal().any()
    assert not Rows(x[:0]).energies(weight).any()
