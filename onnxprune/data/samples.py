"""Data: samples for a model, and perhaps labels.

`load_data` reads every kind of source (docs/data.md lists them) into a `Data`; `split`, `limit` and `batches` divide
it. Every problem is a `DataError` that names the array, what was expected and what it holds; nothing is guessed from
the order of arrays or from similar names.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune import check
from onnxprune.data.archive import in_parts, read_archive
from onnxprune.data.columns import Column, Samples, shape_of, stacked
from onnxprune.data.feeds import (
    MAX_SAMPLES,
    arrays_of,
    called,
    each,
    feed_arrays,
    file_of,
    importable,
    is_array,
    is_function,
    length_of,
    made_by,
    read_feeds,
)
from onnxprune.data.fitting import (
    LABELS,
    check_count,
    check_most,
    check_names,
    checked_labels,
    counted,
    described,
    fitted,
    static_firsts,
)
from onnxprune.data.folder import files_in, read_folder
from onnxprune.data.images import make_preprocess
from onnxprune.errors import DataError, OptionError
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array, Shape


@dataclass(frozen=True, eq=False)
class Data:
    """Samples for a model; those in files are read by `take`."""

    columns: Mapping[str, Samples]  # by input name, ``[samples, ...]``; rank 0 where the input is a scalar
    labels: Array | None  # int64 ``[samples]``, the index of the right class
    count: int  # samples
    at_once: int = 1  # the samples that the model takes in one run, where it fixes their number
    rows: Array | None = None  # int64 ``[samples]``, their positions in the columns; None: all, in order

    def take(self, indices: Sequence[int] | Array) -> dict[str, Array]:
        """Return feeds: the samples at `indices` along the first axis, scalar inputs as they are.

        Raises:
            DataError: when these samples have different shapes, or a file cannot be read.
        """
        rows = self._rows(indices)
        self._check_alike(rows)
        return {name: stacked(c, rows) if _is_sampled(c) else np.asarray(c) for name, c in self.columns.items()}

    def subset(self, indices: Sequence[int] | Array) -> Data:
        """Return a view of the samples at `indices`, with their labels; nothing is read or copied."""
        positions = _positions(indices, self.count)
        labels = None if self.labels is None else self.labels[positions]
        return replace(self, labels=labels, count=len(positions), rows=self._rows(positions))

    def shapes(self, index: int) -> tuple[Shape, ...]:
        """Return the shapes of one sample, for each input that has an axis of samples."""
        return self._shapes(int(self._rows([index])[0]))

    def _rows(self, indices: Sequence[int] | Array) -> Array:
        positions = _positions(indices, self.count)
        return positions if self.rows is None else self.rows[positions]

    def _shapes(self, row: int) -> tuple[Shape, ...]:
        return tuple(shape_of(column, row) for column in self.columns.values() if _is_sampled(column))

    def _check_alike(self, rows: Array) -> None:
        for name, column in self.columns.items():
            shapes = {column.shapes[row]: None for row in rows} if isinstance(column, Column) else {}
            if len(shapes) > 1:
                one, other = list(shapes)[:2]
                raise DataError(
                    f"samples of input {name!r} have different shapes, {list(one)} and {list(other)}: "
                    "they cannot go into one batch"
                )


def load_data(source: Any, inputs: Sequence[Port], *, preprocess: Any = None, max_samples: int | None = None) -> Data:
    """Return the samples of a source, checked against the inputs of a model and cast to their types.

    Args:
        source: the path of an .npz file, with one array ``[samples, ...]`` per input, by name, and optionally
            ``labels`` ``[samples]``; of a folder of .npz files, .npy files or images; the name ``module:function`` of
            a function that yields or returns feeds; a dict of arrays; an array or tensor; an iterable of feeds, or a
            function that returns one. docs/data.md has the details.
        inputs: the inputs of the model.
        preprocess: how images become arrays: a `Preprocess`, or text for `make_preprocess`.
        max_samples: stop reading an iterable of feeds there. None takes all of an iterable that knows its
            length, and `MAX_SAMPLES` of any other. Files and folders are read whole: `limit` draws from them.

    Raises:
        DataError: when the source cannot be read, an array is missing, unknown, of the wrong shape or type,
            holds NaN or infinities, or the numbers of samples differ.
        OptionError: for `preprocess` or `max_samples`.
    """
    settings = make_preprocess(preprocess)
    most = None if max_samples is None else check.count("max_samples", max_samples, 1)
    if isinstance(source, Data):
        return source
    if is_function(source):
        with importable():
            return _fed(source, called(source), inputs, most)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            return _data(path, *read_folder(path, inputs, settings), inputs)
        parts = in_parts(path, inputs)
        if parts is not None:
            return _data(path, *read_feeds(path, parts, inputs, None), inputs)
        return _whole(path, read_archive(path, inputs), inputs)
    feeds = made_by("data", source) if callable(source) and not is_array(source) else source
    if not (is_array(feeds) or hasattr(feeds, "__iter__") or hasattr(feeds, "__getitem__")):
        expected = "a path, the name module:function, arrays, or an iterable of feeds"
        raise DataError(f"data must be {expected}, got {type(feeds).__name__}")
    return _fed("data", feeds, inputs, most)


def files_of(source: Any) -> tuple[Path, ...]:
    """Return the files that `load_data` reads for a source; it need not be one that can be read."""
    if is_function(source):
        return (file_of(source),)
    if not isinstance(source, (str, os.PathLike)):
        return ()
    return files_in(Path(source)) if Path(source).is_dir() else (Path(source),)


def _fed(source: str, feeds: Any, inputs: Sequence[Port], max_samples: int | None) -> Data:
    """Return the data of arrays that hold all samples, or of an iterable of feeds."""
    if isinstance(feeds, Mapping):
        return _whole(source, arrays_of(source, feeds), inputs)
    if is_array(feeds):
        return _whole(source, feed_arrays(source, feeds, inputs), inputs)
    known = length_of(feeds)
    most = max_samples or (MAX_SAMPLES if known is None else None)
    taken = itertools.islice(each(source, feeds), max(known or 0, MAX_SAMPLES))  # a length may be wrong
    return _data(source, *read_feeds(source, taken, inputs, most), inputs)


def _whole(where: object, arrays: Mapping[str, Array], inputs: Sequence[Port]) -> Data:
    """Return the data of arrays ``[samples, ...]`` that hold all samples each."""
    check_names(where, arrays, inputs, "the file" if isinstance(where, Path) else "the data")
    feeds = {port.name: fitted(where, arrays[port.name], port) for port in inputs}
    count = counted(where, feeds)
    has_labels = LABELS in arrays and LABELS not in feeds
    return _data(where, feeds, checked_labels(where, arrays[LABELS], count) if has_labels else None, count, inputs)


def _data(
    where: object, columns: Mapping[str, Samples], labels: Array | None, count: int, inputs: Sequence[Port]
) -> Data:
    check_most(where, count)
    check_count(where, count, inputs)
    return Data(columns, labels, count, batch_size(inputs, 1))


def _is_sampled(samples: Samples) -> bool:
    """Whether there is an axis of samples: a scalar input has none."""
    return isinstance(samples, Column) or samples.ndim > 0


def _positions(indices: Sequence[int] | Array, count: int) -> Array:
    positions = np.asarray(indices, np.int64).reshape(-1)
    if len(positions) and not (positions.min() >= 0 and positions.max() < count):
        raise IndexError(f"samples are numbered 0 to {count - 1}, asked for {positions.min()} to {positions.max()}")
    return positions


# -- parts of the data -------------------------------------------------------------------------------------


def split(data: Data, share: float, seed: int) -> tuple[Data, Data]:
    """Return two disjoint views that hold all samples, each in the order of the data.

    Both get samples where there are two; a model that takes several at once gets whole batches in each.

    Args:
        data: the samples.
        share: of the samples that the first view gets, drawn with `seed`.
        seed: the same one draws the same samples.
    """
    share = check.fraction("share", share)
    parts = data.count // data.at_once
    first = round(share * parts)
    if 0 < share < 1 and parts:
        first = min(max(first, 1), max(parts - 1, 1))
    one, other = _drawn(parts, first, seed)
    return data.subset(_of_batches(data, one)), data.subset(_of_batches(data, other))


def limit(data: Data, samples: int, seed: int) -> Data:
    """Return at most so many samples, in whole batches and at least one, drawn with `seed` and kept in order.

    >>> limit(Data({"x": np.zeros((9, 3))}, None, 9), 4, seed=0).count
    4
    """
    samples = check.count("samples", samples, 1)
    if samples >= data.count:
        return data
    drawn, _ = _drawn(data.count // data.at_once, max(samples // data.at_once, 1), seed)
    return data.subset(_of_batches(data, drawn))


def _drawn(parts: int, first: int, seed: int) -> tuple[Array, Array]:
    """Return which of the parts are among the `first` that are drawn, and which are not; both in order."""
    order = np.random.default_rng(seed).permutation(parts)
    return np.sort(order[:first]), np.sort(order[first:])


def _of_batches(data: Data, parts: Array) -> Array:
    """Return the samples of the batches that the model takes at once."""
    return (parts[:, None] * data.at_once + np.arange(data.at_once)).reshape(-1)


def batches(data: Data, size: int, *, drop_last: bool = False) -> Iterator[dict[str, Array]]:
    """Yield feeds of `size` samples each, in order.

    A batch is smaller at the end of the data, and where the next sample has another shape, as sequences of different
    lengths have; with `drop_last` these smaller ones are left out.
    """
    return (data.take(run) for run in runs(data, size) if len(run) == size or not drop_last)


def shares_samples(one: Data, other: Data) -> bool:
    """Return whether both hold a sample, input by input and number by number; labels do not count.

    >>> shares_samples(Data({"x": np.zeros((2, 3))}, None, 2), Data({"x": np.zeros((9, 3))}, None, 9))
    True
    """
    seen = set(_digests(one))
    return any(digest in seen for digest in _digests(other))


def _digests(data: Data) -> Iterator[bytes]:
    """Yield a digest of each sample."""
    for row in range(data.count):
        digest = hashlib.sha256()
        for name, array in sorted(data.take([row]).items()):
            digest.update(repr((name, array.dtype.name, array.shape)).encode())
            digest.update(repr(array.tolist()).encode() if array.dtype.kind in "OUS" else array.tobytes())
        yield digest.digest()


def samples_in(feeds: Mapping[str, Array]) -> int:
    """Return the samples of a batch: the first axis of the first input that has one, 1 where none has.

    >>> samples_in({"scale": np.float32(2), "x": np.zeros((4, 3))})
    4
    """
    return next((len(array) for array in feeds.values() if array.ndim), 1)


def runs(data: Data, size: int) -> Iterator[range]:
    """Yield runs of at most `size` samples of the same shapes that stand together, in order."""
    for _, alike in itertools.groupby(range(data.count), data.shapes):
        together = list(alike)
        for start in range(0, len(together), size):
            part = together[start : start + size]
            yield range(part[0], part[-1] + 1)


# -- inputs ------------------------------------------------------------------------------------------------


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
            there = ", ".join(map(described, inputs))
            raise OptionError(f"input {name!r} is not one of the model, which takes {there}")
        stated = known[name].shape
        fits = stated is None or len(stated) == len(shape)
        if not fits or any(isinstance(dim, int) and dim != n for dim, n in zip(stated or (), shape, strict=False)):
            raise OptionError(
                f"input {name!r}: shape {list(shape)} does not fit, the model takes {described(known[name])}"
            )
        for dim, n in zip(stated or (), shape, strict=False):
            if isinstance(dim, str) and sizes.setdefault(dim, n) != n:
                prefix = f"input {name!r}: shape {list(shape)}"
                raise OptionError(f"{prefix} gives dim {dim!r} the size {n}, another input {sizes[dim]}")
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
    return next(iter(static_firsts(inputs).values()), wanted)
