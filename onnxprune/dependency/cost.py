"""What a model costs: multiply-accumulates, parameters, bytes and peak memory, from the sizes of its atoms.

All but the peak are polynomials in the sizes of the atoms, so the cost of a plan needs no rewritten model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from onnxprune.dependency.apart import constants_apart, gone_nodes, weights_apart
from onnxprune.dependency.axes import Atom, Axes, Mask, kept_size, taken, walk
from onnxprune.dependency.groups import Group
from onnxprune.dependency.sizes import Volumes
from onnxprune.dependency.trace import Trace
from onnxprune.graph.files.taken import taken_by_constants, taken_by_nodes
from onnxprune.graph.ports import Port, Role

CACHE = "kv-cache"  # the kind of cost: bytes of what is kept of the past, for one token of one text


def per_sample(traced: Trace) -> dict[Atom, int]:
    """Return the sizes that make costs those of one sample: dynamic first dims of the inputs become 1."""
    sizes: dict[Atom, int] = {}
    for port in traced.model.inputs:
        axes = traced.values.get(port.name, ())
        for atom in traced.partition.atoms(axes[0]) if axes else ():
            if atom.dynamic:
                sizes[atom] = 1
    return sizes


def macs(traced: Trace, sizes: Mapping[Atom, int] | None = None) -> int:
    """Return the multiply-accumulates of one sample when atoms have the given `sizes` (default: their own).

    Counted are convolutions and matrix products; elementwise ops and normalisations are not. Dynamic dims
    other than the batch have the size that the probe gave them.
    """
    merged = {**per_sample(traced), **(sizes or {})}
    return round(sum(each.at(merged) for each in _products(traced)))


def macs_of_kept(traced: Trace, kept: Mapping[Atom, Mask]) -> int:
    """Return the multiply-accumulates of one sample with the kept units alone.

    Rows that removed units would have been picked for go to the others.
    """
    sizes, gone = {atom: int(mask.sum()) for atom, mask in kept.items()}, gone_nodes(traced.apart, kept)
    merged = {**per_sample(traced), **sizes}
    return round(sum(each.at(merged) for each in _products(traced, sizes) if each.node not in gone))


@dataclass(frozen=True, slots=True)
class _Product:
    """Sizes that multiply to multiply-accumulates of a node."""

    node: int
    axes: Axes
    times: float  # by which the product is multiplied
    is_of_picked: bool  # whether rows are multiplied that are picked for a unit, such as an expert

    def at(self, sizes: Mapping[Atom, int]) -> float:
        return self.times * math.prod(kept_size(axis, sizes) for axis in self.axes)


def _products(traced: Trace, kept: Mapping[Atom, int] = MappingProxyType({})) -> Iterator[_Product]:
    """Yield the products of sizes that are the multiply-accumulates of each node.

    Of rows that are picked for one of several units each has as many; together they have all that are picked.

    Args:
        traced: the model with its axes.
        kept: sizes of atoms that lose units.
    """
    rows = {
        atom: (traced.axes(count.of), count.picked * len(count.units) / kept.get(units, units.size))
        for units, apart in traced.apart.items()
        for atom, count in apart.counts.items()
    }
    for index, coupling in traced.couplings.items():
        for axes in map(traced.axes, coupling.macs):
            picked = [axis for axis in axes if isinstance(axis, Atom) and axis in rows]
            others = tuple(axis for axis in axes if axis not in picked)
            all_rows = (row for atom in picked for row in rows[atom][0])
            yield _Product(index, (*all_rows, *others), math.prod(rows[atom][1] for atom in picked), bool(picked))


class NodeMacs:
    """The multiply-accumulates of the nodes of all graphs for one sample, each with those of its bodies."""

    def __init__(self, traced: Trace) -> None:
        """Count those of each node."""
        sizes, own = per_sample(traced), dict.fromkeys(range(len(traced.model.nodes)), 0.0)
        for each in _products(traced):
            own[each.node] += each.at(sizes)
        self._counts = dict[int, int]()
        for node in traced.model.nodes:  # those of a body stand in front of its node
            inner = (index for body in node.bodies for index in body.nodes)
            self._counts[node.index] = round(own[node.index]) + sum(map(self.of, inner))

    def of(self, index: int) -> int:
        """Return those of a node."""
        return self._counts[index]

    def total(self, nodes: Iterable[int]) -> int:
        """Return those of several nodes together."""
        return sum(map(self.of, set(nodes)))


def shares(traced: Trace, groups: Sequence[Group]) -> dict[str, float]:
    """Return what each group stands for, by name: its share of the parameters plus its share of the MACs."""
    by_atom = macs_by_atom(traced)
    params, total = max(1, traced.model.params), max(1, macs(traced))
    return {group.name: group.params / params + by_atom.get(group.atom, 0) / total for group in groups}


def macs_by_atom(traced: Trace) -> dict[Atom, int]:
    """Return, for every atom, the multiply-accumulates of one sample that its units take part in."""
    sizes, going = per_sample(traced), _going(traced)
    totals: dict[Atom, float] = {}
    for each in _products(traced):
        counts = [kept_size(axis, sizes) for axis in each.axes]
        for axis, count in zip(each.axes, counts, strict=True):
            others = each.times * (math.prod(counts) // max(1, count))
            for atom, part in taken(axis, sizes).items():
                totals[atom] = totals.get(atom, 0) + others * part
        if each.node in going:
            totals[going[each.node]] = totals.get(going[each.node], 0) + each.at(sizes)
    return {atom: round(total) for atom, total in totals.items()}


def _going(traced: Trace) -> dict[int, Atom]:
    """Return the nodes that go with a unit and whose work no other unit takes over, and the axis of the units.

    Rows that are picked are as many with fewer units.
    """
    of_picked = {each.node for each in _products(traced) if each.is_of_picked}
    return {index: units for units, apart in traced.apart.items() for index in apart.nodes if index not in of_picked}


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a sum that depends on the sizes of some atoms."""

    atoms: frozenset[Atom]
    value: Callable[[Mapping[Atom, int]], float]


