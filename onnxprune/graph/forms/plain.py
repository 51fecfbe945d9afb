"""A model in plain form: without the constructs that no other module has to know of.

* Calls of model-local functions, nested ones too, are inlined: inside of a function a weight has no place of its own.
* Sparse initializers and constants become dense ones: dense weights are what is cut.
* A value that a branch or a loop body names like a value elsewhere gets a name of its own.
* Parts that several nodes take of one weight are weights of their own, so that each is cut for itself; not parts that
  overlap, which would hold more than it does.
* What normalises weights alone (weight standardisation, weight norm), or makes fewer numbers of them (a network over a
  table of positions), is computed: a cut elsewhere must not change the statistics of a weight, and ONNX Runtime would
  compute it as well before the first run. Not where the weight itself stays beside what would be stored.

A model that has none of these is returned as it is, and written back as it is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    inliner,
    numpy_helper,
)

from onnxprune.errors import ModelError
from onnxprune.graph.bodies import bodies_of, copy_fields, graphs, nodes_of
from onnxprune.graph.files.limits import Allowance, most_bytes
from onnxprune.graph.forms.expansion import check_expansion
from onnxprune.graph.forms.merge import merge, merge_constants
from onnxprune.graph.forms.sparse import densified, has_sparse
from onnxprune.graph.shapes.evaluate import evaluate
from onnxprune.graph.shapes.work import most_steps
from onnxprune.graph.tensors import Array, array_of, raw_length

# Operators that take statistics over units, or count them: those of a weight change when units go.
_NORMS = (
    "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization RMSNormalization"
)
_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
_COUNTS = "LogSoftmax Softmax Shape Size"
_NORMALISING = frozenset((*f"{_NORMS} {_COUNTS}".split(), *(f"Reduce{kind}" for kind in _REDUCTIONS.split())))
_DRAWING = frozenset(
    ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
_CONTRACTING = frozenset(("Conv", "Einsum", "Gemm", "MatMul"))
_PARTS = frozenset(("Slice", "Split"))
_WEIGHTS = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE))
_MESSAGE = "onnxprune.weight:"  # in front of the names of tensors whose contents are put aside


def plain(proto: ModelProto, folder: Path | None = None) -> ModelProto:
    """Return `proto` in plain form: itself, or a changed copy.

    Args:
        proto: the model.
        folder: where its external data lies.

    Raises:
        ModelError: when its functions cannot be inlined, or a sparse tensor is damaged.
    """
    if _calls_functions(proto):
        proto = _with_merged_constants(_inlined(proto), proto)
    if has_sparse(proto):
        proto = densified(proto)
    if _has_namesakes(proto.graph):
        proto = _renamed(proto)
    computed, same = _computed(proto, folder or Path())
    if not computed:
        return proto
    proto = _with_computed(proto, computed)
    merge(proto, same)
    return proto


def overridable(proto: ModelProto) -> set[str]:
    """Return the names of initializers that are defaults of graph inputs: a caller may give other values.

    Old exporters list every weight among the inputs without meaning it as a default. A list of only some weights is
    meant, and so is a constant that is no weight. Before version 4 of the format all had to be listed.
    """
    if proto.ir_version < 4:
        return set()
    inputs = {info.name for info in proto.graph.input}
    weights = {tensor.name for tensor in proto.graph.initializer if tensor.data_type in _WEIGHTS and len(tensor.dims)}
    listed = {tensor.name for tensor in proto.graph.initializer if tensor.name in inputs}
    return listed - weights if weights <= inputs else listed


# -- functions -----------------------------------------------------------------------------------------


def _calls_functions(proto: ModelProto) -> bool:
    known = {(function.domain, function.name) for function in proto.functions}
    return bool(known) and any((node.domain, node.op_type) in known for node in nodes_of(proto.graph))


def _inlined(proto: ModelProto) -> ModelProto:
    """Return the model with the calls inlined by onnx; weights are put aside, as a message holds 2 GiB at most."""
    check_expansion(proto)
    try:
        result = inliner.inline_local_functions(_without_contents(proto))
    except Exception as error:  # the binding raises RuntimeError and others without a common base
        reason = " ".join(str(error).split())
        raise ModelError(f"its model-local functions cannot be inlined: {reason}") from None
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for tensor in result.graph.initializer:
        if tensor.doc_string.startswith(_MESSAGE):
            tensor.CopyFrom(tensors[tensor.name])
    return result


def _with_merged_constants(inlined: ModelProto, before: ModelProto) -> ModelProto:
    """Return an inlined model in which the calls of a function share its constants."""
    own = {name for node in nodes_of(before.graph) for name in node.output}
    merge_constants(inlined, {name for node in nodes_of(inlined.graph) for name in node.output} - own)
    return inlined


def _without_contents(proto: ModelProto) -> ModelProto:
    """Return a model whose large initializers are empty and marked in their doc string."""
    small = ModelProto()
    copy_fields(proto, small, skip={"graph"})
    copy_fields(proto.graph, small.graph, skip={"initializer"})
    small.graph.initializer.extend(_emptied(tensor) for tensor in proto.graph.initializer)
    return small


def _emptied(tensor: TensorProto) -> TensorProto:
    if len(tensor.raw_data) <= 1024 and not tensor.external_data:
        return tensor
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=_MESSAGE)


# -- weights that are normalised by nodes --------------------------------------------------------------


def _computed(proto: ModelProto, folder: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the outputs of the nodes that normalise what follows from constants alone, by name.

    The second dict has those that are computed like another one, and the name of that.
    """
    arithmetic = _Arithmetic(proto, folder)
    parted = _parted(proto.graph)
    computed: dict[str, Array] = {}
    parts: dict[str, list[str]] = {}  # by weight
    for node in arithmetic.take_all():
        is_part = node.input[0] in parted
        normalises = node.op_type in _NORMALISING and not arithmetic.copies(node)
        if is_part or normalises or (node.op_type in _CONTRACTING and arithmetic.shrinks(node)):
            values = [arithmetic.value(name) for name in node.output if name]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                computed.update(zip(filter(None, node.output), known, strict=True))
                parts.setdefault(node.input[0] if is_part else "", []).extend(filter(None, node.output))
    same = arithmetic.alike(computed)
    for weight in parts.keys() - {""}:
        if sum(computed[name].size for name in parts[weight] if name not in same) > arithmetic.size(weight):
            for name in parts[weight]:  # they overlap: the weight is smaller as it is
                del computed[name]
    return computed, {name: other for name, other in same.items() if name in computed}


