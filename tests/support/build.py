"""How the models of these tests are written: nodes in ONNX's own text form, weights by name.

>>> proto = model("a = Conv(x, w1)", "b = Relu(a)", "y = Conv(b, w2)", w1=(8, 3, 1, 1), w2=(5, 8, 1, 1))
>>> [node.op_type for node in proto.graph.node]
['Conv', 'Relu', 'Conv']
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import onnx
from onnx import numpy_helper, parser

IMAGE = "float[n,3,6,6] x"
ROWS = "float[n,6] x"
TOKENS = "float[n,s,16] x"
FIXED = "float[2,3,6,6] x"
Y = "float[] y"


def model(
    *nodes,
    x=IMAGE,
    y=Y,
    stated="",
    opset=18,
    imports="",
    functions="",
    infer=True,
    dtype="float32",
    listed=(),
    ir=None,
    **weights,
):
    """Return a ModelProto of `nodes`, whose shapes are stated as exporters do.

    Args:
        *nodes: one node each, in the text form of `onnx.parser`.
        x: the inputs, with types. y: the outputs, without shapes: they are inferred.
        stated: shapes of values that are stated whether or not they can be inferred.
        opset: of the default domain.
        imports: further opsets, such as ``"my": 1``.
        functions: model-local functions, in text form.
        infer: whether the shapes of all values are inferred and stated.
        dtype: of the weights that are given by their shape.
        listed: weights that are also listed as graph inputs.
        ir: version of the format; one that fits the opset by default. Before 4 all weights are listed.
        **weights: a tuple is a shape, filled with random numbers; anything else is the value (integers are int64).
    """
    opsets = f'"" : {opset}' + (f", {imports}" if imports else "")
    body = "\n".join(nodes)
    text = f"<ir_version: 8, opset_import: [{opsets}]> tiny ({x}) => ({y}) <{stated}> {{\n{body}\n}}\n{functions}"
    proto = parser.parse_model(text)
    proto.ir_version = ir or (10 if opset >= 21 else 8)
    for name, value in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array(name, value, dtype), name))
    for name in weights if proto.ir_version < 4 else listed:
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return onnx.shape_inference.infer_shapes(proto, data_prop=True) if infer else proto


def array(name, value, dtype="float32"):
    """Return the contents of a weight: random numbers for a shape, which differ from name to name."""
    if isinstance(value, tuple):
        return np.random.default_rng(crc32(name.encode())).standard_normal(value).astype(dtype)
    if isinstance(value, float):
        return np.array(value, dtype)
    return np.asarray(value)


def conv(*nodes, mid=8, out=None, a=None, **rest):
    """Conv -> `nodes`, from value a to value b -> Conv, on images; `out` channels come out of `nodes`."""
    weights = {"w1": (mid, 3, 1, 1), "b1": (mid,), "w2": (5, out or mid, 1, 1), **rest}
    return model("a = Conv(x, w1, b1)", *nodes, "y = Conv(b, w2)", **weights)


def dense(*nodes, mid=8, out=None, **rest):
    """MatMul, Add -> `nodes`, from value a to value b -> MatMul, on rows ``[n, 6]``."""
    weights = {"x": ROWS, "w1": (6, mid), "b1": (mid,), "w2": (out or mid, 5), **rest}
    return model("a0 = MatMul(x, w1)", "a = Add(a0, b1)", *nodes, "y = MatMul(b, w2)", **weights)
