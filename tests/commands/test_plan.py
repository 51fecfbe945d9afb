"""`plan` and `apply`: what is planned is what is cut, also after an edit, and in other forms of the same network."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import re
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.cli.group import cli
from onnxprune.commands.applied import OPTIONS
from onnxprune.commands.apply import apply_file
from onnxprune.commands.records.report_files import PageFile
from onnxprune.errors import InputError, NothingToPrune, OptionError, VerificationError
from onnxprune.planning.plan_file import read_plan
from tests.commands.test_prune import kept, shape
from tests.support.build import ROWS, dense, model
from tests.support.paths import MODELS

VIT = MODELS / "vit.onnx"


def network(dtype="float32"):
    """Two layers of 16 and 24 neurons, in a precision."""
    kind = {"float32": "float", "float16": "float16"}[dtype]
    return model(
        "a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "d = Relu(c)", "y = MatMul(d, w3)",
        x=f"{kind}[n,6] x", y=f"{kind}[] y", dtype=dtype, w1=(6, 16), w2=(16, 24), w3=(24, 5),
    )  # fmt: skip


def applied(plan, source, **options):
    return onnxprune.apply(plan, source, latency=False, **options)


def units(result):
    return {group["name"]: group["kept_units"] for group in result.report["groups"]}


def test_a_plan_is_what_prune_cuts():
    options = {"criterion": "l2", "round_to": 1, "reconstruct": False}
    plan = onnxprune.plan(network(), 0.4, **options)
    pruned = onnxprune.prune(network(), 0.4, latency=False, **options)
    assert {group.name: (group.keep, group.units) for group in plan.groups} == kept(pruned)
    result = applied(plan, network(), reconstruct=False)
    assert result.model.SerializeToString() == pruned.model.SerializeToString()
    assert units(result) == units(pruned)


def test_a_plan_tells_what_it_is_expected_to_cost(tmp_path):
    plan = onnxprune.plan(network(), 0.5, criterion="l2", round_to=1)
    report = applied(plan, network()).report
    for kind in ("params", "macs"):
        assert plan.expected[kind] == pytest.approx(report["output"][kind] / report["input"][kind], abs=1e-3)
        assert plan.input[kind] == report["input"][kind]
    first = plan.groups[0]
    assert (first.saves_params, first.saves_macs) == (8 * (6 + 24), 8 * (6 + 24))
    assert plan.input["sha256"] == report["input"]["sha256"]


def test_losses_of_groups_add_up(tmp_path):
    data = {"x": np.random.default_rng(0).standard_normal((64, 6), np.float32)}
    plan = onnxprune.plan(network(), 0.5, data=data, round_to=1)
    losses = [group.loss for group in plan.groups if group.is_cut]
    assert all(loss > 0 for loss in losses)
    assert plan.expected["loss"] == pytest.approx(sum(losses), rel=1e-3)


def test_nothing_is_written_without_a_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnxprune.plan(network(), 0.5, criterion="l2")
    assert [*tmp_path.iterdir()] == []


# -- edits -------------------------------------------------------------------------------------------------


def edited(plan, which, **values):
    each = (dataclasses.replace(group, **values) if group.name == which else group for group in plan.groups)
    return dataclasses.replace(plan, groups=tuple(each))


PLAN = onnxprune.plan(network(), 0.5, criterion="l2", round_to=1)


def test_indices_are_taken_as_they_are():
    result = applied(edited(PLAN, "w1", keep=3, kept=(1, 5, 15)), network())
    assert units(result)["w1"] == [1, 5, 15]
    assert result.report["verification"]["passed"] is True
    assert result.report["options"]["planned"] == {"w1": "1,5,15", "w2": PLAN.groups[1].wanted}


def test_a_count_keeps_the_most_important_units():
    result = applied(edited(PLAN, "w1", keep=5, kept=None), network(), criterion="l2")
    alone = onnxprune.prune(network(), latency=False, criterion="l2", shape={"w1": 5}, reconstruct=False, scope="group")
    assert units(result)["w1"] == units(alone)["w1"]
    assert len(units(result)["w1"]) == 5
    assert units(result)["w2"] == list(PLAN.groups[1].kept)


def test_a_group_that_is_taken_out_stays_whole():
    plan = dataclasses.replace(PLAN, groups=PLAN.groups[1:])
    result = applied(plan, network())
    assert kept(result) == {"w2": (12, 24)}
    (whole,) = (group for group in result.report["groups"] if group["name"] == "w1")
    assert whole["locked"] == "the plan says nothing of it"


def test_a_group_that_keeps_all_says_so():
    plan = edited(PLAN, "w1", keep=16, kept=tuple(range(16)))
    (whole,) = (group for group in applied(plan, network()).report["groups"] if group["name"] == "w1")
    assert whole["locked"] == "it keeps all its units by the plan"


def test_a_plan_that_cuts_nothing_is_no_plan_to_apply():
    plan = edited(dataclasses.replace(PLAN, groups=PLAN.groups[:1]), "w1", keep=16, kept=tuple(range(16)))
    with pytest.raises(NothingToPrune, match="it keeps all its units by the plan"):
        applied(plan, network())


def test_a_count_that_the_criterion_cannot_score_is_an_error():
    plan = edited(PLAN, "w1", keep=5, kept=None)
    with pytest.raises(OptionError, match="criterion 'bn' finds no weights that it can score"):
        applied(plan, network(), criterion="bn")


def test_an_option_that_says_what_is_cut_has_no_place():
    with pytest.raises(OptionError, match="unknown option 'ratio'; there are: criterion, "):
        applied(PLAN, network(), ratio=0.5)
    with pytest.raises(OptionError, match="tie has no place in a plan, which lists units and branches"):
        onnxprune.plan(network(), 0.5, tie=True)


def test_a_cut_by_a_plan_is_proven(monkeypatch):
    """A file whose weights are others than those that the mask leaves is not returned."""
    monkeypatch.setattr(
        "onnxprune.commands.steps.finish.stored_as", lambda model, rewritten, _: spoiled(rewritten.proto)
    )
    with pytest.raises(VerificationError, match="output 'y' differs from the masked model"):
        applied(PLAN, network(), reconstruct=False)


def spoiled(proto):
    """Return a model with one weight changed."""
    tensor = next(each for each in proto.graph.initializer if each.name == "w2")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, "w2"))
    return proto


def test_what_an_op_mixes_over_is_cut_where_the_plan_names_it():
    proto = dense("b = Softmax(a)", mid=16)
    plan = onnxprune.plan(proto, 0.5, criterion="l2", round_to=1, width=True)
    assert [group.name for group in plan.groups] == ["w1"]
    assert kept(applied(plan, proto)) == {"w1": (8, 16)}


# -- other forms of the same network -------------------------------------------------------------------------


def quantized(proto):
    """Return the model with its weights as QDQ, by the names that quantizers give."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes = []
    for name, tensor in tensors.items():
        array = numpy_helper.to_array(tensor)
        scale = (np.abs(array).max() / 127).astype(np.float32)
        stored = {f"{name}_quantized": np.round(array / scale).astype(np.int8), f"{name}_scale": np.array(scale)}
        proto.graph.initializer.remove(tensor)
        proto.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in stored.items())
        nodes.append(onnx.helper.make_node("DequantizeLinear", list(stored), [name], name=f"{name}_DequantizeLinear"))
    body = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *body])
    onnx.checker.check_model(proto, full_check=True)
    return proto


