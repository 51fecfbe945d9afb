"""Models that branch are looked at as samples run them: layers inside of an If are refitted, and have loss curves."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.commands.as_run import as_run
from onnxprune.commands.prepare import prepare
from onnxprune.graph.read import load
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
    run = as_run(prepare(load(proto), make_options(ratio=0.5, latency=False), feeds(), silent))
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
    assert as_run(prepared) is None
    assert {each["why_not"] for each in prune(proto, data).report["reconstruction"]} == {"it is inside a body"}
    shifted = {"x": data["x"] + 9}
    assert as_run(prepare(load(proto), make_options(ratio=0.5, latency=False), shifted, silent)).taken == ({"y": True},)


def test_groups_have_the_names_of_the_model_itself():
    prepared = prepare(load(branching()), make_options(ratio=0.5, latency=False), feeds(), silent)
    run = as_run(prepared)
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
