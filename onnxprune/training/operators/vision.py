"""Regions of images, boxes, and blocks that are put in their places."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.training.operators.fused import MS
from onnxprune.training.operators.layout import pad
from onnxprune.training.operators.registry import dim_of, ints, line, op

Tensor = torch.Tensor

# fmt: off
line("ImageScaler", lambda a, *, bias=(0.0,), scale=1.0: scale * a + torch.tensor(bias, device=a.device).reshape(-1, 1, 1))
# fmt: on


@op("Crop")
def crop(a: Tensor, *, border: Sequence[int], scale: Sequence[int] = ()) -> Tensor:
    """Return an image without its borders, or a part of a stated size behind the left and upper border."""
    left, top, right, bottom = border
    if scale:
        return a[..., top : top + scale[0], left : left + scale[1]]
    return a[..., top : a.shape[-2] - bottom, left : a.shape[-1] - right]


@op("CenterCropPad", host=(1,))
def center_crop_pad(a: Tensor, shape: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    """Return the middle of a tensor, with zeros around it where it is too small."""
    dims = range(a.dim()) if axes is None else [dim_of(axis, a.dim()) for axis in axes]
    for dim, size in zip(dims, ints(shape), strict=True):
        have = a.shape[dim]
        if have > size:
            a = a.narrow(dim, (have - size) // 2, size)
        elif have < size:
            front = (size - have) // 2
            pads = [0] * (2 * a.dim())
            pads[dim], pads[a.dim() + dim] = front, size - have - front
            a = pad(a, torch.tensor(pads))
    return a


@op("Col2Im", host=(1, 2))
def col2im(
    a: Tensor, image: Tensor, block: Tensor, *, dilations: Sequence[int] = (), pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    """Return the image whose blocks are the columns, added up where they overlap."""
    sizes, widths = ints(image), ints(block)
    rank = len(sizes)
    steps, spread, margin = list(strides) or [1] * rank, list(dilations) or [1] * rank, list(pads) or [0] * (2 * rank)
    whole = [size + margin[axis] + margin[rank + axis] for axis, size in enumerate(sizes)]
    places = torch.zeros((), dtype=torch.int64)
    for axis, (width, size) in enumerate(zip(widths, whole, strict=True)):
        blocks = (size - spread[axis] * (width - 1) - 1) // steps[axis] + 1
        own = torch.arange(width)[:, None] * spread[axis] + torch.arange(blocks) * steps[axis]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = width, blocks
        places = places * size + own.reshape(shape)
    parts = a.reshape(a.shape[0], a.shape[1] // math.prod(widths), -1)
    result = parts.new_zeros(*parts.shape[:2], math.prod(whole))
    result = result.index_add(2, places.reshape(-1).to(a.device), parts).reshape(*parts.shape[:2], *whole)
    for axis, size in enumerate(sizes):
        result = result.narrow(2 + axis, margin[axis], size)
    return result


# -- regions -------------------------------------------------------------------------------------------


@op("MaxRoiPool")
def max_roi_pool(a: Tensor, regions: Tensor, *, pooled_shape: Sequence[int], spatial_scale: float = 1.0) -> Tensor:
    """Return the largest of each cell of a grid over each region; Girshick 2015, Fast R-CNN."""
    made = []
    for row in regions.tolist():
        left, top, right, bottom = (math.floor(number * spatial_scale + 0.5) for number in row[1:])
        image = a[int(row[0])]
        down = _cells(top, bottom, pooled_shape[0], a.shape[2])
        across = _cells(left, right, pooled_shape[1], a.shape[3])
        made.append(torch.stack([torch.stack([_largest(image, y, x) for x in across], -1) for y in down], -2))
    return torch.stack(made) if made else a.new_zeros(0, a.shape[1], *pooled_shape)


def _cells(start: int, end: int, count: int, size: int) -> list[tuple[int, int]]:
    length = max(end - start + 1, 1) / count
    return [
        (min(max(math.floor(k * length) + start, 0), size), min(max(math.ceil((k + 1) * length) + start, 0), size))
        for k in range(count)
    ]


def _largest(image: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    part = image[:, rows[0] : rows[1], columns[0] : columns[1]]
    return part.flatten(1).amax(1) if part.numel() else image.new_zeros(image.shape[0])


@op("RoiAlign")
def roi_align_10(
    a: Tensor, regions: Tensor, images: Tensor, *, mode: str = "avg", output_height: int = 1, output_width: int = 1,
    sampling_ratio: int = 0, spatial_scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """Return the mean or largest of points of each cell of a grid over each region, which is not moved by a half."""
    return _aligned(a, regions, images, mode, (output_height, output_width), sampling_ratio, spatial_scale, 0.0)


@op("RoiAlign", since=16)
def roi_align(
    a: Tensor, regions: Tensor, images: Tensor, *, coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg", output_height: int = 1, output_width: int = 1, sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """Return the mean or largest of points of each cell of a grid over each region; He et al. 2017, Mask R-CNN."""
    shift = 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0
    return _aligned(a, regions, images, mode, (output_height, output_width), sampling_ratio, spatial_scale, shift)


def _aligned(
    a: Tensor, regions: Tensor, images: Tensor, mode: str, grid: tuple[int, int], ratio: int, scale: float, shift: float
) -> Tensor:
    """Return ``[regions, channels, *grid]``; weights of rows and columns are apart, so that two products do it."""
    made = []
    for image, row in zip(images.tolist(), (regions.detach() * scale - shift).tolist(), strict=True):
        left, top, right, bottom = row
        down, across = bottom - top, right - left
        if not shift:
            down, across = max(down, 1.0), max(across, 1.0)
        heights = _shares(top, down, grid[0], ratio, a.shape[2])
        widths = _shares(left, across, grid[1], ratio, a.shape[3])
        made.append(_pooled(a[image], heights.to(a.device, a.dtype), widths.to(a.device, a.dtype), mode))
    return torch.stack(made) if made else a.new_zeros(0, a.shape[1], *grid)


def _shares(start: float, length: float, count: int, ratio: int, size: int) -> Tensor:
    """Return the share of each pixel in each point, ``[cells, points, size]``; a point far outside has none."""
    cell = length / count
    points = ratio if ratio > 0 else max(math.ceil(cell), 0)
    cells, own = torch.arange(count, dtype=torch.float64), torch.arange(points, dtype=torch.float64)
    at = start + cell * cells[:, None] + (own + 0.5) * cell / max(points, 1)
    inside = (at >= -1) & (at <= size)
    at = at.clamp(0, size - 1)
    low = at.floor().long().clamp_max(size - 1)
    high = (low + 1).clamp_max(size - 1)
    rest = at - low
    result = torch.zeros(count, points, size, dtype=torch.float64)
    result.scatter_add_(2, low[..., None], (1 - rest)[..., None])
    result.scatter_add_(2, high[..., None], rest[..., None])
    return result * inside[..., None]


def _pooled(image: Tensor, heights: Tensor, widths: Tensor, mode: str) -> Tensor:
    if mode == "avg":
        rows = heights.sum(1) / max(heights.shape[1], 1)
        columns = widths.sum(1) / max(widths.shape[1], 1)
        return torch.einsum("ph,chw,qw->cpq", rows, image, columns)
    terms = [
        torch.einsum("pah,chw,qbw->cpqab", y, image, x).flatten(3).amax(3)
        for y in _corners(heights)
        for x in _corners(widths)
    ]
    return torch.stack(terms).amax(0)


def _corners(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of the lower and of the upper neighbours apart: ONNX Runtime takes the largest of all."""
    size = shares.shape[-1]
    first = shares.argmax(-1, keepdim=True)
    second = shares.clone().scatter(2, first, 0.0)
    low = torch.minimum(first, torch.where(second.sum(-1, keepdim=True) > 0, second.argmax(-1, keepdim=True), first))
    at = torch.arange(size, device=shares.device)
    return torch.where(at <= low, shares, 0.0), torch.where(at > low, shares, 0.0)


