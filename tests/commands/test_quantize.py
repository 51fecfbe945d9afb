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
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import signature
from onnxprune.report.quantize import quantize_tables, slower_lines
from onnxprune.runtime import quantize
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


@pytest.fixture
def with_vnni(monkeypatch):
    """A processor whose products of eight bits do not saturate: seven bits are not tried."""
    monkeypatch.setattr("onnxprune.commands.steps.int8.cpu_features", lambda: ("avx2", "avx512_vnni"))


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


def by_bytes(path):
    """A board that takes as long as a file is large: eight bits are what is fast there."""
    return 1.0 + 1e-5 * path.stat().st_size


def test_a_latency_that_eight_bits_bring_is_met_on_a_board_that_takes_bytes(tmp_path):
    options = {"criterion": "l2", "profile_seconds": 5.0, "round_to": 1, **FEW}
    result = onnxprune.prune(RESNET, targets={"latency": 0.25}, quantize="int8-static", timer=by_bytes, **options)
    path = result.save(tmp_path / "small.onnx")
    share = by_bytes(path) / by_bytes(RESNET)
    assert 0.9 * 0.25 <= share <= 1.015 * 0.25
    (target,) = result.report["promise"]["targets"]
    assert target["measured"] == pytest.approx(share)
    files = result.report["quantization"]["files"]
    assert files["both"]["fraction"] == pytest.approx(share)
    assert files["both"]["fraction"] < files["alone"]["fraction"] < 0.5 < files["pruned"]["fraction"]


def test_a_quantized_file_that_misses_its_latency_is_not_written(tmp_path, monkeypatch):
    """What is raced first keeps the target; what is written takes 10 % longer."""
    monkeypatch.setattr(
        "onnxprune.evaluation.compare.raced",
        lambda timer, before, after, *_: (np.full(9, timer.ms(before)), np.full(9, 1.1 * timer.ms(after))),
    )
    options = ["--target", "latency=0.25", "--criterion", "l2", "--profile-seconds", 5, "--round-to", 1]
    options += ["--timer", f"{__name__}:by_bytes", "--quantize", "int8-static", "--data", DATA, "--samples", 16]
    ran = invoked("prune", RESNET, "-o", tmp_path / "o.onnx", *options)
    assert ran.exit_code == 2, ran.output
    assert not [*tmp_path.iterdir()]
    assert "target missed: what would be written has latency 0.2" in ran.output
    assert "of the original's (asked for 0.25); nothing was written" in ran.output


def test_a_form_that_the_device_cannot_run_is_left_out():
    def board(path):
        if "MatMulInteger" in ops(onnx.load(path)):
            raise RuntimeError("no integers here")
        return quiet(path)

    tried = onnxprune.quantize(VIT, data=DATA, samples=16, timer=board).report["quantization"]["tried"]
    why = {each["form"]: each["why_not"] for each in tried}
    assert "it raised RuntimeError: no integers here (test_quantize.py, line" in why["dynamic"]
    assert why["static, minmax, layers alone"] is None
    assert len(why) == 2  # the processor of this machine decides no forms of another one


def test_a_timer_that_fails_on_the_original_is_what_is_told():
    with pytest.raises(OptionError, match=r"^timer .*it raised ZeroDivisionError"):
        onnxprune.quantize(VIT, data=DATA, samples=16, timer=lambda path: 1 / 0)


def test_what_says_why_a_form_failed_names_no_private_path(monkeypatch):
    def load_of(path):
        raise ModelError(f"{path}: damaged")

    monkeypatch.setattr("onnxprune.commands.steps.int8.load", load_of)
    with pytest.raises(ModelError, match=r"cannot be quantized: the model in static, minmax: damaged; the model in st"):
        onnxprune.quantize(RESNET, data=DATA, samples=16)


