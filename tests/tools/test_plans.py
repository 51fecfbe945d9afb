"""Proofs of plans: what they find right on small networks, and what they find wrong."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import tomllib

import pytest
import torch
from torch import nn

from onnxprune.planning.plan_file import read_plan
from tests.support.paths import MODELS
from tools.models.export_torchvision import CLASSIFIERS, EXPORTERS
from tools.proofs import plans
from tools.proofs.planned import modules, precisions
from tools.proofs.planned.edits import edit, planned

GROUP = '\n[[group]]\nname = "{name}"\nunits = 16\nkeep = {keep}\nkept = "{kept}"\nmakers = ["w"]\n'
TEXT = "plan = 1\n" + "".join(
    GROUP.format(name=name, keep=keep, kept=kept)
    for name, keep, kept in (("all", 16, "0-15"), ("a", 8, "3-10"), ("b", 4, "0,5,7,9"), ("c", 2, "4,6"), ("d", 1, "5"))
)


def test_a_plan_is_edited_in_three_ways_and_stays_one():
    edited = edit(TEXT)
    assert (edited.counted, edited.whole, edited.listed) == ("a", "b", "c")
    values = {each["name"]: (each["keep"], each.get("kept")) for each in tomllib.loads(edited.text)["group"]}
    assert values == {"all": (16, "0-15"), "a": (6, None), "c": (2, "0-1"), "d": (1, "5")}
    read = read_plan(tomllib.loads(edited.text))
    assert {group.name: group.kept for group in read.groups if group.is_cut} == {"a": None, "c": (0, 1), "d": (5,)}
    assert edited.text.startswith("plan = 1\n")
    assert edited.text.count('makers = ["w"]\n') == 4


def test_a_plan_of_two_cuts_has_no_place_for_three_edits():
    with pytest.raises(SystemExit, match="the plan cuts 2 groups: three are needed, one for each kind of edit"):
        edit("plan = 1\n" + "".join(GROUP.format(name=name, keep=4, kept="0-3") for name in "ab"))


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """A bundled network in float32 and in dynamic int8, cut by one plan."""
    subject = precisions.Subject("digits", MODELS / "cnn.onnx", MODELS / "mnist_calibration.npz", 0.4)
    return precisions.prove(subject, tmp_path_factory.mktemp("precisions"), ["dynamic int8"])


def changed(applied, form, change):
    """Return the same with another report of a form."""
    report = copy.deepcopy(applied.reports[form])
    change(report)
    return dataclasses.replace(applied, reports={**applied.reports, form: report}).faults()


def test_a_plan_is_kept_to_in_two_precisions(applied):
    assert applied.faults() == []
    (before, after), (small, smaller) = applied.sizes("fp32"), applied.sizes("dynamic int8")
    assert smaller < after < before
    assert smaller < small < before
    groups = {group["name"]: group for group in applied.reports["fp32"]["groups"]}
    assert groups[applied.edited.whole]["kept"] == groups[applied.edited.whole]["units"]
    assert groups[applied.edited.listed]["kept_units"] == [*range(groups[applied.edited.listed]["kept"])]
    assert applied.by_name("fp32") == len(list(planned(applied.edited.text))) == 3
    assert len(list(precisions.shared(*applied.reports.values()))) > 3


def test_other_indices_are_found_by_groups_and_by_weights(applied):
    def other_units(report):
        group = next(group for group in report["groups"] if group["name"] == applied.edited.listed)
        group["kept_units"] = [unit + 1 for unit in group["kept_units"]]

    told = changed(applied, "dynamic int8", other_units)
    assert len(told) == 2
    assert "dynamic int8: 1 groups keep [" in told[0]
    assert told[0].endswith("] in fp32 alone")
    assert told[1].endswith("] here alone")

    def other_weight(report):
        cut = next(cut for cut in report["initializers"].values() if cut["source"].endswith("_quantized"))
        axis = next(iter(cut["kept"]))
        cut["kept"][axis] = cut["kept"][axis][::-1]

    (told,) = changed(applied, "dynamic int8", other_weight)
    assert told.startswith("dynamic int8: weight ")


def test_a_count_alone_may_keep_other_units_as_many(applied):
    def choose(report, count):
        group = next(group for group in report["groups"] if group["name"] == applied.edited.counted)
        last = [*range(group["units"])][-group["kept"] :]
        kept, spare = group["kept_units"], next(unit for unit in last[::-1] if unit not in group["kept_units"])
        group["kept_units"] = sorted([*kept[count:], spare])
        for cut in report["initializers"].values():
            cut["kept"] = {axis: group["kept_units"] if each == kept else each for axis, each in cut["kept"].items()}

    reports = {form: copy.deepcopy(report) for form, report in applied.reports.items()}
    choose(reports["dynamic int8"], 1)
    other = dataclasses.replace(applied, reports=reports)
    count = next(each["keep"] for each in planned(applied.edited.text) if each["name"] == applied.edited.counted)
    assert other.faults() == []
    assert other.alike("dynamic int8") == pytest.approx((count - 1) / count)
    assert applied.alike("dynamic int8") == applied.alike("fp32") == 1.0
    assert any("weight " in each for each in dataclasses.replace(other, touched=frozenset()).faults())
    assert len(changed(applied, "dynamic int8", lambda report: choose(report, 2))) > 2  # fewer than in float32


def test_a_report_that_is_not_of_the_plan_is_found(applied):
    def unproven(report):
        report["verification"]["passed"] = False

    def whole(report):
        group = next(each for each in report["groups"] if each["name"] == applied.edited.listed)
        group["kept_units"] = [*range(group["units"])]

    def moved(report):
        group = next(each for each in report["groups"] if each["name"] == applied.edited.listed)
        group["kept_units"] = [each + 1 for each in group["kept_units"]]

    def lost(report):
        next(each for each in report["groups"] if each["name"] == applied.edited.whole)["kept"] = 1

    assert changed(applied, "dynamic int8", unproven) == ["dynamic int8: not proven"]
    assert "units, " in changed(applied, "fp32", whole)[0]
    assert changed(applied, "fp32", moved)[0].endswith("are planned")
    assert f"fp32: {applied.edited.whole} lost units, and the plan says nothing of it" in changed(applied, "fp32", lost)


def test_what_the_command_line_says_is_told():
    with pytest.raises(SystemExit, match=r"(?s)onnxprune plan nowhere\.onnx: exit code 2\n.*nowhere\.onnx"):
        precisions.onnxprune("plan", "nowhere.onnx")


class Small(nn.Module):
    """Convolutions with a normalisation that is kept, and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.second, self.head = nn.Conv2d(16, 24, 1), nn.Linear(24, 5)

    def forward(self, image):
        x = torch.relu(self.norm(self.first(image)))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