@pytest.mark.parametrize(
    ("form", "stored"),
    [(lambda: network("float16"), "w1"), (lambda: quantized(network()), "w1_quantized")],
    ids=["float16", "qdq"],
)
def test_another_form_keeps_the_same_units(form, stored):
    result, whole = applied(PLAN, form()), applied(PLAN, network())
    assert {name: each for name, each in units(result).items() if name in ("w1", "w2")} == {
        name: each for name, each in units(whole).items() if name in ("w1", "w2")
    }
    assert result.report["verification"]["passed"] is True
    assert shape(result.model, stored) == [6, 8]


def test_a_plan_of_a_float_model_cuts_its_half_by_other_names():
    """Where names differ, nodes tell: they are called alike."""
    proto = network("float16")
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    named = network()
    for node in named.graph.node:
        node.name = f"node_{node.output[0]}"
    plan = onnxprune.plan(named, 0.5, criterion="l2", round_to=1)
    for tensor in proto.graph.initializer:
        for node in proto.graph.node:
            node.input[:] = [f"half_{name}" if name == tensor.name else name for name in node.input]
        tensor.name = f"half_{tensor.name}"
    result = applied(plan, proto)
    assert [units(result)[f"half_{group.name}"] for group in plan.groups] == [[*group.kept] for group in plan.groups]


