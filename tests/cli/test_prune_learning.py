"""``onnxprune prune`` with --tune, --rounds, --shape, --masks and --resume: what is printed, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cli import invoke
from tests.training.pairs import classifier, pictures

RUN = ("prune", "model.onnx", "-o", "out.onnx")
LEARNING = (*RUN, "--data", "samples.npz")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder with a model and samples."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(classifier().SerializeToString())
    np.savez(tmp_path / "samples.npz", x=pictures())
    return tmp_path


def test_rounds_print_a_table(folder):
    result = invoke(*RUN, "--shape", "w1=4,w2=9", "--rounds", "2", "--criterion", "l2", "--no-latency")
    assert "each of 2 cuts against its own input" in " ".join(result.stdout.split())
    assert "round 2 of 2: verifying: masked = pruned ..." in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "out.onnx", "samples.npz"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((*RUN, "--rounds", "0"), "--rounds must be at least 1, got 0"),
        ((*RUN, "--masks", "20m"), "--masks needs data: give samples with --data"),
        (
            (*RUN, "--shape", "heads=8"),
            "--shape heads=8: this model has no heads and no group of this name",
        ),
        ((*RUN, "--resume"), "out.onnx.checkpoint: there is no checkpoint to resume; leave out --resume to begin"),
        (
            (*LEARNING, "--masks", "9 steps"),
            "--masks needs a budget: give a target of macs, params or size",
        ),
        ((*LEARNING, "--tune", "9 steps", "--resume"), "out.onnx.checkpoint: there is no checkpoint to resume"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_bad_input(folder, args, message):
    result = invoke(*args, code=2)
    assert message in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "samples.npz"]
