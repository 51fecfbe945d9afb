"""Folders of samples: .npz files, .npy files, or images, with their labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.data.archive import read_archive
from onnxprune.data.feeds import Table, read_feeds
from onnxprune.data.fitting import LABELS
from onnxprune.data.images import SUFFIXES, Preprocess, image_column
from onnxprune.errors import DataError
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array

_LABEL_FILES = tuple(f"{LABELS}{suffix}" for suffix in (".npy", ".txt", ".csv"))
_KINDS = {".npz": ".npz files", ".npy": ".npy files", **dict.fromkeys(SUFFIXES, "images")}


def files_in(folder: Path) -> tuple[Path, ...]:
    """Return the files of a folder that are samples or labels, also in folders within, sorted by name."""
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    wanted = (*_KINDS, ".txt", ".csv")
    kept = {name: path for name, path in paths.items() if path.suffix.lower() in wanted}
    return tuple(p for n, p in sorted(kept.items()) if p.suffix.lower() in _KINDS or n in _LABEL_FILES)


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
            yield str(path), read_archive(path)
        elif len(inputs) == 1:
            yield str(path), {inputs[0].name: _read_array(path)}
        else:
            names = ", ".join(repr(port.name) for port in inputs)
            raise DataError(f"{path}: an .npy file holds one array, the model takes {names}; give .npz files")


def _read_array(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError):
        raise DataError(f"{path}: not an .npy file of numbers; write one with numpy.save(path, array)") from None


# -- labels ------------------------------------------------------------------------------------------------


def _classes(folder: Path, paths: Sequence[Path]) -> Array | None:
    """Return the class of each image where all lie in folders named by it; None where no image does."""
    names = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in paths]
    indices = [int(name) if name.isascii() and name.isdigit() else None for name in names]
    if all(index is None for index in indices):
        return None
    if None in indices:
        stray = paths[indices.index(None)].relative_to(folder)
        raise DataError(f"{folder}: some images lie in folders named by a class index, {stray} does not")
    return np.array(indices, np.int64)


def _read_labels(file: Path, folder: Path, paths: Sequence[Path], count: int) -> Array:
    """Return labels ``[samples]`` in the order of the samples; a .csv may name the file of each."""
    if file.suffix == ".npy":
        labels = _read_array(file)
    else:
        rows = _rows(file)
        if rows and len(rows[0]) == 2:
            rows = _by_name(file, rows, [path.relative_to(folder).as_posix() for path in paths])
        labels = np.array([_index(file, row) for row in rows], np.int64)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        got = f"shape {list(labels.shape)} and type {labels.dtype}"
        raise DataError(f"{file}: has {got}, expected [{count}] integers, one class index per sample sorted by file")
    return labels.astype(np.int64)


def _rows(file: Path) -> list[list[str]]:
    """Return the cells of each line, without a line of headings."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{file}: cannot be read; expected one class index a line") from None
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    is_heading = bool(rows) and file.suffix == ".csv" and not rows[0][-1].lstrip("-").isdigit()
    return rows[1:] if is_heading else rows


def _by_name(file: Path, rows: Sequence[Sequence[str]], names: Sequence[str]) -> list[list[str]]:
    by_name = {row[0]: [row[-1]] for row in rows}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise DataError(f"{file}: no line for {missing[0]}; expected FILE,INDEX for each of {len(names)} files")
    return [by_name[name] for name in names]


def _index(file: Path, row: Sequence[str]) -> int:
    try:
        (cell,) = row
        return int(cell)
    except ValueError:
        raise DataError(f"{file}: {','.join(row)!r} is no class index; expected one integer a line") from None
