"""Recurrent and convolutional networks of sequences."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from tools.models.zoo.handmade.layers import conv


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
