"""Export torchvision classifiers with random weights to ONNX, by both of PyTorch's exporters.

    python tools/models/export_torchvision.py OUT_DIR [NAME ...] [--exporter torchscript|dynamo|both] [--force]

writes OUT_DIR/NAME.torchscript.onnx (`dynamo=False`, opset 17) and OUT_DIR/NAME.dynamo.onnx (`dynamo=True`,
the exporter's own opset, 20). Every file has one input "image" [batch, 3, size, size], one output "logits"
[batch, 1000], a dynamic batch and its weights inside. A file appears under its name only after onnxruntime
has reproduced PyTorch's logits from it at batch 1 and 3. Files that are there are skipped. The exit code is 1
when any export failed.

The weights are random but not trivial: batch norm's statistics fit the activations, and nothing is left at
the zeros and ones of an initialiser, so a wrong cut anywhere in the graph changes the logits.

Requires torch 2.13.0, torchvision 0.28.0, numpy, onnx, onnxruntime and onnxscript.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Classifier:
    """What torchvision's constructor does not say by itself."""

    size: int = 224  # height and width of the image, in pixels
    options: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the constructor


CLASSIFIERS: Final[Mapping[str, Classifier]] = MappingProxyType(
    {
        "resnet18": Classifier(),
        "resnet50": Classifier(),
        "mobilenet_v3_small": Classifier(),
        "vit_b_16": Classifier(),
        "swin_t": Classifier(),
        "shufflenet_v2_x1_0": Classifier(),
        "resnext50_32x4d": Classifier(),
        "densenet121": Classifier(),
        "vgg11_bn": Classifier(),
        "mobilenet_v2": Classifier(),
        "efficientnet_b0": Classifier(),
        # The auxiliary heads exist in training alone; torchvision warns where initialisation is not chosen.
        "googlenet": Classifier(options={"aux_logits": False, "init_weights": False}),
        "squeezenet1_1": Classifier(),
        "regnet_y_400mf": Classifier(),
        "mnasnet1_0": Classifier(),
        "convnext_tiny": Classifier(),
    }
)

SEED: Final = 0
TRACE_BATCH: Final = 2  # not 1: torch.export takes a traced size of 1 for a constant
CHECK_BATCHES: Final = (1, 3)  # neither is TRACE_BATCH, so that a batch size frozen into the graph fails
TOLERANCE: Final = 1e-3  # of the logits' spread between images; resnet50 in float32 is 3e-4 off float64


# --- the model ----------------------------------------------------------------------------------------------


def load_constructors() -> Any:
    """Return the module torchvision.models, also where torchvision's compiled ops do not load."""
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:
        # torchvision registers shape functions for ops that its compiled library would have declared. No
        # classifier calls them; a bare declaration is enough. Declared only now, as a second one would clash
        # with the library's where that loads.
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for op in ("nms", "qnms"):
            torch.library.define(f"torchvision::{op}", schema)
        return importlib.import_module("torchvision.models")


def build(name: str) -> nn.Module:
    """Return the named classifier in eval mode, the same weights on every call."""
    torch.manual_seed(SEED)
    classifier = CLASSIFIERS[name]
    model: nn.Module = getattr(load_constructors(), name)(weights=None, **classifier.options).eval()
    with torch.no_grad():
        randomise_constants(model)
        calibrate_batch_norms(model, random_images(8, classifier.size))
    return model


def random_images(count: int, size: int) -> Tensor:
    """Return images [count, 3, size, size] that differ in mean and contrast too.

    Pure noise looks the same to every global average pool, and then so do the logits.
    """
    noise = torch.randn(count, 3, size, size)
    return noise * torch.empty(count, 3, 1, 1).uniform_(0.3, 1.5) + torch.randn(count, 3, 1, 1)


def randomise_constants(model: nn.Module) -> None:
    """Give random values to every parameter that its initialiser left constant.

    These are the affine weights of norms, most biases, ViT's class token and head (zero: its logits would be
    zero) and ConvNeXt's layer scale (1e-6: its blocks would do nothing).
    """
    for parameter in model.parameters():
        first = parameter.flatten()[0]
        if not bool((parameter == first).all()):
            continue
        if first != 0:
            parameter.uniform_(0.7, 1.3)
        else:
            parameter.normal_(std=0.1 if parameter.ndim == 1 else 0.02)


