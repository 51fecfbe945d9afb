"""Numbers taken from, and put at, places that other numbers say."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from onnxprune.training.operators.registry import dim_of, ints, line, op

Tensor = torch.Tensor

# fmt: off
line("GatherElements", lambda a, at, *, axis=0: a.gather(axis, _positive(at, a.shape[axis])), passes=(0,))
line("NonZero",        lambda a: torch.stack(torch.nonzero(a, as_tuple=True)) if a.dim() else torch.zeros(0, int(bool(a)), dtype=torch.int64), is_open=True)
line("Compress",       lambda a, kept, *, axis=None: _compressed(a, kept, axis), is_open=True)
# fmt: on


def _positive(at: Tensor, size: int) -> Tensor:
    at = at.long()
    return torch.where(at < 0, at + size, at)


@op("Gather", weights=(0,), passes=(0,))
def gather(a: Tensor, at: Tensor, *, axis: int = 0) -> Tensor:
    """Return what stands at some places of an axis; negative ones count from behind."""
    dim = dim_of(axis, a.dim())
    if at.dim() == 0 and at.device.type == "cpu":
        return a.select(dim, int(at))  # a view, whose gradient is no sum over places
    at = _positive(at, a.shape[dim])
    if at.dim() == 0:
        return a.index_select(dim, at.reshape(1)).squeeze(dim)
    if dim == 0 and a.dim() == 2 and a.is_floating_point():
        return torch.nn.functional.embedding(at, a)
    result = a.index_select(dim, at.reshape(-1))
    return result.reshape(*a.shape[:dim], *at.shape, *a.shape[dim + 1 :])


@op("GatherND", passes=(0,))
def gather_nd(a: Tensor, at: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Return the parts that rows of places name; the first axes are batches of both."""
    batch, width = a.shape[:batch_dims], at.shape[-1]
    flat = a.reshape(math.prod(batch), *a.shape[batch_dims:])
    rows = at.long().reshape(math.prod(batch), -1, width)
    columns = [_positive(rows[..., k], flat.shape[1 + k]) for k in range(width)]
    number = torch.arange(flat.shape[0], device=a.device)[:, None].expand(rows.shape[:2])
    result = flat[(number, *columns)]
    return result.reshape(*batch, *at.shape[batch_dims:-1], *a.shape[batch_dims + width :])


@op("Scatter", "ScatterElements")
def scatter_elements(a: Tensor, at: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """Return a copy with other numbers at some places of an axis."""
    at = _positive(at, a.shape[axis])
    if reduction == "none":
        return a.scatter(axis, at, updates)
    return a.scatter_reduce(axis, at, updates, _REDUCTIONS[reduction], include_self=True)


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
_COMBINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max": torch.maximum, "min": torch.minimum, "add": torch.add, "mul": torch.mul,
}  # fmt: skip


@op("ScatterND")
def scatter_nd(a: Tensor, at: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Return a copy with other parts where rows of places name them."""
    width = at.shape[-1]
    sizes = a.shape[:width]
    flat = a.reshape(math.prod(sizes), -1)
    rows = torch.zeros(at.shape[:-1], dtype=torch.int64, device=a.device)
    for k, size in enumerate(sizes):
        rows = rows * size + _positive(at[..., k], size)
    values = updates.reshape(-1, flat.shape[1]).to(a.dtype)
    rows = rows.reshape(-1)
    if reduction == "none":
        result = flat.index_copy(0, rows, values)
    elif reduction == "add":
        result = flat.index_add(0, rows, values)
    else:
        result = flat.index_reduce(0, rows, values, _REDUCTIONS[reduction], include_self=True)
    return result.reshape(a.shape)


@op("TensorScatter")
def tensor_scatter(
    a: Tensor, updates: Tensor, first: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """Return a cache with new numbers along an axis, from a place on that each sample has of its own."""
    dim = dim_of(axis, a.dim())
    start = torch.zeros(a.shape[0], dtype=torch.int64, device=a.device) if first is None else first.long()
    places = start[:, None] + torch.arange(updates.shape[dim], device=a.device)
    places = places % a.shape[dim] if mode == "circular" else places
    shape = [1] * a.dim()
    shape[0], shape[dim] = places.shape
    return a.scatter(dim, places.reshape(shape).expand_as(updates), updates)


@op("OneHot", host=(1,))
def one_hot(at: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    """Return a new axis with one number at the place and another elsewhere."""
    size = ints(depth)[0]
    dim = dim_of(axis, at.dim() + 1)
    places = torch.arange(size, device=at.device).reshape(-1, *[1] * (at.dim() - dim))
    hit = _positive(at, size).unsqueeze(dim) == places
    return torch.where(hit, values[1], values[0])


def _compressed(a: Tensor, kept: Tensor, axis: int | None) -> Tensor:
    a, dim = (a.reshape(-1), 0) if axis is None else (a, axis)
    return a.index_select(dim, torch.nonzero(kept)[:, 0])


@op("Unique", is_open=True)
def unique(a: Tensor, *, axis: int | None = None, outputs: int = 1, sorted: int = 1) -> tuple[Tensor, ...]:
    """Return the numbers that differ, their first places, which is where, and their counts."""
    values, inverse, counts = torch.unique(a, sorted=True, return_inverse=True, return_counts=True, dim=axis)
    inverse = inverse.reshape(-1)
    where = torch.arange(inverse.numel(), device=a.device)
    first = torch.full((counts.numel(),), inverse.numel(), device=a.device).scatter_reduce(0, inverse, where, "amin")
    if not sorted:
        order = first.argsort()
        values = values.index_select(0 if axis is None else axis, order)
        first, counts, inverse = first[order], counts[order], order.argsort()[inverse]
    return (values, first, inverse, counts)[:outputs]


@op("ReverseSequence")
def reverse_sequence(a: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Return each sequence backwards; what is behind its end stays."""
    moved = a.movedim((batch_axis, time_axis), (0, 1))
    at = torch.arange(moved.shape[1], device=a.device)
    ends = lengths.long()[:, None]
    places = torch.where(at < ends, ends - 1 - at, at)
    number = torch.arange(moved.shape[0], device=a.device)[:, None]
    return moved[number, places].movedim((0, 1), (batch_axis, time_axis))