def _parted(graph: GraphProto) -> set[str]:
    """Return the weights that several nodes read, all of them to take parts."""
    readers: dict[str, list[str]] = {}
    for node in nodes_of(graph):
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    weights = {tensor.name for tensor in graph.initializer} - {info.name for info in graph.output}
    return {name for name in weights if len(readers.get(name, ())) > 1 and _PARTS.issuperset(readers[name])}


class _Arithmetic:
    """What the nodes of a graph compute from its constants alone."""

    def __init__(self, proto: ModelProto, folder: Path) -> None:
        self._proto = proto
        self._folder = folder
        self._opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
        tensors = (tensor for graph in graphs(proto.graph) for tensor in graph.initializer)
        replaceable = overridable(proto)
        self._tensors = {tensor.name: tensor for tensor in tensors if tensor.name not in replaceable}
        self._producers: dict[str, NodeProto] = {}
        self._values: dict[str, Array | None] = {}
        self._read_as_they_are: set[str] = set()
        held = sum(map(raw_length, self._tensors.values()))
        self._allowance, self._work = Allowance(most_bytes(2 * held)), Allowance(most_steps(held))

    def takes(self, node: NodeProto) -> bool:
        """Whether a node follows from constants; nodes come in the order of the graph, then those of its bodies."""
        known = all(name in self._tensors or name in self._producers for name in node.input if name)
        if not known or node.domain not in ("", "ai.onnx") or any(True for _ in bodies_of(node)):
            return False
        if node.op_type in _DRAWING or not self._is_right_for(node):
            return False
        self._producers.update(dict.fromkeys((name for name in node.output if name), node))
        return True

    def _is_right_for(self, node: NodeProto) -> bool:
        """Whether onnx's reference computes what the operator's page says: it knows some in one version alone."""
        if node.op_type in ("Softmax", "LogSoftmax", "Hardmax"):
            return self._opset >= 13  # before it, all axes from one on are one
        return node.op_type != "LpNormalization" or all(a.name != "p" or a.i == 2 for a in node.attribute)

    def take_all(self) -> list[NodeProto]:
        """Return the nodes with inputs that follow from constants, and find out which weights others read, too."""
        every = list(nodes_of(self._proto.graph))
        taken = [node for node in every if self.takes(node)]
        inside = {id(node) for node in taken}
        read = {name for node in every if id(node) not in inside for name in node.input}
        read.update(info.name for graph in graphs(self._proto.graph) for info in graph.output)
        self._read_as_they_are = self._weights_behind(read)
        return [node for node in taken if node.input]

    def _weights_behind(self, names: Iterable[str]) -> set[str]:
        """Return the weights that values are made of by nodes that are never computed, such as a Transpose."""
        seen, waiting = set[str](), list(names)
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                node = self._producers.get(name)
                if node is not None and node.op_type not in _NORMALISING | _CONTRACTING:
                    waiting.extend(node.input)
        return seen & self._tensors.keys()

    def size(self, name: str) -> int:
        """Return the number of elements of a constant."""
        return math.prod(self._tensors[name].dims)

    def alike(self, names: Iterable[str]) -> dict[str, str]:
        """Return the names of values that are computed as another one is, and the name of that."""
        needed, waiting = set[str](), [name for name in names if name in self._producers]
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting.extend(each for each in self._producers[name].input if each in self._producers)
        formulas: dict[str, str] = {}
        for name, node in self._producers.items():  # in an order in which inputs come first
            if name in needed:
                formulas[name] = _formula(name, node, formulas)
        first: dict[str, str] = {}
        pairs = [(name, first.setdefault(formulas[name], name)) for name in names]
        return {name: other for name, other in pairs if name != other}

    def value(self, name: str) -> Array | None:
        """Return a value, None where the reference cannot compute it."""
        pending = [name]
        while pending:  # an explicit stack: constant arithmetic can be thousands of nodes deep
            missing = [read for read in self._reads(pending[-1]) if not self._is_known(read)]
            pending.extend(missing)
            if not missing and not self._is_known(last := pending.pop()):
                self._values.update(self._outputs(self._producers[last]))
        if name in self._tensors:
            return array_of(self._tensors[name], self._folder)
        return self._values[name]

    def _is_known(self, name: str) -> bool:
        return name in self._tensors or name in self._values

    def _reads(self, name: str) -> list[str]:
        """Return what a value that is not known yet is computed from."""
        return [] if self._is_known(name) else [read for read in self._producers[name].input if read]

    def copies(self, node: NodeProto) -> bool:
        """Whether a node makes about as many numbers as a weight has that others read and that stays beside them."""
        value = self.value(node.output[0])
        staying = self._weights_behind(node.input) & self._read_as_they_are
        return value is not None and any(value.size <= self.size(name) <= 2 * value.size > 2 for name in staying)

    def shrinks(self, node: NodeProto) -> bool:
        """Whether a node makes fewer numbers than it reads, and none that others read stay beside them."""
        values = [self.value(name) for name in (*node.output, *node.input) if name]
        sizes = [value.size for value in values if value is not None]
        if len(sizes) < len(values) or sizes[0] > sum(sizes[1:]):
            return False
        staying = self._weights_behind(node.input) & self._read_as_they_are
        return all(self.size(name) < sizes[0] for name in staying)

    def _outputs(self, node: NodeProto) -> dict[str, Array | None]:
        feeds = {name: self.value(name) for name in dict.fromkeys(node.input) if name}
        known = {name: value for name, value in feeds.items() if value is not None}
        outputs = [name for name in node.output if name]
        values: Sequence[Array | None] | None = None
        if len(known) == len(feeds):
            values = evaluate(
                node, known, self._proto.opset_import, self._proto.ir_version,
                allowance=self._allowance, work=self._work,
            )  # fmt: skip
        return dict(zip(outputs, values or [None] * len(outputs), strict=True))


