"""Random inputs for a model: a size for each dynamic dim, and values of the type and range that each input takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.errors import DataError, TooLarge
from onnxprune.graph.dims import dynamic_dims, summed
from onnxprune.graph.files.limits import bytes_of, excess
from onnxprune.graph.ports import Port, Role, past_axis
from onnxprune.graph.tensors import Array, Shape

DEFAULT_SIDE = 224  # pixels of a dynamic height or width
_LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
DEFAULT_LENGTH = 32  # of any other dynamic dim: tokens, time steps


def default_dims(inputs: Sequence[Port], batch: int = 1) -> dict[str, int]:
    """Return a size for every dynamic dim: `batch` in front, 224 for sides of images, 32 for the others.

    >>> default_dims([Port("x", np.dtype("f4"), ("n", 3, "h", "w"))], batch=8)
    {'n': 8, 'h': 224, 'w': 224}
    """
    dims = {key: batch for port in inputs for i, key in dynamic_dims(port) if i == 0 and not port.is_of_all}
    for port in inputs:
        is_image = len(port.shape or ()) == 4 and port.role is None
        for _, key in dynamic_dims(port):
            dims.setdefault(key, DEFAULT_SIDE if is_image else DEFAULT_LENGTH)
    return summed(dims)


def random_feeds(inputs: Sequence[Port], dims: Mapping[str, int], seed: int) -> dict[str, Array]:
    """Return one array per input, of values that most graphs accept whatever the input means.

    Floats are standard normal. Integers that index an embedding (`Port.below`) lie in its range, 8-bit ones are
    pixels of any value, others are 1, which a mask and a length can be. Booleans are true; a single one is a switch:
    true for an even seed, false for an odd one, and one that asks for the past is true where there is some. Places of
    tokens begin behind the past. Text is drawn from the words that the graph knows (`Port.words`); scales of images
    are 1.

    Args:
        inputs: the inputs of the model.
        dims: size by the key of `graph.dims.dynamic_dims`, see `default_dims`.
        seed: of the random numbers.

    Raises:
        DataError: for an input that is no tensor, of unknown rank, or with a dim that `dims` lacks.
        TooLarge: for sizes that would take more memory than `graph.files.limits` allows.
    """
    rng = np.random.default_rng(seed)
    shapes = shapes_of(inputs, dims)
    past = past_length(inputs, shapes)
    return {port.name: _random(port, shapes[port.name], rng, seed % 2 == 0, past) for port in inputs}


def past_length(inputs: Sequence[Port], shapes: Mapping[str, Shape]) -> int:
    """Return how many tokens of the past there are, when inputs have these shapes; others may lack."""
    kept = ((port.name, past_axis(port)) for port in inputs if port.name in shapes)
    return next((shapes[name][axis] for name, axis in kept if axis is not None), 0)


def places(port: Port, shape: Shape, past: int) -> Array:
    """Return the places of new tokens behind so many of the past; in a table, none goes past its end."""
    last = np.iinfo(np.int64).max if port.below is None else max(0, port.below - 1)
    counted = np.minimum(past + np.arange(shape[-1] if shape else 1), last).astype(port.dtype)
    return np.broadcast_to(counted, shape) if shape else counted.reshape(())


def shapes_of(inputs: Sequence[Port], dims: Mapping[str, int]) -> dict[str, Shape]:
    """Return the shape of each input when its dynamic dims have the sizes `dims`.

    Raises:
        DataError, TooLarge: as `random_feeds`.
    """
    shapes = {port.name: _concrete(port, dims) for port in inputs}
    sizes = bytes_to_make(inputs, shapes)
    problem = excess("random values for the inputs", sum(sizes.values()))
    if problem is not None:
        largest = max(sizes, key=lambda name: sizes[name])
        raise TooLarge(
            f"{problem}, or give smaller sizes with --input. The largest input is {largest!r} {list(shapes[largest])}"
        )
    return shapes


def text(rng: np.random.Generator, shape: tuple[int, ...], words: Sequence[str]) -> Array:
    """Return text: words that a graph knows, any letters where it tells of none."""
    known = np.array(words or _LETTERS, object)
    return known[rng.integers(0, len(known), shape)] if shape else known[:1].reshape(())


def _concrete(port: Port, dims: Mapping[str, int]) -> tuple[int, ...]:
    if port.dtype is None:
        raise DataError(_not_random(port, "not a tensor"))
    if port.shape is None:
        raise DataError(_not_random(port, "of unknown rank"))
    keys = dict(dynamic_dims(port))
    missing = sorted(set(keys.values()) - set(dims))
    if missing:
        raise DataError(_not_random(port, f"{list(port.shape)}, without a size for {', '.join(missing)}"))
    return tuple(dims[keys[i]] if i in keys else int(dim or 0) for i, dim in enumerate(port.shape))


def _not_random(port: Port, why: str) -> str:
    return f"input {port.name!r} is {why}: random values cannot be made for it; give real ones with --data"


def _random(port: Port, shape: tuple[int, ...], rng: np.random.Generator, switch: bool, past: int) -> Array:
    dtype = np.dtype(port.dtype)
    if port.role is Role.POSITIONS:
        return places(port, shape, past)
    if port.role is Role.BRANCH:
        return np.full(shape, past > 0, dtype)
    if dtype.kind in "OUS":
        return text(rng, shape, port.words)
    if port.is_scale:
        return np.ones(shape, dtype)
    if dtype.kind == "b":
        return np.full(shape, switch or math.prod(shape) > 1, dtype)
    if "int" in dtype.name:  # by name: the 4-bit integers of ml_dtypes are of kind V
        if port.below is not None:
            return rng.integers(0, max(1, port.below), shape).astype(dtype)
        is_pixel = dtype.name in ("int8", "uint8")
        return rng.integers(0, 256, shape).astype(dtype) if is_pixel else np.ones(shape, dtype)
    return rng.standard_normal(shape, np.float32).astype(dtype, copy=False)


def bytes_to_make(inputs: Sequence[Port], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Return by input how many bytes it takes to make random values: the values, and what they are cast from."""
    drawn = {port.name: 8 if port.dtype is None or port.dtype.kind not in "fb" else 4 for port in inputs}
    itemsize = {port.name: np.dtype(port.dtype).itemsize for port in inputs}
    return {
        name: bytes_of(shape, itemsize[name] + (drawn[name] if itemsize[name] != drawn[name] else 0))
        for name, shape in shapes.items()
    }
