"""Export to ONNX, and what is checked and measured of a file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from tools.models.digits import networks
from tools.models.digits.data import IMAGE_SHAPE
from tools.models.digits.recipes import Exporter

OPSET = 18
LOGIT_TOLERANCE = 1e-4


def export(model: nn.Module, exporter: Exporter, path: Path) -> None:
    """Write ``model`` to ``path`` as one ONNX file with a dynamic batch."""
    if exporter == "TorchScript":
        export_torchscript(model, path)
    else:
        export_dynamo(model, path)
    proto = onnx.load(path)
    restore_weight_names(proto.graph, model)
    strip_stack_traces(proto)
    onnx.save(proto, path)


def export_torchscript(model: nn.Module, path: Path) -> None:
    """Export with the older exporter, which traces the model."""
    torch.onnx.export(
        model,
        (torch.zeros(2, *IMAGE_SHAPE),),
        path,
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        # In mode EVAL the exporter would fold every batch norm that it can.
        # The model is in evaluation mode itself, so PRESERVE exports just that.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )


def export_dynamo(model: nn.Module, path: Path) -> None:
    """Export with the newer exporter, which goes through ``torch.export``."""
    torch.onnx.export(
        model,
        (torch.zeros(2, *IMAGE_SHAPE),),
        path,
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        verbose=False,
    )


def restore_weight_names(graph: onnx.GraphProto, model: nn.Module) -> None:
    """Name each matrix that an exporter transposed after its parameter again."""
    known = model.state_dict()
    by_content = {value.T.contiguous().numpy().tobytes(): name for name, value in known.items() if value.ndim == 2}
    renamed = {}
    for tensor in graph.initializer:
        original = by_content.get(numpy_helper.to_array(tensor).tobytes())
        if original is not None and tensor.name not in known:
            renamed[tensor.name] = original
            tensor.name = original
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    for info in graph.value_info:
        info.name = renamed.get(info.name, info.name)


def strip_stack_traces(proto: onnx.ModelProto) -> None:
    """Remove what quotes these scripts and names folders of this machine, or where the networks stand in the tree."""
    for node in proto.graph.node:
        kept = [entry for entry in node.metadata_props if "stack_trace" not in entry.key]
        for entry in kept:
            entry.value = entry.value.replace(f"{networks.__name__}.", "__main__.")  # as the files have it
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    if re.search(rb'File "|\.py\b', proto.SerializeToString()):
        raise ValueError("the exported model still mentions source files")


# --- Checks and measurements -------------------------------------------------


def check(path: Path, model: nn.Module, images: Tensor) -> None:
    """Raise unless the file is valid ONNX and computes what ``model`` does."""
    onnx.checker.check_model(str(path), full_check=True)
    for count in (1, 5):
        batch = images[:count]
        with torch.no_grad():
            expected = model(batch).numpy()
        actual = run(path, batch.numpy())
        worst = float(np.abs(actual - expected).max())
        print(f"{path.name}: batch {count}, largest logit error {worst:.1e}")
        if actual.shape != expected.shape or not worst <= LOGIT_TOLERANCE:
            raise ValueError(f"{path.name} does not compute what torch does")


def run(path: Path, images: np.ndarray) -> np.ndarray:
    """Return the logits that ONNX Runtime computes for ``images``."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": images})[0])


def accuracy(path: Path, test_file: Path) -> float:
    """Return the share of the test digits that the network reads right."""
    with np.load(test_file) as data:
        predicted = run(path, data["image"]).argmax(axis=1)
        return float((predicted == data["labels"]).mean())