class Terms:
    """A sum of terms that is evaluated again and again with few sizes changed: only their terms are computed anew."""

    def __init__(self, terms: Sequence[Term]) -> None:
        """Compute every term at the original sizes."""
        self._terms = terms
        self._sizes: dict[Atom, int] = {}
        self._values = [term.value({}) for term in terms]
        self._by_atom: dict[Atom, list[int]] = {}
        for number, term in enumerate(terms):
            for atom in term.atoms:
                self._by_atom.setdefault(atom, []).append(number)

    def total(self, sizes: Mapping[Atom, int]) -> float:
        """Return the sum when atoms have the given sizes (default: their own)."""
        changed = {atom for atom, size in sizes.items() if self._sizes.get(atom, atom.size) != size}
        changed |= {atom for atom, size in self._sizes.items() if atom not in sizes and size != atom.size}
        for number in {number for atom in changed for number in self._by_atom.get(atom, ())}:
            self._values[number] = self._terms[number].value(sizes)
        self._sizes = dict(sizes)
        return math.fsum(self._values)


class Counter:
    """Counts what a plan costs, also as fractions of the original, for many sizes of a few atoms.

    The size in bytes is that of all weights, of the nodes that go as a whole with units or gates, and of the rest of
    the file, which no plan changes. `sharing` has the atoms of each weight that is read under different axes: what they
    do not cut alike is stored several times.
    """

    def __init__(self, traced: Trace, gates: Mapping[int, Axes] = MappingProxyType({})) -> None:
        """Find the products of sizes that make up the costs.

        Args:
            traced: the model with its axes.
            gates: by index, of nodes of the main graph that go with others: atoms of size 1, with one of which at size
                0 the node costs nothing. A weight goes with all nodes that read it.
        """
        samples = per_sample(traced)
        gated, going = _Gates(traced, gates), _going(traced)
        alone = weights_apart(traced.model, traced.apart)
        units_of = {name: units for units, each in alone.items() for names in each for name in names}
        macs_of = [
            ([(*each.axes, *gated.of_node(each.node), *gate)], each.times * share)
            for each in _products(traced)
            for gate, share in [_share_of(going.get(each.node))]
        ]
        known = traced.model.constants
        uses = (use for use in traced.uses if use.constant in known and known[use.constant].is_weight)
        shared: dict[Hashable, dict[Axes, str]] = {}  # uses of constants that are the same bytes of a file
        for use in uses:
            gate, _ = _share_of(units_of.get(use.constant))
            axes = (*traced.axes(use.axes), *gated.of_weight(use.constant), *gate)
            shared.setdefault(known[use.constant].identity, {})[axes] = use.constant
        weights = [(list(alike), known[next(iter(alike.values()))]) for alike in shared.values()]
        read = sum(first.count for _, first in weights)
        held = sum(first.count * width(first.dtype) for _, first in weights)
        shares = [_share_of(units_of.get(first.name))[1] for _, first in weights]
        numbers = [(alike, share * width(first.dtype)) for (alike, first), share in zip(weights, shares, strict=True)]
        caches = [
            ((*traced.axes(traced.values[port.name]), *gated.of_weight(port.name)), port) for port in _caches(traced)
        ]
        beside = _beside(traced, gated)
        open_dims = {atom: 1 for axes, _ in caches for axis in axes for atom in walk(axis) if atom.dynamic}
        self._fixed: dict[str, float] = {
            "macs": 0,
            CACHE: 0,
            "params": traced.model.needed_params - read,
            "size": traced.model.needed_bytes - held - beside.before,
        }
        self._sums = {
            "macs": _Sum(macs_of, samples),
            "params": _Sum([(alike, share) for (alike, _), share in zip(weights, shares, strict=True)], samples),
            "size": _Sum([*numbers, *beside.terms], samples),
        }
        kept = [([axes], float(port.dtype.itemsize)) for axes, port in caches if port.dtype is not None]
        self._sums[CACHE] = _Sum(kept, {**samples, **open_dims})
        several = (alike for alike, _ in weights if len(alike) > 1)
        self.sharing = [_atoms(alike) for alike in several]
        self.before = {kind: self.count(kind, {}) for kind in ("macs", CACHE)}
        self.before |= {"params": traced.model.stored_params, "size": traced.model.size_bytes()}

    def count(self, kind: str, sizes: Mapping[Atom, int]) -> float:
        """Return the MACs, params, bytes, or bytes of caches for one token, when atoms have the given sizes."""
        return self._fixed[kind] + self._sums[kind].total(sizes)

    def fraction(self, kind: str, sizes: Mapping[Atom, int]) -> float:
        """Return the count as a fraction of that of the original."""
        return self.count(kind, sizes) / max(1, self.before[kind])