@pytest.mark.parametrize(("batch", "most"), [("n", 66), (16, 80)])
def test_percentiles_are_of_64_samples_from_everywhere(monkeypatch, with_vnni, batch, most):
    """A batch of fixed size goes through whole; of others, each gives some."""
    seen, plain = [], quantize._reader
    monkeypatch.setattr(quantize, "_reader", lambda feeds: seen.append(feeds["x"]) or plain(feeds))
    proto = model(
        "a = Conv(x, w)", "b = Relu(a)", "y = Conv(b, v)", x=f"float[{batch},3,6,6] x", w=(8, 3, 3, 3), v=(4, 8, 1, 1)
    )
    images = np.repeat(np.arange(400, dtype=np.float32), 108).reshape(400, 3, 6, 6)
    onnxprune.quantize(proto, "int8-static", data={"x": images}, samples=0, latency=False)
    numbers = [each[:, 0, 0, 0] for each in seen]
    start = next(i for i in range(1, len(numbers)) if numbers[i][0] < numbers[i - 1][0])  # the second form begins
    clipped = np.concatenate(numbers[start:])
    assert 64 <= len(clipped) <= most
    assert clipped.max() - clipped.min() > 250


def test_a_loss_of_the_samples_that_ranges_are_of_is_told_as_such():
    arrays = {"image": np.load(DATA)["image"][:1]}
    result = onnxprune.quantize(RESNET, "int8-static", data=arrays, latency=False)
    assert not result.report["quantization"]["loss_held_out"]
    printed = " ".join(
        str(part) for part in quantize_tables({**result.report, "output": {"path": "q", "size_bytes": 1}})
    )
    assert "losses are of the samples that ranges were taken from: there are too few for both" in printed
    enough = onnxprune.quantize(RESNET, "int8-static", data=DATA, samples=64, latency=False)
    assert enough.report["quantization"]["loss_held_out"]


def test_slower_is_said_where_the_intervals_have_nothing_in_common():
    def told(interval, vnni=False):
        original = {"fraction": 1.0, "interval": [1.0, 1.0]}
        alone = {"fraction": 1.2, "interval": interval}
        return [*slower_lines({"quantization": {"vnni": vnni, "files": {"original": original, "alone": alone}}})]

    assert told([0.9, 1.5]) == []
    (line,) = told([1.1, 1.3])
    assert line.startswith(
        "int8 is 1.20x slower than float32 here (int8 alone beside original): the processor has no VNN"
    )
    assert told([1.1, 1.3], vnni=None) == ["int8 is 1.20x slower than float32 here (int8 alone beside original)"]


@pytest.mark.parametrize("call", [onnxprune.quantize, onnxprune.prune])
def test_a_timer_that_is_never_asked_is_refused(call):
    with pytest.raises(OptionError, match="timer has no effect without latency: leave out --no-latency"):
        call(VIT, timer=quiet, latency=False)
    with pytest.raises(OptionError, match=r"timer_seconds has no effect without a timer$"):
        call(VIT, timer_seconds=3.0)


def test_a_plan_holds_no_eight_bits():
    with pytest.raises(OptionError, match="quantize has no place in a plan, which lists units and branches, not eight"):
        onnxprune.plan(VIT, quantize="int8", targets={"size": 0.2})


def test_targets_that_eight_bits_meet_without_a_cut():
    with pytest.raises(NothingToPrune, match=r"nothing has to go: the model meets size=0\.4 already in int8, static"):
        onnxprune.prune(RESNET, targets={"size": 0.4}, quantize="int8", latency=False, criterion="l2", **FEW)


def test_a_latency_that_eight_bits_meet_without_a_cut():
    """Where the long race of the original in eight bits is sure of it."""
    options = {"criterion": "l2", "profile_seconds": 1.0, "round_to": 1, "timer": by_bytes, **FEW}
    with pytest.raises(NothingToPrune, match=r"the model meets latency=0\.4 already in int8, static, minmax"):
        onnxprune.prune(RESNET, targets={"latency": 0.4}, quantize="int8-static", **options)


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