def test_another_network_is_an_error():
    with pytest.raises(OptionError, match=r"group 'w2' \(24 neurons\) has 5 neurons in this model, 24 are expected"):
        applied(PLAN, dense("b = Relu(a)", mid=16))
    with pytest.raises(OptionError, match=r"this model has no group 'w3x' \(16 neurons\), and none whose units 'w3x'"):
        applied(edited(PLAN, "w1", **{"name": "w3x", "makers": ("w3x",)}), network())


# -- branches ------------------------------------------------------------------------------------------------


def residual():
    """Two branches on a stream of 6, each with 12 neurons inside."""
    return model(
        "a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "s = Add(x, c)",
        "d = MatMul(s, w3)", "e = Relu(d)", "f = MatMul(e, w4)", "t = Add(s, f)", "y = MatMul(t, w5)",
        x=ROWS, w1=(6, 12), w2=(12, 6), w3=(6, 12), w4=(12, 6), w5=(6, 5),
    )  # fmt: skip


def test_branches_go_with_a_plan():
    options = {"without": "c", "ratios": {"w3": 0.5}, "ratio": 0.0, "criterion": "l2", "round_to": 1}
    plan = onnxprune.plan(residual(), **options)
    assert [(branch.name, branch.macs, branch.params) for branch in plan.branches] == [("c", 144, 144)]
    assert [(group.name, group.keep) for group in plan.groups if group.is_cut] == [("w3", 6)]
    pruned = onnxprune.prune(residual(), latency=False, **options)
    result = applied(read_plan(plan.to_dict()), residual(), criterion="l2")
    assert result.model.SerializeToString() == pruned.model.SerializeToString()
    assert result.report["depth"]["without"] == ["c"]
    for kind in ("params", "macs"):
        share = result.report["output"][kind] / result.report["input"][kind]
        assert plan.expected[kind] == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("name", ["c*", "c?", "c[c]"])
def test_the_name_of_a_branch_is_no_glob_in_a_plan(name):
    """The other branch is called cc, which each of these means as a glob."""
    names = {"c": "cc", "f": name}
    proto = residual()
    for node in proto.graph.node:
        node.name = names.get(node.name, node.name)
        node.input[:] = [names.get(each, each) for each in node.input]
        node.output[:] = [names.get(each, each) for each in node.output]
    plan = onnxprune.plan(proto, without=glob.escape(name), ratio=0.0, criterion="l2")
    assert [branch.name for branch in plan.branches] == [name]
    report = applied(plan, proto, criterion="l2").report
    assert [branch["name"] for branch in report["depth"]["branches"] if branch["removed"]] == [name]


def test_branches_may_be_weighed_against_widths():
    data = {"x": np.random.default_rng(0).standard_normal((64, 6), np.float32)}
    for target in (0.9, 0.45):
        options = {"depth": "auto", "targets": {"macs": target}, "data": data, "round_to": 1}
        plan = onnxprune.plan(residual(), **options)
        pruned = onnxprune.prune(residual(), latency=False, **options).report
        gone = [branch["name"] for branch in pruned["depth"]["branches"] if branch["removed"]]
        assert [branch.name for branch in plan.branches] == gone
        kept = {group["name"]: group["kept"] for group in pruned["groups"]}
        assert all(group.keep == kept[group.name] for group in plan.groups)
        assert plan.expected["macs"] == pytest.approx(pruned["output"]["macs"] / pruned["input"]["macs"], abs=1e-3)


def test_a_plan_may_have_branches_alone():
    plan = onnxprune.plan(residual(), without="c", criterion="l2")
    assert plan.groups == ()
    result = applied(plan, residual(), criterion="l2")
    assert result.report["depth"]["removed"] == pytest.approx(0.5)


# -- files ---------------------------------------------------------------------------------------------------


def test_files_are_not_replaced_by_accident(tmp_path):
    source, plan = tmp_path / "m.onnx", tmp_path / "plan.toml"
    onnx.save(network(), source)
    PLAN.save(plan)
    before = hashlib.sha256(plan.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=r"plan\.toml is the plan; give the output another name"):
        apply_file(plan, source, plan, {}, force=True, progress=lambda *_: None)
    assert hashlib.sha256(plan.read_bytes()).hexdigest() == before


