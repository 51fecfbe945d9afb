"""Concrete shapes and size values of a model, under several settings of its dynamic dims.

Reshape targets, slices and repeats are often computed at run time from ``Shape``. The probe runs only that
part of the graph: each value gets its shape by ONNX's own shape inference, node by node, and values that
follow from constants and sizes alone are computed. Done under several settings, with different primes for the dynamic
dims, this tells which dims and which values are static.

Nothing here runs a convolution or reads a large weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from onnxprune.graph.dims import (
    ATTEMPTS,
    FAR,
    FIRST,
    LONG,
    SECOND,
    THIRD,
    Choice,
    FixedDims,
    dynamic_dims,
    stated_sizes,
)
from onnxprune.graph.model import Model, Node
from onnxprune.graph.ports import Port, with_batches
from onnxprune.graph.shapes.fit import fit
from onnxprune.graph.shapes.walk import Walk
from onnxprune.graph.tensors import Array, Shape, numpy_of, numpy_type

ZERO_LIMIT = 2**16  # elements up to which a constant is looked at to see whether it is zero
_COPIES = frozenset(  # ops whose outputs hold numbers of the first input alone (of every input for Concat)
    ("Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
     "Unsqueeze")
)  # fmt: skip
Sizes: TypeAlias = tuple[int, ...]  # of one dim, under every setting


@dataclass(frozen=True, slots=True)
class Setting:
    """What one setting of the dynamic dims gives."""

    dims: Mapping[str, int]  # size by the key of a dynamic dim
    shapes: Mapping[str, Shape]  # by value name; a value of unknown shape is absent
    kinds: Mapping[str, int]  # ONNX element type, by value name
    values: Mapping[str, Array]  # by value name, where it follows from constants and sizes
    misfits: int  # nodes that cannot take the shapes of their inputs
    has_assumed: bool = False  # whether some size depends on data, and one was assumed for it
    assumed: int = 59  # that size
    conflict: str | None = None  # what does not fit, in words, and nothing was found to change for


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

    @property
    def conflict(self) -> str | None:
        """What of the inputs does not fit together, as a sentence; None where all nodes take what they get."""
        return next((setting.conflict for setting in self.settings if setting.conflict), None)

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

    def static_numbers(self, name: str) -> list[float | None] | None:
        """Return a known vector as it is, with None for the entries that vary; None if it is unknown."""
        values = self._values(name)
        if values is None:
            return None
        columns = zip(*(value.ravel().tolist() for value in values), strict=True)
        return [column[0] if len(set(column)) == 1 else None for column in columns]

    def _values(self, name: str) -> list[Array] | None:
        values = [setting.values[name] for setting in self.settings if name in setting.values]
        same = len(values) == len(self.settings) and len({value.shape for value in values}) == 1
        return values if same else None


_STRIDED = frozenset(("AveragePool", "Conv", "LpPool", "MaxPool", "com.microsoft.FusedConv"))


def probe(model: Model) -> Probe:
    """Return the shapes and size values of `model` under several settings of its dynamic dims."""
    settings = _settings(model)
    return Probe(settings, frozenset(_from_sizes(model, settings)), frozenset(_zeros(model)))


def shapes_at(model: Model, dims: Mapping[str, int]) -> Mapping[str, Shape]:
    """Return the shapes of values when the dynamic dims have these sizes, by name; those of unknown shape are absent.

    Args:
        model: the model.
        dims: size by the key of `dynamic_dims`.
    """
    return setting_at(model, dims).shapes


def setting_at(model: Model, dims: Mapping[str, int]) -> Setting:
    """Return what the setting gives in which the dynamic dims have these sizes, by the key of `dynamic_dims`."""
    return _run(model, FixedDims(dims))


def _settings(model: Model) -> tuple[Setting, ...]:
    if model.fits:
        return tuple(_run(model, sizes) for sizes in model.fits)
    if not any(True for port in model.inputs for _ in dynamic_dims(port)):
        only = _run(model, FIRST)  # no dynamic dims: one walk is enough
        return (only, _run(model, SECOND), _run(model, THIRD)) if only.has_assumed else (only,)
    best: tuple[Setting, ...] = ()
    for attempt in ATTEMPTS:
        settings = tuple(_run(model, choice) for choice in attempt)
        if not best or _misfits(settings) < _misfits(best):
            best = settings
        if not _misfits(best):
            break
    best = _fitted(model, best) if _misfits(best) else best
    if _collapses(model, best):
        long = tuple(_run(model, choice) for choice in LONG)
        return long if _misfits(long) <= _misfits(best) else best
    far = _run(model, FAR)
    return (*best, far) if far.misfits <= _misfits(best) and _has_lengths(model) else best


def _fitted(model: Model, best: tuple[Setting, ...]) -> tuple[Setting, ...]:
    """Return settings of sizes that belong together (`graph.shapes.fit`), where they are better than the best so far.

    Where the usual sizes lead nowhere, those that the caller states and multiples of them do.
    """
    choices = (FIRST, SECOND, THIRD)
    solved = tuple(_solved(model, choice.of(model.inputs), choice) for choice in choices)
    least = min((best, solved[:2], solved), key=_misfits)
    if not _misfits(least):
        return least
    held = frozenset(model.sizes)
    multiples = [{key: factor * size for key, size in model.sizes.items()} for factor in (1, 2, 3)] if held else []
    stated = [
        _solved(model, {**choice.of(model.inputs), **sizes}, choice, held)
        for choice, sizes in zip(choices, multiples, strict=False)
    ]
    fitting = tuple(setting for setting in stated if not setting.misfits)
    return fitting or (replace(least[0], conflict=(stated or solved)[0].conflict), *least[1:])


def _solved(model: Model, dims: Mapping[str, int], choice: Choice, held: frozenset[str] = frozenset()) -> Setting:
    solution = fit(model, dims, held, choice.assumed)
    setting = _run(model, FixedDims(solution.dims, choice.assumed))
    said = None if solution.conflict is None else solution.conflict.sentence(setting.shapes)
    return replace(setting, conflict=said)


def with_sizes(model: Model, ports: Sequence[Port]) -> Model:
    """Return a model that states the sizes of dynamic dims that `ports` have: its inputs with some shapes fixed."""
    return replace(model, sizes={**model.sizes, **stated_sizes(model.inputs, ports)})


def settled(model: Model) -> Model:
    """Return a model with its inputs as the graph can take them: sizes that alone fit are fixed, samples have an axis.

    Exporters state dims as dynamic that something in the graph fixes: a Reshape to a batch of one, a state of one.
    """
    seen = probe(model)
    if _misfits(seen.settings):
        return replace(model, inputs=with_batches(model.inputs))
    sizes = {key: tuple(setting.dims.get(key, 0) for setting in seen.settings) for key in seen.first.dims}
    alone = {key: each[0] for key, each in sizes.items() if len(each) > 1 and len(set(each)) == 1}
    batches = [dim for port in model.inputs for at, dim in dynamic_dims(port) if at == 0 and dim not in alone]
    same = {key: batches[0] for key in sizes if batches and sizes[key] == sizes[batches[0]]}
    same = same if len(same) > 1 else {}
    ports = [_settled(port, alone, same) for port in model.inputs]
    fits = tuple(FixedDims(setting.dims, setting.assumed) for setting in seen.settings)
    result = replace(model, inputs=with_batches(ports, fits_any=True), fits=fits)
    result.walks.update((_key(setting.dims, setting.assumed), setting) for setting in seen.settings)
    return result


def _settled(port: Port, alone: Mapping[str, int], same: Mapping[str, str]) -> Port:
    """Return an input with sizes for the dims in `alone`, and the name of the batch for those in `same`."""
    if port.shape is None:
        return port
    shape: list[int | str | None] = list(port.shape)
    for at, key in dynamic_dims(port):
        shape[at] = alone.get(key, same.get(key, port.shape[at]))
    return replace(port, shape=tuple(shape))


def _has_lengths(model: Model) -> bool:
    """Whether some dynamic dim is neither a batch nor the side of an image."""
    return any(i and len(port.shape or ()) != 4 for port in model.inputs for i, _ in dynamic_dims(port))


def _collapses(model: Model, settings: tuple[Setting, ...]) -> bool:
    """Whether strides make one size of lengths that differ, which then looks static."""
    for node in model.nodes:
        names = (node.inputs[0], node.outputs[0]) if node.op in _STRIDED else ()
        if not names or any(name not in setting.shapes for setting in settings for name in names):
            continue
        before, after = ({setting.shapes[name][2:] for setting in settings} for name in names)
        if (
            len(before) > 1
            and any(len(set(sizes)) == 1 for sizes in zip(*after, strict=False))
            and (not any(len(set(sizes)) == 1 for sizes in zip(*before, strict=False)))
        ):
            return True
    return False


def _misfits(settings: tuple[Setting, ...]) -> int:
    return max(setting.misfits for setting in settings)


def _from_sizes(model: Model, settings: tuple[Setting, ...]) -> set[str]:
    """Return the values that are known under every setting and depend on the size of some runtime tensor."""
    from_sizes: set[str] = set()
    for node in model.nodes:
        known = all(name in setting.values for setting in settings for name in node.outputs if name)
        depends = node.op in ("Shape", "Size") and not _reads_constant(model, node)
        read = (*node.inputs, *(name for body in node.bodies for name in body.outputs))
        if known and (depends or any(name in from_sizes for name in read)):
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


def _run(model: Model, choice: Choice | FixedDims) -> Setting:
    key = _key(choice.of(model.inputs), choice.assumed)
    if key not in model.walks:
        model.walks[key] = _walked(model, choice)
    known: Setting = model.walks[key]
    return known


def _key(dims: Mapping[str, int], assumed: int) -> tuple[Any, ...]:
    return (*sorted(dims.items()), assumed)


def _walked(model: Model, choice: Choice | FixedDims) -> Setting:
    walk = Walk(model, choice)
    walk.graph(model.top)
    kinds = {name: kind for name, (kind, _) in walk.types.items()}
    shapes = {name: shape for name, (_, shape) in walk.types.items()}
    return Setting(walk.dims, shapes, kinds, walk.values, len(walk.unfit), walk.has_assumed, choice.assumed)
