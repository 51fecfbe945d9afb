"""`prune` with depth: whole branches go, widths after them, and the report tells of the original."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.commands.prune import prune_file
from onnxprune.commands.ways import remade, shorten
from onnxprune.errors import NothingToPrune, OptionError, VerificationError
from onnxprune.evaluation import verify
from onnxprune.planning.options import make_options
from onnxprune.report.depth import of_original
from onnxprune.report.prune import prune_tables
from tests.commands.rounds.test_in_rounds import Ended, ending
from tests.support.build import model
from tests.support.cli import invoke
from tests.support.paths import MODELS
from tests.support.schema import follows_the_schema

VIT = str(MODELS / "vit.onnx")
SAMPLES = str(MODELS / "mnist_calibration.npz")
QUICK = {"latency": False, "effort": "quick", "samples": 64}
WIDTH = 12


def network(outputs="float[] y"):
    """Return a network of three residual blocks; the second one adds nothing."""
    rng = np.random.default_rng(0)
    nodes, weights = ["s0 = MatMul(x, first)"], {"first": rng.standard_normal((WIDTH, WIDTH)) / 4}
    for number in range(3):
        nodes += [f"h{number} = MatMul(s{number}, up{number})", f"r{number} = Relu(h{number})"]
        nodes += [f"o{number} = MatMul(r{number}, down{number})", f"s{number + 1} = Add(s{number}, o{number})"]
        weights[f"up{number}"] = rng.standard_normal((WIDTH, WIDTH)) / 4
        weights[f"down{number}"] = rng.standard_normal((WIDTH, WIDTH)) / 4 * (number != 1)
    nodes.append("y = MatMul(s3, last)")
    weights["last"] = rng.standard_normal((WIDTH, 5)) / 4
    arrays = {name: array.astype(np.float32) for name, array in weights.items()}
    return model(*nodes, x=f"float[n,{WIDTH}] x", y=outputs, **arrays)


def samples(count=128):
    return {"x": np.random.default_rng(1).standard_normal((count, WIDTH)).astype(np.float32)}


def pruned(proto=None, **options):
    return onnxprune.prune(proto or network(), data=samples(), latency=False, **options)


def text_of(report):
    return "\n".join(map(str, prune_tables(report)))


def test_depth_alone_takes_branches_and_no_units():
    result = pruned(depth=0.34)
    report = result.report
    follows_the_schema(json.loads(json.dumps(report)))
    depth = report["depth"]
    assert depth["asked"] == 0.34
    assert depth["removed"] == pytest.approx(1 / 3)
    assert [(each["name"], each["removed"]) for each in depth["branches"]] == [
        ("o0", False),
        ("o1", True),
        ("o2", False),
    ]
    assert depth["branches"][1]["loss"] == pytest.approx(0, abs=1e-6)
    assert depth["measured"] >= 3
    assert report["verification"]["passed"]
    assert report["output"]["macs"] == report["input"]["macs"] - 2 * WIDTH * WIDTH
    kept = {group["name"]: (group["kept"], group["locked"]) for group in report["groups"]}
    assert kept["up1"] == (0, None)
    assert kept["up0"] == (WIDTH, "whole branches alone were to go; --ratio or --target cut units of those that stay")
    assert {"h1", "o1"}.isdisjoint(node["node"] for node in report["nodes"])
    names = {tensor.name for tensor in result.model.graph.initializer}
    assert names == {"first", "up0", "down0", "up2", "down2", "last"}
    assert "removed 1 of 3 branches, 33.3% of what all of them compute: o1" in text_of(report)
    assert report["fidelity"]["figures"]["kl"] == pytest.approx(0, abs=1e-6)


def test_branches_that_are_named_go_without_any_measurement():
    report = pruned(without="o2").report
    assert [each["name"] for each in report["depth"]["branches"] if each["removed"]] == ["o2"]
    assert (report["depth"]["measured"], report["depth"]["asked"]) == (0, None)


def test_widths_are_cut_after_branches_to_a_target_of_the_original():
    result = pruned(depth=0.34, targets={"macs": 0.6})
    report = result.report
    follows_the_schema(json.loads(json.dumps(report)))
    before = onnxprune.prune(network(), 0.5, data=samples(), latency=False).report["input"]
    assert report["input"] == before
    assert 0.5 < report["output"]["macs"] / report["input"]["macs"] <= 0.6
    assert report["options"]["depth"] == 0.34
    assert report["options"]["targets"] == (("macs", 0.6),)
    groups = {group["name"]: group["kept"] for group in report["groups"]}
    assert groups["up1"] == 0
    assert groups["up0"] + groups["up2"] < 2 * WIDTH
    assert len(report["verification"]["runs"]) > len(pruned(depth=0.34).report["verification"]["runs"])


def test_a_target_that_branches_meet_cuts_no_widths():
    report = pruned(depth=0.34, targets={"macs": 0.9}).report
    assert [group["kept"] for group in report["groups"] if 0 < group["kept"] < group["units"]] == []
    assert report["depth"]["removed"] == pytest.approx(1 / 3)


def test_a_latency_of_the_original_is_met_and_told_in_its_terms(monkeypatch):
    """What is left takes 0.8 of the original's time here: 0.6 of it is 0.75 of that."""
    monkeypatch.setattr(remade, "measured", lambda *_: {"latency": (1.0, 0.8)})
    asked = []

    def stop(job, *_):
        asked.append(job.options.targets)
        raise NothingToPrune("no more")

    monkeypatch.setattr(shorten, "at_once", stop)
    with pytest.raises(NothingToPrune) as error:
        pruned(depth=0.34, targets={"latency": 0.6})
    assert asked == [(("latency", pytest.approx(0.75)),)]
    told = "after 1 branch went, which left 0.730 of the MACs: no more; figures are of the model that was left"
    assert str(error.value) == told


