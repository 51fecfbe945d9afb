"""Concrete shapes and size values of a model, under two settings of its dynamic dims.

Reshape targets, slices and repeats are often computed at run time from ``Shape``. The probe runs only that
part of the graph: each value gets its shape by ONNX's own shape inference, node by node, and values that
follow from constants and sizes alone are computed. Done twice, with different primes for the dynamic dims,
this tells which dims and which values are static.

Nothing here runs a convolution or reads a large weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.model import (
    FLOAT,
    Array,
    Inference,
    Model,
    Node,
    Port,
    Shape,
    TensorType,
    element_type,
    inferred_shapes,
    numpy_type,
)

VALUE_LIMIT = 4096  # elements up to which a value is computed
FLOAT_LIMIT = 8  # the same for constants that may be weights; scales of a Resize are such
_PRIMES = ((11, 17, 23, 31, 41, 47), (13, 19, 29, 37, 43, 53))
_IMAGE = (224, 352)  # height and width of image-like inputs: networks divide them by two again and again
_LIKE_THEIR_INPUT = ("GroupNormalization",)  # ops for which onnx has no inference
_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What one setting of the dynamic dims gives."""

    dims: Mapping[str, int]  # size by the key of a dynamic dim
    shapes: Mapping[str, Shape]  # by value name; a value of unknown shape is absent
    kinds: Mapping[str, int]  # ONNX element type, by value name
    values: Mapping[str, Array]  # by value name, where it follows from constants and sizes
    misfits: int  # nodes that cannot take the shapes of their inputs


