"""The bundled networks of handwritten digits, beside more digits to tune them on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tools.models.digits.data import CALIBRATION_FILE, TEST_FILE, load_digits, split_digits

MODELS = Path(__file__).resolve().parents[3] / "models"
NETWORKS = "resnet_bn.onnx", "resnet_folded.onnx"
TUNING_FILE = "mnist_tuning.npz"


def make_digits(out: Path, package: Path) -> None:
    """Write the digits that the networks were trained on, without labels: `package` is that of npm; copy the rest."""
    training, held_out = split_digits(load_digits(package))
    with np.load(MODELS / TEST_FILE) as bundled:
        if not np.array_equal(bundled["image"], held_out.images.numpy()):
            raise SystemExit(f"{package}: other digits than those of {TEST_FILE}; 1.1.0 is the version that was used")
    np.savez_compressed(out / TUNING_FILE, image=training.images.numpy())
    for name in (*NETWORKS, TEST_FILE, CALIBRATION_FILE):
        shutil.copy(MODELS / name, out / name)
    print(f"{len(training)} digits to tune on, {len(held_out)} others to evaluate on")
