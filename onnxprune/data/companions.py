"""Inputs that follow from the tokens, where samples hold these alone: masks, places, a past that is still empty.

Networks that continue a text take more than the text: a mask over the past and what is new, the places of the new
tokens, keys and values of the past, and a switch that says whether there is any. Of a text from its first token all of
these are known: the mask is ones, places are counted from zero (by the mask, where there is one, as exporters' own
examples do: https://huggingface.co/docs/transformers/main/en/llm_tutorial#padding-side), the past has no token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnxprune.data.batching import is_shared
from onnxprune.errors import DataError
from onnxprune.graph.ports import Port, Role, past_axis
from onnxprune.graph.tensors import Array, Shape
from onnxprune.runtime.random_feeds import past_length, places


def given(inputs: Sequence[Port], names: Iterable[str]) -> tuple[Port, ...]:
    """Return the inputs of a model that samples must hold, or do hold: those that follow from the tokens may lack."""
    held = set(names)
    if not any(port.name in held for port in inputs if port.holds_tokens):
        return tuple(inputs)
    is_counted = any(past_axis(port) is not None for port in inputs)
    return tuple(port for port in inputs if port.name in held or not _follows(port, is_counted))


def with_companions(where: object, arrays: Mapping[str, Array], inputs: Sequence[Port]) -> dict[str, Array]:
    """Return arrays with those that follow from them, for the inputs of a model that lack.

    Args:
        where: words for the source.
        arrays: by name, of the shapes that the model takes, for all inputs that do not follow.
        inputs: of the model.

    Raises:
        DataError: when the tokens have no axis of samples and one of length.
    """
    lacking = [port for port in inputs if port.name not in arrays]
    if not lacking:
        return dict(arrays)
    tokens = next(port for port in inputs if port.holds_tokens and port.name in arrays)
    shape = arrays[tokens.name].shape
    if len(shape) != 2:
        raise DataError(
            f"{where}: array {tokens.name!r} has shape {list(shape)}; the model takes {lacking[0].name!r}, too, which "
            "follows from tokens [samples, length] alone: give it as well"
        )
    past = past_length(inputs, {name: array.shape for name, array in arrays.items()})
    whole = shape[0], past + shape[1]
    masks = [arrays[port.name] for port in inputs if port.role is Role.MASK and port.name in arrays]
    mask = masks[0] if masks and masks[0].shape == whole else np.ones(whole)
    return {**arrays, **{port.name: _made(port, shape, past, mask) for port in lacking}}


def _made(port: Port, shape: Shape, past: int, mask: Array) -> Array:
    """Return what an input takes beside tokens `[samples, length]`."""
    if port.role is Role.PAST:
        known = {past_axis(port): past, port.batch: shape[0]}  # None: a buffer, of which nothing is read yet
        return np.zeros([_size(at, dim, known) for at, dim in enumerate(port.shape or ())], port.dtype)
    if port.role is Role.BRANCH:
        return np.full([int(dim) if isinstance(dim, int) else 1 for dim in port.shape or ()], past > 0)
    if port.role is Role.MASK:
        return np.ones(mask.shape, port.dtype)
    if port.is_of_all:
        return places(port, shape[1:], past)
    counted: Array = np.maximum(np.cumsum(mask, 1)[:, past:] - 1, 0).astype(port.dtype)
    return counted


def _size(at: int, dim: int | str | None, known: Mapping[int | None, int]) -> int:
    """Return the size of a dim at a place: that which is known, or the one that the model states."""
    return known[at] if at in known else dim if isinstance(dim, int) else 1


def _follows(port: Port, is_counted: bool) -> bool:
    """Whether what an input takes follows from the tokens.

    Args:
        port: the input.
        is_counted: whether some input tells the length of the past: others may be buffers of a fixed size then.
    """
    rank = len(port.shape or ())
    if port.role is Role.PAST:
        return is_counted and not is_shared(port)
    if port.role is Role.POSITIONS:
        return rank in (1, 2)
    return port.role is Role.BRANCH or (port.role is Role.MASK and rank == 2)
