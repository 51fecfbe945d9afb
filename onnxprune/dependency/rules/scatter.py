"""Ops that read or write at indices given by tensors: what is indexed is locked, what is only copied passes.

Source: onnx.ai/onnx/operators.
"""

from __future__ import annotations

from onnxprune.dependency.axes import Axis
from onnxprune.dependency.rules.coupling import Size
from onnxprune.dependency.rules.registry import line, rule
from onnxprune.dependency.rules.site import Site
from onnxprune.errors import CannotUnify

line("AffineGrid", "n r! k!, _ -> n *t")


def _by_value(x: Site, *axes: Axis) -> None:
    for axis in axes:
        x.lock(axis, f"{x.node.op} picks its indices by value")


@rule("GatherElements")
def gather_elements(x: Site) -> None:
    """*a p! *b, *a q *b -> *a q *b; the axis `axis` of the data is indexed: it is locked unless indices follow it."""
    data, indices = x.axes(0), x.axes(1)
    _along_elements(x, x.dim(x.attr("axis", 0), len(data)))
    x.output(indices)


@rule("Scatter", "ScatterElements")
def scatter_elements(x: Site) -> None:
    """*a p! *b, *a q! *b, *a q! *b -> *a p *b; where indices and updates are shorter than the data, they are locked."""
    data, indices, updates = x.axes(0), x.axes(1), x.axes(2)
    dim = x.dim(x.attr("axis", 0), len(data))
    for index, update in zip(indices, updates, strict=True):
        x.unify(index, update)
    _along_elements(x, dim)
    _by_value(x, indices[dim])
    _accumulate(x)
    if x.positions(1) is not None and x.is_zero(0):
        x.spread(dim)
    x.output(data)


def _at_positions(x: Site, axis: Axis) -> None:
    """Equate the axis that is indexed with the one that the indices are positions on; lock it where there is none."""
    known = x.positions(1)
    if known is None:
        _by_value(x, axis)
    else:
        x.unify(axis, known)


def _accumulate(x: Site) -> None:
    """Data and updates are added up where the attribute says so."""
    if x.attr("reduction", "none") == "add":
        x.add(0, 2)


def _along_elements(x: Site, dim: int) -> None:
    """Equate the axes of data and indices but the indexed one: element by element they are the same positions."""
    data, indices = x.axes(0), x.axes(1)
    if len(data) != len(indices):
        raise CannotUnify(f"input 1 has {len(indices)} axes, expected {len(data)}")
    _at_positions(x, data[dim])
    for i, (before, after) in enumerate(zip(x.input_sizes(0), x.input_sizes(1), strict=True)):
        if i == dim:
            continue
        if before == after:
            x.unify(data[i], indices[i])
        else:
            for axis in (data[i], indices[i]):
                x.lock(axis, f"{x.node.op} takes the first of its positions alone")


@rule("GatherND")
def gather_nd(x: Site) -> None:
    """*b *i! *r, *b *u k! -> *b *u *r; k axes of the data are indexed."""
    data, indices, count = x.axes(0), x.axes(1), x.attr("batch_dims", 0)
    depth = count + indices[-1].size
    for one, other in zip(data[:count], indices[:count], strict=True):
        x.unify(one, other)
    _by_value(x, indices[-1], *data[count:depth])
    x.output([*indices[:-1], *data[depth:]])


@rule("ScatterND")
def scatter_nd(x: Site) -> None:
    """*i! *r, *u! k!, *u! *r -> *i *r; the first k axes of the data are indexed."""
    data, indices, updates = x.axes(0), x.axes(1), x.axes(2)
    depth, lead = indices[-1].size, len(indices) - 1
    for one, other in zip((*indices[:-1], *data[depth:]), updates, strict=True):
        x.unify(one, other)
    _by_value(x, *indices, *data[:depth], *updates[:lead])
    _accumulate(x)
    x.output(data)


@rule("TensorScatter")
def tensor_scatter(x: Site) -> None:
    """N *a p! *b, n *a q! *b, n? -> n *a p *b: a cache is written along one axis."""
    cache, update = x.axes(0), x.axes(1)
    dim = x.dim(x.attr("axis", -2), len(cache))
    for i, (one, other) in enumerate(zip(cache, update, strict=True)):
        if i == dim:
            _by_value(x, one, other)
        else:
            x.unify(one, other)
    if x.has(2):
        x.unify(x.axes(2)[0], cache[0])
    x.output(cache)


@rule("Compress")
def compress(x: Site) -> None:
    """*a p! *b, _ -> *a t *b; without `axis` all axes are flattened, and locked."""
    axes = list(x.axes(0))
    if "axis" not in x.node.attrs:
        raise CannotUnify("Compress flattens it and picks by value")
    dim = x.dim(x.attr("axis"), len(axes))
    _by_value(x, axes[dim])
    axes[dim] = x.made(dim)
    x.output(axes)


@rule("OneHot")
def one_hot(x: Site) -> None:
    """*a *b, _, _ -> *a t *b; the positions of the new axis are the values of the indices: it follows theirs."""
    axes = list(x.axes(0))
    dim = x.dim(x.attr("axis", -1), len(axes) + 1)
    known, depth = x.positions(0), x.entries(1)
    if known is not None and depth == [known.size]:
        x.output([*axes[:dim], known, *axes[dim:]])
        x.write(1, known)
        values = x.numbers(2)
        if values is not None and values[0] == 0:
            x.spread(dim)
        return
    if known is not None:
        x.lock(known, "OneHot gives its positions another number of places")
    x.output([*axes[:dim], x.made(dim), *axes[dim:]])


@rule("ReverseSequence")
def reverse_sequence(x: Site) -> None:
    """*s, n -> *s; the axis `time_axis` is locked."""
    axes = x.axes(0)
    x.unify(axes[x.dim(x.attr("batch_axis", 1), len(axes))], x.axes(1)[0])
    x.lock(axes[x.dim(x.attr("time_axis", 0), len(axes))], "ReverseSequence reverses it")
    x.output(axes)


@rule("CenterCropPad")
def center_crop_pad(x: Site) -> None:
    """Axes that keep their size pass, and the size is written; the others are locked."""
    axes = list(x.axes(0))
    dims = [x.dim(dim, len(axes)) for dim in x.attr("axes", range(len(axes)))]
    sizes: list[Size] = [_kept(x, axes, dim) for dim in dims]
    x.output(axes)
    x.write(1, *sizes)


def _kept(x: Site, axes: list[Axis], dim: int) -> Size:
    """Return the size to write for an axis; one that is cropped or padded is replaced by what the op makes of it."""
    if x.input_sizes(0)[dim] != x.output_sizes(0)[dim]:
        x.lock(axes[dim], "CenterCropPad gives its positions a meaning")
        axes[dim] = x.made(dim)
    return axes[dim] if x.is_static(dim) else None