def _share_of(units: Atom | None) -> tuple[Axes, float]:
    """Return what a cost is multiplied by that goes with one of some units: their axis, and one over its size.

    Which of them go is not known where costs are counted: each costs what they do on the average.
    """
    return ((units,), 1 / units.size) if units is not None else ((), 1.0)


class _Gates:
    """The gates of nodes, and of what only such nodes read."""

    def __init__(self, traced: Trace, gates: Mapping[int, Axes]) -> None:
        self._owners, self._readers, self._gates = traced.model.owners, traced.model.readers, gates

    def of_node(self, index: int) -> Axes:
        """Return the gates of a node, or of the node of the main graph that it is inside of."""
        return self._gates.get(self._owners[index], ()) if self._gates else ()

    def of_weight(self, name: str) -> Axes:
        """Return the gates that all readers of a value have."""
        if not self._gates:
            return ()
        each = [self.of_node(index) for index, _ in self._readers.get(name, ())]
        return tuple(gate for gate in each[0] if all(gate in others for others in each)) if each else ()


@dataclass(frozen=True)
class _Beside:
    """What a file holds beside the numbers of weights that goes with units or gates: nodes, names, types."""

    terms: list[tuple[Sequence[Axes], float]]  # axes that each part goes with, and its bytes over the size of these
    before: int  # bytes of all of it


def _beside(traced: Trace, gated: _Gates) -> _Beside:
    """Return what goes with units or gates, the bytes of all parts with the same ones together."""
    model, found = traced.model, dict[tuple[Axes, float], int]()
    of_nodes = {index: units for units, apart in traced.apart.items() for index in (*apart.nodes, *apart.ends)}
    nodes = {node.index: (gated.of_node(node.index), of_nodes.get(node.index)) for node in model.nodes}
    of_units = constants_apart(model, traced.apart)
    constants = {name: (gated.of_weight(name), of_units.get(name, (None, 0))[0]) for name in model.constants}
    going_nodes = [index for index, (gates, units) in nodes.items() if gates or units]
    going_constants = {name for name, (gates, units) in constants.items() if gates or units}
    parts = [(nodes[index], size) for index, size in taken_by_nodes(model, going_nodes).items()]
    parts += [(constants[name], size) for name, size in taken_by_constants(model, going_constants).items()]
    for (gates, units), size in parts:
        more, share = _share_of(units)
        key = (*gates, *more), share
        found[key] = found.get(key, 0) + size
    return _Beside([([axes], size * share) for (axes, share), size in found.items()], sum(found.values()))


