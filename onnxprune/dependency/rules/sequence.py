"""Sequences of tensors whose length is known: each tensor keeps axes of its own.

A sequence has one entry of axes per tensor. What is done at a place that only the running model knows locks all of
them.
"""

from __future__ import annotations

from onnxprune.dependency.axes import ONE, Axes, Axis, concat, fresh
from onnxprune.dependency.rules.coupling import Size
from onnxprune.dependency.rules.registry import rule
from onnxprune.dependency.rules.site import Site
from onnxprune.errors import CannotUnify
from onnxprune.graph.shapes.walk import parts_of


@rule("SequenceEmpty")
def sequence_empty(x: Site) -> None:
    """A sequence of no tensors."""
    x.output_sequence(())


@rule("SequenceConstruct")
def sequence_construct(x: Site) -> None:
    """A sequence of the inputs."""
    x.output_sequence([x.axes(slot) for slot in range(len(x.node.inputs))])


@rule("SequenceInsert")
def sequence_insert(x: Site) -> None:
    """A sequence with one tensor more."""
    tensors = list(x.sequence(0))
    place = _place(x, 2, len(tensors))
    tensors.insert(place + (len(tensors) + 1) * (place < 0), x.axes(1))
    x.output_sequence(tensors)


@rule("SequenceErase")
def sequence_erase(x: Site) -> None:
    """A sequence without one tensor."""
    tensors = list(x.sequence(0))
    del tensors[_place(x, 1, -1)]
    x.output_sequence(tensors)


@rule("SequenceAt")
def sequence_at(x: Site) -> None:
    """One tensor of a sequence."""
    x.output(x.sequence(0)[_place(x, 1, 0)])


@rule("SequenceLength")
def sequence_length(x: Site) -> None:
    """The number of tensors, which no cut changes."""
    x.sequence(0)
    x.output(())


def _place(x: Site, slot: int, default: int) -> int:
    if not x.has(slot):
        return default
    value = x.value(slot)
    if value is None:
        raise CannotUnify(f"{x.node.op} takes a place that is computed at run time")
    x.axes(slot)
    return int(value.item())


@rule("SplitToSequence")
def split_to_sequence(x: Site) -> None:
    """*a [p + q + ...] *b -> a sequence of *a p *b, *a q *b, ...; parts of one size are alike."""
    axes = list(x.axes(0))
    dim = x.dim(x.attr("axis", 0), len(axes))
    split = x.value(1) if x.has(1) else None
    if not x.is_static_input(0, dim) or (x.has(1) and split is None):
        raise CannotUnify("SplitToSequence cuts it at positions known at run time alone")
    if split is None:
        x.lock(axes[dim], "SplitToSequence takes each of its indices for a tensor of its own")
        inner = [ONE] * bool(x.attr("keepdims", 1))
        x.output_sequence([(*axes[:dim], *inner, *axes[dim + 1 :])] * axes[dim].size)
        return
    parts: list[Axis] = []
    rest = axes[dim]
    for size in parts_of(axes[dim].size, split):
        part, rest = x.partition.split(rest, size)
        parts.append(part)
    x.output_sequence([(*axes[:dim], part, *axes[dim + 1 :]) for part in parts])
    x.write(1, *_stated(x, parts, is_scalar=not split.ndim))


def _stated(x: Site, parts: list[Axis], is_scalar: bool) -> list[Size]:
    """Return the sizes that the node states: all, or one for all, which then are tied."""
    if not is_scalar:
        return [*parts]
    first, *others = parts
    for part in others:
        if part.size != first.size:
            x.lock(part, "SplitToSequence cuts it at multiples of one size")
            x.lock(first, "SplitToSequence cuts it at multiples of one size")
        else:
            x.unify(first, part)
    return [first]


@rule("ConcatFromSequence")
def concat_from_sequence(x: Site) -> None:
    """*a p *b, *a q *b, ... -> *a [p + q + ...] *b; with `new_axis`, *s, *s, ... -> *s with one axis more."""
    tensors = x.sequence(0)
    if not tensors:
        raise CannotUnify("ConcatFromSequence gets no tensors")
    is_new = x.attr("new_axis", 0)
    dim = x.dim(x.attr("axis"), len(tensors[0]) + is_new)
    alike: list[Axes] = [axes if is_new else (*axes[:dim], ONE, *axes[dim + 1 :]) for axes in tensors]
    common = x.broadcast(*alike)
    if is_new:
        made = fresh(len(tensors), "q")
        x.lock(made, "each of its indices is a tensor of a sequence")
        x.output((*common[:dim], made, *common[dim:]))
    else:
        x.output((*common[:dim], concat(*(axes[dim] for axes in tensors)), *common[dim + 1 :]))
