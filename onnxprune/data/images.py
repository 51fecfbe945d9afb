"""Images as samples: how their pixels become the numbers that a model takes.

Pillow reads them; it is imported only where there are images.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune import check
from onnxprune.data.columns import Column
from onnxprune.data.fitting import described, fitted
from onnxprune.data.opening import open_ordinary
from onnxprune.errors import DataError, OptionError
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF", "TIFF")  # never one that another program decodes
_MOST_PIXELS = 178_956_970  # of an image, as it is and as it becomes: twice what Pillow takes for usual
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr", "LAB", "HSV")  # 8 bits


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes an array: resized, cropped, then ``(pixel / scale - mean) / std``."""

    mean: tuple[float, ...] = (0.0,)  # one number, or one for each channel in the order of `color`
    std: tuple[float, ...] = (1.0,)  # likewise
    scale: float = 255.0  # what pixels, 0 to 255, are divided by first
    size: tuple[int, int] | None = None  # height and width; None takes the model's
    crop: float = 1.0  # share of the resized image that the size covers; the shorter side becomes size / crop
    fit: str = "crop"  # "crop" keeps the proportions and cuts the middle out, "stretch" does neither
    resample: str = "bilinear"  # "nearest", "bilinear" or "bicubic"
    color: str | None = None  # "rgb", "bgr" or "grey"; None: rgb, or grey where the model takes one channel
    layout: str | None = None  # "nchw" or "nhwc"; None: by the shape of the input


PRESETS = {
    "imagenet": Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=0.875),
    "tf": Preprocess(mean=(0.5,), std=(0.5,)),  # -1 to 1
    "unit": Preprocess(),  # 0 to 1
    "raw": Preprocess(scale=1.0),  # 0 to 255
}
_CHOICES = {
    "fit": ("crop", "stretch"),
    "resample": ("nearest", "bilinear", "bicubic"),
    "color": ("rgb", "bgr", "grey"),
    "layout": ("nchw", "nhwc"),
}


# -- the option --------------------------------------------------------------------------------------------


def make_preprocess(option: Any) -> Preprocess | None:
    """Return the checked `Preprocess` for a value of the option; None for None.

    Settings stand between commas or semicolons, and may follow a preset.

    >>> make_preprocess("tf,size=240,layout=nhwc").size
    (240, 240)
    >>> make_preprocess("mean=123.7,116.3,103.5;scale=1;color=bgr").mean
    (123.7, 116.3, 103.5)

    Raises:
        OptionError: for an unknown setting, or a value outside its range.
    """
    if option is None or isinstance(option, Preprocess):
        return option if option is None else _checked(option, explicit=True)
    if not isinstance(option, str):
        raise OptionError(f"preprocess must be text such as 'imagenet,size=240' or a Preprocess, got {option!r}")
    preset, settings = _settings(option)
    start = PRESETS[check.choice("preprocess preset", preset, PRESETS)] if preset else Preprocess()
    values = {name: _value(name, items) for name, items in settings.items()}
    return _checked(replace(start, **values), explicit=preset == "raw" or "scale" in values)


def _settings(text: str) -> tuple[str, dict[str, list[str]]]:
    """Split the text into the name of a preset and the values of each setting."""
    preset, settings, last = "", dict[str, list[str]](), ""
    known = [field.name for field in fields(Preprocess)]
    for i, item in enumerate(part.strip() for part in text.replace(";", ",").split(",")):
        name, equals, value = (part.strip() for part in item.partition("="))
        if equals:
            if name not in known:
                raise OptionError(f"preprocess has no setting {name!r}; there are: {', '.join(known)}")
            last, settings[name] = name, [value]
        elif last:
            settings[last].append(item)
        elif i == 0 and item:
            preset = item
        else:
            raise OptionError(f"preprocess takes a preset and NAME=VALUE, such as 'imagenet,size=240', got {text!r}")
    return preset, settings


def _value(name: str, items: Sequence[str]) -> Any:
    try:
        if name in ("mean", "std"):
            return tuple(float(item) for item in items)
        (item,) = items
        if name == "size":
            height, _, width = item.partition("x")
            return int(height), int(width or height)
        return float(item) if name in ("scale", "crop") else item
    except ValueError:
        example = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225", "size": "224 or 224x320"}
        takes = example.get(name, "one number" if name in ("scale", "crop") else "one of its names")
        raise OptionError(f"preprocess setting {name!r} takes {takes}, got {','.join(items)!r}") from None


