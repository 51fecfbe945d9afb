"""Mixers: convolutions that are not fitted as a whole, because they are transposed or their patches are large."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.linear import Positions, by_channel, is_float, is_own, positions_of, some_places
from onnxprune.graph.model import Model, Node
from onnxprune.graph.tensors import Array


@dataclass(frozen=True, slots=True)
class Mixer:
    """A convolution that is not fitted as a whole: the kept channels are mixed to make up for the removed ones.

    With x ≈ M x' for the channels of the original and the kept ones, the weight becomes W M, tap by tap. Of many
    channels, W M is fitted to W x at once: M is square.
    """

    node: Node
    weight: str
    dim: int  # of the weight, along which its input channels lie
    whole: Array | None = None  # ``[outputs · taps, channels]`` of the original; its products are what is fitted to

    @property
    def constants(self) -> tuple[str, ...]:
        """The names of what is fitted."""
        return (self.weight,)

    @property
    def input(self) -> str:
        """The name of the value that is multiplied."""
        return self.node.inputs[0]

    @property
    def output(self) -> str:
        """The name of its output."""
        return self.node.outputs[0]

    def rows(self, values: Array, at: Positions) -> Array:
        """Return an input at some positions: ``[1, rows, channels]``."""
        return by_channel(values, at)[None]

    def targets(self, values: Array, at: Positions) -> Array:
        """Return what the kept channels shall give, ``[1, rows, ...]``: all channels, or the products of `whole`."""
        rows = self.rows(values, at)
        return rows if self.whole is None else np.asarray(rows @ self.whole.T)

    def places(self, shape: tuple[int, ...], limit: int, rng: np.random.Generator) -> Positions:
        """Return at most `limit` of the positions of an input of `shape`, ascending."""
        return some_places(positions_of(shape), limit, rng)

    def flat(self, weight: Array) -> Array:
        """Return a stored weight as ``[outputs · taps, channels]``."""
        last = np.moveaxis(weight, self.dim, -1)
        return last.reshape(-1, last.shape[-1])

    def stored(self, flat: Array, like: Array) -> Array:
        """Return the weight to store for ``[outputs · taps, channels]``, in shape and type as it was."""
        last = flat.reshape(np.moveaxis(like, self.dim, -1).shape)
        return np.ascontiguousarray(np.moveaxis(last, -1, self.dim)).astype(like.dtype, copy=False)


def mixers(model: Model, widest: int) -> Iterator[Mixer]:
    """Yield transposed convolutions, and convolutions whose patches have more than `widest` inputs, in order.

    Those with groups are left out, and those of one tap: these multiply with a matrix.
    """
    for index in model.top:
        node = model.nodes[index]
        weight = model.constants.get(node.inputs[1]) if node.op in ("Conv", "ConvTranspose") else None
        if weight is None or node.attrs.get("group", 1) != 1 or not is_float(weight.dtype):
            continue
        wide = math.prod(weight.shape[2:]) > 1 and math.prod(weight.shape[1:]) > widest
        if is_own(weight.name, model) and (wide or node.op == "ConvTranspose"):
            yield Mixer(node, weight.name, 1 if node.op == "Conv" else 0)
