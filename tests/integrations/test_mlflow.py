"""What MLflow gets of a report and of tuning, against a stand-in for its functions."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

import onnxprune
from onnxprune.integrations.mlflow import log_figures, log_report
from tests.support.paths import MODELS


@pytest.fixture
def logged(monkeypatch):
    """All calls of the functions of MLflow, by name."""
    calls = {name: [] for name in ("log_params", "log_metrics", "log_dict", "log_artifact")}
    module = ModuleType("mlflow")
    for name, each in calls.items():
        setattr(module, name, lambda *args, each=each, **named: each.append((args, named)))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return calls


def test_a_report_is_logged(logged, tmp_path):
    data = str(MODELS / "mnist_test.npz")
    result = onnxprune.prune(MODELS / "resnet_bn.onnx", 0.3, data=data, samples=32, criterion="l2", latency=False)
    log_report(result.report, result.save(tmp_path / "small.onnx"))
    ((parameters,), _) = logged["log_params"][0]
    assert parameters["ratio"] == "0.3"
    assert all(isinstance(value, str) and len(value) <= 500 for value in parameters.values())
    ((metrics,), _) = logged["log_metrics"][0]
    assert 0 < metrics["macs_ratio"] < 1
    assert metrics["accuracy_after"] == result.report["accuracy"]["after"]
    assert "fidelity_agreement" in metrics
    assert all(isinstance(value, float) for value in metrics.values())
    ((report, name), _) = logged["log_dict"][0]
    assert (report["verification"]["passed"], name) == (True, "onnxprune.json")
    assert logged["log_artifact"][0][0] == (str(tmp_path / "small.onnx"),)


def test_no_model_is_logged_where_none_is_given(logged):
    log_report(onnxprune.prune(MODELS / "resnet_bn.onnx", 0.3, criterion="l2", latency=False).report)
    assert not logged["log_artifact"]


def test_latencies_have_names_by_place(logged):
    report = onnxprune.prune(MODELS / "resnet_bn.onnx", 0.3, criterion="l2", latency=False).report
    report["latency"] = [{"provider": "cpu", "threads": 1, "after_ms": 2.0, "speedup": 1.5}]
    log_report(report)
    ((metrics,), _) = logged["log_metrics"][0]
    assert (metrics["latency_ms_cpu_1"], metrics["speedup_cpu_1"]) == (2.0, 1.5)


def test_tuning_is_logged_by_step(logged):
    log_figures(7, {"held out": 0.25, "rate": 1e-3})
    assert logged["log_metrics"] == [(({"held_out": 0.25, "rate": 1e-3},), {"step": 7})]