def test_apply_has_the_same_options_in_python_and_as_typed():
    with cli.make_context("onnxprune", ["apply"]) as context:
        typed = {str(param.name).removeprefix("no_") for param in cli.get_command(context, "apply").params}
    of_the_run = {"output", "data", "tune", "checkpoint", "resume", "force", "plan", "source"}
    assert typed - of_the_run - {"report_paths", "overlay_path", "custom_ops", "as_json", "quiet", "debug"} == set(
        OPTIONS
    )


def test_effort_is_taken_where_a_plan_lists_indices_and_layers_are_refitted():
    samples = {"x": np.random.default_rng(0).standard_normal((8, 6), np.float32)}
    assert applied(PLAN, network(), data=samples, effort="quick").report["options"]["effort"] == "quick"
    with pytest.raises(OptionError, match=r"effort has no effect here: .* nothing is refitted, and samples are given"):
        applied(PLAN, network(), data=samples, effort="quick", reconstruct=False)


def test_no_output_is_another_one_or_the_plan(tmp_path):
    source, plan, target = tmp_path / "m.onnx", tmp_path / "plan.toml", tmp_path / "s.onnx"
    onnx.save(network(), source)
    text = PLAN.save(plan).read_text()
    page = PageFile(tmp_path / "s.macs.before.html", "")
    for message, files in (
        ("plan.toml is the plan; give the overlay another name", {"overlay_path": plan}),
        ("plan.toml is the plan; give the report another name", {"report_path": plan}),
        ("plan.toml is the plan; give the page another name", {"page": PageFile(plan, "")}),
        ("s.onnx is the output; give the overlay another name", {"overlay_path": target}),
        ("s.onnx.data is for weights of the output; give the overlay", {"overlay_path": tmp_path / "s.onnx.data"}),
        ("s.macs.before.html is the page; give the overlay", {"overlay_path": tmp_path / "s.html", "page": page}),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            apply_file(plan, source, target, {}, force=True, progress=lambda *_: None, **files)
    assert plan.read_text() == text
    assert not target.exists()


def test_a_python_call_is_told_as_a_recipe(tmp_path):
    source = tmp_path / "m.onnx"
    onnx.save(network(), source)
    plan = onnxprune.plan(source, targets={"macs": 0.6}, ratios={"w1": 0.5}, criterion="l2", inputs={"x": [2, 6]})
    assert plan.recipe == {
        "run": "plan", "source": str(source), "target": ["macs=0.6"], "ratio": ["w1=0.5"], "criterion": "l2",
        "input": ["x=2,6"],
    }  # fmt: skip
    report = applied(plan, source, criterion="l2").report
    assert report["recipe"] == {
        "run": "apply", "source": str(source), "plan": "(plan)", "no-latency": True, "criterion": "l2",
    }  # fmt: skip
    samples = {"x": np.random.default_rng(0).standard_normal((8, 6), np.float32)}
    report = onnxprune.prune(network(), 0.5, data=samples, latency=False, batch_norm=False, only="w1").report
    assert report["recipe"] == {
        "run": "prune", "source": "(ModelProto)", "ratio": 0.5, "data": "(dict)", "no-latency": True,
        "no-batch-norm": True, "only": "w1",
    }  # fmt: skip


def test_numbers_of_numpy_make_a_plan_that_is_read(tmp_path):
    ratios = {"w1": np.float64(0.5)}
    plan = onnxprune.plan(network(), np.float64(0.5), criterion="l2", ratios=ratios, min_units=np.int64(2))
    path = plan.save(tmp_path / "plan.toml")
    assert read_plan(path).groups == plan.groups
    assert 'ratio = ["0.5", "w1=0.5"]\n' in path.read_text()
    assert "min-units = 2\n" in path.read_text()


def test_the_vision_transformer_is_cut_as_planned():
    plan = onnxprune.plan(VIT, 0.3, criterion="l2")
    with tempfile.TemporaryDirectory() as folder:
        path = plan.save(Path(folder) / "plan.toml")
        result = applied(path, VIT, reconstruct=False)
    pruned = onnxprune.prune(VIT, 0.3, criterion="l2", reconstruct=False, latency=False)
    assert result.model.SerializeToString() == pruned.model.SerializeToString()
