"""Networks of diffusion models: U-Net, transformer, encoder and decoder of latents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from tools.models.zoo.handmade.attention import Attention
from tools.models.zoo.handmade.layers import Residual


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
