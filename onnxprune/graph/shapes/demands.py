"""What a node demands of the shapes of its inputs: pairs of sizes that must be equal.

onnx's inference says that shapes do not fit a node, but not which sizes are to blame, and of some operators it does not
look at all inputs. `demands` names the pairs; `graph.shapes.fit` changes sizes of inputs until they agree.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnxprune.graph.model import Node
from onnxprune.graph.tensors import Array, Shape

Shapes: TypeAlias = "Sequence[Shape | None]"  # of the inputs of a node; None where one is absent or unknown
Values: TypeAlias = "Sequence[Array | None]"  # of the inputs of a node, where they follow from constants and sizes
Read: TypeAlias = "Callable[[Shapes, Values], tuple[int, int]]"


@dataclass(frozen=True, slots=True)
class Demand:
    """Two sizes at a node that must be equal."""

    slots: tuple[int, int]  # the inputs that they belong to
    read: Read  # gives both for the shapes of the inputs

    def sizes(self, shapes: Shapes, values: Values) -> tuple[int, int] | None:
        """Return both sizes, None where a shape is not known."""
        try:
            return self.read(shapes, values)
        except (ArithmeticError, IndexError, TypeError, ValueError):  # another rank, or an unknown shape or value
            return None


def unmet(node: Node, shapes: Shapes, values: Values) -> list[tuple[Demand, int, int]]:
    """Return the demands that shapes do not meet, with both sizes."""
    read = [(demand, demand.sizes(shapes, values)) for demand in demands(node, shapes, values)]
    return [(demand, *sizes) for demand, sizes in read if sizes is not None and sizes[0] != sizes[1]]


def demands(node: Node, shapes: Shapes, values: Values) -> Iterator[Demand]:
    """Yield what a node demands; for an operator that is not known here, that dims in the same places are equal.

    That is a guess, to search by: see `is_known`.
    """
    known = _STRICT.get(node.op) or _OTHERS.get(node.op) or _aligned
    yield from known(node, shapes, values)


def is_known(node: Node) -> bool:
    """Whether a node demands what `demands` says."""
    return node.op in _STRICT or node.op in _OTHERS or node.op in _BROADCASTING


def contradicts(node: Node, shapes: Shapes) -> bool:
    """Whether shapes break a demand that onnx's inference does not check."""
    strict = _STRICT.get(node.op)
    if strict is None:
        return False
    pairs = (demand.sizes(shapes, ()) for demand in strict(node, shapes, ()))
    return any(pair is not None and pair[0] != pair[1] for pair in pairs)


def _equal(first: tuple[int, int], second: tuple[int, int]) -> Demand:
    """Return the demand that two dims are equal, each a slot and a position."""

    def read(shapes: Shapes, _: Values) -> tuple[int, int]:
        return _dim(shapes, *first), _dim(shapes, *second)

    return Demand((first[0], second[0]), read)


def _dim(shapes: Shapes, slot: int, dim: int) -> int:
    shape = shapes[slot]
    if shape is None:
        raise ValueError(slot)
    return shape[dim]


# -- by operator -------------------------------------------------------------------------------------------


def _recurrent(node: Node, _: Shapes, __: Values) -> Iterator[Demand]:
    """The batch and the width of a recurrent layer are those of its states."""
    batch = 0 if node.attrs.get("layout", 0) else 1
    yield _equal((0, 2), (1, 2))
    yield _equal((0, batch), (4, 0))
    for state in (5, 6):
        yield _equal((0, batch), (state, batch))
        yield _equal((2, 2), (state, 2))


def _convolution(node: Node, _: Shapes, __: Values) -> Iterator[Demand]:
    groups = node.attrs.get("group", 1)
    yield Demand((0, 1), lambda shapes, _: (_dim(shapes, 0, 1), groups * _dim(shapes, 1, 1)))


def _transposed(_: Node, __: Shapes, ___: Values) -> Iterator[Demand]:
    yield _equal((0, 1), (1, 0))


def _grouped_attention(node: Node, shapes: Shapes, _: Values) -> Iterator[Demand]:
    """Heads of the past are those of the new keys, which come with the queries or apart from them."""
    heads, shared = node.attrs.get("num_heads", 1), node.attrs.get("kv_num_heads", 1)
    packed = len(shapes) < 2 or shapes[1] is None
    yield from _past(heads + 2 * shared if packed else heads, shared, (3, 4))
    if node.attrs.get("sliding_window_cache", 0):  # the past is a buffer of the tokens that are looked at
        yield from (_sized(slot, 2, lambda _: int(node.attrs["local_window_size"])) for slot in (3, 4))


def _attention(past: int) -> _Of:
    """Return what attention with as many heads of queries as of keys demands of its past, from a slot on."""

    def of(node: Node, shapes: Shapes, _: Values) -> Iterator[Demand]:
        if len(shapes[0] or ()) == 3:  # queries [batch, tokens, heads and dims]
            yield from _past(node.attrs.get("num_heads", 1), node.attrs.get("num_heads", 1), (past, past + 1))

    return of


