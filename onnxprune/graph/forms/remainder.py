"""What is left of a model without some of its nodes: a model of its own, whose edits go back into the whole one.

ONNX Runtime cannot run every file: a plug-in of another runtime, a tokenizer, an operator without kernel. Without such
nodes the rest is a model like any other: what they read is an output of it, what they make an input. The bodies of such
a node (the decoder of a BeamSearch) belong to the rest, too. It is traced, calibrated and proven; cuts are made at the
same places of the whole model, where the nodes that are left out stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from onnxprune.graph.bodies import bodies_of, copy_fields, graphs_of
from onnxprune.graph.edit import Edits
from onnxprune.graph.forms.plain import rename
from onnxprune.graph.model import LeftOut, Model, Node, Whole
from onnxprune.graph.ports import port_of
from onnxprune.graph.shapes.probe import Probe, probe
from onnxprune.graph.view import view

Dims: TypeAlias = "Sequence[int | str | None]"
ValueType: TypeAlias = "tuple[int, Dims]"  # element type of ONNX, sizes; a str or None marks a dynamic dim
_NONE: Mapping[str, ValueType] = MappingProxyType({})


def key_of(node: Node) -> str:
    """Return the name that tells a node from all others, before and after a cut: that of its first output."""
    return next((name for name in node.outputs if name), "")


def remainder(model: Model, left_out: Mapping[str, str], types: Mapping[str, ValueType] = _NONE) -> Model:
    """Return a model without some nodes, and without those that read a value of unknown shape that these make.

    Args:
        model: in plain form; no remainder itself.
        left_out: why a node is left out, by the name of its first output. Nodes of the main graph, or of a body of
            a node that is left out as well.
        types: of values that these nodes make, where the file does not state them.
    """
    return _Split(model, left_out, types).run()


def back(whole: Whole, edits: Edits) -> Edits:
    """Return edits of a remainder as edits of the whole model."""
    places = whole.places
    return dataclasses.replace(
        edits,
        inputs={(places[index], slot): name for (index, slot), name in edits.inputs.items()},
        attributes={(places[index], name): value for (index, name), value in edits.attributes.items()},
        outputs={(places[index], place): name for (index, place), name in edits.outputs.items()},
        nodes_before={places[index]: nodes for index, nodes in edits.nodes_before.items()},
        nodes_after={places[index]: nodes for index, nodes in edits.nodes_after.items()},
    )


def same_part(after: Model, part: Model) -> Model:
    """Return of a model what `part` is of another one, from which it was made: without the same nodes."""
    if part.whole is None:
        return after
    ports = {info.name: (info.type.tensor_type.elem_type, port_of(info).shape) for info in part.proto.graph.input}
    stated = {
        name: (kind, dims) for name, (kind, dims) in ports.items() if name in part.whole.ends and dims is not None
    }
    return remainder(after, {each.key: each.why for each in part.whole.left_out}, stated)


def left_out_nodes(part: Model) -> dict[str, bytes]:
    """Return the nodes that a part lacks as bytes without their bodies, by the names of their first outputs."""
    if part.whole is None:
        return {}
    keys = {each.key for each in part.whole.left_out}
    by_key = zip(map(key_of, part.file.nodes), part.file.protos, strict=True)
    return {key: _without_bodies(proto) for key, proto in by_key if key in keys}


def _without_bodies(node: NodeProto) -> bytes:
    bare = NodeProto()
    copy_fields(node, bare, skip={"attribute"})
    bare.attribute.extend(attribute for attribute in node.attribute if not any(True for _ in graphs_of(attribute)))
    return bare.SerializeToString(deterministic=True)


def with_own_ports(proto: ModelProto, whole: Whole) -> ModelProto:
    """Give inputs and outputs of the bodies of left-out nodes the names of the file back, in place; return `proto`.

    A plain form names them apart from values elsewhere, but a BeamSearch knows those of its decoder by their names.
    """
    original = whole.model.original
    nodes = {name: node for node in (original.graph.node if original else ()) for name in node.output[:1]}
    keys = {each.key for each in whole.left_out}
    for node in proto.graph.node:
        if not keys.isdisjoint(node.output) and node.output[0] in nodes:
            for new, old in zip(bodies_of(node), bodies_of(nodes[node.output[0]]), strict=True):
                pairs = zip((*new.input, *new.output), (*old.input, *old.output), strict=True)
                rename(new, {after.name: before.name for after, before in pairs if after.name != before.name})
    return proto


class _Split:
    """Sorts the nodes of a model into those that stay and those that are left out."""

    def __init__(self, model: Model, left_out: Mapping[str, str], types: Mapping[str, ValueType]) -> None:
        self._model, self._why, self._given = model, left_out, types
        self._probe: Probe | None = None
        self._kept: list[int] = []
        self._left_out: dict[int, LeftOut] = {}
        self._makers: dict[str, Node] = {}  # of values that nodes which are left out make
        self._unknown: set[str] = set()  # those of them whose shapes are unknown
        self._graphs: list[GraphProto] = [model.proto.graph]  # of the nodes that stay: the main graph, and bodies
        self._body_inputs: dict[str, tuple[ValueInfoProto, Node]] = {}
        self._body_outputs: dict[str, tuple[ValueInfoProto, Node]] = {}

    def run(self) -> Model:
        """Return the remainder."""
        self._sort(self._model.top)
        read = {name for index in self._kept for name in _reads(self._model.nodes[index])}
        inputs, outputs = self._inputs(read), self._outputs(read)
        proto = self._proto(inputs.values(), outputs.values(), read | outputs.keys())
        part = view(proto, folder=self._model.folder, is_plain=True)
        places = [place for index in self._kept for place in _flat(self._model, index)]
        ends = dict(self._ends({*inputs, *outputs}))
        whole = Whole(self._model, tuple(places), tuple(self._left_out.values()), ends)
        ports = {port.name: port.below for port in self._model.inputs}
        kept = (
            dataclasses.replace(p, below=p.below if p.below is not None else ports.get(p.name)) for p in part.inputs
        )
        return dataclasses.replace(part, inputs=tuple(kept), whole=whole, stamps=self._model.stamps)

    # -- which nodes stay ------------------------------------------------------------------------------

    def _sort(self, indices: Iterable[int]) -> None:
        for index in indices:
            node = self._model.nodes[index]
            unknown = next((name for name in _reads(node) if name in self._unknown), None)
            why = self._why.get(key_of(node))
            if why is None and unknown is not None:
                why = f"it reads {unknown!r} of unknown shape, which {self._origin(unknown)} makes"
            if why is None:
                self._kept.append(index)
            else:
                self._leave_out(node, why, unknown is None)

    def _leave_out(self, node: Node, why: str, is_cause: bool) -> None:
        """Leave a node out; its bodies stay where their inputs have types."""
        typed = all(port.dtype is not None and port.shape is not None for body in node.bodies for port in body.inputs)
        reads = tuple(filter(None, node.inputs)) if typed else tuple(_reads(node))
        makes = tuple(filter(None, node.outputs))
        runtime = tuple(name for name in reads if name not in self._model.fixed)
        self._left_out[node.index] = LeftOut(key_of(node), node.name, node.op, why, reads, runtime, makes, is_cause)
        for name in makes:
            self._makers[name] = node
            if self.type_of(name) is None:
                self._unknown.add(name)
        for body, proto in zip(node.bodies, bodies_of(self._model.protos[node.index]), strict=True):
            if typed:
                self._graphs.append(proto)
                self._body_inputs.update({info.name: (_apart(info, node), node) for info in proto.input})
                self._body_outputs.update({info.name: (info, node) for info in proto.output})
                self._sort(body.nodes)

    def _origin(self, name: str) -> str:
        """Return in words the node that is left out for its own sake and that a value comes from."""
        node = self._makers.get(name)
        while node is not None and not self._is_cause(node):
            name = next(each for each in _reads(node) if each in self._unknown)
            node = self._makers.get(name)
        return "a body" if node is None else str(node)

    def _is_cause(self, node: Node) -> bool:
        return node.index not in self._left_out or self._left_out[node.index].is_cause

    # -- values between both ---------------------------------------------------------------------------

    def type_of(self, name: str) -> ValueType | None:
        """Return the type of a value that is left out: as it is given, stated in the file, or inferred."""
        if name in self._given:
            return self._given[name]
        shape, kind = self._model.value_shapes.get(name), self._model.value_kinds.get(name, 0)
        stated = {port.name: port for port in self._model.outputs}.get(name)
        if stated is not None and stated.dtype is not None and stated.shape is not None:
            shape, kind = stated.shape, helper.np_dtype_to_tensor_dtype(stated.dtype)
        return (kind, shape) if kind and shape is not None else self._inferred(name)

    def _inferred(self, name: str) -> ValueType | None:
        self._probe = self._probe or probe(self._model)
        sizes, kind = self._probe.sizes(name), self._probe.first.kinds.get(name)
        if sizes is None or not kind:
            return None
        settings = self._probe.settings
        by_sizes = {tuple(setting.dims[key] for setting in settings): key for key in self._probe.first.dims}
        return kind, [size[0] if len(set(size)) == 1 else by_sizes.get(size) for size in sizes]

    def _inputs(self, read: set[str]) -> dict[str, ValueInfoProto]:
        """Return the inputs: those of the model that some other node reads, of bodies, and what left-out nodes make."""
        elsewhere = {name for each in self._left_out.values() for name in each.reads} - read
        inputs = {info.name: info for info in self._model.proto.graph.input if info.name not in elsewhere}
        inputs |= {name: info for name, (info, _) in self._body_inputs.items()}
        for name in sorted(read & self._makers.keys()):
            typed = self.type_of(name)
            if typed is not None:
                inputs[name] = helper.make_tensor_value_info(name, *typed)
        return inputs

    def _outputs(self, read: set[str]) -> dict[str, ValueInfoProto]:
        """Return the outputs: those of the model and of bodies that are still made, and what left-out nodes read."""
        made = {name for index in self._kept for name in self._model.nodes[index].outputs if name} - self._model.fixed
        stated = {info.name: info for graph in self._graphs for info in graph.value_info}
        outputs = {info.name: info for info in self._model.proto.graph.output if info.name in made}
        outputs |= {name: info for name, (info, _) in self._body_outputs.items() if name in made}
        for name in (name for each in self._left_out.values() for name in each.reads):
            if name in made and name not in outputs:
                outputs[name] = stated.get(name, ValueInfoProto(name=name))
        return outputs

    def _ends(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield the values where the remainder ends, with why no axis of theirs is cut."""
        readers = {name: each for each in self._left_out.values() for name in each.reads}
        for name in names:
            if name in self._body_inputs or name in self._body_outputs:
                _, node = (self._body_inputs | self._body_outputs)[name]
                yield name, f"a body of {node.op} takes or gives it"
            elif name in self._makers:
                yield name, f"{self._makers[name].op} makes it, which is not run"
            elif name in readers:
                yield name, f"{readers[name].op} reads it, which is not run"

    # -- the protobuf ----------------------------------------------------------------------------------

    def _proto(self, inputs: Iterable[ValueInfoProto], outputs: Iterable[ValueInfoProto], used: set[str]) -> ModelProto:
        proto = ModelProto()
        copy_fields(self._model.proto, proto, skip={"graph"})
        proto.ir_version = max(proto.ir_version, 4)  # before it, every initializer was an input
        proto.graph.name = self._model.proto.graph.name or "part"
        proto.graph.node.extend(self._model.protos[index] for index in self._kept)
        proto.graph.input.extend(inputs)
        proto.graph.output.extend(outputs)
        made = {name for node in proto.graph.node for name in node.output}
        for graph in self._graphs:
            proto.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in used)
            proto.graph.value_info.extend(info for info in graph.value_info if info.name in made)
        return proto


def _reads(node: Node) -> Iterator[str]:
    """Yield the values that a node reads, also those that its bodies take from outside."""
    yield from (name for name in (*node.inputs, *node.captured) if name)


def _flat(model: Model, index: int) -> Iterator[int]:
    """Yield the indices of the nodes in the bodies of a node, and then its own."""
    for body in model.nodes[index].bodies:
        for inner in body.nodes:
            yield from _flat(model, inner)
    yield index


def _apart(info: ValueInfoProto, node: Node) -> ValueInfoProto:
    """Return an input of a body whose dynamic dims have names of their own: a batch there is no batch of the graph."""
    own = ValueInfoProto()
    own.CopyFrom(info)
    for dim in own.type.tensor_type.shape.dim:
        if dim.dim_param and dim.dim_param != "?":
            dim.dim_param = f"{node.name}.{dim.dim_param}"
    return own
