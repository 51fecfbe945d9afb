"""Compensation: biases give back what a cut takes on average.

An et al. 2023, "Fluctuation-based Adaptive Structured Pruning for Large Language Models", baseline bias compensation:
what a layer summed over the removed units is replaced by its mean over the calibration samples in the original, which
is added to the bias. Weights stay as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.dependency.axes import Atom, Mask, kept_mask
from onnxprune.dependency.trace import Trace
from onnxprune.graph.linear import Layer, layers
from onnxprune.graph.tensors import Array
from onnxprune.progress import Progress, silent
from onnxprune.recovery.refit import COPIED, Refitted
from onnxprune.runtime.replay import Feeds, Replay, in_parts
from onnxprune.surgery.rewrite import Cut

NO_BIAS = "it has no bias of its own, and none can be added"
_ROWS = 4_096  # positions of a convolution that are looked at in a batch
_AT_ONCE = 256 * 2**20  # bytes of inputs of layers that one run returns, about


@dataclass(frozen=True, eq=False)
class _Losing:
    """A layer that loses inputs."""

    layer: Layer
    removed: Mask  # bool ``[channels]`` of its input, True where a channel goes
    dim: int  # of its input, along which the channels lie


def compensate(
    traced: Trace,
    masks: Mapping[Atom, Mask],
    cuts: Mapping[str, Cut],
    batches: Sequence[Feeds],
    *,
    bytes_of: Callable[[str], float],
    copies: Collection[str] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[dict[str, Array], list[Refitted]]:
    """Return new contents of the biases of the pruned model, by name, and the outcome for each layer that lost inputs.

    Args:
        traced: the original with its axes.
        masks: bool ``[units]`` of the atoms that lost units.
        cuts: where the constants of the pruned model came from.
        batches: calibration feeds.
        bytes_of: a value, by its name, in a batch.
        copies: biases of the original that keep their numbers, see `refit`.
        seed: of the positions that are drawn.
        progress: called before each step.

    Raises:
        ModelError: when the model cannot be run.
    """
    losing = list(losing_layers(traced, masks))
    able = [each for each in losing if _outcome(each.layer, copies).why_not is None]
    means = _means(traced, able, batches, bytes_of, seed, progress)
    names = {cut.source: name for name, cut in cuts.items()}
    contents: dict[str, Array] = {}
    for each, mean in zip(able, means, strict=True):
        bias = str(each.layer.bias)
        name = names.get(bias, bias)
        whole = _shifted(traced, each.layer, mean)
        contents[name] = _kept(whole, cuts.get(name, Cut(bias, {})))
    outcomes = [_outcome(each.layer, copies) for each in losing]
    return contents, outcomes


def _outcome(layer: Layer, copies: Collection[str]) -> Refitted:
    """Return the outcome for a layer that loses inputs."""
    why = NO_BIAS if layer.bias is None else COPIED if layer.bias in copies else None
    return Refitted(layer.node.name, layer.node.op, math.inf if why is None else None, None, None, why)


def losing_layers(traced: Trace, masks: Mapping[Atom, Mask]) -> Iterator[_Losing]:
    """Yield the layers that lose inputs, in order."""
    for layer in layers(traced.model):
        axes = traced.axes(traced.values.get(layer.input, ()))
        dim = 1 if layer.window else len(axes) - 1
        if dim < len(axes):
            kept = kept_mask(axes[dim], masks)
            if not kept.all():
                yield _Losing(layer, ~kept, dim)


def _shifted(traced: Trace, layer: Layer, mean: Array) -> Array:
    """Return the bias of a layer of the original with what the removed inputs give on average, ``[groups, ins]``."""
    stored = traced.model.array(str(layer.bias))
    matrix = layer.matrix(traced.model.array(layer.weight))
    return layer.stored_bias(layer.added(stored) + np.einsum("goi,gi->go", matrix, mean), stored)


def _kept(whole: Array, cut: Cut) -> Array:
    """Return the part of a constant that a cut keeps."""
    for dim, places in cut.kept.items():
        whole = whole.take(np.asarray(places, np.intp), axis=dim)
    return whole


def _means(  # noqa: PLR0917 - as `compensate`
    traced: Trace,
    losing: Sequence[_Losing],
    batches: Sequence[Feeds],
    bytes_of: Callable[[str], float],
    seed: int,
    progress: Progress,
) -> list[Array]:
    """Return the mean of what each layer multiplies with, zero where it stays: ``[groups, ins]``, float64."""
    sums: list[Array] = [np.zeros(())] * len(losing)
    counts, rng = [0] * len(losing), np.random.default_rng(seed)
    replay, done = Replay(traced.model, batches), 0
    for part in in_parts([bytes_of(each.layer.input) for each in losing], _AT_ONCE):
        progress("looking at means", done, len(losing))
        if done:
            replay.reach(losing[part[0]].layer.node.outputs[0])
        for values in replay.run([losing[number].layer.input for number in part]):
            for number in part:
                rows = _rows(losing[number], values, rng)
                sums[number] = sums[number] + rows.sum(1, dtype=np.float64)
                counts[number] += rows.shape[1]
        done += len(part)
    return [total / count for total, count in zip(sums, counts, strict=True)]


def _rows(each: _Losing, values: Mapping[str, Array], rng: np.random.Generator) -> Array:
    """Return what a layer multiplies with of the channels that go: ``[groups, rows, ins]``."""
    layer, value = each.layer, values[each.layer.input]
    beside = [1] * (value.ndim - each.dim - 1)
    gone = np.where(each.removed.reshape(-1, *beside), value, np.zeros((), value.dtype))
    if layer.window is None:
        return gone.reshape(1, -1, gone.shape[-1])
    shape = (len(value), 1, *layer.window.sizes(value.shape[2:]))
    return layer.rows(gone, layer.places(shape, _ROWS, rng))
