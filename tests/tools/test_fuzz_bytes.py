"""The fuzzer of damaged files sees what goes wrong: tracebacks, crashes, hangs and memory, each in a child."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys

import pytest

from onnxprune.data.samples import load_data
from onnxprune.graph.files.read import load
from onnxprune.graph.ports import with_batches
from tests.support.paths import ROOT
from tools.git import measured_commit
from tools.proofs import broken_samples, confined, fuzz_bytes
from tools.proofs.broken_models import Models
from tools.proofs.broken_samples import Samples

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are confined on Linux alone")
RUN = ("model.onnx", "--criterion", "l2", "--no-latency", "-o", "o.onnx")


def crash():
    os.kill(os.getpid(), signal.SIGKILL)


def fill():
    return len(bytearray(2**31))


def fail():
    raise KeyError("here")


def test_each_action_is_told_how_it_ended():
    actions = [lambda: 1, fail, crash, signal.pause, fill, lambda: 2]
    ended = list(confined.each(actions, confined.Limits(seconds=0.3, bytes=2**28)))
    assert [each.value for each in ended] == [1, None, None, None, None, 2]
    assert [each.fault.strip().splitlines()[-1:] for each in ended] == [
        [], ["KeyError: 'here'"], ["crash: SIGKILL"], ["hang"], ["memory: MemoryError"], []
    ]  # fmt: skip


def test_memory_counts_where_nothing_else_fails():
    """In a process of its own: a large one has memory at hand that a child takes without growing."""
    program = (
        "from tools.proofs import confined\n"
        "(ended,) = confined.each([lambda: len(bytearray(b'x') * 3 * 2**24)], confined.Limits(bytes=2**25))\n"
        "print(ended.peak > 2**25, ended.fault)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("True memory: ")


@pytest.fixture
def only(monkeypatch):
    """Return a function that makes all cases one."""

    def put(case):
        monkeypatch.setattr(fuzz_bytes, "makers", lambda: {"models": lambda: lambda _: case})

    return put


def test_commands_end_at_the_first_that_fails(only, tmp_path, capsys, monkeypatch):
    only(fuzz_bytes.Case("text", {"model.onnx": b"text"}, (("inspect", "model.onnx"), RUN)))
    tally = fuzz_bytes.run_many("models", tmp_path, count=3, seconds=60, first=None)
    assert (tally.next, tally.codes, tally.faults) == (3, {"2": 3}, {})
    more = fuzz_bytes.run_many("models", tmp_path, count=5, seconds=60, first=None)
    assert (more.next, more.codes) == (5, {"2": 5})
    assert (more.commit, more.longest > 0) == (measured_commit(), True)
    monkeypatch.setattr("tools.git.package_commit", lambda: "0000000")
    with pytest.raises(
        SystemExit, match=r"models\.json: measured on .*, and the package is 0000000\+?; move it away to "
    ):
        fuzz_bytes.run_many("models", tmp_path, count=6, seconds=60, first=None)
    assert fuzz_bytes.explain("models", 0) == 0
    assert "exit code 2: onnxprune: model.onnx: not an ONNX file" in capsys.readouterr().out


def test_faults_are_kept(only, tmp_path, monkeypatch):
    def unexpected(*_):
        raise ArithmeticError("7 apples")

    monkeypatch.setattr("onnxprune.commands.inspect.inspect", unexpected)
    only(fuzz_bytes.Case("any", {"model.onnx": b"text"}, (("inspect", "model.onnx"),), {"to": "x", "pipe": "|"}))
    tally = fuzz_bytes.run_many("models", tmp_path, count=1, seconds=60, first=None)
    (kind,) = tally.faults
    assert kind.startswith("onnxprune: unexpected ArithmeticError: # apples")
    assert "onnxprune inspect model.onnx" in (tmp_path / "models-0" / "fault.txt").read_text()
    assert (tmp_path / "models-0" / "model.onnx").read_bytes() == b"text"
    assert json.loads((tmp_path / "models.json").read_text())["faults"] == {kind: [0]}


@pytest.mark.parametrize(("maker", "kinds"), [(Models, 50), (Samples, 12)])
def test_cases_are_functions_of_their_seed(maker, kinds):
    make = maker().case
    names = set()
    for seed in range(60):
        case = make(seed)
        assert case == make(seed)
        names.add(case.name)
    assert len(names) > kinds


@pytest.mark.parametrize("name", sorted(broken_samples._models()))
def test_sound_samples_fit_their_models(name):
    """What is damaged was sound before: states, tables, text and waves, too."""
    loaded = load(broken_samples._models()[name])
    for seed in range(3):
        data = load_data(broken_samples._good(random.Random(seed), name), with_batches(loaded.inputs, fits_any=True))
        assert data.count == 12


def test_some_damaged_samples_pass(tmp_path):
    tally = fuzz_bytes.run_many("samples", tmp_path, count=15, seconds=60, first=None)
    assert tally.faults == {}
    assert set(tally.codes) <= {"0", "2"}
