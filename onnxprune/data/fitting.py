"""Whether an array fits an input of a model: names, shapes, types and values, and the cast to the input's type.

Every problem is a `DataError` that begins with the source of the array (`where`) and names the array, what was
expected and what it holds; nothing is guessed from the order of arrays or from similar names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxprune.data.batching import fixed_batches, is_shared, sampled
from onnxprune.data.companions import given, with_companions
from onnxprune.errors import DataError
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array, Shape

_ORDINALS = {0: "the first", 1: "the second", 2: "the third", 3: "the fourth"}
LABELS = "labels"  # the name of the array of labels, unless the model has an input of this name
MOST_SAMPLES = 10_000_000  # of one source: what is done for each sample would take hours
_TEXT_BYTES = 256 * 2**20  # text stays in memory
_CASTS = {("float", "float"), ("int", "float"), ("bool", "float"), ("int", "int"), ("bool", "int")}


def check_names(where: object, names: Iterable[str], inputs: Sequence[Port], holder: str = "the file") -> None:
    """Raise DataError unless each input has an array or follows from others, and there is none beside but labels."""
    arrays = list(names)
    wanted = [port.name for port in inputs]
    needed = [port.name for port in given(inputs, arrays)]
    takes = ", ".join(described(port) for port in inputs)
    there = ", ".join(repr(name) for name in arrays) or "nothing"
    for name in needed:
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
    dtype = check_array(where, port, array.shape, array.dtype)
    _check_finite(where, array, port)
    return _cast(where, array, port.name, dtype)


def fitted_inputs(
    where: object, arrays: Mapping[str, Array], inputs: Sequence[Port], *, may_lack_axis: bool = False
) -> dict[str, Array]:
    """Return the arrays of all inputs, samples along the first axis, with those that follow from others.

    Args:
        where: words for the source of the arrays.
        arrays: by name; `check_names` has seen the names.
        inputs: of the model.
        may_lack_axis: whether each may be one sample, without the axis of samples.

    Raises:
        DataError: when one does not fit.
    """
    own: dict[str, Array] = {}
    for port in given(inputs, arrays):
        array = with_samples(arrays[port.name], port) if may_lack_axis else arrays[port.name]
        own[port.name] = fitted(where, as_one(array, port), port)
    every = with_companions(where, own, inputs)
    return {port.name: sampled(every[port.name], port) for port in inputs}


def check_array(
    where: object, port: Port, shape: Shape, dtype: np.dtype[Any], *, may_lack_axis: bool = False
) -> np.dtype[Any]:
    """Return the type of an input if it can take an array of this shape and type, whatever its values.

    Args:
        where: words for the source of the array.
        port: the input.
        shape: of the array.
        dtype: of the array.
        may_lack_axis: whether it may be one sample, without the axis of samples.

    Raises:
        DataError: when it cannot, or there are no samples.
    """
    if port.dtype is None:
        raise DataError(f"{where}: input {port.name!r} is no tensor; an .npz file cannot hold data for it")
    is_one = may_lack_axis and lacks_axis(shape, port)
    if not is_one and not holds_samples(shape, port):
        along = "" if is_shared(port) else f" with the samples along {_ORDINALS.get(port.batch or 0, 'another')} axis"
        raise DataError(f"{where}: array {port.name!r} has shape {list(shape)}, expected {described(port)}{along}")
    count = count_in(shape, port, may_lack_axis=may_lack_axis)
    if count == 0:
        raise DataError(f"{where}: array {port.name!r} of shape {list(shape)} holds no samples")
    check_most(where, count or 1)
    if dtype != port.dtype and not _is_text(dtype, port.dtype) and (_kind(dtype), _kind(port.dtype)) not in _CASTS:
        message = f"has type {dtype}, the input takes {port.dtype}; convert the array as is right for the model"
        raise DataError(f"{where}: array {port.name!r} {message}")
    return port.dtype


def with_samples(array: Array, port: Port) -> Array:
    """Return an array with an axis of samples: one sample of the shape that the model states lacks it.

    >>> with_samples(np.zeros((3, 8)), Port("x", None, ("n", 3, "w"))).shape
    (1, 3, 8)
    """
    return np.expand_dims(array, port.batch or 0) if lacks_axis(array.shape, port) else array


def lacks_axis(shape: Shape, port: Port) -> bool:
    """Whether this is the shape of one sample, without the axis of samples."""
    stated = port.shape
    if stated is None or is_shared(port) or len(shape) != len(stated) - 1:
        return False
    at = port.batch or 0
    return fits_port((*shape[:at], 1, *shape[at:]), port)


def holds_samples(shape: Shape, port: Port) -> bool:
    """Whether this is the shape of samples in one of the layouts that `as_one` knows."""
    at, stated = port.batch or 0, port.shape
    if stated is None or is_shared(port) or fits_port(shape, port):
        return fits_port(shape, port)
    if len(shape) == len(stated):
        return fits_port((*shape[1 : at + 1], shape[0], *shape[at + 1 :]), port)
    return len(shape) == len(stated) + 1 and shape[1 + at] == stated[at] and fits_port(shape[1:], port)


def count_in(shape: Shape, port: Port, *, may_lack_axis: bool = False) -> int | None:
    """Return how many samples an array of an input holds, in any of the layouts that `as_one` knows.

    Args:
        shape: of the array; one that the input can take.
        port: the input.
        may_lack_axis: whether it may be one sample, without the axis of samples.

    Returns:
        Their number; None where all samples share the array.

    >>> state = Port("h", None, (2, 4, 8), batch=1)
    >>> [count_in(shape, state) for shape in ((2, 20, 8), (20, 2, 8), (5, 2, 4, 8))]
    [20, 20, 20]
    """
    if not shape or is_shared(port):
        return None
    at, stated = port.batch or 0, port.shape
    if may_lack_axis and lacks_axis(shape, port):
        return 1
    if stated is None or fits_port(shape, port):
        return shape[at]
    return shape[0] if len(shape) == len(stated) else shape[0] * shape[1 + at]


def as_one(array: Array, port: Port) -> Array:
    """Return an array that holds all samples of an input, with these along the axis where the model has them.

    They may also lie along the first axis, before all that one sample needs, and feeds of a fixed number of samples
    may be stacked.

    >>> state = Port("h", None, (2, 1, 8), batch=1)
    >>> [as_one(np.zeros(shape), state).shape for shape in ((2, 5, 8), (5, 2, 8), (5, 2, 1, 8))]
    [(2, 5, 8), (2, 5, 8), (2, 5, 8)]
    """
    if port.shape is None or is_shared(port) or fits_port(array.shape, port) or not holds_samples(array.shape, port):
        return array
    at = port.batch or 0
    if array.ndim == len(port.shape):
        return np.moveaxis(array, 0, at)
    merged = np.moveaxis(array, 1 + at, 1)
    return np.moveaxis(merged.reshape(-1, *merged.shape[2:]), 0, at)


def fits_port(shape: tuple[int, ...], port: Port) -> bool:
    """Whether an array of a shape fits an input, the axis of samples aside."""
    return port.shape is None or fits(shape, port.shape, None if is_shared(port) else port.batch)


def fits(shape: tuple[int, ...], dims: tuple[int | str | None, ...], batch: int | None = 0) -> bool:
    """Whether an array of a shape fits stated dims, the axis `batch` aside: it counts samples."""
    pairs = [pair for at, pair in enumerate(zip(shape, dims, strict=False)) if at != batch]
    return len(shape) == len(dims) and all(not isinstance(dim, int) or n == dim for n, dim in pairs)


def _check_finite(where: object, array: Array, port: Port) -> None:
    if array.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        is_one = not array.ndim or is_shared(port)
        first = "" if is_one else f", the first in sample {int(np.argwhere(bad)[:, port.batch or 0].min())}"
        raise DataError(f"{where}: array {port.name!r} holds {int(bad.sum())} NaN or infinite values{first}")


def _cast(where: object, array: Array, name: str, dtype: np.dtype[np.generic]) -> Array:
    """Return `array` as `dtype` where that keeps its meaning: to floats, wider or fitting integers."""
    if array.dtype == dtype or _is_text(array.dtype, dtype):
        return array.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if _kind(dtype) == "float":
        kept = np.isfinite(cast.astype(np.float64))
    else:  # the way back alone is not enough: uint64 and int64 wrap around both ways
        kept = (cast.astype(array.dtype) == array) & ((cast < 0) == (array < 0))
    if not kept.all():
        message = f"of type {array.dtype} holds values that do not fit {dtype}, the type of the input"
        raise DataError(f"{where}: array {name!r} {message}")
    return cast


def _is_text(dtype: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether a type is that of text, and text is wanted."""
    return wanted.kind == "O" and dtype.kind == "U"


