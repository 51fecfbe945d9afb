"""What is made of the networks: how each is trained, and its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from tools.models.digits.networks import MobileNet, PlainCNN, ResNet, VisionTransformer

Exporter = Literal["TorchScript", "dynamo"]


@dataclass(frozen=True)
class Export:
    """One ONNX file made from a trained network."""

    file: str
    architecture: str
    exporter: Exporter
    folded: bool = False


@dataclass(frozen=True)
class Recipe:
    """A network, how it is trained and the files made from it."""

    build: Callable[[], nn.Module]
    epochs: int
    rate: float
    exports: tuple[Export, ...]
    bfloat16: bool = True


RESNET = "ResNet: 3x3 stem, max-pool, basic blocks 2x32, 2x64, 1x128, average pool"

RECIPES = {
    "resnet": Recipe(
        build=ResNet,
        epochs=40,
        rate=4e-3,
        exports=(
            Export("resnet_bn.onnx", f"{RESNET}; batch norm kept", "TorchScript"),
            Export("resnet_folded.onnx", f"{RESNET}; batch norm folded", "dynamo", True),
        ),
    ),
    "cnn": Recipe(
        build=PlainCNN,
        epochs=60,
        rate=2e-3,
        exports=(
            Export(
                "cnn.onnx",
                "Plain CNN: convolutions 32, 64, 64, flattened 64x7x7 map, hidden layer 128",
                "TorchScript",
            ),
        ),
    ),
    "vit": Recipe(
        build=VisionTransformer,
        epochs=90,
        rate=1.5e-3,
        exports=(
            Export(
                "vit.onnx",
                "Vision transformer: 4x4 patches, class token, width 80, depth 5, "
                "5 heads, fused qkv, MLP 320, pre-norm",
                "dynamo",
            ),
        ),
    ),
    "mobilenet": Recipe(
        build=MobileNet,
        epochs=40,
        rate=4e-3,
        # Training a depthwise convolution in bfloat16 is slower on most CPUs.
        bfloat16=False,
        exports=(
            Export(
                "mobilenet.onnx",
                "MobileNetV3-style: 7 inverted residuals (16 to 48 channels), "
                "squeeze-excite, hard-swish; batch norm folded",
                "dynamo",
                True,
            ),
        ),
    ),
}
