"""Training: AdamW on augmented digits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.models.digits.data import SEED, Digits, augment
from tools.models.digits.recipes import Recipe

BATCH_SIZE = 128
WARM_UP = 0.1
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1


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
