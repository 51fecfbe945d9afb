"""The file that `tune` saves a run to: never another file, and gone when nothing needs it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnxprune.commands.records.checkpoint_file import CheckpointFile
from onnxprune.errors import InputError
from onnxprune.graph.files.publish import Reads
from onnxprune.training.tuning import checkpoint

NOTHING = Reads()
ENDED = "holds a run that was ended: go on from there with --resume, or remove it with --force"


def saved(tmp_path, name="run.checkpoint"):
    """Return the path of a checkpoint."""
    path = tmp_path / name
    checkpoint.save(path, {"the model": "this one"}, {"step": 3})
    return path


def refused(message, path, reads=NOTHING, beside=(), **how):
    with pytest.raises(InputError, match=re.escape(message)):
        CheckpointFile(path, **how).check(reads, beside)


@pytest.mark.parametrize("how", [{}, {"force": True}, {"resume": True}], ids=str)
def test_no_other_file_of_the_run(tmp_path, how):
    for name in ("model", "weights", "samples", "report"):
        (tmp_path / name).write_bytes(b"mine")
    reads = Reads(tmp_path / "model", (tmp_path / "weights",), (tmp_path / "samples",))
    beside = [(tmp_path / "report", "is the report"), (tmp_path / "output", "is the output")]
    for name, what in {
        "model": "is the input",
        "weights": "holds weights of the input",
        "samples": "is the data",
        "report": "is the report",
        "output": "is the output",
    }.items():
        refused(f"{tmp_path / name} {what}; give the checkpoint another name", tmp_path / name, reads, beside, **how)
    (tmp_path / "link").symlink_to(tmp_path / "model")
    refused("link is the input; give the checkpoint another name", tmp_path / "link", reads, beside, **how)


@pytest.mark.parametrize("how", [{}, {"force": True}, {"resume": True}], ids=str)
def test_places_that_cannot_be_written(tmp_path, how):
    (tmp_path / "folder").mkdir()
    message = "folder is in the way: it is a folder, and tune saves to a file; give another --checkpoint"
    refused(message, tmp_path / "folder", **how)
    refused(f"there is no folder {tmp_path / 'none'}", tmp_path / "none" / "run.checkpoint", **how)
    refused("the checkpoint cannot be written: File name too long", tmp_path / ("x" * 300), **how)
    refused("the checkpoint cannot be written: embedded null", tmp_path / "a\0b", **how)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("content", [b"", b"precious", None], ids=["empty", "text", "an archive"])
def test_what_is_no_checkpoint_stays(tmp_path, content):
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.ones(3)) if content is None else path.write_bytes(content)
    message = "mine.npz is in the way: it is no checkpoint of tune; give another --checkpoint"
    refused(message, path)
    refused(message, path, force=True)
    before = path.read_bytes()
    CheckpointFile(path, force=True).remove()
    assert path.read_bytes() == before


def test_a_run_that_was_ended_is_asked_about(tmp_path):
    path = saved(tmp_path)
    refused(f"run.checkpoint {ENDED}", path)
    CheckpointFile(path, force=True).check(NOTHING)
    CheckpointFile(path, resume=True).check(NOTHING)
    refused("there is no checkpoint to resume; leave out --resume to begin", tmp_path / "none", resume=True)
    CheckpointFile(tmp_path / "none").check(NOTHING)


def test_it_goes_in_the_end(tmp_path):
    file = CheckpointFile(saved(tmp_path))
    file.remove()
    file.remove()  # nothing is there
    assert list(tmp_path.iterdir()) == []
    own = [tmp_path / name for name in (".run.checkpoint-notes", ".run.checkpoint", "run.checkpoint-abcdefgh")]
    for path in (*own, tmp_path / ".run.checkpoint-ab_01xyz"):  # the last as a kill while it is written leaves it
        path.write_bytes(b"")
    file.remove()
    assert sorted(tmp_path.iterdir()) == sorted(own)
    file.path.mkdir()  # by somebody else, meanwhile
    file.remove()
    assert file.path.is_dir()
