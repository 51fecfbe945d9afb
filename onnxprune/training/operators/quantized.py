"""Integers with a scale and a zero point. Rounding passes gradients on as they are, inside the range of the integers.

What is quantized flows as numbers of single precision that are whole: integers of PyTorch carry no gradient. Products
are added up in double precision, in which those of bytes are exact.

Bengio et al. 2013, Estimating or Propagating Gradients Through Stochastic Neurons: the straight-through estimator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.graph.tensors import numpy_type
from onnxprune.training.operators.attention import apart, attend, together
from onnxprune.training.operators.convolution import conv
from onnxprune.training.operators.fused import MS, mixture_of_experts
from onnxprune.training.operators.pooling import average_pool
from onnxprune.training.operators.registry import dim_of, line, op
from onnxprune.training.operators.table import rounded
from onnxprune.training.operators.types import FLOAT8

Tensor = torch.Tensor
Kinds = Sequence[int]  # element types of the inputs of a node, 0 where unknown

# fmt: off
line(MS + "QLinearSigmoid",   lambda a, s, z, t, y=None, *, kinds: stored(torch.sigmoid(real(a, s, z)), t, y, kinds[0]))
line(MS + "QLinearLeakyRelu", lambda a, s, z, t, y=None, *, alpha=0.01, kinds: stored(F.leaky_relu(real(a, s, z), alpha), t, y, kinds[0]))
line(MS + "QLinearAdd",       lambda a, s, z, b, r, w, t, y=None, *, kinds: stored(real(a, s, z) + real(b, r, w), t, y, kinds[0]))
line(MS + "QLinearMul",       lambda a, s, z, b, r, w, t, y=None, *, kinds: stored(real(a, s, z) * real(b, r, w), t, y, kinds[0]))
line(MS + "QLinearWhere",     lambda c, a, s, z, b, r, w, t, y=None, *, kinds: stored(torch.where(c.bool(), real(a, s, z), real(b, r, w)), t, y, kinds[1]))
line(MS + "QLinearSoftmax",   lambda a, s, z, t, y, *, axis=-1, opset, kinds: stored(_softmax(real(a, s, z), axis, opset), t, y, kinds[0]))
line(MS + "QLinearGlobalAveragePool", lambda a, s, z, t, y, *, channels_last=0, kinds: stored(real(a, s, z).mean(_inner(a, channels_last), keepdim=True), t, y, kinds[0]))
line("MatMulInteger",         lambda a, b, z=None, w=None: _centred(a, z, rows=True) @ _centred(b, w))
line("ConvInteger",           lambda a, w, z=None, y=None, **attributes: conv(_centred(a, z), _centred(w, None if y is None else _first(y, w)), **attributes))
# fmt: on


# -- rounding ------------------------------------------------------------------------------------------


def real(a: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """Return the real numbers behind integers of one scale."""
    numbers = a.to(scale.dtype)
    return (numbers if zero is None else numbers - zero.to(scale.dtype)) * scale


def stored(a: Tensor, scale: Tensor, zero: Tensor | None, kind: int) -> Tensor:
    """Return real numbers as integers of an element type, in single precision."""
    whole = rounded(a / scale)
    whole = whole if zero is None else whole + zero.to(whole.dtype)
    return whole.clamp(*_range(kind)).to(torch.float32)


def _range(kind: int) -> tuple[float, float]:
    dtype = numpy_type(kind or 2)
    if dtype.name in ("int4", "uint4", "int2", "uint2"):
        bits = int(dtype.name[-1])
        return (0, 2**bits - 1) if dtype.name[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def _spread(values: Tensor, a: Tensor, axis: int, block: int) -> Tensor:
    """Return scales or zero points in a shape that fits: one, along an axis, or one a block of an axis."""
    if values.dim() == 0 or values.numel() == 1:
        return values.reshape(())
    dim = dim_of(axis, a.dim())
    if values.dim() == 1 and not block:
        return values.reshape([-1 if place == dim else 1 for place in range(a.dim())])
    size = block or -(-a.shape[dim] // values.shape[dim])
    return values.repeat_interleave(size, dim).narrow(dim, 0, a.shape[dim])


@op("QuantizeLinear", MS + "QuantizeLinear", passes=(0,))
def quantize_linear(
    a: Tensor, scale: Tensor, zero: Tensor | None = None, *, kinds: Kinds, axis: int = 1, block_size: int = 0,
    output_dtype: int = 0, precision: int = 0, saturate: int = 1,
) -> Tensor:  # fmt: skip
    """Return round(a / scale) + zero, inside the range of the type."""
    kind = kinds[2] if zero is not None and len(kinds) > 2 and kinds[2] else output_dtype or 2
    scales = _spread(scale, a, axis, block_size)
    name = numpy_type(kind).name
    if name in FLOAT8:
        scaled = a / scales
        narrow = scaled.to(FLOAT8[name]) if saturate == 0 else scaled.clamp(*_limits(name)).to(FLOAT8[name])
        return scaled + (narrow.to(scaled.dtype) - scaled).detach()
    return stored(a.to(scales.dtype), scales, None if zero is None else _spread(zero, a, axis, block_size), kind)


def _limits(name: str) -> tuple[float, float]:
    most = torch.finfo(FLOAT8[name]).max
    return -most, most


@op("DequantizeLinear", MS + "DequantizeLinear", passes=(0,))
def dequantize_linear(
    a: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Tensor:
    """Return (a - zero) scale."""
    return real(a, _spread(scale, a, axis, block_size), None if zero is None else _spread(zero, a, axis, block_size))


@op("DynamicQuantizeLinear")
def dynamic_quantize(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return bytes that span the range of the numbers and zero, their scale and zero point."""
    low, high = a.detach().amin().clamp_max(0), a.detach().amax().clamp_min(0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((0 - low) / scale).clamp(0, 255)
    return stored(a, scale, zero, 2), scale, zero


# -- products ------------------------------------------------------------------------------------------


def _centred(a: Tensor, zero: Tensor | None, *, rows: bool = False) -> Tensor:
    """Return integers less their zero point, in double precision; one for each column, or for each row."""
    numbers = a.double()
    if zero is None:
        return numbers
    point = zero.double()
    return numbers - (point[:, None] if rows and point.dim() == 1 and point.numel() > 1 else point)


def _first(values: Tensor, a: Tensor) -> Tensor:
    """Return values along the first axis, or one for all."""
    return values.reshape(()) if values.numel() == 1 else values.reshape(-1, *[1] * (a.dim() - 1))


def _beside(values: Tensor) -> Tensor:
    """Return scales of rows as a column; those of a whole matrix as they are."""
    return values[:, None] if values.dim() == 1 and values.numel() > 1 else values


@op("QLinearConv")
def qlinear_conv(
    a: Tensor, a_scale: Tensor, a_zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor, scale: Tensor, zero: Tensor,
    b: Tensor | None = None, *, kinds: Kinds, **attributes: Any,
) -> Tensor:  # fmt: skip
    """Return the convolution of integers, as integers."""
    total = conv(_centred(a, a_zero.reshape(())), _centred(w, _first(w_zero, w)), None, **attributes)
    if b is not None:
        total = total + _first(b, total[0]).double()
    return stored(
        total * (_first(w_scale, total[0]) * a_scale.reshape(())), scale.reshape(()), zero.reshape(()), kinds[7]
    )


@op("QLinearMatMul")
def qlinear_matmul(
    a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor, scale: Tensor, zero: Tensor,
    *, kinds: Kinds,
) -> Tensor:  # fmt: skip
    """Return the product of integers, as integers."""
    total = _centred(a, a_zero, rows=True) @ _centred(b, b_zero)
    return stored(total * (_beside(a_scale) * b_scale), _beside(scale), _beside(zero), kinds[7])


@op(MS + "QGemm")
def qgemm(
    a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor, c: Tensor | None = None,
    scale: Tensor | None = None, zero: Tensor | None = None, *, kinds: Kinds, alpha: float = 1.0, transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> Tensor:  # fmt: skip
    """Return alpha A B + C of integers, as integers, or as real numbers where no scale is stated."""
    left = _centred(a.t() if transA else a, a_zero)
    total = left @ _centred(b.t() if transB else b, b_zero)
    total = total if c is None else total + c.double()
    result = alpha * total * (a_scale * b_scale)
    return result.to(torch.float32) if scale is None else stored(result, scale, zero, kinds[0])


@op(MS + "MatMulIntegerToFloat", weights=(6,))
def matmul_integer_to_float(
    a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return the product of integers as real numbers."""
    total = _centred(a, a_zero, rows=True) @ _centred(b, b_zero)
    result = (total * (_beside(a_scale) * b_scale)).to(torch.float32)
    return result if bias is None else result + bias


@op(MS + "DynamicQuantizeMatMul", weights=(4,))
def dynamic_quantize_matmul(
    a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Return the product of numbers, which are quantized by their range, with integers."""
    numbers, scale, zero = dynamic_quantize(a)
    return matmul_integer_to_float(numbers, b, scale, b_scale, zero, b_zero, bias)


@op(MS + "QAttention", weights=(2,))
def quantized_attention(
    a: Tensor, w: Tensor, b: Tensor, a_scale: Tensor, w_scale: Tensor, mask: Tensor | None = None,
    a_zero: Tensor | None = None, w_zero: Tensor | None = None, past: Tensor | None = None, *, num_heads: int,
    do_rotary: int = 0, mask_filter_value: float = -10000.0, past_present_share_buffer: int = 0, scale: float = 0.0,
    unidirectional: int = 0,
) -> Tensor:  # fmt: skip
    """Return the attention of projections of integers that are made inside.

    Raises:
        ValueError: when it has a state, a mask or rotates.
    """
    if past is not None or mask is not None or do_rotary or unidirectional:
        raise ValueError("it has a mask, a state or rotates, which is not known of integers")
    projected = matmul_integer_to_float(a, w, a_scale, w_scale, a_zero, w_zero, b)
    q, k, v = (apart(part, num_heads) for part in projected.chunk(3, -1))
    return together(attend(q, k, v, scale or q.shape[3] ** -0.5, None))


# -- real functions between integers -------------------------------------------------------------------


def _inner(a: Tensor, channels_last: int) -> list[int]:
    return list(range(1, a.dim() - 1) if channels_last else range(2, a.dim()))


def _softmax(a: Tensor, axis: int, opset: int) -> Tensor:
    if opset >= 13:
        return a.softmax(axis)
    return a.flatten(dim_of(axis, a.dim())).softmax(-1).reshape(a.shape)


@op(MS + "QLinearAveragePool")
def qlinear_average_pool(
    a: Tensor, s: Tensor, z: Tensor | None, t: Tensor, y: Tensor | None = None, *, kinds: Kinds,
    channels_last: int = 0, **attributes: Any,
) -> Tensor:  # fmt: skip
    """Return the mean of each window of integers, as integers."""
    numbers = real(a, s, z)
    numbers = numbers.movedim(-1, 1) if channels_last else numbers
    result = average_pool(numbers, version=10, **attributes)
    return stored(result.movedim(1, -1) if channels_last else result, t, y, kinds[0])


@op(MS + "QLinearConcat")
def qlinear_concat(scale: Tensor, zero: Tensor, *parts: Tensor, axis: int, kinds: Kinds) -> Tensor:
    """Return integers of several scales behind each other, in one scale."""
    numbers = [real(*parts[place : place + 3]) for place in range(0, len(parts), 3)]
    return stored(torch.cat(numbers, axis), scale, zero, kinds[1])


# -- weights in blocks ---------------------------------------------------------------------------------


def _bits(bytes_: Tensor, bits: int) -> Tensor:
    """Return the numbers that share the bytes of the last axis, the low bits first, in single precision."""
    if bits == 8:
        return bytes_.float()
    whole = bytes_.to(torch.int32)
    if 8 % bits == 0:
        parts = [(whole >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
        return torch.stack(parts, -1).flatten(-2).float()
    single = torch.stack([(whole >> shift) & 1 for shift in range(8)], -1).flatten(-2)
    groups = single.reshape(*single.shape[:-1], -1, bits)
    return (groups * (1 << torch.arange(bits, device=whole.device))).sum(-1).float()


@op(MS + "MatMulNBits", weights=(5,))
def matmul_nbits(
    a: Tensor, b: Tensor, scales: Tensor, zeros: Tensor | None = None, groups: Tensor | None = None,
    bias: Tensor | None = None, *, K: int, N: int, block_size: int, accuracy_level: int = 0, bits: int = 4,  # noqa: N803
    weight_prepacked: int = 0,
) -> Tensor:  # fmt: skip
    """Return the product with a matrix whose rows are quantized in blocks.

    Raises:
        ValueError: when the matrix is packed for one kind of hardware, or blocks are indexed.
    """
    if weight_prepacked or groups is not None:
        raise ValueError("its weight is packed for one kind of hardware, or its blocks are indexed: neither is known")
    w = _unpacked(b, scales.float(), zeros, N, bits)[:, :K]
    numbers = _in_bytes(a, block_size) if accuracy_level == 4 else a
    return F.linear(numbers, w, bias)


def _unpacked(b: Tensor, scales: Tensor, zeros: Tensor | None, rows: int, bits: int) -> Tensor:
    """Return the real numbers of a packed matrix, ``[N, blocks block_size]``."""
    blocks = b.shape[1]
    if zeros is None:
        zero: Tensor | float = float(1 << (bits - 1))
    elif zeros.dtype == torch.uint8:
        zero = _bits(zeros.reshape(rows, -1), bits)[:, :blocks, None]
    else:
        zero = zeros.float().reshape(rows, blocks, 1)
    return ((_bits(b, bits) - zero) * scales.reshape(rows, blocks, 1)).flatten(1)


@op(MS + "QMoE", weights=(4, 7, 10))
def quantized_mixture_of_experts(
    a: Tensor, routes: Tensor, first: Tensor, first_scale: Tensor, first_bias: Tensor | None, second: Tensor,
    second_scale: Tensor, second_bias: Tensor | None = None, third: Tensor | None = None,
    third_scale: Tensor | None = None, third_bias: Tensor | None = None, *zeros: Tensor | None,
    expert_weight_bits: int = 4, block_size: int = 0, quant_type: str = "int", **attributes: Any,
) -> Tensor:  # fmt: skip
    """Return what a mixture of experts does with weights of few bits; see `mixture_of_experts`.

    Raises:
        ValueError: for other types than integers, weights packed for one device, and zero points.
    """
    others = attributes.keys() - {"activation_type", "activation_alpha", "activation_beta", "k", "swiglu_fusion",
                                  "swiglu_limit", "normalize_routing_weights", "use_sparse_mixer"}  # fmt: skip
    if quant_type != "int" or others or any(zero is not None for zero in zeros):
        raise ValueError("its weights are packed for one kind of hardware, or have zero points: neither is known")

    def matrix(packed: Tensor, scale: Tensor) -> Tensor:
        numbers = _bits(packed, expert_weight_bits) - float(1 << (expert_weight_bits - 1))
        spread = scale[..., None] if scale.dim() == 2 else scale.repeat_interleave(block_size, -1)
        return numbers * spread.to(numbers.dtype)

    up = None if third is None or third_scale is None else matrix(third, third_scale)
    weights = matrix(first, first_scale), first_bias, matrix(second, second_scale), second_bias, up, third_bias
    return mixture_of_experts(a, routes, *weights, **attributes)


def _in_bytes(a: Tensor, block: int) -> Tensor:
    """Return numbers as they are after quantization to signed bytes, block by block of the last axis."""
    width = a.shape[-1]
    whole = F.pad(a, (0, -width % block)).unflatten(-1, (-1, block))
    scale = whole.detach().abs().amax(-1, keepdim=True) / 127
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (rounded(whole / scale) * scale).flatten(-2)[..., :width]


@op(MS + "GatherBlockQuantized")
def gather_block_quantized(
    table: Tensor, at: Tensor, scales: Tensor, zeros: Tensor | None = None, *, kinds: Kinds, bits: int = 4,
    block_size: int = 128, gather_axis: int = 0, quantize_axis: int = 1,
) -> Tensor:  # fmt: skip
    """Return the real numbers that stand at some places of an axis; places that do not exist give zeros."""
    gathered, quantized = dim_of(gather_axis, table.dim()), dim_of(quantize_axis, table.dim())
    places = at.long().reshape(-1)
    places = torch.where(places < 0, places + table.shape[gathered], places)
    exists = (places >= 0) & (places < table.shape[gathered])
    places = places.clamp(0, table.shape[gathered] - 1)
    is_packed = kinds[0] == 2 and bits < 8

    def taken(values: Tensor, *, packed: bool) -> Tensor:
        """Return the part of an input that is needed, the quantized axis last."""
        part = values.index_select(gathered, places) if values.shape[gathered] > 1 else values
        part = part.movedim(quantized, -1)
        return _bits(part, bits) if packed else part.float()

    numbers = taken(table, packed=is_packed)
    scale = taken(scales, packed=False)
    if zeros is None:
        points: Tensor | float = float(1 << ((bits if is_packed else 8) - 1)) if kinds[0] == 2 else 0.0
    else:
        points = taken(zeros, packed=is_packed)[..., : scale.shape[-1]]
        points = points.repeat_interleave(block_size, -1)[..., : numbers.shape[-1]]
    size = block_size or numbers.shape[-1]
    result = (numbers - points) * scale.repeat_interleave(size, -1)[..., : numbers.shape[-1]]
    result = result.movedim(-1, quantized)
    mask = exists.reshape([-1 if dim == gathered else 1 for dim in range(result.dim())])
    result = torch.where(mask, result, torch.zeros_like(result))
    return result.reshape(*result.shape[:gathered], *at.shape, *result.shape[gathered + 1 :])
