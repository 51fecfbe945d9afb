"""Quantized ops: integers with a scale and a zero point, per tensor, per channel or per block.

Scales and zero points follow the axis that they lie along; those of a whole tensor stay as they are. What a removed
unit counts as is *real* zero, which is stored as the zero point: `Site.encoded` says so, and masks respect it.
The numbers that a criterion sees are the real ones, too.

Source: onnx.ai/onnx/operators, and docs/ContribOperators.md of ONNX Runtime for the ops of com.microsoft.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from onnxprune.dependency.axes import Axis, concat, fresh, product
from onnxprune.dependency.rules.registry import line, rule
from onnxprune.dependency.rules.reshape import join
from onnxprune.dependency.rules.site import Site
from onnxprune.errors import CannotUnify
from onnxprune.graph.tensors import Array

MS = "com.microsoft"
PACKED = "several of its zero points share a byte"

# fmt: off
line(f"{MS}.QLinearSigmoid",   "*s, _, _?, _, _?               -> *s")
line(f"{MS}.QLinearLeakyRelu", "*s, _, _?, _, _?               -> *s")
line(f"{MS}.QLinearAdd",       "*s, _, _?, *s, _, _?, _, _?    -> *s", adds=(0, 3))
line(f"{MS}.QLinearMul",       "*s, _, _?, *s, _, _?, _, _?    -> *s")
line(f"{MS}.QLinearWhere",     "*s, *s, _, _?, *s, _, _?, _, _? -> *s")
# fmt: on


def _along(x: Site, slot: int, letters: str = "") -> str:
    """Return the pattern of a scale or zero point: of the whole tensor, or along the axis `letters`."""
    if x.rank(slot) == 0:
        return "?"
    return ("1" if x.rank(slot) == 1 and x.sizes(slot) == (1,) else letters) + "?"


def _beside(x: Site, slot: int, column: bool) -> str:
    """Return the pattern of a scale or zero point of a matrix: per tensor, per row or per column, of each matrix."""
    if x.rank(slot) < 2:
        return _along(x, slot, "n" if column else "m")
    rows, columns = x.sizes(slot)[-2:]
    return f"*b {'m' if rows > 1 and not column else '1'} {'n' if columns > 1 and column else '1'}?"


# -- in and out of integers ----------------------------------------------------------------------------------


@rule("QuantizeLinear", "DequantizeLinear", f"{MS}.QuantizeLinear", f"{MS}.DequantizeLinear")
def linear(x: Site) -> None:
    """*s, scale, zero -> *s; a vector lies along `axis`, and a scale per block makes that axis (blocks block!)."""
    axes = x.axes(0)
    for slot in (1, 2):
        if x.has(slot):
            _scaled(x, slot)
    x.output(axes)


def _scaled(x: Site, slot: int) -> None:
    axes, scales = x.axes(0), x.axes(slot)
    if not scales or (len(scales) == 1 and scales[0].size == 1):
        return
    dim = x.dim(x.attr("axis", 1), len(axes))
    if len(scales) == 1:
        x.unify(scales[0], axes[dim])
        return
    if len(scales) != len(axes):
        raise CannotUnify(f"input {slot} has {len(scales)} axes, expected {len(axes)}")
    for i, (one, axis) in enumerate(zip(scales, axes, strict=True)):
        if i == dim:
            _blocked(x, one, axis, x.attr("block_size", 1))
        else:
            x.unify(one, axis)


def _blocked(x: Site, blocks: Axis, axis: Axis, size: int) -> None:
    """Write an axis as ``(blocks block!)``; one whose last block is shorter is locked."""
    if blocks.size * size != axis.size:
        for each in (blocks, axis):
            x.lock(each, f"its last block of {size} is incomplete")
        return
    inner = fresh(size, "b")
    x.lock(inner, f"{x.node.op} scales it block by block")
    x.unify(product(blocks, inner), axis)


@rule("DynamicQuantizeLinear")
def dynamic(x: Site) -> None:
    """*s -> *s, scale, zero. The range always includes zero, so that a unit which is zero here changes nothing."""
    axes = x.axes(0)
    for dim in range(len(axes)):
        x.contract(0, dim)
    x.output(axes)
    x.output((), 1)
    x.output((), 2)


# -- convolutions and products -------------------------------------------------------------------------------


@rule("QLinearConv")
def qlinear_conv(x: Site) -> None:
    """N (g i) *s, (g o) i *k, (g o)? -> n (g o) *t, each with scale and zero; those of the weight may be per (g o)."""
    scales = f"{_along(x, 4, '(g o)')}, {_along(x, 5, '(g o)')}"
    inputs = f"n (g i) *s, {_along(x, 1)}, {_along(x, 2)}, (g o) i *k, {scales}, {_along(x, 6)}, {_along(x, 7)}, (g o)?"
    x.match(f"{inputs} -> n (g o) *t", "n g o i *t *k", sizes={"g": "group"})
    x.coupling.channels = 1
    x.encoded(0, 1, 2, 1)
    x.encoded(3, 4, 5, 0)


@rule("ConvInteger")
def conv_integer(x: Site) -> None:
    """N (g i) *s, (g o) i *k, zero?, (g o)? -> n (g o) *t."""
    zeros = f"{_along(x, 2)}, {_along(x, 3, '(g o)')}"
    x.match(f"n (g i) *s, (g o) i *k, {zeros} -> n (g o) *t", "n g o i *t *k", sizes={"g": "group"})
    x.coupling.channels = 1
    x.encoded(0, None, 2, 1)
    x.encoded(1, None, 3, 0)


def _product(x: Site, right: int, order: Sequence[str]) -> None:
    """Match a matrix product; `order` says what its inputs are.

    Args:
        x: the node.
        right: the slot of the second matrix.
        order: ``a`` and ``b`` for the matrices, ``m`` or ``n`` for a scale or zero point per row or column, ``c`` for
            a bias per column, ``1`` for one of the whole tensor.
    """
    rows, columns = x.rank(0) > 1, x.rank(right) > 1
    kept = f"{'*b' * (rows or columns)} {'m' * rows} {'n' * columns}"
    words = {"a": "*b m k" if rows else "k", "b": "*b k n" if columns else "k"}
    made = [
        words.get(what) or (_along(x, slot, "n") if what == "c" else _beside(x, slot, column=what == "n"))
        for slot, what in enumerate(order)
    ]
    x.match(f"{', '.join(made)} -> {kept}", f"{kept} k")


@rule("QLinearMatMul")
def qlinear_matmul(x: Site) -> None:
    """*b m k, *b k n -> *b m n, each with scale and zero: one, or per row or column."""
    _product(x, 3, "ammbnnmm")
    x.encoded(0, 1, 2, -2)
    x.encoded(3, 4, 5, -1)


@rule("MatMulInteger")
def matmul_integer(x: Site) -> None:
    """*b m k, *b k n, zero?, zero? -> *b m n."""
    _product(x, 1, "abmn")
    x.encoded(0, None, 2, -2)
    x.encoded(1, None, 3, -1)


@rule(f"{MS}.MatMulIntegerToFloat")
def matmul_integer_to_float(x: Site) -> None:
    """*b m k, *b k n, scales, zeros?, n? -> *b m n."""
    _product(x, 1, "abmnmnc")
    x.encoded(0, 2, 4, -2)
    x.encoded(1, 3, 5, -1)


@rule(f"{MS}.DynamicQuantizeMatMul")
def dynamic_quantize_matmul(x: Site) -> None:
    """*b m k, *b k n, scale, zero?, n? -> *b m n; the first is quantized by its range, as in DynamicQuantizeLinear."""
    _product(x, 1, "abnnc")
    x.encoded(1, 2, 3, -1)
    for dim in range(x.rank(0)):
        x.contract(0, dim)


@rule(f"{MS}.QGemm")
def qgemm(x: Site) -> None:
    """M k, k n, bias? -> m n, transposed by transA and transB, each with scale and zero."""
    left = "k m" if x.attr("transA", 0) else "m k"
    right = "n k" if x.attr("transB", 0) else "k n"
    names = "mn"[2 - x.rank(6) :] if x.has(6) else ""
    bias = " ".join(name if size > 1 else "1" for name, size in zip(names, x.sizes(6), strict=True)) if names else ""
    scales = [_along(x, slot, "n" if slot in (4, 5) else "") for slot in range(9)]
    inputs = [left, *scales[1:3], right, *scales[4:6], f"{bias}?", *scales[7:]]
    x.match(f"{', '.join(inputs)} -> m n", "m k n")
    x.encoded(0, 1, 2, 0)
    x.encoded(3, 4, 5, 0 if x.attr("transB", 0) else 1)


@rule(f"{MS}.QAttention")
def qattention(x: Site) -> None:
    """B s! i, i (q! h d!), (q! h d!) -> b s (h d): heads go whole, and num_heads follows."""
    if x.has(8) or len(x.node.outputs) > 1:
        raise CannotUnify("QAttention keeps keys and values in a cache")
    qkv = "(q! h d!)"
    scales = f"{_along(x, 3)}, {_along(x, 4, qkv)}, _?, {_along(x, 6)}, {_along(x, 7, qkv)}, _?"
    axes = x.match(f"b s! i, i {qkv}, {qkv}, {scales} -> b s (h d)", "b s i q h d", sizes={"q": 3, "h": "num_heads"})
    x.coupling.heads, x.coupling.head_dims = (axes["h"],), (axes["d"],)
    x.encoded(0, 3, 6, -1)
    x.encoded(1, 4, 7, 1)


# -- weights in blocks ---------------------------------------------------------------------------------------


@rule(f"{MS}.MatMulNBits")
def matmul_nbits(x: Site) -> None:
    """*b m (k p!), n k q!, n k, (n k)? -> *b m n: whole blocks of the packed rows go; N and K follow."""
    if x.attr("weight_prepacked", 0):
        raise CannotUnify("its weight is packed for one kind of hardware")
    size, bits = x.attr("block_size"), x.attr("bits", 4)
    whole = x.attr("K") % size == 0
    zeros, shared = _packed_zeros(x, bits)
    inner = "(z s! p!)" if shared else "(k p!)"
    blocked, scaled = ("(z s!)", "n z s!") if shared else ("k", "n k")
    scales = f"({scaled})" if x.rank(2) == 1 else f"n {blocked}"
    x.match(
        f"*b m {inner if whole else 'p!'}, n {blocked} q!, {scales}, {zeros}, _?, n? -> *b m n",
        sizes={"n": "N", "p": size if whole else x.attr("K"), **({"s": shared} if shared else {})},
    )
    rows, blocks = x.axes(1)[:2]
    if not whole:
        x.lock(blocks, f"its last block of {size} is incomplete")
    if x.has(4):
        x.lock(blocks, "an index says to which block each position belongs")
    last = x.axes(0)[-1]
    x.write("K", last, scalar=True)
    x.macs(*x.axes(0), rows)
    # The scales are contracted as well; a zero in front of the product is enough, and right for every zero point.
    x.coupling.contracted[:] = [(0, x.rank(0) - 1)]
    x.decoded(1, partial(_unpacked, bits=bits))


def _packed_zeros(x: Site, bits: int) -> tuple[str, int]:
    """Return the pattern of the zero points, and how many blocks share a byte of them if such go together; else 0."""
    if not x.has(3):
        return "_?", 0
    blocks, name, shared = x.sizes(1)[1], "k", 0
    if x.dtype(3) == np.uint8 and bits < 8 and blocks > 1:
        shared = _sharing(blocks, bits)
        name = "z" if shared else "z!"
        if not shared:
            x.lock(x.axes(1)[1], PACKED)
    return (f"(n {name})?" if x.rank(3) == 1 else f"n {name}?"), shared


def _sharing(blocks: int, bits: int) -> int:
    """Return how many zero points share a byte where all bytes are full, 0 otherwise."""
    return 8 // bits if 8 % bits == 0 and blocks % (8 // bits) == 0 else 0


def _unpacked(inputs: Sequence[Array | None], bits: int) -> Array:
    """Return the real numbers of a packed weight, float ``[N, blocks, block_size]``; the low bits come first."""
    stored, scales, zeros = inputs[1], inputs[2], inputs[3] if len(inputs) > 3 else None
    assert stored is not None
    assert scales is not None
    rows, blocks = stored.shape[:2]
    scale = np.asarray(scales, np.float32).reshape(rows, blocks, 1)
    if zeros is None:
        zero = np.full((1, 1, 1), 1 << (bits - 1), np.float32)
    elif zeros.dtype == np.uint8:
        zero = numbers_of(zeros.reshape(rows, -1), bits)[:, :blocks, None]
    else:
        zero = np.asarray(zeros, np.float32).reshape(rows, blocks, 1)
    real: Array = (numbers_of(stored, bits) - zero) * scale
    return real


def numbers_of(stored: Array, bits: int) -> Array:
    """Unpack the last dim of bytes into numbers of `bits` bits each, float32."""
    if 8 % bits == 0:
        parts = [(stored >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
        whole: Array = np.stack(parts, -1).reshape(*stored.shape[:-1], -1).astype(np.float32)
        return whole
    single = np.unpackbits(stored, axis=-1, bitorder="little")
    weights = (1 << np.arange(bits)).astype(np.float32)
    numbers: Array = single.reshape(*stored.shape[:-1], -1, bits) @ weights
    return numbers


@rule(f"{MS}.GatherBlockQuantized")
def gather_block_quantized(x: Site) -> None:
    """*a p *b -> *a *i *b in real numbers; the gathered axis is locked, the quantized one is (blocks block!)."""
    axes, scales, indices = list(x.axes(0)), x.axes(2), x.axes(1)
    gathered, quantized = (
        x.dim(x.attr(name, default), len(axes)) for name, default in (("gather_axis", 0), ("quantize_axis", 1))
    )
    if gathered == quantized:
        raise CannotUnify("it gathers along the axis that is quantized in blocks")
    x.pick(0, axes[gathered], "GatherBlockQuantized picks its indices by value")
    for dim, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
        if dim != quantized:
            x.unify(axis, scale)
    whole = x.attr("block_size", 128)
    packed = x.dtype(0) == np.uint8 and x.attr("bits", 4) < 8
    _blocked(x, scales[quantized], axes[quantized], whole * x.attr("bits", 4) // 8 if packed else whole)
    if x.has(3):
        _gathered_zeros(x, packed, quantized)
    if packed:
        axes[quantized] = _wider(x, scales[quantized], whole)
    bits = x.attr("bits", 4) if packed else 0
    x.decoded(0, partial(_table, dim=quantized, size=whole, bits=bits))
    x.output([*axes[:gathered], *indices, *axes[gathered + 1 :]])


def _table(inputs: Sequence[Array | None], dim: int, size: int, bits: int) -> Array:
    """Return the real numbers of a table, with the axes that it is stored with; those of a byte lie along one more.

    Args:
        inputs: of the node; table, indices, scales, zero points.
        dim: that is quantized in blocks.
        size: of a block.
        bits: of each number, where several share a byte; 0 where they do not.
    """
    stored, scales, zeros = inputs[0], inputs[2], inputs[3] if len(inputs) > 3 else None
    assert stored is not None
    assert scales is not None
    scale = np.moveaxis(scales.astype(np.float32), dim, -1)
    numbers = np.moveaxis(stored, dim, -1)
    wide = numbers_of(numbers, bits) if bits else numbers.astype(np.float32)
    if zeros is None:
        zero: Array = np.array((1 << (bits or 8) - 1) if stored.dtype == np.uint8 else 0, np.float32)
    else:
        moved = np.moveaxis(zeros, dim, -1)
        points = numbers_of(moved, bits)[..., : scale.shape[-1]] if bits else moved.astype(np.float32)
        zero = np.repeat(points, size, -1)[..., : wide.shape[-1]]
    real = (wide - zero) * np.repeat(scale, size, -1)[..., : wide.shape[-1]]
    split: Array = np.moveaxis(real.reshape(*numbers.shape, -1), -2, dim)
    return split


def _gathered_zeros(x: Site, packed: bool, quantized: int) -> None:
    """Equate the zero points with the scales; where several share a byte their axis is locked."""
    for dim, (zero, scale) in enumerate(zip(x.axes(3), x.axes(2), strict=True)):
        if dim == quantized and packed and scale.size > 1:
            shared = _sharing(scale.size, x.attr("bits", 4))
            if shared and zero.size * shared == scale.size:
                inner = fresh(shared, "s")
                x.lock(inner, PACKED)
                x.unify(product(zero, inner), scale)
                continue
            x.lock(zero, PACKED)
            x.lock(scale, PACKED)
        else:
            x.unify(zero, scale)


def _wider(x: Site, blocks: Axis, size: int) -> Axis:
    """Return the axis of the numbers that bytes hold: as many blocks, of more indices."""
    inner = fresh(size, "b")
    x.lock(inner, f"{x.node.op} scales it block by block")
    return product(blocks, inner)


# -- activations, pools, concatenation -----------------------------------------------------------------------


@rule(f"{MS}.QLinearSoftmax")
def qlinear_softmax(x: Site) -> None:
    """*s -> *s, mixed along `axis`; before opset 13 along all axes from there on."""
    axes = x.axes(0)
    first = x.dim(x.attr("axis", -1), len(axes))
    for axis in axes[first:] if x.attr("opset", 13) < 13 else axes[first : first + 1]:
        x.mix(axis)
    x.output(axes)


@rule(f"{MS}.QLinearAveragePool", f"{MS}.QLinearGlobalAveragePool")
def qlinear_pool(x: Site) -> None:
    """N c *s -> n c *t, or channels last."""
    ins, outs = ("n *s c", "n *t c") if x.attr("channels_last", 0) else ("n c *s", "n c *t")
    x.match(f"{ins}, _, _?, _, _? -> {outs}")


@rule(f"{MS}.QLinearConcat")
def qlinear_concat(x: Site) -> None:
    """*a p *b, *a q *b, ... -> *a [p + q + ...] *b, each with scale and zero."""
    join(x, range(2, len(x.node.inputs), 3))


# -- recurrent -----------------------------------------------------------------------------------------------


@rule(f"{MS}.DynamicQuantizeLSTM")
def dynamic_quantize_lstm(x: Site) -> None:
    """As LSTM with transposed weights; the state is quantized by the range over units and rows, which mixes them."""
    rows = "(f! h)"
    scales = ", ".join(_direction(x, slot, rows) for slot in range(8, 12))
    x.match(
        f"s! b! i, d! i {rows}, d! h {rows}, d! (e! h)?, b?, d b h?, d b h?, d! (p! h)?, {scales}"
        " -> s d b h, d b h, d b h",
        sizes={"h": "hidden_size", "f": 4, "e": 8, "p": 3},
    )
    x.mix(x.axes(2)[1], "quantizes by the range over")
    for dim in range(3):
        x.contract(0, dim)
    x.contract(2, 1)
    steps, batch, features = x.axes(0)
    direction, hidden, gates = x.axes(2)
    x.macs(steps, batch, direction, gates, concat(features, hidden))
    x.encoded(1, 8, 9, 0 if x.rank(8) == 1 else -1)
    x.encoded(2, 10, 11, 0 if x.rank(10) == 1 else -1)


def _direction(x: Site, slot: int, rows: str) -> str:
    return f"d! {rows}" if x.rank(slot) == 2 else "d!" if x.rank(slot) else ""
