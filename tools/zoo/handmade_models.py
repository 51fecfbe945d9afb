"""Networks written here: what the packages lack, and each idiom of attention, detection and restoration once.

Small on purpose: widths of 16 to 64, one or two blocks a stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from zoo.specimen import Recipe, Specimen, specimen

BOTH = ("torchscript", "dynamo")
OLD, NEW = BOTH[:1], BOTH[1:]
SIDES, FIXED, STATIC = "batch _ height width", "batch _ _ _", "_ _ _ _"

# -- convolutions ------------------------------------------------------------------------------------------


def conv(cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, BatchNorm, SiLU."""
    layers = [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, *([nn.SiLU()] if act else []))


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.inside, self.scale = nn.Sequential(*layers), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x) * self.scale if self.scale != 1 else x + self.inside(x)


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


class Bottleneck(nn.Module):
    """The bottleneck of the YOLO family."""

    def __init__(self, width: int, shortcut: bool = True, kernels: tuple[int, int] = (3, 3)) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(width, width, kernels[0]), conv(width, width, kernels[1])
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    """CSP bottleneck with three convolutions (YOLOv5)."""

    def __init__(self, cin: int, cout: int, n: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        half = cout // 2
        self.cv1, self.cv2, self.cv3 = conv(cin, half, 1), conv(cin, half, 1), conv(2 * half, cout, 1)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut, (1, 3)) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C2f(nn.Module):
    """CSP with all intermediate results concatenated (YOLOv8); with `c3k`, each bottleneck is a C3 (YOLO11)."""

    def __init__(self, cin: int, cout: int, n: int = 1, shortcut: bool = True, c3k: bool = False) -> None:
        super().__init__()
        self.c = cout // 2
        self.cv1, self.cv2 = conv(cin, 2 * self.c, 1), conv((2 + n) * self.c, cout, 1)
        self.m = nn.ModuleList(C3(self.c, self.c, 2) if c3k else Bottleneck(self.c, shortcut) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    """Pyramid of max pools."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(width, width // 2, 1), conv(2 * width, width, 1)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        a = self.m(x)
        b = self.m(a)
        return self.cv2(torch.cat((x, a, b, self.m(b)), 1))


class PSAttention(nn.Module):
    """Attention on maps with a positional convolution (YOLO11's C2PSA)."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.dim = heads, width // heads
        self.key = self.dim // 2
        self.qkv = conv(width, width + 2 * heads * self.key, 1, act=False)
        self.proj, self.pe = conv(width, width, 1, act=False), conv(width, width, 3, groups=width, act=False)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(x).view(b, self.heads, self.key * 2 + self.dim, h * w)
        q, k, v = qkv.split([self.key, self.key, self.dim], dim=2)
        attn = ((q.transpose(-2, -1) @ k) * self.key**-0.5).softmax(dim=-1)
        x = (v @ attn.transpose(-2, -1)).view(b, c, h, w) + self.pe(v.reshape(b, c, h, w))
        return self.proj(x)


class C2PSA(nn.Module):
    """Half of the channels through attention and FFN."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c = width // 2
        self.cv1, self.cv2 = conv(width, width, 1), conv(width, width, 1)
        ffn = conv(self.c, 2 * self.c, 1), conv(2 * self.c, self.c, 1, act=False)
        self.m = nn.Sequential(Residual(PSAttention(self.c)), Residual(*ffn))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.cv1(x).split((self.c, self.c), dim=1)
        return self.cv2(torch.cat((a, self.m(b)), 1))


class AnchorHead(nn.Module):
    """The anchor-based head of YOLOv5, decoded on grids from the running sizes."""

    def __init__(self, widths: tuple[int, ...], classes: int = 4, anchors: int = 3) -> None:
        super().__init__()
        self.na, self.no = anchors, classes + 5
        self.m = nn.ModuleList(nn.Conv2d(w, self.no * anchors, 1) for w in widths)
        self.register_buffer("anchors", torch.rand(len(widths), 1, anchors, 1, 1, 2) * 32)

    def forward(self, maps: list[Tensor]) -> Tensor:
        found = []
        for i, (layer, x) in enumerate(zip(self.m, maps, strict=True)):
            y = layer(x)
            b, _, ny, nx = y.shape
            y = y.view(b, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
            yv, xv = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
            grid = torch.stack((xv, yv), 2).view(1, 1, ny, nx, 2).float()
            xy, wh, conf = y.split((2, 2, self.no - 4), 4)
            xy = (xy * 2 + grid - 0.5) * 8 * 2**i
            wh = (wh * 2) ** 2 * self.anchors[i]
            found.append(torch.cat((xy, wh, conf), 4).view(b, self.na * nx * ny, self.no))
        return torch.cat(found, 1)


class DFLHead(nn.Module):
    """The anchor-free head of YOLOv8: distances as distributions, a 1x1 convolution of 0 .. 15 takes their mean."""

    def __init__(self, widths: tuple[int, ...], classes: int = 4, depthwise: bool = False) -> None:
        super().__init__()
        self.nc, self.reg = classes, 16
        c2, c3 = 16, max(widths[0] // 2, 16)
        self.cv2 = nn.ModuleList(nn.Sequential(conv(w, c2), conv(c2, c2), nn.Conv2d(c2, 64, 1)) for w in widths)
        self.cv3 = nn.ModuleList(
            nn.Sequential(conv(w, w, groups=w), conv(w, c3, 1), conv(c3, c3, groups=c3), nn.Conv2d(c3, classes, 1))
            if depthwise
            else nn.Sequential(conv(w, c3), conv(c3, c3), nn.Conv2d(c3, classes, 1))
            for w in widths
        )
        self.dfl = nn.Conv2d(16, 1, 1, bias=False)
        self.dfl.weight.data[:] = torch.arange(16.0).view(1, 16, 1, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = [torch.cat((a(m), b(m)), 1) for a, b, m in zip(self.cv2, self.cv3, maps, strict=True)]
        points, strides = [], []
        for i, m in enumerate(x):
            h, w = m.shape[2:]
            sy, sx = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
            points.append(torch.stack((sx, sy), -1).view(-1, 2))
            strides.append(torch.full((h * w, 1), 8.0 * 2**i))
        anchors, stride = torch.cat(points).transpose(0, 1).unsqueeze(0), torch.cat(strides).transpose(0, 1)
        b = x[0].shape[0]
        box, cls = torch.cat([m.view(b, self.nc + 64, -1) for m in x], 2).split((64, self.nc), 1)
        a = box.shape[-1]
        distance = self.dfl(box.view(b, 4, 16, a).transpose(2, 1).softmax(1)).view(b, 4, a)
        low, high = distance.chunk(2, 1)
        x1y1, x2y2 = anchors - low, anchors + high
        boxes = torch.cat(((x1y1 + x2y2) / 2, x2y2 - x1y1), 1) * stride
        return torch.cat((boxes, cls.sigmoid()), 1)


class Yolo(nn.Module):
    """A YOLO of one block a stage: backbone, path aggregation, three heads."""

    def __init__(self, version: int) -> None:
        super().__init__()
        a, b, c = 32, 48, 64

        def block(cin: int, cout: int, shortcut: bool = True) -> nn.Module:
            if version == 5:
                return C3(cin, cout, 1, shortcut)
            return C2f(cin, cout, 1 if version == 11 else 2, shortcut, c3k=version == 11)

        self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 24, 3, 2), block(24, 24))
        self.p3 = nn.Sequential(conv(24, a, 3, 2), block(a, a))
        self.p4 = nn.Sequential(conv(a, b, 3, 2), block(b, b))
        tail = [C2PSA(c)] if version == 11 else []
        self.p5 = nn.Sequential(conv(b, c, 3, 2), block(c, c), SPPF(c), *tail)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.n4, self.n3 = block(b + c, b, False), block(a + b, a, False)
        self.d4, self.m4 = conv(a, a, 3, 2), block(a + b, b, False)
        self.d5, self.m5 = conv(b, b, 3, 2), block(b + c, c, False)
        self.head = AnchorHead((a, b, c)) if version == 5 else DFLHead((a, b, c), depthwise=version == 11)

    def forward(self, image: Tensor) -> Tensor:
        p3 = self.p3(self.stem(image))
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        n4 = self.n4(torch.cat((self.up(p5), p4), 1))
        n3 = self.n3(torch.cat((self.up(n4), p3), 1))
        m4 = self.m4(torch.cat((self.d4(n3), n4), 1))
        m5 = self.m5(torch.cat((self.d5(m4), p5), 1))
        return self.head([n3, m4, m5])


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


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


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


class BiFpn(nn.Module):
    """Weighted bidirectional fusion (EfficientDet) with shared heads on three levels."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 24, 3, 4), conv(24, 32, 3, 2), conv(32, 48, 3, 2)])
        self.lateral = nn.ModuleList(nn.Conv2d(w, 32, 1) for w in (24, 32, 48))
        self.fuse = nn.ModuleList(nn.Sequential(conv(32, 32, 3, groups=32), conv(32, 32, 1)) for _ in range(4))
        self.weights = nn.Parameter(torch.rand(4, 3))
        self.head = nn.Sequential(conv(32, 32, 3, groups=32), conv(32, 32, 1), nn.Conv2d(32, 9 * 4, 1))

    def forward(self, image: Tensor) -> Tensor:
        maps, x = [], image
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        w = F.relu(self.weights)
        w = w / (w.sum(1, keepdim=True) + 1e-4)
        a, b, c = maps
        b1 = self.fuse[0](w[0, 0] * b + w[0, 1] * F.interpolate(c, scale_factor=2))
        a1 = self.fuse[1](w[1, 0] * a + w[1, 1] * F.interpolate(b1, scale_factor=2))
        b2 = self.fuse[2](w[2, 0] * b + w[2, 1] * b1 + w[2, 2] * F.max_pool2d(a1, 2))
        c2 = self.fuse[3](w[3, 0] * c + w[3, 1] * F.max_pool2d(b2, 2))
        n = image.shape[0]
        return torch.cat([self.head(m).permute(0, 2, 3, 1).reshape(n, -1, 4) for m in (a1, b2, c2)], 1)


class CenterNet(nn.Module):
    """Keypoint heads on a network with deconvolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(3, 32, 3, 2), Residual(conv(32, 32), conv(32, 32, act=False)), conv(32, 48, 3, 2)
        )
        self.up = nn.Sequential(nn.ConvTranspose2d(48, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(32, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, n, 1)) for n in (5, 2, 2)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.up(self.body(image))
        heat, size, offset = (head(x) for head in self.heads)
        return heat.sigmoid(), size, offset


class Hourglass(nn.Module):
    """A recursive hourglass with heatmaps fed back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 32, 7, 2)
        self.skip = nn.ModuleList(Residual(conv(32, 16, 1), conv(16, 16), conv(16, 32, 1)) for _ in range(2))
        self.low = nn.ModuleList(Residual(conv(32, 16, 1), conv(16, 16), conv(16, 32, 1)) for _ in range(3))
        self.head, self.back = nn.Conv2d(32, 7, 1), nn.Conv2d(7, 32, 1)

    def glass(self, x: Tensor, depth: int) -> Tensor:
        low = self.low[depth](F.max_pool2d(x, 2))
        inside = self.glass(low, depth + 1) if depth < 1 else self.low[2](low)
        return self.skip[depth](x) + F.interpolate(inside, scale_factor=2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = x + self.back(self.head(self.glass(x, 0)))
        return self.head(self.glass(x, 0))


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


# -- sequences ---------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Stacked recurrent layers on embedded tokens, classified from the last states."""

    def __init__(self, kind: str, both_ways: bool, pool: str = "last") -> None:
        super().__init__()
        self.embedding, self.pool = nn.Embedding(50, 24), pool
        self.rnn = getattr(nn, kind)(24, 32, num_layers=2, bidirectional=both_ways, batch_first=True)
        self.head = nn.Linear(64 if both_ways else 32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.rnn(self.embedding(ids))
        return self.head(states[:, -1] if self.pool == "last" else states.mean(1) if self.pool == "mean" else states)


class Translate(nn.Module):
    """Encoder and decoder GRUs: states are handed over, Bahdanau attention on the encoder's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(50, 24), nn.Embedding(50, 24)
        self.encoder = nn.GRU(24, 32, batch_first=True)
        self.decoder = nn.GRU(24, 32, batch_first=True)
        self.w1, self.w2, self.v = nn.Linear(32, 24), nn.Linear(32, 24), nn.Linear(24, 1)
        self.head = nn.Linear(64, 50)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, last = self.encoder(self.source(source))
        states, _ = self.decoder(self.target(target), last)
        scores = self.v(torch.tanh(self.w1(memory)[:, None] + self.w2(states)[:, :, None])).squeeze(-1)
        context = torch.softmax(scores, -1) @ memory
        return self.head(torch.cat((states, context), -1))


class Stepwise(nn.Module):
    """An LSTM with its states as inputs and outputs, as streaming graphs have them."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(16, 32, 2), nn.Linear(32, 8)

    def forward(self, frames: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        states, (h, c) = self.rnn(frames, (h, c))
        return self.head(states), h, c


class Crnn(nn.Module):
    """Reading text in images: convolutions, columns as a sequence, two BiLSTMs, CTC scores."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(1, 24), nn.MaxPool2d(2), conv(24, 32), nn.MaxPool2d(2), conv(32, 48), nn.MaxPool2d((2, 1))
        )
        self.first = nn.LSTM(48 * 4, 32, bidirectional=True)
        self.middle = nn.Linear(64, 32)
        self.second = nn.LSTM(32, 32, bidirectional=True)
        self.head = nn.Linear(64, 20)

    def forward(self, image: Tensor) -> Tensor:
        x = self.body(image)
        b, c, h, w = x.shape
        x = x.reshape(b, c * h, w).permute(2, 0, 1)
        x = self.second(self.middle(self.first(x)[0]))[0]
        t, b, f = x.shape
        return F.log_softmax(self.head(x.reshape(t * b, f)).view(t, b, -1), -1)


class Cells(nn.Module):
    """A GRU cell unrolled by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(8, 32), nn.Linear(32, 3)

    def forward(self, frames: Tensor) -> Tensor:
        h = frames.new_zeros(frames.shape[0], 32)
        for t in range(4):
            h = self.cell(frames[:, t], h)
        return self.head(h)


class WaveNet(nn.Module):
    """Dilated causal convolutions with gates and skips."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv1d(8, 32, 1)
        self.gates = nn.ModuleList(nn.Conv1d(32, 64, 2, dilation=2**i) for i in range(3))
        self.outs = nn.ModuleList(nn.Conv1d(32, 32 + 24, 1) for _ in range(3))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(24, 24, 1), nn.ReLU(), nn.Conv1d(24, 16, 1))

    def forward(self, sound: Tensor) -> Tensor:
        x, skips = self.start(sound), 0.0
        for i, (gate, out) in enumerate(zip(self.gates, self.outs, strict=True)):
            a, b = gate(F.pad(x, (2**i, 0))).chunk(2, 1)
            y, skip = out(torch.tanh(a) * torch.sigmoid(b)).split((32, 24), 1)
            x, skips = x + y, skips + skip
        return self.head(skips)


class TextCnn(nn.Module):
    """Convolutions of several widths over words, highest activations, a highway layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 24)
        self.convs = nn.ModuleList(nn.Conv1d(24, 16, k, padding=k // 2) for k in (1, 3, 5))
        self.gate, self.inside, self.head = nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).transpose(1, 2)
        x = torch.cat([F.relu(c(x)).amax(-1) for c in self.convs], 1)
        g = torch.sigmoid(self.gate(x))
        return self.head(g * F.relu(self.inside(x)) + (1 - g) * x)


# -- attention, each idiom once ------------------------------------------------------------------------------


class Attention(nn.Module):
    """Self-attention; `how` names the idiom that splits the heads."""

    def __init__(self, how: str, width: int = 48, heads: int = 4) -> None:
        super().__init__()
        self.how, self.h, self.d = how, heads, width // heads
        kv = {"mqa": 1, "gqa_expand": 2, "gqa_repeat": 2, "gqa_group": 2}.get(how, heads)
        self.kv = kv
        self.qkv = nn.Linear(width, width + 2 * kv * self.d)
        self.out = nn.Linear(width, width)
        if how == "qk_norm":
            self.qn, self.kn = nn.LayerNorm(self.d), nn.LayerNorm(self.d)
        if how == "talking":
            self.before, self.after = nn.Linear(heads, heads), nn.Linear(heads, heads)
        if how == "relative":
            self.table = nn.Parameter(torch.randn(heads, 31))
        if how == "cosine":
            self.scale = nn.Parameter(torch.ones(heads, 1, 1) * 2)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = x.shape
        y = self.qkv(x)
        if self.how == "unbind":
            return y.reshape(b, n, 3, self.h, self.d).permute(2, 0, 3, 1, 4).unbind(0)
        if self.how == "inner":  # GPT-NeoX: (h [q k v])
            q, k, v = y.view(b, n, self.h, 3 * self.d).chunk(3, dim=-1)
            return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.how == "last":  # (h d qkv), as ViT of some video models
            return y.view(b, n, self.h, self.d, 3).permute(4, 0, 2, 1, 3).unbind(0)
        if self.how == "slice":
            w = self.h * self.d
            q, k, v = y[..., :w], y[..., w : 2 * w], y[..., 2 * w :]
        else:
            q, k, v = y.split((self.h * self.d, self.kv * self.d, self.kv * self.d), -1)
        return tuple(t.view(b, n, -1, self.d).transpose(1, 2) for t in (q, k, v))

    def rotate(self, x: Tensor) -> Tensor:
        n, d = x.shape[2], 8 if "partial" in self.how else self.d
        angle = torch.arange(n).float()[:, None] * (10000.0 ** (-torch.arange(0, d, 2) / d))
        turned, rest = x[..., :d], x[..., d:]
        if "interleaved" in self.how:
            cos, sin = (torch.stack((t, t), -1).flatten(-2) for t in (angle.cos(), angle.sin()))
            half = torch.stack((-turned[..., 1::2], turned[..., ::2]), -1).flatten(-2)
        else:
            cos, sin = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
            half = torch.cat((-turned[..., d // 2 :], turned[..., : d // 2]), -1)
        y = turned * cos + half * sin
        return torch.cat((y, rest), -1) if "partial" in self.how else y

    def scores(self, q: Tensor, k: Tensor, n: int) -> Tensor:
        if self.how == "cosine":
            return F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.scale
        s = q @ k.transpose(-2, -1) / math.sqrt(self.d)
        distance = torch.arange(n)[None] - torch.arange(n)[:, None]
        if self.how == "alibi":
            slopes = torch.tensor([2.0 ** (-8 * (i + 1) / self.h) for i in range(self.h)])
            s = s - slopes[:, None, None] * distance.abs()
        if self.how == "relative":
            s = s + self.table[:, distance.clamp(-15, 15) + 15]
        if self.how == "causal":
            s = s.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf"))
        return s

    def forward(self, x: Tensor) -> Tensor:
        b, n, w = x.shape
        q, k, v = self.split(x)
        if self.how == "gqa_expand":
            k, v = (t[:, :, None].expand(b, self.kv, 2, n, self.d).reshape(b, self.h, n, self.d) for t in (k, v))
        if self.how == "gqa_repeat":
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        if self.how == "gqa_group":
            q, k, v = q.view(b, self.kv, 2, n, self.d), k[:, :, None], v[:, :, None]
        if self.how == "qk_norm":
            q, k = self.qn(q), self.kn(k)
        if self.how.startswith("rope"):
            q, k = self.rotate(q), self.rotate(k)
        if self.how == "linear":
            q, k = F.elu(q) + 1, F.elu(k) + 1
            y = q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(2)[..., None] + 1e-6)
        elif self.how == "einsum":
            a = torch.einsum("bhid,bhjd->bhij", q, k).div(math.sqrt(self.d)).softmax(-1)
            y = torch.einsum("bhij,bhjd->bhid", a, v)
        elif self.how == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            s = self.scores(q, k, n)
            if self.how == "talking":
                s = self.before(s.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            a = s.softmax(-1)
            if self.how == "talking":
                a = self.after(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            y = a @ v
        y = y.reshape(b, self.h, n, self.d) if self.how == "gqa_group" else y
        return self.out(y.transpose(1, 2).reshape(b, n, w))


class Block(nn.Module):
    """A pre-norm block; `ffn` names its second half."""

    def __init__(self, how: str, ffn: str = "gelu", width: int = 48) -> None:
        super().__init__()
        self.n1, self.n2, self.attention, self.ffn = (
            nn.LayerNorm(width),
            nn.LayerNorm(width),
            Attention(how, width),
            ffn,
        )
        self.up, self.down = nn.Linear(width, 192 if ffn in ("geglu", "swiglu") else 96), nn.Linear(96, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.n1(x))
        y = self.up(self.n2(x))
        if self.ffn in ("geglu", "swiglu"):
            a, b = y.chunk(2, -1)
            y = a * (F.gelu(b) if self.ffn == "geglu" else F.silu(b))
        else:
            y = F.gelu(y) if self.ffn == "gelu" else F.relu(y).square()
        return x + self.down(y)


class Tokens(nn.Module):
    """Embedded tokens through blocks to scores."""

    def __init__(self, *blocks: nn.Module, width: int = 48) -> None:
        super().__init__()
        self.embedding, self.blocks = nn.Embedding(50, width), nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(ids))))


class Axial(nn.Module):
    """Attention along rows, then along columns, of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.row, self.column = nn.Conv2d(3, 48, 4, 4), Attention("split"), Attention("split")
        self.head = nn.Linear(48, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        x = x + self.row(x.reshape(b * h, w, c)).view(b, h, w, c)
        y = self.column(x.permute(0, 2, 1, 3).reshape(b * w, h, c)).view(b, w, h, c)
        return self.head((x + y.permute(0, 2, 1, 3)).mean((1, 2)))


class Windows(nn.Module):
    """Attention in shifted windows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 48, 4, 4), Block("unbind"), Block("unbind")
        self.head = nn.Linear(48, 10)

    def windows(self, x: Tensor, block: nn.Module) -> Tensor:
        b, h, w, c = x.shape
        y = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        return block(y).view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)

    def forward(self, image: Tensor) -> Tensor:
        x = self.windows(self.stem(image).permute(0, 2, 3, 1), self.first)
        x = torch.roll(self.windows(torch.roll(x, (-2, -2), (1, 2)), self.second), (2, 2), (1, 2))
        return self.head(x.mean((1, 2)))


class Perceiver(nn.Module):
    """Learned queries attend to the inputs, by nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.queries = nn.Linear(12, 48), nn.Parameter(torch.randn(1, 6, 48))
        self.cross = nn.MultiheadAttention(48, 4, batch_first=True)
        self.norm, self.ffn, self.head = (
            nn.LayerNorm(48),
            nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48)),
            nn.Linear(48, 5),
        )

    def forward(self, points: Tensor) -> Tensor:
        memory = self.embedding(points)
        q = self.queries.expand(points.shape[0], -1, -1)
        x = q + self.cross(q, memory, memory, need_weights=False)[0]
        return self.head((x + self.ffn(self.norm(x))).mean(1))


class Encoder(nn.Module):
    """nn.TransformerEncoder of two layers."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            48, 4, 96, batch_first=True, norm_first=first, activation="gelu" if first else "relu"
        )
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(48, 5)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.encoder(frames))


class EncoderDecoder(nn.Module):
    """nn.Transformer with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.head = nn.Transformer(48, 4, 1, 1, 96, batch_first=True), nn.Linear(48, 5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        n = target.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).triu(1)
        return self.head(self.model(source, target, tgt_mask=mask))


class Experts(nn.Module):
    """All experts by batched products, mixed by a softmax gate."""

    def __init__(self, soft: bool) -> None:
        super().__init__()
        self.gate, self.soft, self.head = nn.Linear(32, 4), soft, nn.Linear(32, 5)
        self.w1, self.w2 = nn.Parameter(torch.randn(4, 32, 64) / 6), nn.Parameter(torch.randn(4, 64, 32) / 8)

    def forward(self, frames: Tensor) -> Tensor:
        g = self.gate(frames)
        if not self.soft:
            top, index = g.topk(2, -1)
            g = torch.zeros_like(g).scatter(-1, index, top.softmax(-1))
        else:
            g = g.softmax(-1)
        y = torch.einsum("bnd,edf->benf", frames, self.w1)
        y = torch.einsum("benf,efd->bned", F.gelu(y), self.w2)
        return self.head(frames + (y * g[..., None]).sum(2))


class Conformer(nn.Module):
    """Half FFNs around attention and a gated convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.ffn = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 96), nn.SiLU(), nn.Linear(96, 48)) for _ in range(2)
        )
        self.norm, self.attention, self.norm2 = nn.LayerNorm(48), Attention("split"), nn.LayerNorm(48)
        self.point, self.depth, self.bn, self.last = (
            nn.Conv1d(48, 96, 1),
            nn.Conv1d(48, 48, 5, padding=2, groups=48),
            nn.BatchNorm1d(48),
            nn.Conv1d(48, 48, 1),
        )
        self.head = nn.Linear(48, 20)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames + 0.5 * self.ffn[0](frames)
        x = x + self.attention(self.norm(x))
        y = F.glu(self.point(self.norm2(x).transpose(1, 2)), 1)
        x = x + self.last(F.silu(self.bn(self.depth(y)))).transpose(1, 2)
        return self.head(x + 0.5 * self.ffn[1](x))


