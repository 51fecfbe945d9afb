"""`prune` with linear maps in the place of branches: proven twice, fitted, and told in terms of the original."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.commands.ways import linearize, remade
from onnxprune.errors import NothingToPrune, OptionError, VerificationError
from onnxprune.evaluation import verify
from onnxprune.graph.files.read import load
from onnxprune.planning.options import make_options
from onnxprune.report.prune import prune_tables
from tests.support.build import model
from tests.support.cli import invoke
from tests.support.paths import MODELS
from tests.support.schema import follows_the_schema

VIT, SAMPLES = str(MODELS / "vit.onnx"), str(MODELS / "mnist_calibration.npz")
WIDTH = 12


def network(*kinds):
    """Return a network of residual blocks behind a Tanh each; a straight one is a linear map of that."""
    rng = np.random.default_rng(0)

    def matrix(scale=1.0):
        return (scale * rng.standard_normal((WIDTH, WIDTH)) / 4).astype(np.float32)

    nodes, weights = ["s0 = MatMul(x, first)"], {"first": matrix()}
    for number, kind in enumerate(kinds):
        nodes += [f"n{number} = Tanh(s{number})", f"h{number} = MatMul(n{number}, up{number})"]
        nodes += [f"r{number} = {'Relu' if kind == 'curved' else 'Identity'}(h{number})"]
        nodes += [f"o{number} = MatMul(r{number}, down{number})", f"s{number + 1} = Add(s{number}, o{number})"]
        weights |= {f"up{number}": matrix(3), f"down{number}": matrix(3)}
    nodes.append(f"y = MatMul(s{len(kinds)}, last)")
    return model(*nodes, x=f"float[n,{WIDTH}] x", y=f"float[n,{WIDTH}] y", last=matrix(), **weights)


NET = network("curved", "straight", "curved")


def pruned(proto=NET, **options):
    data = {"x": np.random.default_rng(1).standard_normal((512, WIDTH)).astype(np.float32)}
    return onnxprune.prune(proto, data=data, latency=False, **options)


def kl(result):
    return result.report["fidelity"]["figures"]["kl"]


def text_of(report):
    return "\n".join(map(str, prune_tables(report)))


def test_a_linear_branch_is_replaced_by_one_matrix_and_nothing_is_lost():
    result, without = pruned(linearize="o1"), pruned(without="o1")
    report = json.loads(json.dumps(result.report))
    follows_the_schema(report)
    assert kl(result) < 1e-5
    assert kl(without) > 0.1
    weights = {tensor.name: tuple(tensor.dims) for tensor in result.model.graph.initializer}
    assert weights["o1_linear_weight"] == (WIDTH, WIDTH)
    assert weights["o1_linear_bias"] == (WIDTH,)
    assert {"up1", "down1"}.isdisjoint(weights)
    assert report["input"]["macs"] == 8 * WIDTH * WIDTH
    assert report["output"]["macs"] == 7 * WIDTH * WIDTH
    assert report["depth"]["removed"] == pytest.approx(1 / 6)
    assert [(each["name"], each["removed"]) for each in report["depth"]["branches"]] == [
        ("o0", False), ("o1", True), ("o2", False),
    ]  # fmt: skip
    assert report["depth"]["linear"] == [
        {"branch": "o1", "stays": True, "macs": WIDTH * WIDTH, "loss": None, "without": None, "reason": None}
    ]
    assert (report["options"]["linearize"], report["options"]["without"]) == (["o1"], [])
    assert report["verification"]["passed"]
    assert "in the place of 1 branch stands a linear map: o1" in text_of(report)


def test_auto_puts_maps_where_they_are_worth_what_they_take():
    proto = network("curved", "straight", "curved", "curved")
    result = pruned(proto, without=["o1"], linearize="auto")
    (told,) = result.report["depth"]["linear"]
    assert told["stays"]
    assert told["loss"] < 1e-4 < told["without"]
    assert kl(result) < 1e-4


def test_auto_leaves_out_what_mends_nothing(monkeypatch):
    """A map that does not lower the loss is not there, and what is left is what depth alone makes."""
    monkeypatch.setattr(linearize.Weighed, "is_worth", lambda self, price: False)
    result, plain = pruned(without=["o1"], linearize="auto"), pruned(without=["o1"])
    (told,) = result.report["depth"]["linear"]
    assert not told["stays"]
    assert result.model.graph == plain.model.graph
    assert "stands a linear map" not in text_of(result.report)


def test_a_run_is_replaced_by_one_map():
    proto = network("curved", "straight", "straight", "curved")
    result = pruned(proto, without=["o1", "o2"], linearize="auto")
    assert [each["branch"] for each in result.report["depth"]["linear"]] == ["o1"]
    assert kl(result) < kl(pruned(proto, without=["o1", "o2"]))


def test_targets_are_those_of_the_original_and_widths_are_cut_to_them():
    result = pruned(linearize="o1", targets={"macs": 0.6}, round_to=1)
    report = json.loads(json.dumps(result.report))
    assert 0.5 * report["input"]["macs"] <= report["output"]["macs"] <= 0.6 * report["input"]["macs"]
    assert report["input"]["macs"] == 8 * WIDTH * WIDTH
    assert report["verification"]["passed"]
    assert report["options"]["targets"] == [["macs", 0.6]]


def test_targets_that_the_map_alone_meets_cut_no_widths():
    report = pruned(linearize="o1", targets={"macs": 0.9}).report
    assert report["output"]["macs"] == 7 * WIDTH * WIDTH


def test_with_depth_the_chosen_branches_have_maps():
    result, plain = pruned(depth=0.34, linearize="auto"), pruned(depth=0.34)
    assert any(each["stays"] for each in result.report["depth"]["linear"])
    assert kl(result) < kl(plain)
    assert result.report["depth"]["asked"] == 0.34
    assert result.report["depth"]["measured"] >= 3


def test_a_model_with_maps_that_computes_something_else_is_not_written(monkeypatch):
    wrong = verify.Verification((), 1e-4, "output 'y' differs by 1")
    monkeypatch.setattr(remade, "verify", lambda *args, **options: wrong)
    with pytest.raises(
        VerificationError, match=r"with linear maps of zeros does not compute what the original does.* 'y' differs by 1"
    ):
        pruned(linearize="o1")


def test_what_makes_no_sense_is_said_before_anything_is_done():
    with pytest.raises(OptionError, match="linearize needs data: linear maps are fitted to samples"):
        onnxprune.prune(NET, linearize="o1", latency=False)
    with pytest.raises(OptionError, match="linearize fits linear maps, and --no-reconstruct fits nothing"):
        pruned(linearize="o1", reconstruct=False)
    with pytest.raises(OptionError, match="linearize goes with a share of depth or with names of branches"):
        make_options(linearize="o1", depth="auto", targets={"macs": 0.5})
    with pytest.raises(OptionError, match="method shortgpt says itself what goes: linearize has no effect"):
        make_options(linearize="o1", depth=0.5, method="shortgpt")
    with pytest.raises(OptionError, match="linearize=auto needs branches that go"):
        make_options(linearize="auto")
    with pytest.raises(OptionError, match="linearize must be a glob or a list of globs, got 5"):
        make_options(linearize=5)
    with pytest.raises(OptionError, match="quantize does not go with linearize"):
        pruned(linearize="o1", quantize="int8")
    with pytest.raises(OptionError, match="rounds have no effect with linearize alone"):
        pruned(linearize="o1", rounds=2, tune="1 steps")
    with pytest.raises(OptionError, match="branch 'o1' cannot go: left out by --ignore; do not name it, or free it"):
        pruned(linearize="o1", ignore=["h1"])
    with pytest.raises(OptionError, match="linearize 'nothing': no branch has this name"):
        pruned(linearize="nothing")
    with pytest.raises(OptionError, match="linearize has no place in a plan"):
        onnxprune.plan(NET, linearize="o1", data={"x": np.zeros((4, WIDTH), np.float32)})
    with pytest.raises(NothingToPrune, match=r"--depth 0.01 is less than any branch takes"):
        pruned(depth=0.01, linearize="auto")


def test_a_branch_without_a_map_that_is_named_is_an_error():
    proto = model(
        "t = Transpose<perm = [0, 2, 1]>(x)", "h = MatMul(t, w)", "o = Transpose<perm = [0, 2, 1]>(h)", "s = Add(x, o)",
        "y = MatMul(s, last)", x="float[b,6,8] x", y="float[b,6,5] y", w=(6, 6), last=(8, 5),
    )  # fmt: skip
    data = {"x": np.random.default_rng(1).standard_normal((64, 6, 8)).astype(np.float32)}
    with pytest.raises(
        OptionError,
        match=r"no linear map can stand in for branch 'h': no layer of it .* of what it adds; leave it out",
    ):
        onnxprune.prune(proto, data=data, latency=False, linearize="h")
    result = onnxprune.prune(proto, data=data, latency=False, without="h", linearize="auto")
    (told,) = result.report["depth"]["linear"]
    assert (told["stays"], told["macs"]) == (False, None)
    assert told["reason"] == "no layer of it reads a value with the axes of what it adds"
    assert "no linear map can stand in for some, by reason:" in text_of(result.report)


def test_a_map_that_no_fit_makes_better_than_nothing_is_no_map():
    data = {"x": np.random.default_rng(1).standard_normal((1, WIDTH)).astype(np.float32)}
    with pytest.raises(OptionError, match="nothing that the linear map in the place of branch 'o1' was fitted to"):
        onnxprune.prune(NET, data=data, latency=False, linearize="o1")


def renamed(proto, names):
    """Return a model whose nodes have other names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node in copy.graph.node:
        node.name = names.get(node.name, node.name)
    return copy


