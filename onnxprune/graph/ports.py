"""Inputs and outputs of a graph: names, types, shapes.

Apart from `graph.model`, so that `graph.dims` needs nothing else of a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ValueInfoProto

from onnxprune.graph.tensors import numpy_type


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph."""

    name: str
    dtype: np.dtype[Any] | None  # None for sequences and maps
    shape: tuple[int | str | None, ...] | None  # a str or None marks a dynamic dim; None is an unknown rank
    below: int | None = field(default=None, compare=False)  # bound of indices into an embedding, where it is one


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