def _caches(traced: Trace) -> list[Port]:
    """Return the inputs that hold what is kept of the past."""
    return [port for port in traced.model.inputs if port.role is Role.PAST and port.name in traced.values]


def width(dtype: np.dtype[np.generic]) -> float:
    """Return the bytes that a number takes in a file; those of less than 8 bits are packed.

    >>> width(np.dtype("float16"))
    2.0
    """
    bits = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}.get(dtype.name)
    return bits / 8 if bits else float(dtype.itemsize)


class _Sum:
    """A sum of products of the sizes of axes, each times a number.

    Several axes are those of tensors that share their bytes: they count once as long as they have the same sizes, or
    are whole.
    """

    def __init__(self, axes_of: Sequence[tuple[Sequence[Axes], float]], samples: Mapping[Atom, int]) -> None:
        single = [(alike[0], times) for alike, times in axes_of if len(alike) == 1]
        self._volumes = Volumes((axes for axes, _ in single), samples)
        self._times = np.array([times for _, times in single], np.float64)
        self._alike = Terms([_alike(several, times, samples) for several, times in axes_of if len(several) > 1])

    def total(self, sizes: Mapping[Atom, int]) -> float:
        """Return the sum when atoms have the given sizes (default: their own)."""
        return float(self._times @ self._volumes.at(sizes)) + self._alike.total(sizes)


def _alike(several: Sequence[Axes], times: float, samples: Mapping[Atom, int]) -> Term:
    """Return what tensors hold that share their bytes where they are cut alike."""

    def value(sizes: Mapping[Atom, int]) -> float:
        merged = {**samples, **sizes}
        shapes = {tuple(kept_size(axis, merged) for axis in axes): axes for axes in several}
        whole = [shape for shape, axes in shapes.items() if shape == tuple(axis.size for axis in axes)]
        return float(times * sum(map(math.prod, shapes.keys() - whole[1:])))

    return Term(_atoms(several), value)


def _atoms(several: Sequence[Axes]) -> frozenset[Atom]:
    return frozenset(atom for axes in several for axis in axes for atom in walk(axis))


class Footprint:
    """The peak memory of weights and of the values between nodes, for any plan."""

    def __init__(self, traced: Trace, fixed: Mapping[Atom, int]) -> None:
        """Find the values that are alive at the same time.

        Args:
            traced: the model with its axes.
            fixed: sizes of dynamic atoms.
        """
        model = traced.model
        known = model.constants
        weights = {use.constant: traced.axes(use.axes) for use in traced.uses if use.constant in known}
        held = [(axes, width(known[name].dtype)) for name, axes in weights.items() if known[name].is_weight]
        place = {index: at for at, index in enumerate(model.top)}
        ports = {port.name for port in (*model.inputs, *model.outputs)}
        values: list[tuple[Axes, float]] = []
        spans = []
        for index in model.top:
            for name in model.nodes[index].outputs:
                if name in traced.values:
                    reads = [place.get(reader, len(place) - 1) for reader, _ in model.readers.get(name, ())]
                    end = len(place) - 1 if name in ports else max(reads, default=place[index])
                    spans.append((place[index], end))
                    values.append((traced.axes(traced.values[name]), width(traced.probe.dtype(name))))
        self._alive = np.zeros((len(place), len(spans)), np.float32)
        for number, (first, last) in enumerate(spans):
            self._alive[first : last + 1, number] = 1
        self._volumes = Volumes((axes for axes, _ in (*values, *held)), fixed)
        self._widths = np.array([each for _, each in (*values, *held)], np.float64)
        self._before = self._bytes({})

    def _bytes(self, sizes: Mapping[Atom, int]) -> float:
        held, count = self._widths * self._volumes.at(sizes), self._alive.shape[1]
        peak = float((self._alive @ held[:count]).max(initial=0)) if count else 0.0
        return peak + float(held[count:].sum())

    def fraction(self, sizes: Mapping[Atom, int]) -> float:
        """Return the memory of a model whose atoms have the given sizes, over that of the original."""
        return self._bytes(sizes) / max(1.0, self._before)
