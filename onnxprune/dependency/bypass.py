"""Bypasses: where a linear map may stand in for a branch, such as an attention that does little but mix units.

The map reads what the first layers of the branch read, and adds to the stream in its place: ``stream + x W + b``. NBL
(Neural Block Linearization, Erdogan et al. 2025) does so for attentions, ReplaceMe (Shopkhoev et al. 2025) for runs of
blocks. Which value is read follows from the graph: of the nodes of the branch that multiply, the first read it, and it
has the shape of what the branch adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxprune.dependency.axes import walk
from onnxprune.dependency.branches import Branch
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import Trace
from onnxprune.graph.linear import is_float
from onnxprune.graph.model import Node

_CHANNELS_SECOND = frozenset(("Conv", "ConvTranspose"))  # operators whose values are ``[samples, channels, ...]``


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
    axes = traced.values.get(branch.value)
    if shape is None or axes is None or not shape:
        return "the shape of what it adds is not known"
    if not is_float(dtype):
        return f"what it adds is in {dtype.name}, and a linear map needs floats"
    for node in _first(traced, branch):
        source = next((name for name in node.inputs if name and name not in traced.model.fixed), None)
        dim = 1 if node.op in _CHANNELS_SECOND else len(shape) - 1
        is_alike = source is not None and traced.probe.shape(source) == shape and traced.probe.dtype(source) == dtype
        if source is None or not is_alike or dim >= len(shape):
            continue
        if any(atom.dynamic for atom in walk(traced.axes(axes)[dim])):
            return "the number of units that it adds differs from run to run"
        return Bypass(branch, source, dim, shape[dim], len(shape))
    return "no layer of it reads a value of the shape that it adds"


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
