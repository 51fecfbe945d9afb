"""Where the bytes of tensors lie in a file of external data: what several share, or hold alike, is written once.

A *chunk* is written in one piece: a tensor that is held in memory, or a range of an old file. Ranges that overlap are
one chunk, so that tensors which lie on the same bytes do so again; chunks of equal bytes become one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo

from onnxprune.graph.files.deferred import Numbers, numbers_at
from onnxprune.graph.tensors import (
    PAGE,
    SMALL_BYTES,
    Array,
    cut_short,
    has_external_data,
    numpy_type,
    opened,
    raw_length,
)

_BLOCK = 1 << 24  # bytes that are read at once
_HEAD = 4096  # bytes that tell most chunks of one length apart


@dataclass(frozen=True, eq=False)
class Chunk:
    """Bytes that are written in one piece."""

    length: int
    tensor: TensorProto  # one that lies in it, for messages; that which holds the bytes where nothing else does
    path: Path | None = None  # the old file
    start: int = 0  # in the old file
    numbers: Numbers | None = None  # of a tensor that is deferred

    def blocks(self, most: int | None = None) -> Iterator[bytes | memoryview]:
        """Yield the bytes, some at a time; the first `most` of them.

        Raises:
            ModelError: when the file has become shorter than it was when the model was read.
            OSError: when it has become a link, folder, device or pipe.
        """
        left = self.length if most is None else min(most, self.length)
        if self.numbers is not None:
            yield self._made(left)
            return
        if self.path is None:
            content = self.tensor.raw_data
            yield content if left == len(content) else content[:left]
            return
        with opened(self.path) as file:
            file.seek(self.start)
            while left:
                block = file.read(min(left, _BLOCK))
                if not block:
                    raise cut_short(self.path, self.tensor.name)
                left -= len(block)
                yield block

    def _made(self, most: int) -> memoryview:
        """Return the first bytes of a deferred tensor."""
        assert self.numbers is not None
        if most < self.length:
            row = self.length // self.numbers.shape[0]
            return _bytes_of(self.numbers.head(-(-most // row)))[:most]
        return _bytes_of(np.asarray(self.numbers))

    def digest(self, most: int | None = None) -> bytes:
        """Return the SHA-256 of the bytes, or of the first `most` of them."""
        digest = hashlib.sha256()
        for block in self.blocks(most):
            digest.update(block)
        return digest.digest()


@dataclass(frozen=True)
class Layout:
    """A file of external data: what lies in it, and where."""

    chunks: Sequence[tuple[int, Chunk]]  # with their offsets, in ascending order
    ranges: Mapping[int, tuple[int, int]] = field(default_factory=dict)  # by index of the tensor: offset and length

    @property
    def length(self) -> int:
        """The bytes of the file."""
        return max((offset + chunk.length for offset, chunk in self.chunks), default=0)

    def write(self, file: Any) -> None:
        """Write all chunks to a file that is open for writing."""
        for offset, chunk in self.chunks:
            file.seek(offset)
            for block in chunk.blocks():
                file.write(block)


def _bytes_of(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def lay_out(tensors: Sequence[TensorProto], folder: Path, alignment: int = PAGE) -> Layout:
    """Return where the bytes of tensors go in one new file; small ones that are inline stay inline.

    Args:
        tensors: those of a model; external ones refer to files in `folder`.
        folder: where these files lie now.
        alignment: of the chunks, in bytes; those of larger elements are aligned to one of these.
    """
    places = _shared(tensors, folder)
    places.update((i, (Chunk(raw_length(t), t), 0)) for i, t in enumerate(tensors) if _moves(t))
    order = sorted(places)
    first = _equal(list(dict.fromkeys(places[i][0] for i in order)))
    steps: dict[Chunk, int] = {}
    for i in order:
        size = numpy_type(tensors[i].data_type).itemsize
        steps[first[places[i][0]]] = max(size, steps.get(first[places[i][0]], 1))
    offsets: dict[Chunk, int] = {}
    end = 0
    for chunk in (first[places[i][0]] for i in order):
        if chunk not in offsets:
            step = max(alignment, steps[chunk])
            offsets[chunk] = end + -end % step if chunk.length else 0
            end = max(end, offsets[chunk] + chunk.length)
    ranges = {i: (offsets[first[places[i][0]]] + places[i][1], raw_length(tensors[i])) for i in order}
    return Layout([(offset, chunk) for chunk, offset in offsets.items()], ranges)


def _moves(tensor: TensorProto) -> bool:
    """Whether an inline tensor is large enough to go into a file of its own."""
    return not has_external_data(tensor) and tensor.HasField("raw_data") and raw_length(tensor) > SMALL_BYTES


def _shared(tensors: Sequence[TensorProto], folder: Path) -> dict[int, tuple[Chunk, int]]:
    """Return for each external tensor, by index, the chunk that it lies in and where in that it begins."""
    by_file: dict[str, list[tuple[int, int, int]]] = {}
    for i, tensor in enumerate(tensors):
        if has_external_data(tensor):
            info = ExternalDataInfo(tensor)
            by_file.setdefault(info.location, []).append((info.offset or 0, raw_length(tensor), i))
    places: dict[int, tuple[Chunk, int]] = {}
    for location, ranges in by_file.items():
        for together in _overlapping(sorted(ranges)):
            start = together[0][0]
            length = max(offset + count for offset, count, _ in together) - start
            numbers = numbers_at(location)
            path = folder / location if numbers is None else None
            chunk = Chunk(length, tensors[together[0][2]], path, start, numbers)
            places.update((i, (chunk, offset - start)) for offset, _, i in together)
    return places


def _overlapping(ranges: Sequence[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Yield runs of ranges of a file, in ascending order, each of which begins before the end of those before it."""
    run: list[tuple[int, int, int]] = []
    end = 0
    for offset, length, i in ranges:
        if run and offset >= end:
            yield run
            run = []
        run.append((offset, length, i))
        end = max(end, offset + length)
    if run:
        yield run


def _equal(chunks: Sequence[Chunk]) -> dict[Chunk, Chunk]:
    """Return for each chunk the first one that holds the same bytes; only those of one length are read."""
    groups: dict[Any, list[Chunk]] = {}
    for chunk in chunks:
        groups.setdefault(chunk.length, []).append(chunk)
    for most in (_HEAD, None):
        finer: dict[Any, list[Chunk]] = {}
        for key, alike in groups.items():
            for chunk in alike:
                finer.setdefault((key, chunk.digest(most) if len(alike) > 1 else b""), []).append(chunk)
        groups = finer
    return {chunk: alike[0] for alike in groups.values() for chunk in alike}