def test_a_name_with_stars_and_brackets_means_the_branch_that_has_it():
    """As a glob it would mean others, too, which were not chosen."""
    proto = renamed(network("curved", "straight", "curved", "curved"), {"o0": "o[12]", "o1": "o*", "o2": "o1"})
    result, plain = pruned(proto, depth=0.26, linearize="auto"), pruned(proto, depth=0.26)
    gone = [each["name"] for each in result.report["depth"]["branches"] if each["removed"]]
    assert gone == [each["name"] for each in plain.report["depth"]["branches"] if each["removed"]]
    kept = {tensor.name for tensor in result.model.graph.initializer}
    assert sum(f"down{number}" in kept for number in range(4)) == 4 - len(gone)


def test_a_branch_that_is_a_sum_inside_of_it_goes_and_its_map_stays():
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 3 for name in ("w0", "wt", "wo", "w1")}
    proto = model(
        "s0 = MatMul(x, w0)", "n = Tanh(s0)", "t = MatMul(n, wt)", "k = Relu(t)", "o = MatMul(k, wo)", "u = Add(n, o)",
        "s1 = Add(s0, u)", "y = MatMul(s1, w1)", x=f"float[n,{WIDTH}] x", y=f"float[n,{WIDTH}] y", **weights,
    )  # fmt: skip
    result = pruned(proto, linearize="u")
    kept = {tensor.name for tensor in result.model.graph.initializer}
    assert {"wt", "wo"}.isdisjoint(kept)
    assert any(name.endswith("_linear_weight") for name in kept)
    assert kl(result) < kl(pruned(proto, without="u"))


