"""Checks of a protobuf: what a file must hold before it is read as a model, and what onnx's checker reports.

Apart from `graph.read`, because pruned models are checked too, before they are written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo

from onnxprune.errors import ModelError
from onnxprune.graph.bodies import bodies_of, copy_fields, graphs
from onnxprune.graph.model import opsets_of
from onnxprune.graph.tensors import SMALL_BYTES, has_external_data, raw_length

OLDEST_OPSET = 7  # before it, broadcasting was an attribute
RUNTIME_DOMAIN = "onnxruntime.default"


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


def check_tensors(proto: ModelProto, folder: Path, where: str) -> None:
    """Raise ModelError for an initializer whose type, shape or contents do not fit together."""
    known = set(onnx.helper.get_all_tensor_dtypes())
    for tensor in proto.graph.initializer:
        if tensor.data_type not in known:
            raise ModelError(f"{where}: initializer {tensor.name!r} has no known element type ({tensor.data_type})")
        if has_external_data(tensor):
            _check_external(tensor, folder, where)
        elif tensor.HasField("raw_data"):
            expected = raw_length(tensor)
            if len(tensor.raw_data) != expected:
                raise ModelError(
                    f"{where}: initializer {tensor.name!r} of shape {list(tensor.dims)} holds "
                    f"{len(tensor.raw_data)} bytes, expected {expected}: the file is damaged"
                )
        else:
            _check_typed(tensor, where)


def _check_typed(tensor: TensorProto, where: str) -> None:
    """Raise ModelError for a tensor whose typed field (such as ``float_data``) holds too few or too many numbers."""
    try:
        onnx.numpy_helper.to_array(tensor)
    except ValueError:
        raise ModelError(
            f"{where}: initializer {tensor.name!r} of shape {list(tensor.dims)} does not hold "
            f"{math.prod(tensor.dims)} numbers: the file is damaged"
        ) from None


def _check_external(tensor: TensorProto, folder: Path, where: str) -> None:
    expected = raw_length(tensor)
    try:
        info = ExternalDataInfo(tensor)
    except ValueError as error:
        raise ModelError(f"{where}: external data of initializer {tensor.name!r}: {error}") from None
    if info.length not in (None, expected):
        raise ModelError(
            f"{where}: external data of initializer {tensor.name!r} of shape {list(tensor.dims)} has {info.length} "
            f"bytes, expected {expected}: the file is damaged"
        )
    location = folder / info.location
    inside = location.resolve().is_relative_to(folder.resolve())
    if Path(info.location).is_absolute() or not inside:
        raise ModelError(
            f"{where}: external data of initializer {tensor.name!r} lies outside the model's folder "
            f"({info.location}); it is not read, move it beside the model"
        )
    if not location.is_file():
        raise ModelError(f"{where}: external data of initializer {tensor.name!r} is missing: no file {info.location}")
    end = (info.offset or 0) + raw_length(tensor)
    if location.stat().st_size < end:
        raise ModelError(
            f"{where}: external data of initializer {tensor.name!r} ends at byte {end}, but {info.location} "
            f"has {location.stat().st_size} bytes"
        )


def check_nested(graph: GraphProto, where: str) -> None:
    """Refuse external data in attributes and branches: only initializers of the main graph may lie outside.

    Raises:
        ModelError: for a tensor of an attribute or a branch that lies outside the file; names the node.
    """
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g, *attribute.graphs]
            tensors = [attribute.t, *attribute.tensors, *(t for branch in inner for t in branch.initializer)]
            if any(has_external_data(tensor) for tensor in tensors):
                raise ModelError(
                    f"{where}: node {node.name or node.op_type!r} keeps a tensor of its attribute "
                    f"{attribute.name!r} in external data, which is supported for initializers of the main graph "
                    "alone; save the model with onnx.save(model, path, convert_attribute=False)"
                )
            for branch in inner:
                check_nested(branch, where)


def check_graph(proto: ModelProto, where: str) -> None:
    """Run onnx's checker on the graph without its large weights (they were checked by `check_tensors`).

    Raises:
        ModelError: when the checker refuses it; says why.
    """
    try:
        onnx.checker.check_model(skeleton(proto))
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{where}: not a valid ONNX model: {reason}") from None


def skeleton(proto: ModelProto, for_checker: bool = True) -> ModelProto:
    """Return a copy of `proto` whose large initializers are graph inputs: small, and checkers treat both alike.

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


@cache
def _standard_domains() -> frozenset[str]:
    """Return the domains of which onnx knows all operators."""
    return frozenset(schema.domain for schema in onnx.defs.get_all_schemas_with_history())


def problems(proto: ModelProto) -> str | None:
    """Return what onnx's checker or its strict shape inference say against `proto`, or None."""
    small = skeleton(proto)
    try:
        onnx.checker.check_model(small)
        onnx.shape_inference.infer_shapes(small, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error).strip()
    return None
