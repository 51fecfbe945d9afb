"""Groups: the free atoms of a trace, with the weights that carry them, in words a user knows.

A *group* is an atom that lies on some weight; a *unit* is one index of it: a filter, a head, an FFN neuron.
Cutting a unit removes its slice from every weight of the group.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.dependency.apart import weights_apart
from onnxprune.dependency.axes import Atom, Axes, Axis, Lock, outer_factors, places, walk
from onnxprune.dependency.partition import Partition
from onnxprune.dependency.rules import Coupling
from onnxprune.dependency.trace import Trace
from onnxprune.graph.model import Constant
from onnxprune.graph.tensors import Array

EXPERTS = "experts"  # units of which an op picks some for each row
Places: TypeAlias = npt.NDArray[np.intp]
Role: TypeAlias = Literal["out", "in", "scale", "vector"]

_OF_WEIGHTS = re.compile(
    r"([._](weight|kernel))?(_Transposed)?(_quantized|_Q[48])?$"
)  # what exporters and quantizers append
_ANONYMOUS = re.compile(r"(onnx::|val_|_val|const|node_|/)|\d+$")
# Slots of tables whose rows an op looks up: they make the units that the rows hold.
TABLES: Mapping[str, tuple[int, ...]] = {
    "Gather": (0,),
    "com.microsoft.GatherBlockQuantized": (0,),
    "com.microsoft.EmbedLayerNormalization": (2, 3, 4),
}


@dataclass(frozen=True, slots=True)
class Member:
    """One axis of one weight that carries the group."""

    constant: str
    node: str  # name of the node that consumes its value
    dim: int
    axis: Axis
    role: Role  # the weight makes the unit, consumes it, scales it, or adds to it
    sink: tuple[int, int]  # node and input slot where its value is consumed, after Cast, DequantizeLinear and the like
    places: Places = field(compare=False, repr=False)  # of each unit on the axis, ``[units, occurrences]``

    def matrix(self, array: Array) -> Array:
        """Return the weight as float ``[units, fan]``: all that belongs to each unit."""
        return by_unit(array, self.dim, self.places)


def by_unit(array: Array, dim: int, places: Places) -> Array:
    """Return an array as float ``[units, fan]``; `places` tells where units lie on `dim`, first occurrences first."""
    front = np.moveaxis(array, dim, 0)
    if places.shape[1] != 1 or len(places) != len(front):  # else the units are the indices of the axis
        front = front[places]
    flat = front.reshape(len(places), -1)
    return flat if flat.dtype in (np.float32, np.float64) else flat.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Group:
    """What is cut together."""

    name: str  # after the layer that makes the units
    kind: str  # channels, neurons, heads, head dims, experts, hidden width, positions
    atom: Atom
    members: tuple[Member, ...]
    lock: Lock | None  # why no unit can be removed
    mixed: Lock | None  # the op that mixes over the units, None if masking and removing agree
    outer: tuple[Atom, ...]  # free outer factors of the same axis (heads around head dims), to be cut first
    lanes: int  # channels of a convolution that one unit stands for, 0 if no convolution carries it; what is common to
    # all where some have more channels for a unit than others
    params: int  # weights that carry it, all units together
    least: int = 1  # units that some op picks of them: no fewer can be kept
    alone: tuple[tuple[str, ...], ...] = ()  # weights that each unit has alone, such as those of an expert

    @property
    def units(self) -> int:
        """The number of units."""
        return self.atom.size

    @property
    def locked(self) -> str | None:
        """Why no unit can be removed, with the node that says so; None if units can be."""
        return str(self.lock) if self.lock else None

    @property
    def inexact(self) -> str | None:
        """Which op mixes over the units, None if masking and removing agree."""
        return str(self.mixed) if self.mixed else None

    @property
    def inner(self) -> bool:
        """Whether an outer factor of the same axis can be cut instead."""
        return bool(self.outer)

    @property
    def exact(self) -> bool:
        """Whether removing a unit equals masking it to zero where it is consumed."""
        return self.mixed is None

    @property
    def prunable(self) -> bool:
        """Whether units are removed without being asked for by name."""
        return self.lock is None and self.exact and not self.inner

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes whose weights carry the group, in graph order."""
        return tuple(dict.fromkeys(member.node for member in self.members))


