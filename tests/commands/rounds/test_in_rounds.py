"""Pruning in rounds: what all of them keep, what is left for each, and runs that are ended and gone on with."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnxprune
from onnxprune.commands.prune import prune_file
from onnxprune.commands.rounds.folder import RoundsFolder
from onnxprune.commands.steps.tune_cut import initializers_in_all, kept_in_all, units_in_all
from onnxprune.errors import InputError, NothingToPrune, OptionError, VerificationError
from onnxprune.planning.options import make_options
from onnxprune.report.prune import prune_tables
from tests.support.build import model
from tests.support.paths import ROOT
from tests.support.schema import follows_the_schema
from tests.training.pairs import classifier, pictures

CUT = {"criterion": "l2", "round_to": 1, "latency": False, "reconstruct": False}
TUNE = {"steps": 12, "rate": 3e-3, "batch": 16, "threads": 1}


def in_rounds(count, tune=TUNE, data=None, **options):
    data = {"x": pictures(96)} if data is None else data
    targets = {} if "ratio" in options or "shape" in options else {"targets": {"macs": 0.3}}
    return onnxprune.prune(classifier(), data=data, tune=tune, rounds=count, **{**CUT, **targets, **options})


def arrays(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_a_report_of_all_rounds():
    result = in_rounds(3)
    report = result.report
    follows_the_schema(json.loads(json.dumps(report)))
    assert report["input"]["sha256"] == onnxprune.prune(classifier(), 0.5, latency=False).report["input"]["sha256"]
    assert report["output"]["macs"] <= 0.3 * report["input"]["macs"]
    assert report["options"]["targets"] == (("macs", 0.3),)
    rounds = report["rounds"]
    assert [each["tuning"]["steps"] for each in rounds] == [3, 3, 6]
    assert [each["tuning"]["options"]["seed"] for each in rounds] == [0, 1, 2]
    shares = [1.0, *(each["reached"]["macs"] for each in rounds)]
    np.testing.assert_allclose([each["wanted"]["macs"] for each in rounds], [0.3 ** (1 / 3), 0.3 ** (2 / 3), 0.3], 0.15)
    assert shares == sorted(shares, reverse=True)
    assert all(each["reached"]["macs"] <= each["wanted"]["macs"] for each in rounds)
    assert all(each["tuning"]["lesson"]["losses"] == {"kl": 1.0, "features": 1.0} for each in rounds)
    assert len(report["verification"]["runs"]) >= 3
    assert report["tuning"] == rounds[-1]["tuning"]
    text = "\n".join(map(str, prune_tables(report)))
    assert "each of 3 cuts against its own input" in text
    assert "steps" not in text or "tuned in" not in text


def test_units_of_all_rounds_are_those_of_the_original():
    """Without tuning and refits, weights of the result are weights of the original, and the report says which."""
    result = in_rounds(3, tune=None, batch_norm=False)
    before, after = arrays(classifier()), arrays(result.model)
    assert {"w1", "w2", "w3", "b1", "b2"} <= set(result.report["initializers"])
    for name, cut in result.report["initializers"].items():
        expected = before[cut["source"]]
        for dim, kept in cut["kept"].items():
            expected = expected.take(kept, axis=int(dim))
        np.testing.assert_array_equal(after[name], expected)
    kept = {group["name"]: group["kept_units"] for group in result.report["groups"]}
    assert kept["w1"] == list(result.report["initializers"]["w1"]["kept"]["0"])
    assert kept["w2"] == list(result.report["initializers"]["w2"]["kept"]["0"])
    assert all(group["locked"] is None for group in result.report["groups"] if group["kept"] < group["units"])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"ratio": 0.75}, {"w1": 4, "w2": 4}),
        ({"ratio": 0.0, "ratios": {"w1": 0.5}}, {"w1": 8, "w2": 16}),
        ({"shape": {"w1": 5, "w2": 9}}, {"w1": 5, "w2": 9}),
    ],
)
def test_ratios_and_shapes_are_met_in_the_end(options, kept):
    result = in_rounds(4, tune=None, **options)
    by_name = {group["name"]: group["kept"] for group in result.report["groups"]}
    assert {name: by_name[name] for name in kept} == kept
    assert len(result.report["rounds"]) == 4


@pytest.mark.parametrize("more", [{}, {"criterion": None, "reconstruct": None, "samples": 8}], ids=["l2", "usual"])
@pytest.mark.parametrize(
    "aim", [{"shape": {"w1": 4}}, {"ratio": None, "ratios": {"w1": 0.75}}], ids=["shape", "ratios"]
)
def test_a_target_that_is_met_early_leaves_shape_and_ratios(aim, more):
    result = in_rounds(2, tune=None, targets={"macs": 0.9}, **aim, **more)
    kept = {group["name"]: group["kept"] for group in result.report["groups"]}
    assert kept["w1"] == 4
    assert [each["skipped"] for each in result.report["rounds"]] == [None, None]


def test_what_can_be_reached_is_not_refused():
    result = in_rounds(2, tune=None, shape={"w1": 2}, targets={"macs": 0.06})
    assert result.report["output"]["macs"] <= 0.06 * result.report["input"]["macs"]
    with pytest.raises(OptionError, match=r"target macs=0.001 .at best 0.0"):
        in_rounds(2, tune=None, targets={"macs": 0.001, "memory": 0.9})


def test_sizes_that_come_from_samples_are_those_of_all_rounds(tmp_path, monkeypatch):
    proto = model(
        "a = Conv(x, w1)", "b = Relu(a)", "c = Conv(b, w2)", "d = Relu(c)", "e = Flatten(d)", "y = MatMul(e, w3)",
        x="float[n,1,h,w] x", w1=(8, 1, 3, 3), w2=(8, 8, 3, 3), w3=(8 * 2 * 6, 4),
    )  # fmt: skip
    data = np.random.default_rng(0).standard_normal((32, 1, 6, 10)).astype(np.float32)
    options = {**CUT, "round_to": 1, "targets": {"macs": 0.3}, "tune": {**TUNE, "steps": 6}, "data": {"x": data}}
    with monkeypatch.context() as patched:
        patched.setattr(RoundsFolder, "remove", lambda self: None)
        report = onnxprune.prune(proto, rounds=3, checkpoint=tmp_path / "saved", **options).report
    assert [each["tuning"]["lesson"]["losses"] for each in report["rounds"]] == [{"kl": 1.0, "features": 1.0}] * 3
    assert onnxprune.prune(proto, rounds=3, checkpoint=tmp_path / "saved", resume=True, **options).report["rounds"]


def test_rounds_that_have_nothing_to_do_are_told():
    result = in_rounds(8, tune={**TUNE, "steps": 8}, ratio=0.0, ratios={"w1": 0.1}, round_to=1)
    skipped = [each for each in result.report["rounds"] if each["skipped"]]
    assert skipped
    assert sum(each["tuning"]["steps"] for each in result.report["rounds"] if each["tuning"]) == 8
    text = "\n".join(map(str, prune_tables(result.report)))
    assert re.search(r"round \d had nothing to do: nothing to prune", text)
    with pytest.raises(NothingToPrune, match="its ratio is 0"):
        in_rounds(2, tune=None, ratio=0.0)


def test_no_tuning_is_lost_when_the_target_is_met_early(tmp_path):
    result = in_rounds(4, tune={**TUNE, "steps": 16}, targets={"macs": 0.6}, round_to=8)
    rounds, report = result.report["rounds"], result.report
    assert [each["skipped"] is None for each in rounds] == [True, False, False, False]
    assert sum(each["tuning"]["steps"] for each in rounds if each["tuning"]) == 16
    assert report["tuning"] == rounds[-1]["tuning"]
    assert report["tuning"]["helped"]
    assert report["tuning"]["history"][0]["held"] == pytest.approx(rounds[0]["tuning"]["best"]["held"], rel=1e-4)
    assert report["fidelity"]["figures"]["kl"] < rounds[0]["fidelity"]["figures"]["kl"]
    written = result.save(tmp_path / "a.onnx").read_bytes()
    assert report["output"]["sha256"] == hashlib.sha256(written).hexdigest()
    follows_the_schema(json.loads(json.dumps(report)))
    text = "\n".join(map(str, prune_tables(report)))
    assert re.search(r"round 4 had nothing to do: .*; the tuning that was left took \d+ steps, held-out loss", text)


@pytest.mark.parametrize("more", [{"rounds": 2}, {"masks": {**TUNE, "steps": 3}}, {}], ids=["rounds", "masks", "once"])
def test_samples_that_can_be_read_once_are_enough(more):
    feeds = ({"x": pictures(2, seed=number)} for number in range(12))
    others = ({"x": pictures(2, seed=number)} for number in range(20, 24))
    options = {"targets": {"macs": 0.5}, "latency": False, "round_to": 1}
    report = onnxprune.prune(classifier(), data=feeds, eval_data=others, **more, **options).report
    assert report["fidelity"]["held_out"]


def test_a_result_with_external_data_needs_no_checkpoint(tmp_path):
    onnx.save(copy.deepcopy(classifier()), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    options = {**CUT, "round_to": 1, "ratio": 0.0, "ratios": {"w1": 0.5}}  # weights behind w2 stay as they are
    result = onnxprune.prune(tmp_path / "m.onnx", rounds=2, checkpoint=tmp_path / "saved", **options)
    assert not (tmp_path / "saved").exists()
    result.save(tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx.data").exists()
    plain = in_rounds(2, tune=None, data=None, **{name: options[name] for name in ("ratio", "ratios", "round_to")})
    expected = arrays(plain.model)
    by_file = prune_file(
        tmp_path / "m.onnx", tmp_path / "b.onnx", make_options(**options), rounds=2, force=False,
        progress=lambda *_: None,
    )  # fmt: skip
    by_file.save(tmp_path / "c.onnx")
    for name in ("a.onnx", "b.onnx", "c.onnx"):
        written = arrays(onnx.load(tmp_path / name))
        assert written.keys() == expected.keys()
        assert all(np.array_equal(written[each], expected[each]) for each in expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "rounds must be at least 1, got 0"),
        ({"count": 30}, "rounds 30 needs at least 30 steps of tuning, got 12"),
        ({"count": 2, "targets": {"macs": 0.001}}, "target macs=0.001 (at best 0.0"),
        ({"count": 2, "resume": True}, "resume needs a checkpoint: the folder that the run was saved to"),
        (
            {"count": 1, "tune": None, "resume": True},
            "resume needs a checkpoint: the folder that the run was saved to",
        ),
    ],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        in_rounds(**arguments)


def test_epochs_and_times_are_divided_too():
    steps = [
        each["tuning"]["steps"] for each in in_rounds(2, tune={**TUNE, "steps": None, "epochs": 2}).report["rounds"]
    ]
    assert steps == [4, 4]  # 63 samples are 4 steps of 16
    times = [
        each["tuning"]["options"]["time"]
        for each in in_rounds(2, tune={**TUNE, "steps": None, "time": "0.4s"}).report["rounds"]
    ]
    assert times == [0.2, 0.2]


def test_an_epoch_has_as_many_steps_in_rounds_as_in_one():
    """A step takes fewer samples where each has many places to learn from: 8 of 64 places, not 32."""
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)", "y = MatMul(b, w2)",
        x="float[n,64,4] x", y="float[n,64,64] y", w1=(4, 16), w2=(16, 64),
    )  # fmt: skip
    data = {"x": np.random.default_rng(0).standard_normal((96, 64, 4)).astype(np.float32)}
    options = {**CUT, "ratio": 0.5, "data": data, "tune": {"epochs": 3, "rate": 1e-3, "threads": 1}}
    once = onnxprune.prune(proto, **options).report["tuning"]
    rounds = [each["tuning"] for each in onnxprune.prune(proto, rounds=3, **options).report["rounds"]]
    assert [each["lesson"]["batch"] for each in (once, *rounds)] == [8] * 4
    assert sum(each["steps"] for each in rounds) == once["steps"]
    assert [each["options"]["steps"] for each in rounds] == [each["steps"] for each in rounds]


def test_epochs_that_cannot_be_steps_enough_are_told_at_once(monkeypatch):
    monkeypatch.setattr("onnxprune.commands.rounds.in_rounds._Rounds", None)  # no round is begun
    with pytest.raises(OptionError, match=r"rounds 99 needs at least 99 steps of tuning, got \d\d"):
        in_rounds(99, tune={**TUNE, "steps": None, "epochs": 1})


def test_too_few_steps_of_epochs_are_told_when_they_are_counted():
    tune = {**TUNE, "steps": None, "epochs": 1}
    with pytest.raises(OptionError, match="rounds 5 needs at least 5 steps of tuning, got 4"):
        in_rounds(5, tune=tune)


# -- what a later round knows of the original ---------------------------------------------------------------


@st.composite
def chains(draw):
    """Draw how many units there are, and which of those that are left each of several cuts keeps."""
    units = left = draw(st.integers(2, 12))
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        kept = draw(st.lists(st.sampled_from(range(left)), min_size=1, max_size=left, unique=True).map(sorted))
        parts.append((left, kept))
        left = len(kept)
    return units, parts


@given(chains())
@settings(deadline=None)
def test_kept_units_go_through_all_cuts(chain):
    units, parts = chain
    expected = np.arange(units)
    reports = []
    for count, kept in parts:
        expected = expected[kept]
        group = {"name": "g", "units": count, "kept": len(kept), "kept_units": kept}
        cuts = {"w": {"source": "w", "kept": {"0": kept}}} if len(kept) < count else {}
        reports.append({"groups": [group], "initializers": cuts})
    assert units_in_all({"g": units, "other": 2}, reports) == {"g": expected.tolist(), "other": [0, 1]}
    if len(expected) < units:
        assert initializers_in_all(reports) == {"w": {"source": "w", "kept": {"0": expected.tolist()}}}
    of_values = [lambda names, kept=kept: {name: {1: np.array(kept)} for name in names} for _, kept in parts]
    np.testing.assert_array_equal(kept_in_all(of_values)(["v"])["v"][1], expected)


def test_a_group_that_changed_its_size_is_a_fault():
    report = {"groups": [{"name": "g", "units": 5, "kept": 4, "kept_units": [0, 1, 2, 3]}]}
    with pytest.raises(VerificationError, match="group 'g' has 5 units in a later round, and 8 were left of it"):
        units_in_all({"g": 8}, [report])


# -- runs that are ended ------------------------------------------------------------------------------------


class Ended(Exception):
    """Stands for a process that is killed."""


def ending(where, step=None):
    """Return what ends a run when it comes to some step."""

    def progress(text, at=0, steps=0, /):
        if where in text and step in (None, at):
            raise Ended

    return progress


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder with a model and samples; tuning is saved after each step."""
    monkeypatch.chdir(tmp_path)
    onnx.save(classifier(), tmp_path / "model.onnx")
    np.savez(tmp_path / "samples.npz", x=pictures(96))
    monkeypatch.setattr("onnxprune.training.tuning.saving.Saver.is_due", True)
    return tmp_path