def _formula(name: str, node: NodeProto, of: Mapping[str, str]) -> str:
    """Return a text that is the same for values that the same nodes compute from the same constants."""
    bare = NodeProto(op_type=node.op_type, domain=node.domain, attribute=node.attribute)
    inputs = ",".join(of.get(each, each) for each in node.input).encode()
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True) + inputs).hexdigest()
    return f"{list(node.output).index(name)} of {digest}"


def _with_computed(proto: ModelProto, computed: Mapping[str, Array]) -> ModelProto:
    """Return a copy that holds what was computed, without the nodes and weights that nothing else reads."""
    copy = ModelProto()
    copy_fields(proto, copy, skip={"graph"})
    _take_over(proto.graph, copy.graph, computed)
    return copy


def _take_over(source: GraphProto, target: GraphProto, computed: Mapping[str, Array]) -> None:
    """Fill an empty graph with another, and with what of it was computed; so in its bodies."""
    copy_fields(source, target, skip={"node", "initializer"})
    made = {name for node in source.node for name in node.output if name}
    before = _needed(source, source.node)
    nodes = [node if not any(True for _ in bodies_of(node)) else _with_bodies(node, computed) for node in source.node]
    nodes = [node for node in nodes if not any(name in computed for name in node.output)]
    after = _needed(source, nodes, made - before)  # what was dead stays, and so does what it reads
    gone = before - after
    target.node.extend(node for node in nodes if not any(name in gone for name in node.output))
    target.initializer.extend(tensor for tensor in source.initializer if tensor.name not in gone)
    listed = {info.name for info in source.input} & {tensor.name for tensor in source.initializer}
    for info in [info for info in target.input if info.name in gone & listed]:
        target.input.remove(info)
    for name in (name for name in computed if name in made & after):
        tensor = target.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(computed[name], name))
        if listed:  # which is how old versions of the format want it
            target.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))


