"""Caches: what a model keeps from one run to the next, an input and the output that comes back as that input.

A decoder takes keys and values of the past, and gives those of past and present. Nothing is known of names here: an
input that holds the past (`graph.meanings` says which) and an output belong together where the graph itself equates
their axes, all but one, along which the output may be longer. What is cut of one is cut of the other then, and the
next run gets what this one gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxprune.dependency.axes import Axes, Axis, walk
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Role


@dataclass(frozen=True, slots=True)
class Cache:
    """A part of what a model keeps: an input, and the output that is the same input of the next run."""

    past: str
    present: str
    dims: tuple[int, ...]  # that count units, such as heads: both ports have them alike, whatever the run


def caches(model: Model, values: Mapping[str, Axes], resolve: Callable[[Axis], Axis]) -> tuple[Cache, ...]:
    """Return the caches of a model, in the order of its inputs; an input or output is part of one at most.

    Args:
        model: whose inputs say what they mean.
        values: the axes of inputs and outputs, by name; those of unknown shape are absent.
        resolve: gives an axis in normal form.
    """
    return tuple(_pairs(model, {name: tuple(map(resolve, axes)) for name, axes in _of_ports(model, values)}))


def _of_ports(model: Model, values: Mapping[str, Axes]) -> Iterator[tuple[str, Axes]]:
    """Yield the ports whose axes are known, with these."""
    for port in (*model.inputs, *model.outputs):
        if port.name in values:
            yield port.name, values[port.name]


def _pairs(model: Model, axes: Mapping[str, Axes]) -> Iterator[Cache]:
    ends = () if model.whole is None else model.whole.ends  # there another part of the file goes on, which stays
    free = [port.name for port in model.outputs if port.name in axes and port.name not in ends]
    for port in model.inputs:
        if port.role is not Role.PAST or port.name not in axes or port.name in ends:
            continue
        past = axes[port.name]
        present = next((name for name in free if _comes_back(past, axes[name])), None)
        if present is not None:
            free.remove(present)
            dims = (dim for dim, (old, new) in enumerate(zip(past, axes[present], strict=True)) if old == new)
            yield Cache(port.name, present, tuple(dim for dim in dims if _is_counted(past[dim])))


def _comes_back(past: Sequence[Axis], present: Sequence[Axis]) -> bool:
    """Whether an output may be an input of the next run: it has the same axes, all but one, and some of a fixed size.

    >>> from onnxprune.dependency.axes import ONE, Atom
    >>> heads, length, longer, others = Atom(4), Atom(3, dynamic=True), Atom(5, dynamic=True), Atom(4)
    >>> [_comes_back((ONE, heads, length), (ONE, *others)) for others in ((heads, longer), (others, length))]
    [True, False]
    """
    if len(past) != len(present):
        return False
    same = [old for old, new in zip(past, present, strict=True) if old == new]
    return len(past) - len(same) <= 1 and any(map(_is_counted, same))


def _is_counted(axis: Axis) -> bool:
    """Whether an axis has units whose number the file states."""
    return axis.size > 1 and not any(atom.dynamic for atom in walk(axis))
