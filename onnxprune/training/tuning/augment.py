"""Other views of samples: images are cropped, mirrored, coloured and mixed, text is cut into windows.

Nothing has to be known of what they show: the teacher says of each view what it says of it (Beyer et al. 2022,
Knowledge Distillation: A Good Teacher is Patient and Consistent). Every view follows from the seed and the step alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from onnxprune.data.samples import Data
from onnxprune.errors import OptionError
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array
from onnxprune.metrics.arrays import counts_up, mask_input, side_of

_LEAST_SIDE = 16  # of an image, in pixels
_LEAST_FLIPPED = 48  # of an image that is mirrored without being asked: digits are not
_LEAST_AREA = 0.5  # of a crop, of the image
_SHIFT = 0.1  # of a crop beyond the border, of the side
_GAIN, _OFFSET = 0.3, 0.15  # of colours, of their range
_MIXED = 0.5  # of the samples are mixed with another one
_WINDOWS = (1.0, 0.75, 0.5)  # lengths of windows of text: few, for each is a form of its own
_LEAST_WINDOW = 16  # tokens


@dataclass(frozen=True)
class Augmenter:
    """What is done to samples."""

    ways: tuple[str, ...]
    images: Mapping[str, int]  # inputs that are images, and the axis of their channels
    texts: tuple[str, ...]  # inputs of tokens ``[samples, tokens]``
    seed: int

    def __call__(self, feeds: Mapping[str, Array], step: int, part: int) -> dict[str, Array]:
        """Return another view of the samples of a run."""
        if not self.ways:
            return dict(feeds)
        rng = np.random.default_rng((self.seed, step, part))
        views = dict(feeds)
        for name, channels in self.images.items():
            views[name] = _viewed(feeds[name], channels, self.ways, np.random.default_rng((self.seed, step, part, 1)))
        if "window" in self.ways and self.texts:
            views.update(_window({name: feeds[name] for name in self.texts}, rng))
        return views


def augmenter(
    ways: Sequence[str] | None, data: Data, inputs: Sequence[Port], *, is_language: bool, has_labels: bool, seed: int
) -> Augmenter:
    """Return what is done to samples of these inputs.

    Args:
        ways: see `training.settings.AUGMENTATIONS`; None: those that fit.
        data: the samples.
        inputs: of the model.
        is_language: whether it is a language model: only then is a window of a text a text.
        has_labels: whether the loss needs labels, which a mixture has not.
        seed: of the views.

    Raises:
        OptionError: when mixtures are asked for that have no labels.
    """
    feeds = data.take([0])
    images = {port.name: axis for port in inputs if (axis := _channel_axis(port, feeds[port.name], data)) is not None}
    texts = tuple(port.name for port in inputs if _is_text(port, feeds[port.name]))
    if ways is None:
        sides = [min(feeds[name].shape[2:4] if axis == 1 else feeds[name].shape[1:3]) for name, axis in images.items()]
        coloured = all(feeds[name].shape[axis] == 3 for name, axis in images.items())
        flipped = coloured and min(sides, default=0) >= _LEAST_FLIPPED
        mixed = bool(images) and not has_labels
        ways = [*["crop"] * bool(images), *["flip"] * flipped, *["colour"] * bool(images), *["mix"] * mixed]
        ways += ["window"] * (is_language and bool(texts))
    elif "mix" in ways and has_labels:
        raise OptionError(
            "augmentation 'mix' does not fit a loss that sees labels, for a mixture of samples has none: leave it out"
        )
    return Augmenter(tuple(ways) if images or texts else (), images, texts, seed)


def _channel_axis(port: Port, array: Array, data: Data) -> int | None:
    """Return the axis of channels of an image; None of anything else."""
    if array.ndim != 4 or "float" not in array.dtype.name or port.name in data.axes or port.name in data.shared:
        return None
    for axis, sides in ((1, array.shape[2:]), (3, array.shape[1:3])):
        if array.shape[axis] in (1, 3) and min(sides) >= _LEAST_SIDE:
            return axis
    return None


def _is_text(port: Port, array: Array) -> bool:
    """Whether an input takes tokens, of any number."""
    is_open = port.shape is not None and len(port.shape) == 2 and not isinstance(port.shape[1], int)
    return is_open and array.ndim == 2 and array.dtype.kind in "iub"


# -- images ------------------------------------------------------------------------------------------------


def _viewed(array: Array, channels: int, ways: Sequence[str], rng: np.random.Generator) -> Array:
    """Return other views of images ``[samples, channels, height, width]``, or with channels last."""
    images = torch.from_numpy(np.ascontiguousarray(array.astype(np.float32)))
    images = images.permute(0, 3, 1, 2) if channels == 3 else images
    low, high = float(images.min()), float(images.max())
    if "crop" in ways or "flip" in ways:
        images = _moved(images, ways, rng)
    if "colour" in ways:
        images = _coloured(images, low, high, rng)
    if "mix" in ways:
        images = _mixed(images, rng)
    images = images.permute(0, 2, 3, 1) if channels == 3 else images
    return images.contiguous().numpy().astype(array.dtype, copy=False)


def _moved(images: torch.Tensor, ways: Sequence[str], rng: np.random.Generator) -> torch.Tensor:
    """Return crops, some of them mirrored; what lies beyond the border repeats it."""
    count = len(images)
    maps = np.zeros((count, 2, 3), np.float32)
    area = rng.uniform(_LEAST_AREA, 1.0, count) if "crop" in ways else np.ones(count)
    aspect = np.exp(rng.uniform(-0.2, 0.2, count)) if "crop" in ways else np.ones(count)
    sides = np.sqrt(area * aspect), np.sqrt(area / aspect)
    for axis, side in enumerate(sides):
        room = np.abs(1 - side) + (_SHIFT if "crop" in ways else 0.0)
        maps[:, axis, axis] = side
        maps[:, axis, 2] = rng.uniform(-1, 1, count) * room
    if "flip" in ways:
        maps[:, 0, 0] *= np.where(rng.random(count) < 0.5, -1, 1)
    grid = functional.affine_grid(torch.from_numpy(maps), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _coloured(images: torch.Tensor, low: float, high: float, rng: np.random.Generator) -> torch.Tensor:
    """Return images with another contrast and brightness, a little different in each channel."""
    count, channels = images.shape[:2]

    def drawn(spread: float) -> torch.Tensor:
        both = (
            rng.uniform(-spread, spread, (count, 1, 1, 1)) + rng.uniform(-spread, spread, (count, channels, 1, 1)) / 3
        )
        return torch.from_numpy(both.astype(np.float32))

    middle = images.mean((1, 2, 3), keepdim=True)
    changed = middle + (images - middle) * (1 + drawn(_GAIN)) + (high - low) * drawn(_OFFSET) * (channels == 3)
    return changed.clamp(low, high)


def _mixed(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization."""
    count = len(images)
    shares = np.where(rng.random(count) < _MIXED, rng.random(count), 1.0).astype(np.float32)
    own = torch.from_numpy(shares)[:, None, None, None]
    others = images[torch.from_numpy(rng.permutation(count))]
    return own * images + (1 - own) * others


