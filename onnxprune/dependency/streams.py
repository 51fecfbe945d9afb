"""Streams: units that layers read and add to, again and again, such as the hidden width of a transformer.

A mean over units, or a sum of their squares, stays exact when units go: sums are over the kept ones, and are divided by
the original count. Inside a branch, such as a global response normalisation between the two layers of a feed-forward
network, such units are cut like any other. In a stream every layer would see the changed statistics, and the stream
itself is what all layers write to: its width is cut only when that is asked for.

One walk through the nodes tells. Sets of atoms are bits of a number, so that a step is an *or* of a few numbers however
deep the graph is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from onnxprune.dependency.axes import Atom, Axes, Axis, Sum
from onnxprune.dependency.partition import Partition
from onnxprune.dependency.rules import Coupling
from onnxprune.graph.model import Model, Node


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
    walk = _Walk(partition, values, list(candidates))
    if walk.atoms:
        last = {name: node.index for node in model.nodes for name in _reads(node)}
        for node in model.nodes:
            walk.step(node, couplings.get(node.index))
            for name in _reads(node):
                if last[name] == node.index:  # nobody needs it any more
                    walk.forget(name)
    return [atom for number, atom in enumerate(walk.atoms) if walk.found >> number & 1]


class _Walk:
    """What is known of the values up to a node; a set of atoms is a number, with a bit for each of `atoms`."""

    def __init__(self, partition: Partition, values: Mapping[str, Axes], atoms: list[Atom]) -> None:
        self.atoms = atoms
        self.found = 0
        self._partition = partition
        self._values = values
        self._numbers = {atom: number for number, atom in enumerate(atoms)}
        self._after: dict[str, int] = {}  # by value, the atoms that a layer before it sums over
        self._stacked: dict[str, int] = {}  # by value, those that lie in it side by side, as they were and added to

    def step(self, node: Node, coupling: Coupling | None) -> None:
        """Look at a node, all nodes before it having been looked at."""
        after = self._summed(coupling) if coupling else 0
        stacked = 0
        for name in _reads(node):
            after |= self._after.get(name, 0)
            stacked |= self._stacked.get(name, 0)
        if not after:
            return
        if coupling and coupling.stacks_along is not None:
            stacked |= self._joined(coupling, after)
        elif coupling:
            self.found |= self._joined(coupling, after)
            self.found |= stacked if stacked and self._adds_stacked(coupling) else 0
        for name in filter(None, node.outputs):
            self._after[name], self._stacked[name] = after, stacked

    def forget(self, name: str) -> None:
        """Drop what is known of a value."""
        self._after.pop(name, None)
        self._stacked.pop(name, None)

    def _summed(self, coupling: Coupling) -> int:
        """Return the atoms that a node sums over, if it is a layer."""
        return self._bits((coupling.inputs[slot] or ())[dim] for slot, dim in coupling.contracted if coupling.macs)

    def _joined(self, coupling: Coupling, after: int) -> int:
        """Return those of the atoms `after` some layers to which the node adds, or that it puts beside the others."""
        joined = 0
        for name in (coupling.node.inputs[slot] for slot in coupling.addends):
            as_they_were = after & ~self._after.get(name, 0)
            if as_they_were:
                axes = self._values.get(name, ())
                joined |= as_they_were & self._bits(
                    axis for dim, axis in enumerate(axes) if dim != coupling.stacks_along
                )
        return joined

    def _adds_stacked(self, coupling: Coupling) -> bool:
        """Whether a node that is no layer sums over an axis that is a concatenation."""
        axes = ((coupling.inputs[slot] or ())[dim] for slot, dim in coupling.contracted if not coupling.macs)
        return any(isinstance(self._partition.resolve(axis), Sum) for axis in axes)

    def _bits(self, axes: Iterable[Axis]) -> int:
        """Return the atoms of some axes that are among those looked at."""
        atoms = {atom for axis in axes for atom in self._partition.atoms(axis)}
        return sum(1 << self._numbers[atom] for atom in atoms if atom in self._numbers)


def _reads(node: Node) -> Iterator[str]:
    """Yield the values that a node reads, and those that its bodies take from outside or give to it."""
    yield from filter(None, node.inputs)
    yield from node.captured
    for body in node.bodies:
        yield from body.outputs
