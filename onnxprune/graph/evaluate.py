"""One node computed by onnx's reference, where its result is not larger than what is allowed.

The size of the result is inferred before anything is computed: an Expand or a Range makes gigabytes of a few bytes.
What the reference computes number by number, in Python, is left alone from some millions of numbers on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto

from onnxprune.graph.limits import Allowance, bytes_of
from onnxprune.graph.tensors import Array, numpy_type

_SMALL = 4096  # elements up to which inference sees the numbers of an input
_ONE_BY_ONE = 2**21  # numbers that an operator may read and make that the reference computes in Python
_AS_A_WHOLE = frozenset(  # operators that the reference computes with few calls of numpy
    (
        *(
            "Abs",
            "Add",
            "And",
            "ArgMax",
            "ArgMin",
            "BatchNormalization",
            "BitShift",
            "Cast",
            "CastLike",
            "Ceil",
            "Clip",
        ),
        *(
            "Concat",
            "Constant",
            "ConstantOfShape",
            "CumSum",
            "DequantizeLinear",
            "Div",
            "Einsum",
            "Equal",
            "Erf",
            "Exp",
        ),
        *("Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gemm", "Greater"),
        *(
            "GreaterOrEqual",
            "GroupNormalization",
            "Identity",
            "InstanceNormalization",
            "LayerNormalization",
            "LeakyRelu",
        ),
        *(
            "Less",
            "LessOrEqual",
            "Log",
            "LogSoftmax",
            "LpNormalization",
            "MatMul",
            "MatMulInteger",
            "Max",
            "Mean",
            "Min",
        ),
        *("Mod", "Mul", "Neg", "Not", "OneHot", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "RMSNormalization"),
        *("Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "Shape", "Sigmoid"),
        *("Sign", "Size", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose"),
        *("Trilu", "Unsqueeze", "Where", "Xor"),
    )
)
_NEVER_LARGER = frozenset(("Compress", "NonMaxSuppression", "TopK", "Unique"))  # than inputs, whatever the numbers are


def evaluate(
    node: NodeProto,
    values: Mapping[str, Array],
    imports: Sequence[OperatorSetIdProto],
    ir_version: int,
    *,
    allowance: Allowance,
    size: int | None = None,
) -> list[Array] | None:
    """Return the outputs of a node; None if the reference cannot compute it, or they are larger than allowed.

    Args:
        node: an operator of onnx's own, without bodies.
        values: all its inputs, by name.
        imports: the operator sets of the model.
        ir_version: of the model.
        allowance: of bytes; what is returned is taken from it.
        size: bytes of the outputs, where they are known.
    """
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - takes 0.2 s, few graphs need it

    size = output_bytes(node, values, imports, ir_version) if size is None else size
    if size is None or not allowance.take(size):
        return None
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


def output_bytes(
    node: NodeProto, values: Mapping[str, Array], imports: Sequence[OperatorSetIdProto], ir_version: int
) -> int | None:
    """Return how many bytes the outputs of a node take; None where nobody can say, or the reference takes too long."""
    if any(a.HasField("g") or a.graphs for a in node.attribute):
        return None
    shapes = _output_shapes(node, values, imports, ir_version)
    if shapes is None:
        return None
    read = sum(values[name].size for name in node.input if name)
    made = sum(bytes_of(shape, 1) for _, shape in shapes)
    if node.op_type not in _AS_A_WHOLE and read + made + _padded(node) > _ONE_BY_ONE:
        return None
    return sum(bytes_of(shape, itemsize) for itemsize, shape in shapes)


def _padded(node: NodeProto) -> int:
    """Return what windows add to what is read, at the most: sizes that attributes state."""
    stated = [abs(number) for attribute in node.attribute for number in (*attribute.ints, attribute.i)]
    return max(stated, default=0)


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
