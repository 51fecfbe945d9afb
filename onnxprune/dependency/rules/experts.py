"""Mixtures of experts in one operator: their weights are stacked, as floats or as packed integers.

Page: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from onnxprune.dependency.axes import fresh
from onnxprune.dependency.rules.quantized import numbers_of
from onnxprune.dependency.rules.registry import rule
from onnxprune.dependency.rules.site import Site
from onnxprune.errors import CannotUnify
from onnxprune.graph.tensors import Array

MS = "com.microsoft."


@rule(MS + "MoE")
def mixture_of_experts(x: Site) -> None:
    """*b i, n e, e f i, (e f)?, e i f, (e i)?, (e f i)?, (e f)? -> *b i: k of the experts e, of inner width f."""
    fused = x.attr("swiglu_fusion", 0) if x.attr("activation_type", "relu") in ("swiglu", "geglu") else 0
    inner = {0: "f", 1: "(f w!)", 2: "[f + f]"}[fused]
    rows, tokens = ("b s", "(b s)") if x.rank(0) == 3 else ("n", "n")
    width = x.axes(4)[-1].size
    axes = x.match(
        f"{rows} i, {tokens} e, e {inner} i, e {inner}?, e i f, e i?, e f i?, e f? -> {rows} i",
        sizes={"f": width, **({"w": 2} if fused == 1 else {})},
    )
    x.contract(0, x.rank(0) - 1)
    x.contract(4, 2)
    for slot in (2, 3, 6, 7):
        x.hide(slot, 1)
    for slot in range(2, 8):
        x.hide(slot, 0)
    x.choose(1, 1, x.attr("k", 1))
    for _ in range(2 + (fused > 0 or x.has(6))):
        x.macs(*(axes[name] for name in rows.split()), fresh(x.attr("k", 1)), axes["f"], axes["i"])


@rule(MS + "QMoE")
def quantized_mixture_of_experts(x: Site) -> None:
    """*b i!, n e, e ... -> *b i!: k of the experts e; all else is packed, in a layout that depends on the device."""
    if x.attr("quant_type", "int") != "int" or any(map(x.has, range(14, 21))):
        raise CannotUnify("QMoE has scales or weights of experts beside those of integers")
    for number, slot in enumerate((2, 5, 8), 1):
        if x.has(slot):
            bits = x.attr(f"fc{number}_expert_weight_bits", x.attr("expert_weight_bits", 4))
            _matrices_of_experts(x, slot, 10 + number, bits)
    axes, scores = x.axes(0), x.axes(1)
    if len(axes) == 2:
        x.unify(axes[0], scores[0])
    packed = [axes[-1]]
    for slot in filter(x.has, range(2, len(x.node.inputs))):
        expert, *others = x.axes(slot)
        x.unify(expert, scores[1])
        packed += others
    for axis in packed:
        x.lock(axis, "QMoE reads packed weights, whose layout depends on the device")
    x.output(axes)
    x.choose(1, 1, x.attr("k", 1))


def _matrices_of_experts(x: Site, slot: int, zeros: int, bits: int) -> None:
    """Tell how the matrices of experts are stored, ``[E, N, K]`` with the last axis packed, and what they cost."""
    if x.rank(slot) != 3:
        raise CannotUnify(f"input {slot} of QMoE has {x.rank(slot)} axes, expected experts, rows, packed numbers")
    if bits not in (2, 3, 4, 8):
        raise CannotUnify(f"numbers of {bits} bits are not known")
    experts, rows, packed = x.sizes(slot)
    width = packed * 8 // bits
    blocks = max(1, x.sizes(slot + 1)[2]) if x.rank(slot + 1) == 3 else 0
    block = x.attr("block_size", 0) if blocks > 1 else 0
    if block and blocks != -(-width // block):
        raise CannotUnify(f"input {slot + 1} of QMoE has scales of {blocks} blocks, expected those of {block} numbers")
    expected = {
        slot + 1: (experts, rows, blocks) if blocks else (experts, rows),
        zeros: (experts, rows, -(-blocks * bits // 8)) if blocks else (experts, -(-rows * bits // 8)),
    }
    for at, sizes in expected.items():
        if x.has(at) and x.sizes(at) != sizes:
            raise CannotUnify(f"input {at} of QMoE has the shape {[*x.sizes(at)]}, expected {[*sizes]}")
    is_laid_out = x.attr("weights_prepacked", -1) == 1
    decode = partial(_of_experts, slot=slot, zeros=zeros, bits=bits, block=block, is_laid_out=is_laid_out)
    x.decoded(slot, decode)
    x.macs(*x.axes(0)[:-1], fresh(x.attr("k", 1)), x.axes(slot)[1], fresh(width))


def _of_experts(
    inputs: Sequence[Array | None], *, slot: int, zeros: int, bits: int, block: int, is_laid_out: bool
) -> Array:
    """Return the real numbers of the weights of experts, float ``[E, N, K]``.

    Of weights that are laid out for one device it is not known which number lies where: each block has its scale alone,
    by which its numbers are large or small.

    Args:
        inputs: of the node; each matrix stands in front of its scales, ``[E, N]`` or ``[E, N, blocks]``.
        slot: of the matrix.
        zeros: of its zero points, packed like the scales that they are for.
        bits: of each number.
        block: how many numbers have one scale, the last ones of a row maybe fewer; 0 where all blocks are as long.
        is_laid_out: whether the file says that weights are laid out for a device.
    """
    stored, scales, points = (inputs[at] if at < len(inputs) else None for at in (slot, slot + 1, zeros))
    assert stored is not None
    numbers = numbers_of(stored, bits)
    experts, rows, width = numbers.shape
    scale = np.ones((experts, rows, 1), np.float32) if scales is None else scales.astype(np.float32)
    scale = scale.reshape(experts, rows, -1)
    if is_laid_out:
        return scale
    zero: Array = np.full((1, 1, 1), 1 << (bits - 1), np.float32)
    if points is not None:
        of_rows = points.ndim == 2  # a row of numbers for each expert, else one for each of its rows
        whole = numbers_of(points, bits)
        zero = whole[:, :rows, None] if of_rows else whole[:, :, : scale.shape[2]]
    real: Array = (numbers - _wide(zero, width, block)) * _wide(scale, width, block)
    return real


def _wide(of_blocks: Array, width: int, block: int) -> Array:
    """Return what is stated for each block of the last axis, or for all of it, for each of its numbers."""
    blocks = of_blocks.shape[-1]
    return of_blocks if blocks == 1 else np.repeat(of_blocks, block or -(-width // blocks), -1)[..., :width]
