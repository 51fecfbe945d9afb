"""The bundled models are what models/README.md says, and lose what the ratio says."""

from __future__ import annotations

import hashlib
from itertools import cycle, product

import pytest

import onnxprune
from onnxprune.criteria.importance import CRITERIA
from onnxprune.data.samples import load_data
from onnxprune.evaluation.outputs import accuracy
from onnxprune.graph.files.read import load
from onnxprune.runtime.session import open_session
from tests.support.paths import MODELS

NAMES = ("resnet_bn", "resnet_folded", "cnn", "vit", "mobilenet")

# At most this share of the MACs is left, by model and ratio.
MOST_MACS = {
    ("resnet_bn", 0.3): 0.52,
    ("resnet_folded", 0.3): 0.52,
    ("cnn", 0.3): 0.56,
    ("vit", 0.3): 0.72,
    ("mobilenet", 0.3): 0.56,
    ("resnet_bn", 0.5): 0.28,
    ("resnet_folded", 0.5): 0.28,
    ("cnn", 0.5): 0.30,
    ("vit", 0.5): 0.53,
    ("mobilenet", 0.5): 0.36,
}


def rows():
    """Return the cells of the README's table, by file name."""
    lines = (MODELS / "README.md").read_text(encoding="utf-8").splitlines()
    cells = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if ".onnx` |" in line)
    return {row[0]: row for row in cells}


@pytest.mark.parametrize("name", NAMES)
def test_the_table_tells_the_truth(name):
    path = MODELS / f"{name}.onnx"
    row = rows()[path.name]
    data = load_data(MODELS / "mnist_test.npz", load(path).inputs)
    assert row[-1] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert int(row[-2].replace(",", "")) == path.stat().st_size
    assert int(row[-4].replace(",", "")) == onnxprune.inspect(path).macs
    measured = accuracy(open_session(path), data, 500)
    assert measured == pytest.approx(float(row[-3].rstrip("%")) / 100, abs=0.001)  # other kernels round otherwise
    assert measured >= (0.97 if name == "vit" else 0.985)


@pytest.mark.parametrize(("name", "ratio"), MOST_MACS, ids=str)
def test_parameters_and_macs_fall_as_the_ratio_says(name, ratio):
    report = onnxprune.prune(MODELS / f"{name}.onnx", ratio=ratio, latency=False).report
    assert report["verification"]["max_rel_diff"] <= 1e-4
    assert report["output"]["macs"] <= MOST_MACS[name, ratio] * report["input"]["macs"]
    assert report["output"]["params"] <= (1 - 0.9 * ratio) * report["input"]["params"]


def test_test_and_calibration_data_are_disjoint():
    inputs = load(MODELS / "cnn.onnx").inputs
    test, calibration = (load_data(MODELS / f"mnist_{part}.npz", inputs) for part in ("test", "calibration"))
    seen = {image.tobytes() for image in calibration.columns["image"]}
    assert not any(image.tobytes() in seen for image in test.columns["image"])
    assert (test.count, calibration.count, calibration.labels) == (2000, 512, None)


WITH_BATCH_NORM = ("resnet_bn",)
SCOPES = cycle(("group", "global", "loss"))  # taken in turn: each criterion meets each scope on some model
COMBINATIONS = [(name, criterion, next(SCOPES)) for name, criterion in product(NAMES, CRITERIA)]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "criterion", "scope"), [each for each in COMBINATIONS if each[1] != "bn" or each[0] in WITH_BATCH_NORM]
)
def test_every_criterion_is_proven(name, criterion, scope):
    options = {"criterion": criterion, "scope": scope, "latency": False, "data": MODELS / "mnist_calibration.npz"}
    report = onnxprune.prune(MODELS / f"{name}.onnx", 0.3, samples=48, **options).report
    assert report["verification"]["passed"]
    assert report["output"]["params"] < report["input"]["params"]