def test_promises_are_told_in_terms_of_the_original():
    promise = {
        "targets": [{"target": "latency=0.75", "fraction": 0.75, "predicted": 0.7, "measured": 0.72}],
        "attempts": [{"predicted": {"latency": 0.7}, "measured": {"latency": 0.72}}],
        "steps": {},
    }
    options = make_options(depth=0.3, targets={"latency": 0.6})
    whole = of_original(promise, options, {"latency": 0.8})
    (target,) = whole["targets"]
    assert target.pop("target") == "latency=0.6"
    assert target == pytest.approx({"fraction": 0.6, "predicted": 0.56, "measured": 0.576})
    assert whole["attempts"][0]["measured"]["latency"] == pytest.approx(0.576)


def test_a_target_that_cannot_be_met_is_not_written():
    with pytest.raises(OptionError, match=r"^after 1 branch went, which left 0\.730 of the MACs: target macs="):
        pruned(depth=0.34, targets={"macs": 0.001})


def test_an_amount_that_branches_meet_is_met():
    report = pruned(depth=0.34, targets={"params": 900}).report
    assert report["output"]["params"] == 780
    assert [group["kept"] for group in report["groups"] if 0 < group["kept"] < group["units"]] == []


def test_a_part_of_a_model_is_cut_in_depth_and_width():
    """Nodes of another domain at both ends, which ONNX Runtime cannot run."""
    proto = network()
    graph = proto.graph
    first, last = onnx.helper.make_node("Mine", ["raw"], ["x"], domain="my"), graph.output[0]
    graph.node.insert(0, first)
    graph.node.append(onnx.helper.make_node("Mine", ["y"], ["z"], domain="my"))
    graph.input[0].name = "raw"
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", WIDTH])
    graph.value_info.append(info)
    graph.value_info.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 5]))
    last.CopyFrom(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["n", 5]))
    proto.opset_import.append(onnx.helper.make_opsetid("my", 1))
    report = onnxprune.prune(proto, data=samples(), latency=False, depth=0.34, targets={"macs": 0.6}).report
    assert report["depth"]["removed"] == pytest.approx(1 / 3)
    assert report["output"]["macs"] <= 0.6 * report["input"]["macs"]


def test_what_several_branches_share_goes_with_the_last_of_them():
    proto = model(
        "h = MatMul(x, u)", "a = MatMul(h, v)", "b = MatMul(h, w)", "s = Add(a, b)", "t = Add(s, x)",
        "y = MatMul(t, last)",
        x=f"float[n,{WIDTH}] x", **dict.fromkeys(("u", "v", "w", "last"), (WIDTH, WIDTH)),
    )  # fmt: skip
    report = pruned(proto, without=["a", "b"]).report
    assert report["output"]["macs"] == WIDTH * WIDTH
    assert report["depth"]["removed"] == 1
    assert [node["node"] for node in report["nodes"]] == ["y"]


def test_a_vision_transformer_is_cut_in_depth():
    report = onnxprune.prune(VIT, data=SAMPLES, depth=0.2, **QUICK).report
    assert 0.1 < report["depth"]["removed"] <= 0.2
    assert report["fidelity"]["figures"]["agreement"] > 0.9
    assert report["verification"]["passed"]


@pytest.mark.generated
def test_samples_are_made_up_where_there_are_none():
    report = onnxprune.prune(network(), depth=0.34, latency=False).report
    assert report["calibration"]["source"] == "generated"
    assert [each["name"] for each in report["depth"]["branches"] if each["removed"]] == ["o1"]
    report = onnxprune.prune(network(), depth=0.34, targets={"macs": 0.6}, latency=False).report
    assert report["output"]["macs"] <= 0.6 * report["input"]["macs"]


