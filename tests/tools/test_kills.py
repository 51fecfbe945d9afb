"""The proof of kills sees what a run leaves: another file, half a report, hidden folders, a traceback."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from tests.support.build import dense
from tools.pages import faults_page
from tools.proofs import kills

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux alone")
REPORT = next(scenario for scenario in kills.SCENARIOS if scenario.name == "report")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "o.onnx").write_bytes(dense("b = Relu(a)", mid=8).SerializeToString())
    (tmp_path / "r.json").write_text("{}")
    return tmp_path


def faults(folder, code=-9, err="", sent=signal.SIGKILL, known=None):
    known = kills.made(REPORT, folder) if known is None else known
    return [*kills.faults_of(REPORT, folder, (code, err), sent, {name: {known[name]} for name in known})]


def test_what_is_sound(folder):
    assert faults(folder) == []
    (folder / ".onnxprune-x").mkdir()
    assert faults(folder) == []
    (folder / "o.onnx").unlink()
    assert faults(folder) == []


def test_what_is_wrong(folder):
    assert faults(folder, known={"o.onnx": "other"}) == ["o.onnx is neither the old nor the new"]
    assert faults(folder, code=1, err="no") == ["exit code 1: no"]
    assert faults(folder, err=f"Traceback {kills.ROOT / 'onnxprune'}")[0].startswith("stderr: Traceback")
    (folder / "tmp" / "onnxprune-x").mkdir()
    assert faults(folder, 143, sent=signal.SIGTERM) == ["left behind: ['onnxprune-x']"]
    (folder / "r.json").write_text("{")
    assert faults(folder)[0].startswith("left half: JSONDecodeError")
    known = kills.made(REPORT, folder)
    (folder / "o.onnx").write_bytes(b"half")
    assert faults(folder, known=known)[0].startswith("left half: ModelError")


def test_what_nobody_expects_there(folder, tmp_path):
    template = tmp_path / "template"
    template.mkdir()
    for name in ("model.onnx", "template"):
        (template / name).touch()
    (folder / ".onnxprune-x").mkdir()
    (folder / "o.onnx.data").touch()
    assert kills.strangers(REPORT, folder, template) == []
    (folder / "half").touch()
    assert kills.strangers(REPORT, folder, template) == ["half"]


def test_a_signal_before_the_package_begins_is_no_fault(folder):
    """Python imports for a while itself before a line of the package runs, and says so in its own way."""
    whole = {"o.onnx": {*kills.made(REPORT, folder).values()}}
    for where, faults in (("runpy", 0), (kills.ROOT / "onnxprune" / "cli" / "group.py", 2)):
        ended = 1, f'Traceback (most recent call last):\n  File "{where}", line 1\nKeyboardInterrupt\n'
        assert len([*kills.faults_of(REPORT, folder, ended, signal.SIGINT, whole)]) == faults


@pytest.mark.parametrize(("code", "expected"), [(0, []), (2, ["the next run: exit code 2: no, 1 models"])])
def test_the_same_command_is_given_again(folder, monkeypatch, code, expected):
    given = []

    def run(command, folder, ending, *, forked):
        given.append(command)
        return code, "no"

    monkeypatch.setattr(kills, "run", run)
    assert [*kills.again(REPORT, folder, kills.made(REPORT, folder))] == expected
    assert given == [[*REPORT.command, "--force"]]
    other = [*kills.again(REPORT, folder, {"o.onnx": "other"})]
    assert other == [f"the next run: exit code {code}: no, 1 models"]


def test_a_fork_that_does_not_end_is_ended():
    child = os.fork()
    if not child:
        signal.pause()
    with pytest.raises(TimeoutError, match=r"^a run did not end within 0 s$"):
        kills._waited(child, 0.05)


@pytest.mark.soak
def test_runs_are_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "SCENARIOS", kills.SCENARIOS[1:3])
    monkeypatch.setattr(sys, "argv", ["kills.py", "--count", "6", "--out", str(tmp_path / "kills.json")])
    assert kills.main() == 0
    assert json.loads((tmp_path / "kills.json").read_text())["kills"] == 6


def test_the_page_tells_what_was_run():
    tally = {"next": 5000, "seconds": 1.0, "codes": {"2": 4000, "0": 1000}, "faults": {"x": [1]}, "slowest": 7.0,
             "largest": 10**8}  # fmt: skip
    tally |= {"longest": 80.0, "commit": "abc1234"}
    page = faults_page.page({"samples": tally}, {"kills": 9, "faults": 0, "by": {"prune": {"SIGKILL": 9}}})
    assert "| 5,000 | 1,000 done, 4,000 refused | 7 s | 80 s | 100 MB | 1 |" in page
    assert "the package was that of commit `abc1234`, `unknown`. Not survived" in page
    assert "| prune | 9 |" in page
    assert "| `tools/fuzz_bytes samples --only 1` | x | not looked at |" in page
    assert "| not run |" in page
    assert "Not run." in faults_page.page({}, None)