@op(MS + "CropAndResize", host=(3,))
def crop_and_resize(
    a: Tensor,
    regions: Tensor,
    images: Tensor,
    size: Tensor,
    *,
    extrapolation_value: float = 0.0,
    mode: str = "bilinear",
) -> Tensor:
    """Return regions of images at one size; corners of the grid lie on those of the region."""
    height, width = ints(size)
    places = []
    for count, length, first, last in ((height, a.shape[2], 0, 2), (width, a.shape[3], 1, 3)):
        start, end = regions[:, first, None] * (length - 1), regions[:, last, None] * (length - 1)
        steps = torch.arange(count, device=a.device) / max(count - 1, 1)
        places.append(start + (end - start) * steps if count > 1 else (start + end) / 2)
    y, x = places
    grid = torch.stack(
        torch.broadcast_tensors(
            2 * x[:, None, :] / max(a.shape[3] - 1, 1) - 1, 2 * y[:, :, None] / max(a.shape[2] - 1, 1) - 1
        ),
        -1,
    )
    result = F.grid_sample(
        a[images.long()], grid.to(a.dtype), mode=mode, padding_mode="border", align_corners=True
    )  # fmt: skip
    inside = ((y >= 0) & (y <= a.shape[2] - 1))[:, :, None] & ((x >= 0) & (x <= a.shape[3] - 1))[:, None, :]
    return torch.where(inside[:, None], result, torch.full_like(result, extrapolation_value))


