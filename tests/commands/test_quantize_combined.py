"""Eight bits at the end of a run that does more than one cut of units."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.commands.steps import int8
from onnxprune.commands.ways import remade
from onnxprune.errors import OptionError
from onnxprune.graph.files.read import load
from tests.commands.test_prune import run
from tests.commands.test_quantize import DATA, RESNET, SOME, VIT, by_bytes, ops
from tests.support.schema import follows_the_schema

PICTURES = {name: array[:64] for name, array in np.load(DATA).items()}
FEW = {"data": PICTURES, "eval_data": {name: array[:60] for name, array in SOME.items()}, "samples": 16}
GONE = ("node_linear_15",)
QUICK = {"criterion": "l2", "latency": False, "effort": "quick", **FEW}


def branches_gone(report):
    return [branch["name"] for branch in report["depth"]["branches"] if branch["removed"]]


def check(result, original, tmp_path):
    """Check that a result is in eight bits, proven before that, and that its report is of the original."""
    report, path = result.report, result.save(tmp_path / "small.onnx")
    follows_the_schema(json.loads(json.dumps(report)))
    assert {"QuantizeLinear", "DynamicQuantizeLinear"} & ops(onnx.load(path))
    assert report["verification"]["passed"]
    assert report["verification"]["max_rel_diff"] < 1e-4  # in float32: eight bits are not as close
    files = report["quantization"]["files"]
    assert report["input"]["size_bytes"] == files["original"]["size_bytes"] == load(original).size_bytes()
    assert report["output"]["size_bytes"] == files["both"]["size_bytes"] == path.stat().st_size
    assert files["both"]["size_bytes"] < files["alone"]["size_bytes"] < files["original"]["size_bytes"]
    assert files["both"]["size_bytes"] < files["pruned"]["size_bytes"] < files["original"]["size_bytes"]
    return report, path


def test_branches_go_and_what_is_left_is_quantized(tmp_path):
    result = onnxprune.prune(VIT, depth=0.3, quantize="int8-dynamic", **QUICK)
    report, path = check(result, VIT, tmp_path)
    assert branches_gone(report)
    measured = onnxprune.compare(VIT, path, data=FEW["eval_data"], budget_s=0.01, memory=False, detail=False)
    assert report["accuracy"]["after"] == pytest.approx(measured.after.accuracy, abs=0.01)
    assert report["accuracy"]["after"] > 0.5


def test_widths_stay_where_branches_and_eight_bits_meet_the_targets(tmp_path):
    """In float32 what branches leave misses both targets of the quantized file."""
    options = {"without": GONE, "targets": {"size": 0.4, "macs": 0.95}, "quantize": "int8-static"}
    report, path = check(onnxprune.prune(VIT, **options, **QUICK), VIT, tmp_path)
    assert all(group["kept"] in (0, group["units"]) for group in report["groups"])
    assert path.stat().st_size <= 0.4 * VIT.stat().st_size < report["quantization"]["files"]["pruned"]["size_bytes"]


def test_a_latency_of_branches_and_eight_bits_is_that_of_the_file_on_the_users_timer(tmp_path):
    options = {
        "without": GONE,
        "targets": {"latency": 0.22},
        "quantize": "int8-static",
        "timer": by_bytes,
        "round_to": 1,
    }
    result = onnxprune.prune(VIT, **options, profile_seconds=5.0, **{**QUICK, "latency": True})
    report, path = check(result, VIT, tmp_path)
    assert branches_gone(report) == [*GONE]
    assert any(0 < group["kept"] < group["units"] for group in report["groups"])
    share = by_bytes(path) / by_bytes(VIT)
    assert 0.9 * 0.22 <= share <= 1.015 * 0.22
    (target,) = report["promise"]["targets"]
    assert target["target"] == "latency=0.22"
    assert target["measured"] == pytest.approx(share, rel=1e-3)
    assert report["quantization"]["files"]["both"]["fraction"] == pytest.approx(share, rel=1e-3)


def slow_in_eight_bits(path):
    """A board that has no integers: what is quantized takes three times as long."""
    proto = onnx.load(path)
    times = 3 if "QuantizeLinear" in ops(proto) else 1
    return times * (1 + 1e-6 * sum(np.prod(each.dims) for each in proto.graph.initializer))


def test_a_target_that_the_shorter_model_meets_in_float32_alone_still_holds():
    options = {"without": GONE, "targets": {"latency": 0.99}, "quantize": "int8-static", "timer": slow_in_eight_bits}
    with pytest.raises(OptionError, match=r"after \d+ branch(es)? went, .*latency=1\.\d+ms \(at best \d"):
        onnxprune.prune(VIT, **options, profile_seconds=5.0, **{**QUICK, "latency": True})


@pytest.mark.parametrize("aim", [{"shape": {"neurons": 160}}, {"ratios": {"*expand": 0.5}}])
@pytest.mark.parametrize("without", [(), GONE])
def test_a_target_that_eight_bits_meet_leaves_shape_and_ratios(aim, without, tmp_path):
    options = {"without": without, "targets": {"size": 0.6}, "quantize": "int8-dynamic", **aim}
    report, path = check(onnxprune.prune(VIT, **options, **QUICK), VIT, tmp_path)
    counts = {group["kept"] for group in report["groups"] if group["name"].endswith("expand")} - {0}
    assert counts == {160}
    assert path.stat().st_size <= 0.6 * VIT.stat().st_size


def test_a_memory_that_could_not_be_measured_beside_branches_is_measured_in_the_end(monkeypatch, tmp_path):
    monkeypatch.setattr(remade, "measured", lambda *_: {})
    options = {"without": GONE, "targets": {"memory": "100GB"}, "quantize": "int8-dynamic"}
    report, _ = check(onnxprune.prune(VIT, **options, **QUICK), VIT, tmp_path)
    assert all(group["kept"] in (0, group["units"]) for group in report["groups"])


def test_what_rounds_leave_is_quantized_at_the_end(tmp_path):
    options = {"rounds": 2, "targets": {"size": 0.15}, "quantize": "int8-static"}
    report, path = check(onnxprune.prune(RESNET, **options, **QUICK), RESNET, tmp_path)
    size = RESNET.stat().st_size
    assert 0.85 * 0.15 * size <= path.stat().st_size <= 0.15 * size
    first, last = report["rounds"]
    alone = report["quantization"]["files"]["alone"]["size_bytes"] / size
    assert 0.15**0.5 < first["reached"]["size"] <= (0.15 / alone) ** 0.5  # in float32: half of the way
    assert last["reached"]["size"] == pytest.approx(0.15, abs=0.02)
    assert report["accuracy"]["after"] > 0.9


def test_rounds_that_end_early_are_quantized_too(tmp_path):
    """The first round takes more than it had to, as units come in steps."""
    options = {"rounds": 2, "targets": {"macs": 0.8}, "quantize": "int8-static", "round_to": 32}
    report, path = check(onnxprune.prune(RESNET, **options, **QUICK), RESNET, tmp_path)
    assert report["rounds"][1]["skipped"] == "nothing has to go: macs=0.8 is met already"
    measured = onnxprune.compare(RESNET, path, data=FEW["eval_data"], budget_s=0.01, memory=False, detail=False)
    assert report["accuracy"]["after"] == pytest.approx(measured.after.accuracy, abs=0.01)


def a_fifth_slower_in_eight_bits(path):
    """A board that is as fast as a file is small, but for what is quantized."""
    proto = onnx.load(path)
    times = 1.2 if "QuantizeLinear" in ops(proto) else 1
    return times * sum(float(np.prod(each.dims)) for each in proto.graph.initializer)


def test_a_target_of_all_that_the_original_takes_holds_in_the_last_round(monkeypatch, tmp_path):
    """The rounds before it have nothing to do, where eight bits seemed to take as long as the original."""
    monkeypatch.setattr(int8.Int8, "share", lambda *_: 1.0)
    options = {"rounds": 2, "targets": {"latency": 1.0}, "quantize": "int8-static", "round_to": 1}
    options |= {"timer": a_fifth_slower_in_eight_bits, "profile_seconds": 5.0, **QUICK, "latency": True}
    report, path = check(onnxprune.prune(RESNET, **options), RESNET, tmp_path)
    assert "nothing has to go: latency=1 is met already" in report["rounds"][0]["skipped"]
    assert 0.9 < a_fifth_slower_in_eight_bits(path) / a_fifth_slower_in_eight_bits(RESNET) <= 1.015


def test_branches_rounds_and_eight_bits_together(tmp_path):
    options = {"without": GONE, "rounds": 2, "targets": {"size": 0.2}, "quantize": "int8-static"}
    report, path = check(onnxprune.prune(VIT, **options, **QUICK), VIT, tmp_path)
    assert branches_gone(report) == [*GONE]
    assert 0.85 * 0.2 <= path.stat().st_size / VIT.stat().st_size <= 0.2
    assert report["rounds"][1]["reached"]["size"] == pytest.approx(path.stat().st_size / VIT.stat().st_size)


def log_softmax(scores):
    return scores - np.log(np.sum(np.exp(scores), axis=-1, keepdims=True))


def test_branches_and_rounds_that_end_early_are_told_against_the_original(tmp_path):
    options = {"without": GONE, "rounds": 2, "targets": {"macs": 0.75}, "quantize": "int8-dynamic", "round_to": 160}
    report, path = check(onnxprune.prune(VIT, **options, **QUICK), VIT, tmp_path)
    assert "is met already" in report["rounds"][1]["skipped"]
    feeds = {name: array for name, array in FEW["eval_data"].items() if name != "labels"}
    before, after = (log_softmax(run(each, feeds)) for each in (VIT, path))
    kl = np.mean(np.sum(np.exp(before) * (before - after), axis=-1))
    assert report["fidelity"]["figures"]["kl"] == pytest.approx(kl, rel=0.05)


def test_what_masks_and_tuning_leave_is_quantized(tmp_path):
    learn = {"steps": 2, "batch": 4, "threads": 1}
    options = {
        "masks": learn,
        "tune": learn,
        "targets": {"size": 0.2},
        "quantize": "int8-static",
        "latency": False,
        **FEW,
    }
    report, path = check(onnxprune.prune(RESNET, **options), RESNET, tmp_path)
    assert 0.85 * 0.2 <= path.stat().st_size / RESNET.stat().st_size <= 0.2
    assert report["masks"]["steps"] == report["tuning"]["steps"] == 2
    assert report["options"]["criterion"] == "masks"
