"""Networks of images and volumes: classifiers, segmentation, restoration, generators."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from tools.models.zoo.handmade.layers import Residual, Squeeze, conv


class Double(nn.Sequential):
    """Two convolutions of a U-Net."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(inplace=True),
            nn.Conv2d(cout, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(inplace=True),
        )  # fmt: skip


class UNet(nn.Module):
    """U-Net; decoders by ConvTranspose or by Resize, skips by concatenation or by gated addition."""

    def __init__(self, up: str, gate: bool = False) -> None:
        super().__init__()
        widths = (16, 32, 48)
        self.down = nn.ModuleList([Double(a, b) for a, b in zip((3, *widths), widths, strict=False)])
        self.bottom = Double(48, 64)
        self.up, self.decode, self.gates = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        below = 64
        for width in reversed(widths):
            if up == "transpose":
                self.up.append(nn.ConvTranspose2d(below, width, 2, 2))
            else:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2, mode=up), nn.Conv2d(below, width, 1)))
            self.decode.append(Double(2 * width, width))
            self.gates.append(nn.Sequential(nn.Conv2d(2 * width, 1, 1), nn.Sigmoid()) if gate else nn.Identity())
            below = width
        self.gated, self.head = gate, nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        skips, x = [], image
        for layer in self.down:
            x = layer(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, decode, gate, skip in zip(self.up, self.decode, self.gates, reversed(skips), strict=True):
            x = up(x)
            taken = skip * gate(torch.cat([x, skip], 1)) if self.gated else skip
            x = decode(torch.cat([taken, x], 1))
        return self.head(x)


class Espcn(nn.Sequential):
    """Super-resolution by sub-pixel convolution."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 5, padding=2), nn.Tanh(), nn.Conv2d(32, 24, 3, padding=1), nn.Tanh(),
            nn.Conv2d(24, 9, 3, padding=1), nn.PixelShuffle(3), nn.Sigmoid(),
        )  # fmt: skip


class Edsr(nn.Module):
    """Residual super-resolution: scaled residuals, two sub-pixel steps."""

    def __init__(self, attention: bool = False) -> None:
        super().__init__()
        gate = [Squeeze(32)] if attention else []
        body = [
            Residual(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), *gate, scale=0.1)
            for _ in range(3)
        ]
        self.head, self.body = nn.Conv2d(3, 32, 3, padding=1), Residual(*body, nn.Conv2d(32, 32, 3, padding=1))
        up = [m for _ in range(2) for m in (nn.Conv2d(32, 128, 3, padding=1), nn.PixelShuffle(2))]
        self.tail = nn.Sequential(*up, nn.Conv2d(32, 3, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        return self.tail(self.body(self.head(image)))


class Rrdb(nn.Module):
    """Residual dense blocks (ESRGAN)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 32, 3, padding=1)
        self.dense = nn.ModuleList(nn.Conv2d(32 + 16 * i, 16 if i < 4 else 32, 3, padding=1) for i in range(5))
        self.up, self.tail = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(image)
        seen = [x]
        for layer in self.dense[:-1]:
            seen.append(F.leaky_relu(layer(torch.cat(seen, 1)), 0.2))
        x = x + self.dense[-1](torch.cat(seen, 1)) * 0.2
        return self.tail(F.leaky_relu(self.up(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2))


class Unshuffle(nn.Module):
    """Space to depth in front, sub-pixel convolution behind (Real-ESRGAN's entry)."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.PixelUnshuffle(2), nn.PixelShuffle(2)
        self.body = nn.Sequential(
            nn.Conv2d(12, 32, 3, padding=1), nn.PReLU(32), nn.Conv2d(32, 32, 3, padding=1), nn.PReLU(32)
        )
        self.inside = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(128, 128, 1), nn.PixelShuffle(2))
        self.tail = nn.Conv2d(32, 12, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.body(self.down(image))
        return self.up(self.tail(x + self.inside(x)))


def alexnet() -> nn.Module:
    """AlexNet with local response normalisation and grouped convolution."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 7, 2, 3), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.Conv2d(32, 64, 5, padding=2, groups=2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Dropout(), nn.Linear(432, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


class LargeKernel(nn.Module):
    """The decomposed large-kernel attention of VAN."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(width, width, 1), nn.GELU()
        self.near = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.far = nn.Conv2d(width, width, 7, padding=9, groups=width, dilation=3)
        self.point, self.last = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))
        return x + self.last(self.point(self.far(self.near(y))) * y)


def van() -> nn.Module:
    """VAN of two stages."""
    mlp = [Residual(nn.BatchNorm2d(w), nn.Conv2d(w, 2 * w, 1), nn.Conv2d(2 * w, 2 * w, 3, padding=1, groups=2 * w), nn.GELU(), nn.Conv2d(2 * w, w, 1)) for w in (32, 48)]  # fmt: skip
    return nn.Sequential(
        conv(3, 32, 7, 4), LargeKernel(32), mlp[0], conv(32, 48, 3, 2), LargeKernel(48), mlp[1],
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


def replk() -> nn.Module:
    """RepLKNet: kernels of 31 by 31, with a parallel small one."""

    class Parallel(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.large = nn.Sequential(
                nn.Conv2d(width, width, 31, padding=15, groups=width, bias=False), nn.BatchNorm2d(width)
            )
            self.small = nn.Sequential(
                nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False), nn.BatchNorm2d(width)
            )

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.large(x) + self.small(x))

    block = Residual(nn.BatchNorm2d(32), nn.Conv2d(32, 48, 1), Parallel(48), nn.Conv2d(48, 32, 1))
    return nn.Sequential(conv(3, 32, 3, 2), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Cbam(nn.Module):
    """Channel attention from mean and maximum, then attention on positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, width))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        gate = (self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))).sigmoid()
        x = x * gate[:, :, None, None]
        return x * self.spatial(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)).sigmoid()


