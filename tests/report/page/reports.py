"""Reports for pages: real ones of small runs, and made ones that are large or hostile."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from onnxprune.commands.prune import prune_file
from onnxprune.commands.records.report_files import PageFile
from onnxprune.planning.options import make_options
from onnxprune.progress import silent
from tests.support.paths import MODELS

COMMAND = "onnxprune model.onnx --ratio 0.3 -o small.onnx --report small.html"


@cache
def _cut_text(name: str) -> str:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxprune.commands.steps.finish._LATENCY_BUDGET_S", 0.05)
        patch.setattr("onnxprune.evaluation.layers._PROFILE_S", 0.05)
        out, place = Path(folder) / "small.onnx", Path(folder) / "small.json"
        options = make_options(ratio=0.3, samples=32, effort="quick", metric="classification")
        page = PageFile(Path(folder) / "small.html", COMMAND)
        data = str(MODELS / "mnist_calibration.npz")
        prune_file(
            MODELS / f"{name}.onnx", out, options, data, report_path=place, page=page, force=False, progress=silent
        )
        return place.read_text(encoding="utf-8")


def cut(name="vit"):
    """Return the report of a cut of a bundled model, with details."""
    return json.loads(_cut_text(name))


def plain():
    """Return the report of a cut as it is without a page, data and time."""
    report = cut()
    return report | {"details": None, "latency": [], "fidelity": None, "accuracy": None, "curves": {}, "effort": None}


def large(groups=600, layers=3):
    """Return the report of a network of 5,000 nodes: so many groups of so many layers."""
    report = cut("resnet_bn")
    group, curve, fit = report["groups"][1], next(iter(report["curves"].values())), report["reconstruction"][0]
    layer, node = report["details"]["layers"][0], report["nodes"][0]
    names = [f"/network/stage.{i // 100}/block.{i // 10 % 10}/part.{i % 10}/convolution" for i in range(groups)]
    nodes = {name: [f"{name}/layer_{j}/Conv" for j in range(layers)] for name in names}
    every = [each for listed in nodes.values() for each in listed]
    report["groups"] = [{**group, "name": name, "nodes": nodes[name]} for name in names]
    report["curves"] = dict.fromkeys(names, curve)
    report["nodes"] = [{**node, "node": each} for each in every]
    report["reconstruction"] = [{**fit, "node": each} for each in every]
    report["details"]["layers"] = [{**layer, "node": each} for each in every]
    return report


def large_comparison(layers=5000):
    """Return the report of a comparison of two models of so many layers."""
    details = cut("resnet_bn")["details"]
    layer = details["layers"][0]
    names = [f"/network/stage.{i // 500}/block.{i // 50 % 10}/part.{i % 50}/convolution/Conv" for i in range(layers)]
    details["layers"] = [{**layer, "node": name, "macs": [at, at // 2]} for at, name in enumerate(names, 1)]
    side = {"path": "m.onnx", "sha256": "0" * 64, "params": 9, "macs": 9, "size_bytes": 9, "median_ms": 2.0}
    side |= {"p95_ms": 2.0, "creation_ms": 2.0, "peak_memory_bytes": None, "accuracy": None, "warnings": []}
    apart = {"max_abs_diff": 0.0, "max_rel_diff": None, "snr_db": None, "agreement": None, "incomparable": []}
    each = {"before": side, "after": side, "batch": 1, "provider": "cpu", "threads": 1, "feeds": "random", "samples": 4}
    each |= {"speedup": 2.0, "speedup_interval": [1.9, 2.1], "within_noise": False, "fidelity": None, "sweep": []}
    return {"onnxprune": "0.1.0", "comparisons": [{**each, "difference": apart, "missed": []}], "details": details}


HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;\u202e\x00{{ 7 * 7 }}"


def hostile():
    """Return a report all of whose names are an attack."""

    def spoilt(value, key=""):
        if isinstance(value, dict):
            return {name: spoilt(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [spoilt(each, key) for each in value]
        names = ("node", "nodes", "name", "op", "path", "kind", "reason", "at", "locked", "command", "values", "cpu")
        if key == "image":
            return f"http://evil.example/{HOSTILE}" if value else value
        return f"{value}{HOSTILE}" if isinstance(value, str) and key in names else value

    report = cut()
    report["groups"], report["nodes"] = spoilt(report["groups"]), spoilt(report["nodes"])
    report["curves"] = {f"{name}{HOSTILE}": curve for name, curve in report["curves"].items()}
    report["reconstruction"] = spoilt(report["reconstruction"])
    report["input"], report["output"] = spoilt(report["input"]), spoilt(report["output"])
    report["details"] = spoilt(report["details"])
    report["options"]["ignore"] = [HOSTILE]
    return copy.deepcopy(report)