def test_prune_on_the_command_line_shows_all_files(tmp_path, with_vnni):
    options = ["--ratio", "0.3", "--criterion", "l2", "--data", DATA, "--samples", "32", "--no-latency"]
    ran = invoked("prune", RESNET, "-o", tmp_path / "o.onnx", *options, "--quantize", "int8")
    assert ran.exit_code == 0, ran.output
    for words in ("original", "int8 alone", "pruned  ", "pruned, int8", "verified: masked = pruned", "of 2 forms"):
        assert words in ran.output, words


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"vocabulary": [1, 2]}, "vocabulary: samples, which ranges are taken from, have the numbers of all tokens"),
        ({"change_io": True}, "change_io: samples, which ranges are taken from, have caches of the sizes that were"),
        ({"method": "slicegpt", "ratio": 0.2}, "method slicegpt: it turns the original itself, which the quantized"),
    ],
    ids=str,
)
def test_what_eight_bits_do_not_go_with(options, why):
    with pytest.raises(OptionError, match=f"quantize does not go with {why}.*; run onnxprune quantize on the result"):
        onnxprune.prune(VIT, quantize="int8", **options)


def test_an_unknown_form():
    with pytest.raises(OptionError, match="quantize"):
        onnxprune.prune(VIT, quantize="int4")
    with pytest.raises(OptionError, match="unknown form 'int4'; there are: int8, int8-static, int8-dynamic"):
        onnxprune.quantize(VIT, "int4")
    with pytest.raises(OptionError, match="option"):
        onnxprune.quantize(VIT, targets={"size": 0.1})


def test_a_model_that_is_quantized_already(both):
    with pytest.raises(
        OptionError, match=r"is quantized already, (Dequ|Qu)antizeLinear '.*' shows it; prune it as it is, or"
    ):
        onnxprune.quantize(both.model, data=DATA, latency=False)


def test_half_precision_is_refused():
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


def test_bodies_of_loops_stay_in_float32_and_a_model_that_is_one_says_so():
    value, weight = helper.make_tensor_value_info, numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["h", "w"], ["t"]),
        helper.make_node("Tanh", ["t"], ["h2"]),
        helper.make_node("Identity", ["c"], ["c2"]),
    ]
    ins = [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("h", TensorProto.FLOAT, None)]
    body = helper.make_graph(nodes, "b", ins, [value("c2", TensorProto.BOOL, []), value("h2", TensorProto.FLOAT, None)])
    loop = helper.make_node("Loop", ["count", "", "x"], ["y"], body=body)
    ports = [value(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    weights = [weight, numpy_helper.from_array(np.array(3), "count")]
    graph = helper.make_graph([loop], "g", ports[:1], ports[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="no product with weights of float32 but in bodies of Loop, Scan or If"):
        onnxprune.quantize(proto, data={"x": np.ones((32, 4), np.float32)}, latency=False)


def test_an_old_opset_is_raised_for_ranges_by_channel():
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 6, 6])]
    weight = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(nodes, "old", ports, outputs, [numpy_helper.from_array(weight, "w")])
    old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    data = {"x": np.random.default_rng(1).normal(size=(16, 3, 8, 8)).astype(np.float32)}
    for each in (old, as_of_format_3(old)):
        result = onnxprune.quantize(each, data=data, latency=False)
        assert {opset.domain: opset.version for opset in result.model.opset_import}[""] >= 13
        assert result.model.ir_version >= 7
        assert [port.name for port in result.model.graph.input] == ["x"]
        assert result.report["quantization"]["loss"] < 1e-2
        assert "QuantizeLinear" in ops(result.model)
        onnx.checker.check_model(result.model)


def as_of_format_3(proto):
    """Return a model whose weights are listed as inputs, as the third version of the format of files wants it."""
    old = onnx.ModelProto()
    old.CopyFrom(proto)
    old.ir_version = 3
    for tensor in proto.graph.initializer:
        old.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return old


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
