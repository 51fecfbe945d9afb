"""Types and shapes of operators for which onnx has no inference: those of ONNX Runtime's optimiser, mostly.

One row per operator. Most say which input an output is like, or which standard operator gives the same shape
(FusedConv: Conv of the first three inputs); the others are formulas from the operator's page
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). An operator that is not here, or whose
inputs are unknown, has the shapes that the file states.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.graph.model import Node
from onnxprune.graph.shapes import attention, quantized
from onnxprune.graph.shapes.call import Call, Outputs, Rule
from onnxprune.graph.shapes.inference import Inference, TensorType
from onnxprune.graph.shapes.quantized import ShapeFunction
from onnxprune.graph.tensors import FLOAT, INT32, Array, Shape


def outputs_of(
    node: Node, types: Mapping[str, TensorType], values: Mapping[str, Array], inference: Inference
) -> Outputs:
    """Return element type and shape of each output, None where unknown; nothing for an operator not in the table.

    Args:
        node: the node.
        types: of its inputs, by name.
        values: of its inputs, where they are known.
        inference: onnx's own, for the operators that one stands for.
    """
    rule = SHAPES.get(node.op)
    if rule is None:
        return ()
    try:
        return rule(Call(node, types, values, inference))
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):  # inputs that are unknown, or do not fit
        return ()


# -- ways to say it --------------------------------------------------------------------------------------------


def like(*slots: int | None) -> Rule:
    """Each output is like the input in this slot."""
    return lambda call: [None if slot is None else call.type(slot) for slot in slots]


def stands_for(op: str, count: int, last: bool = False) -> Rule:
    """The outputs are those of a standard operator of the first `count` inputs; `last`: channels are the last dim."""

    def rule(call: Call) -> Outputs:
        known = [call.type(slot) if call.has(slot) else None for slot in range(min(count, len(call.node.inputs)))]
        if last and known[0] is not None:
            kind, (n, *positions, c) = known[0]
            known[0] = kind, (n, c, *positions)
        outputs = call.inference.stand_in(call.node, op, known, call.values)
        return [(kind, _channels_last(shape) if last else shape) for kind, shape in outputs]

    return rule


def _channels_last(shape: Shape) -> Shape:
    n, c, *positions = shape
    return n, *positions, c


def broadcast(call: Call) -> Outputs:
    """All inputs together, by numpy's broadcasting."""
    shapes = [call.shape(slot) for slot in range(len(call.node.inputs)) if call.has(slot)]
    return [call.typed(_broadcast(*shapes))]


def _broadcast(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes))
    columns = zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True)
    return tuple(next((size for size in column if size != 1), 1) for column in columns)


