"""Tuning files: only numbers change, the file is the network, and what is written can be told."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.commands.records.report_files import PageFile
from onnxprune.commands.tune import TuneFiles, read_cut, tune_file
from onnxprune.errors import InputError, OptionError, VerificationError
from onnxprune.graph.view import view
from onnxprune.report.charts_tuning import tuning_html
from onnxprune.report.tune import tune_tables
from onnxprune.training.network.writing import contents_of
from onnxprune.training.settings import make_tune_options
from tests.support.build import model
from tests.training.pairs import classifier, cut, normed, pictures

OPTIONS = {"steps": 16, "rate": 3e-3, "batch": 16, "threads": 1}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder with a model, its teacher, the report of the cut, and samples."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.onnx").write_bytes(cut().model.SerializeToString())
    (tmp_path / "teacher.onnx").write_bytes(classifier().SerializeToString())
    (tmp_path / "cut.json").write_text(json.dumps(cut().report))
    np.savez(tmp_path / "samples.npz", x=pictures())
    np.savez(tmp_path / "eval.npz", x=pictures(32, seed=1))
    return tmp_path


def tune_here(folder, target="out.onnx", options=OPTIONS, resume=False, force=False, progress=lambda *_: None, **files):
    files = {"teacher": "teacher.onnx", **files}
    return tune_file(
        folder / "small.onnx",
        folder / target,
        make_tune_options(**options),
        folder / "samples.npz",
        files=TuneFiles(**{name: None if path is None else folder / path for name, path in files.items()}),
        resume=resume,
        force=force,
        progress=progress,
    )


def emptied(proto):
    """Return the bytes of a model without the numbers of its weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.doc_string = ""
    return copy.SerializeToString()


def test_only_numbers_change(folder):
    result = tune_here(folder)
    before, after = onnx.load(folder / "small.onnx"), onnx.load(folder / "out.onnx")
    assert result.report["helped"]
    assert emptied(before) == emptied(after)
    assert before.SerializeToString() != after.SerializeToString()
    assert sorted(path.name for path in folder.iterdir() if "out" in path.name) == ["out.onnx"]


def lines(report):
    """Return what is printed of a report."""
    return " ".join(str(part) for part in tune_tables(report))


def test_statistics_of_batches_are_written_and_the_file_is_the_network(folder):
    proto = normed()
    result = onnxprune.tune(proto, classifier(), data={"x": pictures()}, statistics="batch", **OPTIONS)
    assert result.report["helped"]
    assert emptied(proto) == emptied(result.model)
    held = {each.name: numpy_helper.to_array(each) for each in result.model.graph.initializer}
    for each in proto.graph.initializer:
        assert not np.array_equal(held[each.name], numpy_helper.to_array(each)), each.name
    assert (held["v"] > 0).all()
    assert result.report["options"]["statistics"] == "batch"
    assert result.report["lesson"]["statistics"] == {"of_batches": 1, "kept": 0, "samples": 16}
    assert "1 BatchNormalization learned by the statistics of 16 samples at once" in lines(result.report)
    kept = result.report["lesson"]["statistics"] | {"kept": 2}
    lesson = result.report["lesson"] | {"statistics": kept}
    assert "16 samples at once; 2 others kept theirs" in lines(result.report | {"lesson": lesson})


def test_the_same_run_writes_the_same_bytes(folder):
    tune_here(folder, "one.onnx")
    tune_here(folder, "two.onnx")
    assert (folder / "one.onnx").read_bytes() == (folder / "two.onnx").read_bytes()


def test_tuning_in_python(folder):
    result = onnxprune.tune(
        cut().model, classifier(), data={"x": pictures()}, cut=cut().report, eval_data={"x": pictures(32, 1)}, **OPTIONS
    )
    report = result.report
    assert report["helped"]
    assert report["fidelity"]["held_out"]
    assert report["fidelity"]["after"]["kl"] < report["fidelity"]["before"]["kl"]
    assert report["lesson"]["losses"] == {"kl": 1.0, "features": 1.0}
    assert report["output"]["path"] is None
    assert json.loads(json.dumps(report)) == report
    assert result.save(folder / "saved.onnx").exists()


def test_held_out_samples_that_decided_nothing_are_compared_on(folder, monkeypatch):
    seen = tune_here(folder, "all.onnx").report
    assert not seen["fidelity"]["held_out"]
    assert seen["fidelity"]["samples"] == seen["lesson"]["held_out"] == 8
    monkeypatch.setattr("onnxprune.training.tuning.order._PLACES", 1)
    monkeypatch.setattr("onnxprune.training.tuning.order._FEWEST", 3)
    report = tune_here(folder, "few.onnx").report
    assert report["lesson"]["held_out"] == 3
    assert report["fidelity"]["samples"] == 5
    assert report["fidelity"]["held_out"]


