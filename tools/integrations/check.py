"""Run each door to another package with the real package, and hold what the tests stand in for against it.

    python tools/integrations/check.py olive|ultralytics|mlflow|faster-coco-eval --out FOLDER

Each needs an environment of its own, with onnxprune and

    olive        olive-ai==0.13.0 onnxruntime
    ultralytics  ultralytics==8.4.190 torchvision onnxruntime
    mlflow       mlflow-skinny==3.17.2 sqlalchemy alembic
    faster-coco-eval   faster-coco-eval==1.8.0

and prints one line of JSON: versions, what was run, what came out. It fails where the package has other interfaces
than tests/integrations/interfaces.json records, or what came out is not what it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

INTERFACES = ROOT / "tests" / "integrations" / "interfaces.json"
MODELS = ROOT / "models"
DISTRIBUTIONS = {
    "olive": "olive-ai",
    "ultralytics": "ultralytics",
    "mlflow": "mlflow-skinny",
    "faster-coco-eval": "faster-coco-eval",
}


def signature(path: str) -> str:
    """Return the names of the parameters of what a dotted path leads to."""
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for name in parts[count:]:
            found = getattr(found, name)
        fields = getattr(found, "model_fields", None)
        return f"({', '.join(fields or inspect.signature(found).parameters)})"
    raise SystemExit(f"{path}: there is no such thing")


def check_interfaces(name: str) -> list[str]:
    """Return what is otherwise than it is recorded."""
    recorded = json.loads(INTERFACES.read_text(encoding="utf-8"))[name]["signatures"]
    found = {path: signature(path) for path in recorded}
    return [
        f"{path} is {found[path]}, recorded as {recorded[path]}" for path in recorded if found[path] != recorded[path]
    ]


def olive(out: Path) -> dict[str, Any]:
    """Run a workflow of two passes, twice: the second run takes what is cached."""
    import olive.workflows

    from onnxprune.integrations.olive import package_config

    workflow = {
        "input_model": {"type": "OnnxModel", "model_path": str(MODELS / "resnet_folded.onnx")},
        "passes": {
            "prune": {
                "type": "OnnxPrune", "ratio": 0.3, "data": str(MODELS / "mnist_calibration.npz"),
                "options": {"latency": False, "samples": 64},
            },
            "half": {"type": "OnnxFloatToFloat16"},
        },
        "output_dir": str(out / "olive"), "cache_dir": str(out / "cache"),
    }  # fmt: skip
    packages = package_config(out / "packages.json")
    results = [olive.workflows.run(workflow, package_config=packages) for _ in range(2)]
    models = sorted(str(path.relative_to(out)) for path in (out / "olive").rglob("*.onnx"))
    reports = sorted((out / "cache").rglob("onnxprune.json"))
    report = json.loads(reports[0].read_text())
    assert models, "Olive wrote no model"
    assert len(reports) == 1, f"the pass ran {len(reports)} times, it should have been cached"
    return {
        "models": models,
        "macs": report["output"]["macs"] / report["input"]["macs"],
        "proven": report["verification"]["passed"],
        "has output": [result.has_output_model() for result in results],
    }


def ultralytics(out: Path) -> dict[str, Any]:
    """Export a detector of random weights with the hook, and predict with what was pruned."""
    import torch

    if not torch._C._dispatch_has_kernel("torchvision::nms"):  # a torchvision without its compiled operators
        for op in ("nms", "qnms"):
            torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from ultralytics import YOLO

    from onnxprune.integrations.ultralytics import pruned

    rng = np.random.default_rng(0)
    model = YOLO("yolov8n.yaml")
    samples = {"images": rng.random((24, 3, 160, 160), np.float32)}
    model.add_callback("on_export_end", pruned(ratio=0.3, data=samples, latency=False, report=out / "report.json"))
    with contextlib.chdir(out):
        path = str(Path(model.export(format="onnx", imgsz=160, simplify=False)).resolve())
    report = json.loads((out / "report.json").read_text())
    (result,) = YOLO(path, task="detect").predict(
        (rng.random((160, 160, 3)) * 255).astype(np.uint8), imgsz=160, verbose=False
    )
    return {
        "file": Path(path).name,
        "macs": report["output"]["macs"] / report["input"]["macs"],
        "proven": report["verification"]["passed"],
        "classes kept": len(result.names),
        "boxes": len(result.boxes),
    }


def mlflow(out: Path) -> dict[str, Any]:
    """Log a run to a folder, and read it back."""
    import mlflow

    import onnxprune
    from onnxprune.integrations.mlflow import log_figures, log_report

    mlflow.set_tracking_uri(f"sqlite:///{out / 'runs.db'}")
    with mlflow.start_run() as run:
        result = onnxprune.prune(MODELS / "resnet_bn.onnx", 0.3, latency=False)
        log_report(result.report, result.save(out / "small.onnx", force=True))
        log_figures(1, {"held out": 0.5})
    read = mlflow.get_run(run.info.run_id).data
    return {"metrics": dict(read.metrics), "parameters": len(read.params)}


def faster_coco_eval(out: Path) -> dict[str, Any]:
    """Count the precision of results whose figures are known: all boxes found, and one of two."""
    from tools.measure.coco_map import mean_precision

    boxes = [[10.0, 10.0, 40.0, 40.0], [60.0, 60.0, 30.0, 30.0]]
    labels = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "one"}],
        "annotations": [
            {"id": at, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for at, box in enumerate(boxes, 1)
        ],
    }
    (out / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    whole, half, none = (mean_precision(labels, results[:count]) for count in (2, 1, 0))
    assert set(whole.values()) == {1.0}, whole
    assert abs(half["recall"] - 0.5) < 1e-9, half
    assert abs(half["mAP 50"] - 51 / 101) < 1e-9, half  # of 101 recalls from 0 to 1
    assert none["mAP 50-95"] == 0, none
    return {"all found": whole, "half found": half}


def main() -> int:
    """Check one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(DISTRIBUTIONS))
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    wrong = check_interfaces(arguments.name)
    doors = (olive, ultralytics, mlflow, faster_coco_eval)
    came_out = dict(zip(DISTRIBUTIONS, doors, strict=True))[arguments.name](arguments.out.resolve())
    print(
        json.dumps(
            {"package": arguments.name, "version": version(DISTRIBUTIONS[arguments.name]), **came_out, "wrong": wrong}
        )
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
