"""A folder that looks like the clone, in which the commands and programs of the pages run."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.paths import ROOT


@pytest.fixture
def in_clone(tmp_path, monkeypatch):
    """A folder with the bundled models, in which commands may write."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def in_small_clone(tmp_path, monkeypatch):
    """The same with few samples, of which few are taken, and short races: that the commands work is tested, not what
    comes of it.
    """
    monkeypatch.setattr("onnxprune.planning.options.SAMPLES", 32)
    monkeypatch.setattr("onnxprune.planning.profile.ROUNDS", 50)
    (tmp_path / "models").mkdir()
    for path in (ROOT / "models").iterdir():
        if path.suffix == ".npz":
            np.savez(tmp_path / "models" / path.name, **{n: array[:200] for n, array in np.load(path).items()})
        else:
            (tmp_path / "models" / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
