"""The hook for `yolo export`: the file that was exported is pruned in its place."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import onnx
import pytest

from onnxprune.errors import OptionError
from onnxprune.integrations.ultralytics import pruned
from tests.support.paths import MODELS


def exporter(folder, form="onnx"):
    """Return what Ultralytics gives its callbacks: `file` is that of the weights, beside which it exports."""
    shutil.copy(MODELS / "resnet_bn.onnx", folder / "yolo11n.onnx")
    return SimpleNamespace(file=folder / "yolo11n.pt", args=SimpleNamespace(format=form))


def test_the_exported_file_is_pruned_in_its_place(tmp_path):
    before = onnx.load(MODELS / "resnet_bn.onnx")
    pruned(ratio=0.5, criterion="l2", latency=False)(exporter(tmp_path))
    after = onnx.load(tmp_path / "yolo11n.onnx")
    assert after.ByteSize() < before.ByteSize()
    assert list(after.metadata_props) == list(before.metadata_props)
    report = json.loads((tmp_path / "yolo11n.onnxprune.json").read_text())
    assert report["verification"]["passed"]


def test_the_report_goes_where_it_is_wanted(tmp_path):
    pruned(ratio=0.5, criterion="l2", latency=False, report=tmp_path / "r.json")(exporter(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "yolo11n.onnx"]


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(OptionError, match="only ONNX files are pruned: export with format='onnx', not 'engine'"):
        pruned(ratio=0.5)(exporter(tmp_path, "engine"))


def test_options_are_checked_before_the_export():
    with pytest.raises(OptionError, match="ratio"):
        pruned(ratio=2)