class Lightweight(nn.Module):
    """EfficientViT-like: linear attention with ReLU on maps, after a depthwise aggregation of the QKV."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = conv(3, 32, 3, 4), nn.Conv2d(32, 96, 1, bias=False)
        self.aggregate = nn.Sequential(nn.Conv2d(96, 96, 5, padding=2, groups=96), nn.Conv2d(96, 96, 1, groups=12))
        self.out, self.head = conv(64, 32, 1, act=False), nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        b, _, h, w = x.shape
        qkv = self.qkv(x)
        y = torch.cat((qkv, self.aggregate(qkv)), 1).reshape(b, -1, 24, h * w).transpose(-1, -2)
        q, k, v = y[..., :8].relu(), y[..., 8:16].relu(), y[..., 16:]
        v = F.pad(v, (0, 1), value=1)
        o = q @ (k.transpose(-1, -2) @ v)
        o = o[..., :-1] / (o[..., -1:] + 1e-6)
        return self.head((x + self.out(o.transpose(-1, -2).reshape(b, -1, h, w))).mean((2, 3)))


# -- diffusion ---------------------------------------------------------------------------------------------


class TimeResidual(nn.Module):
    """GroupNorm residual block with a time embedding."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.n1, self.c1 = nn.GroupNorm(4, cin), nn.Conv2d(cin, cout, 3, padding=1)
        self.time = nn.Linear(64, cout)
        self.n2, self.c2 = nn.GroupNorm(4, cout), nn.Conv2d(cout, cout, 3, padding=1)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.c1(F.silu(self.n1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.c2(F.silu(self.n2(y)))


class Spatial(nn.Module):
    """Self-attention, cross-attention on a text, GEGLU: the transformer in Stable Diffusion's U-Net."""

    def __init__(self, width: int, context: int, heads: int = 4) -> None:
        super().__init__()
        self.norm, self.enter, self.leave = (
            nn.GroupNorm(4, width),
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width, width, 1),
        )
        self.h = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.q = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))
        self.k = nn.ModuleList(nn.Linear(w, width, bias=False) for w in (width, context))
        self.v = nn.ModuleList(nn.Linear(w, width, bias=False) for w in (width, context))
        self.o = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def attend(self, i: int, x: Tensor, context: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (
            t.view(b, -1, self.h, c // self.h).transpose(1, 2)
            for t in (self.q[i](x), self.k[i](context), self.v[i](context))
        )
        return self.o[i](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self.enter(self.norm(x)).permute(0, 2, 3, 1).reshape(b, h * w, c)
        z = self.norms[0](y)
        y = y + self.attend(0, z, z)
        y = y + self.attend(1, self.norms[1](y), context)
        a, gate = self.up(self.norms[2](y)).chunk(2, -1)
        y = y + self.down(a * F.gelu(gate))
        return x + self.leave(y.reshape(b, h, w, c).permute(0, 3, 1, 2))


class Diffusion(nn.Module):
    """A conditioned U-Net of two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 64))
        self.start = nn.Conv2d(4, 32, 3, padding=1)
        self.r1, self.t1, self.down = TimeResidual(32, 32), Spatial(32, 24), nn.Conv2d(32, 32, 3, 2, 1)
        self.r2, self.t2, self.r3 = TimeResidual(32, 48), Spatial(48, 24), TimeResidual(48, 48)
        self.up, self.r4 = nn.Conv2d(48, 48, 3, padding=1), TimeResidual(80, 32)
        self.norm, self.end = nn.GroupNorm(4, 32), nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, latent: Tensor, step: Tensor, context: Tensor) -> Tensor:
        angle = step[:, None] * torch.exp(-math.log(1e4) * torch.arange(8) / 8)
        time = self.time(torch.cat((angle.cos(), angle.sin()), -1))
        x = self.t1(self.r1(self.start(latent), time), context)
        y = self.r3(self.t2(self.r2(self.down(x), time), context), time)
        y = self.up(F.interpolate(y, scale_factor=2.0, mode="nearest"))
        return self.end(F.silu(self.norm(self.r4(torch.cat((y, x), 1), time))))


class VaeDecoder(nn.Module):
    """Latents to images: GroupNorm blocks, one attention of a single head, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv2d(4, 48, 3, padding=1)
        self.norm, self.q, self.k, self.v, self.o = nn.GroupNorm(4, 48), *(nn.Linear(48, 48) for _ in range(4))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                Residual(nn.GroupNorm(4, w), nn.SiLU(), nn.Conv2d(w, w, 3, padding=1)),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(w, n, 3, padding=1),
            )
            for w, n in ((48, 32), (32, 16))
        )
        self.end = nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, latent: Tensor) -> Tensor:
        x = self.start(latent)
        b, c, h, w = x.shape
        y = self.norm(x.view(b, c, h * w)).transpose(1, 2)
        q, k, v = self.q(y), self.k(y), self.v(y)
        y = self.o(torch.softmax(torch.baddbmm(torch.zeros(1), q, k.transpose(1, 2), beta=0, alpha=c**-0.5), -1) @ v)
        x = x + y.transpose(1, 2).reshape(b, c, h, w)
        for block in self.blocks:
            x = block(x)
        return self.end(x)


