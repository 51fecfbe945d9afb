"""Bypasses: where a linear map may stand in for a branch, such as an attention that does little but mix units.

The map reads what the first layers of the branch read, and adds to the stream in its place: ``stream + x W + b``.
NBL does so for attentions (Erdogan et al. 2025, "Efficient Large Language Model Inference with Neural Block
Linearization"), ReplaceMe for runs of blocks (Shopkhoev et al. 2025, "ReplaceMe: Network Simplification via Depth
Pruning and Transformer Block Linearization"). Which value is read follows from the graph: of the nodes of the branch
that multiply, the first read it, and it has the axes of what the branch adds, one by one. Sizes alone would not do: a
square image has as many columns as rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxprune.dependency.axes import Axes, walk
from onnxprune.dependency.branches import Branch
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import Trace
from onnxprune.graph.linear import is_float
from onnxprune.graph.model import Node

_CHANNELS_SECOND = frozenset(("Conv", "ConvTranspose"))  # operators that mix the second axis; others mix the last one


@dataclass(frozen=True)
class Bypass:
    """A linear map from what a branch reads to what it adds."""

    branch: Branch
    source: str  # the value that is mapped, of the shape of what the branch adds
    dim: int  # of its units, in both
    units: int
    rank: int


def bypass_of(traced: Trace, branch: Branch) -> Bypass | str:
    """Return the linear map that may stand in for a branch, or why none can."""
    shape, dtype = traced.probe.shape(branch.value), traced.probe.dtype(branch.value)
    axes = _axes(traced, branch.value)
    if not shape or axes is None:
        return "the shape of what it adds is not known"
    if not is_float(dtype):
        return f"what it adds is in {dtype.name}, and a linear map needs floats"
    for node in _first(traced, branch):
        source, dim = node.inputs[0], 1 if node.op in _CHANNELS_SECOND else len(shape) - 1
        if not source or source in traced.model.fixed or _axes(traced, source) != axes or dim >= len(shape):
            continue
        if traced.probe.shape(source) != shape or traced.probe.dtype(source) != dtype:
            continue
        if any(atom.dynamic for atom in walk(axes[dim])):
            return "the number of units that it adds differs from run to run"
        return Bypass(branch, source, dim, shape[dim], len(shape))
    return "no layer of it reads a value with the axes of what it adds"


def _axes(traced: Trace, name: str) -> Axes | None:
    """Return the axes of a value in their finest atoms, None where they are not known."""
    axes = traced.values.get(name)
    return None if axes is None else traced.axes(axes)


def _first(traced: Trace, branch: Branch) -> Iterator[Node]:
    """Yield the nodes of a branch that multiply what no other node of it that multiplies has been at."""
    macs, behind = NodeMacs(traced).of, set[str]()
    for index in branch.nodes:
        node = traced.model.nodes[index]
        is_behind = not behind.isdisjoint((*node.inputs, *node.captured))
        if macs(index) and not is_behind:
            yield node
        if macs(index) or is_behind:
            behind.update(filter(None, node.outputs))
