"""Types of arrays, and what an array holds: floats, probabilities, tokens, masks; rows in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Flags: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Arrays: TypeAlias = Mapping[str, Array]
Figures: TypeAlias = Mapping[str, "float | None"]  # None for what is not finite, as in JSON
# (reference outputs, outputs, feeds, labels) of a batch to one float or several by name; feeds and labels may be None.
# Batches are averaged by their samples. The first name is the headline; higher is better unless a word of it says
# otherwise (`metrics.function.LOWER`): "top5" and "mAP" rise, "word_error_rate" and "l1Loss" fall.
Function: TypeAlias = Callable[[Arrays, Arrays, "Arrays | None", "Array | None"], Any]
BLOCK = 1 << 17  # numbers that are worked on at once: they stay in the cache, which makes it twice as fast


def is_float(array: Array) -> bool:
    """Whether an array holds floats; by name, because bfloat16 is of no kind that numpy knows."""
    return "float" in array.dtype.name


def is_number(array: Array) -> bool:
    """Whether an array holds anything but text and objects."""
    return array.dtype.kind not in "OUS"


def in_double(array: Array) -> Floats:
    """Return an array in double precision, in which no sum is lost."""
    return array.astype(np.float64)


def flattened(outputs: Arrays, name: str) -> Array:
    """Return an output as ``[samples, numbers]``."""
    array = outputs[name]
    return array.reshape(len(array), math.prod(array.shape[1:]))  # -1 would refuse an empty batch


def first_floats(outputs: Arrays) -> str | None:
    """Return the first output of floats; the first of all where there is none."""
    return next((name for name, array in outputs.items() if is_float(array)), next(iter(outputs), None))


def sample_count(arrays: Arrays) -> int | None:
    """Return the samples of a batch: the first axis of the first array that has one."""
    return next((len(array) for array in arrays.values() if array.ndim), None)


def rows_are_probabilities(array: Array) -> bool:
    """Whether the last axis holds probabilities, by the first rows."""
    if not array.size:
        return False
    x = in_double(array.reshape(-1, array.shape[-1])[:64])
    near = np.abs(x.sum(axis=-1) - 1) < 0.02  # float16 makes so much of 1,000 classes
    return bool((x >= 0).all() and near.all())


def have_unit_length(array: Array) -> bool:
    """Whether all vectors ``[.., width]`` have length 1."""
    norms = np.sqrt(np.square(in_double(array)).sum(axis=-1))
    return bool(norms.size and (np.abs(norms - 1) < 0.01).all())


def token_inputs(feeds: Arrays, shape: tuple[int, ...]) -> dict[str, Array]:
    """Return the integers ``[samples, tokens]`` among the inputs."""
    return {name: array for name, array in feeds.items() if array.dtype.kind in "iu" and array.shape == shape}


def mask_input(feeds: Arrays, shape: tuple[int, ...]) -> str | None:
    """Return the input that says which tokens are no padding: named so, or ones in front of zeros in every row."""
    flags = {name: a for name, a in _flags(feeds) if len(a) == shape[0] and a.shape[1] >= shape[1]}
    named = [name for name in flags if "mask" in name.lower()]
    leading = [name for name, a in flags.items() if a[:, 0].all() and (np.diff(a.astype(int)) <= 0).all()]
    return next(iter(named + leading), None)


def beside_ids(ids: str, feeds: Arrays) -> dict[str, Array]:
    """Return the inputs of the text that an input has the ids of, without these: encoder and decoder have one each.

    Where ids have no side and nothing beside them has none either, as in a decoder alone, they are the decoder's.

    >>> masks = dict.fromkeys(("attention_mask", "decoder_attention_mask"), None)
    >>> sorted(beside_ids("decoder_input_ids", masks)), sorted(beside_ids("input_ids", masks))
    (['decoder_attention_mask'], ['attention_mask'])
    >>> sorted(beside_ids("input_ids", dict.fromkeys(("decoder_attention_mask", "encoder_hidden_states"), None)))
    ['decoder_attention_mask']
    """
    others = {name: array for name, array in feeds.items() if name != ids}
    own = {name: array for name, array in others.items() if side_of(name) == side_of(ids)}
    return own or {name: array for name, array in others.items() if side_of(name) == "decoder"}


def side_of(name: str) -> str:
    """Return which of two texts an input belongs to, by what its name begins with.

    >>> side_of("decoder_input_ids"), side_of("encoder.attention_mask"), side_of("token_type_ids")
    ('decoder', 'encoder', '')
    """
    return next((side for side in ("decoder", "encoder") if name.lower().startswith(side)), "")


def counts_up(ids: Array) -> bool:
    """Whether the rows of an input ``[samples, tokens]`` count, as positions do."""
    return ids.shape[1] > 2 and bool((np.diff(ids.astype(np.int64), axis=1) == 1).all())


def _flags(feeds: Arrays) -> Iterator[tuple[str, Array]]:
    for name, array in feeds.items():
        if array.ndim == 2 and array.size and array.dtype.kind in "iub" and ((array == 0) | (array == 1)).all():
            yield name, array


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of rows that are worked on at once, so that the memory is bounded."""
    step = max(1, BLOCK // max(1, width))
    yield from (slice(start, start + step) for start in range(0, rows, step))


def in_unit_interval(array: Array) -> bool:
    """Whether all numbers lie from 0 to 1."""
    return bool((array >= 0).all() and (array <= 1).all())


def broken_rows(reference: Array, other: Array) -> Flags:
    """Return which rows are not finite where the reference is."""
    return np.asarray((np.isfinite(reference) & ~np.isfinite(other)).any(axis=1))
