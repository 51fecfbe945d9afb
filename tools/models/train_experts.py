"""Train a tiny language model with a mixture of experts on text of Python's own library, and export it.

Tokens are bytes; the text is that of `pydoc_data.topics`, which every Python has. Two layers of causal attention and of
eight experts, of which two answer each byte. It takes some minutes on two cores, and about 400 kB.

    python -m tools.models.train_experts FOLDER [--steps 1500]

The folder gets ``experts.onnx``; ``unrolled.onnx``, the same network with a loop over experts as the networks of
transformers have it, which an exporter unrolls; and texts that the training did not see: ``calibration.npz`` and
``eval.npz``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from pydoc_data import topics

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

LENGTH = 64  # bytes of a text
WIDTH, HEADS, INNER = 48, 4, 48
EXPERTS, PICKED, LAYERS = 8, 2, 2
HELD_OUT = 0.1  # of the text, at its end
SAMPLES = {"calibration": 128, "eval": 256}


class Attention(nn.Module):
    """Causal attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Return the sums of values ``[texts, bytes, width]``."""
        heads = self.qkv(a).reshape(a.shape[0], a.shape[1], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        return self.out(found.transpose(1, 2).reshape(a.shape))


class Experts(nn.Module):
    """The sum of the answers of the best experts, by their shares."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH) / INNER**0.5)
        self.balance = torch.zeros(())

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Return the sums ``[texts, bytes, width]``."""
        scores = self.router(a)
        best, which = scores.topk(PICKED, -1)
        shares = torch.zeros_like(scores).scatter(-1, which, best.softmax(-1))
        if self.training:  # Fedus et al. 2022, "Switch Transformers", equation 4, at a tenth of its usual strength
            self.balance = EXPERTS * ((shares > 0).float().mean((0, 1)) * scores.softmax(-1).mean((0, 1))).sum()
        inner = F.gelu(torch.einsum("btd,edf->btef", a, self.up))
        answers = torch.einsum("btef,efd->bted", inner, self.down)
        return (answers * shares[..., None]).sum(2)


class Expert(nn.Module):
    """One of the experts, with weights of its own."""

    def __init__(self, up: torch.Tensor, down: torch.Tensor) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, INNER, bias=False), nn.Linear(INNER, WIDTH, bias=False)
        self.up.weight, self.down.weight = nn.Parameter(up.T), nn.Parameter(down.T)

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Return the answers ``[rows, width]``."""
        answers: torch.Tensor = self.down(F.gelu(self.up(a)))
        return answers


class Unrolled(nn.Module):
    """The same sum, expert by expert: each answers the rows that it is picked for, as in transformers' Mixtral."""

    def __init__(self, mixture: Experts) -> None:
        super().__init__()
        self.router = mixture.router
        self.experts = nn.ModuleList(map(Expert, mixture.up.detach(), mixture.down.detach()))

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Return the sums ``[texts, bytes, width]``."""
        rows = a.reshape(-1, WIDTH)
        best, which = self.router(rows).topk(PICKED, -1)
        shares, total = best.softmax(-1), torch.zeros_like(rows)
        mask = F.one_hot(which, EXPERTS).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            place, row = torch.where(mask[number])
            total.index_add_(0, row, expert(rows[row]) * shares[row, place, None])
        return total.reshape(a.shape)


class Model(nn.Module):
    """Bytes in, scores of the next byte out."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(256, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH) / 10)
        self.attentions = nn.ModuleList(Attention() for _ in range(LAYERS))
        self.experts = nn.ModuleList(Experts() for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * LAYERS + 1))
        self.head = nn.Linear(WIDTH, 256, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return scores ``[texts, bytes, 256]`` of bytes ``[texts, bytes]``."""
        stream = self.table(input_ids) + self.places[: input_ids.shape[1]]
        for layer, (attention, experts) in enumerate(zip(self.attentions, self.experts, strict=True)):
            stream = stream + attention(self.norms[2 * layer](stream))
            stream = stream + experts(self.norms[2 * layer + 1](stream))
        scores: torch.Tensor = self.head(self.norms[-1](stream))
        return scores


def text() -> np.ndarray:
    """Return all bytes of the text."""
    return np.frombuffer("\n".join(topics.topics[name] for name in sorted(topics.topics)).encode(), np.uint8)


def windows(source: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return texts ``[count, LENGTH]`` that begin anywhere."""
    starts = rng.integers(0, len(source) - LENGTH, count)
    return np.asarray(source[starts[:, None] + np.arange(LENGTH)], np.int64)


def train(steps: int, seed: int = 0) -> Model:
    """Return a trained model."""
    torch.manual_seed(seed)
    rng, source, model = np.random.default_rng(seed), text(), Model()
    seen = source[: int((1 - HELD_OUT) * len(source))]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    start = time.perf_counter()
    for step in range(steps):
        ids = torch.from_numpy(windows(seen, 32, rng))
        scores = model(ids[:, :-1])
        loss = F.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten())
        balance = torch.stack([layer.balance for layer in model.experts if isinstance(layer, Experts)]).mean()
        optimizer.zero_grad()
        (loss + 0.001 * balance).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    return model.eval()


def export(model: Model, path: Path) -> None:
    """Write a model as the older exporter of PyTorch does."""
    dims = {"input_ids": {0: "batch", 1: "length"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.arange(16).reshape(2, 8),), path, dynamo=False, opset_version=17,
            input_names=["input_ids"], output_names=["logits"], dynamic_axes={**dims, "logits": dims["input_ids"]},
        )  # fmt: skip


def write(model: Model, folder: Path, seed: int = 1) -> None:
    """Write a model, and texts that it was not trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    export(model, folder / "experts.onnx")
    model.experts = nn.ModuleList(Unrolled(each) for each in model.experts if isinstance(each, Experts))
    export(model, folder / "unrolled.onnx")
    rng, source = np.random.default_rng(seed), text()
    held = source[int((1 - HELD_OUT) * len(source)) :]
    half = len(held) // 2
    for name, part in (("calibration", held[:half]), ("eval", held[half:])):
        np.savez(folder / f"{name}.npz", input_ids=windows(part, SAMPLES[name], rng))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    write(train(arguments.steps), arguments.folder)