# -- text --------------------------------------------------------------------------------------------------


def _window(feeds: Mapping[str, Array], rng: np.random.Generator) -> dict[str, Any]:
    """Return a part of each text."""
    length = min(array.shape[1] for array in feeds.values())
    window = max(min(length, _LEAST_WINDOW), int(length * _WINDOWS[rng.integers(len(_WINDOWS))]))
    start = int(rng.integers(length - window + 1))
    views: dict[str, Array] = {}
    for side in sorted({side_of(name) for name in feeds}):  # an encoder and a decoder have a text each
        own = {name: array for name, array in feeds.items() if side_of(name) == side}
        views.update(cut_text(own, _on_text(own, start, length, window), window))
    return views


def _on_text(feeds: Mapping[str, Array], start: int, length: int, window: int) -> int | Array:
    """Return where windows begin so that each holds as much of its text as it can: padding teaches nothing."""
    mask = mask_input(feeds, (len(next(iter(feeds.values()))), length))
    if mask is None:
        return start
    text = feeds[mask][:, :length] != 0
    first, behind = text.argmax(1), length - text[:, ::-1].argmax(1)
    lowest = np.minimum(first, length - window)
    starts: Array = np.clip(start, lowest, np.maximum(lowest, behind - window))
    return starts


def cut_text(feeds: Mapping[str, Array], start: int | Array, length: int) -> dict[str, Array]:
    """Return so many tokens of each text; positions go on counting from where they began.

    Args:
        feeds: inputs of tokens ``[samples, tokens]``.
        start: the first token, of all texts or of each one ``[samples]``.
        length: tokens that are left.
    """
    places = np.reshape(start, (-1, 1)) + np.arange(length)
    return {
        name: array[:, :length] if counts_up(array) else np.take_along_axis(array, places, 1)
        for name, array in feeds.items()
    }
