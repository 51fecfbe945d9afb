"""Checks of a protobuf: what a file must hold before it is read as a model, and what onnx's checker reports.

Apart from `graph.files.read`, because pruned models are checked too, before they are written.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import cache

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, TypeProto

from onnxprune.errors import ModelError
from onnxprune.graph.bodies import bodies_of, copy_fields, graphs
from onnxprune.graph.model import opsets_of
from onnxprune.graph.tensors import SMALL_BYTES, has_external_data, raw_length

OLDEST_OPSET = 7  # before it, broadcasting was an attribute
RUNTIME_DOMAIN = "onnxruntime.default"
_INTEGERS = frozenset((TensorProto.INT32, TensorProto.INT64))
_LONGEST_VECTOR = 2**17  # integers
_LONGEST = 300  # characters of what a library says
DEEPEST = 28  # levels of graphs: each takes three of the hundred levels of a message, and types take some


def check_opsets(proto: ModelProto, where: str) -> None:
    """Raise ModelError for a message without graph or IR version, or of an opset that is too old."""
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(f"{where}: a protobuf, but not a valid ONNX model: it has no graph or no IR version")
    if not proto.graph.output:
        raise ModelError(f"{where}: the graph has no output")
    version = opsets_of(proto).get("", OLDEST_OPSET)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= version <= newest:
        raise ModelError(
            f"{where}: opset {version} is not supported (known: {OLDEST_OPSET} to {newest}); "
            "convert it with onnx.version_converter, or update onnx"
        )


def check_depth(proto: ModelProto) -> None:
    """Raise ModelError for bodies that are nested so deep that protobuf would not read what is made of them."""
    lists = [(1, proto.graph.node), *((1, function.node) for function in proto.functions)]
    while lists:
        depth, nodes = lists.pop()
        bodies = [body for node in nodes for body in bodies_of(node)]
        if bodies and depth >= DEEPEST:
            raise ModelError(
                f"branches and loops are nested more than {DEEPEST} deep, which protobuf does not read; simplify it"
            )
        lists += [(depth + 1, body.node) for body in bodies]


def check_graph(proto: ModelProto, where: str) -> None:
    """Run onnx's checker on the graph without its large weights (they were checked by `graph.files.contents`).

    Raises:
        ModelError: when the checker refuses it, or the parts of a Split are not its outputs; says why.
    """
    try:
        onnx.checker.check_model(skeleton(proto))
    except Exception as error:  # ValidationError, and for unknown types others without a common base
        reason = " ".join(str(error).split())[:_LONGEST]
        raise ModelError(f"{where}: not a valid ONNX model: {reason}") from None
    for node in itertools.chain(_nodes_of(proto), *map(_nodes_of, proto.functions)):
        _check_parts(node, where)


def _check_parts(node: NodeProto, where: str) -> None:
    """Raise ModelError for a Split into other parts than it has outputs: onnx's inference makes a shape for each.

    Source: https://onnx.ai/onnx/operators/onnx__Split.html, num_outputs.
    """
    is_split = node.op_type == "Split" and node.domain in ("", "ai.onnx")
    parts = next((each.i for each in node.attribute if is_split and each.name == "num_outputs"), 0)
    if parts and node.output and parts != len(node.output):
        outputs = f"{len(node.output)} output" + "s" * (len(node.output) != 1)
        raise ModelError(
            f"{where}: not a valid ONNX model: Split {node.output[0]!r} has num_outputs = {parts}, and {outputs}"
        )


def skeleton(proto: ModelProto, for_checker: bool = True) -> ModelProto:
    """Return a copy of `proto` whose large initializers are graph inputs: small, and checkers treat both alike.

    A size below zero is one that is not known, as in `graph.ports`: onnx's inference computes with it and may abort.

    Args:
        proto: the model.
        for_checker: whether operators that onnx does not know get a domain of their own: its checker refuses them.
    """
    small = ModelProto()
    copy_fields(proto, small, skip={"graph"})
    copy_fields(proto.graph, small.graph, skip={"initializer"})
    if for_checker:
        _move_foreign(small)
    listed = {info.name for info in proto.graph.input}
    for tensor in proto.graph.initializer:
        if not has_external_data(tensor) and raw_length(tensor) <= SMALL_BYTES:
            small.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in listed:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            small.graph.input.append(info)
    for info in (info for graph in graphs(small.graph) for info in (*graph.input, *graph.output, *graph.value_info)):
        for dim in info.type.tensor_type.shape.dim if info.type.HasField("tensor_type") else ():
            if dim.dim_value < 0:
                dim.Clear()
    return small


def _move_foreign(proto: ModelProto) -> None:
    """Give operators that onnx does not know a domain of their own where its checkers refuse them.

    These are operators of onnx's own domains alone: ONNX Runtime's optimiser writes SimplifiedLayerNormalization there,
    and LayerNormalization before opset 17; TensorRT's plug-ins stand there as well.
    """
    holders: list[ModelProto | FunctionProto] = [proto, *proto.functions]
    for holder in holders:
        versions = {("" if entry.domain == "ai.onnx" else entry.domain): entry.version for entry in holder.opset_import}
        versions.setdefault("", OLDEST_OPSET)
        foreign = [node for node in _nodes_of(holder) if _is_foreign(node, versions, proto)]
        for node in foreign:
            node.domain = RUNTIME_DOMAIN
        if foreign:
            holder.opset_import.add(domain=RUNTIME_DOMAIN, version=1)


def _nodes_of(holder: ModelProto | FunctionProto) -> Iterator[NodeProto]:
    """Yield all nodes of a model or a function, also those in bodies."""
    if isinstance(holder, ModelProto):
        yield from (node for graph in graphs(holder.graph) for node in graph.node)
        return
    for node in holder.node:
        yield node
        yield from (inner for body in bodies_of(node) for graph in graphs(body) for inner in graph.node)


def _is_foreign(node: NodeProto, versions: Mapping[str, int], proto: ModelProto) -> bool:
    """Whether a node has a domain that onnx knows, and an operator that it does not know there in this version."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain not in _standard_domains() or any(
        (each.domain, each.name) == (node.domain, node.op_type) for each in proto.functions
    ):
        return False
    return not onnx.defs.has(node.op_type, versions.get(domain, 1), domain)


