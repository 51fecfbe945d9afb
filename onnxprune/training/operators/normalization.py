"""Normalisations, and what turns numbers into shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.training.operators.registry import dim_of, line, op

Tensor = torch.Tensor

# fmt: off
line("Softmax",         lambda a, *, axis=1: _flattened(torch.softmax, a, axis))
line("LogSoftmax",      lambda a, *, axis=1: _flattened(torch.log_softmax, a, axis))
line("Hardmax",         lambda a, *, axis=1: _flattened(_hardmax, a, axis))
line("Softmax",         lambda a, *, axis=-1: torch.softmax(a, axis),     since=13)
line("LogSoftmax",      lambda a, *, axis=-1: torch.log_softmax(a, axis), since=13)
line("Hardmax",         lambda a, *, axis=-1: _hardmax(a, axis),          since=13)
line("LpNormalization", lambda a, *, axis=-1, p=2: a / a.norm(p, axis, keepdim=True))
line("MeanVarianceNormalization", lambda a, *, axes=(0, 2, 3): _standardised(a, list(axes), 1e-9))
# fmt: on


def _flattened(share: object, a: Tensor, axis: int) -> Tensor:
    """Before version 13 everything from the axis on is one axis."""
    axis = dim_of(axis, a.dim())
    flat = a.reshape(math.prod(a.shape[:axis]), -1)
    return share(flat, 1).reshape(a.shape)  # type: ignore[operator, no-any-return]


def _hardmax(a: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(a).scatter(axis, a.argmax(axis, keepdim=True), 1.0)


def _standardised(a: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    centred = a - a.mean(list(axes), keepdim=True)
    return centred / (centred.square().mean(list(axes), keepdim=True).sqrt() + epsilon)


@op("BatchNormalization", weights=(1, 2), since=7)
def batch_normalization(
    a: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, outputs: int, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0, spatial: int = 1,
) -> object:  # fmt: skip
    """Return what is normalised by the statistics of the file; in training mode by its own (weight standardisation).

    Old versions were in training mode where they had several outputs.
    """
    if not training_mode and outputs == 1:
        if scale.dim() == 1:
            return F.batch_norm(a, mean, variance, scale, bias, False, 0.0, epsilon)
        return (a - mean) / (variance + epsilon).sqrt() * scale + bias
    result = F.batch_norm(a, None, None, scale, bias, True, 0.0, epsilon)
    if outputs == 1:
        return result
    axes = [0, *range(2, a.dim())]
    own = a.mean(axes), a.var(axes, unbiased=False)
    moved = [old * momentum + new * (1 - momentum) for old, new in zip((mean, variance), own, strict=True)]
    return (result, *moved, *own)[:outputs]


@op("InstanceNormalization", weights=(1, 2))
def instance_normalization(a: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Return each channel of each sample with mean 0 and variance 1, scaled and moved."""
    if a.dim() > 2 and math.prod(a.shape[2:]) > 1:
        return F.instance_norm(a, weight=scale, bias=bias, eps=epsilon)
    return bias.reshape(-1, *[1] * (a.dim() - 2)) + 0 * a * scale.reshape(-1, *[1] * (a.dim() - 2))


@op("GroupNormalization", weights=(1, 2), since=18)
def group_normalization_18(a: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, num_groups: int) -> Tensor:
    """Return groups of channels normalised; scale and bias are per group."""
    each = a.shape[1] // num_groups
    return F.group_norm(a, num_groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)


@op("GroupNormalization", weights=(1, 2), since=21)
def group_normalization(
    a: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, num_groups: int, stash_type: int = 1
) -> Tensor:
    """Return groups of channels normalised; scale and bias are per channel."""
    return F.group_norm(a, num_groups, scale, bias, epsilon)


@op("LayerNormalization", weights=(1, 2))
def layer_normalization(
    a: Tensor, scale: Tensor, bias: Tensor | None = None, *, outputs: int = 1, axis: int = -1, epsilon: float = 1e-5,
    stash_type: int = 1,
) -> object:  # fmt: skip
    """Return what is normalised over the axes from `axis` on, and where asked for mean and inverse deviation."""
    first = dim_of(axis, a.dim())
    shape = a.shape[first:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        result = F.layer_norm(a, shape, scale, bias, epsilon)
    else:
        result = F.layer_norm(a, shape, None, None, epsilon) * scale
        result = result if bias is None else result + bias
    if outputs == 1:
        return result
    axes = list(range(first, a.dim()))
    mean = a.mean(axes, keepdim=True)
    inverse = 1 / ((a - mean).square().mean(axes, keepdim=True) + epsilon).sqrt()
    return (result, mean, inverse)[:outputs]


@op("RMSNormalization", weights=(1,))
def rms_normalization(
    a: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Return what is divided by the root of its mean square over the axes from `axis` on."""
    axes = list(range(dim_of(axis, a.dim()), a.dim()))
    return a * torch.rsqrt(a.square().mean(axes, keepdim=True) + epsilon) * scale


@op("LRN")
def local_response(a: Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int) -> Tensor:
    """Return values divided by a power of the sum of squares of the channels around."""
    below, above = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = a.square().reshape(a.shape[0], 1, a.shape[1], -1)
    sums = F.pad(squares, (0, 0, below, above)).unfold(2, size, 1).sum(-1).reshape(a.shape)
    return a / (bias + alpha / size * sums) ** beta
