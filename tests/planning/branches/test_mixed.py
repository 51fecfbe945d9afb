"""Widths and branches in one knapsack, against an exhaustive search; costs of branches against models without them."""

from __future__ import annotations

import itertools
import re

import pytest

from onnxprune.commands.steps.prepare import prepare
from onnxprune.dependency.branches import branches, nodes_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.errors import OptionError
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.planning.branches.mixed import counted_bounds, mixed
from onnxprune.planning.costs import Costs
from onnxprune.planning.curves.curve import Curve
from onnxprune.planning.options import make_options
from onnxprune.planning.plan import Evidence, demands_on, offered, tied_groups
from onnxprune.progress import silent
from onnxprune.surgery.depth import without
from tests.commands.ways.test_shorten import WIDTH, network, samples
from tests.support.paths import MODELS


def prepared(**options):
    return prepare(load(network()), make_options(latency=False, **options), samples(), silent)


def by_hand(ready, width_loss):
    """Return scores and curves under which each unit of a hidden layer costs `width_loss`."""
    tied = tied_groups(ready.groups, ready.ratios, ready.traced)
    units = {first: next(iter(names.values())).units for first, names in tied.items()}
    curves = {
        first: Curve(
            tuple(range(count - 1)), tuple(range(count)), tuple(width_loss * at for at in range(count)),
            tuple(1e-3 * at for at in range(count)),
        )
        for first, count in units.items()
    }  # fmt: skip
    return Evidence({first: list(range(count)) for first, count in units.items()}, curves)


@pytest.mark.parametrize("name", ["vit.onnx", "resnet_bn.onnx"])
def test_costs_without_branches_are_those_of_the_shorter_model(name):
    ready = prepare(load(MODELS / name), make_options(latency=False, criterion="l2", reconstruct=False), None, silent)
    found = [branch for branch in branches(ready.traced) if branch.locked is None]
    costs = Costs(ready.traced, {}, {}, {branch.name: branch for branch in found})
    counted = NodeMacs(ready.traced)
    whole = sum(counted.of(index) for index in ready.traced.model.top)
    for gone in [found[:1], found[1:3], found]:
        removed = {branch.name: 1 for branch in gone}
        assert costs.of("macs", removed) == pytest.approx(1 - counted.total(nodes_of(gone)) / whole)
        shorter = view(without(ready.traced.model, gone, ready.traced.probe.dtype).rewritten.proto)
        params = shorter.stored_params / ready.traced.model.stored_params
        assert costs.of("params", removed) == pytest.approx(params, abs=2e-3)
        size = len(shorter.proto.SerializeToString()) / ready.traced.model.size_bytes()
        assert costs.of("size", removed) == pytest.approx(size, abs=4e-3)
    assert costs.of("macs", {}) == costs.of("params", {}) == costs.of("size", {}) == 1


@pytest.mark.parametrize("width_loss", [1e-4, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("target", [0.9, 0.7, 0.5])
def test_the_plan_is_the_best_of_all(width_loss, target):
    ready = prepared(targets={"macs": target})
    evidence, alone = by_hand(ready, width_loss), {"o0": 0.3, "o1": 0.02, "o2": 0.9}
    able = [branch for branch in branches(ready.traced) if branch.locked is None]
    found = mixed(
        ready.traced, ready.groups, ready.ratios, ready.options, evidence, branches=able, alone=alone,
        together=lambda names: sum(alone[name] for name in names),
    )  # fmt: skip
    tied = tied_groups(ready.groups, ready.ratios, ready.traced)
    costs = Costs(ready.traced, tied, {}, {branch.name: branch for branch in able})
    offers = offered(
        demands_on(
            ready.traced, ready.groups, tied, ratios=ready.ratios, options=ready.options, scores=evidence.scores
        ),
        evidence.curves,
    )
    best = min(
        (
            sum(alone[name] for name in gone)
            + sum(offers[name].losses[at] for name, at in zip(offers, levels, strict=True))
        )
        for count in range(4)
        for gone in itertools.combinations(alone, count)
        for levels in itertools.product(*(range(len(each.removed)) for each in offers.values()))
        if costs.of(
            "macs",
            {name: offers[name].removed[at] for name, at in zip(offers, levels, strict=True)} | dict.fromkeys(gone, 1),
        )
        <= target
    )
    assert found.loss <= best * 1.1 + 1e-9


def test_branches_that_cost_more_together_are_measured_again():
    ready = prepared(targets={"macs": 0.5})
    alone, asked = dict.fromkeys(("o0", "o1", "o2"), 0.01), []

    def together(names):
        asked.append(names)
        return 0.01 if len(names) == 1 else 5.0

    found = mixed(
        ready.traced, ready.groups, ready.ratios, ready.options, by_hand(ready, 0.01),
        branches=branches(ready.traced), alone=alone, together=together,
    )  # fmt: skip
    assert len(asked[0]) > 1
    assert len(set(asked)) == len(asked)
    assert len(found.branches) <= 1
    assert found.loss < 5


def test_a_branch_whose_loss_is_unknown_stays():
    ready = prepared(targets={"macs": 0.9})
    alone = {"o0": float("nan"), "o1": float("inf")}
    found = mixed(
        ready.traced, ready.groups, ready.ratios, ready.options, by_hand(ready, 1.0),
        branches=branches(ready.traced), alone=alone, together=lambda names: 0.0,
    )  # fmt: skip
    assert found.branches == frozenset()


def test_what_is_measured_stands_for_macs():
    options = make_options(targets={"latency": 0.6, "macs": 0.7, "params": 0.9})
    assert dict(counted_bounds(options)) == {"macs": 0.6, "params": 0.9}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({}, "depth=auto needs a target, such as macs=0.6: what branches and widths are weighed under"),
        ({"latency": "8ms"}, "depth=auto weighs fractions of the original: give latency as one, not as 8ms"),
    ],
)
def test_what_cannot_be_weighed(targets, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        counted_bounds(make_options(targets=targets, depth="auto"))


def test_width_is_that_of_the_blocks():
    assert {group.units for group in prepared(ratio=0.5).groups if group.name.startswith("up")} == {WIDTH}