def test_convolutions_in_half_precision_with_weights_beside_the_file(tmp_path):
    rng = np.random.default_rng(0)
    proto = model(
        "s0 = Conv(x, w0)", "c = Conv<pads = [1, 1, 1, 1]>(s0, w1)", "o = Conv(c, w2)", "s1 = Add(s0, o)",
        "g = GlobalAveragePool(s1)", "f = Flatten(g)", "y = MatMul(f, w3)", x="float16[n,3,8,8] x", y="float16[n,5] y",
        **{
            name: (rng.standard_normal(shape) / 4).astype(np.float16)
            for name, shape in {"w0": (6, 3, 1, 1), "w1": (6, 6, 3, 3), "w2": (6, 6, 1, 1), "w3": (6, 5)}.items()
        },
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(proto, path, save_as_external_data=True, size_threshold=0, location="net.bin")
    data = {"x": rng.standard_normal((64, 3, 8, 8)).astype(np.float16)}
    result = onnxprune.prune(path, data=data, latency=False, linearize="o")
    result.save(tmp_path / "small.onnx")
    weight = load(tmp_path / "small.onnx").array("o_linear_weight")
    assert (weight.shape, weight.dtype) == ((6, 6, 1, 1), np.float16)
    assert weight.any()
    assert result.report["verification"]["passed"]


def test_a_run_that_was_ended_goes_on_to_the_same_model(tmp_path, monkeypatch):
    whole = pruned(without=["o1"], linearize="auto")
    real = linearize.by_depth

    def ended(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(linearize, "by_depth", ended)
    with pytest.raises(KeyboardInterrupt):
        pruned(without=["o1"], linearize="auto", checkpoint=tmp_path / "saved")
    monkeypatch.setattr(linearize, "by_depth", real)
    result = pruned(without=["o1"], linearize="auto", checkpoint=tmp_path / "saved", resume=True)
    assert result.model == whole.model


def test_on_the_command_line(tmp_path):
    out = tmp_path / "small.onnx"
    done = invoke(
        "prune", VIT, "--linearize", "node_linear_3", "--data", SAMPLES, "--samples", "64", "--no-latency", "-o", out
    )
    assert done.exit_code == 0, done.output
    assert "in the place of 1 branch stands a linear map" in done.output
    assert any("_linear_weight" in name for name in load(out).constants)


def test_masks_are_learned_beside_a_map():
    pytest.importorskip("torch")
    learn = {"steps": 3, "rate": 1e-3, "batch": 16, "threads": 1}
    report = pruned(linearize="o1", shape={"up0": 7}, masks=learn, round_to=1).report
    follows_the_schema(json.loads(json.dumps(report)))
    assert [each["stays"] for each in report["depth"]["linear"]] == [True]
    assert (report["masks"]["steps"], report["options"]["criterion"]) == (3, "masks")
    assert list(report["options"]["linearize"]) == ["o1"]
