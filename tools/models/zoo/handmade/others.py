"""Networks of tables, graphs, points, pairs and rays."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from tools.models.zoo.handmade.attention import Block
from tools.models.zoo.handmade.layers import conv


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
