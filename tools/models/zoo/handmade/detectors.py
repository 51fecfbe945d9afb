"""Detectors and networks of key points."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from tools.models.zoo.handmade.layers import Residual, conv


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
        boxes = []
        for i, (layer, x) in enumerate(zip(self.m, maps, strict=True)):
            y = layer(x)
            b, _, ny, nx = y.shape
            y = y.view(b, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
            yv, xv = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
            grid = torch.stack((xv, yv), 2).view(1, 1, ny, nx, 2).float()
            xy, wh, conf = y.split((2, 2, self.no - 4), 4)
            xy = (xy * 2 + grid - 0.5) * 8 * 2**i
            wh = (wh * 2) ** 2 * self.anchors[i]
            boxes.append(torch.cat((xy, wh, conf), 4).view(b, self.na * nx * ny, self.no))
        return torch.cat(boxes, 1)


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
