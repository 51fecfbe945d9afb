"""Apart: what of a graph belongs to one unit alone, such as the layers of an expert, and goes with it.

Exporters unroll a loop over experts: each takes what the choice says of it out of a mask, the rows of its tokens by
that, and its answers are added to those of the others, row by row. Nothing has to be known of such loops. What one unit
has alone starts where an op takes one index of an axis of units that are picked (`rules.coupling.Alone`), out of a
value that is zero for units that were not. A removed unit is never picked; so what follows from that is told node by
node:

=======  ==============================================================================================
zero     products with a zero, sums of zeros, copies of them in any arrangement
empty    what has the count of a NonZero of zeros among its sizes: no rows are picked
size     what is computed of the sizes of either: it may steer what is empty, and nothing else
nothing  a zero that is added, and empty rows that are put into a value: that is there as it was before
=======  ==============================================================================================

The last row is where a unit ends: without it, the sum is its other addend, and all nodes that were there for the unit
alone go. A node that is none of these keeps all units, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from onnxprune.dependency.axes import ONE, Atom, Axes, Axis, Lock, Mask, Product, Sum
from onnxprune.dependency.needs import Needs
from onnxprune.dependency.partition import Partition
from onnxprune.dependency.rules import Coupling
from onnxprune.dependency.rules.coupling import Alone
from onnxprune.graph.model import Model, Node
from onnxprune.graph.scopes import given, scopes
from onnxprune.graph.shapes.probe import Probe

# Operators that give zeros where their first input is zeros, and those that do where any input is.
_OF_FIRST = frozenset(
    ("Abs", "Cast", "CastLike", "Div", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Neg",
     "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Sign", "Slice", "Split", "Sqrt", "Squeeze", "Tile",
     "Transpose", "Unsqueeze")
)  # fmt: skip
_OF_ANY = frozenset(("And", "MatMul", "Mul"))
_CONTRACTING = frozenset(("MatMul", "ReduceSum", "Einsum"))  # whose sums over nothing are zeros
_SIZES = frozenset(("Shape", "Size"))
_SUMS = frozenset(("Add", "Sum"))  # of two inputs
_SCATTERS = frozenset(("Scatter", "ScatterElements", "ScatterND"))  # of data, indices and updates


class Kind(Enum):
    """What a value is where its units were not picked."""

    ZERO = "zero"
    EMPTY = "empty"
    SIZE = "size"


@dataclass(frozen=True, slots=True)
class Drop:
    """Where units end: without them, a value is what the node reads in another slot."""

    node: int
    slot: int  # what the units add
    units: frozenset[int]  # all of which are removed
    source: int  # the slot of what is left
    output: str


@dataclass(frozen=True, slots=True)
class Count:
    """A number of rows that is counted for some units alone."""

    units: frozenset[int]
    of: Axes  # of what is counted
    picked: int  # units that are picked for each index of these axes, all units together


@dataclass(frozen=True, slots=True)
class Apart:
    """What the units of an axis have alone."""

    drops: tuple[Drop, ...] = ()  # in the order of the graph
    nodes: Mapping[int, int] = field(default_factory=dict)  # nodes of all graphs, and the unit that each is there for
    counts: Mapping[Atom, Count] = field(default_factory=dict)  # by the axis that has so many indices

    @property
    def ends(self) -> frozenset[int]:
        """The nodes where one unit ends, which go with it, too."""
        return frozenset(drop.node for drop in self.drops if len(drop.units) == 1)

    def dropped(self, removed: Container[int]) -> Iterator[Drop]:
        """Yield where units end of which all are removed."""
        return (drop for drop in self.drops if all(unit in removed for unit in drop.units))


@dataclass(frozen=True, slots=True)
class _Own:
    """A value of some units alone: what it is when none of them is picked."""

    atom: Atom
    kind: Kind
    units: frozenset[int]


class _NotUnderstood(Exception):
    """What a node does with what some units have alone; the message is a reason."""


def units_apart(
    model: Model, probe: Probe, partition: Partition, couplings: Mapping[int, Coupling]
) -> dict[Atom, Apart | Lock]:
    """Return what units have alone, by their axis; why they cannot be told apart, where that is so."""
    if all(coupling.alone is None for coupling in couplings.values()):
        return {}
    return _Finder(model, probe, partition, couplings).all()


def removed_units(atom: Atom, kept: Mapping[Atom, Mask]) -> frozenset[int]:
    """Return the units of an axis that are not kept."""
    return frozenset(np.flatnonzero(~kept[atom]).tolist()) if atom in kept else frozenset()


def gone_nodes(apart: Mapping[Atom, Apart], kept: Mapping[Atom, Mask]) -> frozenset[int]:
    """Return the nodes of all graphs that go with the units that are not kept."""
    going = (
        (index, unit, removed)
        for atom, each in apart.items()
        for removed in [removed_units(atom, kept)]
        for index, unit in each.nodes.items()
    )
    return frozenset(index for index, unit, removed in going if unit in removed)


def constants_apart(model: Model, apart: Mapping[Atom, Apart]) -> dict[str, tuple[Atom, int]]:
    """Return the axis and the unit of constants that nodes of one unit alone read, by name."""
    of_node = {index: (atom, unit) for atom, each in apart.items() for index, unit in each.nodes.items()}
    found, stay = {}, given(model) if of_node else frozenset[str]()
    for name in model.constants if of_node else ():
        owners = {of_node.get(index) for index, slot in model.readers.get(name, ()) if slot >= 0}
        owner = owners.pop() if len(owners) == 1 else None
        if owner is not None and name not in stay:
            found[name] = owner
    return found


def weights_apart(model: Model, apart: Mapping[Atom, Apart]) -> dict[Atom, tuple[tuple[str, ...], ...]]:
    """Return the weights that each unit of an axis has alone, such as those of an expert, by the axis."""
    own = constants_apart(model, apart)
    found = {atom: [list[str]() for _ in range(atom.size)] for atom in apart}
    uses = Counter(constant.identity for constant in model.constants.values()) if own else Counter()
    for name, (atom, unit) in own.items():
        if model.constants[name].is_weight and uses[model.constants[name].identity] == 1:
            found[atom][unit].append(name)
    return {atom: tuple(map(tuple, names)) for atom, names in found.items()}


class _Finder:
    """One walk through the nodes of all graphs."""

    def __init__(self, model: Model, probe: Probe, partition: Partition, couplings: Mapping[int, Coupling]) -> None:
        self._model, self._probe, self._partition, self._couplings = model, probe, partition, couplings
        self._kept = given(model)
        self._choosing = [coupling for coupling in couplings.values() if coupling.chosen]
        self._own: dict[str, _Own] = {}
        self._spread: dict[str, Atom] = {}  # values that are zero, along this axis, for units that were not picked
        self._drops: dict[Atom, list[Drop]] = {}
        self._counts: dict[Atom, dict[Atom, Count]] = {}
        self._locks: dict[Atom, Lock] = {}

    def all(self) -> dict[Atom, Apart | Lock]:
        for node in self._model.nodes:
            own = {slot: self._own[name] for slot, name in enumerate(node.inputs) if name in self._own}
            try:
                self._visit(node, own)
            except _NotUnderstood as reason:
                for atom in {each.atom for each in own.values()} | self._begun(node):
                    self._locks.setdefault(atom, Lock(str(reason), node.name))
        graphs = (Needs(self._model, scope) for scope in (scopes(self._model) if self._drops else ()))
        needs = {index: each for each in graphs for index in each.place}
        return {**{atom: self._apart(atom, needs) for atom in self._drops}, **self._locks}

    def _begun(self, node: Node) -> set[Atom]:
        """Return the axis that a node takes a unit of alone."""
        coupling = self._couplings.get(node.index)
        alone = None if coupling is None else coupling.alone
        return set() if alone is None else set(self._partition.atoms(alone.axis))

    def _apart(self, atom: Atom, needs: Mapping[int, Needs]) -> Apart:
        """Return what the units of an axis have alone; `needs` are those of the graph of each node."""
        inputs: dict[tuple[int, Needs], set[tuple[int, int]]] = {}  # that go, by the unit and the graph where it ends
        for drop in self._drops[atom]:
            for unit in drop.units if len(drop.units) == 1 else ():
                inputs.setdefault((unit, needs[drop.node]), set()).update(self._read(drop))
        nodes = {
            inner: unit
            for (unit, graph), read in sorted(inputs.items(), key=lambda item: item[0][0])
            for index in graph.only_for(read, self._kept)
            for inner in self._model.within(index)
        }
        return Apart(tuple(self._drops[atom]), nodes, self._counts.get(atom, {}))

    def _read(self, drop: Drop) -> Iterator[tuple[int, int]]:
        """Yield what the node reads where units end, but for what is left: rows, and where they are put."""
        slots = range(len(self._model.nodes[drop.node].inputs))
        return ((drop.node, slot) for slot in slots if slot != drop.source)

    # -- one node --------------------------------------------------------------------------------------

    def _visit(self, node: Node, own: Mapping[int, _Own]) -> None:
        coupling = self._couplings.get(node.index)
        result: _Own | None = None
        if coupling is not None and coupling.alone is not None:
            result = self._begin(node, coupling.alone, own)
        elif own:
            result = self._follow(node, coupling, own)
        elif coupling is not None:
            self._spread_on(node, coupling)
        if result is not None:
            self._own.update(dict.fromkeys(filter(None, node.outputs), result))
            if not self._kept.isdisjoint(node.outputs):
                raise _NotUnderstood(f"{node.op} hands what one unit alone has out of its graph")

    def _begin(self, node: Node, alone: Alone, own: Mapping[int, _Own]) -> _Own | None:
        """Return what a node takes of one unit alone; of what others have, it would belong to both."""
        atom = self._partition.resolve(alone.axis)
        if not isinstance(atom, Atom):
            raise _NotUnderstood(f"{node.op} takes one unit alone of {self._partition.show(atom)}, no axis of its own")
        self._drops.setdefault(atom, [])
        if any(each.atom is not atom or each.units != {alone.unit} for each in own.values()):
            raise self._unknown(node)
        if alone.slot is not None and self._spread.get(node.inputs[alone.slot]) is not atom:
            raise _NotUnderstood(
                f"{node.op} takes one unit alone out of numbers that count where it is not picked, too"
            )
        return _Own(atom, Kind.ZERO, frozenset((alone.unit,)))

    def _spread_on(self, node: Node, coupling: Coupling) -> None:
        """Note that an output is zero for units that were not picked."""
        axes = self._outputs(coupling)[0] or ()
        here = [self._partition.resolve(axes[dim]) for dim in coupling.spread]
        slots = range(len(node.inputs)) if node.op in _OF_ANY else range(node.op in _OF_FIRST)
        here += filter(None, (self._carried(node, coupling, slot) for slot in slots))
        for atom in here:
            if isinstance(atom, Atom) and self._dim(axes, atom) is not None:
                self._spread.update(dict.fromkeys(filter(None, node.outputs), atom))

    def _carried(self, node: Node, coupling: Coupling, slot: int) -> Atom | None:
        """Return the axis along which an input is zero for some units, where the output has these units as they are.

        That is not so where they are summed over or indexed: the output may have another axis of as many units there.
        """
        atom = self._spread.get(node.inputs[slot])
        axes = coupling.inputs[slot] or ()
        dim = None if atom is None else self._dim(axes, atom)
        summed = [self._partition.resolve((coupling.inputs[at] or ())[n]) for at, n in coupling.contracted]
        if dim is None or atom in summed or node.op == "GatherND":
            return None
        indexed = node.attrs.get("axis", 0) % len(axes) if node.op in ("Gather", "GatherElements") else None
        return None if dim == indexed else atom

    def _dim(self, axes: Axes, atom: Atom) -> int | None:
        """Return the one dim that has the units of an axis; None where several have, or it has more than these."""
        dims = [dim for dim, axis in enumerate(axes) if atom in self._partition.atoms(axis)]
        return dims[0] if len(dims) == 1 and self._partition.resolve(axes[dims[0]]) is atom else None

    def _outputs(self, coupling: Coupling) -> list[Axes | None]:
        return coupling.outputs or [None]

    def _follow(self, node: Node, coupling: Coupling | None, own: Mapping[int, _Own]) -> _Own | None:
        """Return what a node makes of what some units have alone; None where they end here."""
        first = next(iter(own.values()))
        if any(each.atom is not first.atom for each in own.values()):
            raise self._unknown(node)
        kind = self._kind(node, coupling, own, first) if len({each.units for each in own.values()}) == 1 else None
        if kind is None and node.op in _SUMS and len(node.inputs) == 2:
            return self._sum(node, own)
        if kind is None and node.op in _SCATTERS and 2 in own:
            return self._scattered(node, own)
        if kind is None:
            raise self._unknown(node)
        return _Own(first.atom, kind, first.units)

    def _unknown(self, node: Node) -> _NotUnderstood:
        return _NotUnderstood(f"what {node.op} makes of what one unit alone has may stay when the unit goes")

    def _kind(self, node: Node, coupling: Coupling | None, own: Mapping[int, _Own], first: _Own) -> Kind | None:
        """Return what the outputs of a node are that reads what the same units have; None where that is not known."""
        if coupling is None or node.op in _SIZES:
            return Kind.SIZE
        made = [axes for name, axes in zip(node.outputs, coupling.outputs, strict=True) if name]
        if all(axes is not None and self._is_empty(axes, first) for axes in made):
            return Kind.EMPTY
        zeros = {slot for slot, each in own.items() if each.kind is Kind.ZERO}
        if node.op == "NonZero" and zeros:
            return self._counted(coupling, first)
        if (node.op in _OF_FIRST and 0 in zeros) or (node.op in _OF_ANY and zeros):
            return Kind.ZERO
        summed = ((coupling.inputs[slot] or ())[dim : dim + 1] for slot, dim in coupling.contracted)
        if node.op in _CONTRACTING and any(self._is_empty(axes, first) for axes in summed):
            return Kind.ZERO
        return None

    def _counted(self, coupling: Coupling, own: _Own) -> Kind | None:
        """Note which axis has as many indices as there are non-zeros; there are none."""
        atom = self._partition.resolve((coupling.outputs[0] or (ONE,))[-1])
        if not isinstance(atom, Atom):
            return None
        counts = self._counts.setdefault(own.atom, {})
        of = coupling.inputs[0] or ()
        counts[atom] = Count(own.units, of, self._picked(own.atom, of))
        return Kind.EMPTY

    def _picked(self, atom: Atom, of: Axes) -> int:
        """Return how many units are picked for each index of some axes: one where the picks are an axis among these."""
        resolve = self._partition.resolve
        for coupling in self._choosing:
            for choice in coupling.chosen:
                if resolve((coupling.inputs[choice.slot] or ())[choice.dim]) is atom:
                    picks = {resolve(axes[choice.dim]) for axes in coupling.outputs if axes}
                    return 1 if any(resolve(axis) in picks for axis in of) else choice.count
        return 1

    def _is_empty(self, axes: Axes, own: _Own) -> bool:
        """Whether a value of these axes has no elements when some units are not picked."""
        counts = [atom for atom, count in self._counts.get(own.atom, {}).items() if count.units == own.units]
        return any(_has_factor(self._partition.resolve(axis), counts) for axis in axes)

    # -- where units end -------------------------------------------------------------------------------

    def _sum(self, node: Node, own: Mapping[int, _Own]) -> _Own | None:
        """Return what is left of a sum of zeros; where one addend is none, units end."""
        for slot, each in own.items():
            sizes = self._probe.sizes(node.inputs[1 - slot])
            if each.kind is not Kind.ZERO or sizes is None or sizes != self._probe.sizes(node.outputs[0]):
                raise self._unknown(node)
            self._drops[each.atom].append(Drop(node.index, slot, each.units, 1 - slot, node.outputs[0]))
        return self._together(*own.values()) if len(own) == 2 else None

    def _scattered(self, node: Node, own: Mapping[int, _Own]) -> _Own | None:
        """Return what rows are put into, where those of some units are none: zeros, or what others read as well."""
        rows, into = own[2], own.get(0)
        adds = node.attrs.get("reduction", "none") == "add"
        if rows.kind is Kind.SIZE or (rows.kind is Kind.ZERO and not adds) or own.get(1, rows).units != rows.units:
            raise self._unknown(node)
        if into is not None and into.kind is not Kind.ZERO:
            raise self._unknown(node)
        self._drops[rows.atom].append(Drop(node.index, 2, rows.units, 0, node.outputs[0]))
        if into is not None:
            return self._together(into, rows)
        return _Own(rows.atom, Kind.ZERO, rows.units) if node.inputs[0] in self._probe.zeros else None

    def _together(self, one: _Own, other: _Own) -> _Own | None:
        """Return the sum of what some units have and what others do: zero where all of these go."""
        units = one.units | other.units  # some of all units stay
        return _Own(one.atom, Kind.ZERO, units) if len(units) < one.atom.size else None


def _has_factor(axis: Axis, counts: Collection[Atom]) -> bool:
    """Whether an axis has no indices where an axis of these has none."""
    if isinstance(axis, Product):
        return any(_has_factor(factor, counts) for factor in axis.factors)
    if isinstance(axis, Sum):
        return bool(axis.parts) and all(_has_factor(part, counts) for part in axis.parts)
    return axis in counts
