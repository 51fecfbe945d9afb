"""Edits of a model: new contents, attributes, inputs and nodes; everything else stays as it is, byte for byte."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.external_data_helper import ExternalDataInfo

from onnxprune.graph.bodies import copy_fields, graphs, graphs_of, stored_tensors
from onnxprune.graph.files.deferred import Numbers, deferred
from onnxprune.graph.model import Body, Model
from onnxprune.graph.order import captured
from onnxprune.graph.tensors import (
    Array,
    Shape,
    deferred_numbers,
    has_external_data,
    has_own_bytes,
    is_of_file,
    opened,
    raw_length,
)

Stated: TypeAlias = "int | float | list[int] | list[int | float] | None"


@dataclass(frozen=True, slots=True)
class Part:
    """The kept part of a constant: cut out when it is read as an array, so that the weights are never held twice.

    Reading it fails as reading the constant does, such as when its external data has been deleted.
    """

    model: Model
    name: str  # of the constant
    kept: Mapping[int, npt.NDArray[np.bool_]]  # bool ``[size]`` by axis
    factor: float = 1.0  # by which it is multiplied

    @property
    def shape(self) -> Shape:
        """The sizes after the cut."""
        stated = enumerate(self.model.constants[self.name].shape)
        return tuple(int(self.kept[dim].sum()) if dim in self.kept else size for dim, size in stated)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers."""
        return self.model.constants[self.name].dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the numbers."""
        return self._cut(self.kept, dtype)

    def head(self, rows: int) -> Array:
        """Return the numbers of the first rows that are kept."""
        mask = self.kept.get(0, np.ones(self.model.constants[self.name].shape[0], bool))
        return self._cut({**self.kept, 0: mask & (np.cumsum(mask) <= rows)})

    def _cut(self, kept: Mapping[int, npt.NDArray[np.bool_]], dtype: Any = None) -> Array:
        array = self.model.array(self.name)
        for dim, mask in sorted(kept.items()):
            array = array.compress(mask, axis=dim)
        if self.factor != 1:
            array = (array * self.factor).astype(array.dtype)
        return array if dtype is None else array.astype(dtype, copy=False)


Content: TypeAlias = "Array | Numbers"


@dataclass(frozen=True)
class Edits:
    """What a rewrite changes; all that is not named here is copied as it is. Nodes are indices of `Model.nodes`."""

    inputs: Mapping[tuple[int, int], str]  # (node, input slot) -> new value name
    attributes: Mapping[tuple[int, str], Stated]  # (node, name) -> value, None removes it
    replaced: Mapping[str, Content]  # constant -> new contents
    added: Mapping[str, Content]  # new initializers of the main graph, which bodies see too
    nodes_before: Mapping[int, Sequence[NodeProto]]  # new nodes, in front of this one
    shapes: Mapping[str, tuple[int | None, ...]]  # value -> dims after the cut; 0: as stated, None: unknown
    outputs: Mapping[tuple[int, int], str] = field(default_factory=dict)  # (node, output) -> new value name
    nodes_after: Mapping[int, Sequence[NodeProto]] = field(default_factory=dict)  # new nodes, behind this one
    ranks: Mapping[str, int] = field(default_factory=dict)  # number of axes of values, where it is known
    gone: frozenset[str] = frozenset()  # inputs and outputs of the main graph that go, also out of bodies of its Ifs


_FULL = 1  # accuracy level of float32
NO_EDITS = Edits({}, {}, {}, {}, {}, {})


def make_node(
    op: str, inputs: Sequence[str], outputs: str | Sequence[str], *, name: str | None = None, **attributes: Any
) -> NodeProto:
    """Return a node of the default domain, unless `domain` is another; it is named after its first output by default.

    One that makes a value which another node made before needs a `name`: that node may have the name of its output.
    """
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    return onnx.helper.make_node(op, list(inputs), names, name=name or names[0], **attributes)


def apply_edits(model: Model, edits: Edits) -> ModelProto:
    """Return a new protobuf: `model` with `edits`, without nodes and constants that the edits made dead."""
    proto = ModelProto()
    copy_fields(model.proto, proto, skip={"graph"})
    _Editor(model, edits).edit(model.proto.graph, proto.graph, model.top, is_main=True, gone=edits.gone)
    read = {name for graph in graphs(proto.graph) for node in graph.node for name in node.input}
    used = {name: array for name, array in edits.added.items() if name in read}
    added = [_tensor(name, array) for name, array in used.items()]
    proto.graph.initializer.extend(added)
    if proto.ir_version < 4:  # where every initializer must be listed as an input
        infos = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in added]
        proto.graph.input.extend(infos)
    return proto


def with_contents(model: Model, contents: Mapping[str, Content]) -> ModelProto:
    """Return a copy of a model some of whose constants hold other numbers, of the same shape and type."""
    return apply_edits(model, dataclasses.replace(NO_EDITS, replaced=contents))


def with_weights_inside(proto: ModelProto, folder: Path) -> ModelProto:
    """Return a model that refers to no files: a copy with the contents of external tensors, which lie in `folder`.

    Raises:
        OSError: when a file cannot be read.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    for tensor in stored_tensors(with_deferred_inside(copy)):
        if has_external_data(tensor):
            info = ExternalDataInfo(tensor)
            with opened(folder / info.location) as file:
                file.seek(info.offset or 0)
                tensor.raw_data = file.read(raw_length(tensor))
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.DEFAULT
    return copy


