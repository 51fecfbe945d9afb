"""Sparse tensors: dense ones are what is cut, and what was sparse is stored so again where that takes fewer bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, numpy_helper

from onnxprune.graph.bodies import graphs, nodes_of
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import array_of


def is_sparse(node: NodeProto) -> bool:
    """Whether a node is a Constant that holds a sparse tensor."""
    return node.op_type == "Constant" and any(attribute.name == "sparse_value" for attribute in node.attribute)


def has_sparse(proto: ModelProto) -> bool:
    """Whether a model holds sparse tensors."""
    return any(graph.sparse_initializer for graph in graphs(proto.graph)) or any(map(is_sparse, nodes_of(proto.graph)))


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
