"""Branches go: the model without them, and the model in which each has a gate, by which it can count as zero.

A sum whose branch is gone is the stream itself. Where nobody else reads that any more, the node that makes the stream
writes it under the name of the sum: values keep the names of what they stand for in the original, so that the layer in
front of a gap is refitted to the stream behind it (see `recovery.refit`). Nodes on the way that change nothing, such as
a cast to the type that is there, go as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.dependency.branches import Branch
from onnxprune.graph.edit import NO_EDITS, Edits, apply_edits, make_node
from onnxprune.graph.model import Model, Node
from onnxprune.graph.remainder import back
from onnxprune.graph.tensors import Array
from onnxprune.surgery.rewrite import Rewritten

_PLAIN = ("Add", "Sum")  # sums that are nothing but a sum
_COPIES = ("Identity", "Cast")  # operators that may change nothing
_HALF = 0.5
_MS = "com.microsoft."
_BIAS = {f"{_MS}SkipLayerNormalization": 4, f"{_MS}SkipSimplifiedLayerNormalization": 3}  # the slot of it


def gated(
    model: Model, branches: Sequence[Branch], dtype: Callable[[str], np.dtype[Any]]
) -> tuple[Any, dict[str, str]]:
    """Return a model (an onnx.ModelProto) whose branches are multiplied by gates, and the gates by branch.

    Args:
        model: in plain form.
        branches: of it.
        dtype: of a value, by its name.
    """
    names = fresh_gates(model, branches)
    edits = _gates(branches, names, dict.fromkeys(names, 1.0), dtype)
    return apply_edits(model, edits), names


def fresh_gates(model: Model, branches: Sequence[Branch]) -> dict[str, str]:
    """Return a name for the gate of each branch, which no value has, and none that begins with it."""
    taken = "\n".join(("", *_names(model)))
    names: dict[str, str] = {}
    for number, branch in enumerate(branches):
        name = f"onnxprune_gate_{number}"
        while f"\n{name}" in taken:
            name += "x"
        names[branch.name] = name
    return names


def silenced(model: Model, edits: Edits, branches: Sequence[Branch], dtype: Callable[[str], np.dtype[Any]]) -> Edits:
    """Return edits of the masked model by which branches count as zero, too; see `gated`."""
    names = fresh_gates(model, branches)
    more = _gates(branches, names, dict.fromkeys(names, 0.0), dtype, edits.inputs)
    before = {index: [*edits.nodes_before.get(index, ()), *nodes] for index, nodes in more.nodes_before.items()}
    return dataclasses.replace(
        edits,
        inputs={**edits.inputs, **more.inputs},
        added={**edits.added, **more.added},
        nodes_before={**edits.nodes_before, **before},
    )


def _gates(
    branches: Sequence[Branch],
    names: Mapping[str, str],
    values: Mapping[str, float],
    dtype: Callable[[str], np.dtype[Any]],
    inputs: Mapping[tuple[int, int], str] | None = None,
) -> Edits:
    """Return the edits that multiply what each branch adds by a number."""
    added: dict[str, Array] = {}
    edited: dict[tuple[int, int], str] = {}
    before: dict[int, list[Any]] = {}
    for branch in branches:
        gate, place = names[branch.name], (branch.node, branch.slot)
        added[gate] = np.array(values[branch.name], dtype(branch.value))
        source = (inputs or {}).get(place, branch.value)
        edited[place] = f"{gate}_out"
        before.setdefault(branch.node, []).append(make_node("Mul", [source, gate], f"{gate}_out"))
    return dataclasses.replace(NO_EDITS, inputs=edited, added=added, nodes_before=before)


@dataclass(frozen=True, slots=True)
class Shortened:
    """A model without branches."""

    branches: tuple[Branch, ...]  # that it lacks
    rewritten: Rewritten
    dead: frozenset[int]  # nodes of the main graph that nobody needs any more, also what several branches shared


def without(model: Model, branches: Sequence[Branch], dtype: Callable[[str], np.dtype[Any]]) -> Shortened:
    """Return a model without branches.

    Args:
        model: in plain form.
        branches: of it.
        dtype: of a value, by its name.
    """
    edits = _Shortener(model, branches, dtype).edits()
    whole = None if model.whole is None else apply_edits(model.whole.model, back(model.whole, edits))
    dead = _unneeded(model, edits) - _unneeded(model, NO_EDITS)
    return Shortened(tuple(branches), Rewritten(apply_edits(model, edits), {}, (), whole), frozenset(dead))


def _unneeded(model: Model, edits: Edits) -> set[int]:
    """Return the nodes of the main graph that no output is computed from, with some edits."""
    needed, found = {port.name for port in model.outputs}, set[int]()
    for index in reversed(model.top):
        node = model.nodes[index]
        if needed.isdisjoint(edits.outputs.get((index, at), name) for at, name in enumerate(node.outputs)):
            found.add(index)
        else:
            needed.update(edits.inputs.get((index, slot), name) for slot, name in enumerate(node.inputs))
            needed.update(node.captured)
        for new in edits.nodes_before.get(index, ()):
            needed.update(new.input if not needed.isdisjoint(new.output) else ())
    return found


def total_of(node: Node) -> str | None:
    """Return the sum that a node gives of its two addends alone; None where it gives none, or adds a bias."""
    if node.op in _PLAIN:
        return node.outputs[0] if len(node.inputs) == 2 else None
    with_bias = len(node.inputs) > _BIAS.get(node.op, 0) and bool(node.inputs[_BIAS.get(node.op, 0)])
    return node.outputs[3] if len(node.outputs) > 3 and node.outputs[3] and not with_bias else None


def _names(model: Model) -> set[str]:
    """Return the names of all values of a file."""
    values = {each for node in model.file.nodes for each in (*node.inputs, *node.outputs)}
    return {*model.file.constants, *(port.name for port in model.file.inputs), *values}


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
        """Note which node makes which value."""
        self._makers = {
            name: (index, at)
            for index in self.model.top
            for at, name in enumerate(self.model.nodes[index].outputs)
            if name
        }
        self._taken = _names(self.model)

    def _fresh(self, wanted: str) -> str:
        """Return a name that no value has."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

    def edits(self) -> Edits:
        """Return what changes in the model."""
        nodes, place = self.model.nodes, {index: number for number, index in enumerate(self.model.top)}
        self._dead = {index for branch in self.branches for index in branch.nodes}
        self._is_stream: dict[str, str] = {}  # the stream that the sum of a plain node is now
        self._passed: set[int] = set()  # nodes that change nothing, between streams and sums
        streams: dict[str, list[int]] = {}  # nodes whose sum is a stream, by the name of that
        for index, slot in sorted(self._gone(), key=lambda each: place[each[0]]):
            node = nodes[index]
            if index in self._dead:
                continue
            stream = self._source(node.inputs[1 - slot])
            if node.op not in _PLAIN:
                self._halve(node, stream)
            total = total_of(node)
            if total is not None:
                self._is_stream[total] = stream
                streams.setdefault(stream, []).append(index)
        for stream, sums in streams.items():
            self._join(stream, [nodes[index] for index in sums])
        return dataclasses.replace(
            NO_EDITS, inputs=self.inputs, outputs=self.outputs, added=self.added, nodes_before=self.before
        )

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
        half, out = self._fresh(half), self._fresh(out)
        self.added[half] = np.array(_HALF, self.dtype(stream))
        self.before[node.index] = [make_node("Mul", [stream, half], out)]
        self.inputs[node.index, 0] = self.inputs[node.index, 1] = out

    def _join(self, stream: str, sums: Sequence[Node]) -> None:
        """Let whoever read one of some sums read the stream that all of them are now."""
        outputs = {port.name for port in self.model.outputs}
        names = [name for node in sums if (name := total_of(node)) is not None]
        needed = [name for name in (stream, *names) if name in outputs or self._readers(name, sums)]
        halved = [total_of(node) or "" for node in sums if node.op not in _PLAIN]
        needed = needed or halved[-1:]  # a fused sum whose stream nobody else reads
        if len(needed) == 1 and needed[0] != stream and stream in self._makers:
            self._write_as(stream, needed[0], sums)
            return
        for node, name in zip(sums, names, strict=True):
            if name in outputs or any(slot < 0 for _, slot in self.model.readers.get(name, ())):
                self.outputs[self._makers[name]] = self._fresh(f"{name}_gone")
                self.before.setdefault(node.index, []).append(make_node("Identity", [stream], name))
            else:
                self.inputs |= {place: stream for place in self._readers(name, sums) if place not in self.inputs}

    def _write_as(self, stream: str, name: str, sums: Sequence[Node]) -> None:
        """Let the node that makes a stream write it under the name of a sum."""
        self.outputs[self._makers[stream]] = name
        self.outputs[self._makers[name]] = self._fresh(f"{name}_gone")
        halves = [nodes for index, nodes in self.before.items() if index not in self._dead]
        for node in (node for nodes in halves for node in nodes if stream in node.input):
            node.input[list(node.input).index(stream)] = name

    def _readers(self, name: str, sums: Sequence[Node]) -> list[tuple[int, int]]:
        """Return the places that still read a value: in nodes that stay, beside the sums that are gone."""
        gone = {node.index for node in sums if node.op in _PLAIN} | self._dead
        readers = self.model.readers.get(name, ())
        halved = {(node.index, slot) for node in sums if node.op not in _PLAIN for slot in (0, 1)}
        return [
            (at, slot)
            for at, slot in readers
            if at not in gone and (at, slot) not in halved and not self._is_idle(at, sums)
        ]

    def _is_idle(self, index: int, sums: Sequence[Node]) -> bool:
        """Whether a node that changes nothing is left without readers."""
        outputs = {port.name for port in self.model.outputs}
        made = self.model.nodes[index].outputs[:1]
        return index in self._passed and outputs.isdisjoint(made) and not self._readers(made[0], sums)