def in_full_precision(proto: ModelProto) -> ModelProto | None:
    """Return a copy whose kernels round no activations; None for a model whose kernels round none anyway.

    MatMulNBits says by `accuracy_level` what its inputs may become inside: 1 leaves them float32, 4 makes them int8
    (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits).
    """
    if not any(_levels(graph) for graph in graphs(proto.graph)):
        return None
    copy = ModelProto()
    copy.CopyFrom(proto)
    for level in (level for graph in graphs(copy.graph) for level in _levels(graph)):
        level.i = _FULL
    return copy


def _levels(graph: GraphProto) -> list[AttributeProto]:
    """Return the attributes by which nodes say that activations are rounded inside."""
    nodes = (node for node in graph.node if node.op_type == "MatMulNBits")
    return [each for node in nodes for each in node.attribute if each.name == "accuracy_level" and each.i > _FULL]


class _Editor:
    """Applies edits to a graph and to the bodies inside of it; what no edit reaches is copied as it is."""

    def __init__(self, model: Model, edits: Edits) -> None:
        self._model = model
        self._edits = edits
        self._inputs: dict[int, dict[int, str]] = {}
        for (index, slot), name in edits.inputs.items():
            self._inputs.setdefault(index, {})[slot] = name
        self._attributes: dict[int, dict[str, Any]] = {}
        for (index, attribute), value in edits.attributes.items():
            self._attributes.setdefault(index, {})[attribute] = value
        constants = {model.constants[name].node for name in edits.replaced}
        self._outputs: dict[int, dict[int, str]] = {}
        for (index, place), name in edits.outputs.items():
            self._outputs.setdefault(index, {})[place] = name
        self._edited = {*self._inputs, *self._attributes, *self._outputs, *edits.nodes_before, *constants}
        self._lost = {
            node.index: [at for at, name in enumerate(node.outputs) if name in edits.gone]
            for node in model.nodes
            if node.op == "If" and not edits.gone.isdisjoint(node.outputs)
        }
        self._edited.update(self._lost)
        self._named = {*edits.replaced, *edits.shapes}

    def edit(
        self,
        source: GraphProto,
        target: GraphProto,
        indices: Sequence[int],
        *,
        is_main: bool = False,
        gone: Container[str] = (),
    ) -> None:
        """Fill an empty graph with the edited contents of another; initializers of the main graph may be deferred.

        Args:
            source: the graph.
            target: the empty one.
            indices: of its nodes.
            is_main: whether it is no body.
            gone: its inputs and outputs that go.
        """
        replaced = self._edits.replaced
        copy_fields(source, target, skip={"initializer", "node", "value_info"})
        _drop_ports(target, gone)
        nodes = [new for proto, index in zip(source.node, indices, strict=True) for new in self._nodes(proto, index)]
        before = _live(source.node, source)
        dead = {name for node in source.node for name in node.output} - before
        after = _live(nodes, target, dead)  # a node that was dead stays, and so does what it reads
        known = before | dead
        for node in nodes:
            is_new = not any(name in known for name in node.output)
            if any(name in after for name in node.output) if is_new else not _made_dead(node.output, before, after):
                target.node.append(node)
        used = after | {info.name for info in source.input}
        for tensor in source.initializer:
            if tensor.name in replaced:
                content = replaced[tensor.name]
                fill(target.initializer.add(), tensor, content if is_main else np.asarray(content))
            elif tensor.name in used or tensor.name not in before:
                target.initializer.add().CopyFrom(tensor)
        self._state_shapes(source, target)

    def _state_shapes(self, source: GraphProto, target: GraphProto) -> None:
        shapes = {**{name: array.shape for name, array in self._edits.replaced.items()}, **self._edits.shapes}
        produced = {name for node in target.node for name in node.output}
        produced |= {tensor.name for tensor in target.initializer}
        known = {info.name for info in source.value_info} - {n for node in source.node for n in node.output}
        for info in source.value_info:
            if shapes and (info.type.HasField("sequence_type") or self._is_stale(info)):
                continue  # tensors of a sequence may be smaller; and what contradicts the graph may come to light
            if info.name in produced or info.name in known:
                _resize(target.value_info.add(), info, shapes.get(info.name))
        for info in (*target.input, *target.output):
            _resize(info, info, shapes.get(info.name))

    def _is_stale(self, info: ValueInfoProto) -> bool:
        """Whether a stated shape has another rank than the value."""
        rank = self._edits.ranks.get(info.name)
        is_stated = info.type.tensor_type.HasField("shape")
        return rank is not None and is_stated and len(info.type.tensor_type.shape.dim) != rank

    def _nodes(self, proto: NodeProto, index: int) -> Iterator[NodeProto]:
        """Yield the nodes that take the place of one."""
        yield from self._edits.nodes_before.get(index, ())
        if index not in self._edited and not any(map(self._reaches, self._model.nodes[index].bodies)):
            yield proto
            return
        copy = NodeProto()
        copy.CopyFrom(proto)
        for slot, name in self._inputs.get(index, {}).items():
            copy.input.extend([""] * (slot + 1 - len(copy.input)))
            copy.input[slot] = name
        for place, name in self._outputs.get(index, {}).items():
            copy.output[place] = name
        for attribute, value in self._attributes.get(index, {}).items():
            set_attribute(copy, attribute, value)
        if self._model.nodes[index].bodies:
            self._edit_bodies(proto, copy, index)
            for place in self._lost.get(index, ())[::-1]:
                del copy.output[place]
        name = next(iter(proto.output), "")
        if proto.op_type == "Constant" and name in self._edits.replaced:
            tensor = copy.attribute[0].t if copy.attribute[0].name == "value" else TensorProto()
            del copy.attribute[:]
            new = copy.attribute.add(name="value", type=AttributeProto.TENSOR)
            fill(new.t, tensor, np.asarray(self._edits.replaced[name]))  # which only initializers defer
        yield copy
        yield from self._edits.nodes_after.get(index, ())

    def _edit_bodies(self, source: NodeProto, target: NodeProto, index: int) -> None:
        """Edit the bodies of a node; those of an If lack the outputs that go from it."""
        lost = self._lost.get(index, ())
        bodies = iter(self._model.nodes[index].bodies)
        targets = {attribute.name: attribute for attribute in target.attribute}
        for attribute in source.attribute:
            for old, new in zip(graphs_of(attribute), graphs_of(targets[attribute.name]), strict=True):
                new.Clear()
                self.edit(old, new, next(bodies).nodes, gone={old.output[at].name for at in lost})

    def _reaches(self, body: Body) -> bool:
        """Whether an edit falls inside a body, or changes the shape of one of its values."""
        nodes = [self._model.nodes[index] for index in body.nodes]
        read = {name for node in nodes for name in (*node.inputs, *node.outputs)}
        read.update(body.outputs, (port.name for port in body.inputs))
        inside = any(index in self._edited for index in body.nodes) or not self._named.isdisjoint(read)
        return inside or any(self._reaches(inner) for node in nodes for inner in node.bodies)