def groups(traced: Trace) -> tuple[Group, ...]:
    """Return the groups of a trace, in the order of tracing; axes that live inside a single weight are left out."""
    partition = traced.partition
    constant = traced.model.fixed
    outside = {
        atom
        for name, axes in traced.values.items()
        for axis in (axes if name not in constant else ())
        for atom in partition.atoms(axis)
    }
    outside.update(_hidden(traced))
    members: dict[Atom, list[Member]] = {}
    around: dict[Atom, set[Atom]] = {}
    finder = RoleFinder(traced)
    seen: dict[int, tuple[Axis, Mapping[Atom, Places], Mapping[Atom, set[Atom]]]] = {}  # by id of the axis
    for use in traced.uses:
        weight = traced.model.constants.get(use.constant)
        if weight is None or not weight.is_weight or use.node < 0:
            continue
        for dim, axis in enumerate(traced.axes(use.axes)):
            if id(axis) not in seen:
                seen[id(axis)] = axis, places(axis), outer_factors(axis)
            _, located, outside_of = seen[id(axis)]
            for atom in located:
                if atom not in outside:
                    continue
                for sink, slot in finder.carrying(use.node, use.slot, atom):
                    role, name = finder.role(sink, slot, atom), traced.model.nodes[sink].name
                    member = Member(use.constant, name, dim, axis, role, (sink, slot), located[atom])
                    members.setdefault(atom, []).append(member)
                around.setdefault(atom, set()).update(outside_of[atom])
    kinds = _Kinds(traced)
    outers = {atom: _free(partition, around[atom]) for atom in members}
    order = {atom: position for position, atom in enumerate(members)}
    # A shuffle turns (a b) into (b a): each lies inside the other, and the first of the two is pruned.
    outer = {
        atom: tuple(out for out in around if atom not in outers.get(out, ()) or order[out] < order[atom])
        for atom, around in outers.items()
    }
    in_order = {atom: tuple(sorted(parts, key=lambda member: member.sink)) for atom, parts in members.items()}
    all_groups = [_group(traced, atom, parts, kinds, outer[atom]) for atom, parts in in_order.items()]
    return tuple(_unique(all_groups))


def _free(partition: Partition, atoms: Iterable[Atom]) -> set[Atom]:
    """Return the atoms that can be cut."""
    return {atom for atom in atoms if partition.lock_of(atom) is None and partition.mix_of(atom) is None}


def _group(traced: Trace, atom: Atom, members: tuple[Member, ...], kinds: _Kinds, outer: tuple[Atom, ...]) -> Group:
    return Group(
        name=_name(members),
        kind=kinds.of(atom),
        atom=atom,
        members=members,
        lock=traced.partition.lock_of(atom),
        mixed=traced.partition.mix_of(atom),
        outer=outer,
        lanes=kinds.lanes.get(atom, 0),
        params=_params(members, traced.model.constants, kinds.alone.get(atom, ())),
        least=kinds.picked.get(atom, 1),
        alone=kinds.alone.get(atom, ()),
    )


def _params(members: Sequence[Member], constants: Mapping[str, Constant], alone: Iterable[Iterable[str]]) -> int:
    """Return how many weights are removed with all units; a weight that several nodes share counts once."""
    users: dict[str, str] = {}
    left: dict[str, list[int]] = {}
    seen: set[tuple[str, int]] = set()  # a node may read one weight along several paths
    for member in members:
        key = member.constant, member.dim
        if users.setdefault(member.constant, member.node) == member.node and key not in seen:
            seen.add(key)
            sizes = left.setdefault(member.constant, list(constants[member.constant].shape))
            sizes[member.dim] -= member.places.size
    apart = sum(constants[name].count for names in alone for name in names)
    return apart + sum(constants[name].count - math.prod(sizes) for name, sizes in left.items())


def layer_name(constant: str) -> str:
    """Return the name of a weight without what exporters and quantizers append to that of its layer.

    >>> layer_name("blocks.0.fc1.weight_quantized")
    'blocks.0.fc1'
    """
    return _OF_WEIGHTS.sub("", constant)


def _name(members: Sequence[Member]) -> str:
    """Return the name of the layer that makes the units: its weight's name if people chose it, else the node's.

    Units that no weight makes, such as the channels of an image, are called after the layer they go into.
    """
    makers = [member for member in members if member.role == "out"]
    first = (makers or members)[0]
    anonymous = _ANONYMOUS.match(first.constant)
    name = first.node if anonymous else layer_name(first.constant)
    consumed = not makers and any(member.role == "in" for member in members)
    return f"{name}:in" if consumed else name


def _unique(all_groups: list[Group]) -> Iterator[Group]:
    """Make names unique: the kind is added to those that several groups share, then a number."""
    counts = Counter(group.name for group in all_groups)
    kinds = [f":{group.kind.replace(' ', '_')}" if counts[group.name] > 1 else "" for group in all_groups]
    wanted = [group.name + kind for group, kind in zip(all_groups, kinds, strict=True)]
    shared, taken = Counter(wanted), set(wanted)
    for group, name in zip(all_groups, wanted, strict=True):
        number, unique = 1, name
        while shared[name] > 1 and unique in taken:
            unique = f"{name}.{number}"
            number += 1
        taken.add(unique)
        yield replace(group, name=unique)


