"""Attention, each idiom once, and the blocks around it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from tools.models.zoo.handmade.layers import conv


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
