"""Sums, means and the largest along axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from onnxprune.training.operators.registry import dim_of, ints, op

Tensor = torch.Tensor
_REDUCED: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": lambda a, axes, keep: a.sum(axes, keepdim=keep, dtype=a.dtype),
    "ReduceMean": lambda a, axes, keep: a.mean(axes, keepdim=keep) if a.is_floating_point() else _mean(a, axes, keep),
    "ReduceMax": lambda a, axes, keep: _extreme(torch.amax, a, axes, keep),
    "ReduceMin": lambda a, axes, keep: _extreme(torch.amin, a, axes, keep),
    "ReduceProd": lambda a, axes, keep: _product(a, axes, keep),
    "ReduceL1": lambda a, axes, keep: a.abs().sum(axes, keepdim=keep, dtype=a.dtype),
    "ReduceL2": lambda a, axes, keep: a.square().sum(axes, keepdim=keep, dtype=a.dtype).sqrt(),
    "ReduceSumSquare": lambda a, axes, keep: a.square().sum(axes, keepdim=keep, dtype=a.dtype),
    "ReduceLogSum": lambda a, axes, keep: a.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda a, axes, keep: torch.logsumexp(a, axes, keepdim=keep),
}


def _mean(a: Tensor, axes: list[int], keep: bool) -> Tensor:
    return a.double().mean(axes, keepdim=keep).to(a.dtype)


def _extreme(reduce: Callable[..., Tensor], a: Tensor, axes: list[int], keep: bool) -> Tensor:
    return reduce(a, axes, keepdim=keep)


def _product(a: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        a = a.prod(axis, keepdim=keep, dtype=a.dtype)
    return a


def _reduce(kind: str, a: Tensor, axes: Sequence[int] | None, keepdims: int, noop: int) -> Tensor:
    if not axes and noop:
        return a
    every = list(range(a.dim()))
    dims = [dim_of(axis, a.dim()) for axis in axes] if axes else every
    return _REDUCED[kind](a, dims, bool(keepdims)) if dims else _REDUCED[kind](a.reshape(1), [0], False)


def _register(kind: str, changed: int) -> None:
    """Register a reduction: its axes are an attribute at first, from version `changed` on an input."""

    @op(kind)
    def before(a: Tensor, *, axes: Sequence[int] | None = None, keepdims: int = 1) -> Tensor:
        return _reduce(kind, a, axes, keepdims, 0)

    @op(kind, since=changed, host=(1,))
    def after(a: Tensor, axes: Tensor | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        return _reduce(kind, a, None if axes is None else ints(axes), keepdims, noop_with_empty_axes)


for _kind in _REDUCED:
    _register(_kind, 13 if _kind == "ReduceSum" else 18)


def _selected(a: Tensor, axis: int, keepdims: int, last: int, *, largest: bool) -> Tensor:
    """Return the place of the largest or least; of equal ones the first, or the last."""
    axis = dim_of(axis, a.dim())
    if last:
        a = a.flip(axis)
    best = a.amax(axis, keepdim=True) if largest else a.amin(axis, keepdim=True)
    place = (a == best).to(torch.uint8).argmax(axis, keepdim=bool(keepdims))
    return a.shape[axis] - 1 - place if last else place


@op("ArgMax")
def arg_max(a: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Return the place of the largest along an axis."""
    return _selected(a, axis, keepdims, select_last_index, largest=True)


@op("ArgMin")
def arg_min(a: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Return the place of the least along an axis."""
    return _selected(a, axis, keepdims, select_last_index, largest=False)


@op("CumSum", host=(1,))
def cumulative_sum(a: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Return running sums, with or without the number itself, from the front or from behind."""
    dim = dim_of(ints(axis)[0], a.dim())
    a = a.flip(dim) if reverse else a
    total = a.cumsum(dim, dtype=a.dtype)
    if exclusive:
        total = total - a
    return total.flip(dim) if reverse else total


@op("CumProd", host=(1,))
def cumulative_product(a: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Return running products, with or without the number itself, from the front or from behind."""
    dim = dim_of(ints(axis)[0], a.dim())
    a = a.flip(dim) if reverse else a
    if exclusive:
        ones = torch.ones_like(a.narrow(dim, 0, 1))
        a = torch.cat((ones, a.narrow(dim, 0, a.shape[dim] - 1)), dim)
    total = a.cumprod(dim, dtype=a.dtype)
    return total.flip(dim) if reverse else total


@op("TopK")
def top_k_1(a: Tensor, *, axis: int = -1, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest, and their places; the attribute states how many."""
    return _best(a, k, axis, largest=True)


@op("TopK", host=(1,), since=10)
def top_k(a: Tensor, k: Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """Return the k largest or least, and their places; of equal ones those in front."""
    return _best(a, ints(k)[0], axis, largest=bool(largest))


def _best(a: Tensor, count: int, axis: int, *, largest: bool) -> tuple[Tensor, Tensor]:
    order = torch.argsort(a, dim=axis, descending=largest, stable=True)
    places = order.narrow(axis, 0, count)
    return a.gather(axis, places), places