def test_what_does_not_help_is_written_as_it_was(folder):
    (folder / "small.onnx").write_bytes(classifier().SerializeToString())
    result = tune_here(folder, options={**OPTIONS, "loss": "kl"})
    assert not result.report["helped"]
    assert onnx.load(folder / "out.onnx") == onnx.load(folder / "small.onnx")
    assert any("tuning did not help" in str(part) for part in tune_tables(result.report))


def test_reports_and_plots(folder):
    result = tune_here(folder, report="out.json", plot="out.svg", cut="cut.json")
    report = json.loads((folder / "out.json").read_text())
    assert report == result.report
    assert report["output"]["path"].endswith("out.onnx")
    assert "held out" in (folder / "out.svg").read_text()
    assert "<table>" in tuning_html(report)
    assert report["history"][-1]["step"] == 16
    lines = [str(part) for part in tune_tables(report)]
    assert any(
        re.search(r"learned kl and features from 56 samples.*8 others decided; rate 0.003", line) for line in lines
    )
    assert any("compared on samples that decided or were learned from" in line for line in lines)
    assert any("verified: the file = the network" in line for line in lines)


def test_a_range_test_is_drawn(folder):
    tune_here(folder, options={**OPTIONS, "rate": None}, plot="out.svg")
    assert "learning rate (taken" in (folder / "out.svg").read_text()


def test_labels_and_accuracy(folder):
    labels = np.arange(64) % 6
    np.savez(folder / "samples.npz", x=pictures(), labels=labels)
    report = tune_here(folder, teacher=None, options={**OPTIONS, "steps": 30}).report
    assert report["lesson"]["losses"] == {"labels": 1.0}
    assert report["teacher"] is None
    assert set(report["accuracy"]) == {"teacher", "before", "after"}
    assert any("accuracy" in str(part) for part in tune_tables(report))


def test_half_precision_is_rounded_back():
    def half(mid):
        return model(
            "a = MatMul(x, w1)", "b = Relu(a)", "y = MatMul(b, w2)", x="float16[n,8] x", y="float16[n,5] y",
            w1=np.random.default_rng(mid).standard_normal((8, mid)).astype(np.float16),
            w2=np.random.default_rng(mid + 1).standard_normal((mid, 5)).astype(np.float16),
        )  # fmt: skip

    samples = {"x": np.random.default_rng(0).standard_normal((64, 8)).astype(np.float16)}
    result = onnxprune.tune(half(12), half(16), data=samples, **{**OPTIONS, "steps": 40})
    assert result.report["helped"]
    types = {numpy_helper.to_array(tensor).dtype.name for tensor in result.model.graph.initializer}
    assert types == {"float16"}


def test_a_weight_too_large_for_its_type_is_not_written():
    small = view(model("y = MatMul(x, w)", x="float16[n,2] x", w=np.ones((2, 2), np.float16)))
    with pytest.raises(VerificationError, match="weight 'w' is not finite as float16; nothing was written"):
        contents_of(small, {"w": np.full((2, 2), 1e9, np.float32)})


def test_a_file_that_is_not_the_network_is_not_written(folder, monkeypatch):
    monkeypatch.setattr("onnxprune.training.network.writing.difference_of", lambda *_: 0.5)
    with pytest.raises(VerificationError, match=r"output 'y' of the tuned file differs from the network .* by 5.0e-01"):
        tune_here(folder)
    assert not (folder / "out.onnx").exists()
    assert not list(folder.glob(".onnxprune*"))


def test_functions_of_a_model_stay(folder):
    """What was read differs from plain form: weights outside of the functions are changed in what was read."""
    functions = 'agraph <domain: "my", opset_import: ["": 18]> twice (v) => (w) { w = Add(v, v) }'
    functions = functions.replace("agraph ", "")
    calls = model(
        "a = MatMul(x, w1)", "b = my.twice(a)", "y = MatMul(b, w2)", x="float[n,6] x", imports='"my": 1',
        functions=functions, infer=False, y="float[n,5] y", w1=(6, 8), w2=(8, 5),
    )  # fmt: skip
    teacher = model("a = MatMul(x, w3)", "y = MatMul(a, w4)", x="float[n,6] x", w3=(6, 8), w4=(8, 5))
    samples = {"x": np.random.default_rng(0).standard_normal((48, 6)).astype(np.float32)}
    result = onnxprune.tune(calls, teacher, data=samples, loss="mse", metric="dense", **OPTIONS)
    assert result.report["helped"]
    assert [node.op_type for node in result.model.graph.node] == ["MatMul", "twice", "MatMul"]
    assert emptied(result.model) == emptied(calls)


