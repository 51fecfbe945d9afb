"""Inputs and outputs of a graph: names, types, shapes.

Apart from `graph.model`, so that `graph.dims` needs nothing else of a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np
from onnx import ValueInfoProto

from onnxprune.graph.tensors import Array, numpy_type


class Role(Enum):
    """What an input is to a network that continues what it has seen, and keeps of that what it needs."""

    MASK = "which tokens count"  # [samples, past and new tokens]
    POSITIONS = "places of the new tokens"  # [samples, new tokens], or [new tokens]
    PAST = "what is kept of the past"  # keys, values or states; one of the axes counts tokens of the past
    BESIDE = "what is kept of another text"  # that is read beside
    BRANCH = "whether there is a past"  # one truth value


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph."""

    name: str
    dtype: np.dtype[Any] | None  # None for sequences and maps
    shape: tuple[int | str | None, ...] | None  # a str or None marks a dynamic dim; None is an unknown rank
    below: int | None = field(default=None, compare=False)  # bound of indices into an embedding, where it is one
    words: tuple[str, ...] = field(default=(), compare=False)  # of text: what the graph knows
    is_scale: bool = field(default=False, compare=False)  # whether it says how many times as large an image becomes
    role: Role | None = field(default=None, compare=False)  # what it is to a network that goes on with a text
    batch: int | None = field(default=0, compare=False)  # the axis along which samples lie; None: all samples share it

    @property
    def holds_tokens(self) -> bool:
        """Whether what it takes is looked up in a table, and is no place."""
        return self.below is not None and self.role is None

    @property
    def is_of_all(self) -> bool:
        """Whether its meaning tells that all samples share it: places in one row, or whether there is a past."""
        return self.role is Role.BRANCH or (self.role is Role.POSITIONS and len(self.shape or ()) == 1)


def cache_bytes(ports: Sequence[Port], like: Sequence[Port] = ()) -> int:
    """Return the bytes that the caches among inputs take for one token of one text: open dims count once.

    Args:
        ports: the inputs.
        like: inputs of another model, which state dims that these leave open.

    >>> past = Port("past", np.dtype("float16"), ("n", 4, "length", 16), role=Role.PAST)
    >>> cut = replace(past, shape=("n", 4, "length", "dim"))
    >>> cache_bytes([past, replace(past, role=None)]), cache_bytes([cut], [past])
    (128, 128)
    """
    known = {port.name: port.shape or () for port in like}
    total = 0
    for port in ports:
        if port.role is Role.PAST and port.dtype is not None and port.shape is not None:
            others = known.get(port.name, ()) if len(known.get(port.name, ())) == len(port.shape) else port.shape
            dims = [
                next((dim for dim in pair if isinstance(dim, int)), 1) for pair in zip(port.shape, others, strict=True)
            ]
            total += port.dtype.itemsize * math.prod(dims)
    return total


def with_batches(ports: Sequence[Port], fits_any: bool = False) -> tuple[Port, ...]:
    """Return inputs with the axis along which samples lie: the first, or the one that is as large as that of others.

    Where first dims are fixed and differ, the batch is the size that most inputs have among their first two dims.

    Args:
        ports: the inputs of a model.
        fits_any: whether the graph is known to take any size of the dynamic first dims: what is fixed beside them is
            then no batch, and all samples share it.

    >>> x, h, table = Port("x", None, ("n", 3)), Port("h", None, (2, "n", 8)), Port("table", None, (9, 4))
    >>> [port.batch for port in with_batches([x, h, table], fits_any=True)]
    [0, 1, None]
    >>> [port.batch for port in with_batches([replace(x, shape=(1, 3)), replace(h, shape=(2, 1, 8)), table])]
    [0, 1, None]
    """
    if any(port.is_of_all for port in ports):
        rest = iter(with_batches([port for port in ports if not port.is_of_all], fits_any))
        return tuple(replace(port, batch=None) if port.is_of_all else next(rest) for port in ports)
    firsts = [port.shape[0] for port in ports if port.shape]
    names = {dim for dim in firsts if isinstance(dim, str)}
    fixed = [dim for dim in firsts if isinstance(dim, int)]
    if not fixed or not (len(fixed) < len(firsts) or len(set(fixed)) > 1):
        return tuple(ports)
    if len(fixed) < len(firsts):
        return tuple(_named(port, names, fits_any) for port in ports)
    near = [dim for port in ports for dim in set((port.shape or ())[:2])]
    return tuple(_sized(port, max(fixed, key=near.count)) for port in ports)


def past_axis(port: Port) -> int | None:
    """Return the axis along which an input counts tokens of the past; None for one that counts none."""
    return length_axis(port) if port.role is Role.PAST else None


def length_axis(port: Port) -> int | None:
    """Return the dynamic axis of an input beside that of its samples; None where none is alone.

    >>> length_axis(Port("past_key_values.0.key", None, ("n", 2, "past", 16)))
    2
    """
    axes = [at for at, dim in enumerate(port.shape or ()) if at != port.batch and not isinstance(dim, int)]
    return axes[0] if len(axes) == 1 else None


def taken(feeds: Mapping[str, Array], shapes: Mapping[str, Sequence[object]]) -> dict[str, Array]:
    """Return feeds of a model as one takes them whose caches were cut.

    Inputs that it lacks are left out, and of an axis that is longer than it states the first indices are taken.

    Args:
        feeds: by input.
        shapes: that the other model states, by input; what is no number is a size that it leaves open.

    >>> {name: array.shape for name, array in taken({"x": np.ones((2, 8)), "y": np.ones(3)}, {"x": ("n", 6)}).items()}
    {'x': (2, 6)}
    """
    return {name: _first(array, shapes[name]) for name, array in feeds.items() if name in shapes}


def _first(array: Array, shape: Sequence[object]) -> Array:
    stated = zip(array.shape, shape, strict=False)
    cut = tuple(slice(dim) if isinstance(dim, int) and 0 < dim < size else slice(None) for size, dim in stated)
    return np.ascontiguousarray(array[cut]) if any(part.stop for part in cut) else array


def batch_dim(port: Port) -> int | str | None:
    """Return the dim that counts samples; None where there is none, or where it has neither size nor name."""
    return port.shape[port.batch] if port.shape and port.batch is not None else None


def with_batch(port: Port, size: int | str | None) -> Port:
    """Return an input whose samples are so many; as it is where it has no axis of samples."""
    if not port.shape or port.batch is None:
        return port
    return replace(port, shape=(*port.shape[: port.batch], size, *port.shape[port.batch + 1 :]))


def _named(port: Port, names: set[str], fits_any: bool) -> Port:
    """Return an input beside one whose first dim is dynamic."""
    if not port.shape or not isinstance(port.shape[0], int):
        return port
    axis = next((at for at, dim in enumerate(port.shape) if dim in names), None)
    return replace(port, batch=axis if axis is not None or fits_any else 0)


def _sized(port: Port, size: int) -> Port:
    """Return an input whose batch, where it has one, is of a fixed size."""
    near = (port.shape or ())[:2]
    return replace(port, batch=near.index(size) if size in near else None) if port.shape else port


def port_of(info: ValueInfoProto) -> Port:
    """Return an input or output as a `Port`; without type and shape where it is no tensor."""
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type"):
        return Port(info.name, None, None)
    dtype = numpy_type(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return Port(info.name, dtype, None)
    return Port(info.name, dtype, tuple(map(_dim, tensor.shape.dim)))


def _dim(dim: Any) -> int | str | None:
    """Return a size, or the name of a dynamic dim; exporters also write -1 and ``?`` for one without a name."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return None if dim.dim_param == "?" else dim.dim_param or None
