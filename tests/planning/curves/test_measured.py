"""Loss curves on networks where it is known what is free and what is not."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from onnxprune.algebra.threads import cores_limited
from onnxprune.calibration.batches import calibration
from onnxprune.data.samples import load_data
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.planning.choice import select_ratios
from onnxprune.planning.curves import measured as measuring
from onnxprune.planning.curves.curve import Curve, usual_slope
from onnxprune.planning.curves.measured import MEASURED, measure_curves, measured_counts, scheduled
from onnxprune.planning.options import make_options
from onnxprune.planning.plan import cuts
from onnxprune.runtime.executors import ALONE, from_executor
from tests.support.build import IMAGE, ROWS, conv, dense, model

RNG = np.random.default_rng(0)


def curves(proto, feeds=None, count=48, criterion="obs", **options):
    """Return the curves of all groups of a model, by name."""
    loaded = load(proto)
    traced = trace(loaded)
    found = groups(traced)
    asked = make_options(criterion=criterion, round_to=1, min_units=1)
    shape = [dim for dim in loaded.inputs[0].shape if isinstance(dim, int)]
    feeds = feeds or {"x": RNG.standard_normal((count, *shape)).astype(np.float32)}
    seen = calibration(loaded, load_data(feeds, loaded.inputs), "dense")
    return measure_curves(traced, cuts(traced, found, select_ratios(found, asked), asked), seen, **options)


def normal_rows(count):
    return np.random.default_rng(7).standard_normal((count, 6)).astype(np.float32)


def redundant():
    """A layer of 8 units, 4 of which are sums of others and one of which is dead."""
    w1 = RNG.standard_normal((6, 8)).astype(np.float32)
    b1 = np.zeros(8, np.float32)
    w1[:, 4:7] = w1[:, :3] + w1[:, 1:4]
    w1[:, 7] = 0
    return w1, b1


def test_outputs_that_are_kept_in_files_give_the_same_losses(monkeypatch):
    w1, b1 = redundant()
    feeds = {"x": normal_rows(48)}
    in_memory = curves(dense("b = Identity(a)", w1=w1, b1=b1), feeds)
    monkeypatch.setattr(measuring, "EXPECTED_BYTES", 0)
    assert curves(dense("b = Identity(a)", w1=w1, b1=b1), feeds) == in_memory


@pytest.mark.parametrize("form", ["dense", "conv"])
def test_what_can_be_made_up_for_is_free(form):
    w1, b1 = redundant()
    if form == "dense":
        proto = dense("b = Identity(a)", w1=w1, b1=b1)
    else:
        proto = conv("b = Identity(a)", w1=w1[:3].T.reshape(8, 3, 1, 1).copy(), b1=b1)
    (curve,) = curves(proto).values()
    free = 4 if form == "dense" else 5
    assert len(curve.order) == curve.removed[-1] == 7
    at = dict(zip(curve.removed, curve.losses, strict=True))
    errors = dict(zip(curve.removed, curve.errors, strict=True))
    few = [count for count in at if count <= free]
    assert max(at[count] for count in few) < 5e-3
    assert max(errors[count] for count in few) < 5e-3
    assert at[7] > 0.05
    if form == "dense":
        assert curve.order[0] == 7


def test_without_refitting_the_same_costs_more():
    w1, b1 = redundant()
    proto = dense("b = Identity(a)", w1=w1, b1=b1)
    feeds = {"x": RNG.standard_normal((48, 6)).astype(np.float32)}
    (plain,), (fitted,) = curves(proto, feeds, refitted=False).values(), curves(proto, feeds).values()
    assert plain.order == fitted.order
    assert all(a >= b - 1e-6 for a, b in zip(plain.losses, fitted.losses, strict=True))
    assert plain.losses[3] > 10 * fitted.losses[3] + 1e-3


def test_losses_are_those_of_the_output():
    """The head hears the first group a thousand times as loud as the second one."""
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(x, w2)", "d = Relu(c)", "e = MatMul(b, w3)",
        "f = MatMul(d, w4)", "y = Add(e, f)", x=ROWS, w1=(6, 8), w2=(6, 8),
        w3=RNG.standard_normal((8, 5)).astype(np.float32), w4=1e-3 * RNG.standard_normal((8, 5)).astype(np.float32),
    )  # fmt: skip
    found = curves(proto)
    assert found["w1"].losses[-1] > 100 * found["w2"].losses[-1]


def test_errors_alone_where_outputs_are_not_asked_for():
    (curve,) = curves(dense("b = Relu(a)"), to_output=False).values()
    assert curve.losses is None
    assert curve.errors[0] == 0
    assert curve.errors[-1] > 0.1


def test_other_criteria_keep_their_order():
    w1 = np.diag(np.arange(1, 7)).astype(np.float32)
    (curve,) = curves(dense("b = Relu(a)", mid=6, w1=w1, w2=np.ones((6, 5), np.float32)), criterion="l1").values()
    assert curve.order == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("on", [True, False])
def test_consumers_inside_of_branches_are_run(on):
    """What a branch alone consumes is not free, wherever the replay stands."""
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)",
        "c = If (on) <then_branch = one () => (float[n,8] p) { p = MatMul(b, w2) }, "
        "else_branch = two () => (float[n,8] q) { q = MatMul(b, w3) }>",
        "d = Relu(c)", "e = MatMul(d, w4)", "f = Relu(e)", "y = MatMul(f, w5)",
        x=f"{ROWS}, bool on", y="float[n,5] y", infer=False,
        w1=(6, 8), w2=(8, 8), w3=(8, 8), w4=(8, 8), w5=(8, 5),
    )  # fmt: skip
    x = RNG.standard_normal((24, 6)).astype(np.float32)
    found = curves(proto, [{"x": x[n : n + 1], "on": np.array(on)} for n in range(24)])
    assert "w1" in found
    for curve in found.values():
        assert curve.losses is None or curve.losses[-1] > 1e-3


def test_what_nothing_linear_consumes_goes_by_its_scores():
    proto = model(
        "a = Conv(x, w1)", "b = Relu(a)", "y = ConvTranspose(b, w2)", x=IMAGE, w1=(8, 3, 1, 1), w2=(8, 5, 2, 2)
    )
    (curve,) = curves(proto).values()
    assert curve.errors[-1] > 0.5
    assert curve.losses[-1] > 0


def test_layers_with_a_bias_that_is_shared():
    proto = model(
        "a = Conv(x, w1, b1)",
        "b = Relu(a)",
        "c = Conv(b, w2, b1)",
        "y = Relu(c)",
        w1=(8, 3, 1, 1),
        b1=(8,),
        w2=(8, 8, 1, 1),
    )
    for curve in curves(proto).values():
        assert np.isfinite(curve.losses).all()


def test_curves_are_the_same_again():
    proto = conv("b = Relu(a)")
    feeds = {"x": RNG.standard_normal((32, 3, 6, 6)).astype(np.float32)}
    assert curves(proto, feeds) == curves(proto, feeds)


@pytest.mark.parametrize("count", [1, 2])
def test_few_samples_still_give_curves(count):
    for curve in curves(dense("b = Relu(a)"), count=count).values():
        assert np.isfinite([*curve.losses, *curve.errors]).all()
        assert len(set(curve.order)) == 7


# -- one curve -------------------------------------------------------------------------------------------------------


def curve(losses, errors=(0.0, 0.1, 0.4)):
    return Curve((0, 1, 2, 3), (0, 2, 4), losses, errors)


def test_a_curve_between_its_counts():
    found = curve((0.0, 1.0, 5.0))
    assert found.at([0, 1, 2, 3, 4], 0.0) == pytest.approx((0.0, 0.5, 1.0, 3.0, 5.0))
    assert curve(None).at([2, 4], 10.0) == pytest.approx((1.0, 4.0))


def test_a_curve_never_falls_and_is_finite():
    assert curve((0.0, 2.0, 1.0)).at([2, 4], 0.0) == pytest.approx((2.0, 2.0))
    assert curve((0.0, -1e-9, 1.0)).at([2], 0.0) == (0.0,)
    for bad in (np.nan, np.inf):
        found = curve((0.0, 0.5, bad)).at([0, 2, 4], 0.0)
        assert np.isfinite(found).all()
        assert found[2] > found[1]


def test_the_usual_slope():
    assert usual_slope({"a": curve((0.0, 1.0, 8.0)), "b": curve(None)}) == pytest.approx(15.0)
    assert usual_slope({"a": curve((0.0, 1.0, np.nan))}) == pytest.approx(10.0)
    assert usual_slope({}) == 1.0


@pytest.mark.parametrize("count", [1, 2, MEASURED, 50])
def test_measured_counts(count):
    allowed = list(range(3, 3 + count))
    found = measured_counts(allowed)
    assert found == sorted(set(found))
    assert len(found) == min(count, MEASURED)
    assert found[-1] == allowed[-1]


# -- within a budget -------------------------------------------------------------------------------------------------


def three_layers():
    return model(
        "a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "d = Relu(c)", "y = MatMul(d, w3)",
        x=ROWS, w1=(6, 10), w2=(10, 12), w3=(12, 5),
    )  # fmt: skip


def small():
    """Return a network with what may be removed from it, and samples for it."""
    loaded = load(three_layers())
    traced = trace(loaded)
    asked = make_options(criterion="obs", round_to=1, min_units=1)
    found = groups(traced)
    feeds = {"x": np.random.default_rng(0).standard_normal((48, 6)).astype(np.float32)}
    seen = calibration(loaded, load_data(feeds, loaded.inputs), "dense")
    return traced, cuts(traced, found, select_ratios(found, asked), asked), seen


def within(budget, **options):
    """Return all curves of a network, and those within a budget of work."""
    traced, wanted, seen = small()
    planned = scheduled(traced, wanted, seen, budget)
    return measure_curves(traced, wanted, seen, **options), measure_curves(
        traced, wanted, seen, wanted=planned, **options
    )


def one_level_of_each():
    return 1.001 * scheduled(*small(), None).work / MEASURED


def test_measured_losses_are_those_of_all_and_the_others_are_told():
    full, part = within(one_level_of_each())
    assert full.keys() == part.keys() == {"w1", "w2"}
    for name, curve in part.items():
        assert curve.measured == (3,)
        assert curve.told == tuple(full[name].removed[place] for place in (1, 2, 4, 5, 6))
        assert curve.losses[3] == full[name].losses[3]
        assert (curve.order, curve.errors) == (full[name].order, full[name].errors)
        assert np.isfinite(curve.losses).all()
        ratios = [a / b for a, b in zip(curve.losses[2:], full[name].losses[2:], strict=True)]
        assert 1 / 8 < min(ratios) <= max(ratios) < 8  # of losses that span three orders of magnitude
    assert full["w1"].told == ()


def test_without_a_budget_for_any_loss_errors_decide():
    _, part = within(0.0)
    for curve in part.values():
        assert curve.measured == ()
        assert list(curve.losses) == sorted(curve.losses)
        assert curve.losses[-1] > 0


def test_a_budget_gives_the_same_curves_in_any_process():
    _, here = within(one_level_of_each(), workers=ALONE)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        _, there = within(one_level_of_each(), workers=from_executor(pool))
    assert here == there


def test_curves_are_the_same_on_any_number_of_cores():
    """The losses of one group are measured while the next is looked at: there are five here."""
    names = [f"w{i}" for i in range(1, 7)]
    nodes = [f"h{i} = MatMul({f'r{i - 1}' if i > 1 else 'x'}, w{i})\nr{i} = Relu(h{i})" for i in range(1, 6)]
    proto = model(*nodes, "y = MatMul(r5, w6)", x=ROWS, **dict.fromkeys(names[1:5], (8, 8)), w1=(6, 8), w6=(8, 3))
    of_cores = []
    for count in (1, 2, 4):
        with cores_limited(count):
            of_cores.append(curves(proto, {"x": normal_rows(48)}))
    assert len(of_cores[0]) == 5
    assert of_cores[0] == of_cores[1] == of_cores[2]
