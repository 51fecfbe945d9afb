"""The pass for Olive, against a stand-in whose interface tools/integrations/check.py holds against the real one."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import onnx
import pytest

from onnxprune.errors import InputError
from tests.support.paths import MODELS


class Pass:
    """What a pass is made from."""


class PassConfigParam(SimpleNamespace):
    """An option."""


class ONNXModelHandler:
    """A model."""

    def __init__(self, model_path=None, onnx_file_name=None):
        self.folder, self.onnx_file_name = model_path, onnx_file_name

    @property
    def model_path(self):
        return f"{self.folder}/{self.onnx_file_name}" if self.onnx_file_name else self.folder


@pytest.fixture
def door(monkeypatch, tmp_path):
    """The module, imported beside a package `olive` that has what it needs."""
    (tmp_path / "passes.json").write_text('{"passes": {"OnnxQuantization": {"module_path": "olive.passes.onnx.q"}}}')
    known = {
        "olive": {},
        "olive.common": {},
        "olive.common.config_utils": {"ParamCategory": SimpleNamespace(PATH="path")},
        "olive.model": {"ONNXModelHandler": ONNXModelHandler},
        "olive.model.utils": {
            "resolve_onnx_path": lambda path, name: path if path.endswith(".onnx") else f"{path}/{name}"
        },
        "olive.package_config": {
            "OlivePackageConfig": SimpleNamespace(get_default_config_path=lambda: str(tmp_path / "passes.json"))
        },
        "olive.passes": {"Pass": Pass},
        "olive.passes.pass_config": {"PassConfigParam": PassConfigParam},
    }
    for name, members in known.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "onnxprune.integrations.olive", raising=False)
    yield importlib.import_module("onnxprune.integrations.olive")
    sys.modules.pop("onnxprune.integrations.olive", None)


def run(door, tmp_path, **config):
    defaults = {name: each.default_value for name, each in door.OnnxPrune._default_config(None).items()}
    model = ONNXModelHandler(str(MODELS / "resnet_bn.onnx"))
    return door.OnnxPrune()._run_for_config(model, {**defaults, **config}, str(tmp_path / "cache" / "model"))


def test_a_model_comes_back_with_its_report_beside_it(door, tmp_path):
    options = {"latency": False, "criterion": "l2"}
    result = run(door, tmp_path, ratio=0.5, options=options)
    assert result.onnx_file_name == "model.onnx"
    onnx.checker.check_model(result.model_path)
    report = json.loads((tmp_path / "cache" / "model" / "onnxprune.json").read_text())
    assert report["options"]["ratio"] == 0.5
    assert report["output"]["macs"] < report["input"]["macs"]


def test_options_as_a_model_of_pydantic(door, tmp_path):
    values = {"ratio": None, "targets": {"macs": 0.6}, "data": None, "eval_data": None, "options": {"latency": False}}
    model = ONNXModelHandler(str(MODELS / "resnet_bn.onnx"))
    config = SimpleNamespace(model_dump=lambda: values)
    result = door.OnnxPrune()._run_for_config(model, config, str(tmp_path / "out.onnx"))
    assert result.model_path == str(tmp_path / "out.onnx")
    report = json.loads((tmp_path / "onnxprune.json").read_text())
    assert report["output"]["macs"] <= 0.6 * report["input"]["macs"]


def test_what_cannot_be_used_ends_the_pass(door, tmp_path):
    with pytest.raises(InputError, match="rato"):
        run(door, tmp_path, options={"rato": 0.3})
    assert not list(tmp_path.rglob("*.onnx"))


def test_the_list_of_passes_has_it_beside_the_others(door, tmp_path):
    path = door.package_config(tmp_path / "packages.json")
    passes = json.loads(Path(path).read_text())["passes"]
    assert passes["OnnxQuantization"] == {"module_path": "olive.passes.onnx.q"}
    assert passes["OnnxPrune"]["module_path"] == "onnxprune.integrations.olive.OnnxPrune"
