"""Keras models, converted by tf2onnx in the environment whose Python ZOO_TENSORFLOW names."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import onnx

from tools.models.zoo.specimen import Recipe

SCRIPT = Path(__file__).with_name("tensorflow_export.py")
NAMES = re.findall(r'^    "(\w+)": ', SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)


def convert(name: str) -> onnx.ModelProto:
    """Return one model, converted in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        settings = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [os.environ["ZOO_TENSORFLOW"], str(SCRIPT), name, str(path)]
        result = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(result.stderr.strip().splitlines()[-1])
        return onnx.load(path)


RECIPES = {f"keras_{name}": Recipe(lambda name=name: convert(name), ("tf2onnx",)) for name in NAMES}