def prune_here(folder, target="small.onnx", progress=lambda *_: None, rounds=2, targets=None, **more):
    options = make_options(targets=targets or {"macs": 0.3}, **CUT)
    arguments = {"tune": TUNE, "report_path": folder / "report.json", "force": True, **more}
    source, data = folder / "model.onnx", folder / "samples.npz"
    return prune_file(source, folder / target, options, data, rounds=rounds, progress=progress, **arguments)


@cache
def whole(rounds):
    """Return the bytes of a run that was never ended."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        onnx.save(classifier(), folder / "model.onnx")
        np.savez(folder / "samples.npz", x=pictures(96))
        prune_here(folder, rounds=rounds)
        assert sorted(path.name for path in folder.iterdir()) == [
            "model.onnx",
            "report.json",
            "samples.npz",
            "small.onnx",
        ]
        return (folder / "small.onnx").read_bytes()


@pytest.mark.parametrize(
    ("rounds", "where", "step"),
    [
        (1, "tuning", 9),
        (2, "round 1 of 2: tuning", 4),
        (2, "round 2 of 2: tracing", None),
        pytest.param(2, "round 2 of 2: tuning", 5, marks=pytest.mark.soak),
        pytest.param(2, "round 2 of 2: comparing outputs", None, marks=pytest.mark.soak),
    ],
)
def test_a_run_that_was_ended_goes_on_to_the_same_bytes(folder, rounds, where, step):
    with pytest.raises(Ended):
        prune_here(folder, progress=ending(where, step), rounds=rounds)
    assert not (folder / "small.onnx").exists()
    seen = []
    prune_here(folder, rounds=rounds, resume=True, progress=lambda text, at=0, *_: seen.append((text, at)))
    assert (folder / "small.onnx").read_bytes() == whole(rounds)
    assert not (folder / "small.onnx.checkpoint").exists()
    assert step is None or not any("tuning" in text and at < step for text, at in seen if where[:7] == text[:7])
    assert "2 of 2" not in where or not any(text.startswith("round 1 of 2") for text, _ in seen)


def test_a_kill_after_a_round_before_its_tuning_is_removed_loses_nothing(folder, monkeypatch):
    def killed(self, *_, **__):
        if self.name.startswith("tuning"):
            raise Ended
        unlink(self, *_, **__)

    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(Ended):
        prune_here(folder)
    monkeypatch.setattr(Path, "unlink", unlink)
    names = {path.name for path in (folder / "small.onnx.checkpoint").iterdir()}
    assert names == {"round-1.json", "round-1.onnx", "run.json", "tuning-1.checkpoint"}
    (folder / "small.onnx.checkpoint" / ".tuning-2.checkpoint-half").write_text("")  # as a kill in the middle leaves it
    prune_here(folder, resume=True)
    assert (folder / "small.onnx").read_bytes() == whole(2)
    assert not (folder / "small.onnx.checkpoint").exists()


def test_tuning_that_is_left_goes_on_too(folder):
    more = {"rounds": 3, "targets": {"macs": 0.97}}
    prune_here(folder, "whole.onnx", **more)
    with pytest.raises(Ended):
        prune_here(folder, progress=ending("round 3 of 3: tuning", 3), **more)
    seen = []
    prune_here(folder, resume=True, progress=lambda text, at=0, *_: seen.append((text, at)), **more)
    assert (folder / "small.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()
    assert min(at for text, at in seen if text == "round 3 of 3: tuning") == 3
    rounds = json.loads((folder / "report.json").read_text())["rounds"]
    assert rounds[-1]["skipped"]
    assert sum(each["tuning"]["steps"] for each in rounds if each["tuning"]) == TUNE["steps"]


def test_a_checkpoint_of_another_run_is_refused(folder):
    with pytest.raises(Ended):
        prune_here(folder, progress=ending("round 2 of 2"))
    saved = folder / "small.onnx.checkpoint"
    assert sorted(path.name for path in saved.iterdir()) == ["round-1.json", "round-1.onnx", "run.json"]
    with pytest.raises(OptionError, match="is a checkpoint of another run: rounds is 3 and was 2"):
        prune_here(folder, rounds=3, resume=True)
    with pytest.raises(OptionError, match=re.escape('option targets is [["macs", 0.4]] and was [["macs", 0.3]]')):
        prune_here(folder, targets={"macs": 0.4}, resume=True)
    prune_here(folder, rounds=1, tune=None)  # nothing to keep: what is there stays
    assert saved.exists()
    with pytest.raises(Ended):
        prune_here(folder, progress=ending("round 1 of 2: tuning", 2))  # from the beginning
    assert sorted(path.name for path in saved.iterdir()) == ["run.json", "tuning-1.checkpoint"]
    asked = "holds a run that was ended: go on from there with --resume, or remove it with --force"
    with pytest.raises(InputError, match=asked):
        prune_here(folder, force=False, target="other.onnx", checkpoint=saved, report_path=None)
    (saved / "run.json").unlink()
    with pytest.raises(InputError, match="there is no checkpoint to resume; leave out --resume to begin"):
        prune_here(folder, resume=True)


def test_what_is_in_the_way_stays(folder):
    (folder / "small.onnx.checkpoint").mkdir()
    (folder / "small.onnx.checkpoint" / "own.txt").write_text("")
    with pytest.raises(InputError, match="checkpoint is in the way: checkpoints of this run go there"):
        prune_here(folder)


def test_files_of_others_stay(folder):
    saved = folder / "small.onnx.checkpoint"
    saved.mkdir()
    own = {"run.json": "{}", "round-results.json": "{}", "round-mine.onnx": "", "tuning-notes.checkpoint": ""}
    for name, text in own.items():
        (saved / name).write_text(text)
    with pytest.raises(InputError, match="checkpoint is in the way: checkpoints of this run go there"):
        prune_here(folder)
    with pytest.raises(InputError, match="there is no checkpoint to resume"):
        prune_here(folder, resume=True)
    shutil.rmtree(saved)
    with pytest.raises(Ended):
        prune_here(folder, tune=None, progress=ending("round 2 of 2"))
    for name in list(own)[1:]:
        (saved / name).write_text("")
    with pytest.raises(
        InputError, match="holds a finished round: go on from there with --resume, or remove it with --force"
    ):
        prune_here(folder, tune=None, force=False)
    assert (saved / "round-1.onnx").exists()
    prune_here(folder, tune=None)
    assert {path.name for path in saved.iterdir()} == set(list(own)[1:])


def test_rounds_without_tuning_and_data_are_kept_too(folder):
    options = make_options(targets={"params": 0.4}, **{**CUT, "round_to": 1})
    with pytest.raises(Ended):
        prune_file(
            folder / "model.onnx", folder / "a.onnx", options, rounds=3, force=False, progress=ending("round 3 of 3")
        )
    prune_file(
        folder / "model.onnx", folder / "a.onnx", options, rounds=3, force=False, progress=lambda *_: None, resume=True
    )
    prune_file(folder / "model.onnx", folder / "b.onnx", options, rounds=3, force=False, progress=lambda *_: None)
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


def test_no_checkpoint_is_another_file_of_the_run(folder):
    for name, what in {"small.onnx": "the output", "small.onnx.data": "for weights of the output"}.items():
        with pytest.raises(InputError, match=f"{name} is {what}; give the checkpoint another name"):
            prune_here(folder, checkpoint=folder / name)
    with pytest.raises(InputError, match=r"report.json is the report; give the checkpoint another name"):
        prune_here(folder, checkpoint=folder / "report.json")
    with pytest.raises(InputError, match=r"model.onnx is in the way: checkpoints of this run go there"):
        prune_here(folder, checkpoint=folder / "model.onnx")
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "samples.npz"]


def test_rounds_in_python_leave_nothing_when_they_have_ended_well(folder, monkeypatch):
    """What comes of them lies in memory: a second run begins anew, and is not asked about those of the first."""
    saved = folder / "saved"
    results = [in_rounds(2, checkpoint=saved).model for _ in range(2)]
    assert not saved.exists()
    assert results[0] == results[1]
    with pytest.raises(OptionError, match=re.escape("target macs=0.001 (at best 0.0")):
        in_rounds(2, checkpoint=saved, targets={"macs": 0.001})
    assert not saved.exists()  # there is nothing to go on from
    with monkeypatch.context() as patched:
        patched.setattr("onnxprune.commands.prune.logged", ending("round 2 of 2: tracing"))
        with pytest.raises(Ended):
            in_rounds(2, checkpoint=saved)
    with pytest.raises(InputError, match="saved holds a finished round: go on from there with --resume"):
        in_rounds(2, checkpoint=saved)
    assert in_rounds(2, checkpoint=saved, resume=True).model == results[0]
    assert not saved.exists()


@pytest.mark.soak
def test_rounds_towards_a_latency_are_measured_against_the_original(folder):
    options = make_options(targets={"latency": 0.8}, criterion="l2", profile_seconds=2, reconstruct=False)
    source, target = ROOT / "models" / "resnet_folded.onnx", folder / "a.onnx"
    report = prune_file(source, target, options, rounds=2, force=False, progress=lambda *_: None).report
    assert len(report["rounds"]) == 2
    assert 0.8 < report["rounds"][0]["wanted"]["latency"] < 1
    assert report["latency"][0]["speedup"] > 1.1