def small():
    torch.manual_seed(0)
    network = Small().eval()
    network.norm.running_var.uniform_(0.5, 1.5)
    return network


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")  # of the exporter, for training=PRESERVE
def test_a_module_exported_again_is_the_pruned_file(tmp_path):
    outcome = modules.prove(small(), torch.rand(2, 3, 8, 8), "torchscript", tmp_path)
    assert outcome.faults() == []
    assert outcome.cut == {"channels": (8, 16)}
    assert outcome.params[1] < outcome.params[0]
    other = modules.weights(tmp_path / "original.onnx")
    assert len(other - modules.weights(tmp_path / "small.onnx")) >= 5
    assert modules.apart(tmp_path / "original.onnx", tmp_path / "small.onnx", torch.rand(2, 3, 8, 8).numpy()) > 1e-3


def test_outcomes_that_are_wrong():
    right = modules.Outcome({"heads": (2, 4)}, (10, 5), 7, 0, 0, state_is_same=True, apart=0.0)
    assert right.faults() == []
    wrong = dataclasses.replace(right, lacking=1, more=2, state_is_same=False, apart=float("nan"))
    assert wrong.faults() == [
        "1 of 7 weights of the pruned file are in no export",
        "2 weights of the export are not in the pruned file",
        "the state dict is cut in another way than the module",
        "outputs differ by nan of their range",
    ]
    states = {"w": torch.ones(3)}, {"w": torch.ones(3)}, {"w": torch.zeros(3)}, {"v": torch.ones(3)}
    assert [modules.is_same(states[0], each) for each in states[1:]] == [True, False, False]