def test_the_file_is_written_and_tells_what_went(tmp_path):
    source, target, told = tmp_path / "net.onnx", tmp_path / "short.onnx", tmp_path / "short.json"
    onnx.save(network(), source)
    np.savez(tmp_path / "samples.npz", **samples())
    done = invoke(
        "prune", str(source), "-o", str(target), "--depth", "0.34", "--data", str(tmp_path / "samples.npz"),
        "--no-latency", "--report", str(told),
    )  # fmt: skip
    assert "removed 1 of 3 branches" in done.output
    report = json.loads(told.read_text(encoding="utf-8"))
    assert report["output"]["path"] == str(target)
    assert len(onnx.load(target).graph.node) == len(network().graph.node) - 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"depth": 0.1},
            "nothing to remove: --depth 0.1 is less than any branch takes; the smallest of them, 'o0', takes 0.333",
        ),
        ({"depth": 0.5, "ignore": ["*"]}, "nothing to remove: o0 and 2 more: left out by --ignore"),
    ],
)
def test_why_no_branch_goes(options, message):
    with pytest.raises(NothingToPrune) as error:
        pruned(**options)
    assert str(error.value) == message


def test_a_model_without_branches_says_so():
    with pytest.raises(NothingToPrune, match="no value in the main graph is computed from another one of its shape"):
        pruned(model("y = MatMul(x, w)", x=f"float[n,{WIDTH}] x", w=(WIDTH, 5)), depth=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth must be above 0 and below 1, got 0: it is the share of what branches compute"),
        ({"depth": 1.5}, "depth must be above 0 and below 1, got 1.5: it is the share of what branches compute"),
        ({"depth": 0.3, "criterion": "l2", "reconstruct": False}, "depth needs samples to choose branches by"),
        (
            {"depth": 0.3, "rounds": 2},
            "rounds have no effect with depth alone, as branches go before the first of them",
        ),
        ({"without": "o2", "masks": "4 steps", "ratio": 0.5}, "masks needs a budget: give a target of macs, params or"),
    ],
)
def test_what_depth_does_not_go_with(options, message):
    given = {} if options.get("criterion") else {"data": samples()}
    with pytest.raises(OptionError) as error:
        onnxprune.prune(network(), latency=False, **given, **options)
    assert message in str(error.value)


def test_a_branch_that_is_locked_cannot_be_named():
    with pytest.raises(OptionError) as error:
        pruned(network("float[] y, float[] h2"), without="o2")
    why = "it computes 'h2', which the model gives as outputs"
    assert str(error.value) == f"branch 'o2' cannot go: {why}; do not name it, or free it"


@pytest.mark.parametrize("options", [{"depth": 0.34}, {"depth": 0.34, "targets": {"macs": 0.6}}])
def test_a_wrong_cut_is_not_written(options, monkeypatch):
    """The proof takes a branch for the one that went."""
    monkeypatch.setattr(verify, "masked", lambda traced, kept, fitted=None, gone=(): traced.model.proto)
    with pytest.raises(VerificationError, match="the pruned model is wrong and was not written"):
        pruned(network_where_all_count(), **options)


def network_where_all_count():
    proto = network()
    for tensor in proto.graph.initializer:
        if tensor.name == "down1":
            array = np.random.default_rng(3).standard_normal((WIDTH, WIDTH)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "down1"))
    return proto


def test_what_was_cut_learns_from_the_original():
    pytest.importorskip("torch")
    tuning = {"steps": 6, "rate": 1e-3, "batch": 16, "threads": 1}
    for options in ({}, {"targets": {"macs": 0.6}}):
        report = pruned(network_where_all_count(), depth=0.34, tune=tuning, **options).report
        assert report["tuning"]["steps"] == 6
        assert report["depth"]["removed"] == pytest.approx(1 / 3)


ROUNDS = {"depth": 0.34, "rounds": 2, "targets": {"macs": 0.4}, "round_to": 1}


def test_branches_go_before_the_first_round_and_widths_in_all():
    report = pruned(network_where_all_count(), **ROUNDS).report
    follows_the_schema(json.loads(json.dumps(report)))
    assert report["depth"]["removed"] == pytest.approx(1 / 3)
    assert report["output"]["macs"] <= 0.4 * report["input"]["macs"]
    assert report["options"]["targets"] == (("macs", 0.4),)
    first, last = report["rounds"]
    left = (
        1
        - report["depth"]["removed"]
        * sum(each["macs"] for each in report["depth"]["branches"])
        / (report["input"]["macs"])
    )
    assert first["wanted"]["macs"] == pytest.approx((left * 0.4) ** 0.5, abs=0.01)  # of the original
    assert last["reached"]["macs"] == pytest.approx(report["output"]["macs"] / report["input"]["macs"])
    assert last["reached"]["macs"] < first["reached"]["macs"] < left
    assert len(report["verification"]["runs"]) == 3 * len(pruned(depth=0.34).report["verification"]["runs"])


