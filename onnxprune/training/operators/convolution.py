"""Convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.training.operators.registry import op

Tensor = torch.Tensor
_NARROW = 2  # channels of a group: larger kernels and strides take several times as long in half precision there
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def margins(
    auto_pad: str, pads: Sequence[int], sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
) -> tuple[list[int], list[int]]:  # fmt: skip
    """Return what is added in front and behind along each axis of a window.

    https://onnx.ai/onnx/operators/onnx__Conv.html, attribute ``auto_pad``.
    """
    rank = len(sizes)
    if auto_pad in ("", "NOTSET"):
        given = list(pads) or [0] * (2 * rank)
        return given[:rank], given[rank:]
    if auto_pad == "VALID":
        return [0] * rank, [0] * rank
    front, behind = [], []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        whole = max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        less = whole // 2
        front.append(less if auto_pad == "SAME_UPPER" else whole - less)
        behind.append(whole - less if auto_pad == "SAME_UPPER" else less)
    return front, behind


def padded(a: Tensor, front: Sequence[int], behind: Sequence[int], value: float = 0.0) -> Tensor:
    """Return a tensor with a constant around its last axes."""
    flat = [count for pair in zip(reversed(front), reversed(behind), strict=True) for count in pair]
    return F.pad(a, flat, value=value) if any(flat) else a


@op("Conv", weights=(1, 2))
def conv(
    a: Tensor, w: Tensor, b: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Sequence[int] = (),
    group: int = 1, kernel_shape: Sequence[int] = (), pads: Sequence[int] = (), strides: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    """Return the convolution, of one to three axes."""
    rank = a.dim() - 2
    steps, spread = list(strides) or [1] * rank, list(dilations) or [1] * rank
    front, behind = margins(auto_pad, pads, a.shape[2:], w.shape[2:], steps, spread)
    if front != behind:
        a, front = padded(a, front, behind), [0] * rank
    if group > 1 and w.shape[1] <= _NARROW and a.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        a, w, b = _single(a), _single(w), None if b is None else _single(b)
        with torch.autocast("cpu", enabled=False):
            return _CONV[rank](a, w, b, steps, front, spread, group)
    return _CONV[rank](a, w, b, steps, front, spread, group)


def _single(a: Tensor) -> Tensor:
    return a.float() if a.dtype in (torch.bfloat16, torch.float16) else a


@op("ConvTranspose", weights=(1, 2))
def conv_transpose(
    a: Tensor, w: Tensor, b: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Sequence[int] = (),
    group: int = 1, kernel_shape: Sequence[int] = (), output_padding: Sequence[int] = (),
    output_shape: Sequence[int] = (), pads: Sequence[int] = (), strides: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    """Return the transposed convolution: the whole result, and what the pads take away of it.

    https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
    """
    rank = a.dim() - 2
    steps, spread = list(strides) or [1] * rank, list(dilations) or [1] * rank
    more = list(output_padding) or [0] * rank
    full = [
        (size - 1) * step + (width - 1) * wide + 1 + extra
        for size, step, width, wide, extra in zip(a.shape[2:], steps, w.shape[2:], spread, more, strict=True)
    ]
    shape = list(output_shape)[-rank:]
    if auto_pad in ("SAME_UPPER", "SAME_LOWER") and not shape:
        shape = [size * step for size, step in zip(a.shape[2:], steps, strict=True)]
    if shape:
        whole = [have - want for have, want in zip(full, shape, strict=True)]
        less = [total // 2 for total in whole]
        rest = [total - each for total, each in zip(whole, less, strict=True)]
        front, behind = (rest, less) if auto_pad != "SAME_UPPER" else (less, rest)
    else:
        given = list(pads) or [0] * (2 * rank)
        front, behind = given[:rank], given[rank:]
    is_usual = all(extra < max(step, wide) for extra, step, wide in zip(more, steps, spread, strict=True))
    if front == behind and min(front) >= 0 and is_usual:
        return _TRANSPOSED[rank](a, w, b, steps, front, more, group, spread)
    result = _TRANSPOSED[rank](a, w, b, steps, [0] * rank, [0] * rank, group, spread)
    added = [extra - end for extra, end in zip(more, behind, strict=True)]
    result = padded(result, [-each for each in front], added)
    return result if b is None or max(more) == 0 else _bias_in_margin(result, b, added)


def _bias_in_margin(result: Tensor, bias: Tensor, added: Sequence[int]) -> Tensor:
    """Add the bias where padding was added behind the result."""
    mask = torch.zeros(result.shape[2:], dtype=torch.bool, device=result.device)
    for axis, extra in enumerate(added):
        if extra > 0:
            mask.narrow(axis, result.shape[2 + axis] - extra, extra).fill_(True)
    return torch.where(mask, result + bias.reshape(-1, *[1] * (result.dim() - 2)), result)


@op("DeformConv", weights=(1, 3))
def deform_conv(
    a: Tensor, w: Tensor, offset: Tensor, b: Tensor | None = None, mask: Tensor | None = None, *,
    dilations: Sequence[int] = (), group: int = 1, kernel_shape: Sequence[int] = (), offset_group: int = 1,
    pads: Sequence[int] = (), strides: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    """Return the deformable convolution of two axes: values between pixels, weighted, and a product.

    https://onnx.ai/onnx/operators/onnx__DeformConv.html
    """
    count, channels, height, width = a.shape
    high, wide = w.shape[2:]
    steps, spread = list(strides) or [1, 1], list(dilations) or [1, 1]
    given = list(pads) or [0, 0, 0, 0]
    rows, columns = offset.shape[2:]
    shifts = offset.reshape(count, offset_group, high * wide, 2, rows, columns)
    down = torch.arange(rows, device=a.device) * steps[0] - given[0]
    right = torch.arange(columns, device=a.device) * steps[1] - given[1]
    tap_down = (torch.arange(high, device=a.device) * spread[0]).repeat_interleave(wide)
    tap_right = (torch.arange(wide, device=a.device) * spread[1]).repeat(high)
    y = shifts[:, :, :, 0] + tap_down[:, None, None] + down[:, None]
    x = shifts[:, :, :, 1] + tap_right[:, None, None] + right
    parts = a.reshape(count * offset_group, channels // offset_group, height, width)
    grid = torch.stack((2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1), -1)
    grid = grid.reshape(count * offset_group, high * wide * rows, columns, 2)
    seen = F.grid_sample(parts, grid, align_corners=True, padding_mode="zeros")
    seen = seen.reshape(count, offset_group, channels // offset_group, high * wide, rows, columns)
    if mask is not None:
        seen = seen * mask.reshape(count, offset_group, 1, high * wide, rows, columns)
    seen = seen.reshape(count, group, math.prod(seen.shape[1:4]) // group, rows * columns)
    kernels = w.reshape(group, w.shape[0] // group, -1)
    result = torch.einsum("gok,ngkp->ngop", kernels, seen).reshape(count, w.shape[0], rows, columns)
    return result if b is None else result + b.reshape(-1, 1, 1)
