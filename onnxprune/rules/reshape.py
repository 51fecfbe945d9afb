"""Ops that rearrange axes without touching numbers: Reshape and its kin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from onnxprune.axes import ONE, Axes, Axis, concat, fresh, product
from onnxprune.errors import CannotUnify
from onnxprune.rules.registry import rule
from onnxprune.rules.site import Site, Size


@rule("Reshape")
def reshape(x: Site) -> None:
    """Rows stay in order: input and output are the same product, aligned at common boundaries."""
    before = x.axes(0)
    after = tuple(x.new(dim) for dim in range(len(x.output_shape())))
    for ins, outs in blocks([axis.size for axis in before], [axis.size for axis in after]):
        _align(x, before[ins], after[outs])
    _give(x, after)
    entries = x.entries(1) if x.has(1) else x.attr("shape")
    x.write(1 if x.has(1) else "shape", *_targets(x, before, after, entries), follows=after)


def blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield the smallest pairs of runs of dims with equal products.

    >>> [(i.start, i.stop, o.start, o.stop) for i, o in blocks([2, 6, 4, 5], [2, 8, 3, 5])]
    [(0, 1, 0, 1), (1, 3, 1, 3), (3, 4, 3, 4)]
    """
    i = j = 0
    while i < len(before) or j < len(after):
        start = (i, j)
        left = right = 1
        while i == start[0] or j == start[1] or left != right:
            if left <= right and i < len(before):
                left *= before[i]
                i += 1
            elif j < len(after):
                right *= after[j]
                j += 1
            elif i < len(before):
                left *= before[i]
                i += 1
            else:
                break
        if left != right:
            raise CannotUnify(f"{math.prod(before)} elements are reshaped to {math.prod(after)}")
        yield slice(start[0], i), slice(start[1], j)


def _give(x: Site, axes: Sequence[Axis]) -> None:
    """Give an output whose sizes the node states: what is dynamic cannot be cut."""
    for axis in axes:
        x.lock_dynamic(axis)
    x.output(axes)


def _align(x: Site, before: Axes, after: Axes) -> None:
    """Unify one block; where its dims have no common refinement, lock this block alone."""
    try:
        x.unify(product(*before), product(*after))
    except CannotUnify:
        shown = " -> ".join("(" + "·".join(str(axis.size) for axis in side) + ")" for side in (before, after))
        for axis in (*before, *after):
            x.lock(axis, f"Reshape mixes it with others: {shown} has no common refinement")


def _targets(x: Site, before: Axes, after: Axes, entries: list[int | None] | None) -> Iterator[Size]:
    """Yield the entries of the target shape: static dims are sizes, dynamic ones 0, -1 or the runtime value."""
    free = entries is None or -1 not in entries
    allow_zero = x.attr("allowzero", 0)
    for dim, axis in enumerate(after):
        entry = entries[dim] if entries is not None and dim < len(entries) else None
        same = dim < len(before) and x.partition.resolve(before[dim]) == x.partition.resolve(axis)
        if entry == -1 or (entry == 0 and same and not allow_zero):
            yield None
        elif x.is_static(dim):
            yield axis
        elif same and not allow_zero:
            yield 0
        elif free:
            free = False
            yield -1
        else:
            x.lock(axis, "its size is computed at run time together with a dynamic one")
            yield None


@rule("Flatten")
def flatten(x: Site) -> None:
    """*a *b -> (*a) (*b)."""
    axes = x.axes(0)
    at = x.attr("axis", 1)
    at += len(axes) * (at < 0)
    x.output([product(*axes[:at]), product(*axes[at:])])


@rule("Transpose")
def transpose(x: Site) -> None:
    """Axes in the order of `perm`."""
    axes = x.axes(0)
    x.output([axes[dim] for dim in x.attr("perm", list(reversed(range(len(axes)))))])


@rule("Squeeze")
def squeeze(x: Site) -> None:
    """Axes of size 1 disappear."""
    axes = x.axes(0)
    dims = _dims(x, len(axes))
    gone = {dim for dim, axis in enumerate(axes) if axis.size == 1} if dims is None else dims
    x.output([axis for dim, axis in enumerate(axes) if dim not in gone])
    if dims is None:  # name them, or an axis that is cut to one unit would go, too
        x.write(1 if x.node.version >= 13 else "axes", *sorted(gone), follows=axes)


@rule("Unsqueeze")
def unsqueeze(x: Site) -> None:
    """Axes of size 1 appear."""
    axes = list(x.axes(0))
    for dim in sorted(_dims(x, len(x.output_shape())) or ()):
        axes.insert(dim, ONE)
    x.output(axes)


def _dims(x: Site, rank: int) -> set[int] | None:
    given = x.value(1) if x.has(1) else x.attr("axes")
    if given is None and x.has(1):
        raise CannotUnify("its axes are computed at run time")
    return None if given is None else {int(dim) % rank for dim in given}


@rule("Expand")
def expand(x: Site) -> None:
    """Axes of size 1 become new axes of the given size."""
    before = (ONE,) * (len(x.output_shape()) - x.rank(0)) + x.axes(0)
    after = [x.new(dim) if axis.size == 1 else axis for dim, axis in enumerate(before)]
    _give(x, after)
    entries = x.entries(1)
    offset = len(after) - (len(entries) if entries is not None else len(after))
    x.write(
        1,
        *(_expanded(x, dim, before[dim], after[dim]) for dim in range(offset, len(after))),
        follows=tuple(after),
    )


def _expanded(x: Site, dim: int, before: Axis, after: Axis) -> Size:
    if before.size > 1:
        return 1  # keeps the size of the input
    return after if x.is_static(dim) else None


@rule("Tile")
def tile(x: Site) -> None:
    """Each axis c becomes (r c), r repeats."""
    repeats = x.entries(1) or [None] * x.rank(0)
    axes: list[Axis] = []
    sizes: list[Size] = []
    for dim, (axis, count) in enumerate(zip(x.axes(0), repeats, strict=True)):
        if count is None:
            x.lock(axis, "how often Tile repeats it is computed at run time")
            axes.append(x.made(dim))
            sizes.append(None)
        else:
            repeat = fresh(count, "r")
            axes.append(product(repeat, axis))
            sizes.append(repeat)
    x.output(axes)
    x.write(1, *sizes)


@rule("ConstantOfShape")
def constant_of_shape(x: Site) -> None:
    """Every axis is new."""
    axes = [x.new(dim) for dim in range(len(x.output_shape()))]
    _give(x, axes)
    x.write(0, *(axis if x.is_static(dim) else None for dim, axis in enumerate(axes)))


@rule("Concat")
def concat_(x: Site) -> None:
    """*a p *b, *a q *b, ... -> *a [p + q + ...] *b."""
    operands = [x.axes(slot) for slot in range(len(x.node.inputs))]
    dim = x.attr("axis") % len(operands[0])
    common = x.broadcast(*((*axes[:dim], ONE, *axes[dim + 1 :]) for axes in operands))
    x.output([*common[:dim], concat(*(axes[dim] for axes in operands)), *common[dim + 1 :]])
