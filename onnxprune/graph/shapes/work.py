"""How long onnx's reference takes to compute a node, known from shapes before anything is computed.

A few bytes of a file can ask for hours: a product of two matrices that are expanded from one number, a window as large
as an image. Time is counted in steps of about a nanosecond, and compared with a limit, as bytes are in
`graph.files.limits`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import NodeProto

from onnxprune.graph.tensors import Array

MOST_STEPS = 10**10  # for what a file states: some ten seconds
_STEPS_PER_BYTE = 64  # that the file itself holds: these come on top
_ONE_BY_ONE = 2**21  # numbers that an operator may read and make that the reference computes in Python
_IN_PYTHON = 500  # steps for each of them
_WITHOUT_BLAS = 50  # steps of a product of whole numbers; one of floating point numbers takes one, or less
_IN_ORDER = 10  # steps of a product in an Einsum

# Operators that the reference computes with few calls of numpy, a step or so for each number:
_BY_PLACE = (  # of one number, or of numbers in the same place
    "Abs Add And BitShift Cast CastLike Ceil Clip DequantizeLinear Div Equal Exp Floor Greater GreaterOrEqual Identity "
    "LeakyRelu Less LessOrEqual Log Max Mean Min Mod Mul Neg Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round "
    "Sigmoid Sign Sqrt Sub Sum Tanh Where Xor"
)
_ALONG = (  # over an axis, which numpy does by itself
    "ArgMax ArgMin CumSum LogSoftmax LpNormalization ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax "
    "ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Softmax "
    "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization RMSNormalization"
)
_MOVING = (  # that make or move numbers, and compute none
    "Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements OneHot Pad Range Reshape Shape Size "
    "Slice Split Squeeze Tile Transpose Trilu Unsqueeze"
)
_PRODUCTS = "Einsum Gemm MatMul MatMulInteger"  # whose multiplications are counted as well
_AS_A_WHOLE = frozenset(f"{_BY_PLACE} {_ALONG} {_MOVING} {_PRODUCTS}".split())
_OFTEN: Mapping[str, int] = {  # how often Python touches a number, where that is much more than once
    **dict.fromkeys(("GridSample", "RoiAlign"), 64),
    **dict.fromkeys(("AveragePool", "GRU", "LSTM", "LpPool", "MaxPool", "MaxRoiPool", "RNN"), 16),
    **dict.fromkeys(("Resize", "Upsample"), 8),
}
_WINDOWED = frozenset(("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "QLinearConv"))
_ENDLESS = frozenset(("ImageDecoder", "RegexFullMatch"))  # few bytes of text or of an image may take any time


def most_steps(held: int = 0) -> int:
    """Return how many steps all nodes of a model together may take; `held` are the bytes that the file itself holds."""
    return MOST_STEPS + _STEPS_PER_BYTE * held


def steps(node: NodeProto, values: Mapping[str, Array], made: int = 0) -> int | None:
    """Return how many steps a node takes; None for one that takes too long in any case, or nobody can say how long.

    Args:
        node: an operator of onnx's own, without bodies.
        values: its inputs, by name.
        made: elements of its outputs, where they are known.
    """
    if node.op_type in _ENDLESS:
        return None
    inputs = [values[name] for name in node.input if name]
    numbers = sum(array.size for array in inputs) + made
    if node.op_type in _AS_A_WHOLE:
        return numbers + _multiplications(node, inputs)
    numbers = (numbers + _padded(node)) * _window(node, inputs) * _OFTEN.get(node.op_type, 1)
    numbers += inputs[0].size ** 2 if node.op_type == "NonMaxSuppression" and inputs else 0
    return None if numbers > _ONE_BY_ONE else _IN_PYTHON * numbers


def _padded(node: NodeProto) -> int:
    """Return what windows add to what is read, at the most: sizes that attributes state."""
    stated = [abs(number) for attribute in node.attribute for number in (*attribute.ints, attribute.i)]
    return max(stated, default=0)


def _window(node: NodeProto, inputs: list[Array]) -> int:
    """Return how many numbers a window covers: as the attribute or, without it, the weight says."""
    stated = next((tuple(a.ints) for a in node.attribute if a.name == "kernel_shape"), ())
    if not stated and node.op_type in _WINDOWED:
        stated = max((array.shape[2:] for array in inputs[1:]), key=math.prod, default=())
    return max(1, abs(math.prod(stated)))


def _multiplications(node: NodeProto, inputs: list[Array]) -> int:
    """Return the steps that the products of a node take; 0 for any other operator."""
    if node.op_type == "Einsum":
        return _IN_ORDER * _of_einsum(node, inputs)
    if node.op_type not in _PRODUCTS.split() or len(inputs) < 2:
        return 0
    factor = 1 if inputs[0].dtype.kind not in "biu" else _WITHOUT_BLAS
    left, right = (array.shape for array in inputs[:2])
    transposed = {a.name: a.i for a in node.attribute} if node.op_type == "Gemm" else {}
    rows = left[-1 if transposed.get("transA") else -2] if len(left) > 1 else 1
    columns = right[-2 if transposed.get("transB") else -1] if len(right) > 1 else 1
    deep = left[-2 if transposed.get("transA") and len(left) > 1 else -1] if left else 1
    stacked = max(math.prod(left[:-2]), 1) * max(math.prod(right[:-2]), 1)  # more than enough where both have some
    shared = math.prod(min(pair) for pair in zip(left[-3::-1], right[-3::-1], strict=False))
    return int(factor * rows * columns * deep * (stacked // max(1, shared)))


def _of_einsum(node: NodeProto, inputs: list[Array]) -> int:
    """Return how many terms an Einsum adds: one for each setting of all its letters."""
    equation = next((a.s.decode(errors="replace") for a in node.attribute if a.name == "equation"), "")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, array in zip(terms, inputs, strict=False):
        before, dots, after = term.partition("...")
        missing = array.ndim - len(before) - len(after) if dots else 0
        letters = [*before, *(f".{place}" for place in range(missing, 0, -1)), *after]
        for letter, size in zip(letters, array.shape, strict=False):
            sizes[letter] = max(size, sizes.get(letter, 0))
    return math.prod(sizes.values())
