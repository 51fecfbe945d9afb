"""Streams: units that layers read and add to, again and again, such as the hidden width of a transformer.

A mean over units, or a sum of their squares, stays exact when units go: sums are over the kept ones, and are divided by
the original count. Inside a branch, such as a global response normalisation between the two layers of a feed-forward
network, such units are cut like any other. In a stream every layer would see the changed statistics, and the stream
itself is what all layers write to: its width is cut only when that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxprune.dependency.axes import Atom, Axes
from onnxprune.dependency.partition import Partition
from onnxprune.dependency.rules import Coupling
from onnxprune.graph.model import Model, Node

_ADDING = frozenset(("Add", "Mean", "Sub", "Sum"))
_ADDENDS: Mapping[str, int] = {  # slot of what a layer adds to its own product
    "Gemm": 2,
    "com.microsoft.FusedConv": 3,
    "com.microsoft.FusedGemm": 2,
    "com.microsoft.NhwcFusedConv": 3,
}


def streams(
    model: Model,
    partition: Partition,
    values: Mapping[str, Axes],
    couplings: Mapping[int, Coupling],
    candidates: Iterable[Atom],
) -> list[Atom]:
    """Return those of the `candidates` to which something is added that a layer computes from the units themselves.

    Args:
        model: the model.
        partition: of its axes.
        values: axes of its runtime tensors.
        couplings: by node.
        candidates: unbound atoms.
    """
    readers = _readers(partition, couplings, set(candidates))
    adding = [model.nodes[index] for index in couplings if model.nodes[index].op in _ADDING | _ADDENDS.keys()]
    result: list[Atom] = []
    for atom, layers in readers.items():
        after = _downstream(model, layers)
        joining = [node for node in adding if node.outputs[0] in after]
        before = {name for node in joining for name in _addends(node) if name in values and name not in after}
        if any(atom in partition.atoms(axis) for name in before for axis in values[name]):
            result.append(atom)
    return result


def _addends(node: Node) -> Sequence[str]:
    """Return what a node adds up, without the product that it makes itself."""
    slot = _ADDENDS.get(node.op)
    return node.inputs if slot is None else node.inputs[slot : slot + 1]


def _readers(partition: Partition, couplings: Mapping[int, Coupling], candidates: set[Atom]) -> dict[Atom, list[int]]:
    """Return the nodes of the layers that sum over the units of each atom."""
    readers: dict[Atom, list[int]] = {}
    for index, coupling in couplings.items():
        for slot, dim in coupling.contracted if coupling.macs else ():
            for atom in partition.atoms((coupling.inputs[slot] or ())[dim]):
                if atom in candidates:
                    readers.setdefault(atom, []).append(index)
    return readers


def _downstream(model: Model, nodes: Iterable[int]) -> set[str]:
    """Return the values that depend on what some nodes give; a body gives what its node gives."""
    owners = {name: node for node in model.nodes for body in node.bodies for name in body.outputs}
    reached: set[str] = set()
    pending = [name for index in nodes for name in model.nodes[index].outputs if name]
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        reached.add(name)
        after = [model.nodes[index] for index, _ in model.readers.get(name, ())]
        after += [owners[name]] if name in owners else []
        pending.extend(output for node in after for output in node.outputs if output)
    return reached
