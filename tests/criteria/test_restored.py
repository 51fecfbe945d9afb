"""One factor for all levels of an order, against least squares from scratch."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.algebra.quadratic import Gram, Rows, ridge
from onnxprune.criteria.restored import restored

DAMPING, COUNT = 0.01, 30


def layer(ins=12, outs=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((COUNT, ins)) @ (np.eye(ins) + rng.standard_normal((ins, ins)) / 3)
    return x, rng.standard_normal((outs, ins)), rng.permutation(ins)


def solved(x, weight, gone):
    """Return the weight of the kept inputs that leaves least, with the damping."""
    matrix = x.T @ x / len(x)
    matrix += np.diag(ridge(np.diagonal(matrix).copy(), DAMPING))
    kept = np.setdiff1d(np.arange(len(matrix)), gone)
    result = np.zeros_like(weight)
    result[:, kept] = np.linalg.solve(matrix[np.ix_(kept, kept)], (weight @ matrix[:, kept]).T).T
    return result


@pytest.mark.parametrize("form", ["gram", "rows"])
def test_every_level_is_least_squares(form):
    x, weight, order = layer()
    seen = Gram(x.T @ x / COUNT) if form == "gram" else Rows(x)
    levels = [2, 5, 9]
    known = restored(seen, order[:9], levels, DAMPING)
    for number in (2, 0, 1):  # in any order
        wanted = solved(x, weight, order[: levels[number]])
        np.testing.assert_allclose(weight + known.moved(weight, number), wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", ["gram", "rows"])
@pytest.mark.parametrize("outs", [4, 40])  # few removed inputs against outputs and levels, and many
def test_energies_are_those_of_the_changes(form, outs):
    x, weight, order = layer(outs=outs)
    held, _, _ = layer(seed=1)
    seen, other = (Gram(a.T @ a / COUNT) if form == "gram" else Rows(a) for a in (x, held))
    known = restored(seen, order[:9], [2, 5, 9], DAMPING)
    changes = [held @ known.moved(weight, level).T for level in range(3)]
    assert known.energies(weight, other) == pytest.approx([np.square(each).sum() / COUNT for each in changes])
