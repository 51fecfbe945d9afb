"""Samples of ids for a model with fewer tokens: those that hold other tokens are left out, the others get new ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxprune.data.columns import Column, Samples
from onnxprune.data.samples import Data
from onnxprune.errors import DataError
from onnxprune.graph.tensors import Array

_SHOWN = 5  # ids that an error lists


@dataclass(frozen=True)
class Renumbered:
    """Samples with new ids."""

    data: Data
    left_out: int  # samples that hold tokens which are gone


def renumbered(
    data: Data,
    ids: npt.NDArray[np.int64],
    inputs: Collection[str],
    masks: Collection[str] = (),
    *,
    labels: bool = False,
) -> Renumbered:
    """Return the samples that are made of kept tokens alone, with new ids.

    Args:
        data: samples with old ids.
        ids: the new id of every old one ``[tokens]``, -1 where it is gone.
        inputs: names of the inputs that hold ids.
        masks: names of inputs that say of every id whether it counts: one that does not may be gone.
        labels: whether labels are ids as well.

    Raises:
        DataError: when an id or a label is none of the old ones, and when no sample is left.
    """
    if labels and data.labels is not None:
        _check_labels(data.labels, len(ids))
    masked = _masked(data, masks)
    rows, gone = list[int](), Counter[int]()
    for row in range(data.count):
        missing = [each for name in inputs for each in _missing(data, name, row, ids, masked)]
        if labels and data.labels is not None and ids[data.labels[row]] < 0:
            missing.append(int(data.labels[row]))
        gone.update(set(missing))
        rows.extend([row] * (not missing))
    if not rows:
        common = ", ".join(str(each) for each, _ in gone.most_common(_SHOWN))
        raise DataError(
            f"none of {data.count} samples is made of kept tokens alone: all hold ids that the vocabulary lacks, most "
            f"of them {common}; keep these, or give other samples"
        )
    columns = {name: _mapped(column, ids) if name in inputs else column for name, column in data.columns.items()}
    kept = replace(data, columns=columns).subset(rows)
    if labels and kept.labels is not None:
        kept = replace(kept, labels=ids[kept.labels])
    return Renumbered(kept, data.count - len(rows))


def _check_labels(labels: Array, size: int) -> None:
    """Raise DataError for a label that is no id."""
    is_id = np.asarray(labels)
    is_id = (is_id >= 0) & (is_id < size) if is_id.dtype.kind in "iu" else np.zeros(is_id.shape, bool)
    if not is_id.all():
        row = int(np.argwhere(~is_id)[0][0])
        raise DataError(
            f"labels: that of sample {row} is {labels[~is_id][0]}, but the model scores tokens, whose ids go from 0 to "
            f"{size - 1}: give labels that are ids, or samples without labels"
        )


def _masked(data: Data, masks: Collection[str]) -> str | None:
    """Return the input that tells which ids count, if there is one."""
    return next((name for name in masks if name in data.columns), None)


def _missing(data: Data, name: str, row: int, ids: npt.NDArray[np.int64], mask: str | None) -> list[int]:
    """Return the ids of a sample that are gone.

    Raises:
        DataError: for one that is no id.
    """
    feeds = data.take([row])
    values = feeds[name]
    known = (values >= 0) & (values < len(ids))
    if not known.all():
        raise DataError(f"input {name!r}: sample {row} holds {values[~known][0]}, but ids go from 0 to {len(ids) - 1}")
    gone = ids[values] < 0
    if mask is not None and feeds[mask].shape == values.shape:
        gone &= feeds[mask] != 0
    return [int(each) for each in values[gone]]


def _mapped(column: Samples, ids: npt.NDArray[np.int64]) -> Samples:
    """Return samples with new ids; one that is gone, and does not count, becomes the first."""
    table = np.maximum(ids, 0)

    def mapped(values: Array) -> Array:
        known = (values >= 0) & (values < len(table))
        return table[np.where(known, values, 0)].astype(values.dtype)

    if not isinstance(column, Column):
        return mapped(np.asarray(column))
    read = column.read
    return replace(column, read=lambda row: mapped(read(row)))
