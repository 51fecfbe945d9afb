"""Ops that take a part of an axis, or add to it: Split, Slice, Gather, Pad, Resize."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from onnxprune.dependency.axes import ONE, Axes, Axis, concat, fresh, product
from onnxprune.dependency.rules.coupling import Position, Size
from onnxprune.dependency.rules.registry import rule
from onnxprune.dependency.rules.site import Site
from onnxprune.errors import CannotUnify
from onnxprune.graph.tensors import Array


@rule("Split")
def split(x: Site) -> None:
    """*a [p + q + ...] *b -> *a p *b, *a q *b, ...; the sizes are written back."""
    axes = list(x.axes(0))
    dim = x.dim(x.attr("axis", 0), len(axes))
    if not (x.is_static_input(0, dim) and all(x.is_static(dim, index) for index in range(len(x.node.outputs)))):
        x.lock(axes[dim], "Split cuts it at positions known at run time alone")
        for index in range(len(x.node.outputs)):
            x.output([*axes[:dim], x.made(dim, index), *axes[dim + 1 :]], index)
        return
    parts: list[Axis] = []
    rest = axes[dim]
    for index in range(len(x.node.outputs)):
        part, rest = x.partition.split(rest, x.output_shape(index)[dim])
        parts.append(part)
        x.output([*axes[:dim], part, *axes[dim + 1 :]], index)
    x.write(1 if x.node.version >= 13 else "split", *parts, drop="num_outputs")


@rule("Slice")
def slice_(x: Site) -> None:
    """*a [p + q + r] *b -> *a q *b; with a step s, *a (q s) *b -> *a q *b; one of units that are picked, that alone."""
    axes = list(x.axes(0))
    starts, ends, dims, steps = _slice_arguments(x, len(axes))
    starts_from_end, ends_from_end = _from_end(axes, dims, starts), _from_end(axes, dims, ends)
    new_starts: list[Size] = []
    new_ends: list[Size] = []
    for start, end, dim, step in zip(starts, ends, dims, steps, strict=True):
        start_size, end_size, axes[dim] = _sliced(x, axes[dim], dim, start=start, end=end, step=step)
        new_starts.append(start_size)
        new_ends.append(end_size)
    x.output(axes)
    x.write(1 if x.node.version >= 10 else "starts", *new_starts, follows=starts_from_end)
    x.write(2 if x.node.version >= 10 else "ends", *new_ends, follows=ends_from_end)


def _from_end(axes: Sequence[Axis], dims: Sequence[int], positions: Sequence[int | None]) -> Axes:
    """Return the axes on which a position is counted from the end: it moves with cuts behind it, too."""
    return tuple(
        axes[dim] for dim, position in zip(dims, positions, strict=True) if position is not None and position < 0
    )


def _slice_arguments(x: Site, rank: int) -> tuple[list[int | None], list[int | None], list[int], list[int | None]]:
    if x.node.version < 10:
        starts, ends = x.attr("starts"), x.attr("ends")
        return starts, ends, [x.dim(d, rank) for d in x.attr("axes", range(len(starts)))], [1 for _ in starts]
    known = x.value(3) if x.has(3) else None
    if x.has(3) and known is None:
        raise CannotUnify("which axes are sliced is computed at run time")
    unknown: list[int | None] = [None] * x.length(1)
    starts, ends = x.entries(1) or unknown, x.entries(2) or unknown
    ones: list[int | None] = [1] * len(starts)
    steps = (x.entries(4) or unknown) if x.has(4) else ones
    dims = range(len(starts)) if known is None else [x.dim(dim, rank) for dim in known]
    return starts, ends, list(dims), steps


def _sliced(
    x: Site, axis: Axis, dim: int, *, start: int | None, end: int | None, step: int | None
) -> tuple[Size, Size, Axis]:
    """Return the new start, the new end, and the axis that is left."""
    if start == 0 and step == 1 and end is not None and end >= axis.size:
        return None, None, axis  # takes all of it, whatever its size
    if start is None or end is None or step is None or not x.is_static_input(0, dim):
        x.lock(axis, "Slice cuts it at positions known at run time alone")
        return None, None, x.made(dim)
    size = axis.size
    if step < 1:
        x.lock(axis, "Slice reverses it")
        return None, None, x.made(dim)
    start, end = (max(0, min(size, value + size * (value < 0))) for value in (start, end))
    if step == 1 and end - start == 1 and x.picks_from(axis):
        x.take_alone(axis, start, 0)
        return Position(axis, start), Position(axis, end), ONE
    if step == 1:
        before, rest = x.partition.split(axis, start)
        taken, _ = x.partition.split(rest, max(0, end - start))
        return before, concat(before, taken), taken
    if size % step or start >= step or end <= size - step + start:
        x.lock(axis, f"Slice takes one index in {step}, and not from whole groups")
        return None, None, x.made(dim)
    outer, inner = x.partition.factor(axis, step)
    x.unify(inner, x.partition.ones(inner))
    return start, axis, outer


@rule("Gather")
def gather(x: Site) -> None:
    """*a [p + 1 + q] *b -> *a *b for one known index; several may pick runs, shuffle or follow; else it is locked.

    One known index of an axis of units that are picked takes that unit alone, and follows cuts.
    """
    axes = x.axes(0)
    dim = x.dim(x.attr("axis", 0), len(axes))
    index = x.value(1)
    indices = x.axes(1)
    if index is not None and index.ndim == 1 and index.size > 1 and x.is_static_input(0, dim):
        picked = _picked(x, axes[dim], index + axes[dim].size * (index < 0))
        if picked is not None:
            x.output([*axes[:dim], picked, *axes[dim + 1 :]])
            return
    x.output([*axes[:dim], *indices, *axes[dim + 1 :]])
    known = x.positions(1)
    if known is not None:
        x.unify(axes[dim], known)
        return
    if index is None or index.size != 1 or not x.is_static_input(0, dim):
        x.pick(0, axes[dim], "Gather picks its indices by value")
        return
    at = int(index.item())
    if x.picks_from(axes[dim]):
        unit = at + axes[dim].size * (at < 0)
        x.take_alone(axes[dim], unit, 0)
        x.write(1, Position(axes[dim], unit))
        return
    before, rest = x.partition.split(axes[dim], at + axes[dim].size * (at < 0))
    x.partition.split(rest, 1)
    x.write(1, before, follows=_from_end(axes, [dim], [at]))


def _picked(x: Site, axis: Axis, index: Array) -> Axis | None:
    """Return what several known indices pick of an axis: a shuffle of it, or runs; None for anything else.

    The indices follow a cut: those of kept units, counted among the kept units.
    """
    if index.min() < 0 or index.max() >= axis.size:
        return None
    starts = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), index.size]
    runs = [(int(index[start]), end - start) for start, end in pairwise(starts)]
    try:
        picked = _shuffled(x, axis, index, [count for _, count in runs])
        if picked is None and 2 * len(runs) <= index.size:  # each run is two indices at least, on the average
            picked = concat(*_runs(x, axis, runs))
        if picked is not None:
            x.unify(x.axes(1)[0], picked)
    except CannotUnify:
        return None
    if picked is not None:
        x.write(1, axis, index=tuple(index.tolist()))
    return picked


def _runs(x: Site, axis: Axis, runs: Sequence[tuple[int, int]]) -> Iterator[Axis]:
    """Yield the parts of an axis that runs of a start and a count take; they may overlap."""
    bounds = sorted({0, axis.size, *(bound for start, count in runs for bound in (start, start + count))})
    pieces = x.partition.cut(axis, bounds[1:-1])
    place = {bound: number for number, bound in enumerate(bounds)}
    for start, count in runs:
        yield concat(*pieces[place[start] : place[start + count]])


def _shuffled(x: Site, axis: Axis, index: Array, counts: Sequence[int]) -> Axis | None:
    """Return (p q d) as (q p d) where the indices transpose blocks of d, as a channel shuffle does; else None."""
    size = math.gcd(*counts)
    blocks = index[::size] // size
    total = axis.size // size
    if axis.size % size or index.size != axis.size or (index.reshape(-1, size) % size != np.arange(size)).any():
        return None
    for inner in range(2, total // 2 + 1):
        if total % inner == 0 and (blocks == np.arange(total).reshape(-1, inner).T.ravel()).all():
            outer, within = x.partition.factor(axis, inner * size)
            middle, last = x.partition.factor(within, size)
            return product(middle, outer, last)
    return None


@rule("Pad")
def pad(x: Site) -> None:
    """Padded axes c become [p + c + q], p and q new; other modes than `constant` lock them."""
    axes = list(x.axes(0))
    rank = len(axes)
    known = x.entries(1) if x.has(1) else x.attr("pads")
    padded = x.value(3) if x.has(3) else range(rank)
    if known is None or padded is None:
        raise CannotUnify("how much is padded is computed at run time")
    dims = [x.dim(dim, rank) for dim in padded]
    sizes: list[Size] = [None] * (2 * len(dims))
    for i, dim in enumerate(dims):
        low, high = known[i], known[i + len(dims)]
        if low == high == 0:
            continue
        plain = x.attr("mode", "constant") == "constant" and x.is_static_input(0, dim)
        if not plain or low is None or high is None or low < 0 or high < 0:
            x.lock(axes[dim], "Pad gives its positions a meaning")
            axes[dim] = x.made(dim)
        else:
            sizes[i], sizes[i + len(dims)] = before, after = fresh(low, "p"), fresh(high, "p")
            axes[dim] = concat(before, axes[dim], after)
    x.output(axes)
    x.write(1 if x.has(1) else "pads", *sizes)


@rule("Resize", "Upsample")
def resize(x: Site) -> None:
    """Axes that are left as they are pass; the others are interpolated, and locked."""
    axes = list(x.axes(0))
    dims = [x.dim(dim, len(axes)) for dim in x.attr("axes", range(len(axes)))]
    scaled = 1 if x.node.version < 11 else 2
    scales = x.attr("scales") if x.node.version < 9 else x.numbers(scaled)
    kept = _kept_by_resize(x, dims, scales)
    for dim in dims:
        if dim not in kept:
            x.lock(axes[dim], f"{x.node.op} interpolates over it")
            axes[dim] = x.made(dim)
    x.output(axes)
    if x.has(3):
        x.write(3, *(axes[dim] if x.is_static(dim) else None for dim in dims))
    elif x.node.version >= 9 and scales is not None:
        x.write(scaled, *scales)  # a ratio of sizes stays what it was when both are cut


def _kept_by_resize(x: Site, dims: Sequence[int], scales: Sequence[float | None] | None) -> set[int]:
    """Return the dims that Resize leaves as they are: scale 1, or the same size without a region of interest.

    An equal size is not enough where scales are given: 1.09 times 10 is 10 again, and interpolated.
    """
    if x.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return set()
    if scales is not None and len(scales) == len(dims):
        return {dim for dim, scale in zip(dims, scales, strict=True) if scale == 1}
    before, after = x.input_sizes(0), x.output_sizes(0)
    stretched = x.attr("keep_aspect_ratio_policy", "stretch") == "stretch"
    return {dim for dim in dims if before[dim] == after[dim]} if x.has(3) and stretched else set()
