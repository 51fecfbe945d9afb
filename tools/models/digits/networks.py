"""The four networks."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tools.models.digits.data import CLASSES


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