def half(call: Call) -> Outputs:
    """The last dim is two halves, of which one is left; a second input that is no vector is the other half."""
    *front, last = call.shape(0)
    return [call.typed((*front, last // 2))]


# -- products ----------------------------------------------------------------------------------------------------


def matrix_product(call: Call) -> Outputs:
    """A numpy matmul of operands that are transposed as the attributes say."""
    left = _transposed(call.shape(0), call.number("transA"), call.number("transBatchA"))
    right = _transposed(call.shape(1), call.number("transB"), call.number("transBatchB"))
    batch = _broadcast(left[:-2], right[:-2])
    return [call.typed((*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ())))]


def _transposed(shape: Shape, swap: int, batch: int) -> Shape:
    if len(shape) < 2:
        return shape
    if batch:
        shape = (*shape[1:-1], shape[0], shape[-1])
    return (*shape[:-2], shape[-1], shape[-2]) if swap else shape


def mixed_distances(call: Call) -> Outputs:
    """Rows of the one by rows of the other."""
    return [call.typed((call.shape(0)[0], call.shape(1)[0]))]


# -- norms -------------------------------------------------------------------------------------------------------


def moments(call: Call) -> Outputs:
    """The output is like the input, mean and deviation have size 1 from `axis` on."""
    shape = call.shape(0)
    first = call.number("axis", -1) % len(shape)
    small = FLOAT, shape[:first] + (1,) * (len(shape) - first)
    return [call.type(0), small, small]


def skip_moments(call: Call) -> Outputs:
    """As `moments`; the sum of input and skip comes last."""
    small = FLOAT, (*call.shape(0)[:-1], 1)
    return [call.type(0), small, small, call.type(0)]


def embedding(call: Call) -> Outputs:
    """Ids ``[b, s]`` become rows of the embedding ``[v, c]``."""
    kind, (_, width) = call.type(2)
    rows = kind, (*call.shape(0), width)
    return [rows, (INT32, call.shape(0)[:1]), rows]


# -- layouts of blocked channels -------------------------------------------------------------------------------------


def blocked_conv(call: Call) -> Outputs:
    """As Conv; the input has as many channels as the weights ask for, because blocks are padded."""
    kind, (n, _, *positions) = call.type(0)
    wanted = call.shape(1)[1] * call.number("group", 1)
    return call.inference.stand_in(call.node, "Conv", [(kind, (n, wanted, *positions)), call.type(1)], call.values)


def reordered(call: Call) -> Outputs:
    """Channels that come last are moved; how many a block pads is known to the machine alone."""
    shape = call.shape(0)
    return [call.typed((shape[0], shape[-1], *shape[1:-1]) if call.number("channels_last") else shape)]


def unblocked(call: Call) -> Outputs:
    """The padding of the last block goes; channels may be moved to the last place."""
    n, _, *positions = call.shape(0)
    shape = n, call.number("channels"), *positions
    return [call.typed(_channels_last(shape) if call.number("channels_last") else shape)]


def enlarged(call: Call) -> Outputs:
    """Each dim times its scale."""
    return [
        call.typed(tuple(size * scale for size, scale in zip(call.shape(0), call.node.attrs["scales"], strict=True)))
    ]


# -- others ------------------------------------------------------------------------------------------------------


def expanded(call: Call) -> Outputs:
    """A dim of size 1 comes in at a known place."""
    shape, at = call.shape(0), call.scalar(1)
    at += (len(shape) + 1) * (at < 0)
    return [call.typed((*shape[:at], 1, *shape[at:]))]


def padded(call: Call) -> Outputs:
    """Every dim grows by what is padded at its two ends."""
    pads = call.values[call.node.inputs[1]].ravel().tolist()
    shape = call.shape(0)
    pairs = zip(pads[: len(shape)], pads[len(shape) :], strict=True)
    return [call.typed(tuple(size + sum(pair) for size, pair in zip(shape, pairs, strict=True)))]


# -- signals -----------------------------------------------------------------------------------------------------


def frequencies(call: Call) -> Outputs:
    """The last dim of a real signal holds half of the frequencies, or all, and pairs come behind it."""
    *front, last = call.shape(0)
    return [call.typed((*front, last // 2 + 1 if call.number("onesided", 1) else last, 2))]


def signals(call: Call) -> Outputs:
    """The inverse of `frequencies`, of an even count."""
    *front, last, _ = call.shape(0)
    return [call.typed((*front, (last - 1) * 2 if call.number("onesided", 1) else last))]


def unfolded(call: Call) -> Outputs:
    """Windows of a size, one in so many positions along a dim; their positions come last."""
    shape, size = list(call.shape(0)), call.number("size")
    dim = call.number("dim", -1) % len(shape)
    shape[dim] = (shape[dim] - size) // call.number("step", 1) + 1
    return [call.typed((*shape, size))]


def crops(call: Call) -> Outputs:
    """Regions of an image, all of one known size."""
    height, width = call.values[call.node.inputs[3]].ravel().tolist()
    return [call.typed((call.shape(1)[0], call.shape(0)[1], height, width))]


def transposed_conv(call: Call) -> Outputs:
    """As ConvTranspose, with pads that are known."""
    pads = call.values[call.node.inputs[2]].ravel().tolist() if call.has(2) else [0] * 4
    *_, height, width = call.shape(0)
    attrs = call.node.attrs
    strides, dilations = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
    more, kernel = attrs.get("output_padding", [0, 0]), call.shape(1)[2:]
    sides = [
        (size - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + more[i] - pads[i] - pads[i + 2]
        for i, size in enumerate((height, width))
    ]
    return [call.typed((call.shape(0)[0], call.shape(1)[1] * call.number("group", 1), *sides))]


MICROSOFT: Mapping[str, Rule] = {
    **attention.SHAPES,
    # elementwise
    "BiasAdd": broadcast,
    "BiasDropout": lambda call: [call.type(0)] * 2,
    "BiasGelu": like(0),
    "BiasSoftmax": like(0),
    "BiasSplitGelu": half,
    "FastGelu": like(0),
    "GatedAdd": like(0),
    "Gelu": like(0),
    "QuickGelu": like(0),
    "ScaledSiLU": like(0),
    "SwiGLU": lambda call: like(0)(call) if call.has(1) else half(call),
    "Trilu": like(0),
    # convolutions and products
    "CDist": mixed_distances,
    "ConvTransposeWithDynamicPads": transposed_conv,
    "FusedConv": stands_for("Conv", 3),
    "FusedGemm": stands_for("Gemm", 3),
    "FusedMatMul": matrix_product,
    "FusedMatMulActivation": matrix_product,
    "GemmFastGelu": matrix_product,
    "MoE": like(0),
    "QMoE": like(0),
    "NhwcConv": stands_for("Conv", 3, last=True),
    "NhwcFusedConv": stands_for("Conv", 3, last=True),
    "NhwcMaxPool": stands_for("MaxPool", 1, last=True),
    "TransposeMatMul": matrix_product,
    # norms
    "EmbedLayerNormalization": embedding,
    "GatedRMSNorm": like(0),
    "GroupNorm": like(0),
    "SkipGroupNorm": like(0, 0),
    "SkipLayerNormalization": skip_moments,
    "SkipSimplifiedLayerNormalization": skip_moments,
    "RotaryEmbedding": like(0),
    # signals
    "ComplexMul": broadcast,
    "ComplexMulConj": broadcast,
    "Irfft": signals,
    "Rfft": frequencies,
    "UnfoldTensor": unfolded,
    # others
    "CropAndResize": crops,
    "ExpandDims": expanded,
    "GridSample": stands_for("GridSample", 2),
    "Inverse": like(0),
    "Pad": padded,
}


def scaled(call: Call) -> Outputs:
    """Floats in the shape of the input."""
    return [(FLOAT, call.shape(0))]


def normalised(call: Call) -> Outputs:
    """The output is like the input; what old versions give beside it is like the scale."""
    return [call.type(0), *[call.type(1)] * (len(call.node.outputs) - 1)]


def cropped(call: Call) -> Outputs:
    """Images without a border of left, top, right and bottom, or of a size behind its left and top."""
    *front, height, width = call.shape(0)
    left, top, right, bottom = call.node.attrs["border"]
    size = call.node.attrs.get("scale", (height - top - bottom, width - left - right))
    return [call.typed((*front, *size))]


STANDARD: Mapping[str, Rule] = {
    "Affine": like(0),
    "BatchNormalization": normalised,
    "Crop": cropped,
    "Dropout": like(0, 0),
    "GroupNormalization": like(0),
    "ImageScaler": like(0),
    "LayerNormalization": moments,
    "MeanVarianceNormalization": like(0),
    "ParametricSoftplus": like(0),
    "Scale": like(0),
    "ScaledTanh": like(0),
    "ai.onnx.ml.Normalizer": scaled,
    "ai.onnx.ml.Scaler": scaled,
    "SimplifiedLayerNormalization": moments,
    "SwiGLU": like(0),
}
BLOCKED: Mapping[str, Rule] = {
    "AveragePool": stands_for("AveragePool", 1),
    "Conv": blocked_conv,
    "GlobalAveragePool": stands_for("GlobalAveragePool", 1),
    "GlobalMaxPool": stands_for("GlobalMaxPool", 1),
    "MaxPool": stands_for("MaxPool", 1),
    "ReorderInput": reordered,
    "ReorderOutput": unblocked,
    "Upsample": enlarged,
}


def _quantized(function: ShapeFunction) -> Rule:
    return lambda call: function(call.node, [call.types.get(name) for name in call.node.inputs], call.values)


SHAPES: Mapping[str, Rule] = {
    **{name: _quantized(function) for name, function in quantized.SHAPES.items()},
    **{
        prefix + name: rule
        for prefix, table in (("", STANDARD), ("com.microsoft.", MICROSOFT), ("com.microsoft.nchwc.", BLOCKED))
        for name, rule in table.items()
    },
}
