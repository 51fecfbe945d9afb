"""SECURITY.md says what the code does: its limits, its variables, and that nothing from elsewhere is unpickled."""

from __future__ import annotations

import ast
import re

import pytest
import torch

from onnxprune.commands.beside import text_files
from onnxprune.commands.folder import prune_folder
from onnxprune.data import archive, fitting, folder, images
from onnxprune.errors import InputError
from onnxprune.graph.files import checks, limits
from onnxprune.graph.forms import expansion
from onnxprune.graph.shapes import work
from onnxprune.latency import times_file
from onnxprune.runtime import time_limit
from onnxprune.training.tuning import checkpoint
from tests.support.house import PACKAGE, modules
from tests.support.paths import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ROWS = {line.split("|")[1].strip(): line for line in PAGE.splitlines() if line.startswith("| ")}
MIB, GIB = 2**20, 2**30


@pytest.mark.parametrize(
    ("row", "words", "value"),
    [
        ("bytes allocated for what a file states and does not hold", "| 1 GiB |", limits.DEFAULT == GIB),
        (
            "seconds of one run of a model",
            "| 900, with a Loop 30 |",
            (time_limit.RUN_S, time_limit.LOOP_S) == (900, 30),
        ),
        ("nodes that local functions are inlined to", "| 100,000, or ten times", expansion.MOST_NODES == 100_000),
        ("levels of branches and loops", "| 28 |", checks.DEEPEST == 28),
        ("steps to compute what follows from constants", "| 10¹⁰, and 64", work.most_steps(1) == 10**10 + 64),
        ("samples, text, labels, files of a folder", "| 10,000,000;", fitting.MOST_SAMPLES == 10_000_000),
        ("samples, text, labels, files of a folder", "; 64 MiB; 1,000,000 |", folder._LABEL_BYTES == 64 * MIB),
        ("samples, text, labels, files of a folder", "; 64 MiB; 1,000,000 |", folder._MOST_FILES == 1_000_000),
        (
            "signs and parts of the files of a tokenizer together, and of each file of settings; levels of their JSON",
            "| 67,108,864; 16,777,216; 64 |",
            (text_files._MOST_SIGNS, text_files._MOST_PARTS, text_files._LEVELS) == (67_108_864, 16_777_216, 64),
        ),
        ("cache of times, notes", "| read up to 64 MiB |", times_file._MOST_BYTES == 64 * MIB),
        (
            "samples (`.npz`, `.npy`, labels)",
            "1 GiB and 200 times",
            (archive._BOMB_BYTES, archive._BOMB_FACTOR) == (GIB, 200),
        ),
        ("images", "178,956,970 pixels", images._MOST_PIXELS == 178_956_970),
    ],
)
def test_a_limit_is_that_of_the_code(row, words, value):
    assert words in ROWS[row]
    assert value


def test_every_variable_that_loads_or_limits_is_named():
    texts = [(PACKAGE / name).read_text(encoding="utf-8") for name in modules()]
    known = {name for text in texts for name in re.findall(r"ONNXPRUNE_[A-Z_]+", text)}
    assert len(known) >= 5
    assert {name for name in known if name not in PAGE} <= {"ONNXPRUNE_CACHE"}  # "folders of caches"


def test_pickles_are_read_where_the_page_says_alone():
    """What this process wrote itself, in temporary folders and into a pipe, and what a cluster sends."""
    readers = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"pickle.load", "pickle.loads"}
    }
    assert readers == {"runtime/executors.py", "runtime/memory.py", "runtime/replay.py", "runtime/trial_process.py"}


class Bad:
    def __reduce__(self):
        return print, ("run",)


def test_a_checkpoint_runs_nothing(tmp_path, capsys):
    path = tmp_path / "c.pt"
    torch.save({"format": 1, "run": {}, "state": Bad()}, path)
    with pytest.raises(InputError, match="the checkpoint cannot be read"):
        checkpoint.load(path, {})
    assert capsys.readouterr().out == ""


def test_links_in_a_folder_are_followed_and_become_files(tmp_path):
    source, elsewhere = tmp_path / "folder", tmp_path / "secret.txt"
    source.mkdir()
    elsewhere.write_text("words")
    (source / "notes.txt").symlink_to(elsewhere)
    (source / ".hidden").write_text("words")
    (source / "model.onnx").symlink_to(ROOT / "models" / "resnet_folded.onnx")
    prune_folder(source, tmp_path / "out", criterion="l2", latency=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.onnx", "notes.txt"]
    copied = tmp_path / "out" / "notes.txt"
    assert not copied.is_symlink()
    assert copied.read_text() == "words"
