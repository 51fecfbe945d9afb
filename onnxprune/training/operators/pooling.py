"""Windows that are summed up or of which the largest counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.training.operators.convolution import margins, padded
from onnxprune.training.operators.registry import line, op

Tensor = torch.Tensor
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}

# fmt: off
line("GlobalAveragePool", lambda a: a.mean(tuple(range(2, a.dim())), keepdim=True))
line("GlobalMaxPool",     lambda a: a.amax(tuple(range(2, a.dim())), keepdim=True))
line("GlobalLpPool",      lambda a, *, p=2: (a.abs() ** p).sum(tuple(range(2, a.dim())), keepdim=True) ** (1 / p))
# fmt: on


def _window(
    a: Tensor, auto_pad: str, pads: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], ceil: int,
) -> tuple[list[int], list[int], list[int], list[int]]:  # fmt: skip
    """Return strides, dilations and margins; with `ceil` the margin behind takes in a window that begins inside."""
    rank = a.dim() - 2
    steps, spread = list(strides) or [1] * rank, list(dilations) or [1] * rank
    front, behind = margins(auto_pad, pads, a.shape[2:], kernel, steps, spread)
    if ceil and auto_pad in ("", "NOTSET"):
        for axis, size in enumerate(a.shape[2:]):
            reach = (kernel[axis] - 1) * spread[axis] + 1
            free = size + front[axis] + behind[axis] - reach
            windows = -(-free // steps[axis]) + 1
            if (windows - 1) * steps[axis] >= size + front[axis]:
                windows -= 1  # it would begin in the margin
            behind[axis] += max(0, (windows - 1) * steps[axis] - free)
    return steps, spread, front, behind


@op("MaxPool")
def max_pool(
    a: Tensor, *, outputs: int, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Sequence[int] = (),
    kernel_shape: Sequence[int], pads: Sequence[int] = (), storage_order: int = 0, strides: Sequence[int] = (),
) -> object:  # fmt: skip
    """Return the largest of each window, and where asked for its place in the whole tensor."""
    rank = a.dim() - 2
    kind, a = a.dtype, a if a.is_floating_point() else a.float()
    steps, spread, front, behind = _window(a, auto_pad, pads, kernel_shape, strides, dilations, ceil_mode)
    plain = front == behind and all(2 * each <= width for each, width in zip(front, kernel_shape, strict=True))
    if not plain:
        a, offsets = padded(a, front, behind, -math.inf), [0] * rank
    else:
        offsets = front
    if outputs == 1:
        return _MAX[rank](a, list(kernel_shape), steps, offsets, spread).to(kind)
    values, places = _MAX[rank](a, list(kernel_shape), steps, offsets, spread, return_indices=True)
    shape = a.shape[2:] if plain else [s - f - e for s, f, e in zip(a.shape[2:], front, behind, strict=True)]
    if not plain:
        places = _without_margin(places, a.shape[2:], front, shape)
    if storage_order:
        places = _column_major(places, shape)
    whole = math.prod(shape)
    planes = torch.arange(a.shape[0] * a.shape[1], device=a.device).reshape(a.shape[0], a.shape[1], *[1] * rank)
    return values.to(kind), places + planes * whole


def _coordinates(places: Tensor, shape: Sequence[int]) -> list[Tensor]:
    found = []
    for size in reversed(shape):
        found.append(places % size)
        places = places // size
    return found[::-1]


def _without_margin(places: Tensor, outer: Sequence[int], front: Sequence[int], inner: Sequence[int]) -> Tensor:
    result = torch.zeros_like(places)
    for at, less, size in zip(_coordinates(places, outer), front, inner, strict=True):
        result = result * size + (at - less)
    return result


def _column_major(places: Tensor, shape: Sequence[int]) -> Tensor:
    result = torch.zeros_like(places)
    for at, size in reversed(list(zip(_coordinates(places, shape), shape, strict=True))):
        result = result * size + at
    return result


@op("AveragePool")
def average_pool(
    a: Tensor, *, version: int, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: Sequence[int] = (), kernel_shape: Sequence[int], pads: Sequence[int] = (), strides: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    """Return the mean of each window; the margin counts where `count_include_pad` says so."""
    rank = a.dim() - 2
    steps, spread, front, behind = _window(a, auto_pad, pads, kernel_shape, strides, dilations, ceil_mode)
    simple = not any(front) and not any(behind) and set(spread) == {1}
    if simple or (front == behind and count_include_pad and set(spread) == {1} and not ceil_mode):
        fits = all(2 * each <= width for each, width in zip(front, kernel_shape, strict=True))
        if fits:
            return _AVERAGE[rank](a, list(kernel_shape), steps, front)
    ones = torch.ones((1, 1, *a.shape[2:]), dtype=a.dtype, device=a.device)
    if count_include_pad:  # what ceil_mode adds behind the margin counts never
        stated, ending = margins(auto_pad, pads, a.shape[2:], kernel_shape, steps, spread)
        ones = padded(ones, stated, ending, 1.0)
        extra = [all_ - own for all_, own in zip(behind, ending, strict=True)]
        counts = _sums(padded(ones, [0] * rank, extra), kernel_shape, steps, spread)
    else:
        counts = _sums(padded(ones, front, behind), kernel_shape, steps, spread)
    return _sums(padded(a, front, behind), kernel_shape, steps, spread) / counts


def _sums(a: Tensor, kernel: Sequence[int], steps: Sequence[int], spread: Sequence[int]) -> Tensor:
    """Return the sum of each window, axis by axis."""
    for axis, (width, step, wide) in enumerate(zip(kernel, steps, spread, strict=True), 2):
        windows = a.unfold(axis, (width - 1) * wide + 1, step)
        a = windows[..., ::wide].sum(-1)
    return a


@op("LpPool")
def lp_pool(
    a: Tensor, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Sequence[int] = (),
    kernel_shape: Sequence[int], p: int = 2, pads: Sequence[int] = (), strides: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    """Return the p-norm of each window."""
    steps, spread, front, behind = _window(a, auto_pad, pads, kernel_shape, strides, dilations, ceil_mode)
    return _sums(padded(a.abs() ** p, front, behind), kernel_shape, steps, spread) ** (1 / p)


@op("MaxUnpool", host=(2,))
def max_unpool(
    a: Tensor, places: Tensor, shape: Tensor | None = None, *, kernel_shape: Sequence[int], pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    """Return zeros with the values at their places in the whole tensor."""
    rank = a.dim() - 2
    steps, given = list(strides) or [1] * rank, list(pads) or [0] * (2 * rank)
    inferred = [
        (size - 1) * step - given[axis] - given[rank + axis] + width
        for axis, (size, step, width) in enumerate(zip(a.shape[2:], steps, kernel_shape, strict=True))
    ]
    sizes = [*a.shape[:2], *inferred]
    result = torch.zeros(math.prod(sizes), dtype=a.dtype, device=a.device)
    result = result.scatter(0, places.reshape(-1), a.reshape(-1)).reshape(sizes)
    if shape is None:
        return result
    wanted = [int(each) for each in shape.tolist()]
    return padded(result, [0] * rank, [want - have for want, have in zip(wanted[2:], inferred, strict=True)])
