"""Folders of samples: .npz files, .npy files, or images, with their labels."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.data.archive import array_in, feeds_in
from onnxprune.data.feeds import Table, read_feeds
from onnxprune.data.fitting import LABELS, checked_labels
from onnxprune.data.images import SUFFIXES, Preprocess, image_column
from onnxprune.data.npy import open_npy
from onnxprune.data.opening import open_ordinary
from onnxprune.errors import DataError, shortened
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array

_LABEL_FILES = tuple(f"{LABELS}{suffix}" for suffix in (".npy", ".txt", ".csv"))
_MOST_FILES = 1_000_000  # in a folder: of whoever gives the root by mistake there are more
_LABEL_BYTES = 64 * 2**20  # of a file of labels
_KINDS = {".npz": ".npz files", ".npy": ".npy files", **dict.fromkeys(SUFFIXES, "images")}


def files_in(folder: Path) -> tuple[Path, ...]:
    """Return the files of a folder that are samples or labels, also in folders within, sorted by name.

    What is called like one and is none (a pipe, a link that leads nowhere) is among them: opening it says so.
    """
    kept = [name for name in _listed(folder) if Path(name).suffix.lower() in _KINDS or name in _LABEL_FILES]
    return tuple(folder / name for name in sorted(kept))


def _listed(folder: Path) -> Iterator[str]:
    """Yield the files of a folder and of those within that may be samples or labels, by their path from there.

    Raises:
        DataError: when it cannot be listed, or holds more than anybody means.
    """
    endings, seen = (*_KINDS, ".txt", ".csv"), 0

    def fail(error: OSError) -> None:
        if error.filename == os.fspath(folder):  # one within, such as lost+found, is passed over
            raise DataError(f"{folder}: cannot be listed: {error.strerror}")

    try:
        for here, folders, files in os.walk(folder, onerror=fail):
            folders[:] = [name for name in folders if not name.startswith(".")]
            named = [name for name in files if name.lower().endswith(endings) and not name.startswith(".")]
            within = Path(here).relative_to(folder)
            yield from ((within / name).as_posix() for name in named)
            seen += len(files) + len(folders)
            if seen > _MOST_FILES:
                raise DataError(f"{folder}: holds more than {_MOST_FILES:,} files; give the folder of samples alone")
    except RecursionError:
        raise DataError(f"{folder}: cannot be listed: its folders are too deep") from None


def read_folder(folder: Path, inputs: Sequence[Port], preprocess: Preprocess | None) -> Table:
    """Return the samples of a folder: images are read on access, arrays once, see `gathered`.

    Raises:
        DataError: when it holds no samples or several kinds, or a file does not fit.
    """
    listed = files_in(folder)
    label_files = [path for path in listed if path.parent == folder and path.name in _LABEL_FILES]
    paths = [path for path in listed if path not in label_files]
    kinds = {_KINDS[path.suffix.lower()]: path for path in reversed(paths)}
    if len(kinds) != 1:
        there = " and ".join(f"{kind} ({path.name})" for kind, path in sorted(kinds.items()))
        what = f"holds {there}; expected one kind" if kinds else "holds no samples"
        raise DataError(f"{folder}: the folder {what}: .npz, .npy or images ({', '.join(s[1:] for s in SUFFIXES)})")
    if len(label_files) > 1:
        raise DataError(f"{folder}: expected labels in one file, found {', '.join(p.name for p in label_files)}")
    if "images" in kinds:
        columns: dict[str, Any] = {inputs[0].name: image_column(folder, paths, inputs, preprocess)} if inputs else {}
        labels, count = (None if label_files else _classes(folder, paths)), len(paths)
    else:
        columns, labels, count = read_feeds(folder, _feeds(paths, inputs), inputs, None)
    if label_files and labels is not None:
        raise DataError(f"{folder}: labels are in {label_files[0].name} and in the .npz files; expected one of both")
    return columns, _read_labels(label_files[0], folder, paths, count) if label_files else labels, count


def _feeds(paths: Sequence[Path], inputs: Sequence[Port]) -> Iterator[tuple[str, Any]]:
    for path in paths:
        if path.suffix.lower() == ".npz":
            yield from feeds_in(path, inputs)
        elif len(inputs) == 1:
            yield from array_in(path, inputs[0])
        else:
            names = ", ".join(repr(port.name) for port in inputs)
            raise DataError(f"{path}: an .npy file holds one array, the model takes {names}; give .npz files")


# -- labels ------------------------------------------------------------------------------------------------


def _classes(folder: Path, paths: Sequence[Path]) -> Array | None:
    """Return the class of each image where all lie in folders named by it; None where no image does."""
    names = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in paths]
    indices = [int(name) if re.fullmatch(r"[0-9]{1,18}", name) else None for name in names]
    if all(index is None for index in indices):
        return None
    if None in indices:
        stray = paths[indices.index(None)].relative_to(folder)
        raise DataError(f"{folder}: some images lie in folders named by a class index, {stray} does not")
    return np.array(indices, np.int64)


def _read_labels(file: Path, folder: Path, paths: Sequence[Path], count: int) -> Array:
    """Return labels ``[samples]`` in the order of the samples; a .csv may name the file of each."""
    if file.suffix == ".npy":
        return _labels_of(file, count)
    rows = _rows(file)
    first = list(itertools.islice(rows, 1))
    rows = itertools.chain(first, rows)
    if first and len(first[0]) == 2:
        rows = iter(_by_name(file, rows, [path.relative_to(folder).as_posix() for path in paths]))
    labels = np.array([_index(file, row) for row in itertools.islice(rows, count + 1)], np.int64)
    if len(labels) != count:
        held = f"more than {count}" if len(labels) > count else str(len(labels))
        raise DataError(f"{file}: has {held} class indices, expected {count}, one per sample sorted by file")
    return labels


def _labels_of(file: Path, count: int) -> Array:
    stored = open_npy(file)
    with stored.file:
        if stored.shape != (count,) or stored.dtype.kind not in "iu":
            got = f"shape {list(stored.shape)} and type {stored.dtype}"
            raise DataError(f"{file}: has {got}, expected [{count}] integers, one class index per sample")
        return checked_labels(file, stored.whole(), count)


def _rows(file: Path) -> Iterator[list[str]]:
    """Yield the cells of each line that has any, without a line of headings."""
    with open_ordinary(file) as opened:
        content = opened.read(_LABEL_BYTES + 1)
    if len(content) > _LABEL_BYTES:
        raise DataError(f"{file}: is longer than {_LABEL_BYTES // 2**20} MiB; expected one class index a line")
    lines = io.StringIO(_decoded(content), newline=None)
    is_first = file.suffix == ".csv"
    try:
        for row in csv.reader(lines, delimiter=_delimiter(lines)):
            cells = [cell.strip() for cell in row]
            if any(cells) and not (is_first and not cells[-1].lstrip("-").isdigit()):
                yield cells
            is_first = is_first and not any(cells)
    except csv.Error as error:
        raise DataError(f"{file}: cannot be read: {error}; expected one class index a line") from None


def _decoded(content: bytes) -> str:
    """Return text of UTF-8 or UTF-16, as spreadsheets write it, or of one of the old encodings of one byte a letter."""
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # digits are digits there, too; a name that differs is said to be missing


def _delimiter(lines: io.StringIO) -> str:
    """Return what stands between the cells: a comma, or what spreadsheets write where a comma is part of numbers."""
    first = lines.readline()
    lines.seek(0)
    return next((mark for mark in ",;\t" if mark in first), ",")


def _by_name(file: Path, rows: Iterable[Sequence[str]], names: Sequence[str]) -> list[list[str]]:
    wanted = set(names)
    by_name = {row[0]: [row[-1]] for row in rows if row[0] in wanted}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise DataError(f"{file}: no line for {missing[0]}; expected FILE,INDEX for each of {len(names)} files")
    return [by_name[name] for name in names]


def _index(file: Path, row: Sequence[str]) -> int:
    with contextlib.suppress(ValueError):
        (cell,) = row
        if -(2**63) <= int(cell) < 2**63:
            return int(cell)
    raise DataError(f"{file}: {shortened(','.join(row))!r} is no class index; expected one integer a line")
