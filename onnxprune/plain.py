"""A model in plain form: what no other module needs to know of.

* Calls of model-local functions, nested ones too, are inlined: inside of a function a weight has no place of its own.
* Sparse initializers and constants become dense ones: dense weights are what is cut.
* A value that a branch or a loop body names like a value elsewhere gets a name of its own.

A model that has none of these is returned as it is, and written back as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    inliner,
    numpy_helper,
)

from onnxprune.errors import ModelError

_MESSAGE = "onnxprune.weight:"  # in front of the names of tensors whose contents are put aside


def plain(proto: ModelProto) -> ModelProto:
    """Return `proto` in plain form: itself, or a changed copy.

    Raises:
        ModelError: when its functions cannot be inlined, or a sparse tensor is damaged.
    """
    if _calls_functions(proto):
        proto = _inlined(proto)
    if any(graph.sparse_initializer for graph in graphs(proto.graph)) or any(map(_sparse, _nodes(proto.graph))):
        proto = _densified(proto)
    return _renamed(proto) if _has_namesakes(proto.graph) else proto


def copy_fields(source: Any, target: Any, skip: set[str]) -> None:
    """Copy every set field of a message that this version of onnx knows, but those in `skip`."""
    for descriptor, value in source.ListFields():
        if descriptor.name in skip:
            continue
        if descriptor.is_repeated:
            getattr(target, descriptor.name).extend(value)
        elif descriptor.message_type:
            getattr(target, descriptor.name).CopyFrom(value)
        else:
            setattr(target, descriptor.name, value)


def graphs_of(attribute: AttributeProto) -> Iterator[GraphProto]:
    """Yield the graphs that an attribute of a node holds: a branch of If, the body of Loop or Scan."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from graphs_of(attribute)


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and all graphs inside of it."""
    yield graph
    for node in graph.node:
        for inner in _bodies(node):
            yield from graphs(inner)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for inner in graphs(graph):
        yield from inner.node


# -- functions -----------------------------------------------------------------------------------------


def _calls_functions(proto: ModelProto) -> bool:
    known = {(function.domain, function.name) for function in proto.functions}
    return bool(known) and any((node.domain, node.op_type) in known for node in _nodes(proto.graph))


def _inlined(proto: ModelProto) -> ModelProto:
    """Return the model with the calls inlined by onnx; weights are put aside, as a message holds 2 GiB at most."""
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


# -- sparse tensors ------------------------------------------------------------------------------------


def _sparse(node: NodeProto) -> bool:
    return node.op_type == "Constant" and any(attribute.name == "sparse_value" for attribute in node.attribute)


def _densified(proto: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    for graph in list(graphs(copy.graph)):
        graph.initializer.extend(_dense(tensor) for tensor in graph.sparse_initializer)
        del graph.sparse_initializer[:]
        for node in filter(_sparse, graph.node):
            attribute = next(a for a in node.attribute if a.name == "sparse_value")
            tensor = _dense(attribute.sparse_tensor)
            del node.attribute[:]
            node.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(tensor)
    return copy


def _dense(sparse: SparseTensorProto) -> TensorProto:
    """Return a sparse tensor in dense form; its indices are flat ``[count]`` or coordinates ``[count, rank]``."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape) if len(indices) else []
    content = np.zeros(math.prod(shape), values.dtype)
    try:
        content[np.asarray(flat, np.int64)] = values
    except (IndexError, ValueError):
        raise ModelError(f"sparse tensor {sparse.values.name!r} of shape {list(shape)} has indices outside") from None
    return numpy_helper.from_array(content.reshape(shape), sparse.values.name)


# -- names ---------------------------------------------------------------------------------------------


def _defined(graph: GraphProto) -> Iterator[str]:
    """Yield the names that a graph itself gives to values."""
    yield from (info.name for info in graph.input)
    listed = {info.name for info in graph.input}
    yield from (tensor.name for tensor in graph.initializer if tensor.name not in listed)
    yield from (name for node in graph.node for name in node.output if name)


def _has_namesakes(graph: GraphProto) -> bool:
    if not any(True for node in graph.node for _ in _bodies(node)):
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
        for inner in _bodies(node):
            own = {name: _unused(name, taken) for name in dict.fromkeys(_defined(inner))}
            _rename_inner(inner, {**names, **own}, taken)
            _rename_definitions(inner, {**names, **own})


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
