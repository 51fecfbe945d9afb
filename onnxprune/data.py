"""The data that users give: an .npz file with one array per input of the model, and perhaps labels.

Every problem is a `DataError` that names the array, what was expected and what was found; nothing is guessed
from the order of arrays or from similar names.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxprune.errors import DataError, OptionError
from onnxprune.model import Array, Port

LABELS = "labels"  # the name of the array of labels, unless the model has an input of this name


@dataclass(frozen=True, eq=False)
class Data:
    """Samples for a model, in memory."""

    feeds: Mapping[str, Array]  # by input name, ``[samples, ...]``; rank 0 where the input is a scalar
    labels: Array | None  # int64 ``[samples]``, the index of the right class
    count: int  # samples


def load_data(path: Path, inputs: Sequence[Port]) -> Data:
    """Return the samples of an .npz file, checked against the inputs of a model and cast to their types.

    Args:
        path: the file: one array ``[samples, ...]`` per input, by name, and optionally ``labels`` ``[samples]``.
        inputs: the inputs of the model.

    Raises:
        DataError: when the file cannot be read, an array is missing, unknown, of the wrong shape or type,
            holds NaN or infinities, or the numbers of samples differ.
    """
    arrays = _read(path)
    _check_names(path, arrays, inputs)
    feeds = {port.name: _fitted(path, arrays[port.name], port) for port in inputs}
    counts = {name: len(array) for name, array in feeds.items() if array.ndim}
    if not counts:
        raise DataError(f"{path}: the model has no input with an axis of samples")
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise DataError(f"{path}: the arrays hold different numbers of samples (their first axis): {each}")
    count = next(iter(counts.values()))
    _check_count(path, count, inputs)
    has_labels = LABELS in arrays and LABELS not in feeds
    return Data(feeds, _labels(path, arrays[LABELS], count) if has_labels else None, count)


def with_shapes(inputs: Sequence[Port], shapes: Mapping[str, Sequence[int]]) -> tuple[Port, ...]:
    """Return the inputs of a model with the dims that `shapes` fixes, also in other inputs that share a dim's name.

    >>> ports = [Port("x", None, ("n", 3, "h")), Port("m", None, ("n",))]
    >>> [port.shape for port in with_shapes(ports, {"x": (2, 3, 32)})]
    [(2, 3, 32), (2,)]

    Raises:
        OptionError: for an input that is not there, a shape that it cannot have, or two sizes of one dim.
    """
    known = {port.name: port for port in inputs}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in known:
            there = ", ".join(map(_described, inputs))
            raise OptionError(f"input {name!r} is not one of the model, which takes {there}")
        stated = known[name].shape
        fits = stated is None or len(stated) == len(shape)
        if not fits or any(isinstance(dim, int) and dim != n for dim, n in zip(stated or (), shape, strict=False)):
            raise OptionError(
                f"input {name!r}: shape {list(shape)} does not fit, the model takes {_described(known[name])}"
            )
        for dim, n in zip(stated or (), shape, strict=False):
            if isinstance(dim, str) and sizes.setdefault(dim, n) != n:
                given = f"input {name!r}: shape {list(shape)}"
                raise OptionError(f"{given} gives dim {dim!r} the size {n}, another input {sizes[dim]}")
    return tuple(replace(port, shape=_fixed(port, shapes.get(port.name), sizes)) for port in inputs)


def _fixed(port: Port, shape: Sequence[int] | None, sizes: Mapping[str, int]) -> tuple[int | str | None, ...] | None:
    if shape is not None or port.shape is None:
        return None if shape is None else tuple(shape)
    return tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in port.shape)


def batch_size(inputs: Sequence[Port], wanted: int) -> int:
    """Return the samples that the model takes at once: its static first dim, `wanted` where that is dynamic.

    >>> batch_size([Port("x", None, (1, 3, 224, 224))], 8), batch_size([Port("x", None, ("n", 3))], 8)
    (1, 8)
    """
    return next(iter(_static_firsts(inputs).values()), wanted)


def batches(data: Data, size: int) -> Iterator[dict[str, Array]]:
    """Yield feeds of `size` samples each, in order; the last may be smaller."""
    for start in range(0, data.count, size):
        yield {n: a[start : start + size] if a.ndim else a for n, a in data.feeds.items()}


def _static_firsts(inputs: Sequence[Port]) -> dict[str, int]:
    firsts = {port.name: port.shape[0] for port in inputs if port.shape}
    return {name: dim for name, dim in firsts.items() if isinstance(dim, int)}


def _read(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with contextlib.ExitStack() as stack:
        try:
            # Opened here: numpy leaves a file open that turns out to be no archive.
            found = np.load(stack.enter_context(path.open("rb")), allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):
            found = None
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: not an .npz file; write one with numpy.savez(path, INPUT_NAME=array)")
        return {name: _member(path, found, name) for name in found.files}


def _member(path: Path, file: np.lib.npyio.NpzFile, name: str) -> Array:
    try:
        return np.asarray(file[name])
    except ValueError:
        message = "holds Python objects, which are not read; expected an array of numbers"
        raise DataError(f"{path}: array {name!r} {message}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise DataError(f"{path}: array {name!r} cannot be read: the file is damaged") from None


def _check_names(path: Path, arrays: Mapping[str, Array], inputs: Sequence[Port]) -> None:
    names = [port.name for port in inputs]
    takes = ", ".join(_described(port) for port in inputs)
    there = ", ".join(repr(name) for name in arrays) or "nothing"
    for name in names:
        if name not in arrays:
            message = f"no array for input {name!r}; the model takes {takes}, the file holds {there}"
            raise DataError(f"{path}: {message}")
    for name in arrays:
        if name not in names and name != LABELS:
            message = f"array {name!r} is neither an input of the model nor {LABELS!r}; the model takes {takes}"
            raise DataError(f"{path}: {message}")


def _described(port: Port) -> str:
    """Return name, type and shape of an input: ``'x' float32 [batch, 3, ?]``."""
    dtype = port.dtype.name if port.dtype is not None else "(no tensor)"
    dims = "of any shape" if port.shape is None else f"[{', '.join(str(d or '?') for d in port.shape)}]"
    return f"{port.name!r} {dtype} {dims}"


def _fitted(path: Path, array: Array, port: Port) -> Array:
    """Return the array of an input in the type of the input, after all checks of shape, type and values."""
    if port.dtype is None:
        raise DataError(f"{path}: input {port.name!r} is no tensor; an .npz file cannot hold data for it")
    shape = port.shape
    if shape is not None and not _fits(array.shape, shape):
        expected = f"expected {_described(port)} with the samples along the first axis"
        raise DataError(f"{path}: array {port.name!r} has shape {list(array.shape)}, {expected}")
    if array.ndim and not len(array):
        raise DataError(f"{path}: array {port.name!r} of shape {list(array.shape)} holds no samples")
    _check_finite(path, port.name, array)
    return _cast(path, array, port.name, port.dtype)


def _fits(shape: tuple[int, ...], dims: tuple[int | str | None, ...]) -> bool:
    """Whether an array fits an input, the first axis aside: it counts samples."""
    pairs = list(zip(shape, dims, strict=False))[1:]
    return len(shape) == len(dims) and all(not isinstance(dim, int) or n == dim for n, dim in pairs)


def _check_finite(path: Path, name: str, array: Array) -> None:
    if array.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        first = f", the first in sample {int(np.argwhere(bad)[0][0])}" if array.ndim else ""
        raise DataError(f"{path}: array {name!r} holds {int(bad.sum())} NaN or infinite values{first}")


def _cast(path: Path, array: Array, name: str, dtype: np.dtype[np.generic]) -> Array:
    """Return `array` as `dtype` where that keeps its meaning: to floats, wider or fitting integers."""
    if array.dtype == dtype or (dtype.kind == "O" and array.dtype.kind == "U"):
        return array.astype(dtype, copy=False)
    old, new = _kind(array.dtype), _kind(dtype)
    if (old, new) not in {("float", "float"), ("int", "float"), ("bool", "float"), ("int", "int"), ("bool", "int")}:
        message = f"has type {array.dtype}, the input takes {dtype}; convert the array as is right for the model"
        raise DataError(f"{path}: array {name!r} {message}")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if new == "float":
        kept = np.isfinite(cast.astype(np.float64))
    else:  # the way back alone is not enough: uint64 and int64 wrap around both ways
        kept = (cast.astype(array.dtype) == array) & ((cast < 0) == (array < 0))
    if not kept.all():
        message = f"of type {array.dtype} holds values that do not fit {dtype}, the type of the input"
        raise DataError(f"{path}: array {name!r} {message}")
    return cast


def _kind(dtype: np.dtype[np.generic]) -> str:
    """Return float, int, bool or other; by name, because numpy's kinds do not know bfloat16 and int4."""
    return next((kind for kind in ("float", "int", "bool") if kind in dtype.name), "other")


def _check_count(path: Path, count: int, inputs: Sequence[Port]) -> None:
    firsts = _static_firsts(inputs)
    if len(set(firsts.values())) > 1:
        each = ", ".join(f"{name!r} {dim}" for name, dim in firsts.items())
        message = f"its inputs take different numbers of samples at once: {each}"
        raise DataError(f"{path}: the model cannot be fed sample by sample, {message}")
    for name, size in firsts.items():
        if count % size:
            message = f"input {name!r} takes exactly {size} at once; give a multiple of {size}"
            raise DataError(f"{path}: {count} samples, but {message}")


def _labels(path: Path, labels: Array, count: int) -> Array:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        expected = f"expected [{count}] integers, one class index per sample"
        raise DataError(f"{path}: array {LABELS!r} has shape {list(labels.shape)} and type {labels.dtype}, {expected}")
    return labels.astype(np.int64)
