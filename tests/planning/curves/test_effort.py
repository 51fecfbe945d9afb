"""Effort: budgets that grow with the samples of the user, and what a run says of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import onnxprune
from onnxprune.errors import OptionError
from onnxprune.planning import plan
from onnxprune.planning.curves.effort import EFFORTS, USUAL
from onnxprune.planning.options import make_options
from onnxprune.report.prune import prune_tables
from tests.support.build import ROWS, model


def three_layers():
    return model(
        "a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "d = Relu(c)", "y = MatMul(d, w3)",
        x=ROWS, w1=(6, 10), w2=(10, 12), w3=(12, 5),
    )  # fmt: skip


def pruned(**options):
    rows = np.random.default_rng(0).standard_normal((48, 6)).astype(np.float32)
    return onnxprune.prune(three_layers(), 0.4, **{"data": {"x": rows}, "latency": False, "round_to": 1, **options})


def test_budgets_grow_with_the_samples_of_the_user_alone():
    normal = EFFORTS[USUAL]
    assert normal.spent_on_curves(1.0, True) == normal.curves
    assert normal.spent_on_curves(1e13, True) == normal.passes * 1e13
    assert normal.spent_on_curves(1e13, False) == normal.curves
    assert EFFORTS["thorough"].spent_on_curves(1.0, True) is None


def test_more_effort_spends_more():
    quick, normal, thorough = EFFORTS.values()
    assert (quick.pool, quick.samples, quick.fewest) < (normal.pool, normal.samples, normal.fewest)
    assert (normal.pool, normal.samples) < (thorough.pool, thorough.samples)


def test_small_networks_are_measured_in_full():
    report = pruned().report
    assert report["options"]["effort"] == "normal"
    assert report["effort"]["level"] == "normal"
    assert report["effort"]["measured"] == report["effort"]["losses"] > 0
    assert report["effort"]["judged"] > 0
    assert "effort:" not in str(prune_tables(report)[-1])
    assert report["curves"] == pruned(effort="thorough").report["curves"]


def test_a_run_with_less_effort_says_what_was_measured(monkeypatch):
    short = replace(EFFORTS["quick"], curves=2e7, passes=0.0)
    monkeypatch.setattr(plan, "EFFORTS", {**EFFORTS, "quick": short})
    result, again = pruned(effort="quick"), pruned(effort="quick")
    effort = result.report["effort"]
    assert 0 < effort["measured"] < effort["losses"]
    told = sum(len(curve["told"]) for curve in result.report["curves"].values())
    assert told == effort["losses"] - effort["measured"]
    assert result.model.SerializeToString() == again.model.SerializeToString()
    text = str(prune_tables(result.report)[-1])
    assert f"quick effort: {effort['measured']} of {effort['losses']} losses measured on" in text
    assert "--effort thorough has all" in text


def test_a_run_that_can_afford_no_loss_says_so(monkeypatch):
    nothing = replace(EFFORTS["quick"], curves=1.0, passes=0.0)
    monkeypatch.setattr(plan, "EFFORTS", {**EFFORTS, "quick": nothing})
    report = pruned(effort="quick").report
    assert (report["effort"]["measured"], report["effort"]["judged"]) == (0, 0)
    text = str(prune_tables(report)[-1])
    assert (
        "quick effort: one loss would take more than that, so all are told by errors; --effort thorough has all" in text
    )


def test_losses_that_nobody_needs_are_not_told_of():
    assert pruned(criterion="l2", scope="group").report["effort"] is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"criterion": "l2"}, "criterion l2 and scope group, nothing is refitted, and samples are given"),
        ({"criterion": "wanda"}, "criterion wanda and scope group, nothing is refitted, and samples are given"),
        ({"criterion": "bn", "data": None}, "criterion bn and scope global, and no samples are made up"),
        (
            {"criterion": "obs", "scope": "group"},
            "criterion obs and scope group, nothing is refitted, and samples are g",
        ),
    ],
)
def test_effort_that_nothing_is_spent_of_is_refused(options, why):
    with pytest.raises(OptionError, match=f"^effort has no effect here: no loss curves are measured with {why}"):
        pruned(effort="quick", **{"reconstruct": None if "data" in options else False, **options})


@pytest.mark.parametrize(
    "options",
    [{}, {"data": None}, {"criterion": "l2", "scope": "loss", "reconstruct": False}, {"criterion": "l2"}],
)
def test_effort_that_is_spent_is_taken(options):
    assert make_options(criterion="wanda").spends_effort(has_data=False)
    assert make_options(criterion="wanda").spends_effort(has_data=True)  # layers are refitted
    assert not make_options(criterion="wanda", reconstruct=False).spends_effort(has_data=True)
    assert pruned(effort="quick", **options).report["options"]["effort"] == "quick"


@pytest.mark.parametrize("value", ["fast", 3, None])
def test_efforts_that_are_none_are_refused(value):
    with pytest.raises(OptionError, match="effort"):
        pruned(effort=value)
