"""The model as the rest of the package sees it: frozen nodes, constants by name, arrays that are read when asked for.

A `Model` is never changed; `graph.edit` makes a new protobuf.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo

from onnxprune.graph.bodies import graphs, stored_tensors
from onnxprune.graph.dims import FixedDims
from onnxprune.graph.files.encode import digest_of_message, encoded
from onnxprune.graph.files.layout import lay_out
from onnxprune.graph.files.publish import Stamp
from onnxprune.graph.ports import Port, port_of
from onnxprune.graph.tensors import (
    PAGE,
    WEIGHTS,
    Array,
    Shape,
    array_of,
    has_external_data,
    is_of_file,
    lies_in_file,
    numpy_type,
    raw_length,
)


@dataclass(frozen=True, slots=True)
class Body:
    """A graph inside a node: a branch of If, the body of Loop or Scan."""

    attribute: str
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    nodes: tuple[int, ...]  # indices of its own nodes; those of bodies inside are listed with their node


@dataclass(frozen=True, slots=True)
class Node:
    """One node, with what differs between files made plain."""

    index: int  # position in `Model.nodes`
    name: str  # never empty: unnamed nodes are called after their first output
    op: str  # "Conv", or "com.microsoft.Gelu" outside the default domain
    version: int  # opset version of its domain
    inputs: tuple[str, ...]  # "" where an optional input is absent
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]  # int, float, str, list or numpy array; bodies are left out
    captured: tuple[str, ...] = ()  # outer values that its bodies read
    bodies: tuple[Body, ...] = ()

    def __str__(self) -> str:
        return f"{self.op} {self.name!r}"


@dataclass(frozen=True)
class Constant:
    """An initializer or the output of a Constant node."""

    name: str
    tensor: TensorProto
    shape: Shape
    node: int | None = None  # index of the Constant node, None for an initializer

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of the elements."""
        return numpy_type(self.tensor.data_type)

    @property
    def is_weight(self) -> bool:
        """Whether it holds floats, or integers of at most 8 bits: quantized weights. Sizes and indices are wider."""
        return self.tensor.data_type in WEIGHTS

    @property
    def identity(self) -> Hashable:
        """What is equal for constants that are the same bytes of a file."""
        return identity_of(self.tensor, self.name)


