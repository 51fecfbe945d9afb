"""Ops that rearrange axes without touching numbers: Reshape and its kin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from onnxprune.dependency.axes import ONE, Axes, Axis, concat, fresh, product
from onnxprune.dependency.rules.coupling import Size
from onnxprune.dependency.rules.registry import rule
from onnxprune.dependency.rules.site import Site
from onnxprune.errors import CannotUnify
from onnxprune.graph.shapes.probe import Sizes


@rule("Reshape")
def reshape(x: Site) -> None:
    """Rows stay in order: input and output are the same product, aligned at common boundaries."""
    before = x.axes(0)
    after = tuple(x.new(dim) for dim in range(len(x.output_shape())))
    for ins, outs in blocks(x.input_sizes(0), x.output_sizes(0)):
        _align(x, before[ins], after[outs])
    _tell_static(x, (*before, *after), (*x.input_sizes(0), *x.output_sizes(0)))
    _give(x, after)
    entries = x.entries(1) if x.has(1) else x.attr("shape")
    x.write(1 if x.has(1) else "shape", *_targets(x, before, after, entries), follows=after)


def blocks(before: Sequence[Sizes], after: Sequence[Sizes]) -> Iterator[tuple[slice, slice]]:
    """Yield the smallest pairs of runs of dims with equal products, under every setting of the dynamic dims.

    >>> def static(*sizes): return [(size, size) for size in sizes]
    >>> [(i.start, i.stop, o.start, o.stop) for i, o in blocks(static(2, 6, 4, 5), static(2, 8, 3, 5))]
    [(0, 1, 0, 1), (1, 3, 1, 3), (3, 4, 3, 4)]
    """
    one = (1,) * len((*before, *after, (1,))[0])
    i = j = 0
    while i < len(before) or j < len(after):
        start, left, right = (i, j), one, one
        while i == start[0] or j == start[1] or left != right:
            if i < len(before) and (left[0] <= right[0] or j == len(after)):
                left = _times(left, before[i])
                i += 1
            elif j < len(after):
                right = _times(right, after[j])
                j += 1
            else:
                break
        if left != right:
            counts = [math.prod(sizes[0] for sizes in side) for side in (before, after)]
            raise CannotUnify(f"{counts[0]} elements are reshaped to {counts[1]}")
        yield slice(start[0], i), slice(start[1], j)


def _times(product_so_far: Sizes, sizes: Sizes) -> Sizes:
    return tuple(a * b for a, b in zip(product_so_far, sizes, strict=True))


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
        shown = " -> ".join("(" + "·".join(_shown(x, axis) for axis in side) + ")" for side in (before, after))
        for axis in (*before, *after):
            x.lock(axis, f"Reshape mixes it with others: {shown} has no common refinement")


def _tell_static(x: Site, axes: Axes, sizes: Sequence[Sizes]) -> None:
    """Let atoms be static that were aligned with a static size; lock what then contradicts a dynamic one."""
    for axis, each in zip(axes, sizes, strict=True):
        if len(set(each)) == 1:
            x.partition.make_static(axis)
    for axis, each in zip(axes, sizes, strict=True):
        if len(set(each)) > 1 and not any(atom.dynamic for atom in x.partition.atoms(axis)):
            x.lock(axis, "its size is known at run time alone")  # equal to another in one setting by chance


def _shown(x: Site, axis: Axis) -> str:
    """Return the size of an axis for a sentence: what is dynamic has none."""
    return "?" if any(atom.dynamic for atom in x.partition.atoms(axis)) else str(axis.size)


def _targets(x: Site, before: Axes, after: Axes, entries: list[int | None] | None) -> Iterator[Size]:
    """Yield the entries of the target shape: static dims are sizes, dynamic ones 0, -1 or the runtime value."""
    free = entries is None or -1 not in entries
    allow_zero = x.attr("allowzero", 0)
    for dim, axis in enumerate(after):
        entry = entries[dim] if entries is not None and dim < len(entries) else None
        same = dim < len(before) and x.input_sizes(0)[dim] == x.output_sizes(0)[dim]
        same = same and x.partition.resolve(before[dim]) == x.partition.resolve(axis)
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
    order = x.attr("perm", list(reversed(range(len(axes)))))
    x.output([axes[x.dim(dim, len(axes))] for dim in order])


@rule("Squeeze")
def squeeze(x: Site) -> None:
    """Axes of size 1 disappear."""
    axes = x.axes(0)
    dims = _dims(x, len(axes))
    gone = {dim for dim, axis in enumerate(axes) if axis.size == 1} if dims is None else dims
    x.output([axis for dim, axis in enumerate(axes) if dim not in gone])
    if dims is None and not gone:  # there is no way to say "none of them"
        for axis in axes:
            x.lock(axis, "Squeeze without axes would remove it when one unit is left")
    elif dims is None:  # name them, or an axis that is cut to one unit would go, too
        x.write(1 if x.node.version >= 13 else "axes", *sorted(gone), follows=axes, if_single=True)


@rule("Unsqueeze")
def unsqueeze(x: Site) -> None:
    """Axes of size 1 appear."""
    axes = list(x.axes(0))
    for dim in sorted(_dims(x, len(x.output_shape())) or ()):
        axes.insert(dim, ONE)
    x.output(axes)


def _dims(x: Site, rank: int) -> set[int] | None:
    axes = x.value(1) if x.has(1) else x.attr("axes")
    if axes is None and x.has(1):
        raise CannotUnify("its axes are computed at run time")
    return None if axes is None else {x.dim(dim, rank) for dim in axes}


@rule("Expand")
def expand(x: Site) -> None:
    """Axes of size 1 become new axes of the given size."""
    before = (ONE,) * (len(x.output_shape()) - x.rank(0)) + x.axes(0)
    after = [x.new(dim) if axis.size == 1 else axis for dim, axis in enumerate(before)]
    _give(x, after)
    offset = len(after) - x.length(1)
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
    join(x, range(len(x.node.inputs)))


def join(x: Site, slots: Sequence[int]) -> None:
    """Concatenate the inputs in `slots` along `axis`."""
    operands = [x.axes(slot) for slot in slots]
    dim = x.dim(x.attr("axis", 0), len(operands[0]))
    common = x.broadcast(*((*axes[:dim], ONE, *axes[dim + 1 :]) for axes in operands))
    x.output([*common[:dim], concat(*(axes[dim] for axes in operands)), *common[dim + 1 :]])
    x.add(*slots, stacks_along=dim)