class Killed(BaseException):
    """In place of a signal."""


def test_a_run_goes_on_from_the_checkpoint_beside_the_output(folder, monkeypatch):
    tune_here(folder, "whole.onnx")
    monkeypatch.setattr("onnxprune.training.tuning.saving.Saver.is_due", True)

    def progress(text, step=0, steps=0):
        if step == 9:
            raise Killed

    with pytest.raises(Killed):
        tune_here(folder, progress=progress)
    assert (folder / "out.onnx.checkpoint").exists()
    assert not (folder / "out.onnx").exists()
    with pytest.raises(OptionError, match=r"out.onnx.checkpoint is a checkpoint of another run: option seed is 5"):
        tune_here(folder, options={**OPTIONS, "seed": 5}, resume=True)
    tune_here(folder, resume=True)
    assert (folder / "out.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()
    assert not (folder / "out.onnx.checkpoint").exists()


def ended_at(step):
    """Return a progress that ends the process before a step."""

    def progress(text, at=0, steps=0):
        if at == step:
            raise Killed

    return progress


def contents(folder):
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("small.onnx", "is the input"),
        ("teacher.onnx", "is the teacher"),
        ("samples.npz", "is part of the data"),
        ("eval.npz", "is the data to compare on"),
        ("cut.json", "is the report of the cut"),
        ("out.onnx", "is the output"),
        ("out.onnx.data", "is for weights of the output"),
        ("out.json", "is the report"),
        ("out.svg", "is the plot"),
        ("out.html", "is the page"),
    ],
)
def test_a_checkpoint_replaces_no_other_file_of_the_run(folder, name, message, force):
    before, options = contents(folder), {**OPTIONS, "eval_data": str(folder / "eval.npz")}
    written = {"report": "out.json", "plot": "out.svg"}
    with pytest.raises(InputError, match=rf"{re.escape(name)} {message}; give the checkpoint another name"):
        tune_file(
            folder / "small.onnx",
            folder / "out.onnx",
            make_tune_options(**options),
            folder / "samples.npz",
            files=TuneFiles(
                folder / "teacher.onnx",
                folder / "cut.json",
                folder / name,
                page=PageFile(folder / "out.html", ""),
                **{role: folder / path for role, path in written.items()},
            ),
            force=force,
            progress=never_tuned,
        )
    assert contents(folder) == before


def never_tuned(text, *_):
    assert text.startswith("reading")


