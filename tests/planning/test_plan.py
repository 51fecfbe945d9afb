"""Plans: targets are met as the rewritten model counts, and everything that was asked for holds."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from onnxprune import prune
from onnxprune.calibration.batches import calibration
from onnxprune.data.samples import limit, load_data
from onnxprune.dependency import cost
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import NothingToPrune, OptionError
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.planning.choice import select_ratios
from onnxprune.planning.options import make_options
from onnxprune.planning.plan import kept_masks, plan
from onnxprune.surgery.rewrite import new_sizes, rewrite
from tests.dependency.test_cost import MHA, WEIGHTS
from tests.support.build import ROWS, TOKENS, dense, model
from tests.support.paths import MODELS

RNG = np.random.default_rng(0)


def network():
    """Convolutions with a residual stream, and a head; some costs are products of two groups."""
    return model(
        "a = Conv<pads=[1,1,1,1]>(x, w1, b1)", "b = Relu(a)", "c = Conv<pads=[1,1,1,1]>(b, w2, b2)", "d = Relu(c)",
        "e = Conv(d, w3, b3)", "f = Add(b, e)", "g = Relu(f)", "h = GlobalAveragePool(g)", "i = Flatten(h)",
        "j = Gemm(i, w4, b4)", "k = Relu(j)", "y = Gemm(k, w5, b5)",
        w1=(16, 3, 3, 3), b1=(16,), w2=(24, 16, 3, 3), b2=(24,), w3=(16, 24, 1, 1), b3=(16,), w4=(16, 32), b4=(32,),
        w5=(32, 5), b5=(5,),
    )  # fmt: skip


@cache
def prepared(name):
    loaded = load({"network": network, "shared": shared, "heads": heads}[name]())
    shape = [5 if dim == "s" else dim for dim in loaded.inputs[0].shape if dim != "n"]
    samples = load_data({"x": np.random.default_rng(0).standard_normal((16, *shape)).astype(np.float32)}, loaded.inputs)
    traced = trace(loaded)
    return traced, groups(traced), calibration(loaded, samples, "dense")


def shared():
    """Two blocks of the same two weights, as ALBERT has them."""
    return model(
        "a = MatMul(x, w0)", "p = MatMul(a, w1)", "q = Relu(p)", "b = MatMul(q, w2)", "c = Tanh(b)",
        "r = MatMul(c, w1)", "s = Relu(r)", "d = MatMul(s, w2)", "y = MatMul(d, w3)",
        x=ROWS, w0=(6, 8), w1=(8, 16), w2=(16, 8), w3=(8, 4),
    )  # fmt: skip


def heads():
    return model(*MHA, x=TOKENS, **WEIGHTS)


def planned(name, data=True, **options):
    """Return a plan, and what is left of MACs and parameters in the rewritten model."""
    traced, found, seen = prepared(name)
    asked = make_options(round_to=1, **options)
    result = plan(traced, found, select_ratios(found, asked), asked, calibration=seen if data else None)
    after = view(rewrite(traced, kept_masks(found, result.kept)).proto)
    left = {"macs": cost.macs(trace(after)) / cost.macs(traced), "params": after.params / traced.model.params}
    return result, left


SCOPES = ["group", "global", "loss"]
TARGETS = [{"macs": 0.7}, {"params": 0.6}, {"macs": 0.8, "params": 0.5}, {"macs": 0.4, "params": 0.9}]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_targets_are_met_and_not_overshot(targets, scope):
    _, left = planned("network", scope=scope, targets=targets)
    assert all(left[kind] <= value + 1e-9 for kind, value in targets.items())
    slack = 0.06 if scope == "loss" else 0.12  # a unit of each group, where all have one ratio
    assert min(value - left[kind] for kind, value in targets.items()) < slack


@pytest.mark.parametrize("scope", ["group", "global"])
def test_targets_without_data(scope):
    _, left = planned("network", data=False, criterion="l2", scope=scope, targets={"macs": 0.5})
    assert 0.38 < left["macs"] <= 0.5


@pytest.mark.parametrize("scope", SCOPES)
def test_a_target_that_cannot_be_reached(scope):
    with pytest.raises(OptionError, match=r"target macs=0.001 \(at best 0\.\d+\) cannot be reached with what may be"):
        planned("network", scope=scope, targets={"macs": 0.001})
    with pytest.raises(OptionError, match=r"target macs=0.9 \(at best 0\.\d+\), params=0.0001 \(at best 0\.\d+\)"):
        planned("network", scope=scope, targets={"macs": 0.9, "params": 0.0001})


def test_the_best_that_is_told_can_be_reached():
    with pytest.raises(OptionError) as told:
        planned("network", scope="loss", targets={"macs": 0.001})
    best = float(str(told.value).split("at best ")[1].split(")")[0])
    _, left = planned("network", scope="loss", targets={"macs": best + 0.001})
    assert left["macs"] <= best + 0.001


@pytest.mark.parametrize("scope", SCOPES)
def test_own_ratios_stay_fixed(scope):
    for own in (0.5, 0.3):  # 0.3 is the default ratio, which a target replaces
        result, left = planned("network", scope=scope, targets={"macs": 0.6}, ratios={"w4": own})
        assert len(result.kept["w4"]) == round(32 * (1 - own))
        assert left["macs"] <= 0.6


@pytest.mark.parametrize("scope", SCOPES)
def test_a_ratio_of_zero_keeps_all(scope):
    result, left = planned("network", scope=scope, ratio=0.0)
    assert result.kept == {}
    assert left == {"macs": 1.0, "params": 1.0}
    result, _ = planned("network", scope=scope, ratio=0.0, ratios={"w4": 0.25})
    assert {name: len(units) for name, units in result.kept.items()} == {"w4": 24}


def test_a_ratio_by_loss_costs_what_it_does_in_each_group():
    _, even = planned("network", scope="group", ratio=0.4)
    result, left = planned("network", scope="loss", ratio=0.4)
    assert left["macs"] <= even["macs"] + 1e-9
    assert left["macs"] > even["macs"] - 0.06
    assert set(result.curves) == {"w1", "w2", "w4"}


def test_what_saves_no_macs_is_shared_out_by_parameters():
    """An embedding whose features are only summed: no product counts."""
    proto = model(
        "a = Gather(e, x)", "b = Relu(a)", "c = ReduceSum<keepdims=0>(b, k)", "y = Mul(c, c)",
        x="int64[n] x", e=(10, 8), k=np.array([1]),
    )  # fmt: skip
    loaded = load(proto)
    traced = trace(loaded)
    found = groups(traced)
    assert cost.macs(traced) == 0
    seen = calibration(loaded, load_data({"x": np.arange(16) % 10}, loaded.inputs), "dense")
    options = make_options(ratio=0.5, round_to=1)
    kept = plan(traced, found, select_ratios(found, options), options, calibration=seen).kept
    assert [len(units) for units in kept.values()] == [4]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("criterion", ["obs", "l2", "wanda"])
def test_tied_groups_lose_the_same_units(criterion, scope):
    result, _ = planned("shared", criterion=criterion, scope=scope, ratio=0.5)
    _, found, _ = prepared("shared")
    of_weight = {}
    for group in found:
        for member in group.members:
            of_weight.setdefault((member.constant, member.dim), set()).add(result.kept.get(group.name))
    assert all(len(kept) == 1 for kept in of_weight.values())
    assert result.kept


@pytest.mark.parametrize("scope", SCOPES)
def test_heads(scope):
    result, left = planned("heads", scope=scope, targets={"macs": 0.8})
    assert left["macs"] <= 0.8
    assert any("heads" in name for name in result.kept)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("criterion", ["obs", "l2", "flap"])
def test_rounding_and_least_counts_hold(criterion, scope):
    traced, found, seen = prepared("network")
    options = make_options(criterion=criterion, scope=scope, ratio=0.5, round_to=8, min_units=16)
    kept = plan(traced, found, select_ratios(found, options), options, calibration=seen).kept
    assert kept
    assert all(len(units) % 8 == 0 and len(units) >= 16 for units in kept.values())
    assert all(list(units) == sorted(set(units)) for units in kept.values())


@pytest.mark.parametrize("scope", SCOPES)
def test_plans_are_the_same_again(scope):
    assert planned("network", scope=scope, ratio=0.4)[0].kept == planned("network", scope=scope, ratio=0.4)[0].kept


def test_by_loss_is_better_than_even():
    """One layer is redundant, the other one is not."""
    w1 = RNG.standard_normal((6, 4)).astype(np.float32) @ RNG.standard_normal((4, 16)).astype(np.float32)
    proto = model(
        "a = MatMul(x, w1)", "b = Identity(a)", "c = MatMul(b, w2)", "d = Relu(c)", "y = MatMul(d, w3)",
        x=ROWS, w1=w1, w2=(16, 16), w3=np.linalg.qr(RNG.standard_normal((16, 16)))[0].astype(np.float32),
    )  # fmt: skip
    loaded = load(proto)
    traced = trace(loaded)
    found = groups(traced)
    seen = calibration(
        loaded, load_data({"x": RNG.standard_normal((64, 6)).astype(np.float32)}, loaded.inputs), "dense"
    )
    options = make_options(ratio=0.3, round_to=1)
    kept = plan(traced, found, select_ratios(found, options), options, calibration=seen).kept
    assert len(kept["w1"]) < 16 - 0.3 * 16
    assert len(kept.get("w2", range(16))) > 16 - 0.3 * 16


@pytest.mark.parametrize("scope", SCOPES)
def test_the_width_with_data(scope):
    traced = trace(load(MODELS / "vit.onnx"))
    found = groups(traced)
    samples = limit(load_data(MODELS / "mnist_calibration.npz", traced.model.inputs), 16, 0)
    options = make_options(scope=scope, ratio=0.25, width=True, only=["patches"])
    chosen = select_ratios(found, options)
    assert chosen
    kept = plan(traced, found, chosen, options, calibration=calibration(traced.model, samples, None)).kept
    assert set(kept) == set(chosen)


def test_a_criterion_that_can_score_nothing():
    traced = trace(load(dense("b = Relu(a)")))
    found = groups(traced)
    options = make_options(criterion="bn")
    with pytest.raises(OptionError, match="criterion 'bn' finds no weights that it can score"):
        plan(traced, found, select_ratios(found, options), options)


# -- weights that one place reads without some units, and another one whole -----------------------------------------


def read_twice():
    """The first weight is read for units that can go, and once more for an output of the graph."""
    return model(
        "a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "d = Relu(c)", "y = MatMul(d, w3)",
        "z = MatMul(x, w1)", x=ROWS, y="float y, float z", w1=(6, 16), w2=(16, 8), w3=(8, 2),
    )  # fmt: skip


def of(proto, data=None, **options):
    """Return how many units groups keep, those that would add parameters, and the share of parameters that is left."""
    loaded = load(proto)
    traced = trace(loaded)
    seen = None if data is None else calibration(loaded, load_data(data, loaded.inputs), "dense")
    found, options = groups(traced), make_options(round_to=1, **options)
    result = plan(traced, found, select_ratios(found, options), options, calibration=seen)
    masks = kept_masks(found, result.kept)
    params = view(rewrite(traced, masks).proto).params
    assert params == cost.Counter(traced).count("params", new_sizes(masks))
    return {name: len(units) for name, units in result.kept.items()}, result.enlarging, params / traced.model.params


def test_a_cut_that_stores_a_weight_twice_is_left_out():
    counts, enlarging, params = of(read_twice(), criterion="l2", ratio=0.25)
    assert counts == {"w2": 6}
    assert enlarging == ("w1:neurons.1",)
    assert params < 1


def test_a_cut_that_was_named_stores_a_weight_twice():
    counts, enlarging, params = of(read_twice(), criterion="l2", ratio=0.25, ratios=[("w1:neurons.1", 0.25)])
    assert counts == {"w1:neurons.1": 12, "w2": 6}
    assert enlarging == ()
    assert params > 1


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("asked", [{"ratio": 0.1}, {"ratio": 0.2}, {"targets": {"macs": 0.8}}], ids=str)
def test_the_others_are_cut_as_if_that_group_were_ignored(scope, asked):
    """And not so deep that what one cut stores in addition is saved elsewhere."""
    data = {"x": np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)}
    for criterion in ("obs",) if scope == "loss" else ("obs", "flap"):
        options = {"scope": scope, "criterion": criterion, "min_units": 1, **asked}
        counts, enlarging, params = of(read_twice(), data, **options)
        assert enlarging in ((), ("w1:neurons.1",))  # a search may find by itself that it does not pay
        assert counts == of(read_twice(), data, ignore=["w1:neurons.1"], **options)[0]
        assert params < 1


def test_a_target_that_needs_it_is_met_all_the_same():
    loaded = load(read_twice())
    counts, enlarging, _ = of(read_twice(), criterion="l2", min_units=1, targets={"macs": 0.5})
    assert counts["w1:neurons.1"] < 16
    assert enlarging == ()
    assert loaded.params == 240


def test_a_weight_that_is_cut_along_both_axes_by_one_place():
    """Whole again along one of them alone, its copy would be larger."""
    proto = model(
        "a = MatMul(x, w0)", "b = Relu(a)", "c = MatMul(b, w)", "d = Relu(c)", "y = MatMul(d, w2)", "z = MatMul(q, w)",
        x="float[n,6] x, float[n,64] q", y="float y, float z", w0=(6, 64), w=(64, 64), w2=(64, 2),
    )  # fmt: skip
    counts, enlarging, params = of(proto, criterion="l2", ratio=0.25)
    assert (counts, len(enlarging), params) == ({}, 2, 1)


def test_why_nothing_goes_where_a_weight_would_be_stored_twice():
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)", "y = MatMul(b, w2)", "z = MatMul(x, w1)",
        x=ROWS, y="float y, float z", w1=(6, 16), w2=(16, 2),
    )  # fmt: skip
    with pytest.raises(NothingToPrune, match=r"w1:neurons\.1: its cut adds parameters: another place reads"):
        prune(proto, ratio=0.25, round_to=1)