def _kind(dtype: np.dtype[np.generic]) -> str:
    """Return float, int, bool or other; by name, because numpy's kinds do not know bfloat16 and int4."""
    return next((kind for kind in ("float", "int", "bool") if kind in dtype.name), "other")


def check_most(where: object, count: int) -> None:
    """Raise DataError for more samples than any run could look at."""
    if count > MOST_SAMPLES:
        raise DataError(
            f"{where}: {count} samples are more than {MOST_SAMPLES:,}, the most that are taken; give a part"
        )


def check_text(where: object, name: str, dtype: np.dtype[Any], nbytes: int) -> None:
    """Raise DataError for more text than is kept in memory."""
    if dtype.kind in "US" and nbytes > _TEXT_BYTES:
        mib = _TEXT_BYTES // 2**20
        raise DataError(
            f"{where}: array {name!r} holds more than {mib} MiB of text, which stays in memory; give a part"
        )


def check_one_batch(where: object, inputs: Sequence[Port]) -> None:
    """Raise DataError where inputs fix different numbers of samples."""
    sizes = fixed_batches(inputs)
    if len(set(sizes.values())) > 1:
        each = ", ".join(f"{name!r} {dim}" for name, dim in sizes.items())
        message = f"its inputs take different numbers of samples at once: {each}"
        raise DataError(f"{where}: the model cannot be fed sample by sample, {message}")