class VaeEncoder(nn.Module):
    """Images to mean and deviation: padding on one side, two outputs of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.down, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 32, 3, 2), nn.GroupNorm(4, 32)
        self.end = nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.down(F.pad(F.silu(self.start(image)), (0, 1, 0, 1)))
        mean, log = self.end(F.silu(self.norm(x))).chunk(2, 1)
        return mean, torch.exp(0.5 * log.clamp(-30, 20))


class Dit(nn.Module):
    """A diffusion transformer: adaptive norms give six pieces of one linear layer, patches are folded back."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.ada = nn.Conv2d(4, 48, 2, 2), nn.Linear(16, 288)
        self.n1, self.n2 = nn.LayerNorm(48, elementwise_affine=False), nn.LayerNorm(48, elementwise_affine=False)
        self.attention, self.mlp = (
            Attention("unbind"),
            nn.Sequential(nn.Linear(48, 96), nn.GELU("tanh"), nn.Linear(96, 48)),
        )
        self.end = nn.Linear(48, 16)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        x = self.patch(latent)
        b, _, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)
        a, s, g, c, t, k = self.ada(F.silu(condition)).chunk(6, 1)
        x = x + g[:, None] * self.attention(self.n1(x) * (1 + s[:, None]) + a[:, None])
        x = x + k[:, None] * self.mlp(self.n2(x) * (1 + t[:, None]) + c[:, None])
        y = self.end(x).view(b, h, w, 2, 2, 4)
        return torch.einsum("nhwpqc->nchpwq", y).reshape(b, 4, h * 2, w * 2)


