"""Caches of two models of one network, whose sizes differ since one of them was cut: an empty past suits both.

Which units of a past a smaller cache keeps cannot be told from files. So what is fed to both is a text from its first
token: the past of either is empty then, or a buffer of zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxprune.data.batching import moved_axes, samples_in
from onnxprune.data.columns import Column, Samples, length
from onnxprune.data.samples import Data, load_data
from onnxprune.errors import DataError
from onnxprune.graph.ports import Port, Role, past_axis
from onnxprune.graph.tensors import Shape


def suited(feeds: Mapping[str, Any], inputs: Sequence[Port]) -> dict[str, Any]:
    """Return feeds as another model of the network takes them: with its own caches, which are empty.

    Args:
        feeds: by input, arrays or tensors.
        inputs: of the other model.

    Raises:
        DataError: when a cache that has other sizes there holds a past.
    """
    names, samples = {port.name for port in inputs}, samples_in(feeds, [port for port in inputs if port.name in feeds])
    other = [port for port in _pasts(inputs) if port.name not in feeds or not _fits(port, feeds[port.name].shape)]
    _check_empty({port.name: feeds[port.name] for port in other if port.name in feeds})
    made = {port.name: np.zeros(_shape(port, samples), port.dtype) for port in other}
    return {**{name: array for name, array in feeds.items() if name in names}, **made}


def suited_data(data: Data, inputs: Sequence[Port]) -> Data:
    """Return samples as another model of the network takes them; arguments and errors as of `suited`.

    A past that has the sizes which the model states stays as it is, whatever it holds.
    """
    rows = max((length(column) for name, column in data.columns.items() if name not in data.shared), default=0)
    pasts, names = _pasts(inputs), {port.name for port in inputs}
    columns: dict[str, Samples] = {name: column for name, column in data.columns.items() if name in names}
    for port in pasts:
        if port.name not in columns or not _fits(port, _of_first(columns[port.name], port)):
            check_no_past(data, [port.name])
            shape = rows, *(dim for at, dim in enumerate(_shape(port, rows)) if at != port.batch)
            columns[port.name] = np.zeros(shape, port.dtype)
    if columns.keys() == data.columns.keys() and all(columns[name] is data.columns[name] for name in columns):
        return data
    return replace(data, columns=columns, axes={**data.axes, **moved_axes(pasts)})


def load_suited(source: Any, inputs: Sequence[Port], *, preprocess: Any = None) -> Data:
    """Return the samples of a source as a model takes them, also where they were read for another one of the network.

    Arguments and errors as of `load_data` and `suited`.
    """
    data = load_data(source, inputs, preprocess=preprocess)
    return suited_data(data, inputs) if data is source else data


def check_no_past(data: Data | None, names: Collection[str]) -> None:
    """Make sure that samples hold no past in inputs of these names.

    Raises:
        DataError: when they do: no tokens, or zeros, would be none.
    """
    if data is not None:
        _check_empty({name: data.columns[name] for name in names if name in data.columns})


def _check_empty(pasts: Mapping[str, Any]) -> None:
    for name, past in pasts.items():
        arrays = (past.read(row) for row in range(length(past))) if isinstance(past, Column) else [past]
        if any(bool((array != 0).any()) for array in arrays):
            raise DataError(
                f"the samples hold a past in {name!r}, a cache whose size changes; give samples without it: it is "
                "empty then, and each sample a text from its first token"
            )


def _pasts(inputs: Sequence[Port]) -> list[Port]:
    return [port for port in inputs if port.role is Role.PAST and port.shape is not None]


def _fits(port: Port, shape: Sequence[int]) -> bool:
    """Whether an array of a shape has the sizes that an input states."""
    stated = zip(port.shape or (), shape, strict=False)
    return all(dim == size for at, (dim, size) in enumerate(stated) if isinstance(dim, int) and at != port.batch)


def _shape(port: Port, samples: int) -> Shape:
    """Return the shape of an empty past of so many samples; of a buffer, whose length is stated, that of the whole."""
    known = {past_axis(port): 0, port.batch: samples}
    shape = enumerate(port.shape or ())
    return tuple(known[at] if at in known else dim if isinstance(dim, int) else 1 for at, dim in shape)


def _of_first(column: Samples, port: Port) -> Shape:
    """Return the shape that the first sample of a column has alone, with the axis of samples where the input has it."""
    if port.batch is None and not isinstance(column, Column):
        return column.shape
    sample = column.shapes[0] if isinstance(column, Column) else column.shape[1:]
    at = port.batch or 0
    return (*sample[:at], 1, *sample[at:])