def calibrate_batch_norms(model: nn.Module, images: Tensor) -> None:
    """Set the running statistics to those of the images, then perturb them mildly.

    Without the first step the activations of a deep random network vanish or overflow; without the second the
    norms would be those of one batch exactly.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0  # the running statistics become those of this batch
    if norms:
        model(images)
    for norm in norms:
        norm.eval()
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None  # every torchvision classifier tracks them
        assert variance is not None
        mean += 0.1 * torch.randn_like(mean) * variance.sqrt()
        variance *= torch.empty_like(variance).uniform_(0.8, 1.25)


# --- the exporters ------------------------------------------------------------------------------------------


def export_torchscript(model: nn.Module, image: Tensor, path: Path, folds: bool = True) -> None:
    """Export by tracing: shapes that depend on the batch become Shape/Gather/Concat chains. `folds` batch norms."""
    torch.onnx.export(
        model,
        (image,),
        path,
        dynamo=False,
        opset_version=17,
        do_constant_folding=folds,
        training=torch.onnx.TrainingMode.EVAL if folds else torch.onnx.TrainingMode.PRESERVE,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )


def export_dynamo(model: nn.Module, image: Tensor, path: Path, folds: bool = True) -> None:
    """Export through torch.export: shapes are symbolic; `folds` static ones, and batch norms."""
    torch.onnx.export(
        model,
        (image,),
        path,
        dynamo=True,
        optimize=folds,
        external_data=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )


EXPORTERS: Final[Mapping[str, Callable[..., None]]] = MappingProxyType(
    {"torchscript": export_torchscript, "dynamo": export_dynamo}
)


# --- one file -----------------------------------------------------------------------------------------------


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it at the end, or deleted on an error.

    Others may read the folder meanwhile, and must never see half a file nor one that failed its check.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check(path: Path, model: nn.Module, images: Tensor) -> float:
    """Return onnxruntime's largest error against PyTorch, as a fraction of the logits' spread between images.

    Raises ValueError when the logits hardly depend on the image, or when the error exceeds TOLERANCE.
    """
    with torch.no_grad():
        expected = model(images).numpy()
    spread = float(expected.std(axis=0).mean())
    if not spread > 0.01 * float(np.abs(expected).mean()):  # also refuses NaN
        raise ValueError(f"the logits hardly depend on the image: spread {spread:.3g}")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in CHECK_BATCHES:
        (actual,) = session.run(["logits"], {"image": images[:batch].numpy()})
        error = float(np.abs(actual - expected[:batch]).max()) / spread
        if not error <= TOLERANCE:
            raise ValueError(f"batch {batch}: off by {error:.3g} of the logits' spread, allowed {TOLERANCE}")
        worst = max(worst, error)
    return worst


def export(name: str, exporter: str, path: Path, model: nn.Module) -> None:
    """Write one checked file, and print one line about it."""
    start = time.perf_counter()
    size = CLASSIFIERS[name].size
    torch.manual_seed(SEED)  # the same images for every file, whatever was exported before
    with appearing_whole(path) as temporary:
        EXPORTERS[exporter](model, random_images(TRACE_BATCH, size), temporary)
        error = check(temporary, model, random_images(max(CHECK_BATCHES), size))
    seconds = time.perf_counter() - start
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, error {error:.1e}, {seconds:.0f} s", flush=True)


# --- the command line ---------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments, every name where none is given."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="created when missing")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(CLASSIFIERS)}")
    parser.add_argument("--exporter", choices=[*EXPORTERS, "both"], default="both")
    parser.add_argument("--force", action="store_true", help="write files that are there again")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in CLASSIFIERS]
    if unknown:
        parser.error(f"unknown names: {', '.join(unknown)}; known are {', '.join(CLASSIFIERS)}")
    arguments.names = arguments.names or list(CLASSIFIERS)
    return arguments


def main() -> int:
    """Export what the command line names; return the number of the exit code."""
    arguments = parse_arguments()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    exporters = list(EXPORTERS) if arguments.exporter == "both" else [arguments.exporter]
    failed = []
    for name in arguments.names:
        paths = {exporter: arguments.out_dir / f"{name}.{exporter}.onnx" for exporter in exporters}
        wanted = {exporter: path for exporter, path in paths.items() if arguments.force or not path.exists()}
        model = build(name) if wanted else None
        for exporter, path in wanted.items():
            assert model is not None
            try:
                export(name, exporter, path, model)
            except Exception:  # one model that fails must not keep the others from being exported
                traceback.print_exc()
                failed.append(path.name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
