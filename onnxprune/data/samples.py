"""Data: samples for a model, and perhaps labels.

`load_data` reads every kind of source (docs/data.md lists them) into a `Data`; `split`, `limit` and `batches` divide
it. Every problem is a `DataError` that names the array, what was expected and what it holds; nothing is guessed from
the order of arrays or from similar names.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune import check
from onnxprune.data.archive import in_parts, read_archive
from onnxprune.data.batching import (
    ALONE,
    OPEN,
    BatchSize,
    Piece,
    batch_of,
    blocks,
    filled,
    is_shared,
    moved_axes,
)
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
    MOST_SAMPLES,
    check_most,
    check_names,
    check_one_batch,
    checked_labels,
    counted,
    described,
    fitted_inputs,
)
from onnxprune.data.folder import files_in, read_folder
from onnxprune.data.images import make_preprocess
from onnxprune.errors import DataError, ModelError, OptionError
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array, Shape

MOST_EVALUATED = 50_000  # more say no more, and take hours


@dataclass(frozen=True, eq=False)
class Data:
    """Samples for a model; those in files are read by `take`."""

    columns: Mapping[str, Samples]  # by input name, ``[samples, ...]``; as it is where all samples share it
    labels: Array | None  # int64 ``[samples]``, the index of the right class
    count: int  # samples
    batch: BatchSize = OPEN  # how many samples the model takes in one run
    rows: Array | None = None  # int64 ``[samples]``, their positions in the columns; None: all, in order
    axes: Mapping[str, int] = field(default_factory=dict)  # where the model has the samples, if not first
    shared: frozenset[str] = frozenset()  # inputs without an axis of samples, beside scalars

    def take(self, indices: Sequence[int] | Array) -> dict[str, Array]:
        """Return feeds: the samples at `indices` along the axis where the model has them, shared inputs as they are.

        Raises:
            DataError: when these samples have different shapes, or a file cannot be read.
        """
        rows = self._rows(indices)
        self._check_alike(rows)
        return {name: self._taken(name, column, rows) for name, column in self.columns.items()}

    def piece(self, indices: Sequence[int] | Array) -> Piece:
        """Return a run of the samples at `indices`, filled up to the number that the model takes at once.

        Raises:
            DataError: as `take`.
        """
        size = self.batch.of(len(indices))
        axes = {
            name: self.axes.get(name, 0) if self._is_sampled(name, column) else None
            for name, column in self.columns.items()
        }
        return Piece(self.take(filled(indices, size)), len(indices), max(size, len(indices)), axes)

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
        return tuple(shape_of(c, row) for name, c in self.columns.items() if self._is_sampled(name, c))

    def _taken(self, name: str, column: Samples, rows: Array) -> Array:
        if not self._is_sampled(name, column):
            return np.asarray(column)
        return np.moveaxis(stacked(column, rows), 0, self.axes.get(name, 0))

    def _is_sampled(self, name: str, column: Samples) -> bool:
        """Whether there is an axis of samples: a scalar input has none."""
        return name not in self.shared and (isinstance(column, Column) or column.ndim > 0)

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
    if not (is_array(feeds) or hasattr(type(feeds), "__iter__") or hasattr(type(feeds), "__getitem__")):
        expected = "a path, the name module:function, arrays, or an iterable of feeds"
        raise DataError(f"data must be {expected}, got {type(feeds).__name__}")
    return _fed("data", feeds, inputs, most)


def files_of(source: Any) -> tuple[Path, ...]:
    """Return the files that `load_data` reads for a source; it need not be one that can be read.

    Raises:
        DataError: for a name that no file can have, and for a folder that cannot be listed.
    """
    if is_function(source):
        return (file_of(source),)
    if not isinstance(source, (str, os.PathLike)):
        return ()
    if "\0" in os.fspath(source):
        raise DataError(f"{source}: no file can have a null character in its name")
    return files_in(Path(source)) if Path(source).is_dir() else (Path(source),)


def _fed(source: str, feeds: Any, inputs: Sequence[Port], max_samples: int | None) -> Data:
    """Return the data of arrays that hold all samples, or of an iterable of feeds."""
    if isinstance(feeds, Mapping):
        return _whole(source, arrays_of(source, feeds), inputs)
    if is_array(feeds):
        return _whole(source, feed_arrays(source, feeds, inputs), inputs)
    known = length_of(feeds)
    most = max_samples or (MAX_SAMPLES if known is None else None)
    at_most = max(known or 0, max_samples or 0, MAX_SAMPLES)  # feeds: a length may be wrong
    taken = itertools.islice(each(source, feeds), min(at_most, MOST_SAMPLES + 1))
    return _data(source, *read_feeds(source, taken, inputs, most), inputs)


def _whole(where: object, arrays: Mapping[str, Array], inputs: Sequence[Port]) -> Data:
    """Return the data of arrays ``[samples, ...]`` that hold all samples each."""
    check_names(where, arrays, inputs, "the file" if isinstance(where, Path) else "the data")
    feeds = fitted_inputs(where, arrays, inputs)
    shared = {port.name for port in inputs if is_shared(port)}
    count = counted(where, {name: array for name, array in feeds.items() if name not in shared})
    has_labels = LABELS in arrays and LABELS not in feeds
    return _data(where, feeds, checked_labels(where, arrays[LABELS], count) if has_labels else None, count, inputs)


def _data(
    where: object, columns: Mapping[str, Samples], labels: Array | None, count: int, inputs: Sequence[Port]
) -> Data:
    check_most(where, count)
    check_one_batch(where, inputs)
    shared = frozenset(port.name for port in inputs if is_shared(port))
    return Data(columns, labels, count, batch_of(inputs), axes=moved_axes(inputs), shared=shared)


def _positions(indices: Sequence[int] | Array, count: int) -> Array:
    positions = np.asarray(indices, np.int64).reshape(-1)
    if len(positions) and not (positions.min() >= 0 and positions.max() < count):
        raise IndexError(f"samples are numbered 0 to {count - 1}, asked for {positions.min()} to {positions.max()}")
    return positions


# -- parts of the data -------------------------------------------------------------------------------------


def split(data: Data, share: float, seed: int) -> tuple[Data, Data]:
    """Return two disjoint views that hold all samples, each in the order of the data.

    Both get samples where there are two. Of a model that takes several at once the first gets whole batches, if there
    is one beside which something is left, and what is left over goes to the second.

    Args:
        data: the samples.
        share: of the samples that the first view gets, drawn with `seed`.
        seed: the same one draws the same samples.
    """
    share = check.fraction("share", share)
    step = data.batch.step if data.count > data.batch.step else 1
    parts = max(1, data.count // step)
    first = round(share * parts)
    if 0 < share < 1:
        first = min(max(first, 1), max(parts - 1, 1))
    one, _ = _drawn(parts, first, seed)
    rows = np.arange(data.count) if first == parts and share == 1 else _of_batches(data, one, step)
    return data.subset(rows), data.subset(np.setdiff1d(np.arange(data.count), rows))


def limit(data: Data, samples: int, seed: int) -> Data:
    """Return at most so many samples, in whole batches and at least one, drawn with `seed` and kept in order.

    >>> limit(Data({"x": np.zeros((9, 3))}, None, 9), 4, seed=0).count
    4
    """
    samples = check.count("samples", samples, 1)
    if samples >= data.count:
        return data
    step = data.batch.step
    drawn, _ = _drawn(max(1, data.count // step), max(samples // step, 1), seed)
    return data.subset(_of_batches(data, drawn, step))


def evaluated(data: Data, seed: int) -> Data:
    """Return what models are compared on: all samples, of very many a part that is drawn with `seed`."""
    return limit(data, MOST_EVALUATED, seed)


def _drawn(parts: int, first: int, seed: int) -> tuple[Array, Array]:
    """Return which of the parts are among the `first` that are drawn, and which are not; both in order."""
    order = np.random.default_rng(seed).permutation(parts)
    return np.sort(order[:first]), np.sort(order[first:])


def _of_batches(data: Data, parts: Array, step: int) -> Array:
    """Return the samples of some parts of `step` samples each."""
    rows = (parts[:, None] * step + np.arange(step)).reshape(-1)
    return rows[rows < data.count]


def pieces(data: Data, wanted: int) -> Iterator[Piece]:
    """Yield what goes into one run after the other, in order: `wanted` samples, or the number that the model takes.

    A piece holds fewer samples at the end of the data, and where the next sample has another shape, as sequences of
    different lengths have; where the model fixes their number, copies fill it up.
    """
    return (data.piece(run) for run in runs(data, data.batch.of(wanted)))


def taken_by(run: Callable[[Mapping[str, Array]], object], data: Data, wanted: int) -> Data:
    """Return data whose samples a model takes: one after the other where it takes one, but not `wanted` at once.

    Something between the nodes may fix the number, of which neither the inputs nor shapes tell.

    Args:
        run: runs the model on feeds.
        data: the samples.
        wanted: samples per run.

    Raises:
        ModelError: as `run`, where it takes none either.
    """
    first = next(pieces(data, wanted))
    try:
        run(first.feeds)
    except ModelError:
        if data.batch.fixed is not None or first.samples == 1:
            raise
        alone = replace(data, batch=ALONE)
        with contextlib.suppress(ModelError):
            run(next(pieces(alone, 1)).feeds)
            return alone
        raise
    return data


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


def runs(data: Data, size: int) -> Iterator[range]:
    """Yield runs of at most `size` samples of the same shapes that stand together, in order."""
    start = 0
    for alike in _alike(data):
        yield from (range(start + run[0], start + run[-1] + 1) for run in blocks(alike, size))
        start += alike


def _alike(data: Data) -> Iterator[int]:
    """Yield how many samples of the same shapes stand together, in order; those of one array need no look."""
    if not any(isinstance(column, Column) for column in data.columns.values()):
        yield data.count
        return
    for _, together in itertools.groupby(range(data.count), data.shapes):
        yield sum(1 for _ in together)


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


def as_taken(data: Data, inputs: Sequence[Port]) -> Data:
    """Return data with the number of samples in a run that inputs fix, see `with_shapes`."""
    batch = batch_of(inputs)
    return data if batch.fixed is None else replace(data, batch=batch)


def _fixed(port: Port, shape: Sequence[int] | None, sizes: Mapping[str, int]) -> tuple[int | str | None, ...] | None:
    if shape is not None or port.shape is None:
        return None if shape is None else tuple(shape)
    return tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in port.shape)
