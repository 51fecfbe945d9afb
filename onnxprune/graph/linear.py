"""Linear layers: the nodes whose output is a constant matrix times their input, and how to see them as that.

A `Layer` says which node it is, where its weight and bias lie, and turns arrays into matrices: the weight into
``[groups, outs, ins]``, its input into rows ``[groups, rows, ins]`` (a convolution sees patches), its output into
``[groups, rows, outs]``, so that ``targets = rows @ weight.T + bias``. Least squares needs no more of a graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxprune.graph.model import Constant, Model, Node
from onnxprune.graph.tensors import Array

Positions = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution moves over its input."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]  # begins, then ends; ignored where `same` is set
    dilations: tuple[int, ...]
    same: Literal["", "upper", "lower"] = ""  # of auto_pad SAME: the end that gets the odd pad

    def padding(self, spatial: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return what is put before and behind each spatial axis of an input of these sizes."""
        rank = len(self.kernel)
        if not self.same:
            return list(zip(self.pads[:rank], self.pads[rank:], strict=True))
        pads = []
        for size, kernel, stride, dilation in zip(spatial, self.kernel, self.strides, self.dilations, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
            less, more = total // 2, total - total // 2
            pads.append((less, more) if self.same == "upper" else (more, less))
        return pads

    def sizes(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Return the spatial sizes of the output."""
        return tuple(
            (size + sum(pads) - self.dilations[i] * (self.kernel[i] - 1) - 1) // self.strides[i] + 1
            for i, (size, pads) in enumerate(zip(spatial, self.padding(spatial), strict=True))
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """A node that multiplies with a constant matrix, with the bias and the normalisation behind it."""

    node: Node
    weight: str  # the constant
    output: str  # its output, bias included
    bias: str | None = None  # the constant that is added to each output
    groups: int = 1
    window: Window | None = None  # of a convolution
    transposed: bool = False  # the weight is stored as ``[ins, outs]``
    gain: Array | None = None  # ``[outs]``, by which a BatchNormalization multiplies
    offset: Array | None = None  # ``[outs]``, what it adds beside the bias
    share: float = 1.0  # of the bias that is added, not 0 where there is one
    fixed: Array | None = None  # ``[outs]``, what is added and cannot be fitted: others share it

    @property
    def input(self) -> str:
        """The name of the value that is multiplied."""
        return self.node.inputs[0]

    @property
    def constants(self) -> tuple[str, ...]:
        """The names of what is fitted."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def matrix(self, weight: Array, dtype: type[np.floating[Any]] = np.float64) -> Array:
        """Return a stored weight as what the layer multiplies with: ``[groups, outs, ins]``, of a type."""
        wide = weight.astype(dtype)
        flat = wide.T if self.transposed else wide.reshape(len(wide), -1)
        if self.gain is not None:
            flat = flat * self.gain[:, None].astype(dtype)
        return flat.reshape(self.groups, len(flat) // self.groups, -1)

    def shape(self, stored: tuple[int, ...]) -> tuple[int, int, int]:
        """Return groups, outs and ins of a weight that is stored in a shape."""
        outs, ins = stored[::-1] if self.transposed else (stored[0], math.prod(stored[1:]))
        return self.groups, outs // self.groups, ins

    def stored(self, matrix: Array, like: Array) -> Array:
        """Return the weight to store for a matrix ``[groups, outs, ins]``, in shape and type as it was."""
        flat = matrix.reshape(-1, matrix.shape[-1])
        if self.gain is not None:  # an output that is multiplied by zero keeps its weights
            safe = np.where(self.gain == 0, 1, self.gain)[:, None]
            old = like.T if self.transposed else like.reshape(len(like), -1)
            flat = np.where(self.gain[:, None] == 0, old, flat / safe)
        whole = np.ascontiguousarray(flat.T if self.transposed else flat).reshape(like.shape)
        return whole.astype(like.dtype, copy=False)

    def added(self, bias: Array) -> Array:
        """Return a stored bias as what the layer adds: ``[groups, outs]``, float64."""
        flat = self.share * bias.astype(np.float64).reshape(-1)
        return (flat if self.offset is None else flat + self.offset).reshape(self.groups, -1)

    def stored_bias(self, added: Array, like: Array) -> Array:
        """Return the bias to store for what the layer shall add, ``[groups, outs]``."""
        flat = added.reshape(-1)
        own = (flat if self.offset is None else flat - self.offset) / self.share
        return own.reshape(like.shape).astype(like.dtype)

    def places(self, shape: tuple[int, ...], limit: int, rng: np.random.Generator) -> Positions:
        """Return at most `limit` of the positions of an output of `shape`, ascending: flat indices of its rows."""
        count = positions_of(shape) if self.window else math.prod(shape[:-1])
        return some_places(count, limit, rng)

    def rows(self, values: Array, at: Positions) -> Array:
        """Return what the layer multiplies with at some positions of the output: ``[groups, rows, ins]``."""
        if self.window is None:
            return values.reshape(-1, values.shape[-1])[at][None].astype(np.float32)
        patches = _patches(values, self.window, at)  # [rows, channels, taps]
        flat = patches.reshape(len(at), self.groups, math.prod(patches.shape[1:]) // self.groups)
        return flat.transpose(1, 0, 2).astype(np.float32)

    def channels(self, values: Array, at: Positions) -> Array:
        """Return what a convolution sees in the middle of each patch: ``[1, rows, channels]``."""
        assert self.window is not None
        middle = tuple(size // 2 for size in self.window.kernel)
        return _patches(values, self.window, at, [middle])[None, :, :, 0].astype(np.float32)

    def targets(self, values: Array, at: Positions) -> Array:
        """Return an output at some positions, less what is fixed: ``[groups, rows, outs]``."""
        flat = by_channel(values, at) if self.window else values.reshape(-1, values.shape[-1])[at].astype(np.float32)
        if self.fixed is not None:
            flat = flat - self.fixed.astype(np.float32)
        return flat.reshape(len(at), self.groups, flat.shape[1] // self.groups).transpose(1, 0, 2)


@dataclass(frozen=True, slots=True)
class Norm:
    """A BatchNormalization: one number times each channel, plus one."""

    node: Node
    constants: tuple[str, str]  # of running mean and variance
    scale: Array  # ``[channels]``, before it is divided by the deviation
    shift: Array

    @property
    def input(self) -> str:
        """The name of the value that is normalised."""
        return self.node.inputs[0]

    @property
    def output(self) -> str:
        """The name of the normalised value."""
        return self.node.outputs[0]

    @property
    def _epsilon(self) -> float:
        return float(self.node.attrs.get("epsilon", 1e-5))

    @property
    def most(self) -> Array:
        """The largest gain that each channel can have, in magnitude: the one for a variance of 0."""
        return (
            np.asarray(np.abs(self.scale) / np.sqrt(self._epsilon)) if self._epsilon > 0 else np.abs(self.scale) * 1e6
        )

    def multiplied(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """Return what each channel is multiplied with, and what is added, with these statistics."""
        gain = self.scale / np.sqrt(variance.astype(np.float64) + self._epsilon)
        return gain, self.shift - gain * mean.astype(np.float64)

    def statistics(self, gain: Array, offset: Array) -> tuple[Array, Array]:
        """Return the mean and variance with which a channel is multiplied with `gain`, and `offset` is added."""
        safe = np.where(gain == 0, 1, gain)
        mean = np.where(gain == 0, 0, (self.shift - offset) / safe)
        variance = np.where(gain == 0, 1, (self.scale / safe) ** 2 - self._epsilon)
        return mean, np.maximum(variance, 0)

    def places(self, shape: tuple[int, ...], limit: int, rng: np.random.Generator) -> Positions:
        """Return at most `limit` of the positions of an output of `shape`, ascending."""
        return some_places(positions_of(shape), limit, rng)

    def rows(self, values: Array, at: Positions) -> Array:
        """Return the input at some positions: ``[channels, rows, 1]``."""
        return by_channel(values, at).T[:, :, None]

    targets = rows


def by_channel(values: Array, at: Positions) -> Array:
    """Return a value ``[samples, channels, ...]`` at some positions: ``[rows, channels]``, float32."""
    last = np.moveaxis(values, 1, -1)
    return last.reshape(-1, last.shape[-1])[at].astype(np.float32)


def positions_of(shape: tuple[int, ...]) -> int:
    """Return how many positions a value ``[samples, channels, ...]`` has."""
    return math.prod(shape[:1] + shape[2:])


def some_places(count: int, limit: int, rng: np.random.Generator) -> Positions:
    """Return at most `limit` of so many positions, ascending."""
    return np.arange(count) if count <= limit else np.sort(rng.choice(count, limit, replace=False))


def norms(model: Model) -> Iterator[Norm]:
    """Yield the BatchNormalizations of the main graph whose running statistics are constants of their own, in order."""
    for index in model.top:
        node = model.nodes[index]
        if node.op != "BatchNormalization" or node.attrs.get("training_mode", 0):
            continue
        names = node.inputs[1:5]
        known = all(name in model.constants and name not in model.overridable for name in names)
        known = known and all(
            len(model.constants[name].shape) == 1 for name in names
        )  # else a number for each position
        if known and all(len(model.readers[name]) == 1 for name in names[2:]):
            scale, shift = (model.array(name).astype(np.float64) for name in names[:2])
            yield Norm(node, (names[2], names[3]), scale, shift)


def _patches(values: Array, window: Window, at: Positions, taps_of: Sequence[tuple[int, ...]] | None = None) -> Array:
    """Return what a convolution sees at flat positions of its output, perhaps some taps: ``[rows, channels, taps]``."""
    sizes, pads = window.sizes(values.shape[2:]), window.padding(values.shape[2:])
    padded = np.pad(values, [(0, 0), (0, 0), *pads]) if any(map(any, pads)) else values
    sample, *starts = np.unravel_index(at, (len(values), *sizes))
    last = np.moveaxis(padded, 1, -1)
    taps = [
        last[(sample, *(start * window.strides[i] + tap[i] * window.dilations[i] for i, start in enumerate(starts)))]
        for tap in taps_of or np.ndindex(*window.kernel)
    ]
    return taps[0][..., None] if len(taps) == 1 else np.stack(taps, axis=-1)


def layers(model: Model) -> Iterator[Layer]:
    """Yield the linear layers of the main graph whose weight is a constant of their own, in order.

    A weight that several nodes read is left out: one matrix cannot be fitted to each of them.
    """
    kept = {port.name for port in model.outputs}
    for index in model.top:
        layer = _layer(model.nodes[index], model, kept)
        if isinstance(layer, Layer):
            yield layer


def why_no_layer(node: Node, model: Model) -> str:
    """Return why a node that multiplies with a weight is neither a layer nor a mixer; empty where it is a layer."""
    if node.index not in model.top:
        return "it is inside a body"
    if node.op == "ConvTranspose" and isinstance(_weight(node, model), Constant):
        return _why_not_own(node.inputs[1], model) or "it is a ConvTranspose with groups"
    layer = _layer(node, model, {port.name for port in model.outputs})
    return layer if isinstance(layer, str) else ""


def _layer(node: Node, model: Model, kept: set[str]) -> Layer | str:
    """Return a node as a layer, or why it is none."""
    domain, _, op = node.op.rpartition(".")
    make = _MAKERS.get(node.op)
    if node.op == "ConvTranspose" and isinstance(weight := _weight(node, model), str):
        return weight
    if make is None or len(node.inputs) < 2:
        return f"it is a fused operator: {op}" if domain else f"it is no linear layer: {op}"
    weight = _weight(node, model)
    if isinstance(weight, str):
        return weight
    layer = make(node, weight)
    if isinstance(layer, str):
        return layer
    if weight.name in kept:
        return "its weight is an output of the model"
    return _why_not_own(weight.name, model) or _with_bias(layer, model, kept)


def _weight(node: Node, model: Model) -> Constant | str:
    """Return the constant that a node multiplies its first input with, or why there is none."""
    weight = model.constants.get(_untransposed(node, model) or node.inputs[1])
    if weight is None:
        if node.inputs[1] not in model.fixed:
            return "its weight is the first factor" if node.inputs[0] in model.fixed else "its weight is computed"
        return "its weight is computed from constants"
    return weight if is_float(weight.dtype) else "its weight is quantized"


def _untransposed(node: Node, model: Model) -> str | None:
    """Return the matrix whose transpose a MatMul, and nothing else, multiplies with."""
    name = node.inputs[1]
    if name in model.constants or name not in model.fixed:
        return None
    maker = next((each for each in map(model.nodes.__getitem__, model.top) if name in each.outputs), None)
    if node.op != "MatMul" or maker is None or maker.op != "Transpose":
        return None
    alone = len(model.readers[name]) == 1 and name not in {port.name for port in model.outputs}
    swaps = maker.attrs.get("perm") in (None, [1, 0], (1, 0))
    return maker.inputs[0] if alone and swaps else None


_SAME: Mapping[str, Literal["upper", "lower"]] = {"SAME_UPPER": "upper", "SAME_LOWER": "lower"}


def _conv(node: Node, weight: Constant) -> Layer | str:
    rank = len(weight.shape) - 2
    ones = (1,) * rank
    auto = node.attrs.get("auto_pad", "NOTSET")
    if rank < 1:
        return "its weight has no spatial axis"
    window = Window(
        kernel=weight.shape[2:],
        strides=tuple(node.attrs.get("strides", ones)),
        pads=(0, 0) * rank if auto == "VALID" else tuple(node.attrs.get("pads", (0, 0) * rank)),
        dilations=tuple(node.attrs.get("dilations", ones)),
        same=_SAME.get(auto, ""),
    )
    return Layer(node, weight.name, node.outputs[0], groups=node.attrs.get("group", 1), window=window)


def _gemm(node: Node, weight: Constant) -> Layer | str:
    if node.attrs.get("transA", 0):
        return "it is a Gemm with transA"
    alpha, beta = (float(node.attrs.get(name, 1.0)) for name in ("alpha", "beta"))
    transposed = not node.attrs.get("transB", 0)
    outs = weight.shape[1 if transposed else 0]
    gain = None if alpha == 1 else np.full(outs, alpha)
    return Layer(node, weight.name, node.outputs[0], transposed=transposed, gain=gain, share=beta)


def _matmul(node: Node, weight: Constant) -> Layer | str:
    if len(weight.shape) != 2:
        return "its weight is no matrix"
    return Layer(node, weight.name, node.outputs[0], transposed=weight.name == node.inputs[1])


_MAKERS: Mapping[str, Callable[[Node, Constant], Layer | str]] = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}


def _why_not_own(constant: str, model: Model) -> str:
    """Return why a constant is not read by one place alone, or that a caller may replace it; empty where it is."""
    if len(model.readers[constant]) != 1:
        return "its weight is read by several nodes"
    return "a caller may replace its weight" if constant in model.overridable else ""


def is_own(constant: str, model: Model) -> bool:
    """Whether one place alone reads a constant, and no caller may replace it."""
    return not _why_not_own(constant, model)


def is_float(dtype: np.dtype[np.generic]) -> bool:
    """Whether numbers of this type can be fitted: floats of at least 16 bits."""
    return dtype.name in ("float16", "float32", "float64", "bfloat16")


def _with_bias(layer: Layer, model: Model, kept: set[str]) -> Layer | str:
    """Return the layer with what is added to it: by itself, by an Add or a BatchNormalization behind it.

    Else why that is impossible: what it adds by itself is no constant, or differs from row to row.
    """
    outs = model.constants[layer.weight].shape[1 if layer.transposed else 0]

    def constant(name: str) -> Array | None:
        stored = model.constants.get(name)
        fits = stored is not None and stored.count == outs and stored.shape[-1:] == (outs,)
        return model.array(name) if fits and name not in model.overridable else None

    def own(name: str) -> bool:
        return constant(name) is not None and is_own(name, model) and name not in kept

    first = layer.node.inputs[2] if len(layer.node.inputs) > 2 else ""
    after = model.readers.get(layer.output, ()) if layer.output not in kept else ()
    index, slot = after[0] if len(after) == 1 else (layer.node.index, 0)
    node = model.nodes[index]
    if first and constant(first) is None:
        return "what it adds is no constant, or differs from row to row"
    channels = layer.node.op != "MatMul"  # outputs of a MatMul may lie on another axis than the one that is normalised
    normed = node.op == "BatchNormalization" and slot == 0 and not node.attrs.get("training_mode", 0)
    if channels and normed and own(node.inputs[2]):
        scale, mean, variance = (constant(node.inputs[at]) for at in (1, 3, 4))
        added = _times(constant(first), layer.share) if first else np.zeros(outs)
        if scale is not None and mean is not None and variance is not None and added is not None:
            norm = Norm(node, (node.inputs[3], node.inputs[4]), scale.astype(np.float64), np.zeros(outs))
            gain, shift = norm.multiplied(mean, variance)
            offset = shift + gain * added.astype(np.float64)
            gain = gain if layer.gain is None else gain * layer.gain
            return replace(layer, output=node.outputs[0], bias=node.inputs[2], gain=gain, offset=offset, share=1.0)
    if first and own(first) and layer.share:
        return replace(layer, bias=first)
    if first:
        return replace(layer, fixed=_times(constant(first), layer.share))
    if node.op == "Add" and layer.window is None and own(node.inputs[1 - slot]):
        return replace(layer, output=node.outputs[0], bias=node.inputs[1 - slot], share=1.0)
    return layer


def _times(bias: Array | None, share: float) -> Array | None:
    """Return a bias times the share of it that is added."""
    return bias if bias is None or share == 1 else bias * np.asarray(share, bias.dtype)
