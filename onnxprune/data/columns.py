"""Samples of one input of a model: in memory, in a temporary file, or read on access.

An array ``[samples, ...]`` is the plain case, also when it is mapped from a file. A `Column` holds samples of different
shapes, as sequences of different lengths have, and samples that lie in files of their own.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

import numpy as np

from onnxprune.errors import DataError
from onnxprune.graph.tensors import Array, Shape

LIMIT_BYTES = 256 * 2**20  # kept in memory; the rest goes to a temporary file


@dataclass(frozen=True, eq=False)
class Column:
    """Samples that are read one by one, perhaps of different shapes."""

    shapes: Sequence[Shape]  # of each sample, without the axis of samples
    dtype: np.dtype[Any]
    read: Callable[[int], Array]  # the sample at a position, of the shape above


Samples: TypeAlias = Array | Column


def length(samples: Samples) -> int:
    """Return how many samples there are."""
    return len(samples.shapes if isinstance(samples, Column) else samples)


def shape_of(samples: Samples, row: int) -> Shape:
    """Return the shape of one sample, without the axis of samples."""
    return samples.shapes[row] if isinstance(samples, Column) else samples.shape[1:]


def stacked(samples: Samples, rows: Array) -> Array:
    """Return the samples at `rows` ``[n]`` as one array ``[n, ...]``; all must have one shape."""
    if isinstance(samples, Column):
        if not len(rows):
            return np.empty((0, *samples.shapes[0]), samples.dtype)
        return np.stack([samples.read(int(row)) for row in rows])
    return np.asarray(samples[rows])


def gathered(parts: Iterable[Mapping[str, Array]], limit_bytes: int = LIMIT_BYTES) -> dict[str, Samples]:
    """Return the samples of all parts, by input: in memory up to a limit, else in a temporary file.

    The file has no name where the system allows that; it is removed with the last array that is mapped from it. Text
    stays in memory.

    Args:
        parts: arrays ``[samples, ...]`` by input, always of the same inputs and types; not kept.
        limit_bytes: of memory, beside the part that is being read.

    Raises:
        DataError: when they do not fit into a temporary file.
    """
    shapes: dict[str, list[Shape]] = {}
    dtypes: dict[str, np.dtype[Any]] = {}
    waiting: dict[str, list[Array]] = {}
    files: dict[str, IO[bytes]] = {}
    with contextlib.ExitStack() as stack:
        size = 0
        for part in parts:
            for name, array in part.items():
                shapes.setdefault(name, []).extend([array.shape[1:]] * len(array))
                waiting.setdefault(name, []).append(array.reshape(-1))
                dtypes[name] = array.dtype
                size += array.nbytes
            if size > limit_bytes or files:
                _spill(waiting, files, stack)
                size = 0
        return {name: _column(_flat(waiting, files, name, dtypes[name]), shapes[name]) for name in shapes}


def _spill(waiting: Mapping[str, list[Array]], files: dict[str, IO[bytes]], stack: contextlib.ExitStack) -> None:
    """Move what waits in memory to the end of the files, of which there is one per input."""
    for name, arrays in waiting.items():
        if arrays and arrays[0].dtype.kind == "O":
            continue
        with storing():
            if name not in files:
                files[name] = stack.enter_context(tempfile.TemporaryFile(prefix="onnxprune-"))  # noqa: SIM115 - it is
            for array in arrays:
                files[name].write(array.tobytes())
            files[name].flush()
        arrays.clear()


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """Say what to do where samples do not fit into the folder of temporary files, or there is none."""
    try:
        yield
    except OSError as error:
        folder = os.environ.get("TMPDIR") or tempfile.tempdir or "the folder of temporary files"
        raise DataError(
            f"samples of more than {LIMIT_BYTES // 2**20} MiB go to a temporary file, which {folder} does not take: "
            f"{error.strerror or error}; set TMPDIR to a folder with room, or give fewer samples"
        ) from None


def _flat(waiting: dict[str, list[Array]], files: Mapping[str, IO[bytes]], name: str, dtype: np.dtype[Any]) -> Array:
    """Return all elements of an input ``[elements]``."""
    if name not in files:
        return np.concatenate(waiting.pop(name))
    if not files[name].tell():
        return np.empty(0, dtype)
    return np.memmap(files[name], dtype, "r")  # the mapping keeps the file open by itself


def _column(flat: Array, shapes: Sequence[Shape]) -> Samples:
    if len(set(shapes)) == 1:
        return flat.reshape(len(shapes), *shapes[0])
    ends = np.cumsum([math.prod(shape) for shape in shapes])

    def read(row: int) -> Array:
        return flat[int(ends[row]) - math.prod(shapes[row]) : int(ends[row])].reshape(shapes[row])

    return Column(shapes, flat.dtype, read)