# -- tables, graphs, points --------------------------------------------------------------------------------


class Dlrm(nn.Module):
    """Recommendation: embeddings, dot products of pairs, two MLPs."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(20, 16) for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(16 + 16, 48), nn.ReLU(), nn.Linear(48, 1), nn.Sigmoid())

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        x = self.bottom(dense)
        t = torch.stack([x, *(table(ids[:, i]) for i, table in enumerate(self.tables))], 1)
        return self.top(torch.cat((x, torch.bmm(t, t.transpose(1, 2)).flatten(1)), 1))


class Siamese(nn.Module):
    """One network on two images, compared."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(1, 24, 3, 2), conv(24, 32, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16)
        )
        self.head = nn.Linear(16, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head((self.body(left) - self.body(right)).abs())


class PointNet(nn.Module):
    """Points by shared MLPs with a learned transform, global features concatenated to each point."""

    def __init__(self) -> None:
        super().__init__()
        self.align = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
        self.matrix = nn.Linear(16, 9)
        self.local = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv1d(32, 64, 1), nn.BatchNorm1d(64), nn.ReLU())
        self.head = nn.Sequential(nn.Conv1d(96, 32, 1), nn.ReLU(), nn.Conv1d(32, 4, 1))

    def forward(self, points: Tensor) -> Tensor:
        b, _, n = points.shape
        turn = self.matrix(self.align(points).max(2)[0]).view(b, 3, 3)
        x = self.local(torch.bmm(points.transpose(1, 2), turn).transpose(1, 2))
        top = self.wide(x).max(2, keepdim=True)[0].expand(-1, -1, n)
        return self.head(torch.cat((x, top), 1))


