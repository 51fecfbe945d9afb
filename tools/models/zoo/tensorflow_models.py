"""Keras models, converted by tf2onnx in the environment whose Python ZOO_TENSORFLOW names."""

from __future__ import annotations

import re
from pathlib import Path

import onnx

from tools.models.zoo.elsewhere import exported
from tools.models.zoo.specimen import Recipe

SCRIPT = Path(__file__).with_name("tensorflow_export.py")
NAMES = re.findall(r'^    "(\w+)": ', SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)


def convert(name: str) -> onnx.ModelProto:
    """Return one model."""
    settings = {"TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return exported(SCRIPT, "ZOO_TENSORFLOW", name, **settings)


RECIPES = {f"keras_{name}": Recipe(lambda name=name: convert(name), ("tf2onnx",)) for name in NAMES}
