"""A cut that is ended goes on from its notes, to the same bytes: curves, choices of branches, fits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from onnxprune.commands.prune import prune_file
from onnxprune.commands.records.made_from import effective
from onnxprune.data.notes import Notes
from onnxprune.errors import OptionError
from onnxprune.planning.options import make_options
from tests.support.paths import MODELS

WIDTHS = {"targets": {"macs": 0.6}}
DEPTH = {"depth": 0.3}
BOTH = {"depth": 0.2, "targets": {"macs": 0.6}}


class Ended(Exception):
    """Stands for a kill."""


def prune(tmp_path, name, options, *, checkpoint=None, resume=False):
    with np.load(MODELS / "mnist_calibration.npz") as stored:
        data = {key: array[:64] for key, array in stored.items() if key != "labels"}
    checked = make_options(**options, latency=False, effort="quick", samples=48)
    target, report = tmp_path / name, tmp_path / f"{name}.json"
    prune_file(
        MODELS / "vit.onnx", target, checked, data, report_path=report, checkpoint=checkpoint, resume=resume,
        force=True, progress=lambda *_: None,
    )  # fmt: skip
    values = json.loads(report.read_text())
    for key in ("seconds", "output", "compensated"):
        values.pop(key, None)
    return target.read_bytes(), values


def ends_after(monkeypatch, count):
    """Let the run end when so many notes are written; return the names of all that are."""
    written, write = [], Notes.write

    def noted(self, name, *rest):
        if self.folder is not None:
            if len(written) == count:
                raise Ended
            written.append(self.topic + name)
        write(self, name, *rest)

    monkeypatch.setattr(Notes, "write", noted)
    return written


@pytest.mark.parametrize("options", [WIDTHS, DEPTH, BOTH], ids=["widths", "depth", "both"])
def test_goes_on_to_the_same_bytes(tmp_path, monkeypatch, options):
    expected, _ = prune(tmp_path, "whole.onnx", options)
    folder = tmp_path / "saved"
    with monkeypatch.context() as patched:
        every = ends_after(patched, 10**9)
        assert prune(tmp_path, "kept.onnx", options, checkpoint=folder)[0] == expected
    assert not folder.exists()
    assert len(set(every)) == len(every)
    for ended in (1, len(every) // 2, len(every) - 1):
        with monkeypatch.context() as patched:
            before = ends_after(patched, ended)
            with pytest.raises(Ended):
                prune(tmp_path, "out.onnx", options, checkpoint=folder)
        with monkeypatch.context() as patched:
            after = ends_after(patched, 10**9)
            assert prune(tmp_path, "out.onnx", options, checkpoint=folder, resume=True)[0] == expected
        assert before + after == every  # each is measured once
        assert not folder.exists()


def test_the_report_is_that_of_a_run_that_was_not_ended(tmp_path, monkeypatch):
    _, expected = prune(tmp_path, "whole.onnx", BOTH)
    with monkeypatch.context() as patched:
        ends_after(patched, 40)
        with pytest.raises(Ended):
            prune(tmp_path, "whole.onnx", BOTH, checkpoint=tmp_path / "saved")
    assert prune(tmp_path, "whole.onnx", BOTH, checkpoint=tmp_path / "saved", resume=True)[1] == expected


def test_a_damaged_note_is_measured_again(tmp_path, monkeypatch):
    expected, _ = prune(tmp_path, "whole.onnx", WIDTHS)
    with monkeypatch.context() as patched:
        ends_after(patched, 12)
        with pytest.raises(Ended):
            prune(tmp_path, "out.onnx", WIDTHS, checkpoint=tmp_path / "saved")
    for path in sorted((tmp_path / "saved" / "notes-1").iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:-4])
    assert prune(tmp_path, "out.onnx", WIDTHS, checkpoint=tmp_path / "saved", resume=True)[0] == expected


def test_notes_of_another_run_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        ends_after(patched, 3)
        with pytest.raises(Ended):
            prune(tmp_path, "out.onnx", WIDTHS, checkpoint=tmp_path / "saved")
    with pytest.raises(OptionError, match="is a checkpoint of another run: option seed is 1 and was 0"):
        prune(tmp_path, "out.onnx", {**WIDTHS, "seed": 1}, checkpoint=tmp_path / "saved", resume=True)
    prune(tmp_path, "out.onnx", WIDTHS, checkpoint=tmp_path / "saved")  # from the beginning
    assert not (tmp_path / "saved").exists()


def test_notes_of_other_tokens_are_refused():
    """Reports tell how many tokens are kept; a checkpoint knows which."""
    told = [effective(make_options(vocabulary=ids, targets={"params": 0.9}), True) for ids in ([0, 1, 2], [0, 1, 3])]
    assert told[0]["option vocabulary"] != told[1]["option vocabulary"]


def test_notes_that_others_wrote_are_measured_again(tmp_path, monkeypatch):
    """A note may be whole, and say nothing that is of use."""
    expected, _ = prune(tmp_path, "whole.onnx", WIDTHS)
    with monkeypatch.context() as patched:
        every = ends_after(patched, 10**9)
        prune(tmp_path, "out.onnx", WIDTHS, checkpoint=tmp_path / "saved")
    with monkeypatch.context() as patched:
        written = ends_after(patched, len(every) - 1)
        with pytest.raises(Ended):
            prune(tmp_path, "out.onnx", WIDTHS, checkpoint=tmp_path / "saved")
    notes = Notes(tmp_path / "saved" / "notes-1")
    curve, fit = (next(name for name in written if kind in name) for kind in ("curve", "part"))
    notes.write(curve, {"order": "none"})
    notes.write(fit, {"node": 1}, {"no such constant": np.zeros(3, np.float32)})
    assert prune(tmp_path, "out.onnx", WIDTHS, checkpoint=tmp_path / "saved", resume=True)[0] == expected