class GraphNet(nn.Module):
    """Graph convolution and attention on a dense adjacency."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2, self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 1), nn.Linear(32, 1)
        self.head = nn.Linear(32, 3)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        x = F.relu(adjacency @ self.w1(nodes))
        y = self.w2(x)
        e = F.leaky_relu(self.a(y) + self.b(y).transpose(1, 2), 0.2) + adjacency
        return self.head(x + torch.softmax(e, -1) @ y)


class NBeats(nn.Module):
    """Blocks that explain the past and forecast: residuals backwards, sums forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU()) for _ in range(2)
        )
        self.theta = nn.ModuleList(nn.Linear(48, 16 + 4) for _ in range(2))

    def forward(self, past: Tensor) -> Tensor:
        total = 0.0
        for block, theta in zip(self.blocks, self.theta, strict=True):
            back, ahead = theta(block(past)).split((16, 4), 1)
            past, total = past - back, total + ahead
        return total


class Nerf(nn.Module):
    """Positional encodings, an MLP with a skip by concatenation, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(27, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(91, 64), nn.ReLU())
        self.density, self.feature, self.colour = nn.Linear(64, 1), nn.Linear(64, 32), nn.Linear(32, 3)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        waves = [f(points * 2.0**i) for i in range(4) for f in (torch.sin, torch.cos)]
        x = torch.cat([points, *waves], -1)
        y = self.second(torch.cat((self.first(x), x), -1))
        return F.softplus(self.density(y)), torch.sigmoid(self.colour(F.relu(self.feature(y))))


class Tabular(nn.Module):
    """Columns as tokens, with an embedding each (FT-Transformer)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias, self.cls = (nn.Parameter(torch.randn(n, 48)) for n in (6, 6, 1))
        self.block, self.head = Block("slice", "geglu"), nn.Sequential(nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, 2))

    def forward(self, table: Tensor) -> Tensor:
        x = table[:, :, None] * self.weight + self.bias
        x = torch.cat((self.cls.expand(table.shape[0], 1, -1), x), 1)
        return self.head(self.block(x)[:, 0])