SIZES = dict.fromkeys(precisions.FORMS, (1_729_710, 1_110_884))
COUNTS = dict.fromkeys(precisions.FORMS, 7)
PRECISIONS = {"title": "net, 0.4", "groups": 8, "weights": 60, "named": COUNTS, "held": COUNTS}
PRECISIONS |= {"alike": dict.fromkeys(precisions.FORMS, 0.98765), "sizes": SIZES}
MODULE = {
    "title": "ResNet-18", "exporter": "dynamo", "cut": {"channels": (70, 100)}, "params": (11_700_000, 5_800_000),
    "weights": 102, "apart": 0.0,
}  # fmt: skip


def test_the_tables():
    (*_, row) = plans.precision_lines([{**PRECISIONS, "commit": "abc"}])
    sizes = ", ".join(["1.73 → 1.11"] * 4)
    assert row == f"| net, 0.4 | 8 | 7, 7, 7 | 7, 7, 7 of 60 | 0.988, 0.988, 0.988 | {sizes} | `abc` |"
    (*_, same, near) = plans.module_lines([{**MODULE, "commit": "abc"}, {**MODULE, "commit": "abc", "apart": 5.6e-8}])
    assert same == "| ResNet-18 | dynamo | 70 of 100 channels | 11.7 → 5.8 | 102 | none | `abc` |"
    assert "| 6e-08 |" in near


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs the script, with records that are given, and returns exit code, runs and output."""

    def run(commit, faults, *arguments):
        taken = []

        def record(name, exporter):
            taken.append(f"{name}.{exporter}")
            return {**MODULE, "title": name, "exporter": exporter, "faults": faults}

        monkeypatch.setattr(plans, "module_record", record)
        monkeypatch.setattr(plans, "measured_commit", lambda: commit)
        monkeypatch.setattr(sys, "argv", ["plans.py", "torch", "--results", str(tmp_path), *arguments])
        return plans.main(), taken, capsys.readouterr()

    return run


def test_what_is_proven_is_not_run_again_and_what_differs_is(run, tmp_path):
    both = ["resnet18.torchscript", "resnet18.dynamo"]
    code, taken, told = run("abc", ["no"], "--only", "resnet18")
    assert (code, taken) == (1, both)
    assert told.err == "".join(f"{name}: no\n" for name in both)
    assert "resnet18 |" not in told.out
    code, taken, told = run("abc", [], "--only", "resnet18")
    assert (code, taken) == (0, both)
    assert told.out.count("| resnet18 |") == 2
    assert run("abc", [], "--only", "resnet18.dynamo")[:2] == (0, [])
    assert run("def", [], "--only", "resnet18.dynamo")[:2] == (0, ["resnet18.dynamo"])
    kept = json.loads((tmp_path / "torch.json").read_text())
    assert [each["commit"] for each in kept.values()] == ["abc", "def"]
    with pytest.raises(SystemExit):
        run("abc", [], "--only", "resnet19")


def test_networks_are_known_to_what_exports_them():
    assert modules.NETWORKS.keys() <= CLASSIFIERS.keys()
    assert {exporter for each in modules.NETWORKS.values() for exporter in each.exporters} == set(EXPORTERS)
    assert {subject.samples.name for subject in plans.subjects(MODELS)} == {
        "mnist_calibration.npz", "photos_calibration.npz", "text_calibration.npz",
    }  # fmt: skip
