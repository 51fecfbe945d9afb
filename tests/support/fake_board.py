"""A board that nobody has: the time of a model follows from its weights, with noise that a seed draws.

As a function it is ``tests.support.fake_board:quiet``, or a `Board`; as a command it is run with the path of a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx

RATE = 1e-3  # ms for each weight
ALONE = 2.0  # ms that every model takes


def quiet(path):
    """Return the time of a file in ms, without noise: so much for each weight that it holds."""
    graph = onnx.load(path, load_external_data=False).graph
    return ALONE + RATE * sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)


class Board:
    """A board whose times vary, and that remembers what it was asked."""

    def __init__(self, spread=0.0, seed=0):
        self.spread, self.rng, self.asked = spread, np.random.default_rng(seed), []

    def __call__(self, path):
        self.asked.append(Path(path).name)
        return quiet(path) * (1 + self.spread * self.rng.standard_normal())


if __name__ == "__main__":
    print(f"ran {Path(sys.argv[1]).name}\nlatency: {quiet(sys.argv[1]):.6f} ms")
