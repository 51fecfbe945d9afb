"""`prune`, `inspect` and `compare` as Python functions, and what they leave on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_graphsurgeon
import onnxruntime
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune import compare, inspect, prune
from onnxprune.cli.group import cli
from onnxprune.dependency.groups import groups
from onnxprune.dependency.rules import RULES
from onnxprune.dependency.trace import trace
from onnxprune.errors import InputError, NothingToPrune, VerificationError
from onnxprune.graph.files import read
from onnxprune.graph.files.read import load
from onnxprune.planning.choice import reasons_for, select_ratios
from onnxprune.planning.options import make_options
from tests.dependency.rules.structures import STRUCTURES
from tests.support.build import ROWS, conv, dense, model
from tests.support.paths import MODELS

RESNET = MODELS / "resnet_bn.onnx"
TEST = MODELS / "mnist_test.npz"
HEADS, DIMS = "blocks.0.attention.qkv:heads", "blocks.0.attention.qkv:head_dims"


def mlp():
    """x [n, 6] -> w1, b1 -> Relu -> w2 -> y: one group that can be pruned, 'w1'."""
    return dense("b = Relu(a)", mid=16)


def softmax():
    """The same over a Softmax, over whose axis nothing can be pruned."""
    return dense("b = Softmax(a)", mid=16)


def cut(source, **options):
    """Prune by the weights alone, without timing anything."""
    return prune(source, latency=False, **{"criterion": "l2", **options})


def kept(result):
    """Return the kept and the original count of every group that was cut."""
    return {g["name"]: (g["kept"], g["units"]) for g in result.report["groups"] if g["kept"] < g["units"]}


def shape(proto, name):
    return next(list(tensor.dims) for tensor in proto.graph.initializer if tensor.name == name)


def save_external(proto, path, data="weights.bin"):
    onnx.save(proto, path, save_as_external_data=True, location=data, size_threshold=0, convert_attribute=False)
    return path


def run(path, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"]).run(None, feeds)[0]


def outputs(source):
    return run(source, {"x": np.random.default_rng(1).standard_normal((3, 6), np.float32)})


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- sources and results -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda proto, path: path,
        lambda proto, path: str(path),
        lambda proto, path: proto,
        lambda proto, path: SimpleNamespace(model_proto=proto),
        lambda proto, path: onnx_graphsurgeon.import_onnx(proto),
    ],
    ids=["path", "str", "proto", "torch program", "graphsurgeon"],
)
def test_every_source_gives_the_same_cut(make, tmp_path):
    proto = mlp()
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    result = cut(make(proto, tmp_path / "m.onnx"))
    assert kept(result) == {"w1": (11, 16)}
    assert shape(result.model, "w1") == [6, 11]
    assert result.report["verification"]["passed"] is True


def test_the_source_is_not_changed():
    proto = mlp()
    before = proto.SerializeToString(deterministic=True)
    cut(proto)
    assert proto.SerializeToString(deterministic=True) == before


def test_a_result_saves_what_the_report_describes(tmp_path):
    result = cut(mlp())
    path = result.save(tmp_path / "small.onnx")
    assert path == tmp_path / "small.onnx"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == result.report["output"]["sha256"]
    assert path.stat().st_size == result.report["output"]["size_bytes"]
    assert result.report["input"]["path"] is None
    assert result.report["output"]["path"] is None
    assert set(files(tmp_path)) == {"small.onnx"}


def test_a_result_does_not_replace_a_file_unless_forced(tmp_path):
    result, path = cut(mlp()), tmp_path / "small.onnx"
    path.write_text("there")
    with pytest.raises(
        InputError, match=r"exists; give another name, or --force \(in Python: force=True\) to replace it"
    ):
        result.save(path)
    assert path.read_text() == "there"
    result.save(str(path), force=True)
    assert len(outputs(path)) == 3


def test_the_public_names_are_lazy():
    assert set(onnxprune.__all__) <= {*dir(onnxprune), *onnxprune._HOMES}
    assert onnxprune.prune is prune
    with pytest.raises(AttributeError, match="module 'onnxprune' has no attribute 'prun'"):
        onnxprune.prun  # noqa: B018


def test_compare_takes_models_in_memory(steady):
    result = cut(mlp())
    found = compare(mlp(), result.model, memory=False)
    assert found.speedup == 2.0
    assert (found.before.macs, found.after.macs) == tuple(result.report[k]["macs"] for k in ("input", "output"))


def test_inspect_tells_groups_and_locks():
    found = inspect(mlp())
    assert [group.name for group in found.groups if group.prunable] == ["w1"]
    assert {name: [g.name for g in groups] for name, groups in found.locks.items()} == {
        "it is part of the graph input 'x'": ["w1:in"],
        "it is part of the graph output 'y'": ["w2"],
    }
    assert found.to_dict()["macs"] == found.macs == 6 * 16 + 16 * 5


# -- options -------------------------------------------------------------------------------------------


def test_ratio_by_glob_wins_over_the_common_one():
    result = cut(MODELS / "cnn.onnx", ratio=0.5, ratios={"hidden": 0.25, "conv1": 0})
    assert kept(result) == {"conv2": (32, 64), "conv3": (32, 64), "hidden": (96, 128)}
    assert result.report["options"]["ratios"] == (("hidden", 0.25), ("conv1", 0.0))


def test_the_last_glob_wins():
    result = cut(MODELS / "cnn.onnx", ratios=[("*", 0.5), ("conv*", 0)])
    assert kept(result) == {"hidden": (64, 128)}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ([HEADS], {HEADS}),
        ([DIMS], {DIMS}),
        ("blocks.0.attention.*", {HEADS}),
        ([HEADS, DIMS], {HEADS, DIMS}),
    ],
    ids=["heads", "head dims", "a glob takes the outer", "both"],
)
def test_inner_factors_are_cut_when_they_are_named(only, expected):
    result = cut(MODELS / "vit.onnx", only=only, ratio=0.4)
    assert set(kept(result)) == expected
    factor = (3 / 5 if HEADS in expected else 1) * (10 / 16 if DIMS in expected else 1)
    qkv = next(c for c in result.report["initializers"] if "blocks.0.attention.qkv.weight" in c)
    assert 240 * factor in shape(result.model, qkv)


QKV = next(case.proto for case in STRUCTURES if case.op == "separate-qkv")


def test_the_name_of_a_group_means_that_group_alone():
    """Node and weight of this name make the heads as well."""
    assert set(kept(cut(QKV, only="wv", ratio=0.5))) == {"wv"}
    assert set(kept(cut(QKV, ratio=0, ratios={"wv": 0.5}))) == {"wv"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "an outer factor of the same axis is pruned instead"),
        ({"ignore": "*"}, "left out by --ignore or --only"),
        ({"only": "wo"}, "left out by --ignore or --only"),
        ({"ratio": 0.0}, "its ratio is 0"),
        ({"ignore": "wq:heads"}, "an inner factor of an axis is pruned only where it is named"),
    ],
    ids=["default", "ignore", "only", "ratio", "ignore the outer"],
)
def test_an_inner_factor_says_what_is_pruned_instead(options, reason):
    found, chosen = groups(trace(load(QKV))), make_options(**options)
    assert reasons_for(found, select_ratios(found, chosen), chosen, {})["wv"] == reason


def test_a_name_with_brackets_is_found():
    proto = mlp()
    for node in proto.graph.node:
        node.input[:] = [name.replace("w1", "w[1]") for name in node.input]
    proto.graph.initializer[0].name = "w[1]"
    assert kept(cut(proto, only="w[1]")) == {"w[1]": (11, 16)}


@pytest.mark.parametrize(
    ("pattern", "touched", "made"),
    [
        ("conv1", {"conv1"}, {"conv1"}),
        ("conv3.weight", {"conv2", "conv3"}, {"conv3"}),
        ("/hidden/*", {"conv3", "hidden"}, {"hidden"}),
        ("head*", {"hidden"}, set()),
    ],
    ids=["group", "weight", "nodes", "made by none that can be cut"],
)
def test_a_glob_spares_what_it_touches_and_names_what_it_makes(pattern, touched, made):
    every = {"conv1", "conv2", "conv3", "hidden"}
    assert set(kept(cut(MODELS / "cnn.onnx", ignore=[pattern]))) == every - touched
    if made:
        assert set(kept(cut(MODELS / "cnn.onnx", only=[pattern]))) == made
        ratios = kept(cut(MODELS / "cnn.onnx", ratio=0.5, ratios={pattern: 0}))
        assert set(ratios) == every - made


def test_a_glob_of_a_stage_leaves_the_stage_before_alone():
    names = {group.name for group in inspect(RESNET).groups if group.prunable and group.name.startswith("stage3")}
    assert set(kept(cut(RESNET, only="stage3*"))) == names
    common, uneven = (kept(cut(RESNET, ratio=0.2, ratios=ratios, round_to=1)) for ratios in ({}, {"stage3*": 0.5}))
    assert {name for name in uneven if uneven[name] != common[name]} == names


def test_a_glob_of_what_makes_no_units_means_what_it_touches():
    assert set(kept(cut(RESNET, only="stage2.0.first.norm*"))) == {"stage2.0.first.conv"}
    assert set(kept(cut(mlp(), only="b1"))) == {"w1"}


def test_global_scope_ranks_all_groups_together():
    own, common = (cut(RESNET, scope=scope, round_to=1) for scope in ("group", "global"))
    total = [sum(count for count, _ in kept(result).values()) for result in (own, common)]
    assert total[0] == pytest.approx(0.7 * 544, abs=8)
    assert total[1] == pytest.approx(total[0], abs=16)
    shares = [{round(count / units, 1) for count, units in kept(result).values()} for result in (own, common)]
    assert shares[0] == {0.7}
    assert len(shares[1]) > 1


def test_bn_ranks_all_groups_together():
    result = cut(RESNET, criterion="bn", round_to=1)
    assert len({round(count / units, 1) for count, units in kept(result).values()}) > 1
    assert result.report["options"]["scope"] == "global"
    assert kept(result) == kept(cut(RESNET, criterion="bn", scope="global", round_to=1))


def test_bn_says_why_nothing_goes():
    with pytest.raises(NothingToPrune, match="no unit scored low enough among those of all groups, given --round-to"):
        cut(RESNET, criterion="bn", min_units=999)


def test_bn_says_which_groups_it_cannot_score():
    proto = onnx.load(RESNET)
    left = cut(proto, criterion="bn", ratio=0.5).report["groups"]
    assert not [group for group in left if group["locked"] and "criterion bn" in group["locked"]]
    scales = {name: np.ones(8, np.float32) for name in ("s", "m", "v")} | {"o": np.zeros(8, np.float32)}
    scales["s"] = np.arange(8, dtype=np.float32)
    norm = "c = BatchNormalization(a, s, o, m, v)"
    graph = conv(norm, "d = Relu(c)", "e = Conv(d, w3)", "b = Relu(e)", out=16, w3=(16, 8, 1, 1), **scales)
    reasons = {g["name"]: g["locked"] for g in cut(graph, criterion="bn", round_to=1).report["groups"]}
    assert reasons["w3"] == "criterion bn cannot score it: no BatchNormalization scales its units"
    assert reasons["w1"] is None


@pytest.mark.parametrize("criterion", ["l1", "fpgm", "random"])
def test_criteria_disagree(criterion):
    units = [cut(MODELS / "resnet_bn.onnx", criterion=c).report["initializers"] for c in ("l2", criterion)]
    assert units[0] != units[1]


@pytest.mark.parametrize("step", [1, 4, 16])
def test_round_to_holds_for_every_convolution(step):
    result = cut(RESNET, round_to=step)
    constants = {tensor.name: tensor.dims for tensor in result.model.graph.initializer}
    counts = [constants[node.input[1]][0] for node in result.model.graph.node if node.op_type == "Conv"]
    assert counts
    assert all(count % step == 0 for count in counts)


def test_min_units_are_kept():
    result = cut(RESNET, ratio=0.9, min_units=24, round_to=1)
    assert min(count for count, _ in kept(result).values()) == 24


def test_the_seed_decides_random_cuts():
    cuts = [cut(mlp(), criterion="random", seed=seed).report["initializers"] for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1]
    assert cuts[0] != cuts[2]


def test_accuracy_is_what_onnxruntime_counts(tmp_path, steady):
    data = {name: array[:300] for name, array in np.load(TEST).items()}
    np.savez(tmp_path / "test.npz", **data)
    plain = {"criterion": "l2", "reconstruct": False, "batch_norm": False}  # so that it errs at all
    result = prune(RESNET, ratio=0.1, data=tmp_path / "test.npz", eval_data=tmp_path / "test.npz", **plain)
    small = result.save(tmp_path / "small.onnx")
    right = [(run(m, {"image": data["image"]}).argmax(1) == data["labels"]).mean() for m in (RESNET, small)]
    accuracy = result.report["accuracy"]
    assert [accuracy["before"], accuracy["after"], accuracy["samples"]] == [*right, 300]
    assert result.report["verification"]["runs"][0]["dims"] == {"batch": 2}


def test_every_kept_index_says_where_a_weight_comes_from():
    result = cut(MODELS / "vit.onnx")
    old = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(MODELS / "vit.onnx").graph.initializer}
    new = {t.name: onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer}
    cuts = result.report["initializers"]
    for name, made in cuts.items():
        expected = old[made["source"]]
        for axis, indices in made["kept"].items():
            expected = expected.take(indices, int(axis))
        np.testing.assert_array_equal(new[name], expected)
    weights = [name for name, array in new.items() if array.dtype == np.float32 and name not in cuts]
    assert all(np.array_equal(new[name], old[name]) for name in weights)


def test_models_are_compared_on_the_evaluation_data():
    images = {name: array[:40] for name, array in np.load(TEST).items()}
    unseen = {name: array[300:350] for name, array in np.load(TEST).items()}
    cheap = {"criterion": "l2", "reconstruct": False}
    result = prune(RESNET, ratio=0.1, data=images, eval_data=[unseen], preprocess="unit", latency=False, **cheap)
    assert result.report["accuracy"]["samples"] == 50
    asked = {name: result.report["options"][name] for name in ("eval_data", "samples", "preprocess")}
    assert (asked["eval_data"], asked["samples"], asked["preprocess"]["scale"]) == ("(list)", 256, 255)
    path = make_options(eval_data=Path("d.npz"))
    assert (path.to_dict()["eval_data"], path.to_dict()["preprocess"]) == ("d.npz", None)


# -- external data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "elsewhere"])
def test_external_data_stays_external(tmp_path, folder, steady):
    (tmp_path / "elsewhere").mkdir()
    source = save_external(dense("b = Relu(a)", mid=700), tmp_path / "m.onnx")
    before = files(tmp_path)
    target = tmp_path / folder / "small.onnx"
    result = CliRunner().invoke(cli, [str(source), "-o", str(target), "--json", "--quiet"])
    assert result.exit_code == 0, result.stderr
    assert files(tmp_path).items() >= before.items()
    new = {str(Path(folder) / name) for name in ("small.onnx", "small.onnx.data")}
    assert set(files(tmp_path)) - set(before) == new
    assert outputs(target).shape == (3, 5)
    output = json.loads(result.stdout)["output"]
    assert output["size_bytes"] == sum(len(content) for name, content in files(tmp_path).items() if name in new)


def test_external_data_that_no_plan_touched_is_copied(tmp_path, steady):
    proto = dense("b = Relu(a)", "c = MatMul(b, w2)", "d = Add(c, b2)", mid=16, b2=(5,), w3=(5, 5))
    proto.graph.node[-1].input[:] = ["d", "w3"]
    source = save_external(proto, tmp_path / "m.onnx")
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "small.onnx"
    result = CliRunner().invoke(cli, [str(source), "-o", str(target), "--only", "w1", "--quiet"])
    assert result.exit_code == 0, result.stderr
    assert outputs(target).shape == (3, 5)


def test_external_data_of_a_result(tmp_path):
    result = cut(save_external(mlp(), tmp_path / "m.onnx"))
    (tmp_path / "elsewhere").mkdir()
    path = result.save(tmp_path / "elsewhere" / "small.onnx")
    np.testing.assert_array_equal(outputs(path), outputs(result.save(tmp_path / "small.onnx")))


def test_a_model_too_large_for_one_file(tmp_path, monkeypatch, steady):
    monkeypatch.setattr("onnxprune.graph.files.encode.INLINE_LIMIT", 1000)
    source = tmp_path / "m.onnx"
    source.write_bytes(dense("b = Relu(a)", mid=700).SerializeToString())
    target = tmp_path / "small.onnx"
    result = CliRunner().invoke(cli, [str(source), "-o", str(target), "--quiet"])
    assert result.exit_code == 0, result.stderr
    assert set(files(tmp_path)) == {"m.onnx", "small.onnx", "small.onnx.data"}
    assert outputs(target).shape == (3, 5)


def test_force_replaces_model_and_stale_data(tmp_path, steady):
    source, target = tmp_path / "m.onnx", tmp_path / "small.onnx"
    source.write_bytes(mlp().SerializeToString())
    save_external(dense("b = Relu(a)", mid=700), target, "small.onnx.data")
    result = CliRunner().invoke(cli, [str(source), "-o", str(target), "--force", "--quiet"])
    assert result.exit_code == 0, result.stderr
    assert set(files(tmp_path)) == {"m.onnx", "small.onnx"}
    assert outputs(target).shape == (3, 5)


def test_force_replaces_the_input(tmp_path, steady):
    source = save_external(dense("b = Relu(a)", mid=700), tmp_path / "m.onnx", "m.onnx.data")
    result = CliRunner().invoke(cli, [str(source), "-o", str(source), "--criterion", "l2", "--force", "--quiet"])
    assert result.exit_code == 0, result.stderr
    assert shape(onnx.load(source), "w1") == [6, 490]
    assert len(files(tmp_path)) == 2  # the weights have a name of their own, and the old ones are gone
    assert read.load(source).is_external


# -- failures leave nothing ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder with a model, and an empty folder for temporary files beside it."""
    for name in ("inside", "scratch"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    Path("softmax.onnx").write_bytes(softmax().SerializeToString())
    Path("model.onnx").write_bytes(mlp().SerializeToString())
    return tmp_path


@pytest.fixture
def wrong_rule(monkeypatch):
    """Softmax taken for an elementwise op: the cut that follows is wrong."""
    monkeypatch.setitem(RULES, "Softmax", dataclasses.replace(RULES["Relu"], op="Softmax"))


@pytest.mark.usefixtures("wrong_rule")
def test_a_wrong_cut_is_not_written(folder):
    before = files(folder)
    result = CliRunner().invoke(cli, ["softmax.onnx", "-o", "small.onnx", "--report", "r.json", "--quiet"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("onnxprune: the pruned model is wrong and was not written: output 'y' differs from")
    assert "Broken by group 'w1': leave it out with --ignore" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert files(folder) == before


@pytest.mark.usefixtures("wrong_rule")
def test_a_wrong_cut_raises(folder):
    with pytest.raises(VerificationError, match=r"Broken by group 'w1'"):
        cut(softmax())
    assert not list((folder / "scratch").iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug")], ids=["Ctrl-C", "a bug"])
@pytest.mark.parametrize("old", [None, b"the old output"], ids=["new", "forced"])
def test_a_failure_leaves_what_was_there(folder, monkeypatch, error, old):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("onnxprune.evaluation.verify.verify", fail)
    if old is not None:
        Path("small.onnx").write_bytes(old)
        Path("small.onnx.data").write_bytes(old)
    before = sorted(folder.rglob("*")), files(folder)
    result = CliRunner().invoke(cli, ["model.onnx", "-o", "small.onnx", "--report", "r.json", "--force", "--quiet"])
    assert (sorted(folder.rglob("*")), files(folder)) == before
    if isinstance(error, KeyboardInterrupt):
        assert (result.exit_code, result.stderr) == (130, "onnxprune: interrupted; nothing was written\n")
    else:
        assert (result.exit_code, "a bug" in result.stderr) == (4, True)


@pytest.mark.usefixtures("wrong_rule")
def test_a_wrong_cut_leaves_the_old_output(folder):
    Path("small.onnx").write_bytes(b"the old output")
    before = files(folder)
    result = CliRunner().invoke(cli, ["softmax.onnx", "-o", "small.onnx", "--force", "--quiet"])
    assert result.exit_code == 1
    assert files(folder) == before


def test_accuracy_without_latency():
    cheap = {"criterion": "l2", "reconstruct": False, "samples": 64}
    result = onnxprune.prune(MODELS / "cnn.onnx", data=MODELS / "mnist_test.npz", latency=False, **cheap)
    assert result.report["latency"] == []
    assert result.report["accuracy"]["samples"] == 2000 - 64


# -- weights that layers share -----------------------------------------------------------------------------------------


def shared():
    """Two blocks of the same two weights, as ALBERT has them; what comes into each differs."""
    return model(
        "a = MatMul(x, w0)", "p = MatMul(a, w1)", "q = Relu(p)", "b = MatMul(q, w2)", "c = Tanh(b)",
        "r = MatMul(c, w1)", "s = Sigmoid(r)", "d = MatMul(s, w2)", "y = MatMul(d, w3)",
        x=ROWS, w0=(6, 8), w1=(8, 16), w2=(16, 8), w3=(8, 4),
    )  # fmt: skip


def test_layers_that_share_weights_lose_the_same_units():
    result = cut(shared(), ratio=0.5)
    sizes = {tensor.name: list(tensor.dims) for tensor in result.model.graph.initializer}
    assert sizes == {"w0": [6, 4], "w1": [4, 8], "w2": [8, 4], "w3": [4, 4]}


def test_layers_that_share_weights_may_be_asked_for_different_ratios():
    found = onnxprune.inspect(shared())
    names = [group.name for group in found.groups if group.units == 16]
    result = cut(shared(), ratio=0.0, ratios={names[0]: 0.5})
    kept = {group["name"]: group["kept"] for group in result.report["groups"]}
    assert [kept[name] for name in names] == [8, 16]