def is_standard(op: str, version: int) -> bool:
    """Whether onnx knows an operator, written as in `Node.op`, in this version of its domain."""
    domain, _, name = op.rpartition(".")
    return bool(onnx.defs.has(name, version, domain))


@cache
def _standard_domains() -> frozenset[str]:
    """Return the domains of which onnx knows all operators."""
    return frozenset(schema.domain for schema in onnx.defs.get_all_schemas_with_history())


def inferred(proto: ModelProto, **options: bool) -> ModelProto:
    """Return a model with the shapes that onnx infers, with sizes that are computed from sizes where that is cheap.

    onnx follows the numbers of every vector of integers one by one: one of millions takes minutes and gigabytes.

    Raises:
        Exception: whatever onnx raises on a model that is not valid.
    """
    first = onnx.shape_inference.infer_shapes(proto, **options)
    infos = (info for graph in graphs(first.graph) for info in (*graph.input, *graph.value_info))
    if any(_is_long(info.type.tensor_type) for info in infos):
        return first
    return onnx.shape_inference.infer_shapes(proto, data_prop=True, **options)


def _is_long(tensor: TypeProto.Tensor) -> bool:
    """Whether a type is that of a vector of very many integers."""
    dims = tensor.shape.dim
    return len(dims) == 1 and tensor.elem_type in _INTEGERS and dims[0].dim_value > _LONGEST_VECTOR


def problems(proto: ModelProto) -> str | None:
    """Return what onnx's checker or its strict shape inference say against `proto`, or None."""
    small = skeleton(proto)
    try:
        onnx.checker.check_model(small)
        inferred(small, check_type=True, strict_mode=True)
    except Exception as error:  # ValidationError, InferenceError, and for unknown types others without a common base
        return str(error).strip() or type(error).__name__
    return None
