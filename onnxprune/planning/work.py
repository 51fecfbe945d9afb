"""Work: what running a model costs, in multiply-accumulates, from its graph alone.

Plans must not depend on the clock: the same file gives the same bytes on a busy machine. So budgets are counted, not
timed. A node costs its multiply-accumulates, the numbers that it writes (elementwise ops and copies do little but
that), and a little for being there; opening a session costs for each node and each byte of weights. The prices were
measured on one core with ResNet-50, DenseNet-121, MobileNetV2, EfficientNet-B0 and ViT-B/16; real times are within a
factor of two of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.dependency.axes import Atom, Axes, kept_size
from onnxprune.dependency.trace import Trace
from onnxprune.errors import DataError
from onnxprune.graph.dims import dynamic_dims
from onnxprune.graph.model import Model
from onnxprune.graph.shapes.probe import shapes_at
from onnxprune.graph.tensors import Array
from onnxprune.runtime.replay import Feeds

WRITTEN = 30.0  # multiply-accumulates that one written number costs
CALL = 2e5  # of one node in one run
OPENED_NODE, OPENED_BYTE = 4e6, 60.0  # of a session, for each node and each byte of weights


def sizes_of(feeds: Mapping[str, Array], model: Model) -> dict[str, int]:
    """Return the sizes of the dynamic dims that feeds have, by the key of `graph.dims.dynamic_dims`.

    Raises:
        DataError: when a feed is missing or has another rank.
    """
    sizes: dict[str, int] = {}
    for port in model.inputs:
        if port.name not in feeds or (port.shape is not None and feeds[port.name].ndim != len(port.shape)):
            raise DataError(f"input {port.name!r}: nothing to run the model on that fits it")
        sizes.update((key, feeds[port.name].shape[dim]) for dim, key in dynamic_dims(port))
    return sizes


class Work:
    """The work of a model by the places of its nodes, with one batch of samples."""

    def __init__(self, traced: Trace, feeds: Feeds) -> None:
        """Count the work of each node.

        Args:
            traced: the model with its axes.
            feeds: the batch; dynamic dims have its sizes. Bodies count as if they ran once.
        """
        model, sizes, self._place = traced.model, atom_sizes(traced, feeds), traced.model.places
        runs, opened = np.zeros(len(model.top) + 1), np.zeros(len(model.top) + 1)
        for index, place in self._place.items():
            runs[place] += CALL + _node_work(traced, index, sizes)
            opened[place] += OPENED_NODE + OPENED_BYTE * _weight_bytes(model, index)
        self._runs, self._opened = (np.cumsum(part[::-1])[::-1] for part in (runs, opened))

    @property
    def run(self) -> float:
        """The work of one run of the whole model."""
        return float(self._runs[0])

    def behind(self, place: int, batches: int) -> float:
        """Return the work of a new session of all nodes from a place on, and of running so many batches in it."""
        return float(self._opened[place] + batches * self._runs[place])


def one_pass(traced: Trace, batches: Sequence[Feeds]) -> float:
    """Return the work of running a model on all batches, if all are like the first."""
    return len(batches) * Work(traced, batches[0]).run


def numbers(traced: Trace, name: str, sizes: Mapping[Atom, int]) -> float:
    """Return how many numbers a value has for a batch of the `atom_sizes` given."""
    return _product(traced, traced.values[name], sizes)


def atom_sizes(traced: Trace, feeds: Feeds) -> dict[Atom, int]:
    """Return the sizes of dynamic atoms in a batch, also of those that strides and windows make of the inputs'.

    It goes through the whole graph: once for a batch, not once for a layer.

    Raises:
        DataError: when a feed is missing or has another rank.
    """
    shapes: dict[str, tuple[int, ...]] = dict(shapes_at(traced.model, sizes_of(feeds, traced.model)))
    shapes |= {name: array.shape for name, array in feeds.items()}
    sizes: dict[Atom, int] = {}
    for name, shape in shapes.items():
        for axis, size in zip(traced.axes(traced.values.get(name, ())), shape, strict=False):
            if isinstance(axis, Atom) and axis.dynamic:
                sizes[axis] = size
    return sizes


def _node_work(traced: Trace, index: int, sizes: Mapping[Atom, int]) -> float:
    """Return the multiply-accumulates of a node, and the price of the numbers that it writes."""
    coupling = traced.couplings.get(index)
    macs = sum(_product(traced, axes, sizes) for axes in (coupling.macs if coupling is not None else ()))
    written = sum(
        _product(traced, traced.values[name], sizes)
        for name in traced.model.nodes[index].outputs
        if name in traced.values
    )
    return macs + WRITTEN * written


def _product(traced: Trace, axes: Axes, sizes: Mapping[Atom, int]) -> float:
    return float(math.prod(kept_size(axis, sizes) for axis in traced.axes(axes)))


def _weight_bytes(model: Model, index: int) -> int:
    """Return the bytes of the constants that a node reads."""
    read = (model.constants[name] for name in model.nodes[index].inputs if name in model.constants)
    return sum(constant.count * constant.dtype.itemsize for constant in read)
