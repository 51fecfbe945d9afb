"""Sparse tensors: dense ones are what is cut, and what was sparse is stored so again where that takes fewer bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.graph.bodies import graphs, nodes_of
from onnxprune.graph.files.limits import bytes_of, excess
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import array_of, numpy_type, raw_length


def is_sparse(node: NodeProto) -> bool:
    """Whether a node is a Constant that holds a sparse tensor."""
    return node.op_type == "Constant" and any(attribute.name == "sparse_value" for attribute in node.attribute)


def has_sparse(proto: ModelProto) -> bool:
    """Whether a model holds sparse tensors."""
    return any(graph.sparse_initializer for graph in graphs(proto.graph)) or any(map(is_sparse, nodes_of(proto.graph)))


def densified(proto: ModelProto) -> ModelProto:
    """Return a copy whose sparse tensors are dense.

    Raises:
        ModelError: for one that is damaged, or where all together are larger than what may be taken.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    _check_size(copy)
    for graph in list(graphs(copy.graph)):
        for sparse in graph.sparse_initializer:
            graph.initializer.add().MergeFrom(_dense(sparse))
        del graph.sparse_initializer[:]
        for node in filter(is_sparse, graph.node):
            attribute = next(a for a in node.attribute if a.name == "sparse_value")
            tensor = _dense(attribute.sparse_tensor)
            del node.attribute[:]
            node.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(tensor)
    return copy


def _check_size(proto: ModelProto) -> None:
    """Raise ModelError where the sparse tensors of a model, in dense form and all together, are too large."""
    needed = held = count = 0
    for sparse in _sparse_tensors(proto):
        shape, itemsize = tuple(sparse.dims), numpy_type(sparse.values.data_type).itemsize
        if min(shape, default=0) < 0:
            raise ModelError(
                f"sparse tensor {sparse.values.name!r} states the shape {list(shape)}: the file is damaged"
            )
        needed, held, count = needed + bytes_of(shape, itemsize), held + raw_length(sparse.values), count + 1
        before = ", with those before it," if count > 1 else ""
        reason = excess(f"sparse tensor {sparse.values.name!r} of shape {list(shape)}{before}", needed, held)
        if reason is not None:
            raise ModelError(reason)


def _sparse_tensors(proto: ModelProto) -> Iterator[SparseTensorProto]:
    for graph in graphs(proto.graph):
        yield from graph.sparse_initializer
        for node in filter(is_sparse, graph.node):
            yield from (a.sparse_tensor for a in node.attribute if a.name == "sparse_value")


def _dense(sparse: SparseTensorProto) -> TensorProto:
    """Return a sparse tensor in dense form; its indices are flat ``[count]`` or coordinates ``[count, rank]``."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    content = np.zeros(math.prod(shape), values.dtype)
    try:
        flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape) if len(indices) else []
        content[np.asarray(flat, np.int64)] = values
    except (IndexError, TypeError, ValueError):
        raise ModelError(f"sparse tensor {sparse.values.name!r} of shape {list(shape)} has indices outside") from None
    return numpy_helper.from_array(content.reshape(shape), sparse.values.name)


def as_stored(proto: ModelProto, model: Model) -> ModelProto:
    """Return a model made of `model` as it is to be stored: what was sparse in the file is so again where smaller."""
    source = model.file.original
    if source is None or not has_sparse(source):
        return proto
    names = set(_sparse_names(source))
    copy = ModelProto()
    copy.CopyFrom(proto)
    for graph in graphs(copy.graph):
        _thin_initializers(graph, names)
        for node in graph.node:
            if node.op_type == "Constant" and node.output[0] in names and node.attribute[0].name == "value":
                sparse = thinned(node.attribute[0].t)
                if sparse is not None:
                    del node.attribute[:]
                    new = node.attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
                    new.sparse_tensor.CopyFrom(sparse)
    return copy


def _sparse_names(source: ModelProto) -> Iterator[str]:
    for graph in graphs(source.graph):
        yield from (sparse.values.name for sparse in graph.sparse_initializer)
    yield from (node.output[0] for node in nodes_of(source.graph) if is_sparse(node))


def _thin_initializers(graph: GraphProto, names: set[str]) -> None:
    for place in reversed([i for i, tensor in enumerate(graph.initializer) if tensor.name in names]):
        sparse = thinned(graph.initializer[place])
        if sparse is not None:
            graph.sparse_initializer.append(sparse)
            del graph.initializer[place]


def thinned(tensor: TensorProto) -> SparseTensorProto | None:
    """Return a tensor in sparse form, None where that takes as many bytes or would hold no number at all."""
    array = array_of(tensor, Path())
    flat = array.ravel()
    places = np.flatnonzero(flat)
    values = numpy_helper.from_array(flat[places], tensor.name)
    indices = numpy_helper.from_array(places.astype(np.int64))
    sparse = SparseTensorProto(values=values, indices=indices, dims=tensor.dims)
    return sparse if len(places) and sparse.ByteSize() < tensor.ByteSize() else None
