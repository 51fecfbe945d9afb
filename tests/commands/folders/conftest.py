"""Folders of models as the tests of this room write them."""

from __future__ import annotations

import json

import onnx
import pytest


@pytest.fixture
def write_folder(tmp_path):
    """Return a function that writes a folder of models with its settings, and returns its path."""

    def write(settings, **models):
        made = tmp_path / "model"
        made.mkdir()
        (made / "config.json").write_text(json.dumps(settings))
        for name, proto in models.items():
            onnx.save(proto, made / f"{name}.onnx")
        return made

    return write