def _checked(preprocess: Preprocess, explicit: bool) -> Preprocess:
    """Raise OptionError for a value outside its range; `explicit` is whether the user set the scale."""
    for name, known in _CHOICES.items():
        if (value := getattr(preprocess, name)) is not None:
            check.choice(f"preprocess setting {name}", value, known)
    for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) not in (1, 3):
            raise OptionError(f"preprocess setting {name!r} takes one number or three, got {len(values)}")
        if not all(math.isfinite(value) and (name == "mean" or value > 0) for value in values):
            raise OptionError(f"preprocess setting {name!r} holds numbers that it cannot have: {list(values)}")
    if not explicit and max(map(abs, preprocess.mean)) > 1:
        raise OptionError(
            f"preprocess setting 'mean' is {list(preprocess.mean)}, but pixels go from 0 to 1; "
            "add scale=1 if it is meant for pixels from 0 to 255"
        )
    check.positive("preprocess setting 'scale'", preprocess.scale)
    if check.positive("preprocess setting 'crop'", preprocess.crop) > 1:
        raise OptionError(f"preprocess setting 'crop' is a share of the image, at most 1, got {preprocess.crop:g}")
    if preprocess.size is not None and not 1 <= min(preprocess.size) <= math.prod(preprocess.size) <= _MOST_PIXELS:
        bound = "at least 1" if min(preprocess.size) < 1 else f"of at most {_MOST_PIXELS:,} pixels"
        raise OptionError(f"preprocess setting 'size' must be {bound}, got {'x'.join(map(str, preprocess.size))}")
    return preprocess


# -- images ------------------------------------------------------------------------------------------------


def image_column(folder: Path, paths: Sequence[Path], inputs: Sequence[Port], preprocess: Preprocess | None) -> Column:
    """Return images as samples of the model's one input, read on access.

    Each file is opened here once, so that one that is no image raises at once.

    Raises:
        DataError: when Pillow is missing, the model takes no images, or an image cannot be read or is of another size.
    """
    port = _image_input(folder, inputs)
    settings = _completed(folder, port, preprocess)
    sizes = {path: _opened(path, lambda image: (image.height, image.width)) for path in paths}
    if settings.size is None:
        settings = replace(settings, size=_common_size(folder, port, settings, sizes))
    height, width = settings.size or (0, 0)
    channels = 1 if settings.color == "grey" else 3
    shape = (channels, height, width) if settings.layout == "nchw" else (height, width, channels)
    dtype = np.dtype(np.float32) if port.dtype is None else port.dtype

    def read(row: int) -> Array:
        pixels = _opened(paths[row], lambda image: _pixels(paths[row], image, settings))
        array: Array = fitted(paths[row], _numbers(pixels, settings)[None], port)[0]
        return array

    return Column([shape] * len(paths), dtype, read)


def _image_input(folder: Path, inputs: Sequence[Port]) -> Port:
    takes = ", ".join(map(described, inputs))
    if len(inputs) != 1 or inputs[0].dtype is None or (inputs[0].shape is not None and len(inputs[0].shape) != 4):
        raise DataError(
            f"{folder}: the model takes {takes}, which images cannot be; "
            "expected one input of four dims: give .npz files, or a function as module:function"
        )
    return inputs[0]


def _completed(folder: Path, port: Port, preprocess: Preprocess | None) -> Preprocess:
    """Return the settings, completed by the shape and type of the input.

    Raises:
        DataError: when these do not determine a setting, or contradict one.
    """
    is_int = "int" in str(port.dtype)
    if preprocess is None and not is_int:
        raise DataError(
            f"{folder}: images need --preprocess, the one that the model was trained with: "
            f"{', '.join(PRESETS)}, or mean=...,std=...; see docs/data.md"
        )
    settings = preprocess or PRESETS["raw"]
    if is_int and not _is_raw(settings):
        raise DataError(f"{folder}: {described(port)} takes pixels as they are; give --preprocess raw")
    dims = port.shape or (None,) * 4
    layout = settings.layout or _layout(folder, port)
    height, width, channels = (dims[2], dims[3], dims[1]) if layout == "nchw" else dims[1:]
    color = settings.color or ("grey" if channels == 1 else "rgb")
    wanted = 1 if color == "grey" else 3
    if isinstance(channels, int) and channels != wanted:
        message = f"images in {color} and {layout} have {wanted} channels, the model takes {described(port)}"
        raise DataError(f"{folder}: {message}; say another color or layout in --preprocess")
    if wanted == 1 and max(len(settings.mean), len(settings.std)) > 1:
        raise DataError(f"{folder}: grey images have one channel; give one mean and one std in --preprocess")
    static = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    size = settings.size or static
    for side, dim in zip(size or (), (height, width), strict=False):
        if isinstance(dim, int) and side != dim:
            message = f"size {'x'.join(map(str, size or ()))} does not fit, the model takes {described(port)}"
            raise DataError(f"{folder}: {message}")
    return replace(settings, size=size, layout=layout, color=color)


