"""Fourier transforms, windows, complex numbers as pairs, and convolutions that look back alone."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.training.operators.fused import MS
from onnxprune.training.operators.registry import ints, line, op
from onnxprune.training.operators.types import torch_type

Tensor = torch.Tensor

# fmt: off
line(MS + "Rfft",           lambda a, *, signal_ndim=1, onesided=1, normalized=0: torch.view_as_real(torch.fft.rfftn(a, dim=_last(signal_ndim))))
line(MS + "Irfft",          lambda a, *, signal_ndim, onesided=1, normalized=0: torch.fft.irfftn(torch.view_as_complex(a.contiguous()), dim=_last(signal_ndim)))
line(MS + "ComplexMul",     lambda a, b: _product(a, b, 1))
line(MS + "ComplexMulConj", lambda a, b: _product(a, b, -1))
line("HannWindow",          lambda size, *, output_datatype=1, periodic=1: _window(size, output_datatype, periodic, (0.5, 0.5)), host=(0,))
line("HammingWindow",       lambda size, *, output_datatype=1, periodic=1: _window(size, output_datatype, periodic, (25 / 46, 21 / 46)), host=(0,))
line("BlackmanWindow",      lambda size, *, output_datatype=1, periodic=1: _window(size, output_datatype, periodic, (0.42, 0.5, 0.08)), host=(0,))
# fmt: on


def _last(count: int) -> list[int]:
    return list(range(-count, 0))


def _product(a: Tensor, b: Tensor, sign: int) -> Tensor:
    """Return the product of complex numbers, the second of them conjugated where the sign is -1."""
    real, imaginary, other, way = a[..., 0], a[..., 1], b[..., 0], sign * b[..., 1]
    return torch.stack((real * other - imaginary * way, real * way + imaginary * other), -1)


def _window(size: Tensor, data_type: int, periodic: int, terms: tuple[float, ...]) -> Tensor:
    count = ints(size)[0]
    angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / (count if periodic else count - 1)
    total = sum(((-1) ** k * term * torch.cos(k * angle) for k, term in enumerate(terms)), torch.zeros(count).double())
    return total.to(torch_type(data_type))


# -- Fourier -------------------------------------------------------------------------------------------


@op("DFT", host=(1,), since=17)
def dft_17(a: Tensor, length: Tensor | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0) -> Tensor:
    """Return the transform along an axis, which the attribute states."""
    return _transformed(a, None if length is None else ints(length)[0], axis, inverse, onesided)


@op("DFT", host=(1, 2), since=20)
def dft(
    a: Tensor, length: Tensor | None = None, axis: Tensor | None = None, *, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """Return the transform along an axis."""
    dim = -2 if axis is None else ints(axis)[0]
    return _transformed(a, None if length is None else ints(length)[0], dim, inverse, onesided)


def _transformed(a: Tensor, length: int | None, axis: int, inverse: int, onesided: int) -> Tensor:
    """The last axis holds real and imaginary parts, or real ones alone."""
    dim = axis if axis >= 0 else axis + a.dim()
    numbers = torch.view_as_complex(a.contiguous()) if a.shape[-1] == 2 else a[..., 0]
    if inverse and onesided:
        signal: Tensor = torch.fft.irfft(numbers, length, dim)
        return signal.unsqueeze(-1)
    if onesided:
        result = torch.fft.rfft(numbers.real if numbers.is_complex() else numbers, length, dim)
    else:
        result = torch.fft.ifft(numbers, length, dim) if inverse else torch.fft.fft(numbers, length, dim)
    return torch.view_as_real(result)


@op("STFT", host=(1, 3))
def stft(
    a: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None, *, onesided: int = 1
) -> Tensor:
    """Return the transforms of windows that move over a signal, ``[b, frames, bins, 2]``."""
    size = ints(length)[0] if length is not None else len(window) if window is not None else a.shape[1]
    numbers = torch.view_as_complex(a.contiguous()) if a.shape[-1] == 2 and a.dim() == 3 else a.reshape(*a.shape[:2])
    frames = numbers.unfold(1, size, ints(step)[0])
    frames = frames if window is None else frames * window
    if onesided:
        return torch.view_as_real(torch.fft.rfft(frames.real if frames.is_complex() else frames))
    return torch.view_as_real(torch.fft.fft(frames))


@op("MelWeightMatrix", host=(0, 1, 2, 3, 4))
def mel_weight_matrix(
    bins: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor, *, output_datatype: int = 1
) -> Tensor:
    """Return the triangles of a scale that follows the ear, ``[spectrogram bins, bins]``.

    https://onnx.ai/onnx/operators/onnx__MelWeightMatrix.html
    """
    count, size, samples = int(bins), int(length), int(rate)
    ends = [2595 * math.log10(1 + float(end) / 700) for end in (low, high)]
    mels = ends[0] + np.arange(count + 2) * (ends[1] - ends[0]) / (count + 2)
    places = ((size + 1) * (700 * (10 ** (mels / 2595) - 1)) / samples).astype(np.int64)
    result = np.zeros((size // 2 + 1, count))
    for k in range(count):
        start, middle, end = places[k : k + 3]
        if middle == start:
            result[middle, k] = 1
        else:
            result[start : middle + 1, k] = (np.arange(start, middle + 1) - start) / (middle - start)
        if end > middle:
            result[middle:end, k] = (end - np.arange(middle, end)) / (end - middle)
    return torch.from_numpy(result).to(torch_type(output_datatype))


# -- looking back --------------------------------------------------------------------------------------


@op("CausalConvWithState", MS + "CausalConvWithState", weights=(1, 2))
def causal_conv(
    a: Tensor, w: Tensor, b: Tensor | None = None, state: Tensor | None = None, *, outputs: int,
    activation: str = "none", channels_last: int = 0, dilation: int = 1, input_channel_offset: int = 0,
    input_channels: int = 0, ndim: int = 1, state_channels_last: int = -1, state_length: int = 0,
    state_update_capacity: int = 0, state_window: int = 0,
) -> object:  # fmt: skip
    """Return the convolution of each channel with what lies before, and the end of what was seen.

    Raises:
        ValueError: for layouts that only some devices have.
    """
    if ndim != 1 or channels_last or state_window or state_length or input_channels or state_update_capacity:
        raise ValueError("its channels lie last, or it has several axes or states: not known")
    reach = (w.shape[2] - 1) * dilation
    whole = F.pad(a, (reach, 0)) if state is None else torch.cat((state, a), 2)
    result = F.conv1d(whole, w, b, dilation=dilation, groups=w.shape[0])
    result = F.silu(result) if activation in ("silu", "swish") else result
    return result if outputs == 1 else (result, whole[..., whole.shape[2] - reach :])
