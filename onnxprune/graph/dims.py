"""Sizes for the dynamic dims of a model: how a setting picks them, and the settings that the probe tries in turn."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from onnxprune.graph.ports import Port, past_axis


def dynamic_dims(port: Port) -> Iterator[tuple[int, str]]:
    """Yield position and key of each dynamic dim of an input; equal names have equal keys.

    >>> list(dynamic_dims(Port("x", None, ("batch", 3, None))))
    [(0, 'batch'), (2, 'x.2')]
    """
    for i, dim in enumerate(port.shape or ()):
        if not isinstance(dim, int):
            yield i, dim or f"{port.name}.{i}"


def past_keys(ports: Sequence[Port]) -> list[str]:
    """Return the keys of the dynamic dims that count tokens of the past."""
    return [key for port in ports for at, key in dynamic_dims(port) if at == past_axis(port)]


def with_dims(port: Port, sizes: Mapping[str, int]) -> Port:
    """Return an input whose dynamic dims have sizes, as far as there are some for their keys."""
    if port.shape is None:
        return port
    keys = dict(dynamic_dims(port))
    return replace(port, shape=tuple(sizes.get(keys.get(at, ""), dim) for at, dim in enumerate(port.shape)))


def stated_sizes(inputs: Sequence[Port], stated: Sequence[Port]) -> dict[str, int]:
    """Return the sizes of dynamic dims, by key, that the same inputs with some shapes fixed have.

    >>> stated_sizes([Port("x", None, ("n", "t")), Port("m", None, ("n",))], [Port("x", None, (2, "t"))])
    {'n': 2}
    """
    return {
        key: size
        for own, port in zip(inputs, stated, strict=False)
        for at, key in dynamic_dims(own)
        if port.shape is not None and isinstance(size := port.shape[at], int)
    }


# Dims of exporters whose name is no sum, but means one.
_TOTALS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"total_sequence_length": ("past_sequence_length", "sequence_length")}
)


def summed(dims: Mapping[str, int], held: Container[str] = ()) -> dict[str, int]:
    """Return sizes in which each dim that is called a sum of others is their sum; those in `held` stay.

    Exporters name the length of a mask so: it reaches over the past and what is new.

    >>> summed({"past": 5, "s": 3, "past + s": 17, "past + 1": 19, "n + s": 2})
    {'past': 5, 's': 3, 'past + s': 8, 'past + 1': 6, 'n + s': 2}
    """
    sums = {key: total for key in dims if key not in held and (total := _total(key, dims)) is not None}
    return {key: sums.get(key, size) for key, size in dims.items()}


def _total(key: str, dims: Mapping[str, int]) -> int | None:
    """Return the sum that a dim is called; None where it is called none, or of dims that are not known."""
    terms = _TOTALS.get(key) or [term.strip() for term in key.split("+")]
    if len(terms) < 2 or not all(term in dims or term.isdecimal() for term in terms):
        return None
    return sum(dims[term] if term in dims else int(term) for term in terms)


@dataclass(frozen=True, slots=True)
class Choice:
    """How sizes are chosen for dynamic dims, in one setting.

    Batches, lengths (any other dim) and sides (of images) are taken in turn, so that differently named dims differ.
    """

    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    sides: tuple[int, ...]
    assumed: int = 0  # for sizes that depend on data, such as the count of a NonZero

    def alike(self) -> Choice:
        """Return the choice that gives all batches, all lengths and all sides one size each."""
        return Choice(self.batches[:1], self.lengths[:1], self.sides[:1], self.assumed)

    def of(self, model_inputs: Sequence[Port]) -> dict[str, int]:
        """Return a size for every dynamic dim, by key."""
        dims: dict[str, int] = {}
        batches, lengths, sides = map(itertools.cycle, (self.batches, self.lengths, self.sides))
        for port in model_inputs:
            is_image = port.shape is not None and len(port.shape) == 4 and port.role is None
            for i, key in dynamic_dims(port):
                if key not in dims:
                    dims[key] = next(
                        batches if i == 0 and not port.is_of_all else sides if is_image and i >= 2 else lengths
                    )
        return summed(dims)


# What is tried, in this order, until every node can take the shapes of its inputs. In each attempt the last setting is
# small where the others are large, so that a dim that is clamped (x[:, :5]) does not look static; sides of images are
# multiples of 32, because networks divide them by two again and again.
FIRST = Choice((11, 5), (17, 23, 29, 37, 41), (224, 256, 320), 59)
SECOND = Choice((13, 7), (19, 31, 43, 47, 53), (352, 320, 288), 61)
THIRD = Choice((3, 2), (2, 3, 5, 7, 1), (192, 160, 128), 6)
ATTEMPTS = (
    (FIRST, SECOND, THIRD),
    (FIRST, SECOND),
    tuple(choice.alike() for choice in (FIRST, SECOND, THIRD)),  # dims of two names that must be equal
    tuple(choice.alike() for choice in (FIRST, SECOND)),
    # Frames of videos and blocks of text come in multiples.
    (Choice((11 * 24,), (17 * 24,), (224,), 59), Choice((13 * 24,), (19 * 24,), (352,), 61)),
    # Readers of text lines squeeze the height of an image, which has to be that of a line.
    (
        replace(FIRST, sides=(48, 320)),
        replace(SECOND, sides=(32, 480)),
        replace(THIRD, sides=(48, 160)),
    ),
    # Some exporters fix the batch in a Reshape and call it dynamic all the same: the graph fits a batch of one.
    tuple(replace(choice, batches=(1,)) for choice in (FIRST, SECOND, THIRD)),
    tuple(replace(choice, batches=(1,)).alike() for choice in (FIRST, SECOND)),
)
# Waveforms: strides shorten them so much that each of the lengths above leaves one or two frames.
LONG = tuple(replace(c, lengths=tuple(400 * n for n in c.lengths)) for c in (FIRST, SECOND, THIRD))
# What is clamped from below (blocks of 64, tables up to 1,024) looks static where all lengths are short.
FAR = Choice((17, 19), (1031, 1033, 1039, 1049, 1051), (416, 384, 448), 67)


@dataclass(frozen=True, slots=True)
class FixedDims:
    """Sizes of the dynamic dims that the caller fixes."""

    dims: Mapping[str, int]
    assumed: int = 59

    def of(self, _: Sequence[Port]) -> dict[str, int]:
        """Return these sizes, whatever the inputs are."""
        return dict(self.dims)
