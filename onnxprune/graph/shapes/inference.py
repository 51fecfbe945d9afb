"""Shapes, types and numbers of values, by onnx's own inference and its reference, of one node or the whole graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx

from onnxprune.errors import ModelError
from onnxprune.graph.bodies import graphs
from onnxprune.graph.edit import make_node
from onnxprune.graph.files.checks import inferred, skeleton
from onnxprune.graph.files.limits import Allowance, most_bytes
from onnxprune.graph.model import Model, Node
from onnxprune.graph.shapes.evaluate import evaluate
from onnxprune.graph.shapes.work import most_steps
from onnxprune.graph.tensors import Array, Shape, raw_length

TensorType: TypeAlias = "tuple[int, Shape]"  # element type of ONNX, shape
PartialType: TypeAlias = "tuple[int, tuple[int | None, ...] | None]"  # the same, where dims or the rank may be unknown


def element_type(dtype: np.dtype[Any]) -> int:
    """Return the ONNX element type of a numpy type."""
    return onnx.helper.np_dtype_to_tensor_dtype(dtype)


# Ops that onnx's reference knows in later versions alone, which take all that earlier ones do and mean the same.
_LATER_ALONE = ("QuantizeLinear", "DequantizeLinear")
_FOREIGN = {f"com.microsoft.{op}": op for op in _LATER_ALONE}  # the same, under another domain
_EXTENDED = 21  # opset of the last extension


class Inference:
    """Shape inference and evaluation of single nodes of one model.

    Made once per model: it keeps the protobufs of the operator sets at hand.
    """

    def __init__(self, model: Model) -> None:
        self._path = model.path
        self._protos = model.protos
        self._opsets = model.opsets
        self._imports = [onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        self._ir = model.proto.ir_version
        self._held = sum(raw_length(constant.tensor) for constant in model.constants.values())
        self._work = Allowance(most_steps(self._held))  # of all nodes together

    def outputs(
        self, node: Node, types: Mapping[str, TensorType], values: Mapping[str, Array]
    ) -> dict[str, PartialType] | None:
        """Return element type and shape of each output; None for an op that onnx does not know.

        A dim that depends on data is None. An empty dict: the shapes of the inputs do not fit the node.
        """
        proto = self._protos[node.index]
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        try:
            schema = onnx.defs.get_schema(proto.op_type, self._opsets.get(domain, 1), domain)
        except onnx.defs.SchemaError:
            return None
        known = {name: onnx.helper.make_tensor_type_proto(*typed) for name, typed in types.items()}
        data = {name: onnx.numpy_helper.from_array(value, name) for name, value in values.items()}
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                schema, proto, known, data, opset_imports=self._imports, ir_version=self._ir
            )
        except onnx.shape_inference.InferenceError:
            return {}
        except onnx.checker.ValidationError as error:
            where = f"{self._path}: " if self._path else ""
            raise ModelError(f"{where}not a valid ONNX model: {node}: {' '.join(str(error).split())}") from None
        except (KeyError, RuntimeError, TypeError, ValueError):  # an input of unknown type, a damaged node
            return None
        return {name: _type_of(proto) for name, proto in inferred.items()}

    def stand_in(
        self, node: Node, op: str, types: Sequence[TensorType | None], values: Mapping[str, Array]
    ) -> list[TensorType]:
        """Return the outputs that a standard operator has with the attributes of `node`; none if they do not fit.

        Args:
            node: a node of the model, of an operator that onnx does not know.
            op: the standard operator; attributes that it does not know are dropped.
            types: of its inputs, None for absent ones.
            values: known inputs of the node, by name.
        """
        schema = onnx.defs.get_schema(op, self._opsets.get("", onnx.defs.onnx_opset_version()), "")
        names = ["" if typed is None else name for name, typed in zip(node.inputs, types, strict=False)]
        proto = make_node(op, names, node.outputs[0])
        proto.attribute.extend(a for a in self._protos[node.index].attribute if a.name in schema.attributes)
        known = [(name, typed) for name, typed in zip(names, types, strict=True) if typed is not None]
        data = {name: onnx.numpy_helper.from_array(values[name], name) for name, _ in known if name in values}
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                schema, proto, {name: onnx.helper.make_tensor_type_proto(*typed) for name, typed in known}, data,
                opset_imports=self._imports, ir_version=self._ir
            )  # fmt: skip
        except Exception:  # InferenceError, ValidationError, and for unknown types others without a common base
            return []
        partial = [_type_of(proto) for proto in inferred.values()]
        return [(kind, shape) for kind, dims in partial if (shape := whole(dims)) is not None]

    def evaluate(
        self,
        node: Node,
        values: Mapping[str, Array],
        allowance: Allowance | None = None,
        size: int | None = None,
        work: Allowance | None = None,
    ) -> list[Array] | None:
        """Return the outputs of a node whose inputs are all known; None if they cannot be computed, or are too large.

        Args:
            node: a node of the model.
            values: its inputs, by name.
            allowance: of bytes; by default what `limits` allows for one value.
            size: bytes of the outputs, where they are known.
            work: of steps; by default what `graph.shapes.work` allows for all nodes of the model together.
        """
        proto = self._protos[node.index]
        if node.op in _FOREIGN:
            proto = onnx.NodeProto.FromString(proto.SerializeToString())
            proto.domain = ""
        later = node.op in _FOREIGN or (node.op in _LATER_ALONE and node.version < _EXTENDED)
        imports = [onnx.helper.make_opsetid("", _EXTENDED)] if later else self._imports
        allowance = allowance or Allowance(most_bytes(self._held))
        return evaluate(proto, values, imports, self._ir, allowance=allowance, work=work or self._work, size=size)


def inferred_shapes(model: Model, dims: Mapping[str, Shape]) -> dict[str, TensorType]:
    """Return type and shape of values by inference over the whole graph, which sees into local functions.

    Args:
        model: the model.
        dims: the shape of each input.
    """
    proto = skeleton(model.proto)
    for info in proto.graph.input:
        for dim, size in zip(info.type.tensor_type.shape.dim, dims.get(info.name, ()), strict=False):
            dim.dim_value = size
    del proto.graph.value_info[:]
    try:
        whole_graph = inferred(proto)
    except Exception:  # InferenceError, and for unknown types others without a common base
        return {}
    stated = (info for graph in graphs(whole_graph.graph) for info in graph.value_info)
    types = {info.name: _type_of(info.type) for info in stated}
    return {name: (kind, shape) for name, (kind, dims) in types.items() if (shape := whole(dims)) is not None}


def _type_of(proto: onnx.TypeProto) -> PartialType:
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    return tensor.elem_type, tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def whole(shape: Sequence[int | None] | None) -> Shape | None:
    """Return a shape all of whose dims are known, None for any other."""
    return None if shape is None or None in shape else tuple(size for size in shape if size is not None)