# -- the table ---------------------------------------------------------------------------------------------


def image(module: nn.Module, channels: int = 3, size: int = 32, dims: str = SIDES) -> Specimen:
    """A module of one image."""
    return specimen(module, image=(torch.randn(2, channels, size, size), dims))


def ids(module: nn.Module, config: str = "") -> Specimen:
    """A module of token ids."""
    return specimen(module, config, ids=(torch.randint(0, 50, (2, 12)), "batch sequence"))


def frames(module: nn.Module, width: int, dims: str = "batch sequence _", batch: int = 2) -> Specimen:
    """A module of vectors in a sequence."""
    return specimen(module, frames=(torch.randn(batch, 12, width), dims))


HOWS = ("split", "slice", "unbind", "inner", "last", "einsum", "sdpa", "causal", "relative", "alibi", "cosine", "talking", "linear",
        "qk_norm", "mqa", "gqa_expand", "gqa_repeat", "gqa_group", "rope", "rope_interleaved", "rope_partial", "rope_partial_interleaved")  # fmt: skip
FFNS = ("gelu", "geglu", "swiglu", "squared")


def attention(how: str) -> Specimen:
    """Two blocks of one idiom of attention, with FFNs in turn."""
    at = HOWS.index(how)
    return ids(Tokens(Block(how, FFNS[at % 4]), Block(how, FFNS[(at + 1) % 4])), how)


