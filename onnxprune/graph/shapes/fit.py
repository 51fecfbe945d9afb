"""Sizes of inputs that fit together: states that are as large as what they meet, a batch that a state fixes.

Sizes are chosen freely for the dynamic dims of a model (`graph.dims`), so that different dims have different sizes. In
many graphs some dims belong together although their names differ: a state is added to what is computed from an image, a
recurrent layer gets a state whose batch is fixed. A walk then meets a node that cannot take the shapes of its inputs.
`fit` learns from that node: of each pair of sizes there that should be equal (`graph.shapes.demands`) it changes the
dim that one of them comes from. As all dims differ, a size tells its dim; where a size is computed from a dim, the dim
is found by changing it and looking what becomes of the pair. A change is kept where it carries the walk further.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from onnxprune.graph.dims import FixedDims, dynamic_dims, stated_sizes, summed
from onnxprune.graph.model import Model, Node
from onnxprune.graph.ports import Port
from onnxprune.graph.shapes.demands import Demand, is_known, unmet
from onnxprune.graph.shapes.walk import Walk
from onnxprune.graph.tensors import Array, Shape

ROUNDS = 96  # changes that are kept, at most
STEPS = 150_000  # nodes that are walked through for one fit, at most: some seconds
TRIED_KEYS = 24  # dims that are changed to see what depends on them
LARGEST = 2**20  # of a dim
_MULTIPLES = (2, 4, 8, 16, 32, 64, 128, 256)  # that a dim is rounded up to where two sizes follow from it alone

Gap: TypeAlias = "Callable[[Mapping[str, int]], int | None]"


@dataclass(frozen=True, slots=True)
class Conflict:
    """Sizes at a node that do not fit, and that nothing was found to change for."""

    node: Node
    sizes: tuple[int, int] | None  # that must be equal; None where that is not known
    inputs: tuple[tuple[str, ...], tuple[str, ...]]  # of the model, that each of them is computed from

    def sentence(self, shapes: Mapping[str, Shape]) -> str:
        """Return what does not fit, and what to do; `shapes` are those that were tried for the inputs."""
        one, other = (next(iter(names), None) for names in self.inputs)
        where = f"at {self.node}"
        if one is None or other is None or one == other:
            name = one or other
            subject = "the sizes tried for its inputs" if name is None else f"{_words(shapes, name)} for input {name!r}"
            return f"{subject} do not fit {where}; give sizes that do with --input {name or 'NAME'}=SHAPE"
        meet = "" if self.sizes is None else f", where {self.sizes[0]} meets {self.sizes[1]}"
        pair = f"inputs {one!r} {_words(shapes, one)} and {other!r} {_words(shapes, other)} do not fit together"
        return f"{pair} {where}{meet}; give sizes that do with --input {one}=SHAPE --input {other}=SHAPE"


def _words(shapes: Mapping[str, Shape], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "of unknown type or shape"


@dataclass(frozen=True, slots=True)
class Fit:
    """Sizes of the dynamic dims, and what is left that does not fit; None where all nodes take them."""

    dims: Mapping[str, int]
    conflict: Conflict | None


def fit(model: Model, dims: Mapping[str, int], held: frozenset[str] = frozenset(), assumed: int = 59) -> Fit:
    """Return sizes near `dims` that all nodes can take, as far as they are found.

    Args:
        model: the model.
        dims: size by the key of `graph.dims.dynamic_dims`.
        held: keys whose sizes stay.
        assumed: the size of dims that depend on data.
    """
    search = _Search(model, held, assumed)
    best = search.walked(dims)
    if best.unfit:
        best = max(search.walked(_apart(dims, held)), best, key=search.rank)  # the first where they are alike
    for _ in range(ROUNDS):
        if not best.unfit:
            return Fit(best.dims, None)
        better = next((each for each in search.changes(best) if search.rank(each) > search.rank(best)), None)
        if better is None:
            break
        best = better
    return Fit(best.dims, search.conflict(best) if best.unfit else None)


def fit_inputs(model: Model, ports: Sequence[Port], dims: Mapping[str, int]) -> Fit:
    """Return `fit` for the inputs of a model of which some have shapes that stay, near sizes for the other dims."""
    stated = stated_sizes(model.inputs, ports)
    return fit(model, {**dims, **stated}, frozenset(stated))


def _apart(dims: Mapping[str, int], held: frozenset[str]) -> dict[str, int]:
    """Return sizes of which no two are equal, so that a size tells its dim: the later ones grow; sums stay sums.

    >>> _apart({"h": 224, "w": 224, "n": 1, "s": 17, "t": 17}, frozenset())
    {'h': 224, 'w': 256, 'n': 2, 's': 17, 't': 19}
    """
    apart = {key: dims[key] for key in dims if key in held}
    for key, wanted in dims.items():
        size, step = max(2, wanted), 2 if wanted % 32 else 32
        while key not in held and size in apart.values():
            size += step
        apart.setdefault(key, size)
    return summed({key: apart[key] for key in dims}, held)


class _Search:
    """Walks through one model under different sizes, and what they tell."""

    def __init__(self, model: Model, held: frozenset[str], assumed: int) -> None:
        self._model, self._assumed, self._left = model, assumed, STEPS
        keys = dict.fromkeys(key for port in model.inputs for _, key in dynamic_dims(port))
        self._keys = [key for key in reversed(keys) if key not in held]  # states and masks follow what they belong to

    def walked(self, dims: Mapping[str, int], end: int | None = None) -> Walk:
        """Return a walk through the graph, or up to the node with the index `end`."""
        walk = Walk(self._model, FixedDims(dims, self._assumed))
        indices = self._model.top if end is None else [index for index in self._model.top if index <= end]
        self._left -= len(indices)
        walk.graph(indices)
        return walk

    def rank(self, walk: Walk) -> tuple[float, int, int]:
        """Return how far a walk came, to compare with another's: the place, pairs that do not fit there, nodes."""
        if not walk.unfit:
            return math.inf, 0, 0
        node = self._model.nodes[min(walk.unfit)]
        return node.index, -len(unmet(node, *_at(node, walk))), -len(walk.unfit)

    def changes(self, walk: Walk) -> Iterator[Walk]:
        """Yield walks under other sizes, of which some may be better: those that the first unfit node asks for."""
        node = self._model.nodes[min(walk.unfit)]
        end = next((index for index in self._model.top if index >= node.index), node.index)
        broken = unmet(node, *_at(node, walk))
        seen = {tuple(walk.dims.items())}
        for dims in itertools.chain(self._named(walk.dims, broken), self._computed(walk.dims, node, end, broken)):
            if self._left <= 0:
                return
            if tuple(dims.items()) not in seen:
                seen.add(tuple(dims.items()))
                yield self.walked(dims)

    def _named(self, dims: Mapping[str, int], broken: Sequence[tuple[Demand, int, int]]) -> Iterator[Mapping[str, int]]:
        """Yield sizes in which a dim that is one of an unequal pair is as large as the other, or 1."""
        pairs = [pair for _, one, other in broken for pair in ((other, one), (one, other))]
        for key in self._keys:
            yield from ({**dims, key: wanted} for size, wanted in pairs if dims[key] == size and 0 < wanted <= LARGEST)
        yield from ({**dims, key: 1} for key in self._keys if any(dims[key] == size for size, _ in pairs))

    def _computed(
        self, dims: Mapping[str, int], node: Node, end: int, broken: Sequence[tuple[Demand, int, int]]
    ) -> Iterator[Mapping[str, int]]:
        """Yield sizes in which a pair that is computed from dims is equal."""
        for demand, one, other in broken:
            for key in self._keys[:TRIED_KEYS]:
                wanted = self._solved(dims, key, partial(self._gap, node, end, demand), one - other)
                if wanted is not None:
                    yield {**dims, key: wanted}
        for multiple in _MULTIPLES if broken or not self._keys else ():
            yield from ({**dims, key: -(-dims[key] // multiple) * multiple} for key in self._keys[:TRIED_KEYS])

    def _gap(self, node: Node, end: int, demand: Demand, dims: Mapping[str, int]) -> int | None:
        """Return how far the pair of a demand lies apart under other sizes."""
        sizes = demand.sizes(*_at(node, self.walked(dims, end)))
        return None if sizes is None else sizes[0] - sizes[1]

    def _solved(self, dims: Mapping[str, int], key: str, gap: Gap, now: int) -> int | None:
        """Return the size of a dim at which a gap closes, by its slope; None where the dim does not close it."""
        before, size = dims[key], 2 * dims[key]
        for _ in range(4):
            if self._left <= 0 or not 0 < size <= LARGEST:
                return None
            then = gap({**dims, key: size})
            if then is None or then == now:
                return None
            if then == 0:
                return size
            nearer = round(size - then * (size - before) / (then - now))
            before, now, size = size, then, nearer
        return None

    def conflict(self, walk: Walk) -> Conflict:
        """Return what the first node that does not fit says."""
        node = self._model.nodes[min(walk.unfit)]
        broken = unmet(node, *_at(node, walk))
        slots = broken[0][0].slots if broken else (0, min(1, len(node.inputs) - 1))
        one, other = (self._inputs_of(node.inputs[slot]) if node.inputs else () for slot in slots)
        own = tuple(name for name in one if name not in other) or one, tuple(n for n in other if n not in one) or other
        return Conflict(node, (broken[0][1], broken[0][2]) if broken and is_known(node) else None, own)

    def _inputs_of(self, value: str) -> tuple[str, ...]:
        """Return the inputs of the model that a value is computed from, in their order."""
        makers = {name: node for node in self._model.nodes for name in node.outputs}
        reached, waiting = {value}, [value]
        while waiting:
            node = makers.get(waiting.pop())
            for name in () if node is None else (*node.inputs, *node.captured):
                if name and name not in reached:
                    reached.add(name)
                    waiting.append(name)
        return tuple(port.name for port in self._model.inputs if port.name in reached)


def _at(node: Node, walk: Walk) -> tuple[list[Shape | None], list[Array | None]]:
    """Return the shapes and the known values of the inputs of a node."""
    shapes = [walk.types[name][1] if name in walk.types else None for name in node.inputs]
    return shapes, [walk.values.get(name) for name in node.inputs]