def _past(parts: int, heads: int, slots: tuple[int, int]) -> Iterator[Demand]:
    """Keys and values of the past, ``[batch, heads, tokens, dims]``, are like those of queries of so many parts."""
    yield from (_equal((0, 0), (slot, 0)) for slot in slots)
    yield from (_sized(slot, 1, lambda _: heads) for slot in slots)
    yield from (_sized(slot, 3, lambda shapes: _dim(shapes, 0, 2) // parts) for slot in slots)
    yield _equal((slots[0], 2), (slots[1], 2))


def _sized(slot: int, dim: int, size: Callable[[Shapes], int]) -> Demand:
    """Return the demand that a dim has a size, which follows from the shape of the first input."""
    return Demand((0, slot), lambda shapes, _: (size(shapes), _dim(shapes, slot, dim)))


def _concat(node: Node, shapes: Shapes, _: Values) -> Iterator[Demand]:
    rank = len(next((shape for shape in shapes if shape is not None), ()))
    axis = node.attrs.get("axis", 0) % max(1, rank)
    for slot in range(1, len(shapes)):
        yield from (_equal((0, dim), (slot, dim)) for dim in range(rank) if dim != axis)


def _product(_: Node, shapes: Shapes, __: Values) -> Iterator[Demand]:
    left, right = (len(shape or ()) for shape in (*shapes, None, None)[:2])
    yield _equal((0, -1), (1, -2 if right > 1 else -1))
    yield from (_broadcast((0, -at), (1, -at)) for at in range(3, 1 + min(left, right)))


def _gemm(node: Node, _: Shapes, __: Values) -> Iterator[Demand]:
    yield _equal((0, 0 if node.attrs.get("transA", 0) else 1), (1, 1 if node.attrs.get("transB", 0) else 0))


def _aligned(_: Node, shapes: Shapes, __: Values) -> Iterator[Demand]:
    """Dims of broadcast inputs are equal, counted from the last, unless one of them is 1."""
    for first, second in itertools.combinations(range(len(shapes)), 2):
        rank = min(len(shapes[first] or ()), len(shapes[second] or ()))
        yield from (_broadcast((first, -at), (second, -at)) for at in range(1, rank + 1))


def _broadcast(first: tuple[int, int], second: tuple[int, int]) -> Demand:
    def read(shapes: Shapes, _: Values) -> tuple[int, int]:
        one, other = _dim(shapes, *first), _dim(shapes, *second)
        return (one, one) if other == 1 else (other, other) if one == 1 else (one, other)

    return Demand((first[0], second[0]), read)


def _expand(_: Node, shapes: Shapes, values: Values) -> Iterator[Demand]:
    """A dim that is expanded is 1 or as large as the target says; 1 in the target leaves it as it is."""
    target = values[1] if len(values) > 1 else None
    for at in range(1, 1 + min(len(shapes[0] or ()), 0 if target is None else target.size)):

        def read(shapes: Shapes, values: Values, at: int = at) -> tuple[int, int]:
            one, other = _dim(shapes, 0, -at), int(_content(values, 1)[-at])
            return (one, one) if other == 1 else (other, other) if one == 1 else (one, other)

        yield Demand((0, 1), read)


def _reshape(node: Node, _: Shapes, __: Values) -> Iterator[Demand]:
    """What is reshaped has as many elements as the target; where that leaves one dim open, a multiple of the rest."""
    keeps = not node.attrs.get("allowzero", 0)

    def read(shapes: Shapes, values: Values) -> tuple[int, int]:
        shape, target = shapes[0], [int(size) for size in _content(values, 1)]
        if shape is None:
            raise ValueError(0)
        stated = [shape[at] if size == 0 and keeps else size for at, size in enumerate(target)]
        count, wanted = math.prod(shape), math.prod(size for size in stated if size >= 0)
        if -1 not in stated or wanted == 0:
            return count, wanted
        return count, max(1, count // wanted) * wanted

    yield Demand((0, 1), read)


def _content(values: Values, slot: int) -> Array:
    value = values[slot]
    if value is None:
        raise ValueError(slot)
    return value.ravel()


_Of: TypeAlias = "Callable[[Node, Shapes, Values], Iterator[Demand]]"
_STRICT: Mapping[str, _Of] = {  # what inference does not look at
    "com.microsoft.DecoderMaskedMultiHeadAttention": _attention(past=5),
    "com.microsoft.GroupQueryAttention": _grouped_attention,
    "com.microsoft.MultiHeadAttention": _attention(past=6),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
    "Conv": _convolution,
    "ConvTranspose": _transposed,
}
_OTHERS: Mapping[str, _Of] = {
    "Concat": _concat,
    "Expand": _expand,
    "Gemm": _gemm,
    "MatMul": _product,
    "Reshape": _reshape,
}
_ELEMENTWISE = (  # of several inputs, which are broadcast
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min "
    "Mod Mul Or PRelu Pow Sub Sum Where Xor"
)
_BROADCASTING = frozenset(_ELEMENTWISE.split())
