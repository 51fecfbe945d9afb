"""Images of another size, and values between pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.graph.tensors import Array
from onnxprune.training.operators.registry import dim_of, ints, op

Tensor = torch.Tensor
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@op("Upsample")
def upsample_7(a: Tensor, *, mode: str = "nearest", scales: Sequence[float]) -> Tensor:
    """Return the image larger by factors that the attribute states."""
    return _resized(a, None, list(scales), mode.replace("bi", ""), "asymmetric", "simple")


@op("Upsample", host=(1,), since=9)
def upsample_9(a: Tensor, scales: Tensor, *, mode: str = "nearest") -> Tensor:
    """Return the image larger by factors."""
    return _resized(a, None, scales.tolist(), mode.replace("bi", ""), "asymmetric", "simple")


@op("Resize", host=(1,))
def resize_10(a: Tensor, scales: Tensor, *, mode: str = "nearest") -> Tensor:
    """Return the image at another scale."""
    return _resized(a, None, scales.tolist(), mode, "asymmetric", "simple")


@op("Resize", host=(1, 2, 3), since=11)
def resize(
    a: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None, *,
    antialias: int = 0, axes: Sequence[int] | None = None, coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75, exclude_outside: int = 0, extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest", nearest_mode: str = "round_prefer_floor",
) -> Tensor:  # fmt: skip
    """Return the image at another scale, or of another size.

    https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    dims = list(range(a.dim())) if axes is None else [dim_of(axis, a.dim()) for axis in axes]
    wanted, factors, box = None, [1.0] * a.dim(), None
    if sizes is not None and sizes.numel():
        wanted = list(a.shape)
        for dim, size in zip(dims, ints(sizes), strict=True):
            wanted[dim] = size
        if keep_aspect_ratio_policy != "stretch":
            choose = min if keep_aspect_ratio_policy == "not_larger" else max
            ratio = choose(wanted[dim] / a.shape[dim] for dim in dims)
            for dim in dims:
                factors[dim] = ratio
                wanted[dim] = math.floor(ratio * a.shape[dim] + 0.5)
        else:
            factors = [want / have for want, have in zip(wanted, a.shape, strict=True)]
    elif scales is not None:
        for dim, factor in zip(dims, scales.tolist(), strict=True):
            factors[dim] = factor
    if coordinate_transformation_mode == "tf_crop_and_resize" and roi is not None:
        half = roi.numel() // 2
        box = {dim: (float(roi[k]), float(roi[half + k])) for k, dim in enumerate(dims)}
    return _resized(
        a, wanted, factors, mode, coordinate_transformation_mode, nearest_mode, a_cubic=cubic_coeff_a,
        excludes=bool(exclude_outside), antialias=bool(antialias), box=box, outside=extrapolation_value,
    )  # fmt: skip


def _resized(
    a: Tensor, wanted: list[int] | None, factors: Sequence[float], mode: str, coordinates: str, rounding: str, *,
    a_cubic: float = -0.75, excludes: bool = False, antialias: bool = False,
    box: dict[int, tuple[float, float]] | None = None, outside: float = 0.0,
) -> Tensor:  # fmt: skip
    sizes = wanted or [  # in the precision of the factors
        math.floor(np.float32(size) * np.float32(factor)) for size, factor in zip(a.shape, factors, strict=True)
    ]
    if sizes == list(a.shape) and not box:
        return a  # as ONNX Runtime does, also where a factor is not quite 1
    fast = (
        None if antialias or box else _fast(a, sizes, factors, mode, coordinates, rounding, a_cubic, excludes=excludes)
    )
    if fast is not None:
        return fast
    kind = a.dtype
    a = a if a.is_floating_point() else a.float()
    for dim, (size, factor) in enumerate(zip(sizes, factors, strict=True)):
        if size == a.shape[dim] and factor == 1.0:
            continue  # also in the place of a crop
        at = _places(a.shape[dim], size, factor, coordinates, (box or {}).get(dim, (0.0, 1.0)))
        weights = _weights(a.shape[dim], at, factor, mode, rounding, a_cubic, excludes=excludes, antialias=antialias)
        matrix = torch.from_numpy(weights.astype(np.float32)).to(a.device, a.dtype)
        a = torch.movedim(torch.movedim(a, dim, -1) @ matrix.t(), -1, dim)
        if coordinates == "tf_crop_and_resize":
            beyond = torch.from_numpy((at < 0) | (at > matrix.shape[1] - 1)).to(a.device)
            shape = [1] * a.dim()
            shape[dim] = size
            a = torch.where(beyond.reshape(shape), torch.full_like(a, outside), a)
    return a if kind.is_floating_point else a.round().to(kind)


