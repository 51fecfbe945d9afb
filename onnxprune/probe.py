"""Concrete shapes and size values of a model, under several settings of its dynamic dims.

Reshape targets, slices and repeats are often computed at run time from ``Shape``. The probe runs only that
part of the graph: each value gets its shape by ONNX's own shape inference, node by node, and values that
follow from constants and sizes alone are computed. Done under several settings, with different primes for the dynamic
dims, this tells which dims and which values are static.

Nothing here runs a convolution or reads a large weight.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

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
    numpy_of,
    numpy_type,
)
from onnxprune.shapes_quantized import SHAPES

VALUE_LIMIT = 4096  # elements up to which a value is computed
ZERO_LIMIT = 2**16  # elements up to which a constant is looked at to see whether it is zero
FLOAT_LIMIT = 8  # the same for constants that may be weights; scales of a Resize are such
_LIKE_THEIR_INPUT = ("GroupNormalization",)  # ops for which onnx has no inference
_COPIES = frozenset(  # ops whose outputs hold numbers of the first input alone (of every input for Concat)
    ("Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
     "Unsqueeze")
)  # fmt: skip
_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)


Sizes: TypeAlias = tuple[int, ...]  # of one dim, under every setting


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
    """Up to three settings side by side; what is the same under all of them counts as static."""

    settings: tuple[Setting, ...]
    from_sizes: frozenset[str]  # known values that depend on the size of some runtime tensor
    zeros: frozenset[str] = frozenset()  # values that are zero throughout, whatever their size

    @property
    def first(self) -> Setting:
        """The setting whose sizes the axes have."""
        return self.settings[0]

    def shape(self, name: str) -> Shape | None:
        """Return the shape of a value under the first setting, None if it is unknown."""
        return self.first.shapes.get(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the numpy type of a value of known shape."""
        return numpy_type(self.first.kinds[name])

    def sizes(self, name: str) -> list[Sizes] | None:
        """Return the size of each dim under every setting, None if the shape is not known under all."""
        shapes = [setting.shapes.get(name) for setting in self.settings]
        known = [shape for shape in shapes if shape is not None]
        if len(known) < len(shapes) or len({len(shape) for shape in known}) > 1:
            return None
        return list(zip(*known, strict=True))

    def is_static(self, name: str, dim: int) -> bool:
        """Whether a dim has the same size under all settings."""
        sizes = self.sizes(name)
        return sizes is not None and len(set(sizes[dim])) == 1

    def value(self, name: str) -> Array | None:
        """Return a known value under the first setting."""
        return self.first.values.get(name)

    def is_known(self, name: str) -> bool:
        """Whether a value is known under all settings, with the same shape."""
        return self._values(name) is not None

    def static_value(self, name: str) -> Array | None:
        """Return a value that is the same under all settings, None if it is unknown or varies."""
        values = self._values(name)
        if values is None or not all(np.array_equal(values[0], value) for value in values[1:]):
            return None
        return values[0]

    def static_entries(self, name: str) -> list[int | None] | None:
        """Return a known integer vector with None for the entries that vary; None if it is unknown."""
        values = self._values(name)
        if values is None:
            return None
        columns = zip(*(value.ravel().tolist() for value in values), strict=True)
        return [int(column[0]) if len(set(column)) == 1 else None for column in columns]

    def _values(self, name: str) -> list[Array] | None:
        values = [setting.values[name] for setting in self.settings if name in setting.values]
        same = len(values) == len(self.settings) and len({value.shape for value in values}) == 1
        return values if same else None


def dynamic_dims(port: Port) -> Iterator[tuple[int, str]]:
    """Yield position and key of each dynamic dim of an input; equal names have equal keys.

    >>> list(dynamic_dims(Port("x", None, ("batch", 3, None))))
    [(0, 'batch'), (2, 'x.2')]
    """
    for i, dim in enumerate(port.shape or ()):
        if not isinstance(dim, int):
            yield i, dim or f"{port.name}.{i}"


@dataclass(frozen=True, slots=True)
class Choice:
    """How sizes are chosen for dynamic dims, in one setting.

    Batches, lengths (any other dim) and sides (of images) are taken in turn, so that differently named dims differ.
    """

    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    sides: tuple[int, ...]

    def alike(self) -> Choice:
        """Return the choice that gives all batches, all lengths and all sides one size each."""
        return Choice(self.batches[:1], self.lengths[:1], self.sides[:1])

    def of(self, model_inputs: Sequence[Port]) -> dict[str, int]:
        """Return a size for every dynamic dim, by key."""
        dims: dict[str, int] = {}
        batches, lengths, sides = map(itertools.cycle, (self.batches, self.lengths, self.sides))
        for port in model_inputs:
            is_image = port.shape is not None and len(port.shape) == 4
            for i, key in dynamic_dims(port):
                if key not in dims:
                    dims[key] = next(batches if i == 0 else sides if is_image and i >= 2 else lengths)
        return dims