def _hidden(traced: Trace) -> Iterator[Atom]:
    """Yield the atoms of units that one op makes and consumes inside, such as what fused queries and keys meet on."""
    for coupling in traced.couplings.values():
        for slot, dim in coupling.hidden:
            yield from traced.partition.atoms((coupling.inputs[slot] or ())[dim])


def _matrices(coupling: Coupling) -> set[int]:
    """Return the slots of the weights with hidden units; a bias has fewer axes."""
    ranks = {slot: len(coupling.inputs[slot] or ()) for slot, _ in coupling.hidden}
    return {slot for slot, rank in ranks.items() if rank == max(ranks.values())}


class RoleFinder:
    """Tells what a weight does with a unit, also through Transpose or Cast between the weight and its op."""

    def __init__(self, traced: Trace) -> None:
        self._traced = traced
        self._contracted: dict[int, dict[Atom, set[int]]] = {}
        self._sinks: dict[int, tuple[tuple[int, int], ...]] = {}  # of the outputs of a node that computes a weight

    def role(self, node: int, slot: int, atom: Atom) -> Role:
        """Return what the weight in an input slot of a node, one of its `sinks`, does with the units of `atom`."""
        sink = self._traced.model.nodes[node]
        if sink.op == "BatchNormalization":
            return "scale" if slot == 1 else "vector"
        coupling = self._traced.couplings.get(sink.index)
        if coupling and slot in TABLES.get(sink.op, ()) and len(coupling.inputs[slot] or ()) > 1:
            return "out"
        if coupling and self._is_hidden(coupling, slot, atom):
            return "out" if slot in _matrices(coupling) else "vector"
        contracted = self._contracted_atoms(sink.index)
        if atom in contracted and (slot in contracted[atom] or not self._is_made(coupling, atom)):
            return "in"
        if coupling is None or not coupling.macs:
            return "vector"
        return "out" if slot < 2 or slot in coupling.encodings else "vector"

    def _is_hidden(self, coupling: Coupling, slot: int, atom: Atom) -> bool:
        axes = [(coupling.inputs[slot] or ())[dim] for hidden, dim in coupling.hidden if hidden == slot]
        return any(atom in self._traced.partition.atoms(axis) for axis in axes)

    def sinks(self, node: int, slot: int) -> tuple[tuple[int, int], ...]:
        """Return every node and slot where a weight is consumed, through nodes that have constant inputs alone."""
        pending = [node]
        while pending:  # an explicit stack: constant arithmetic can be thousands of nodes deep
            onwards = self._onwards(pending[-1])
            missing = [after for after, _ in onwards if self._computes(after) and after not in self._sinks]
            if missing:
                pending.extend(missing)
                continue
            reached = ((self._sinks.get(after) or ((after, at),)) for after, at in onwards)
            self._sinks[pending.pop()] = tuple(dict.fromkeys(sink for sinks in reached for sink in sinks))
        return self._sinks[node] or ((node, slot),)

    def _onwards(self, node: int) -> list[tuple[int, int]]:
        """Return where the outputs of a node that computes a weight go; nowhere for any other."""
        outputs = self._traced.model.nodes[node].outputs if self._computes(node) else ()
        return [after for name in outputs for after in self._traced.model.readers.get(name, ()) if self._looks(after)]

    def _looks(self, place: tuple[int, int]) -> bool:
        """Whether an input is read for its values, by the node itself."""
        node, slot = place
        return slot >= 0 and self._traced.model.nodes[node].op not in ("Shape", "Size")

    def _computes(self, node: int) -> bool:
        outputs = self._traced.model.nodes[node].outputs
        return bool(outputs) and outputs[0] in self._traced.model.fixed

    def carrying(self, node: int, slot: int, atom: Atom) -> Sequence[tuple[int, int]]:
        """Return the sinks of a weight where its value has the units of `atom`; all of them where none tells."""
        sinks = self.sinks(node, slot)
        if len(sinks) == 1:
            return sinks
        return [sink for sink in sinks if self._has(*sink, atom)] or sinks

    def _has(self, index: int, slot: int, atom: Atom) -> bool:
        coupling = self._traced.couplings.get(index)
        axes = (coupling.inputs[slot] or ()) if coupling else ()
        return any(atom in self._traced.partition.atoms(axis) for axis in axes)

    def _is_made(self, coupling: Coupling | None, atom: Atom) -> bool:
        """Whether the units come out of the node as well: those of a recurrent layer, or of a square matrix."""
        outputs = (coupling.outputs[0] or ()) if coupling else ()
        return any(atom in self._traced.partition.atoms(axis) for axis in outputs)

    def _contracted_atoms(self, index: int) -> dict[Atom, set[int]]:
        """Return the atoms that a node contracts, with the slots where it does."""
        if index not in self._contracted:
            slots_of: dict[Atom, set[int]] = {}
            coupling = self._traced.couplings.get(index)
            for slot, dim in coupling.contracted if coupling else ():
                for atom in self._traced.partition.atoms((coupling.inputs[slot] or ())[dim]) if coupling else ():
                    slots_of.setdefault(atom, set()).add(slot)
            self._contracted[index] = slots_of
        return self._contracted[index]


