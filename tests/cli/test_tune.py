"""``onnxprune tune``: options, what is printed, exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from onnxprune.cli.group import cli
from onnxprune.training.tuning.processes import ALONE
from tests.support.cli import invoke
from tests.training.pairs import classifier, cut, pictures

RUN = ("tune", "small.onnx", "--data", "samples.npz", "-o", "out.onnx")
TAUGHT = (*RUN, "--teacher", "teacher.onnx", "--threads", "1", "--batch", "16")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder with a model, its teacher and samples."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.onnx").write_bytes(cut().model.SerializeToString())
    (tmp_path / "teacher.onnx").write_bytes(classifier().SerializeToString())
    np.savez(tmp_path / "samples.npz", x=pictures())
    return tmp_path


def test_a_run_prints_measurements_and_a_verdict(folder):
    result = invoke(*TAUGHT, "--steps", "12", "--rate", "0.003")
    assert "held-out loss" in result.stdout.splitlines()[-1]
    assert result.stdout.splitlines()[-1].startswith("out.onnx: ")
    assert "looking at held-out samples ..." in result.stderr
    assert (folder / "out.onnx").exists()


def test_json_and_a_time(folder):
    result = invoke(*TAUGHT, "--time", "1s", "--rate", "0.003", "--json", "--quiet")
    report = json.loads(result.stdout)
    assert report["options"]["time"] == 1.0
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (TAUGHT, "tuning takes one of steps, epochs and time, got none; nothing was written"),
        ((*TAUGHT, "--steps", "0"), "--steps must be at least 1, got 0"),
        ((*TAUGHT, "--time", "soon"), "--time must be a duration such as 90s, 20m or 1h, got 'soon'"),
        ((*RUN, "--steps", "2"), "there is no teacher, and the data has no array 'labels': give one of both"),
        ((*TAUGHT, "--steps", "2", "--resume"), "there is no checkpoint to resume; leave out --resume to begin"),
        ((*TAUGHT, "--steps", "2", "--cut", "small.onnx"), "the report of the cut cannot be read"),
        ((*TAUGHT, "--steps", "2", "--tensorboard", "log"), "tensorboard needs the package tensorboard"),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_bad_input(folder, monkeypatch, args, message):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    result = invoke(*args, code=2)
    assert message.partition(";")[0] in result.stderr
    assert not (folder / "out.onnx").exists()


def test_a_process_that_helps_writes_nothing_and_prints_errors_with_its_rank(folder, monkeypatch):
    """Of two that were started together the second; what carries numbers between them is left out here."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("onnxprune.commands.tune.processes_of", lambda device: ALONE)
    result = invoke(*TAUGHT, "--steps", "2", "--rate", "0.003", "--report", "report.json")
    assert result.output == ""
    assert not (folder / "out.onnx").exists()
    assert not (folder / "report.json").exists()
    result = invoke(*TAUGHT, "--steps", "0", code=2)
    assert result.stderr == "onnxprune: process of rank 1: --steps must be at least 1, got 0\n"


@pytest.mark.parametrize("command", ["inspect", "prune", "compare"])
@pytest.mark.parametrize(("rank", "count"), [("1", "2"), ("1", "x")])
def test_other_commands_ask_nobody_whom_they_help(folder, monkeypatch, command, rank, count):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    output = {"prune": ("-o", "out.onnx"), "compare": ("teacher.onnx",), "inspect": ()}[command]
    result = invoke(command, "missing.onnx", *output, code=2)
    assert result.stderr.splitlines()[-1] == "onnxprune: missing.onnx: no such file"


def test_several_processes_share_tune_alone(folder, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "no"}.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(cli, ["inspect", "small.onnx"])
    message = "onnxprune: several processes can share tune, not inspect: start it without Accelerate\n"
    assert (result.exit_code, result.stderr) == (2, message)


def test_without_pytorch_one_sentence_names_the_extra(folder, monkeypatch):
    monkeypatch.setattr("onnxprune.training.extra.importlib.util.find_spec", lambda _: None)
    result = invoke(*TAUGHT, "--steps", "2", code=2)
    assert "onnxprune tune needs PyTorch: pip install 'onnxprune[torch]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1
