"""Shapes: what makes them, and what only moves numbers to another place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from onnxprune.graph.tensors import Array
from onnxprune.training.operators.registry import dim_of, ints, line, op
from onnxprune.training.operators.types import tensor_of, torch_type

Tensor = torch.Tensor

# fmt: off
line("Transpose", lambda a, *, perm=None: a.permute(*(perm or range(a.dim() - 1, -1, -1))), passes=(0,))
line("Flatten",   lambda a, *, axis=1: a.reshape(math.prod(a.shape[:dim_of(axis, a.dim())]), -1) if a.numel() else _flat(a, axis), passes=(0,))
line("Shape",     lambda a, *, start=0, end=None: torch.tensor(a.shape, dtype=torch.int64)[start:end])
line("Size",      lambda a: torch.tensor(a.numel()))
line("Squeeze",   lambda a, *, axes=None: _squeezed(a, axes), passes=(0,))
line("Squeeze",   lambda a, axes=None: _squeezed(a, None if axes is None else ints(axes)),  passes=(0,), host=(1,), since=13)
line("Unsqueeze", lambda a, *, axes: _unsqueezed(a, axes), passes=(0,))
line("Unsqueeze", lambda a, axes: _unsqueezed(a, ints(axes)), passes=(0,), host=(1,), since=13)
line("Expand",    lambda a, shape: a.expand(np.broadcast_shapes(a.shape, tuple(ints(shape)))), passes=(0,), host=(1,))
line("Tile",      lambda a, repeats: a.repeat(ints(repeats)), passes=(0,), host=(1,))
line("Concat",    lambda *a, axis: torch.cat(a, axis), passes=range(64))
line("Range",     lambda start, limit, delta: torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype), host=(0, 1, 2))
line("ConstantOfShape", lambda shape, *, value=None: _filled(ints(shape), value), host=(0,))
line("BitCast",   lambda a, *, to: a if torch_type(to) == a.dtype else a.contiguous().view(torch_type(to)))
line("EyeLike",   lambda a, *, dtype=None, k=0: _eye(a, dtype, k))
# fmt: on


def _filled(shape: Sequence[int], value: Array | None) -> Tensor:
    return torch.zeros(shape) if value is None else tensor_of(value).reshape(()).expand(shape).clone()


def _flat(a: Tensor, axis: int) -> Tensor:
    axis = dim_of(axis, a.dim())
    return a.reshape(math.prod(a.shape[:axis]), math.prod(a.shape[axis:]))


def _squeezed(a: Tensor, axes: Sequence[int] | None) -> Tensor:
    dims = [dim for dim, size in enumerate(a.shape) if size == 1] if axes is None else list(axes)
    return a.squeeze(tuple(dims)) if dims else a


def _unsqueezed(a: Tensor, axes: Sequence[int]) -> Tensor:
    rank = a.dim() + len(axes)
    for axis in sorted(dim_of(axis, rank) for axis in axes):
        a = a.unsqueeze(axis)
    return a


def _eye(a: Tensor, dtype: int | None, k: int) -> Tensor:
    kind = a.dtype if dtype is None else torch_type(dtype)
    return torch.ones(a.shape[0], a.shape[1], device=a.device).tril(k).triu(k).to(kind)


@op("Reshape", passes=(0,))
def reshape_1(a: Tensor, *, shape: Sequence[int]) -> Tensor:
    """Return the numbers in another shape, which the attribute states."""
    result: Tensor = reshape(a, torch.tensor(shape))
    return result


@op("Reshape", passes=(0,), host=(1,), since=5)
def reshape(a: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    """Return the numbers in another shape; 0 keeps a size, -1 is what is left."""
    sizes = ints(shape)
    if not allowzero:
        sizes = [a.shape[dim] if size == 0 else size for dim, size in enumerate(sizes)]
    result: Tensor = a.reshape(sizes)
    return result


@op("Split", passes=(0,))
def split(a: Tensor, *, outputs: int, axis: int = 0, split: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    """Return the parts along an axis, whose sizes the attribute states."""
    return _parts(a, axis, split, outputs)


@op("Split", passes=(0,), host=(1,), since=13)
def split_13(
    a: Tensor, sizes: Tensor | None = None, *, outputs: int, axis: int = 0, num_outputs: int | None = None
) -> tuple[Tensor, ...]:
    """Return the parts along an axis; equal ones where no sizes are given, the last smaller if it has to be."""
    return _parts(a, axis, None if sizes is None else ints(sizes), outputs)


def _parts(a: Tensor, axis: int, sizes: Sequence[int] | None, count: int) -> tuple[Tensor, ...]:
    if sizes is None:
        each = -(-a.shape[axis] // count)
        sizes = [each] * (count - 1) + [a.shape[axis] - each * (count - 1)]
    return torch.split(a, list(sizes), axis)


@op("Slice", passes=(0,))
def slice_1(a: Tensor, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None) -> Tensor:
    """Return a part along some axes, which the attributes state."""
    return _sliced(a, starts, ends, list(axes) if axes else range(len(starts)), [1] * len(starts))


@op("Slice", passes=(0,), host=(1, 2, 3, 4), since=10)
def slice_10(
    a: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    """Return a part along some axes; steps may be negative."""
    first = ints(starts)
    dims = range(len(first)) if axes is None else ints(axes)
    return _sliced(a, first, ints(ends), dims, [1] * len(first) if steps is None else ints(steps))


def _sliced(a: Tensor, starts: Sequence[int], ends: Sequence[int], dims: Sequence[int], steps: Sequence[int]) -> Tensor:
    cut: list[slice] = [slice(None)] * a.dim()
    backwards = []
    for start, end, axis, step in zip(starts, ends, dims, steps, strict=True):
        dim = dim_of(axis, a.dim())
        chosen = range(a.shape[dim])[slice(start, end if end > -(2**31) - a.shape[dim] or step > 0 else None, step)]
        if step < 0:
            chosen = chosen[::-1]
            backwards.append(dim)
        cut[dim] = slice(chosen.start, chosen.stop, chosen.step) if len(chosen) else slice(0, 0)
    part = a[tuple(cut)]
    return part.flip(backwards) if backwards else part


@op("Trilu", host=(1,), passes=(0,))
def trilu(a: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    """Return the upper or lower triangle; the rest is zero."""
    shift = 0 if k is None else ints(k)[0]
    kind = a.dtype
    a = a.to(torch.uint8) if kind == torch.bool else a
    return (a.triu(shift) if upper else a.tril(shift)).to(kind)


@op("DepthToSpace")
def depth_to_space(a: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Return an image that is larger by the channels that it loses."""
    count, channels, height, width = a.shape
    each = channels // blocksize**2
    if mode == "CRD":
        parts = a.reshape(count, each, blocksize, blocksize, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = a.reshape(count, blocksize, blocksize, each, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(count, each, height * blocksize, width * blocksize)


@op("SpaceToDepth")
def space_to_depth(a: Tensor, *, blocksize: int) -> Tensor:
    """Return an image with more channels that is smaller by as much."""
    count, channels, height, width = a.shape
    parts = a.reshape(count, channels, height // blocksize, blocksize, width // blocksize, blocksize)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(count, -1, height // blocksize, width // blocksize)


@op("Pad")
def pad_1(
    a: Tensor, *, mode: str = "constant", pads: Sequence[int] = (), paddings: Sequence[int] = (), value: float = 0.0
) -> Tensor:
    """Return a tensor with a margin, which the attributes state."""
    return _with_margin(a, list(pads or paddings), range(a.dim()), mode, value)


@op("Pad", host=(1, 3), since=11)
def pad(
    a: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None, *, mode: str = "constant"
) -> Tensor:
    """Return a tensor with a margin, or without one where it is negative."""
    dims = list(range(a.dim())) if axes is None else [dim_of(axis, a.dim()) for axis in ints(axes)]
    return _with_margin(a, ints(pads), dims, mode, 0.0 if value is None else value.item())


def _with_margin(a: Tensor, pads: Sequence[int], dims: Sequence[int], mode: str, value: float) -> Tensor:
    half = len(pads) // 2
    added = {dim: (pads[place], pads[half + place]) for place, dim in enumerate(dims)}
    if mode == "constant":
        flat = [count for dim in reversed(range(a.dim())) for count in added.get(dim, (0, 0))]
        return _constant_margin(a, flat, value) if any(flat) else a
    for dim, (front, behind) in added.items():
        if front or behind:
            a = a.index_select(dim, _mirrored(a.shape[dim], front, behind, mode).to(a.device))
    return a


def _constant_margin(a: Tensor, flat: list[int], value: float) -> Tensor:
    if a.dtype == torch.bool:
        return torch.nn.functional.pad(a.to(torch.uint8), flat, value=int(value)).to(torch.bool)
    return torch.nn.functional.pad(a, flat, value=value)


def _mirrored(size: int, front: int, behind: int, mode: str) -> Tensor:
    """Return which number of an axis stands where."""
    at = torch.arange(-front, size + behind)
    if mode == "edge":
        return at.clamp(0, size - 1)
    if mode == "wrap":
        return at.remainder(size)
    period = max(2 * (size - 1), 1)
    folded = at.remainder(period)
    return torch.where(folded < size, folded, period - folded)
