"""ONNX files: exported, checked and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

OPSET = 17
TOLERANCE = 2e-3  # between the exporter's framework and ONNX Runtime, relative to the largest output


def export(
    network: Any, sample: dict[str, Any], output: str, path: Path, dynamic: tuple[str, ...], *, keep_norms: bool = False
) -> None:
    """Export a network with dynamic leading dims and check the file against it in ONNX Runtime.

    Raises:
        SystemExit: when both do not agree.
    """
    import torch

    axes = {name: dict(enumerate(dynamic)) for name in sample}
    mode = torch.onnx.TrainingMode
    with torch.no_grad():
        expected = network(*sample.values())
        torch.onnx.export(
            network,
            tuple(sample.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(sample),
            output_names=[output],
            dynamic_axes={**axes, output: dict(enumerate(dynamic[: expected.ndim - 1]))},
            training=mode.PRESERVE if keep_norms else mode.EVAL,
        )
    actual = run(path, {name: tensor.numpy() for name, tensor in sample.items()})
    worst = float(np.abs(actual - expected.numpy()).max() / expected.abs().max())
    print(f"{path.name}: {path.stat().st_size:,} bytes, worst relative difference {worst:.1e}")
    if worst > TOLERANCE:
        raise SystemExit(f"{path}: the exported file computes something else")


_sessions: dict[Path, Any] = {}


def run(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Return the only output of an ONNX file."""
    import onnxruntime

    if path not in _sessions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        _sessions[path] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _sessions[path].run(None, feeds)[0]