# -- boxes ---------------------------------------------------------------------------------------------


@op("NonMaxSuppression", host=(2, 3, 4), is_open=True)
def non_max_suppression(
    boxes: Tensor, scores: Tensor, most: Tensor | None = None, overlap: Tensor | None = None,
    least: Tensor | None = None, *, center_point_box: int = 0,
) -> Tensor:  # fmt: skip
    """Return which boxes stay, ``[kept, 3]``: image, class, and place; there is no gradient."""
    limit = 0 if most is None else int(most)
    threshold = 0.0 if overlap is None else float(overlap)
    made = []
    for image in range(scores.shape[0]):
        corners = _corners_of(boxes[image].detach(), center_point_box)
        for kind in range(scores.shape[1]):
            places = _kept(corners, scores[image, kind].detach(), limit, threshold, least)
            first = torch.tensor([image, kind], device=places.device).expand(len(places), 2)
            made.append(torch.cat((first, places[:, None]), 1))
    return torch.cat(made) if made else torch.zeros((0, 3), dtype=torch.int64)


def _corners_of(boxes: Tensor, is_centred: int) -> Tensor:
    if is_centred:
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        return torch.cat((middle - half, middle + half), 1)
    return torch.cat((torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])), 1)


def _kept(corners: Tensor, scores: Tensor, limit: int, threshold: float, least: Tensor | None) -> Tensor:
    """Return the places of the boxes that stay, the best first."""
    places = torch.arange(len(scores), device=scores.device)
    if least is not None:
        places = places[scores > float(least)]
    places = places[scores[places].argsort(descending=True, stable=True)]
    kept = list[Tensor]()
    while len(places) and len(kept) < limit:
        best, places = places[0], places[1:]
        kept.append(best)
        places = places[_shared(corners[best], corners[places]) <= threshold]
    return torch.stack(kept) if kept else places[:0]


def _shared(one: Tensor, others: Tensor) -> Tensor:
    """Return intersection over union."""
    low, high = torch.maximum(one[:2], others[:, :2]), torch.minimum(one[2:], others[:, 2:])
    inner = (high - low).clamp_min(0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    own = (one[2:] - one[:2]).prod()
    union = own + areas - inner
    return torch.where((areas > 0) & (own > 0) & (union > 0), inner / union, torch.zeros_like(inner))
