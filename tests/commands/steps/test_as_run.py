"""Models that branch are looked at as samples run them: layers inside of an If are refitted, and have loss curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.commands.steps import prepare as preparing
from onnxprune.commands.steps.as_run import as_run
from onnxprune.commands.steps.prepare import prepare
from onnxprune.graph.files.read import load
from onnxprune.planning.options import make_options
from onnxprune.progress import silent
from onnxprune.runtime.session import open_session
from tests.support.build import ROWS, model
from tests.support.zoo_store import load_zoo, read, refill

RNG = np.random.default_rng(0)
LATENT = RNG.standard_normal((512, 3)) @ RNG.standard_normal((3, 6)) + 0.05 * RNG.standard_normal((512, 6))
SAMPLES = {"x": LATENT.astype(np.float32)}
LAYERS = "{0}h = MatMul(x, w1) {0}g = Relu({0}h) {0}k = MatMul({0}g, w2) {0}q = Relu({0}k) {1} = MatMul({0}q, w3)"
THEN, OTHER = LAYERS.format("t", "r"), LAYERS.format("e", "s")


def branching(then=THEN, other=OTHER, **weights):
    """Return a model of which all layers lie in the branches of an If, as in a merged decoder."""
    bodies = f"<then_branch = one () => (r) {{ {then} }}, else_branch = two () => (s) {{ {other} }}>"
    sizes = {"w1": (6, 24), "w2": (24, 24), "w3": (24, 5)} | weights
    return model(f"y = If{bodies}(c)", x=f"{ROWS}, bool[1] c", y="float[n,5] y", infer=False, **sizes)


def samples(condition=False, count=512):
    return {"x": SAMPLES["x"][:count], "c": np.full(count, condition)}


def prune(proto, data=None, **options):
    data = samples() if data is None else data
    return onnxprune.prune(proto, 0.5, data=data, latency=False, **options)


def error(proto, result, condition=False):
    feeds = {"x": SAMPLES["x"], "c": np.array([condition])}
    before, after = (open_session(each.SerializeToString()).run(feeds)["y"] for each in (proto, result.model))
    return float(np.square(before - after).mean() / before.var())


def test_what_is_run_is_looked_for_once(monkeypatch):
    """Units are scored and layers refitted in the same model."""
    looked = []
    monkeypatch.setattr(preparing, "as_run", lambda *given: looked.append(given) or as_run(*given))
    data = [{"x": SAMPLES["x"][at : at + 16], "c": np.array([True])} for at in range(0, 128, 16)]
    assert all(each["why_not"] is None for each in prune(branching(), data).report["reconstruction"])
    assert len(looked) == 1


@pytest.mark.parametrize("condition", [True, False])
def test_layers_of_the_branch_that_runs_are_refitted(condition):
    proto = branching()
    data = [{"x": SAMPLES["x"][at : at + 16], "c": np.array([condition])} for at in range(0, 512, 16)]
    fitted, plain = prune(proto, data), prune(proto, data, reconstruct=False)
    assert {each["node"]: each["why_not"] for each in fitted.report["reconstruction"]}
    assert all(each["why_not"] is None for each in fitted.report["reconstruction"])
    for each in (condition, not condition):  # both branches read the same weights
        assert error(proto, fitted, each) < 0.5 * error(proto, plain, each)


def test_a_weight_that_the_other_branch_reads_in_another_way_stays():
    other = "eh = Gemm<transB = 1>(x, w1) eg = Relu(eh) s = MatMul(eg, w3)"
    then = "th = Transpose<perm = [1, 0]>(w1) tm = MatMul(x, th) tg = Relu(tm) r = MatMul(tg, w3)"
    proto = branching(then, other, w1=(24, 6))
    run = prepare(load(proto), make_options(ratio=0.5, latency=False), feeds(), silent).as_run
    assert "w1" in run.unlike
    assert "w3" not in run.unlike
    result = prune(proto, feeds())
    before = numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == "w1"))
    after = numpy_helper.to_array(next(t for t in result.model.graph.initializer if t.name == "w1"))
    assert {row.tobytes() for row in after} <= {row.tobytes() for row in before}


def feeds():
    return [{"x": SAMPLES["x"][at : at + 16], "c": np.array([False])} for at in range(0, 512, 16)]


def test_samples_that_take_both_branches_leave_it_as_it_stands():
    bodies = f"<then_branch = one () => (r) {{ {THEN} }}, else_branch = two () => (s) {{ {OTHER} }}>"
    proto = model(
        "m = ReduceMean<keepdims = 0>(x)", "c = Greater(m, zero)", f"y = If{bodies}(c)", x=ROWS, y="float[n,5] y",
        infer=False, w1=(6, 24), w2=(24, 24), w3=(24, 5), zero=0.0,
    )  # fmt: skip
    data = {"x": SAMPLES["x"] - SAMPLES["x"].mean() + np.repeat(np.resize([-3, 3], 32), 16)[:, None].astype(np.float32)}
    prepared = prepare(load(proto), make_options(ratio=0.5, latency=False), data, silent)
    assert prepared.as_run is None
    assert {each["why_not"] for each in prune(proto, data).report["reconstruction"]} == {"it is inside a body"}
    shifted = {"x": data["x"] + 9}
    assert prepare(load(proto), make_options(ratio=0.5, latency=False), shifted, silent).as_run.taken == ({"y": True},)


def test_groups_have_the_names_of_the_model_itself():
    prepared = prepare(load(branching()), make_options(ratio=0.5, latency=False), feeds(), silent)
    run = prepared.as_run
    known = {group.name: group for group in prepared.groups}
    assert run.groups
    for group in run.groups:
        assert known[group.name].units == group.units
        assert {m.constant for m in group.members} <= {m.constant for m in known[group.name].members}


@pytest.mark.generated
@pytest.mark.parametrize("name", ["t5", "whisper", "bart", "marian"])
def test_merged_decoders_are_fitted_layer_by_layer(name):
    proto = refill(read(load_zoo()[f"optimum_{name}_merged.optimum"].path))
    report = onnxprune.prune(proto, 0.3, latency=False, effort="quick").report
    fits = report["reconstruction"]
    assert len(fits) > 15
    assert all(each["why_not"] is None for each in fits)
    cut = [group for group in report["groups"] if group["kept"] < group["units"]]
    assert cut
    first = next(name for name in report["curves"] if name == cut[0]["name"])
    assert report["curves"][first]["losses"] is not None


# -- branches that are not cut alike ---------------------------------------------------------------------------


def both(name="w1"):
    """Return the names of the groups of a weight in both branches."""
    prepared = prepare(load(branching()), make_options(ratio=0.5, latency=False), feeds(), silent)
    return [
        group.name for group in prepared.groups if any(m.constant == name for m in group.members) and group.prunable
    ]


def conditioned(condition):
    return [{**each, "c": np.array([condition])} for each in feeds()]


@pytest.mark.parametrize("condition", [False, True])
@pytest.mark.parametrize("named", [0, 1])
def test_one_branch_alone_may_lose_units(condition, named):
    name = both()[named]
    data = conditioned(condition)
    report = onnxprune.prune(branching(), 0, ratios={name: 0.5}, latency=False, data=data).report
    assert report["verification"]["passed"]
    kept = {group["name"]: group["kept"] for group in report["groups"] if group["kept"] < group["units"]}
    assert kept == {name: 12}


OF_ONE_BRANCH = {
    "shape": {"shape": {"{0}": 9}},
    "ignore": {"ignore": ["{1}"], "ratio": 0.5},
    "least": {"ratio": 0.5, "min_units": {"{1}": 20}},
    "ratios": {"ratio": 0, "ratios": {"{0}": 0.3, "{1}": 0.5}},
    "target": {"targets": {"params": 0.7}, "ignore": ["{1}"]},
}


@pytest.mark.parametrize("condition", [False, True])
@pytest.mark.parametrize("what", OF_ONE_BRANCH)
def test_options_that_name_a_group_of_one_branch(condition, what):
    names = both()

    def filled(value):
        if isinstance(value, list):
            return [each.format(*names) for each in value]
        return {key.format(*names): each for key, each in value.items()} if isinstance(value, dict) else value

    options = {name: filled(value) for name, value in OF_ONE_BRANCH[what].items()}
    report = onnxprune.prune(branching(), **options, data=conditioned(condition), latency=False).report
    assert report["verification"]["passed"]


@pytest.mark.generated
def test_a_plan_of_a_merged_decoder_is_edited():
    proto = refill(read(load_zoo()["optimum_t5_merged.optimum"].path))
    plan = onnxprune.plan(proto, 0.3, effort="quick")
    fewer = replace(plan, groups=plan.groups[1:])
    assert onnxprune.apply(fewer, proto, latency=False).report["verification"]["passed"]


def test_a_criterion_that_scores_some_groups_alone():
    branch = "{0}a = Conv(x, w1) {0}b = BatchNormalization({0}a, s, b, m, v) {0}c = Relu({0}b) {1} = Conv({0}c, w2)"
    bodies = f"<then_branch = one () => (r) {{ {branch.format('t', 'r')} }}, "
    bodies += f"else_branch = two () => (q) {{ {branch.format('e', 'q')} }}>"
    norm = {name: np.full(8, value, np.float32) for name, value in (("b", 0.0), ("m", 0.0), ("v", 1.0))}
    proto = model(
        f"y = If{bodies}(c)", x="float[n,3,6,6] x, bool[1] c", y="float[n,5,6,6] y", infer=False,
        w1=(8, 3, 1, 1), w2=(5, 8, 1, 1), s=np.linspace(0.1, 1, 8, dtype=np.float32), **norm,
    )  # fmt: skip
    report = onnxprune.prune(proto, 0.5, criterion="bn", round_to=1, latency=False).report
    assert any(group["kept"] < group["units"] for group in report["groups"])


def test_a_weight_that_follows_another_one_elsewhere_is_not_fitted():
    """`w3` sees what `w1` makes in one branch, and what `w2` makes in the other."""
    then = "th = MatMul(x, w1) tg = Relu(th) r = MatMul(tg, w3)"
    other = "eh = MatMul(x, w2) eg = Relu(eh) s = MatMul(eg, w3)"
    options = make_options(ratio=0.5, latency=False)
    assert prepare(load(branching(then, other, w2=(6, 24))), options, feeds(), silent).as_run.unlike == {"w3"}
    same = branching(then, other.replace("w2", "w1"))
    assert not prepare(load(same), options, feeds(), silent).as_run.unlike