# What is tried, in this order, until every node can take the shapes of its inputs. In each attempt the last setting is
# small where the others are large, so that a dim that is clamped (x[:, :5]) does not look static; sides of images are
# multiples of 32, because networks divide them by two again and again.
_FIRST = Choice((11, 5), (17, 23, 29, 37, 41), (224, 256, 320))
_SECOND = Choice((13, 7), (19, 31, 43, 47, 53), (352, 320, 288))
_THIRD = Choice((3, 2), (2, 3, 5, 7, 1), (192, 160, 128))
_ATTEMPTS = (
    (_FIRST, _SECOND, _THIRD),
    (_FIRST, _SECOND),
    tuple(choice.alike() for choice in (_FIRST, _SECOND, _THIRD)),  # dims of two names that must be equal
    tuple(choice.alike() for choice in (_FIRST, _SECOND)),
    # Frames of videos and blocks of text come in multiples.
    (Choice((11 * 24,), (17 * 24,), (224,)), Choice((13 * 24,), (19 * 24,), (352,))),
    # Some exporters fix the batch in a Reshape and call it dynamic all the same: the graph fits a batch of one.
    tuple(replace(choice, batches=(1,)) for choice in (_FIRST, _SECOND, _THIRD)),
    tuple(replace(choice, batches=(1,)).alike() for choice in (_FIRST, _SECOND)),
)


_STATIC = (_FIRST,)  # nothing to choose: one walk tells all


def probe(model: Model) -> Probe:
    """Return the shapes and size values of `model` under several settings of its dynamic dims."""
    best: tuple[Setting, ...] = ()
    for attempt in _ATTEMPTS if any(True for port in model.inputs for _ in dynamic_dims(port)) else (_STATIC,):
        settings = tuple(_run(model, choice.of(model.inputs)) for choice in attempt)
        if not best or _misfits(settings) < _misfits(best):
            best = settings
        if not _misfits(best):
            break
    return Probe(best, frozenset(_from_sizes(model, best)), frozenset(_zeros(model)))


def _misfits(settings: tuple[Setting, ...]) -> int:
    return max(setting.misfits for setting in settings)


def _from_sizes(model: Model, settings: tuple[Setting, ...]) -> set[str]:
    """Return the values that are known under every setting and depend on the size of some runtime tensor."""
    from_sizes: set[str] = set()
    for node in model.nodes:
        known = all(name in setting.values for setting in settings for name in node.outputs if name)
        depends = node.op in ("Shape", "Size") and not _reads_constant(model, node)
        if known and (depends or any(name in from_sizes for name in node.inputs)):
            from_sizes.update(node.outputs)
    return from_sizes


def _zeros(model: Model) -> set[str]:
    """Return the values that are made of zeros alone, such as the initial state of a recurrent layer."""
    zeros: set[str] = set()

    def is_zero(name: str) -> bool:
        constant = model.constants.get(name)
        if constant is not None and constant.is_weight and constant.count <= ZERO_LIMIT:
            return not np.any(model.array(name))
        return name in zeros

    for node in model.nodes:
        if node.op == "ConstantOfShape":
            value = node.attrs.get("value")
            is_made_of_them = value is None or not np.any(numpy_of(value))
        else:
            sources = node.inputs if node.op == "Concat" else node.inputs[:1]
            is_made_of_them = node.op in _COPIES and all(map(is_zero, sources))
        if is_made_of_them:
            zeros.update(node.outputs)
    return zeros


def _reads_constant(model: Model, node: Node) -> bool:
    return node.inputs[0] in model.constants


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
        contributed = self._contributed(node) if inferred is None else {}
        for name in filter(None, node.outputs):
            kind, shape = (inferred or {}).get(name, (0, None))
            if shape is not None:
                self.types[name] = kind, shape
            elif name in contributed:
                self.types[name] = contributed[name]
            elif node.op in _LIKE_THEIR_INPUT and node.inputs[0] in self.types:
                self.types[name] = self.types[node.inputs[0]]
            elif name in self._elsewhere:
                self.types[name] = self._elsewhere[name]
        return inferred == {} or self._is_misshapen(node)

    def _contributed(self, node: Node) -> dict[str, TensorType]:
        """Return what the table says of the outputs of an op that onnx does not know."""
        function = SHAPES.get(node.op)
        if function is None:
            return {}
        types = [self.types.get(name) for name in node.inputs]
        try:
            outputs = function(node, types, self._known(node))
        except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):  # inputs that do not fit, or unknown
            return {}
        return {name: typed for name, typed in zip(node.outputs, outputs, strict=False) if name and typed is not None}

    def _is_misshapen(self, node: Node) -> bool:
        """Whether a Reshape changes the number of elements, which inference does not always see."""
        if node.op != "Reshape" or not {node.inputs[0], node.outputs[0]} <= self.types.keys():
            return False
        before, after = (math.prod(self.types[name][1]) for name in (node.inputs[0], node.outputs[0]))
        return before != after

    @cached_property
    def _elsewhere(self) -> dict[str, TensorType]:
        """What inference over the whole graph (it sees into functions) and, failing that, the file itself say.

        The file comes last: what it states may be stale.
        """
        found: dict[str, TensorType] = {}
        for name, shape in self._model.value_shapes.items():
            dims = [
                dim if isinstance(dim, int) else self._dims.get(dim or "")
                for dim in ((None,) if shape is None else shape)
            ]
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