def test_a_checkpoint_that_cannot_be_is_told_before_anything_runs(folder):
    (folder / "out.onnx.checkpoint").mkdir()  # as prune has it
    with pytest.raises(
        InputError, match=r"out.onnx.checkpoint is in the way: it is a folder, and tune saves to a file"
    ):
        tune_here(folder, progress=never_tuned)
    with pytest.raises(InputError, match=r"run.checkpoint: there is no folder .*none"):
        tune_here(folder, progress=never_tuned, checkpoint="none/run.checkpoint")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes.txt is in the way: it is no checkpoint of tune; give another"):
        tune_here(folder, progress=never_tuned, checkpoint="notes.txt", force=True)
    with pytest.raises(InputError, match=r"run.checkpoint: there is no checkpoint to resume; leave out --resume"):
        tune_here(folder, progress=never_tuned, checkpoint="run.checkpoint", resume=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_run_that_was_ended_is_gone_on_with_or_removed(folder, monkeypatch):
    monkeypatch.setattr("onnxprune.training.tuning.saving.Saver.is_due", True)
    with pytest.raises(Killed):
        tune_here(folder, progress=ended_at(9))
    saved = folder / "out.onnx.checkpoint"
    before = saved.read_bytes()
    message = (
        "out.onnx.checkpoint holds a run that was ended: go on from there with --resume, or remove it with --force"
    )
    with pytest.raises(InputError, match=message):
        tune_here(folder, progress=never_tuned)
    assert saved.read_bytes() == before
    monkeypatch.setattr("onnxprune.training.tuning.saving.Saver.is_due", False)
    tune_here(folder, force=True)  # it is too short to be saved
    assert not saved.exists()


def test_a_plot_that_is_there_is_told_before_anything_runs(folder):
    (folder / "out.svg").write_text("mine")
    with pytest.raises(InputError, match=r"out.svg exists; give another name, or --force"):
        tune_here(folder, plot="out.svg", progress=never_tuned)


def test_a_checkpoint_in_python(folder, monkeypatch):
    monkeypatch.setattr("onnxprune.training.tuning.saving.Saver.is_due", True)
    monkeypatch.chdir(folder)
    asked = {"data": "samples.npz", "checkpoint": "run.checkpoint", **OPTIONS}

    def ends(step, figures):
        if step > 8:
            raise Killed

    whole = onnxprune.tune("small.onnx", "teacher.onnx", **asked).model
    assert not (folder / "run.checkpoint").exists()
    with pytest.raises(Killed):
        onnxprune.tune("small.onnx", "teacher.onnx", callbacks=[ends], **asked)
    with pytest.raises(InputError, match=r"run.checkpoint holds a run that was ended"):
        onnxprune.tune("small.onnx", "teacher.onnx", **asked)
    assert onnxprune.tune("small.onnx", "teacher.onnx", resume=True, **asked).model == whole
    assert not (folder / "run.checkpoint").exists()
    for name, what in {"small.onnx": "the input", "teacher.onnx": "the teacher", "samples.npz": "the data"}.items():
        with pytest.raises(InputError, match=f"{name} is {what}; give the checkpoint another name"):
            onnxprune.tune("small.onnx", "teacher.onnx", **{**asked, "checkpoint": name}, force=True)
    with pytest.raises(OptionError, match="resume needs a checkpoint: the file that the run was saved to"):
        onnxprune.tune("small.onnx", "teacher.onnx", **{**asked, "checkpoint": None}, resume=True)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("the data", lambda arrays: arrays["x"].__setitem__(30, 0)),
        ("the labels", lambda arrays: arrays["labels"].__setitem__(30, 5)),
    ],
)
def test_a_checkpoint_of_other_samples_is_refused(folder, monkeypatch, name, change):
    monkeypatch.setattr("onnxprune.training.tuning.saving.Saver.is_due", True)
    arrays = {"x": pictures(), "labels": np.zeros(64, np.int64)}
    np.savez(folder / "samples.npz", **arrays)
    with pytest.raises(Killed):
        tune_here(folder, progress=ended_at(9))
    change(arrays)
    np.savez(folder / "samples.npz", **arrays)
    with pytest.raises(OptionError, match=f"out.onnx.checkpoint is a checkpoint of another run: {name} is"):
        tune_here(folder, resume=True)


def test_a_checkpoint_of_another_cut_or_metric_is_refused(folder, monkeypatch):
    monkeypatch.setattr("onnxprune.training.tuning.saving.Saver.is_due", True)
    with pytest.raises(Killed):
        tune_here(folder, progress=ended_at(9), cut="cut.json")
    with pytest.raises(OptionError, match="is a checkpoint of another run: the cut is"):
        tune_here(folder, resume=True)
    report = json.loads((folder / "cut.json").read_text())
    group = next(group for group in report["groups"] if group["kept"] < group["units"])
    group["kept_units"] = [unit for unit in range(group["units"]) if unit not in group["kept_units"]]
    (folder / "cut.json").write_text(json.dumps(report))
    with pytest.raises(OptionError, match="is a checkpoint of another run: the cut is"):
        tune_here(folder, resume=True, cut="cut.json")
    with pytest.raises(OptionError, match='is a checkpoint of another run: option metric is "dense" and was null'):
        tune_here(folder, resume=True, options={**OPTIONS, "metric": "dense"})


def test_files_that_cannot_be_written(folder):
    (folder / "out.onnx").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"out.onnx exists; give another name, or --force"):
        tune_here(folder)
    with pytest.raises(InputError, match=r"teacher.onnx is part of the data; give the output another name"):
        tune_here(folder, "teacher.onnx", force=True)
    with pytest.raises(OptionError, match="plot must be a file that ends in"):
        tune_here(folder, "new.onnx", plot="plot.gif")


def test_reports_that_are_none(folder):
    assert read_cut(None) is None
    with pytest.raises(InputError, match="the report of the cut cannot be read: No such file"):
        read_cut(folder / "none.json")
    (folder / "bad.json").write_text("{")
    with pytest.raises(InputError, match="the report of the cut cannot be read: it is no JSON"):
        read_cut(folder / "bad.json")
    (folder / "other.json").write_text("[]")
    with pytest.raises(InputError, match="is no report of a cut: write one with --report of prune"):
        read_cut(folder / "other.json")