class _Kinds:
    """What people call the units: decided by the ops that their atoms take part in."""

    def __init__(self, traced: Trace) -> None:
        constant = traced.model.fixed
        self._partition = traced.partition
        self._heads: set[Atom] = set()
        self._dims: set[Atom] = set()
        self._head_dims: set[Atom] = set()
        self.lanes: dict[Atom, int] = {}
        self.picked: dict[Atom, int] = {}  # units that ops pick of them, by what these score
        self.alone = weights_apart(traced.model, traced.apart)
        for coupling in traced.couplings.values():
            for choice in coupling.chosen:
                for atom in self._atoms((coupling.inputs[choice.slot] or ())[choice.dim : choice.dim + 1]):
                    self.picked[atom] = max(choice.count, self.picked.get(atom, 1))
            if coupling.channels is not None:
                self._add_lanes(coupling.inputs[0] or (), coupling.channels)
                self._add_lanes(coupling.outputs[0] or (), coupling.channels)
            elif coupling.heads:
                self._heads.update(self._atoms(coupling.heads))
                self._head_dims.update(self._atoms(coupling.head_dims))
            elif coupling.macs and not coupling.hidden and not self._operands(coupling) & constant:
                self._add_attention(coupling.outputs[0] or (), coupling.macs[0])

    def _operands(self, coupling: Coupling) -> set[str]:
        """Return the names of the two factors of a product."""
        names = coupling.node.inputs
        return {names[0], names[max(coupling.encodings, default=1)]}

    def _atoms(self, axes: Axes) -> list[Atom]:
        return [atom for axis in axes for atom in self._partition.atoms(axis)]

    def _add_lanes(self, axes: Axes, dim: int) -> None:
        axis = self._partition.resolve(axes[dim]) if axes else None
        for part in getattr(axis, "parts", (axis,)) if axis else ():
            for atom in walk(part):
                self.lanes[atom] = math.gcd(self.lanes.get(atom, 0), part.size // atom.size)

    def _add_attention(self, output: Axes, macs: Axes) -> None:
        """A product of two activations: batch axes are heads, the others are inside the heads where there are some."""
        batch = self._atoms(output[:-2])
        self._heads.update(batch)
        inside = set(self._atoms(macs)) - set(batch)
        self._dims.update(inside)
        if any(atom.size > 1 and not atom.dynamic for atom in batch):
            self._head_dims.update(inside)

    def of(self, atom: Atom) -> str:
        if atom in self.picked and self._partition.lock_of(atom) is None:
            return EXPERTS
        if atom in self._heads:
            return "heads"
        if atom in self._dims and self._partition.lock_of(atom) is not None:
            return "positions"
        if atom in self._head_dims:
            return "head dims"
        if self._partition.mix_of(atom) is not None:
            return "hidden width"
        return "channels" if atom in self.lanes else "neurons"


def kin(all_groups: Iterable[Group], constants: Mapping[str, Constant]) -> dict[str, str]:
    """Return for every group the first one that shares matrices with it, unit for unit, by name; itself if none does.

    A weight that several layers share stays one only where they keep the same units.
    """
    leader: dict[str, str] = {}
    owners: dict[tuple[Hashable, int, int, bytes], str] = {}

    def root(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for group in all_groups:
        leader[group.name] = group.name
        for member in group.members:
            if len(constants[member.constant].shape) > 1:
                key = (constants[member.constant].identity, member.dim, group.units, member.places.tobytes())
                owner = owners.setdefault(key, group.name)
                one, other = root(owner), root(group.name)
                leader[other] = one
    return {name: root(name) for name in leader}


def carriers(all_groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Return the groups that each weight carries, by the name of the constant."""
    result: dict[str, list[Group]] = {}
    for group in all_groups:
        for name in dict.fromkeys(member.constant for member in group.members):
            result.setdefault(name, []).append(group)
    return result


def weights(traced: Trace) -> dict[str, Constant]:
    """Return the weights of rank 1 or more that enter the graph."""
    used = {use.constant for use in traced.uses}
    return {n: c for n, c in traced.model.constants.items() if c.is_weight and c.shape and n in used}