def identity_of(tensor: TensorProto, name: Hashable) -> Hashable:
    """Return what is equal for tensors that are the same bytes of a file: their place in it, or a name."""
    if not has_external_data(tensor):
        return name
    info = ExternalDataInfo(tensor)
    return info.location, info.offset or 0, raw_length(tensor)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A node that a remainder lacks."""

    key: str  # the name of its first output
    node: str
    op: str
    why: str  # a clause: "ONNX Runtime has no such operator"
    reads: tuple[str, ...]  # values that it reads itself; what its bodies read where these are left out, too
    runtime: tuple[str, ...]  # those of them that are no constants
    makes: tuple[str, ...]
    is_cause: bool = True  # False where it only reads what such a node makes

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        reads, makes = list(self.runtime), list(self.makes)
        return {"node": self.node, "op": self.op, "why": self.why, "reads": reads, "makes": makes}


@dataclass(frozen=True)
class Whole:
    """The model that another one is the remainder of, see `graph.forms.remainder`."""

    model: Model = field(repr=False)
    places: tuple[int, ...] = field(repr=False)  # of the nodes of the remainder among those of the model
    left_out: tuple[LeftOut, ...]
    ends: Mapping[str, str]  # the values where the remainder ends: a clause that says why

    @property
    def causes(self) -> tuple[LeftOut, ...]:
        """The nodes that are left out for their own sake."""
        return tuple(each for each in self.left_out if each.is_cause)


# Operators that make a map, a sequence or an optional value of tensors.
_OF_TENSORS = frozenset(("ai.onnx.ml.ZipMap", "Optional", "SequenceConstruct", "SplitToSequence"))


@dataclass(frozen=True)
class Model:
    """An ONNX model as the package sees it; `proto` is shared with the caller and never changed."""

    proto: ModelProto
    path: Path | None  # the file it was read from
    folder: Path  # where external data lies
    nodes: tuple[Node, ...] = field(repr=False)  # of all graphs; those of a body stand in front of its node
    protos: tuple[NodeProto, ...] = field(repr=False)  # the same nodes
    top: tuple[int, ...] = field(repr=False)  # indices of the nodes of the main graph itself
    constants: Mapping[str, Constant] = field(repr=False)  # of all graphs
    inputs: tuple[Port, ...]  # without those that merely list an initializer
    outputs: tuple[Port, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)  # of dynamic dims, as the caller states them, by their key
    fits: tuple[FixedDims, ...] = ()  # sizes under which all nodes take what they get, see `graph.shapes.probe.settled`
    changes_io: bool = False  # whether caches among inputs and outputs may become smaller, as the caller allows
    handed_on: frozenset[str] = frozenset()  # inputs and outputs by which files of one network hand caches to another
    overridable: frozenset[str] = (
        frozenset()
    )  # constants that are defaults of inputs, see `graph.forms.plain.overridable`
    original: ModelProto | None = field(default=None, repr=False)  # what was read, where plain form differs
    digest: str | None = None  # SHA-256 of the bytes that were read from the file, in hex
    stamps: Mapping[Path, Stamp] = field(default_factory=dict, repr=False)  # of the files, when they were read
    whole: Whole | None = field(default=None, repr=False)  # where this is a part: what it is a part of

    @property
    def not_run(self) -> tuple[LeftOut, ...]:
        """The nodes that this part of a model lacks because ONNX Runtime cannot run them; none of a whole model."""
        return () if self.whole is None else self.whole.causes

    @property
    def file(self) -> Model:
        """The model as its file holds it: this one, or the one that it is a part of."""
        return self if self.whole is None else self.whole.model

    @property
    def stored(self) -> ModelProto:
        """What the file holds, which its plain form may not."""
        return self.file.original or self.file.proto

    @cached_property
    def walks(self) -> dict[tuple[Any, ...], Any]:
        """What walks through the graph gave, by the sizes of dynamic dims: see `graph.shapes.probe`."""
        return {}

    @cached_property
    def opsets(self) -> dict[str, int]:
        """Version by domain; the default domain is ``""``."""
        return opsets_of(self.proto)

    @cached_property
    def value_shapes(self) -> dict[str, tuple[int | str | None, ...] | None]:
        """Shapes that the file itself states for values between nodes."""
        return {info.name: port_of(info).shape for graph in graphs(self.proto.graph) for info in graph.value_info}

    @cached_property
    def value_kinds(self) -> dict[str, int]:
        """ONNX element types that the file itself states for values between nodes."""
        stated = (info for graph in graphs(self.proto.graph) for info in graph.value_info)
        return {info.name: info.type.tensor_type.elem_type for info in stated}

    @cached_property
    def readers(self) -> Mapping[str, tuple[tuple[int, int], ...]]:
        """Node and input slot of every place that reads a value; the slot is -1 where a body of the node does."""
        by_name: dict[str, list[tuple[int, int]]] = {}
        for node in self.nodes:
            for slot, name in enumerate(node.inputs):
                by_name.setdefault(name, []).append((node.index, slot))
            for name in node.captured:
                by_name.setdefault(name, []).append((node.index, -1))
        return {name: tuple(places) for name, places in by_name.items() if name}

    def only_reader(self, name: str) -> tuple[int, int] | None:
        """Return the node and the slot that alone read a value; None where others do, or the model gives it."""
        given = {port.name for port in self.outputs}.union(self.tensor_outputs)
        places = self.readers.get(name, ())
        return places[0] if len(places) == 1 and name not in given else None

    @cached_property
    def places(self) -> Mapping[int, int]:
        """The place in `top` of every node; of one inside a body, that of the node that has the body."""
        return {inner: place for place, index in enumerate(self.top) for inner in self.within(index)}

    @cached_property
    def owners(self) -> Mapping[int, int]:
        """For every node the node of the main graph that it is, or that has the body where it stands."""
        return {index: self.top[place] for index, place in self.places.items()}

    def within(self, index: int) -> Iterator[int]:
        """Yield a node and those of its bodies."""
        yield index
        for body in self.nodes[index].bodies:
            for inner in body.nodes:
                yield from self.within(inner)

    @cached_property
    def tensor_outputs(self) -> tuple[str, ...]:
        """The outputs that are tensors; in the place of a map or a sequence, the tensors that it is made of."""
        makers = {name: self.nodes[index] for index in self.top for name in self.nodes[index].outputs}
        waiting = [(port.name, port.dtype is not None) for port in reversed(self.outputs)]
        names: dict[str, None] = {}
        while waiting:
            name, is_tensor = waiting.pop()
            node = makers.get(name)
            if is_tensor:
                names[name] = None
            elif node is not None:
                sources = node.inputs if node.op == "SequenceConstruct" else node.inputs[:1]
                waiting.extend((source, node.op in _OF_TENSORS) for source in reversed(sources))
        return tuple(names)

    @cached_property
    def fixed(self) -> frozenset[str]:
        """The names of constants and of what nodes compute from constants alone, such as a transposed weight."""
        fixed = set(self.constants)
        for node in self.nodes:
            if node.inputs and all(name in fixed for name in (*node.inputs, *node.captured) if name):
                fixed.update(node.outputs)
        return frozenset(fixed)

    @cached_property
    def params(self) -> int:
        """The number of weights in plain form: elements of all constants that are weights; what is shared counts once.

        What the file itself holds is `stored_params`.
        """
        constants = self.file.constants.values()
        weights = {constant.identity: constant.count for constant in constants if constant.is_weight}
        return sum(weights.values())

    @cached_property
    def stored_params(self) -> int:
        """The number of weights that the file holds; see the function of this name."""
        return stored_params(self.stored)

    @cached_property
    def needed_params(self) -> int:
        """The number of weights that it holds once it is written anew: without what its plain form does without."""
        return stored_params(self.file.proto)

    @property
    def alignment(self) -> int:
        """The alignment of its external data, in bytes."""
        return alignment_of(self.stored)

    @property
    def is_external(self) -> bool:
        """Whether some initializer lies in a file beside the model, or is to: its numbers are made of such a one."""
        return any(map(is_of_file, self.stored.graph.initializer))

    def weights_of(self, index: int) -> list[str]:
        """Return the names of the weights that a node reads itself."""
        names = self.nodes[index].inputs
        return [name for name in names if name in self.constants and self.constants[name].is_weight]

    def array(self, name: str) -> Array:
        """Return the constant `name` as a read-only array; external data is mapped, not read."""
        return array_of(self.constants[name].tensor, self.folder)

    def size_bytes(self) -> int:
        """Return the bytes that the model takes on disk, external data included; in memory, those that it will."""
        if self.file.path is None:
            return self._bytes_once_written
        proto, ends = self.stored, dict[str, int]()
        for tensor in filter(lies_in_file, proto.graph.initializer):
            info = ExternalDataInfo(tensor)
            end = (info.offset or 0) + raw_length(tensor)
            ends[info.location] = max(end, ends.get(info.location, 0))
        return self.file.path.stat().st_size + sum(ends.values())

    @cached_property
    def needed_bytes(self) -> int:
        """The bytes that it would take if it were written anew.

        That is without those of old files that no tensor lies on, and without what its plain form does without.
        """
        path = self.file.path
        if path is not None and self.is_external:
            layout = lay_out(self.file.proto.graph.initializer, self.folder, self.alignment)
            return path.stat().st_size + layout.length
        return self.size_bytes() if self.file.original is None else self._bytes_written_of(self.file.proto)

    @cached_property
    def _bytes_once_written(self) -> int:
        """The bytes that a model in memory takes once it is written, those of deferred tensors included."""
        return self._bytes_written_of(self.stored)

    def _bytes_written_of(self, proto: ModelProto) -> int:
        return encoded(proto, self.folder, self.is_external, self.alignment)[0]

    @property
    def data_files(self) -> set[Path]:
        """The files that hold its external data."""
        tensors = filter(lies_in_file, self.stored.graph.initializer)
        return {self.folder / ExternalDataInfo(tensor).location for tensor in tensors}

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes that were read (of the serialized message for a model in memory), in hex."""
        return self.file.digest or digest_of_message(self.file.proto)


def alignment_of(proto: ModelProto) -> int:
    """Return the alignment of the external data of a model: the largest power of two, up to a page, of all offsets.

    A page for a model without external data.
    """
    offsets = (ExternalDataInfo(tensor).offset or 0 for tensor in proto.graph.initializer if lies_in_file(tensor))
    alignment = PAGE
    for offset in offsets:
        while offset % alignment:
            alignment //= 2
    return alignment


def stored_params(proto: ModelProto) -> int:
    """Return the number of weights that a file holds, also inside of functions; what is shared counts once."""
    weights = {identity_of(tensor, place): tensor for place, tensor in enumerate(stored_tensors(proto))}
    return sum(math.prod(tensor.dims) for tensor in weights.values() if tensor.data_type in WEIGHTS)


def opsets_of(proto: ModelProto) -> dict[str, int]:
    """Return the version of each domain; the default domain is ``""``."""
    return {("" if entry.domain == "ai.onnx" else entry.domain): entry.version for entry in proto.opset_import}