def _with_bodies(node: NodeProto, computed: Mapping[str, Array]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    for graph in bodies_of(copy):
        source = GraphProto()
        source.CopyFrom(graph)
        graph.Clear()
        _take_over(source, graph, computed)
    return copy


def _needed(graph: GraphProto, nodes: Iterable[NodeProto], dead: Iterable[str] = ()) -> set[str]:
    """Return the names that the outputs of a graph of these nodes, and what is `dead`, depend on."""
    needed = {info.name for info in graph.output}.union(dead)
    for node in reversed(list(nodes)):
        if any(name in needed for name in node.output):
            needed.update(node.input)
            for inner in (inner for body in bodies_of(node) for inner in graphs(body)):
                needed.update(name for child in inner.node for name in child.input)
                needed.update(info.name for info in inner.output)
    return needed


# -- names ---------------------------------------------------------------------------------------------


def _defined(graph: GraphProto) -> Iterator[str]:
    """Yield the names that a graph itself gives to values."""
    yield from (info.name for info in graph.input)
    listed = {info.name for info in graph.input}
    yield from (tensor.name for tensor in graph.initializer if tensor.name not in listed)
    yield from (name for node in graph.node for name in node.output if name)


def _has_namesakes(graph: GraphProto) -> bool:
    if not any(True for node in graph.node for _ in bodies_of(node)):
        return False
    names = [name for inner in graphs(graph) for name in _defined(inner)]
    return len(set(names)) < len(names)


def _renamed(proto: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    taken = set(_defined(copy.graph))
    _rename_inner(copy.graph, {}, taken)
    return copy


def _rename_inner(graph: GraphProto, names: Mapping[str, str], taken: set[str]) -> None:
    """Apply `names` to what the nodes of a graph read, and make new names for what its inner graphs define."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for inner in bodies_of(node):
            own = {name: _unused(name, taken) for name in dict.fromkeys(_defined(inner))}
            _rename_inner(inner, {**names, **own}, taken)
            _rename_definitions(inner, {**names, **own})


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename values of a graph in place, where it defines them and where it, or a graph inside of it, reads them."""
    for inner in graphs(graph):
        for node in inner.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        _rename_definitions(inner, names)


def _rename_definitions(graph: GraphProto, names: Mapping[str, str]) -> None:
    named: Iterable[Any] = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for item in named:
        item.name = names.get(item.name, item.name)
    for node in graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]


def _unused(name: str, taken: set[str]) -> str:
    """Return a name that no other value has, and take it."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    taken.add(unique)
    return unique