def test_rounds_that_lost_branches_learn_from_the_original():
    pytest.importorskip("torch")
    tuning = {"steps": 6, "rate": 1e-3, "batch": 16, "threads": 1}
    report = pruned(network_where_all_count(), tune=tuning, **ROUNDS).report
    assert [each["tuning"]["steps"] for each in report["rounds"]] == [3, 3]
    plain = pruned(network_where_all_count(), **ROUNDS).report
    assert report["fidelity"]["figures"] != plain["fidelity"]["figures"]


MASKS = {"steps": 8, "rate": 1e-3, "batch": 16, "threads": 1}


@pytest.mark.parametrize(
    "options",
    [{"depth": 0.34, "targets": {"macs": 0.5}}, {"without": "o1", "shape": {"up0": 7, "up2": 9}}],
    ids=["budget", "shape"],
)
def test_masks_are_learned_in_what_branches_left(options):
    pytest.importorskip("torch")
    report = pruned(network_where_all_count(), masks=MASKS, round_to=1, **options).report
    follows_the_schema(json.loads(json.dumps(report)))
    assert sum(each["removed"] for each in report["depth"]["branches"]) == 1
    assert report["masks"]["steps"] == 8
    assert (report["options"]["criterion"], report["options"]["depth"]) == ("masks", options.get("depth"))
    assert report["input"]["sha256"] == pruned(network_where_all_count(), depth=0.34).report["input"]["sha256"]
    assert len(report["verification"]["runs"]) == 2 * len(pruned(depth=0.34).report["verification"]["runs"])
    kept = {group["name"]: group["kept"] for group in report["groups"]}
    if "shape" in options:
        assert (kept["up0"], kept["up1"], kept["up2"]) == (7, 0, 9)
    else:  # of the original
        assert 0.4 < report["output"]["macs"] / report["input"]["macs"] <= 0.5
    assert "masks learned in 8 steps" in text_of(report)
    assert "removed 1 of 3 branches" in text_of(report)


def test_masks_learn_from_the_original_what_branches_did():
    pytest.importorskip("torch")
    options = {"masks": {**MASKS, "steps": 2, "rate": 1e-6}, "round_to": 1, "shape": {"up0": 11}}
    whole = pruned(network_where_all_count(), without="o1", reconstruct=False, **options).report
    shorter = pruned(network_where_all_count(), without="o1", ratio=0, reconstruct=False).model
    of_itself = pruned(shorter, **options).report
    assert whole["masks"]["history"][0]["loss"] > 3 * of_itself["masks"]["history"][0]["loss"]


def test_masks_alone_decide_where_no_branch_is_worth_it():
    pytest.importorskip("torch")
    options = {"depth": "auto", "targets": {"macs": 0.95}, "round_to": 1}
    report = pruned(network_where_all_count(), masks={**MASKS, "steps": 2}, **options).report
    follows_the_schema(json.loads(json.dumps(report)))
    assert report["depth"]["removed"] == 0
    assert report["masks"]["steps"] == 2
    assert (report["options"]["criterion"], report["options"]["depth"]) == ("masks", "auto")


def test_masks_have_nothing_to_learn_where_branches_meet_the_target():
    pytest.importorskip("torch")
    report = pruned(network_where_all_count(), masks=MASKS, depth=0.34, targets={"macs": 0.9}).report
    assert (report["masks"], report["options"]["criterion"]) == (None, "obs")
    assert report["output"]["macs"] <= 0.9 * report["input"]["macs"]


def test_a_run_that_ended_between_rounds_goes_on_from_there(tmp_path):
    source, target, told = tmp_path / "net.onnx", tmp_path / "short.onnx", list[str]()
    onnx.save(network_where_all_count(), source)
    kept = {key: ROUNDS[key] for key in ("depth", "targets", "round_to")}
    run = partial(
        prune_file, source, target, make_options(latency=False, **kept), samples(), rounds=2, force=False
    )  # fmt: skip
    with pytest.raises(Ended):
        run(progress=ending("round 2 of 2"))
    assert [*(tmp_path / "short.onnx.checkpoint" / "notes-2").iterdir()]  # of the branches, too
    run(resume=True, progress=lambda text, *_: told.append(text))
    assert not any("round 1 of 2" in text for text in told)
    once = onnxprune.prune(source, data=samples(), latency=False, **ROUNDS)
    assert target.read_bytes() == once.save(tmp_path / "once.onnx").read_bytes()


def test_a_sweep_refuses_depth(tmp_path):
    with pytest.raises(OptionError, match=r"^depth has no effect in a sweep, which cuts widths alone"):
        onnxprune.sweep(network(), tmp_path / "family", kind="macs", values=[0.5], depth=0.3)