def pair(width: int = 48) -> tuple[tuple[Tensor, str], tuple[Tensor, str]]:
    """Two sequences."""
    return (torch.randn(2, 9, width), "batch source _"), (torch.randn(2, 6, width), "batch target _")


# Those named `_one` are traced with a batch of one, which the older exporter fixes in a Reshape and still calls dynamic.
MAKERS: dict[str, tuple[Callable[[], Specimen], tuple[str, ...]]] = {
    "unet_transpose": (lambda: image(UNet("transpose")), BOTH),
    "unet_nearest": (lambda: image(UNet("nearest")), BOTH),
    "unet_bilinear_gated": (lambda: image(UNet("bilinear", True), dims=FIXED), BOTH),
    "yolo5": (lambda: image(Yolo(5), size=64), BOTH),
    "yolo8": (lambda: image(Yolo(8), size=64), BOTH),
    "yolo11": (lambda: image(Yolo(11), size=64), BOTH),
    "yolo8_static": (lambda: image(Yolo(8), size=64, dims=STATIC), BOTH),
    "espcn": (lambda: image(Espcn(), 1), BOTH),
    "edsr": (lambda: image(Edsr()), BOTH),
    "rcan": (lambda: image(Edsr(attention=True)), OLD),
    "rrdb": (lambda: image(Rrdb()), BOTH),
    "pixel_unshuffle": (lambda: image(Unshuffle()), BOTH),
    "alexnet_lrn": (lambda: image(alexnet(), size=64, dims=FIXED), BOTH),
    "van": (lambda: image(van()), BOTH),
    "replknet": (lambda: image(replk()), BOTH),
    "cbam": (lambda: image(with_block(Cbam)), BOTH),
    "coordinate_attention": (lambda: image(with_block(Coordinate)), BOTH),
    "non_local": (lambda: image(with_block(NonLocal)), BOTH),
    "pspnet": (lambda: image(PyramidPooling(), dims=FIXED), BOTH),
    "bifpn": (lambda: image(BiFpn(), size=64), BOTH),
    "centernet": (lambda: image(CenterNet()), OLD),
    "hourglass": (lambda: image(Hourglass()), OLD),
    "dcgan": (lambda: specimen(dcgan(), noise=(torch.randn(2, 16), "batch _")), BOTH),
    "stylegan": (lambda: specimen(StyleGan(), noise=(torch.randn(2, 16), "batch _")), BOTH),
    "film": (lambda: specimen(Film(), image=(torch.randn(2, 3, 16, 16), SIDES), condition=(torch.randn(2, 8), "batch _")), BOTH),
    "unet_3d": (lambda: specimen(Volumes(), volume=(torch.randn(2, 1, 8, 8, 8), "batch _ _ _ _")), BOTH),
    "lstm": (lambda: ids(Recurrent("LSTM", False)), BOTH),
    "bilstm": (lambda: ids(Recurrent("LSTM", True, "tokens")), BOTH),
    "gru": (lambda: ids(Recurrent("GRU", False, "mean")), BOTH),
    "bigru": (lambda: ids(Recurrent("GRU", True)), OLD),
    "rnn": (lambda: ids(Recurrent("RNN", True, "mean")), OLD),
    "gru_seq2seq": (lambda: specimen(Translate(), source=(torch.randint(0, 50, (2, 9)), "batch source"), target=(torch.randint(0, 50, (2, 6)), "batch target")), BOTH),
    "lstm_streaming": (lambda: specimen(Stepwise(), frames=(torch.randn(5, 2, 16), "time batch _"), h=(torch.randn(2, 2, 32), "_ batch _"), c=(torch.randn(2, 2, 32), "_ batch _")), BOTH),
    "crnn": (lambda: specimen(Crnn(), image=(torch.randn(2, 1, 32, 64), "batch _ _ width")), BOTH),
    "gru_cell": (lambda: frames(Cells(), 8, "batch _ _"), BOTH),
    "wavenet": (lambda: specimen(WaveNet(), sound=(torch.randn(2, 8, 32), "batch _ samples")), BOTH),
    "text_cnn": (lambda: ids(TextCnn()), BOTH),
    **{f"attention_{how}": (lambda how=how: attention(how), BOTH) for how in HOWS},
    "attention_axial": (lambda: image(Axial(), dims=FIXED), BOTH),
    "attention_windows": (lambda: image(Windows(), dims=FIXED), BOTH),
    "attention_windows_sides": (lambda: image(Windows()), OLD),
    "attention_efficient": (lambda: image(Lightweight()), BOTH),
    "perceiver": (lambda: specimen(Perceiver(), points=(torch.randn(2, 20, 12), "batch points _")), NEW),
    "perceiver_one": (lambda: specimen(Perceiver(), points=(torch.randn(1, 20, 12), "batch _ _")), OLD),
    "encoder_post": (lambda: frames(Encoder(False), 48), NEW),
    "encoder_post_one": (lambda: frames(Encoder(False), 48, "batch _ _", 1), OLD),
    "encoder_pre": (lambda: frames(Encoder(True), 48), NEW),
    "encoder_pre_one": (lambda: frames(Encoder(True), 48, "batch _ _", 1), OLD),
    "encoder_decoder": (lambda: specimen(EncoderDecoder(), **dict(zip(("source", "target"), pair(), strict=True))), NEW),
    "encoder_decoder_one": (lambda: specimen(EncoderDecoder(), source=(torch.randn(1, 9, 48), "batch _ _"), target=(torch.randn(1, 6, 48), "batch _ _")), OLD),
    "experts_soft": (lambda: frames(Experts(True), 32), BOTH),
    "experts_topk": (lambda: frames(Experts(False), 32), OLD),
    "conformer": (lambda: frames(Conformer(), 48), BOTH),
    "diffusion_unet": (lambda: specimen(Diffusion(), latent=(torch.randn(2, 4, 16, 16), FIXED), step=(torch.rand(2) * 100, "batch"), context=(torch.randn(2, 7, 24), "batch tokens _")), BOTH),
    "vae_decoder": (lambda: image(VaeDecoder(), 4, 8, FIXED), BOTH),
    "vae_encoder": (lambda: image(VaeEncoder()), OLD),
    "dit": (lambda: specimen(Dit(), latent=(torch.randn(2, 4, 16, 16), FIXED), condition=(torch.randn(2, 16), "batch _")), BOTH),
    "dlrm": (lambda: specimen(Dlrm(), dense=(torch.randn(2, 8), "batch _"), ids=(torch.randint(0, 20, (2, 3)), "batch _")), BOTH),
    "siamese": (lambda: specimen(Siamese(), left=(torch.randn(2, 1, 32, 32), FIXED), right=(torch.randn(2, 1, 32, 32), FIXED)), BOTH),
    "pointnet": (lambda: specimen(PointNet(), points=(torch.randn(2, 3, 40), "batch _ points")), BOTH),
    "graph_attention": (lambda: specimen(GraphNet(), nodes=(torch.randn(2, 9, 8), "batch nodes _"), adjacency=(torch.rand(2, 9, 9), "batch nodes nodes")), BOTH),
    "nbeats": (lambda: specimen(NBeats(), past=(torch.randn(2, 16), "batch _")), BOTH),
    "nerf": (lambda: specimen(Nerf(), points=(torch.randn(2, 9, 3), "batch points _")), BOTH),
    "tabular": (lambda: specimen(Tabular(), table=(torch.randn(2, 6), "batch _")), BOTH),
}  # fmt: skip

RECIPES = {f"own_{name}": Recipe(make, exporters) for name, (make, exporters) in MAKERS.items()}