def counted(where: object, feeds: Mapping[str, Array]) -> int:
    """Return how many samples feeds hold, which lie along the first axis of each here.

    Raises:
        DataError: when none has an axis, or they hold different numbers.
    """
    return one_count(where, {name: len(array) for name, array in feeds.items() if array.ndim})


def one_count(where: object, counts: Mapping[str, int]) -> int:
    """Return the number of samples that all inputs hold, of those by name.

    Raises:
        DataError: when there is none, or they differ.
    """
    if not counts:
        raise DataError(f"{where}: the model has no input with an axis of samples")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise DataError(f"{where}: the arrays hold different numbers of samples (their first axis): {listed}")
    return next(iter(counts.values()))


def check_labels(where: object, shape: Shape, dtype: np.dtype[Any], count: int) -> None:
    """Raise DataError unless labels have one class index per sample, whatever their values; one may lack the axis."""
    if (shape != (count,) and not (shape == () and count == 1)) or dtype.kind not in "iu":
        expected = f"expected [{count}] integers, one class index per sample"
        raise DataError(f"{where}: array {LABELS!r} has shape {list(shape)} and type {dtype}, {expected}")


def checked_labels(where: object, labels: Array, count: int) -> Array:
    """Return labels as int64 ``[count]``.

    Raises:
        DataError: when they are no class indices, one per sample.
    """
    check_labels(where, labels.shape, labels.dtype, count)
    if labels.dtype.kind == "u" and int(labels.max()) >= 2**63:
        raise DataError(f"{where}: array {LABELS!r} holds {labels.max()}, which is no class index")
    return labels.astype(np.int64).reshape(count)
