"""Output shapes of the quantized ops of com.microsoft, for which onnx has no inference.

One function per op: from the node, the types of its inputs and the known values among them to the types of its outputs.
Inputs that are absent or unknown are None; a function may fail on them (TypeError), and then nothing is known.

Source: docs/ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxprune.graph.model import Node
from onnxprune.graph.shapes.inference import TensorType
from onnxprune.graph.tensors import Array, Shape

Types: TypeAlias = Sequence["TensorType | None"]
ShapeFunction: TypeAlias = Callable[[Node, Types, Mapping[str, Array]], "list[TensorType | None]"]


def _at(types: Types, slot: int) -> TensorType:
    typed = types[slot]
    if typed is None:
        raise TypeError(f"the type of input {slot} is unknown")
    return typed


def _like_first(node: Node, types: Types, values: Mapping[str, Array]) -> list[TensorType | None]:
    return [types[0]]


def _typed_by(slot: int) -> ShapeFunction:
    """Return the function of an op that keeps the shape and takes the type of another input."""
    return lambda node, types, values: [(_at(types, slot)[0], _at(types, 0)[1])]


def _broadcast(*slots: int) -> ShapeFunction:
    """Return the function of an elementwise op: its result has the type of the last of `slots`."""

    def shapes(node: Node, types: Types, values: Mapping[str, Array]) -> list[TensorType | None]:
        operands = [_at(types, slot) for slot in slots]
        return [(operands[-1][0], tuple(np.broadcast_shapes(*(shape for _, shape in operands))))]

    return shapes


def _concat(node: Node, types: Types, values: Mapping[str, Array]) -> list[TensorType | None]:
    parts = [_at(types, slot) for slot in range(2, len(types), 3)]
    kind, first = parts[0]
    dim = node.attrs["axis"] % len(first)
    total = sum(shape[dim] for _, shape in parts)
    return [(kind, (*first[:dim], total, *first[dim + 1 :]))]


def _pool(channels_last: Callable[[Node], bool]) -> ShapeFunction:
    def shapes(node: Node, types: Types, values: Mapping[str, Array]) -> list[TensorType | None]:
        kind, (batch, *others) = _at(types, 0)
        last = channels_last(node)
        channels, sides = (others[-1], others[:-1]) if last else (others[0], others[1:])
        pooled = _pooled(node.attrs, sides) if "kernel_shape" in node.attrs else (1,) * len(sides)
        return [(kind, (batch, *pooled, channels) if last else (batch, channels, *pooled))]

    return shapes


def _pooled(attrs: Mapping[str, Any], sides: Sequence[int]) -> Shape:
    """Return the sides after pooling, as AveragePool and MaxPool define them."""
    count = len(sides)
    kernel, strides = attrs["kernel_shape"], attrs.get("strides", [1] * count)
    dilations, pads = attrs.get("dilations", [1] * count), attrs.get("pads", [0] * 2 * count)
    auto = attrs.get("auto_pad", "NOTSET")
    sizes = []
    for i, side in enumerate(sides):
        reach = dilations[i] * (kernel[i] - 1) + 1
        if auto.startswith("SAME"):
            sizes.append(math.ceil(side / strides[i]))
            continue
        free = side - reach + (0 if auto == "VALID" else pads[i] + pads[count + i])
        steps = math.ceil(free / strides[i]) if attrs.get("ceil_mode", 0) else free // strides[i]
        sizes.append(steps + 1)
    return tuple(sizes)


def _product(right: int, result: int) -> ShapeFunction:
    """Return the function of a matrix product with the slot in `right`; the result has the type of slot `result`."""

    def shapes(node: Node, types: Types, values: Mapping[str, Array]) -> list[TensorType | None]:
        a, b = _at(types, 0)[1], _at(types, right)[1]
        batch = np.broadcast_shapes(a[:-2], b[:-2])
        kept = (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))
        return [(_at(types, result)[0], tuple(kept))]

    return shapes


def _gemm(node: Node, types: Types, values: Mapping[str, Array]) -> list[TensorType | None]:
    a, b = _at(types, 0)[1], _at(types, 3)[1]
    rows, columns = a[1 if node.attrs.get("transA", 0) else 0], b[0 if node.attrs.get("transB", 0) else 1]
    is_quantized = len(node.inputs) > 7 and bool(node.inputs[7])
    return [(_at(types, 0 if is_quantized else 1)[0], (rows, columns))]


def _attention(node: Node, types: Types, values: Mapping[str, Array]) -> list[TensorType | None]:
    (batch, length, _), (_, width) = _at(types, 0)[1], _at(types, 1)[1]
    return [(_at(types, 3)[0], (batch, length, width // 3)), None]


def _nbits(node: Node, types: Types, values: Mapping[str, Array]) -> list[TensorType | None]:
    kind, shape = _at(types, 0)
    return [(kind, (*shape[:-1], node.attrs["N"]))]


def _gather(node: Node, types: Types, values: Mapping[str, Array]) -> list[TensorType | None]:
    (kind, data), indices = _at(types, 0), _at(types, 1)[1]
    dim, quantized = (node.attrs.get(k, d) % len(data) for k, d in (("gather_axis", 0), ("quantize_axis", 1)))
    packed = 8 // node.attrs.get("bits", 4) if kind == _UINT8 else 1
    wide = [size * packed if i == quantized else size for i, size in enumerate(data)]
    return [(_at(types, 2)[0], (*wide[:dim], *indices, *wide[dim + 1 :]))]


_UINT8 = 2  # TensorProto.UINT8


def _lstm(node: Node, types: Types, values: Mapping[str, Array]) -> list[TensorType | None]:
    (kind, (steps, batch, _)), directions = _at(types, 0), _at(types, 1)[1][0]
    hidden = node.attrs["hidden_size"]
    state = kind, (directions, batch, hidden)
    return [(kind, (steps, directions, batch, hidden)), state, state]


SHAPES: dict[str, ShapeFunction] = {
    f"com.microsoft.{op}": function
    for op, function in {
        "QuantizeLinear": _typed_by(2),
        "DequantizeLinear": _typed_by(1),
        "QLinearSigmoid": _like_first,
        "QLinearLeakyRelu": _like_first,
        "QLinearSoftmax": _like_first,
        "QLinearAdd": _broadcast(3, 0),
        "QLinearMul": _broadcast(3, 0),
        "QLinearWhere": _broadcast(0, 4, 1),
        "QLinearConcat": _concat,
        "QLinearAveragePool": _pool(lambda node: bool(node.attrs.get("channels_last", 0))),
        "QLinearGlobalAveragePool": _pool(lambda node: bool(node.attrs.get("channels_last", 0))),
        "QGemm": _gemm,
        "QAttention": _attention,
        "MatMulIntegerToFloat": _product(1, 2),
        "DynamicQuantizeMatMul": _product(1, 0),
        "MatMulNBits": _nbits,
        "GatherBlockQuantized": _gather,
        "DynamicQuantizeLSTM": _lstm,
    }.items()
}