@dataclass(frozen=True)
class Probe:
    """Two settings side by side."""

    first: Setting
    second: Setting
    from_sizes: frozenset[str]  # known values that depend on the size of some runtime tensor

    def shape(self, name: str) -> Shape | None:
        """Return the shape of a value under the first setting, None if it is unknown."""
        return self.first.shapes.get(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the numpy type of a value of known shape."""
        return numpy_type(self.first.kinds[name])

    def is_static(self, name: str, dim: int) -> bool:
        """Whether a dim has the same size under both settings."""
        first, second = self.first.shapes.get(name), self.second.shapes.get(name)
        return first is not None and second is not None and first[dim] == second[dim]

    def value(self, name: str) -> Array | None:
        """Return a known value under the first setting."""
        return self.first.values.get(name)

    def is_known(self, name: str) -> bool:
        """Whether a value is known under both settings, with the same shape."""
        first, second = self.first.values.get(name), self.second.values.get(name)
        return first is not None and second is not None and first.shape == second.shape

    def static_value(self, name: str) -> Array | None:
        """Return a value that is the same under both settings, None if it is unknown or varies."""
        if not self.is_known(name):
            return None
        value = self.first.values[name]
        return value if np.array_equal(value, self.second.values[name]) else None

    def static_entries(self, name: str) -> list[int | None] | None:
        """Return a known integer vector with None for the entries that vary; None if it is unknown."""
        if not self.is_known(name):
            return None
        pair = zip(self.first.values[name].ravel(), self.second.values[name].ravel(), strict=True)
        return [int(a) if a == b else None for a, b in pair]


def dynamic_dims(port: Port) -> Iterator[tuple[int, str]]:
    """Yield position and key of each dynamic dim of an input; equal names have equal keys.

    >>> list(dynamic_dims(Port("x", None, ("batch", 3, None))))
    [(0, 'batch'), (2, 'x.2')]
    """
    for i, dim in enumerate(port.shape or ()):
        if not isinstance(dim, int):
            yield i, dim or f"{port.name}.{i}"


def probe(model: Model) -> Probe:
    """Return the shapes and size values of `model` under two settings of its dynamic dims."""
    first, second = (_run(model, _dims(model, which)) for which in (0, 1))
    if first.misfits:
        # Some exporters fix the batch in a Reshape and call it dynamic all the same: the graph fits a batch of one.
        single = tuple(_run(model, _dims(model, which, batch=1)) for which in (0, 1))
        if single[0].misfits < first.misfits:
            first, second = single
    from_sizes: set[str] = set()
    for node in model.nodes:
        known = all(name in first.values for name in node.outputs if name)
        depends = node.op in ("Shape", "Size") and not _reads_constant(model, node)
        if known and (depends or any(name in from_sizes for name in node.inputs)):
            from_sizes.update(node.outputs)
    return Probe(first, second, frozenset(from_sizes))


def _reads_constant(model: Model, node: Node) -> bool:
    return node.inputs[0] in model.constants


def _dims(model: Model, which: int, batch: int | None = None) -> dict[str, int]:
    """Choose a size for every dynamic dim: the sides of images from `_IMAGE`, the others distinct primes."""
    dims: dict[str, int] = {}
    primes = iter(_PRIMES[which] * 100)
    for port in model.inputs:
        is_image = port.shape is not None and len(port.shape) == 4
        for i, key in dynamic_dims(port):
            if key not in dims:
                dims[key] = _IMAGE[which] if is_image and i >= 2 else next(primes)
                if i == 0 and batch is not None:
                    dims[key] = batch
    return dims


def _run(model: Model, dims: Mapping[str, int]) -> Setting:
    walk = _Walk(model, dims)
    produced = (node for node in model.nodes if not (node.outputs and node.outputs[0] in model.constants))
    misfits = sum(walk.step(node) for node in produced)
    kinds = {name: kind for name, (kind, _) in walk.types.items()}
    shapes = {name: shape for name, (_, shape) in walk.types.items()}
    return Setting(dims, shapes, kinds, walk.values, misfits)


class _Walk:
    """One walk through the graph under one setting of the dynamic dims."""

    def __init__(self, model: Model, dims: Mapping[str, int]) -> None:
        self._model = model
        self._dims = dims
        self._inference = Inference(model)
        self.types: dict[str, TensorType] = {}
        self.values: dict[str, Array] = {}
        for port in model.inputs:
            if port.shape is not None and port.dtype is not None:
                keys = dict(dynamic_dims(port))
                shape = tuple(dims[keys[i]] if i in keys else int(d or 0) for i, d in enumerate(port.shape))
                self.types[port.name] = element_type(port.dtype), shape
        for name, constant in model.constants.items():
            self.types[name] = constant.tensor.data_type, constant.shape
            if constant.count <= (FLOAT_LIMIT if constant.is_weight else VALUE_LIMIT):
                self.values[name] = model.array(name)

    def step(self, node: Node) -> bool:
        """Infer the outputs of one node into `types` and, where they are known, `values`.

        Returns:
            Whether the node cannot take the shapes of its inputs.
        """
        outputs = self._evaluate(node)
        if outputs is not None:
            for name, value in zip(node.outputs, outputs, strict=False):
                self.values[name] = value
                self.types[name] = element_type(value.dtype), value.shape
            return False
        names = [name for name in (*node.inputs, *node.captured) if name]
        known = {name: self.types[name] for name in names if name in self.types}
        inferred = self._inference.outputs(node, known, self._known(node))
        for name in filter(None, node.outputs):
            kind, shape = (inferred or {}).get(name, (0, None))
            if shape is not None:
                self.types[name] = kind, shape
            elif node.op in _LIKE_THEIR_INPUT and node.inputs[0] in self.types:
                self.types[name] = self.types[node.inputs[0]]
            elif name in self._elsewhere:
                self.types[name] = self._elsewhere[name]
        return inferred == {}

    @cached_property
    def _elsewhere(self) -> dict[str, TensorType]:
        """What inference over the whole graph (it sees into functions) and, failing that, the file itself say.

        The file comes last: what it states may be stale.
        """
        found: dict[str, TensorType] = {}
        for name, shape in self._model.value_shapes.items():
            dims = [dim if isinstance(dim, int) else self._dims.get(dim or "") for dim in shape or (None,)]
            if None not in dims:
                found[name] = FLOAT, tuple(dim for dim in dims if dim is not None)
        shapes = {name: shape for name, (_, shape) in self.types.items()}
        return {**found, **inferred_shapes(self._model, shapes)}

    def _known(self, node: Node) -> dict[str, Array]:
        """Return the known values among the inputs of a node."""
        return {name: self.values[name] for name in node.inputs if name in self.values}

    def _evaluate(self, node: Node) -> list[Array] | None:
        """Return the outputs of a node that follows from known values and sizes, None otherwise."""
        if node.op in ("Shape", "Size"):
            typed = self.types.get(node.inputs[0])
            return None if typed is None else [_size_of(node, typed[1])]
        if node.captured or node.op in _RANDOM or not all(name in self.values for name in node.inputs if name):
            return None
        known = {name: self.types[name] for name in node.inputs if name}
        inferred = self._inference.outputs(node, known, self._known(node)) or {}
        shapes = [shape for _, shape in inferred.values()]
        if not shapes or any(s is not None and np.prod(s, dtype=float) > VALUE_LIMIT for s in shapes):
            return None
        return self._inference.evaluate(node, self._known(node))


def _size_of(node: Node, shape: Shape) -> Array:
    if node.op == "Size":
        return np.array(np.prod(shape, dtype=np.int64))
    start, end = node.attrs.get("start", 0), node.attrs.get("end", len(shape))
    return np.array(shape[start:end], np.int64)
