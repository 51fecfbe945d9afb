"""A network of PyTorch, cut as its file was cut and exported again: its weights are the pruned file's, bit for bit.

The network is exported without folding, the file pruned without refits, and the module and its state dict cut by
`onnxprune.torch.apply`. The smaller module, exported again by the same exporter, is held against the pruned file: all
numbers of its weights, and its outputs in ONNX Runtime.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RATIO = 0.3
LIMIT = 1e-6  # of the output's range: two exports of one network may differ in the order of sums


@dataclass(frozen=True)
class Network:
    """One of torchvision, and how it is pruned."""

    title: str
    exporters: tuple[str, ...] = ("torchscript",)
    options: Mapping[str, Any] = field(default_factory=dict)  # of `prune`


BOTH = ("torchscript", "dynamo")
NETWORKS: Mapping[str, Network] = {
    "resnet18": Network("ResNet-18", BOTH),
    "resnet50": Network("ResNet-50"),
    "mobilenet_v3_small": Network("MobileNetV3-Small"),
    "densenet121": Network("DenseNet-121"),
    "googlenet": Network("GoogLeNet"),
    "regnet_y_400mf": Network("RegNetY-400MF"),
    "swin_t": Network("Swin-T, feed-forward networks", options={"ignore": "*:heads"}),  # its code counts heads itself
    "convnext_tiny": Network("ConvNeXt-T"),
    "vit_b_16": Network("ViT-B/16", BOTH),
}


@dataclass(frozen=True)
class Outcome:
    """What came of a network."""

    cut: Mapping[str, tuple[int, int]]  # by kind of units, how many are left and how many there were, of all groups cut
    params: tuple[int, int]  # before and after
    weights: int  # arrays of floats of the pruned file, equal ones counted once
    lacking: int  # of these, that the file that was exported again has not
    more: int  # that this one has alone
    state_is_same: bool  # whether cutting the state dict gives the state of the smaller module
    apart: float  # largest difference of outputs, over the range of the pruned file's

    def faults(self) -> list[str]:
        """Return what is not as it should be, in sentences."""
        told = [f"{self.lacking} of {self.weights} weights of the pruned file are in no export"] * bool(self.lacking)
        told += [f"{self.more} weights of the export are not in the pruned file"] * bool(self.more)
        told += ["the state dict is cut in another way than the module"] * (not self.state_is_same)
        return told + [f"outputs differ by {self.apart:.1e} of their range"] * (not self.apart <= LIMIT)


def prove(network: Any, example: Any, exporter: str, folder: Path, **options: Any) -> Outcome:
    """Cut a module as its file is cut, and return how what is exported of it lies to the pruned file.

    Args:
        network: a torch.nn.Module in eval mode, of one input and one output.
        example: a batch of two of its inputs, a tensor.
        exporter: of tools/models/export_torchvision.py.
        folder: for the files.
        **options: of `onnxprune.prune`.
    """
    import onnxprune
    from tools.models.export_torchvision import EXPORTERS

    original, small, again = (folder / f"{name}.onnx" for name in ("original", "small", "again"))
    EXPORTERS[exporter](network, example, original, folds=False)
    result = onnxprune.prune(original, RATIO, criterion="l2", reconstruct=False, latency=False, **options)
    result.save(small, force=True)
    smaller = onnxprune.torch.apply(network, result, example=example)
    state = onnxprune.torch.apply(network.state_dict(), result.report, source=original)
    EXPORTERS[exporter](smaller, example, again, folds=False)
    own, theirs = weights(small), weights(again)
    return Outcome(
        lost(result.report),
        (result.report["input"]["params"], result.report["output"]["params"]),
        len(own), len(own - theirs), len(theirs - own),
        is_same(state, smaller.state_dict()),
        apart(small, again, example.numpy()),
    )  # fmt: skip


def lost(report: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return how many units are left and how many there were, by their kind, of the groups that lost some.

    >>> lost({"groups": [{"kind": "heads", "kept": 8, "units": 12}, {"kind": "heads", "kept": 9, "units": 12}]})
    {'heads': (17, 24)}
    """
    result: dict[str, tuple[int, int]] = {}
    for group in report["groups"]:
        if group["kept"] < group["units"]:
            kept, units = result.get(group["kind"], (0, 0))
            result[group["kind"]] = kept + group["kept"], units + group["units"]
    return result


def weights(path: Path) -> set[tuple[tuple[int, ...], str, str]]:
    """Return the shape, type and digest of each array of floats that a file stores; exporters store equal ones once."""
    import onnx
    from onnx import numpy_helper

    arrays = map(numpy_helper.to_array, onnx.load(path).graph.initializer)
    return {
        (array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest())
        for array in arrays
        if array.dtype.kind == "f"
    }


def is_same(state: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two states have the same tensors, bit for bit."""
    import torch

    return state.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in state.items())


def apart(path: Path, other: Path, batch: Any) -> float:
    """Return the largest difference of the outputs of two files in ONNX Runtime, over the range of the first's."""
    import numpy as np
    import onnxruntime

    outputs = []
    for each in (path, other):
        session = onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {session.get_inputs()[0].name: batch})[0])
    return float(np.abs(outputs[0] - outputs[1]).max() / np.ptp(outputs[0]))
