"""Eight bits from end to end: alone, and after a cut whose targets are those of the quantized file."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.cli.group import cli
from onnxprune.errors import ModelError, NothingToPrune, OptionError
from onnxprune.graph.read import load
from onnxprune.graph.write import signature
from onnxprune.runtime.session import open_session
from tests.support.build import model
from tests.support.fake_board import quiet
from tests.support.paths import ROOT
from tests.support.schema import follows_the_schema

RESNET, VIT = ROOT / "models/resnet_bn.onnx", ROOT / "models/vit.onnx"
DATA, TEST = ROOT / "models/mnist_calibration.npz", ROOT / "models/mnist_test.npz"
SOME = {name: array[:150] for name, array in np.load(TEST).items()}
FEW = {"data": DATA, "eval_data": SOME, "samples": 32}


@pytest.fixture(scope="module")
def both():
    """ResNet, pruned to a fifth of its size in eight bits."""
    return onnxprune.prune(RESNET, targets={"size": 0.2}, quantize="int8", latency=False, criterion="l2", **FEW)


def ops(proto):
    return {node.op_type for node in proto.graph.node}


def invoked(*arguments):
    return CliRunner().invoke(cli, [*map(str, arguments), "--quiet"], prog_name="onnxprune")


def test_the_quantized_file_meets_the_size(both, tmp_path):
    path = both.save(tmp_path / "small.onnx")
    size = RESNET.stat().st_size
    assert 0.85 * 0.2 * size <= path.stat().st_size <= 0.2 * size
    assert "QuantizeLinear" in ops(both.model)
    follows_the_schema(json.loads(json.dumps(both.report)))


def test_the_proof_is_of_the_cut_and_the_figures_are_of_what_was_written(both, tmp_path):
    report, path = both.report, both.save(tmp_path / "small.onnx")
    assert report["verification"]["passed"]
    assert report["verification"]["max_rel_diff"] < 1e-4  # in float32: eight bits are not as close
    files = report["quantization"]["files"]
    assert report["output"]["size_bytes"] == files["both"]["size_bytes"] == path.stat().st_size
    assert files["pruned"]["size_bytes"] > 2 * files["both"]["size_bytes"]
    assert files["alone"]["size_bytes"] < 0.4 * files["original"]["size_bytes"]
    assert report["accuracy"]["after"] == files["both"]["accuracy"] > 0.97
    measured = onnxprune.compare(RESNET, path, data=SOME, budget_s=0.01, memory=False, detail=False)
    assert measured.after.accuracy == pytest.approx(files["both"]["accuracy"], abs=0.01)


def test_ports_names_and_texts_stay_as_they_are(both):
    assert signature(load(both.model)) == signature(load(RESNET))
    before = onnx.load(RESNET)
    assert (both.model.producer_name, both.model.graph.name) == (before.producer_name, before.graph.name)
    assert list(both.model.metadata_props) == list(before.metadata_props)
    assert {opset.domain for opset in both.model.opset_import} == {opset.domain for opset in before.opset_import}


def test_a_latency_is_that_of_the_quantized_file_as_the_timer_tells_it(tmp_path):
    """The fake board takes a time for each number that a file holds: eight bits change little there."""
    options = {"criterion": "l2", "profile_seconds": 5.0, "round_to": 1, **FEW}
    result = onnxprune.prune(RESNET, targets={"latency": 0.6}, quantize="int8-static", timer=quiet, **options)
    path = result.save(tmp_path / "small.onnx")
    assert "QuantizeLinear" in ops(onnx.load(path))
    assert 0.9 * 0.6 <= quiet(path) / quiet(RESNET) <= 1.015 * 0.6
    assert result.report["latency"][0]["after_ms"] == pytest.approx(quiet(path))
    assert result.report["promise"]["targets"][0]["measured"] <= 1.015 * 0.6
    assert result.report["quantization"]["files"]["alone"]["latency_ms"] > quiet(path)


def test_targets_that_eight_bits_meet_without_a_cut():
    with pytest.raises(NothingToPrune, match=r"nothing has to go: the model meets size=0\.4 already in int8, static"):
        onnxprune.prune(RESNET, targets={"size": 0.4}, quantize="int8", latency=False, criterion="l2", **FEW)


def test_a_target_that_no_cut_reaches_tells_what_can_be_reached():
    with pytest.raises(OptionError, match=r"target size=0\.001 \(at best 0\.0\d+\) cannot be reached"):
        onnxprune.prune(RESNET, targets={"size": 0.001}, quantize="int8", latency=False, criterion="l2", **FEW)


def test_alone_a_transformer_is_quantized_dynamically_where_that_keeps_more(tmp_path):
    result = onnxprune.quantize(VIT, data=DATA, eval_data=SOME, samples=16, latency=False)
    told = result.report["quantization"]
    assert {each["form"] for each in told["tried"]} >= {"dynamic", "static, minmax, layers alone"}
    losses = {each["form"]: each["loss"] for each in told["tried"]}
    assert told["loss"] == min(losses.values())
    assert result.report["accuracy"]["after"] > 0.98
    assert result.save(tmp_path / "q.onnx").stat().st_size < 0.4 * VIT.stat().st_size


@pytest.mark.parametrize(("form", "op"), [("int8-dynamic", "MatMulInteger"), ("int8-static", "QuantizeLinear")])
def test_the_form_can_be_said(form, op):
    assert op in ops(onnxprune.quantize(VIT, form, data=DATA, samples=16, latency=False).model)


@pytest.mark.generated
def test_without_data_samples_are_made_up():
    result = onnxprune.quantize(RESNET, effort="quick", latency=False)
    assert result.report["calibration"]["source"] == "generated"
    assert result.report["fidelity"] is None


def test_samples_that_are_compared_on_give_no_range(tmp_path):
    """One sample of huge numbers among those that are compared: ranges do not know of it."""
    arrays = np.load(DATA)
    images = arrays["image"][:32]
    np.savez(tmp_path / "a.npz", image=images)
    np.savez(tmp_path / "b.npz", image=images[:4] * 1e4)
    options = {"data": tmp_path / "a.npz", "latency": False}
    alone, beside = (
        onnxprune.quantize(RESNET, "int8-static", eval_data=each, **options).model.SerializeToString()
        for each in (tmp_path / "a.npz", tmp_path / "b.npz")
    )
    assert alone == beside


def test_the_command_line(tmp_path):
    output = tmp_path / "q.onnx"
    ran = invoked("quantize", RESNET, "-o", output, "--data", DATA, "--samples", 32, "--report", tmp_path / "r.json")
    assert ran.exit_code == 0, ran.output
    for words in ("original", "int8 alone", "int8: static", "x smaller", "top-1 agreement"):
        assert words in ran.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["output"]["path"] == str(output)
    assert (report["recipe"]["run"], report["recipe"]["samples"]) == ("quantize", 32)
    assert report["quantization"]["files"]["both"] is None
    assert invoked("quantize", RESNET, "-o", output, "--data", DATA).exit_code == 2  # it exists
    open_session(output)


def test_prune_on_the_command_line_shows_all_files(tmp_path):
    options = ["--ratio", "0.3", "--criterion", "l2", "--data", DATA, "--samples", "32", "--no-latency"]
    ran = invoked("prune", RESNET, "-o", tmp_path / "o.onnx", *options, "--quantize", "int8")
    assert ran.exit_code == 0, ran.output
    for words in ("original", "int8 alone", "pruned  ", "pruned, int8", "verified: masked = pruned", "of 2 forms"):
        assert words in ran.output, words


@pytest.mark.parametrize(
    ("options", "name"),
    [({"depth": 0.3}, "depth"), ({"change_io": True}, "change_io"), ({"method": "slicegpt"}, "method slicegpt")],
    ids=str,
)
def test_what_eight_bits_do_not_go_with(options, name):
    with pytest.raises(OptionError, match=f"quantize goes with one cut of units, not with {name}: run onnxprune"):
        onnxprune.prune(VIT, quantize="int8", **options)


def test_an_unknown_form():
    with pytest.raises(OptionError, match="quantize"):
        onnxprune.prune(VIT, quantize="int4")
    with pytest.raises(OptionError, match="option"):
        onnxprune.quantize(VIT, targets={"size": 0.1})


def test_a_model_that_is_quantized_already(both):
    with pytest.raises(
        OptionError, match=r"is quantized already, (Dequ|Qu)antizeLinear '.*' shows it; prune it as it is, or"
    ):
        onnxprune.quantize(both.model, data=DATA, latency=False)


def test_half_precision_is_refused():
    half = onnx.load(RESNET)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, ["n", 4]) for n in ("x", "y")]
    weight = numpy_helper.from_array(np.ones((4, 4), np.float16), "w")
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    half = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(OptionError, match="quantize takes models in float32, and this one holds float16: give the"):
        onnxprune.quantize(half, data={"x": np.ones((8, 4), np.float16)}, latency=False)


def test_a_model_without_anything_to_quantize():
    bare = model("y = Exp(x)", x="float[n,4] x")
    with pytest.raises(ModelError, match="nothing in the model can be quantized"):
        onnxprune.quantize(bare, data={"x": np.ones((8, 4), np.float32)}, latency=False)


def test_an_old_opset_is_raised_for_ranges_by_channel():
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 6, 6])]
    weight = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(nodes, "old", ports, outputs, [numpy_helper.from_array(weight, "w")])
    old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    data = {"x": np.random.default_rng(1).normal(size=(16, 3, 8, 8)).astype(np.float32)}
    result = onnxprune.quantize(old, data=data, latency=False)
    assert {opset.domain: opset.version for opset in result.model.opset_import}[""] >= 13
    assert result.report["quantization"]["loss"] < 1e-2


def test_weights_beside_the_model_stay_beside_it(tmp_path):
    path = tmp_path / "vit.onnx"
    onnx.save(onnx.load(VIT), path, save_as_external_data=True, location="vit.data", size_threshold=1024)
    result = onnxprune.quantize(path, data=DATA, samples=16, latency=False)
    written = result.save(tmp_path / "q.onnx")
    assert (tmp_path / "q.onnx.data").is_file()
    assert "MatMulInteger" in ops(onnx.load(written)) or "QuantizeLinear" in ops(onnx.load(written))
    options = {"criterion": "l2", "latency": False, "data": DATA, "samples": 16}
    both = onnxprune.prune(path, targets={"size": 0.15}, quantize="int8", **options)
    small = both.save(tmp_path / "b.onnx")
    total = sum(each.stat().st_size for each in tmp_path.glob("b.onnx*"))
    assert total <= 0.15 * sum(each.stat().st_size for each in (path, tmp_path / "vit.data"))
    open_session(small)


def test_neither_sweeps_nor_folders_quantize(tmp_path):
    with pytest.raises(OptionError, match="quantize has no effect in a sweep: run onnxprune quantize on its members"):
        onnxprune.sweep(VIT, tmp_path / "family", "macs", [0.5], quantize="int8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/model.onnx").write_bytes(VIT.read_bytes())
    with pytest.raises(OptionError, match="quantize has no effect on folders: run onnxprune quantize on the models of"):
        onnxprune.prune_folder(tmp_path / "folder", tmp_path / "out", quantize="int8")
