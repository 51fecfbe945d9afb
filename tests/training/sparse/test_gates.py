"""Learned masks: gates, budgets, and the Lagrangian that holds them."""

import numpy as np
import pytest
import torch

from onnxprune.training.sparse.gates import CostBudget, Gates, Multipliers, ShapeBudget


def test_gates_begin_open():
    gates = Gates({"a": 50, "b": 3})
    assert {name: kept.item() for name, kept in gates.expected().items()} == pytest.approx(
        {"a": 49.2, "b": 2.95}, rel=0.02
    )
    assert all((gate == 1).all() for gate in gates.fixed().values())


def test_what_is_expected_is_what_is_drawn():
    gates = Gates({"a": 4})
    with torch.no_grad():
        gates.log_alpha[0].copy_(torch.tensor([-3.0, -0.5, 0.5, 3.0]))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([gates.sampled(generator)["a"] for _ in range(4000)])
    assert draws.min() == 0
    assert draws.max() == 1
    assert float((draws > 0).float().mean(0).sum()) == pytest.approx(gates.expected()["a"].item(), rel=0.03)


def trained(gates, budget, importance, steps=400):
    """Train gates alone against a loss that grows by each unit's importance when its gate shuts."""
    multipliers = Multipliers(budget.equalities)
    lower = torch.optim.Adam(gates.parameters(), lr=0.1)
    upper = torch.optim.Adam(multipliers.parameters(), lr=0.3, maximize=True)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        drawn = gates.sampled(generator)
        loss = sum(((1 - drawn[name]) * importance[name]).sum() for name in drawn)
        violations = budget.violations(gates.expected(), min(1.0, step / 150))
        (loss + multipliers.penalty(violations)).backward()
        lower.step()
        upper.step()
        lower.zero_grad()
        upper.zero_grad()
    return gates


def test_a_target_shape_is_met_by_the_units_that_matter_most():
    rng = np.random.default_rng(0)
    importance = {"a": torch.tensor(rng.permutation(16) / 200.0), "b": torch.tensor(rng.permutation(8) / 200.0)}
    gates = trained(Gates({"a": 16, "b": 8}), ShapeBudget({"a": 16, "b": 8}, {"a": 6, "b": 5}), importance)
    expected = gates.expected()
    assert expected["a"].item() == pytest.approx(6, abs=0.8)
    assert expected["b"].item() == pytest.approx(5, abs=0.8)
    best = set(importance["a"].argsort()[-6:].tolist())
    assert len(best & set(gates.scores()["a"].argsort()[-6:].tolist())) >= 5


def test_a_cost_is_met_where_it_hurts_least():
    """Both groups cost alike, and the units of one matter a hundred times as much."""

    def cost(kept):
        return (kept["a"] + kept["b"]) / 20, {"a": 1 / 20, "b": 1 / 20}

    importance = {"a": torch.full((10,), 0.05), "b": torch.full((10,), 0.0005)}
    gates = trained(Gates({"a": 10, "b": 10}), CostBudget(cost, 0.6), importance)
    kept = {name: count.item() for name, count in gates.expected().items()}
    assert (kept["a"] + kept["b"]) / 20 == pytest.approx(0.6, abs=0.05)
    assert kept["a"] > kept["b"] + 3