class Coordinate(nn.Module):
    """Coordinate attention: rows and columns pooled, concatenated, split again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix, self.row, self.column = conv(width, 16, 1), nn.Conv2d(16, width, 1), nn.Conv2d(16, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        y = self.mix(torch.cat((x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)), 2))
        row, column = y.split((h, w), 2)
        return x * self.row(row).sigmoid() * self.column(column.transpose(2, 3)).sigmoid()


class NonLocal(nn.Module):
    """Attention over all positions of a map (the non-local block)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(width, width // 2, 1) for _ in range(3))
        self.out = nn.Conv2d(width // 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = self.q(x).flatten(2), self.k(x).flatten(2), self.v(x).flatten(2)
        weights = torch.softmax(q.transpose(1, 2) @ k, -1)
        return x + self.out((v @ weights.transpose(1, 2)).view(b, -1, h, w))


def with_block(block: Callable[[int], nn.Module]) -> nn.Module:
    """A small classifier around one block."""
    return nn.Sequential(
        conv(3, 32, 3, 2), block(32), conv(32, 48, 3, 2), block(48), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)
    )  # fmt: skip


class PyramidPooling(nn.Module):
    """PSPNet: pools of several sizes, resized back and concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 32, 3, 2), conv(32, 48, 3, 2))
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), conv(48, 12, 1)) for n in (1, 2, 4))
        self.head = nn.Sequential(conv(48 + 36, 48), nn.Conv2d(48, 5, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = self.body(image)
        parts = [F.interpolate(p(x), size=x.shape[2:], mode="bilinear", align_corners=False) for p in self.pools]
        return F.interpolate(self.head(torch.cat([x, *parts], 1)), scale_factor=4, mode="bilinear", align_corners=True)


def dcgan() -> nn.Module:
    """A generator: vector to image by deconvolutions."""
    return nn.Sequential(
        nn.Linear(16, 64 * 16), nn.Unflatten(1, (64, 4, 4)), nn.BatchNorm2d(64), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


class StyleGan(nn.Module):
    """Modulated convolution: the kernels are scaled per sample and applied as groups."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2))
        self.start = nn.Parameter(torch.randn(1, 32, 4, 4))
        self.style = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))
        self.weight = nn.ParameterList(nn.Parameter(torch.randn(32, 32, 3, 3)) for _ in range(2))
        self.rgb = nn.Conv2d(32, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z)
        x = self.start.expand(z.shape[0], -1, -1, -1)
        for style, weight in zip(self.style, self.weight, strict=True):
            s = style(w)
            demod = torch.rsqrt((weight[None] * s[:, None, :, None, None]).pow(2).sum((2, 3, 4)) + 1e-8)
            x = F.conv2d(x * s[:, :, None, None], weight, padding=1) * demod[:, :, None, None]
            x = F.interpolate(F.leaky_relu(x, 0.2), scale_factor=2)
        return self.rgb(x)


class Film(nn.Module):
    """Features scaled and shifted by a condition: one linear layer gives both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(3, 32, 3, padding=1),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.Linear(32, 5),
        )
        self.condition = nn.Linear(8, 64)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.condition(condition).chunk(2, 1)
        x = F.relu(self.first(image))
        x = F.instance_norm(self.second(x)) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return self.head(F.relu(x).mean((2, 3)))


class Volumes(nn.Module):
    """A U-Net of three dims."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, 16, 3, padding=1), nn.InstanceNorm3d(16, affine=True), nn.LeakyReLU())
        self.second = nn.Sequential(nn.Conv3d(16, 32, 3, 2, 1), nn.InstanceNorm3d(32, affine=True), nn.LeakyReLU())
        self.up, self.head = (
            nn.ConvTranspose3d(32, 16, 2, 2),
            nn.Sequential(nn.Conv3d(32, 16, 3, padding=1), nn.Conv3d(16, 2, 1)),
        )

    def forward(self, volume: Tensor) -> Tensor:
        x = self.first(volume)
        return self.head(torch.cat((x, self.up(self.second(x))), 1))
