"""`prune` of mixtures of experts: those that do least go, and never more than a row needs."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.calibration.batches import held_out
from onnxprune.calibration.experts import used_experts
from onnxprune.commands.beside.settings import adjusted
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.graph.files.read import load
from onnxprune.planning.curves import experts as expert_curves
from tests.support.build import model
from tests.support.experts import mixture, parts, rows
from tests.support.unrolled import EACH, ONCE, dense, gathered


def pruned(fused=True, **options):
    options = {"only": "router", "ratio": 0.5, "latency": False, "data": {"x": rows()}, **options}
    return onnxprune.prune(mixture(fused), **options).report


def experts(report):
    (group,) = [group for group in report["groups"] if group["kind"] == "experts"]
    return group


@pytest.mark.parametrize("fused", [True, False])
def test_experts_that_do_least_go(fused):
    report = pruned(fused)
    group = experts(report)
    assert (group["units"], group["kept_units"], group["exact"]) == (4, [1, 2], True)
    assert report["verification"]["passed"]
    assert [len(report["initializers"][name]["kept"]["0"]) for name in ("up", "down", "bias")] == [2, 2, 2]
    losses = report["curves"][group["name"]]["losses"]
    assert losses[0] == 0
    assert losses[1] < 1e-6  # the expert that is never picked
    assert losses[2] > losses[1]


@pytest.mark.parametrize("single", [gathered("OneHot", EACH), gathered("Equal", ONCE), dense("Slice")], ids=range(3))
def test_layers_of_experts_that_do_least_go(single):
    options = {"only": "router", "ratio": 0.5, "latency": False, "data": {"x": rows()}}
    result = onnxprune.prune(mixture(single=single), **options)
    report, group = result.report, experts(result.report)
    assert (group["kept_units"], group["exact"]) == ([1, 2], True)
    assert report["verification"]["passed"]
    gone = {name: entry["kept"] for name, entry in report["initializers"].items() if entry["kept"].get("0") == []}
    assert gone == {name: {"0": []} for name in ("up0", "down0", "up3", "down3")}
    assert {node["node"] for node in report["nodes"]} == {"q", "p", "u1", "u2", "d1", "d2", "y"}
    inside = {each["name"]: each["kept"] for each in report["groups"] if each["name"] in ("up0", "up1", "up2", "up3")}
    assert inside == {"up0": 0, "up1": 6, "up2": 6, "up3": 0}
    assert report["output"]["params"] == report["input"]["params"] - 2 * (2 * 48 + 9)


@pytest.mark.parametrize("batch", [64, 2])
def test_layers_of_experts_that_no_row_is_sent_to(batch):
    data = [{"x": rows()[at : at + batch]} for at in range(0, 64, batch)]
    report = onnxprune.prune(mixture(single=gathered()), ratio=0.3, latency=False, data=data, ignore="router").report
    assert report["verification"]["passed"]
    fits = {fit["node"]: fit["rows"] for fit in report["reconstruction"]}
    assert fits["u3"] == fits["d3"] == 0 < fits["u0"]
    curves = {name: curve["losses"] for name, curve in report["curves"].items()}
    assert curves["up3"] is None  # nothing was measured: it counts as layers of such weights usually do
    assert min(curves["up0"][-1], curves["up1"][-1]) > 1e-6


def test_layers_that_no_row_reaches_do_not_look_free():
    """All experts are as wide; the one that is never picked does not pay for the others."""
    report = onnxprune.prune(
        mixture(single=gathered()), targets={"params": 0.75}, latency=False, data={"x": rows()}, ignore="router"
    ).report
    kept = {group["name"]: group["kept"] for group in report["groups"]}
    assert kept["up3"] > 1
    assert min(kept["up0"], kept["up1"], kept["up2"]) < 6


def test_layers_that_rows_reach_where_no_loss_is_measured_do_not_look_free():
    """Expert 3 is picked in all batches but those that are held out, on which losses are measured."""
    proto = mixture(single=gathered(), bias=np.zeros(4, np.float32))
    router = next(numpy_helper.to_array(each) for each in proto.graph.initializer if each.name == "router")
    many = rows(2000)
    has = (np.argsort(-many @ router, 1)[:, :2] == 3).any(1)
    data = [{"x": np.concatenate([many[has][:2], many[~has][at * 16 : at * 16 + 14]])} for at in range(8)]
    for at in held_out(len(data)):
        data[at] = {"x": many[~has][at * 16 : at * 16 + 16]}
    report = onnxprune.prune(proto, targets={"params": 0.75}, latency=False, data=data, ignore="router").report
    curves = {name: curve["losses"] for name, curve in report["curves"].items()}
    assert curves["up3"] is None
    assert min(curves["up0"][-1], curves["up1"][-1]) > 1e-6
    assert {fit["node"]: fit["rows"] for fit in report["reconstruction"]}["d3"] > 0


@pytest.mark.parametrize("fused", [True, False])
def test_a_mixture_that_no_row_reaches_does_not_look_free(fused):
    """One branch of an If has it, and samples take the other one."""
    inside, own = parts(fused)
    body = " ".join(inside[2:])
    body = body.replace("y = MatMul(b, head)", "ya = MatMul(b, head)")
    text = f"<then_branch = one () => (ya) {{ {body} }}, else_branch = two () => (yb) {{ yb = MatMul(x, head) }}>"
    made = model(*inside[:2], f"y = If{text}(c)", infer=False, **{**own, "x": "float[n,8] x, bool[1] c"})
    data = [{"x": rows()[at : at + 16], "c": np.array([False])} for at in range(0, 64, 16)]
    report = onnxprune.prune(made, 0.25, latency=False, data=data, only="router").report
    group = experts(report)
    assert report["curves"][group["name"]]["losses"] is None
    assert group["kept"] == 3


def test_that_samples_reach_no_expert_is_said():
    traced = trace(load(mixture(True)))
    said = []
    empty = [{"x": np.zeros((0, 8), np.float32)}]
    assert used_experts(traced, groups(traced), empty, progress=lambda text, *_: said.append(text)) == {}
    assert said[-1] == "no row of the samples reaches the experts of 'router': they are ranked by their weights"


def test_a_target_of_parameters_is_met_with_experts_and_widths():
    report = onnxprune.prune(
        mixture(single=gathered()), targets={"params": 0.6}, latency=False, data={"x": rows()}, criterion="apoz"
    ).report
    assert experts(report)["kept"] < 4
    assert report["output"]["params"] <= 0.6 * report["input"]["params"]


def test_a_target_of_bytes_counts_the_nodes_that_go_with_an_expert():
    """One expert is 21 % of the file; its weights alone were 15 %."""
    model = mixture(single=gathered())
    report = onnxprune.prune(model, targets={"size": 0.81}, only="router", latency=False, data={"x": rows()}).report
    assert experts(report)["kept"] == 3
    assert report["output"]["size_bytes"] <= 0.81 * report["input"]["size_bytes"]


def test_by_load_an_expert_that_adds_little_stays():
    by_load = experts(pruned(criterion="apoz"))["kept_units"]
    by_output = experts(pruned(criterion="activation"))["kept_units"]
    assert 3 not in by_load
    assert by_output == [1, 2]


def test_as_many_stay_as_a_row_picks():
    assert experts(pruned(ratio=0.9, min_units=1))["kept"] == 2
    with pytest.raises(OptionError) as error:
        onnxprune.prune(mixture(True), shape={"experts": 1}, latency=False)
    assert str(error.value) == (
        "shape experts=1: 2 of the 4 experts of group 'router' are picked for each row: ask for as many at least"
    )


def test_weights_alone_choose_experts_as_well():
    assert experts(pruned(criterion="l2", data=None))["kept"] == 2


def test_an_expert_that_is_never_picked_changes_nothing():
    model = onnxprune.prune(mixture(True), only="router", ratio=0.25, data={"x": rows()}, latency=False).model
    before, after = (ort.InferenceSession(each.SerializeToString()) for each in (mixture(True), model))
    new = rows(200)[64:]
    np.testing.assert_allclose(after.run(None, {"x": new})[0], before.run(None, {"x": new})[0], rtol=1e-4, atol=1e-5)


def test_settings_beside_a_mixture_follow(tmp_path):
    made, out = tmp_path / "model", tmp_path / "out"
    made.mkdir()
    onnx.save(mixture(True), made / "model.onnx")
    listed = {"num_local_experts": 4, "text": {"n_routed_experts": 4, "num_experts": 8}, "num_experts_per_tok": 2}
    (made / "config.json").write_text(json.dumps(listed))
    onnxprune.prune_folder(made, out, 0.5, only="router", data={"x": rows()}, latency=False)
    assert json.loads((out / "config.json").read_text()) == {
        "num_local_experts": 2, "text": {"n_routed_experts": 2, "num_experts": 8}, "num_experts_per_tok": 2,
    }  # fmt: skip


def test_the_model_as_it_is_runs_once_for_all_curves(monkeypatch):
    ran, right = [], expert_curves._outputs

    def outputs(traced, proto, calibration):
        ran.append(proto is traced.model.proto)
        return right(traced, proto, calibration)

    monkeypatch.setattr(expert_curves, "_outputs", outputs)
    pruned()
    assert (ran.count(True), ran.count(False)) == (1, 2)


def test_different_counts_of_experts_leave_a_setting_as_it_is():
    groups = [{"kind": "experts", "units": 4, "kept": kept} for kept in (2, 3)]
    text, said = adjusted('{"num_experts": 4}', {"m.onnx": {"groups": groups}})
    assert (text, said) == ('{"num_experts": 4}', ["num_experts stays 4: the layers keep 2, 3"])
