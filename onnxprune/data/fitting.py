"""Whether an array fits an input of a model: names, shapes, types and values, and the cast to the input's type.

Every problem is a `DataError` that begins with the source of the array (`where`) and names the array, what was
expected and what it holds; nothing is guessed from the order of arrays or from similar names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnxprune.errors import DataError
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array

LABELS = "labels"  # the name of the array of labels, unless the model has an input of this name


def static_firsts(inputs: Sequence[Port]) -> dict[str, int]:
    """Return by input the number of samples that the model takes at once, where it fixes it."""
    firsts = {port.name: port.shape[0] for port in inputs if port.shape}
    return {name: dim for name, dim in firsts.items() if isinstance(dim, int)}


def check_names(where: object, names: Iterable[str], inputs: Sequence[Port], holder: str = "the file") -> None:
    """Raise DataError unless there is an array for each input, and no other but labels."""
    arrays = list(names)
    wanted = [port.name for port in inputs]
    takes = ", ".join(described(port) for port in inputs)
    there = ", ".join(repr(name) for name in arrays) or "nothing"
    for name in wanted:
        if name not in arrays:
            message = f"no array for input {name!r}; the model takes {takes}, {holder} holds {there}"
            raise DataError(f"{where}: {message}")
    for name in arrays:
        if name not in wanted and name != LABELS:
            message = f"array {name!r} is neither an input of the model nor {LABELS!r}; the model takes {takes}"
            raise DataError(f"{where}: {message}")


def described(port: Port) -> str:
    """Return name, type and shape of an input: ``'x' float32 [batch, 3, ?]``."""
    dtype = port.dtype.name if port.dtype is not None else "(no tensor)"
    dims = "of any shape" if port.shape is None else f"[{', '.join(str(d or '?') for d in port.shape)}]"
    return f"{port.name!r} {dtype} {dims}"


def fitted(where: object, array: Array, port: Port) -> Array:
    """Return the array of an input in the type of the input, after all checks of shape, type and values."""
    if port.dtype is None:
        raise DataError(f"{where}: input {port.name!r} is no tensor; an .npz file cannot hold data for it")
    shape = port.shape
    if shape is not None and not fits(array.shape, shape):
        expected = f"expected {described(port)} with the samples along the first axis"
        raise DataError(f"{where}: array {port.name!r} has shape {list(array.shape)}, {expected}")
    if array.ndim and not len(array):
        raise DataError(f"{where}: array {port.name!r} of shape {list(array.shape)} holds no samples")
    _check_finite(where, port.name, array)
    return _cast(where, array, port.name, port.dtype)


def with_samples(array: Array, port: Port) -> Array:
    """Return an array with an axis of samples: one sample of the shape that the model states lacks it.

    >>> with_samples(np.zeros((3, 8)), Port("x", None, ("n", 3, "w"))).shape
    (1, 3, 8)
    """
    stated = port.shape
    alone = stated is not None and array.ndim == len(stated) - 1 and fits((1, *array.shape), stated)
    return array[None] if alone else array


def fits(shape: tuple[int, ...], dims: tuple[int | str | None, ...]) -> bool:
    """Whether an array fits an input, the first axis aside: it counts samples."""
    pairs = list(zip(shape, dims, strict=False))[1:]
    return len(shape) == len(dims) and all(not isinstance(dim, int) or n == dim for n, dim in pairs)


def _check_finite(where: object, name: str, array: Array) -> None:
    if array.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        first = f", the first in sample {int(np.argwhere(bad)[0][0])}" if array.ndim else ""
        raise DataError(f"{where}: array {name!r} holds {int(bad.sum())} NaN or infinite values{first}")


def _cast(where: object, array: Array, name: str, dtype: np.dtype[np.generic]) -> Array:
    """Return `array` as `dtype` where that keeps its meaning: to floats, wider or fitting integers."""
    if array.dtype == dtype or (dtype.kind == "O" and array.dtype.kind == "U"):
        return array.astype(dtype, copy=False)
    old, new = _kind(array.dtype), _kind(dtype)
    if (old, new) not in {("float", "float"), ("int", "float"), ("bool", "float"), ("int", "int"), ("bool", "int")}:
        message = f"has type {array.dtype}, the input takes {dtype}; convert the array as is right for the model"
        raise DataError(f"{where}: array {name!r} {message}")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if new == "float":
        kept = np.isfinite(cast.astype(np.float64))
    else:  # the way back alone is not enough: uint64 and int64 wrap around both ways
        kept = (cast.astype(array.dtype) == array) & ((cast < 0) == (array < 0))
    if not kept.all():
        message = f"of type {array.dtype} holds values that do not fit {dtype}, the type of the input"
        raise DataError(f"{where}: array {name!r} {message}")
    return cast


def _kind(dtype: np.dtype[np.generic]) -> str:
    """Return float, int, bool or other; by name, because numpy's kinds do not know bfloat16 and int4."""
    return next((kind for kind in ("float", "int", "bool") if kind in dtype.name), "other")


def check_count(where: object, count: int, inputs: Sequence[Port]) -> None:
    """Raise DataError unless so many samples can be fed in whole batches."""
    firsts = static_firsts(inputs)
    if len(set(firsts.values())) > 1:
        each = ", ".join(f"{name!r} {dim}" for name, dim in firsts.items())
        message = f"its inputs take different numbers of samples at once: {each}"
        raise DataError(f"{where}: the model cannot be fed sample by sample, {message}")
    for name, size in firsts.items():
        if count % size:
            message = f"input {name!r} takes exactly {size} at once; give a multiple of {size}"
            raise DataError(f"{where}: {count} samples, but {message}")


def counted(where: object, feeds: Mapping[str, Array]) -> int:
    """Return how many samples feeds hold, along the first axis of each.

    Raises:
        DataError: when none has an axis, or they hold different numbers.
    """
    counts = {name: len(array) for name, array in feeds.items() if array.ndim}
    if not counts:
        raise DataError(f"{where}: the model has no input with an axis of samples")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise DataError(f"{where}: the arrays hold different numbers of samples (their first axis): {listed}")
    return next(iter(counts.values()))


def checked_labels(where: object, labels: Array, count: int) -> Array:
    """Return labels as int64 ``[count]``."""
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        expected = f"expected [{count}] integers, one class index per sample"
        raise DataError(f"{where}: array {LABELS!r} has shape {list(labels.shape)} and type {labels.dtype}, {expected}")
    return labels.astype(np.int64)