def _fast(
    a: Tensor, sizes: Sequence[int], factors: Sequence[float], mode: str, coordinates: str, rounding: str, a_cubic: float, *, excludes: bool,
) -> Tensor | None:  # fmt: skip
    """Return what PyTorch's own function gives, where it means the same: the scale is the ratio of the sizes."""
    exact = all(abs(size - have * factor) < 1e-6 for size, have, factor in zip(sizes, a.shape, factors, strict=True))
    if not exact or a.dim() not in _LINEAR or list(sizes[:2]) != list(a.shape[:2]) or not a.is_floating_point():
        return None
    larger = all(factor >= 1 and factor == int(factor) for factor in factors[2:])
    if mode == "nearest" and larger and coordinates == "asymmetric" and rounding in ("floor", "simple"):
        return F.interpolate(a, list(sizes[2:]), mode="nearest")
    if mode == "linear" and coordinates in ("half_pixel", "align_corners", "pytorch_half_pixel"):
        if coordinates == "pytorch_half_pixel" and 1 in sizes[2:]:
            return None
        return F.interpolate(a, list(sizes[2:]), mode=_LINEAR[a.dim()], align_corners=coordinates == "align_corners")
    if (
        mode == "cubic"
        and a.dim() == 4
        and a_cubic == -0.75
        and not excludes
        and coordinates in ("half_pixel", "align_corners")
    ):
        return F.interpolate(a, list(sizes[2:]), mode="bicubic", align_corners=coordinates == "align_corners")
    return None


def _places(length: int, size: int, factor: float, coordinates: str, box: tuple[float, float]) -> Array:
    """Return where each number of the result lies on the axis of the input; in single precision, which decides ties."""
    at, factor = np.arange(size, dtype=np.float32), float(np.float32(factor))
    if coordinates == "asymmetric":
        return at / factor
    if coordinates == "align_corners":
        return at * ((length - 1) / (size - 1)) if size > 1 else np.zeros(size)
    if coordinates == "pytorch_half_pixel" and size == 1:
        return np.zeros(size)
    if coordinates == "tf_half_pixel_for_nn":
        return (at + 0.5) / factor
    if coordinates == "half_pixel_symmetric":
        whole = factor * length
        adjustment = size / whole
        centre = length / 2
        return centre * (1 - adjustment) + (at + 0.5) / factor - 0.5
    if coordinates == "tf_crop_and_resize":
        start, end = box
        if size == 1:
            return np.full(size, 0.5 * (start + end) * (length - 1))
        return start * (length - 1) + at * (end - start) * (length - 1) / (size - 1)
    return (at + 0.5) / factor - 0.5


def _weights(
    length: int, at: Array, factor: float, mode: str, rounding: str, a_cubic: float, *, excludes: bool, antialias: bool
) -> Array:
    """Return the share of each number of the input in each number of the result, ``[size, length]``."""
    result = np.zeros((len(at), length))
    rows = np.arange(len(at))
    if mode == "nearest":
        whole = _rounded(at, ("ceil" if factor < 1 else "floor") if rounding == "simple" else rounding)
        result[rows, np.clip(whole, 0, length - 1)] = 1
        return result
    reach = 1 if mode == "linear" else 2
    stretch = max(1.0, 1 / factor) if antialias else 1.0
    lowest = np.floor(at - reach * stretch).astype(int) if antialias else np.floor(at).astype(int) - reach + 1
    taps = int(2 * math.ceil(reach * stretch) + 2) if antialias else 2 * reach
    for tap in range(taps):
        place = lowest + tap
        share = _kernel(np.abs(place - at) / stretch, mode, a_cubic)
        if excludes or antialias:
            share = np.where((place < 0) | (place >= length), 0, share)
        np.add.at(result, (rows, np.clip(place, 0, length - 1)), share)
    if excludes or antialias:
        result /= result.sum(1, keepdims=True)
    return result


def _kernel(distance: Array, mode: str, a: float) -> Array:
    """Return the share of a number at this distance; Keys 1981 for cubic."""
    share: Array
    if mode == "linear":
        share = np.clip(1 - distance, 0, None)
    else:
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = a * (((distance - 5) * distance + 8) * distance - 4)
        share = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    return share


def _rounded(at: Array, rounding: str) -> Array:
    if rounding == "floor":
        return np.floor(at).astype(int)
    if rounding == "ceil":
        return np.ceil(at).astype(int)
    if rounding == "round_prefer_ceil":
        return np.floor(at + 0.5).astype(int)
    return np.ceil(at - 0.5).astype(int)


@op("GridSample")
def grid_sample(
    a: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    """Return the values at places between pixels."""
    kind = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return F.grid_sample(a, grid, mode=kind, padding_mode=padding_mode, align_corners=bool(align_corners))


@op("AffineGrid", host=(1,))
def affine_grid(theta: Tensor, size: Tensor, *, align_corners: int = 0) -> Tensor:
    """Return the places that a matrix moves the pixels to."""
    return F.affine_grid(theta, ints(size), align_corners=bool(align_corners))
