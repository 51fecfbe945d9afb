"""Branches go: the model without them, and the model in which each has a gate, by which it can count as zero.

A sum whose branch is gone is the stream itself. Where nobody else reads that any more, the node that makes the stream
writes it under the name of the sum: values keep the names of what they stand for in the original, so that the layer in
front of a gap is refitted to the stream behind it (see `recovery.refit`). Nodes on the way that change nothing, such as
a cast to the type that is there, go as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.dependency.branches import PLAIN, Branch, total_of
from onnxprune.graph.edit import NO_EDITS, Edits, apply_edits, make_node
from onnxprune.graph.model import Model, Node
from onnxprune.graph.names import FreshNames
from onnxprune.graph.ports import Port
from onnxprune.graph.scopes import given, scopes
from onnxprune.graph.tensors import Array
from onnxprune.surgery.rewrite import Rewritten, edited

_COPIES = ("Identity", "Cast")  # operators that may change nothing
_HALF = 0.5


def gated(
    model: Model, branches: Sequence[Branch], dtype: Callable[[str], np.dtype[Any]]
) -> tuple[Any, dict[str, str]]:
    """Return a model (an onnx.ModelProto) whose branches are multiplied by gates, and the gates by branch.

    Args:
        model: in plain form.
        branches: of it.
        dtype: of a value, by its name.
    """
    edits, gates = _with_gates(NO_EDITS, model, branches, dtype, 1.0)
    return apply_edits(model, edits), gates


def silenced(edits: Edits, model: Model, branches: Sequence[Branch], dtype: Callable[[str], np.dtype[Any]]) -> Edits:
    """Return edits of the masked model by which branches count as zero, too; see `gated`."""
    return _with_gates(edits, model, branches, dtype, 0.0)[0]


def _with_gates(
    edits: Edits, model: Model, branches: Sequence[Branch], dtype: Callable[[str], np.dtype[Any]], value: float
) -> tuple[Edits, dict[str, str]]:
    """Return edits that also multiply what each branch adds by a number, and the names of these numbers by branch."""
    names, gates = FreshNames(model), dict[str, str]()
    inputs, added = dict(edits.inputs), dict(edits.added)
    before = {index: [*nodes] for index, nodes in edits.nodes_before.items()}
    for branch in branches:
        gate, out = (names.fresh(f"{branch.value}_{what}") for what in ("gate", "gated"))
        place = branch.node, branch.slot
        before.setdefault(branch.node, []).append(make_node("Mul", [inputs.get(place, branch.value), gate], out))
        inputs[place], gates[branch.name] = out, gate
        added[gate] = np.array(value, dtype(branch.value))
    return dataclasses.replace(edits, inputs=inputs, added=added, nodes_before=before), gates


@dataclass(frozen=True, slots=True)
class Shortened:
    """A model without branches."""

    branches: tuple[Branch, ...]  # that it lacks
    rewritten: Rewritten
    dead: frozenset[int]  # nodes that nobody needs any more, also what several branches shared


def without(model: Model, branches: Sequence[Branch], dtype: Callable[[str], np.dtype[Any]]) -> Shortened:
    """Return a model without branches.

    Args:
        model: in plain form.
        branches: of it.
        dtype: of a value, by its name.
    """
    edits = _Shortener(model, branches, dtype).edits()
    dead = _unneeded(model, edits) - _unneeded(model, NO_EDITS)
    lost = (tuple(name for name in branch.ports if name in edits.gone) for branch in branches)
    gone = (dataclasses.replace(branch, ports=ports) for branch, ports in zip(branches, lost, strict=True))
    return Shortened(tuple(gone), edited(model, edits), frozenset(dead))


def _unneeded(model: Model, edits: Edits) -> set[int]:
    """Return the nodes that no output is computed from, with some edits; without those of bodies of such nodes."""
    return set(_idle(model, edits, model.top, {port.name for port in model.outputs} - edits.gone))


def _idle(model: Model, edits: Edits, nodes: Sequence[int], outputs: Collection[str]) -> Iterator[int]:
    """Yield the same of a graph, and of the bodies in it, given its nodes and outputs."""
    needed = set(outputs)
    for index in reversed(nodes):
        node = model.nodes[index]
        if needed.isdisjoint(edits.outputs.get((index, at), name) for at, name in enumerate(node.outputs)):
            yield index
        else:
            needed.update(edits.inputs.get((index, slot), name) for slot, name in enumerate(node.inputs))
            needed.update(node.captured)
            for body in node.bodies:
                pairs = zip(body.outputs, node.outputs, strict=True) if node.op == "If" else ()
                gone = {inner for inner, name in pairs if name in edits.gone}
                yield from _idle(model, edits, body.nodes, {*body.outputs} - gone)
        for new in edits.nodes_before.get(index, ()):
            needed.update(new.input if not needed.isdisjoint(new.output) else ())


def _is_as_long(port: Port, other: Port) -> bool:
    """Whether two inputs have one shape, whose dynamic dims have names: a name stands for one size."""
    return port.role == other.role and port.shape == other.shape and None not in (port.shape or (None,))


@dataclass
class _Shortener:
    """Collects the edits that take branches out."""

    model: Model
    branches: Sequence[Branch]
    dtype: Callable[[str], np.dtype[Any]]
    inputs: dict[tuple[int, int], str] = field(default_factory=dict)
    outputs: dict[tuple[int, int], str] = field(default_factory=dict)
    added: dict[str, Array] = field(default_factory=dict)
    before: dict[int, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Note which node makes which value, in which graph, and what graphs give."""
        each = [*scopes(self.model)]
        self._outputs = given(self.model)
        self._graph = {index: number for number, scope in enumerate(each) for index in scope.nodes}
        self._makers = {
            name: (node.index, at) for node in self.model.nodes for at, name in enumerate(node.outputs) if name
        }
        self._names = FreshNames(self.model)
        self._gone_ports = frozenset(name for branch in self.branches for name in branch.ports)

    def edits(self) -> Edits:
        """Return what changes in the model."""
        nodes = self.model.nodes
        self._dead = {index for branch in self.branches for index in branch.nodes}
        self._is_stream: dict[str, str] = {}  # the stream that the sum of a plain node is now
        self._passed: set[int] = set()  # nodes that change nothing, between streams and sums
        streams: dict[str, list[int]] = {}  # nodes whose sum is a stream, by the name of that
        for index, slot in sorted(self._gone()):
            node = nodes[index]
            if index in self._dead:
                continue
            stream = self._source(node.inputs[1 - slot])
            if node.op not in PLAIN:
                self._halve(node, stream)
            total = total_of(node)
            if total is not None:
                self._is_stream[total] = stream
                streams.setdefault(stream, []).append(index)
        for stream, sums in streams.items():
            self._join(stream, [nodes[index] for index in sums])
        self._measure_others()
        return dataclasses.replace(
            NO_EDITS, inputs=self.inputs, outputs=self.outputs, added=self.added, nodes_before=self.before,
            gone=self._gone_ports,
        )  # fmt: skip

    def _measure_others(self) -> None:
        """Let nodes that read the length of the past off a cache that is gone read it off one of its shape that stays.

        Where none stays, the input does, for its length.
        """
        gone = [port for port in self.model.inputs if port.name in self._gone_ports]
        dead = {inner for index in self._dead for inner in self.model.within(index)}
        for port in gone:
            readers = self.model.readers.get(port.name, ())
            left = [(at, slot) for at, slot in readers if slot >= 0 and at not in dead]
            others = (other for other in self.model.inputs if other.name not in self._gone_ports)
            other = next((other.name for other in others if _is_as_long(other, port)), None)
            if left and other is None:
                self._gone_ports -= {port.name}
            elif left and other is not None:
                self.inputs |= dict.fromkeys(left, other)

    def _gone(self) -> set[tuple[int, int]]:
        """Return the slots of sums that count as zero, also where both addends of a sum are gone."""
        nodes = self.model.nodes
        gone = {(branch.node, branch.slot) for branch in self.branches}
        waiting = [index for index, slot in gone if slot == 0 and (index, 1) in gone]
        while waiting:
            index = waiting.pop()
            self._dead.add(index)
            for reader, slot in self.model.readers[nodes[index].outputs[0]]:
                gone.add((reader, slot))
                waiting.extend([reader] if (reader, 1 - slot) in gone else [])
        return gone

    def _source(self, name: str) -> str:
        """Return the value that is in the place of another one now, in front of nodes that change nothing."""
        while True:
            maker = self._makers.get(name)
            if name in self._is_stream:
                name = self._is_stream[name]
            elif maker is not None and self._changes_nothing(self.model.nodes[maker[0]]):
                self._passed.add(maker[0])
                name = self.model.nodes[maker[0]].inputs[0]
            else:
                return name

    def _changes_nothing(self, node: Node) -> bool:
        """Whether a node gives what it gets."""
        return node.op in _COPIES and self.dtype(node.inputs[0]) == self.dtype(node.outputs[0])

    def _halve(self, node: Node, stream: str) -> None:
        """Let a fused sum add two halves of the stream, which are the stream, whatever it does with the sum."""
        half, out = f"{node.outputs[0]}_half", f"{node.outputs[0]}_halved"
        half, out = self._names.fresh(half), self._names.fresh(out)
        self.added[half] = np.array(_HALF, self.dtype(stream))
        self.before[node.index] = [make_node("Mul", [stream, half], out)]
        self.inputs[node.index, 0] = self.inputs[node.index, 1] = out

    def _join(self, stream: str, sums: Sequence[Node]) -> None:
        """Let whoever read one of some sums read the stream that all of them are now."""
        names = [name for node in sums if (name := total_of(node)) is not None]
        needed = [name for name in (stream, *names) if name in self._outputs or self._readers(name, sums)]
        halved = [total_of(node) or "" for node in sums if node.op not in PLAIN]
        needed = needed or halved[-1:]  # a fused sum whose stream nobody else reads
        if len(needed) == 1 and needed[0] != stream and self._is_in_one_graph(stream, needed[0]):
            self._write_as(stream, needed[0], sums)
            return
        for node, name in zip(sums, names, strict=True):
            if name in self._outputs or any(slot < 0 for _, slot in self.model.readers.get(name, ())):
                self.outputs[self._makers[name]] = self._names.fresh(f"{name}_gone")
                self.before.setdefault(node.index, []).append(make_node("Identity", [stream], name))
            else:
                self.inputs |= {place: stream for place in self._readers(name, sums) if place not in self.inputs}

    def _is_in_one_graph(self, *names: str) -> bool:
        """Whether nodes of one graph make some values."""
        makers = [self._makers[name][0] for name in names if name in self._makers]
        return len(makers) == len(names) and len({self._graph[maker] for maker in makers}) == 1

    def _write_as(self, stream: str, name: str, sums: Sequence[Node]) -> None:
        """Let the node that makes a stream write it under the name of a sum."""
        self.outputs[self._makers[stream]] = name
        self.outputs[self._makers[name]] = self._names.fresh(f"{name}_gone")
        halves = [nodes for index, nodes in self.before.items() if index not in self._dead]
        for node in (node for nodes in halves for node in nodes if stream in node.input):
            node.input[list(node.input).index(stream)] = name

    def _readers(self, name: str, sums: Sequence[Node]) -> list[tuple[int, int]]:
        """Return the places that still read a value: in nodes that stay, beside the sums that are gone."""
        gone = {node.index for node in sums if node.op in PLAIN} | self._dead
        readers = self.model.readers.get(name, ())
        halved = {(node.index, slot) for node in sums if node.op not in PLAIN for slot in (0, 1)}
        return [
            (at, slot)
            for at, slot in readers
            if at not in gone and (at, slot) not in halved and not self._is_idle(at, sums)
        ]

    def _is_idle(self, index: int, sums: Sequence[Node]) -> bool:
        """Whether a node that changes nothing is left without readers."""
        made = self.model.nodes[index].outputs[:1]
        return index in self._passed and self._outputs.isdisjoint(made) and not self._readers(made[0], sums)