def _drop_ports(graph: GraphProto, gone: Container[str]) -> None:
    """Take inputs and outputs out of a graph."""
    for ports in (graph.input, graph.output):
        for place in [at for at, port in enumerate(ports) if port.name in gone][::-1]:
            del ports[place]


def set_attribute(node: NodeProto, name: str, value: Stated) -> None:
    """Set an attribute of a node in place; None removes it."""
    kept = [a for a in node.attribute if a.name != name]
    old = next((a for a in node.attribute if a.name == name), None)
    if value is not None:
        new = onnx.helper.make_attribute(name, value)
        if old is not None:
            kept.insert(list(node.attribute).index(old), new)
        else:
            kept.append(new)
    kept = [AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend(kept)


def _resize(target: ValueInfoProto, source: ValueInfoProto, shape: Sequence[int | None] | None) -> None:
    if target is not source:
        target.CopyFrom(source)
    for dim, size in zip(target.type.tensor_type.shape.dim, shape or (), strict=False):
        if size is None:
            dim.Clear()
        elif size:
            dim.dim_value = size


def _live(nodes: Iterable[NodeProto], graph: GraphProto, kept: Iterable[str] = ()) -> set[str]:
    """Return the names that are read, directly or not, by an output of the graph or by the makers of `kept`."""
    live = {info.name for info in graph.output}.union(kept)
    for node in reversed(list(nodes)):
        if any(name in live for name in node.output):
            live.update(node.input)
            live.update(captured(node))
    return live


def _made_dead(outputs: Iterable[str], before: set[str], after: set[str]) -> bool:
    """Whether a node was needed in the original and is not any more; nodes that were dead stay."""
    names = [name for name in outputs if name]
    return any(name in before for name in names) and not any(name in after for name in names)


def initializer(model: Model, name: str, content: Array | None) -> TensorProto:
    """Return a constant as an initializer with its numbers inside, `content` where that is given."""
    constant = model.constants[name]
    if content is not None or has_external_data(constant.tensor):
        array = model.array(name) if content is None else content
        return onnx.numpy_helper.from_array(np.array(array, order="C"), name)
    tensor = TensorProto()
    tensor.CopyFrom(constant.tensor)
    tensor.name = name
    return tensor


def fill(target: TensorProto, source: TensorProto, array: Content) -> None:
    """Make `target` a tensor like `source` (name, doc string, type) with the contents of `array`."""
    new = _tensor(source.name, array, is_of_file(source))
    new.doc_string = source.doc_string
    new.metadata_props.extend(source.metadata_props)
    target.CopyFrom(new)


def _tensor(name: str, content: Content, was_in_file: bool = False) -> TensorProto:
    """Return a tensor with some contents, which are made later where they may be; see `graph.files.deferred`."""
    location = deferred(content, is_of_file=was_in_file) if has_own_bytes(content.dtype) else None
    if location is None:
        return onnx.numpy_helper.from_array(np.asarray(content, order="C"), name)
    kind = onnx.helper.np_dtype_to_tensor_dtype(content.dtype)
    tensor = TensorProto(name=name, dims=content.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def with_deferred_inside(proto: ModelProto) -> ModelProto:
    """Fill in the numbers of deferred tensors, in place; return `proto`."""
    for tensor in stored_tensors(proto):
        numbers = deferred_numbers(tensor)
        if numbers is not None:
            tensor.raw_data = np.ascontiguousarray(np.asarray(numbers)).tobytes()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return proto
