"""Small pictures of what goes into or comes out of a model, as PNG, without a package that draws."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

from onnxprune.graph.tensors import Array

MOST_PIXELS = 96  # of the longer side
_LONGEST = 4  # times the shorter side: what is longer holds boxes or words


def thumbnail(array: Array) -> str | None:
    """Return a picture of an array as a data URI; None where it is none.

    A picture is ``[channels, height, width]`` or ``[height, width, channels]`` with 1 or 3 channels, or ``[height,
    width]``, of 8 pixels a side or more, and at most four times as long as wide. Its numbers are spread over the greys:
    what they mean is not known.

    >>> thumbnail(np.zeros((1, 8, 8)))[:22]
    'data:image/png;base64,'
    """
    pixels = _pixels(array)
    if pixels is None:
        return None
    return "data:image/png;base64," + base64.b64encode(png(_shrunk(_spread(pixels)))).decode()


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return ``[height, width, 1 or 3]`` as the bytes of a PNG (ISO/IEC 15948)."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _pixels(array: Array) -> npt.NDArray[np.float64] | None:
    """Return a picture with its channels last."""
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3):
        return None
    image = array[None] if array.ndim == 2 else array
    if image.shape[0] in (1, 3) and min(image.shape[1:]) >= 8:
        image = np.moveaxis(image, 0, -1)
    shorter, longer = sorted(image.shape[:2])
    if image.shape[-1] not in (1, 3) or shorter < 8 or longer > _LONGEST * shorter:
        return None
    return np.nan_to_num(image.astype(np.float64), posinf=0.0, neginf=0.0)


def _spread(image: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    low, high = image.min(), image.max()
    greys: npt.NDArray[np.uint8] = np.round(255 * (image - low) / max(high - low, 1e-12)).astype(np.uint8)
    return greys


def _shrunk(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return an image whose longer side has at most `MOST_PIXELS`: each pixel the mean of a square."""
    step = -(-max(image.shape[:2]) // MOST_PIXELS)
    height, width = (max(1, side // step) for side in image.shape[:2])
    cut = image[: height * step, : width * step].astype(np.float64)
    if cut.shape[0] < height * step or cut.shape[1] < width * step:
        return image[::step, ::step]
    means = cut.reshape(height, step, width, step, -1).mean(axis=(1, 3))
    small: npt.NDArray[np.uint8] = np.round(means).astype(np.uint8)
    return small
