"""Branches: what is computed from a stream and added to it, such as an attention, or the layers of a residual block.

A branch may count as zero: the sum is the stream then, which goes on without it. Nothing has to be known of
architectures for that. A *sum* is a node that adds two values of one shape; where one of them is computed from the
other, it is a branch, and the other is its *stream*. Where a branch is a sum itself (an attention and a feed-forward
network side by side), its addends are branches. What is saved is what nobody else needs: the nodes all of whose
readers are gone with the branch.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from onnxprune.dependency.caches import Cache
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.handing import SIZES, Handing
from onnxprune.dependency.needs import Needs
from onnxprune.dependency.trace import Trace
from onnxprune.graph.model import Node
from onnxprune.graph.scopes import Scope, scopes

PLAIN = ("Add", "Sum")  # sums that are nothing but a sum
# Fused sums: an output is a function of the sum of their first two inputs, of constants, and of a bias in this slot.
_BIAS = {"com.microsoft.SkipLayerNormalization": 4, "com.microsoft.SkipSimplifiedLayerNormalization": 3}
# Operators that give what they get in another type, or as it is.
_SAME = frozenset(("Identity", "Dropout", "Cast", "QuantizeLinear", "DequantizeLinear"))


@dataclass(frozen=True)
class Branch:
    """A value that is added to a stream, and nowhere else."""

    name: str  # that of the last node with weights in it; of its value, where a branch inside of it has that name
    value: str  # what is added
    node: int  # index of the sum
    slot: int  # of the value there
    other: int  # the slot of what it is added to
    nodes: tuple[int, ...] = field(repr=False)  # of the graph of the sum, that nothing else needs, in order
    macs: int  # of one sample, that go with it
    params: int
    locked: str | None = None  # why it stays
    ports: tuple[str, ...] = ()  # inputs and outputs of the model that go with it: caches of an attention


def branches(traced: Trace) -> list[Branch]:
    """Return the branches of the main graph that hold layers, in the order in which they are added."""
    return list(_Finder(traced, next(scopes(traced.model))).all())


def branches_of_graphs(traced: Trace) -> list[tuple[Scope, list[Branch]]]:
    """Return the branches of each graph: those of the main graph, then those of each body, in order."""
    return [(scope, list(_Finder(traced, scope).all())) for scope in scopes(traced.model)]


def branches_at(traced: Trace, places: Mapping[str, tuple[str, int]]) -> list[Branch]:
    """Return the branches at places that are known, in order, whatever else is added there.

    Args:
        traced: the model with its axes.
        places: by the name that a branch shall have, the first output of the sum that it is added in, and its slot.

    Raises:
        KeyError: for a sum that is not there, or a value that holds no layer.
    """
    finder = _Finder(traced, next(scopes(traced.model)))
    return sorted((finder.at(name, *place) for name, place in places.items()), key=finder.place)


def place_of(traced: Trace, branch: Branch) -> tuple[str, int]:
    """Return where a branch is added, as in `branches_at`: names stay where nodes are put in."""
    return next(name for name in traced.model.nodes[branch.node].outputs if name), branch.slot


def nodes_of(found: Iterable[Branch]) -> set[int]:
    """Return the nodes that go with branches."""
    return {index for each in found for index in each.nodes}


class _Finder:
    """Finds the branches of one graph of a model."""

    def __init__(self, traced: Trace, scope: Scope) -> None:
        self._traced, self._model, self._scope = traced, traced.model, scope
        self._owner, self._outputs = scope.owners, scope.outputs
        own = [self._model.nodes[index] for index in scope.nodes]
        self._nodes = {name: node for node in own for name in node.outputs if name}
        self._maker = {name: node.index for name, node in self._nodes.items()}
        self._needs = Needs(self._model, scope)
        self._place = self._needs.place
        self._handing = Handing(self._model, scope, self._needs)
        self.macs = NodeMacs(traced).of
        self._reads = self._weights_by_reader()
        self._streams: dict[str, str] = {}  # by the sum, of sums that a branch is added in

    def all(self) -> Iterator[Branch]:
        """Yield the branches in order."""
        names = set[str]()
        for index in self._scope.nodes:
            for slot, other in self._addends(self._model.nodes[index]):
                for each in self._of(index, slot, other):
                    own = each if each.name not in names else replace(each, name=each.value)  # ends as one inside of it
                    names.add(own.name)
                    yield own

    def at(self, name: str, total: str, slot: int) -> Branch:
        """Return the branch in a slot of the node that makes a value."""
        branch = self._branch(self._maker[total], slot, 1 - slot)
        if branch is None:
            raise KeyError(f"{total}: what is added in slot {slot} holds no layer")
        return replace(branch, name=name)

    def place(self, branch: Branch) -> tuple[int, int]:
        """Return where a branch is in the order of the graph."""
        return self._place[branch.node], branch.slot

    # -- which values are branches ---------------------------------------------------------------------

    def _addends(self, node: Node) -> Iterator[tuple[int, int]]:
        """Yield the slot of each addend of a sum that is computed from the other, and the slot of that one."""
        slots = self._slots(node)
        for slot, other in (slots, slots[::-1]) if slots else ():
            if self._is_from(node.index, slot, other):
                self._streams.update(dict.fromkeys(filter(None, node.outputs), node.inputs[other]))
                yield slot, other
                return

    def _slots(self, node: Node) -> tuple[int, int] | None:
        """Return the slots of the two addends of a sum of values of one shape; None for any other node."""
        if (node.op not in PLAIN or len(node.inputs) != 2) and node.op not in _BIAS:
            return None
        first, second = node.inputs[:2]
        shape = self._traced.probe.shape(first)
        alike = shape is not None and shape == self._traced.probe.shape(second) and first != second
        return (0, 1) if alike and not {first, second} & self._model.fixed else None

    def _is_from(self, index: int, slot: int, other: int) -> bool:
        """Whether one addend is computed from the other, or from what the other's stream was before.

        Layers on the way must be there for this addend alone: else it is another branch that the stream went through.
        """
        node = self._model.nodes[index]
        origins = self._origins(node.inputs[other])
        own, first = set(self._needs.only_for({(index, slot)}, ())), min(map(self._needs.made_at, origins))
        seen, waiting = {node.inputs[slot]}, [node.inputs[slot]]
        while waiting:
            maker = self._maker.get(waiting.pop(), -1)
            if self._place.get(maker, -1) <= first or not (maker in own or self._is_passed(maker)):
                continue
            for name in (*self._model.nodes[maker].inputs, *self._model.nodes[maker].captured):
                if name in origins:
                    return True
                if name and name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return False

    def _is_passed(self, index: int) -> bool:
        """Whether what a node gives says as much of its input as the input itself, such as a normalisation."""
        return self._model.nodes[index].op not in SIZES and not self.macs(index)

    def _origins(self, name: str) -> set[str]:
        """Return a value and all that its stream was before, also in another type and as fused sums give it."""
        origins: set[str] = set()
        waiting: str | None = name
        while waiting is not None and waiting not in origins:
            first = origin(self._nodes, waiting)
            maker = self._nodes.get(first)
            fused = maker.outputs if maker is not None and maker.op in _BIAS else ()
            origins |= {waiting, first, *filter(None, fused)}
            waiting = self._streams.get(first)
        return origins

    def _of(self, index: int, slot: int, other: int) -> Iterator[Branch]:
        """Yield the branch that a node adds in a slot; where that is a sum that nobody else reads, its addends."""
        value = self._model.nodes[index].inputs[slot]
        maker = self._maker.get(value)
        if maker is None or value in self._outputs or self._model.readers[value] != ((index, slot),):
            return
        inner = self._slots(self._model.nodes[maker]) if self._model.nodes[maker].op in PLAIN else None
        if inner is not None and not any(True for _ in self._addends(self._model.nodes[maker])):
            parts = [each for one, two in (inner, inner[::-1]) for each in self._of(maker, one, two)]
            if len(parts) > 1:
                yield from parts
                return
        branch = self._branch(index, slot, other)
        if branch is not None:
            yield branch

    def _branch(self, index: int, slot: int, other: int) -> Branch | None:
        """Return a branch; None where it holds no layer."""
        ends = self._handing.ends_of(index, slot)
        wanted = self._only_for(index, slot, ends, ())
        whole = sum(map(self.macs, wanted))
        if not whole:
            return None
        kept = self._kept_by(wanted)
        own = kept if self._model.changes_io else {}
        ends = [each for each in ends if self._model.changes_io and self._handing.are_read_by(each, wanted)]
        nodes = self._only_for(index, slot, ends, self._outputs.difference(own))
        reason = None
        if sum(map(self.macs, nodes)) < whole:
            reason = self._why_whole(wanted, kept)
        named = [each for each in wanted if self._model.weights_of(each)] or wanted
        name = self._model.nodes[max(named, key=self._place.__getitem__)].name
        value = self._model.nodes[index].inputs[slot]
        macs, params = sum(map(self.macs, nodes)), self._params(set(nodes))
        return Branch(name, value, index, slot, other, tuple(nodes), macs, params, reason, tuple(own.values()))

    def _only_for(self, index: int, slot: int, ends: Iterable[Collection[int]], needed: Container[str]) -> list[int]:
        """Return the nodes of some ends, and those that are there for them and an addend alone, in order."""
        last = {at for each in ends for at in each}
        alone = self._needs.only_for({(index, slot), *self._handing.reads_of(last)}, needed)
        return sorted({*alone, *last}, key=self._place.__getitem__)

    def _kept_by(self, nodes: Collection[int]) -> dict[str, str]:
        """Return inputs and outputs of the model that are caches of some nodes alone, by their names in the graph."""
        caches = self._caches_of(nodes)
        pairs = {name: name for cache in caches for name in (cache.past, cache.present)}
        return pairs | self._handing.ports_of(nodes)

    def _caches_of(self, nodes: Collection[int]) -> tuple[Cache, ...]:
        """Return the caches that are there for some nodes alone: these make the present, and read the past."""
        inside = set(nodes)
        made = {name for index in inside for name in self._model.nodes[index].outputs}
        return tuple(
            cache
            for cache in self._traced.caches
            if cache.present in made
            and self._model.handed_on.isdisjoint((cache.past, cache.present))
            and all(self._owner[index] in inside for index, _ in self._readers_of(cache.present))
            and all(self._owner[index] in inside or self._measures(index) for index, _ in self._readers_of(cache.past))
        )

    def _readers_of(self, name: str) -> tuple[tuple[int, int], ...]:
        return self._model.readers.get(name, ())

    def _measures(self, index: int) -> bool:
        """Whether a node reads nothing of its input but its shape."""
        return self._model.nodes[index].op in SIZES

    def _why_whole(self, wanted: Iterable[int], caches: Container[str]) -> str:
        """Return why a branch stays some of whose nodes the outputs of the model need."""
        outputs = [name for each in wanted for name in self._model.nodes[each].outputs if name in self._outputs]
        ports = [self._scope.ports.get(name, name) for name in outputs]
        listed = " and ".join(map(repr, ports))
        if all(name in caches for name in outputs) and self._model.changes_io:
            return f"others need how long a cache is that it computes (at {ports[0]})"
        if all(name in caches for name in outputs):
            return f"it computes a cache, which the model gives as an output (at {ports[0]})"
        return f"it computes {listed}, which the model gives as outputs"

    # -- what goes with a branch -----------------------------------------------------------------------

    def _weights_by_reader(self) -> dict[int, list[str]]:
        """Return the weights that each node of the graph reads, itself or in its bodies."""
        reads: dict[int, list[str]] = {}
        for name, constant in self._model.constants.items():
            for index, _ in self._model.readers.get(name, ()) if constant.is_weight else ():
                if index in self._owner:
                    reads.setdefault(self._owner[index], []).append(name)
        return reads

    def _params(self, gone: set[int]) -> int:
        """Return the number of weights that these nodes alone read."""
        counts = dict[object, int]()
        for name in {name for index in gone for name in self._reads.get(index, ())}:
            constant = self._model.constants[name]
            if all(self._owner.get(index) in gone for index, _ in self._model.readers[name]):
                counts[constant.identity] = constant.count
        return sum(counts.values())


def total_of(node: Node) -> str | None:
    """Return the sum that a node gives of its two addends alone; None where it gives none, or adds a bias."""
    if node.op in PLAIN:
        return node.outputs[0] if len(node.inputs) == 2 else None
    bias = _BIAS.get(node.op)
    if bias is None or any(node.inputs[bias : bias + 1]) or len(node.outputs) < 4:
        return None
    return node.outputs[3] or None


def origin(makers: Mapping[str, Node], name: str) -> str:
    """Return the value that another one is in another type, or as it is.

    Args:
        makers: the node that makes each value.
        name: of the value.
    """
    while name in makers and makers[name].op in _SAME:
        name = makers[name].inputs[0]
    return name
