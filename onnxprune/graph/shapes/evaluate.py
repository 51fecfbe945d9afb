"""One node computed by onnx's reference, where its result is not larger than what is allowed.

The size of the result is inferred before anything is computed: an Expand or a Range makes gigabytes of a few bytes.
So is the time that it takes, see `graph.shapes.work`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto

from onnxprune.graph.files.limits import Allowance, bytes_of
from onnxprune.graph.shapes.work import most_steps, steps
from onnxprune.graph.tensors import Array, numpy_type

_SMALL = 4096  # elements up to which inference sees the numbers of an input
_HALF = frozenset(("bfloat16", "float16"))  # types that numpy multiplies one by one, and ONNX Runtime as float32
_PRODUCTS = frozenset(("Einsum", "Gemm", "MatMul"))
_NEVER_LARGER = frozenset(("Compress", "NonMaxSuppression", "TopK", "Unique"))  # than inputs, whatever the numbers are


def evaluate(
    node: NodeProto,
    values: Mapping[str, Array],
    imports: Sequence[OperatorSetIdProto],
    ir_version: int,
    *,
    allowance: Allowance,
    work: Allowance | None = None,
    size: int | None = None,
) -> list[Array] | None:
    """Return the outputs of a node; None if the reference cannot compute it, or they take more than is allowed.

    Args:
        node: an operator of onnx's own, without bodies.
        values: all its inputs, by name.
        imports: the operator sets of the model.
        ir_version: of the model.
        allowance: of bytes; what is returned is taken from it.
        work: of steps, see `graph.shapes.work`; by default what one node may take.
        size: bytes of the outputs, where they are known.
    """
    work = work or Allowance(most_steps())
    shapes = [] if size is not None else _output_shapes(node, values, imports, ir_version)
    if shapes is None or any(a.HasField("g") or a.graphs for a in node.attribute):
        return None
    needed = steps(node, values, sum(bytes_of(shape, 1) for _, shape in shapes))
    size = sum(bytes_of(shape, itemsize) for itemsize, shape in shapes) if size is None else size
    if needed is None or needed > work.left or not (allowance.take(size) and work.take(needed)):
        return None
    if node.op_type in _PRODUCTS and any(array.dtype.name in _HALF for array in values.values()):
        return _rounded(_results(node, _widened(values), imports, ir_version), next(iter(values.values())).dtype)
    return _results(node, values, imports, ir_version)


def _widened(values: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.astype(np.float32) for name, array in values.items()}


def _rounded(arrays: list[Array] | None, dtype: np.dtype[Any]) -> list[Array] | None:
    if arrays is None:
        return None
    with np.errstate(over="ignore"):
        return [array.astype(dtype) for array in arrays]


def _results(
    node: NodeProto, values: Mapping[str, Array], imports: Sequence[OperatorSetIdProto], ir_version: int
) -> list[Array] | None:
    """Return what the reference makes of a node, None where it cannot compute it."""
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - takes 0.2 s, few graphs need it

    names = list(dict.fromkeys(name for name in node.input if name))
    outputs = [name for name in node.output if name]
    graph = onnx.GraphProto(name="node", node=[node])
    graph.input.extend(ValueInfoProto(name=name) for name in names)
    graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    model = ModelProto(ir_version=ir_version, graph=graph, opset_import=imports)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(None, {name: values[name] for name in names})
    except Exception:  # whatever an implementation in Python raises
        return None
    arrays = [np.asarray(result) for result in results if isinstance(result, (np.ndarray, np.generic))]
    return arrays if len(arrays) == len(outputs) else None


def _output_shapes(
    node: NodeProto, values: Mapping[str, Array], imports: Sequence[OperatorSetIdProto], ir_version: int
) -> list[tuple[int, tuple[int, ...]]] | None:
    """Return the size of an element and the shape of each output, as onnx infers them."""
    versions = {("" if entry.domain == "ai.onnx" else entry.domain): entry.version for entry in imports}
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, versions.get(domain, 1), domain)
        known = {name: values[name] for name in node.input if name}
        types = {name: _type_of(array) for name, array in known.items()}
        data = {n: onnx.numpy_helper.from_array(a, n) for n, a in known.items() if a.size <= _SMALL}
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=list(imports), ir_version=ir_version
        )
    except Exception:  # SchemaError, InferenceError, and for unknown types others without a common base
        return None
    if node.op_type in _NEVER_LARGER:
        size = sum(array.size for array in known.values())
        return [(8, (size,)) for _ in inferred]
    shapes = [_shape_of(each) for each in inferred.values()]
    return None if not shapes or None in shapes else [shape for shape in shapes if shape is not None]


def _type_of(array: Array) -> Any:
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _shape_of(proto: onnx.TypeProto) -> tuple[int, tuple[int, ...]] | None:
    tensor = proto.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    itemsize = 8 if tensor.elem_type in (0, TensorProto.STRING) else numpy_type(tensor.elem_type).itemsize
    return itemsize, tuple(dim.dim_value for dim in tensor.shape.dim)
