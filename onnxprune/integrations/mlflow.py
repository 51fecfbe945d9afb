"""Runs in MLflow (https://mlflow.org): options as parameters, figures as metrics, report and model as artifacts.

So it is used::

import mlflow, onnxprune
from onnxprune.integrations.mlflow import log_figures, log_report
with mlflow.start_run():
    result = onnxprune.prune("model.onnx", 0.3, data="samples.npz")
    log_report(result.report, result.save("small.onnx"))
    onnxprune.tune("small.onnx", data="samples.npz", steps=200, callbacks=[log_figures])
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_LONGEST = 500  # characters of the value of a parameter
_ARTIFACT = "onnxprune.json"


def log_report(report: Mapping[str, Any], model: str | os.PathLike[str] | None = None) -> None:
    """Log a report of `onnxprune.prune` to the run that is active, and the model file where one is given.

    Args:
        report: see docs/report.md.
        model: path of the pruned model.
    """
    import mlflow  # noqa: PLC0415 - onnxprune does not need it

    given = {name: value for name, value in report["options"].items() if value not in (None, (), [], {})}
    mlflow.log_params({name: str(value)[:_LONGEST] for name, value in given.items()})
    mlflow.log_metrics(figures_of(report))
    mlflow.log_dict(dict(report), _ARTIFACT)
    if model is not None:
        mlflow.log_artifact(os.fspath(model))


def log_figures(step: int, figures: Mapping[str, float]) -> None:
    """Log what tuning measures at a step: a callback of `onnxprune.tune`."""
    import mlflow  # noqa: PLC0415

    mlflow.log_metrics({name.replace(" ", "_"): float(value) for name, value in figures.items()}, step=step)


def figures_of(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a report by names that MLflow takes.

    >>> sides = {"params": 100, "macs": 200, "size_bytes": 300}
    >>> part = {"input": sides, "output": {"params": 50, "macs": 100, "size_bytes": 150}}
    >>> figures_of({**part, "latency": [], "accuracy": None, "fidelity": None})
    {'params_ratio': 0.5, 'macs_ratio': 0.5, 'size_bytes_ratio': 0.5}
    """
    before, after = report["input"], report["output"]
    figures = {f"{name}_ratio": after[name] / max(1, before[name]) for name in ("params", "macs", "size_bytes")}
    for each in report["latency"]:
        place = f"{each['provider']}_{each['threads']}"
        figures |= {f"latency_ms_{place}": each["after_ms"], f"speedup_{place}": each["speedup"]}
    if report["accuracy"] is not None:
        figures |= {f"accuracy_{side}": report["accuracy"][side] for side in ("before", "after")}
    told = (report["fidelity"] or {}).get("figures") or {}
    return figures | {
        f"fidelity_{name}": float(value) for name, value in told.items() if isinstance(value, int | float)
    }