def _layout(folder: Path, port: Port) -> str:
    dims = port.shape or (None,) * 4
    first, last = dims[1] in (1, 3), dims[3] in (1, 3)
    if first == last:
        message = f"the model takes {described(port)}, which does not say where the channels are"
        raise DataError(f"{folder}: {message}; add layout=nchw or layout=nhwc to --preprocess")
    return "nchw" if first else "nhwc"


def _common_size(folder: Path, port: Port, settings: Preprocess, sizes: dict[Path, tuple[int, int]]) -> tuple[int, int]:
    """Return the size of all images, where neither the model nor the settings give one."""
    dims = port.shape or (None,) * 4
    stated = dims[2:] if settings.layout == "nchw" else dims[1:3]
    by_size = {size: path for path, size in reversed(sizes.items())}
    fits = all(not isinstance(dim, int) or n == dim for size in by_size for n, dim in zip(size, stated, strict=True))
    if len(by_size) > 1 or settings.crop != 1 or not fits:
        listed = ", ".join(f"{path.name} {h}x{w}" for (h, w), path in list(by_size.items())[:-3:-1])
        message = f"the model takes {described(port)}, and the images are {listed} (height x width)"
        raise DataError(f"{folder}: {message}; add size=HEIGHTxWIDTH to --preprocess")
    return next(iter(by_size))


def _is_raw(settings: Preprocess) -> bool:
    return set(settings.mean) == {0.0} and set(settings.std) == {1.0} and settings.scale == 1


def _opened(path: Path, use: Callable[[Any], Any]) -> Any:
    """Return what `use` makes of an image of Pillow."""
    try:
        from PIL import Image  # noqa: PLC0415 - an extra, for those who have images
    except ImportError:
        raise DataError(f"{path}: images are read by Pillow; pip install 'onnxprune[images]' installs it") from None
    try:
        with open_ordinary(path) as file, _silenced(), Image.open(file, formats=_FORMATS) as image:
            mode, (width, height) = image.mode, image.size
            if mode in _MODES and width * height <= _MOST_PIXELS:
                return use(image)
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(
            f"{path}: has more than {_MOST_PIXELS:,} pixels, the most that are read; scale it down"
        ) from None
    except Exception as error:  # whatever a damaged file makes a decoder raise
        message = "cannot be read as an image: it is damaged, or of another format than its name says"
        raise DataError(f"{path}: {message} ({type(error).__name__})") from error
    if width * height > _MOST_PIXELS:
        raise DataError(f"{path}: has {width}x{height} pixels, at most {_MOST_PIXELS:,} are read; scale it down")
    raise DataError(f"{path}: has pixels of mode {mode}, expected 8 bits a channel; convert it, or give .npy files")


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep what Pillow warns of from the terminal: sizes are checked here, and odd metadata is not read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _pixels(path: Path, image: Any, settings: Preprocess) -> Array:
    """Return the pixels ``[height, width, channels]``, resized and cropped, in the order of channels that is wanted."""
    height, width = settings.size or (image.height, image.width)
    wanted = "L" if settings.color == "grey" else "RGB"
    image = image if image.mode == wanted else image.convert(wanted)
    if settings.fit == "stretch":
        resized = (width, height)
    else:
        covered = math.floor(height / settings.crop) / image.height, math.floor(width / settings.crop) / image.width
        factor = max(covered)
        resized = (max(width, int(image.width * factor + 1e-6)), max(height, int(image.height * factor + 1e-6)))
    if math.prod(resized) > _MOST_PIXELS:
        becomes = f"{image.width}x{image.height} would become {resized[0]}x{resized[1]} before it is cropped"
        raise DataError(f"{path}: {becomes}, at most {_MOST_PIXELS:,} pixels are made; cut it, or say fit=stretch")
    if resized != image.size:
        from PIL import Image  # noqa: PLC0415

        image = image.resize(resized, getattr(Image.Resampling, settings.resample.upper()))
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    array = np.asarray(image.crop((left, top, left + width, top + height)), np.uint8).reshape(height, width, -1)
    return np.flip(array, -1) if settings.color == "bgr" else array


def _numbers(pixels: Array, settings: Preprocess) -> Array:
    """Return pixels as the numbers that the model takes, in its layout, without the axis of samples."""
    if not _is_raw(settings):
        mean, std = np.asarray(settings.mean, np.float32), np.asarray(settings.std, np.float32)
        pixels = (pixels.astype(np.float32) / np.float32(settings.scale) - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if settings.layout == "nchw" else pixels)
