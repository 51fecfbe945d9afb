"""Stations: places in a model where few values are alive, at which it may be divided into parts that run on their own.

A part needs the values that are alive at the place where it begins, and the weights of its own nodes alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from onnxprune.graph.model import Model
from onnxprune.graph.tensors import raw_length

PARTS = 8  # between stations, at most
_NODE_BYTES = 2**16  # of weights that take as long to open as a node


def order_of(model: Model) -> dict[str, int]:
    """Return for every value between nodes the place in `model.top` of the node that makes it."""
    return {
        name: place
        for place, index in enumerate(model.top)
        for name in model.nodes[index].outputs
        if name not in model.constants
    }


def last_reads(model: Model, order: Mapping[str, int]) -> dict[str, int]:
    """Return for every runtime value the place of the last node that reads it; for outputs, the end."""
    end = len(model.top)
    last = dict.fromkeys((*(port.name for port in model.outputs), *model.tensor_outputs), end)
    fixed = model.fixed  # computed again, as a constant may have been replaced
    known = {*order, *(port.name for port in model.inputs)} - fixed
    for place, index in enumerate(model.top):
        node = model.nodes[index]
        for name in (*node.inputs, *node.captured):
            if name in known:
                last[name] = max(place, last.get(name, 0))
    return {name: place for name, place in last.items() if name not in fixed}


def stations(model: Model, parts: int = PARTS) -> tuple[int, ...]:
    """Return places in `model.top` that divide a model into parts, each where few values are alive.

    Parts take about as long to open as each other; each place is the one nearby with the fewest values that pass it.
    """
    costs = [0.0]
    for index in model.top:
        read = (model.constants[name] for name in model.nodes[index].inputs if name in model.constants)
        costs.append(costs[-1] + 1 + sum(one.count * one.dtype.itemsize for one in read) / _NODE_BYTES)
    alive = alive_counts(model)
    chosen: list[int] = []
    for number in range(1, parts):
        low, high = ((number + move) * costs[-1] / parts for move in (-0.4, 0.4))
        near = [place for place in range(1, len(model.top)) if low <= costs[place] <= high and alive[place]]
        if near:
            chosen.append(min(near, key=lambda place: (alive[place], abs(costs[place] - (low + high) / 2))))
    return tuple(sorted(set(chosen)))


def last_read(model: Model, names: Iterable[str]) -> int:
    """Return the place of the last node that reads some constants, or what is computed from them alone; -1 for none."""
    changed, last = set(names), -1
    for place, index in enumerate(model.top):
        node = model.nodes[index]
        if not changed.isdisjoint((*node.inputs, *node.captured)):
            last = place
            changed.update(name for name in node.outputs if name in model.fixed)
    return last


def seams(sizes: Mapping[int, int], alive: Sequence[int], most: float) -> list[int]:
    """Return places that divide nodes into pieces of few bytes, each where few values are alive in a piece's last half.

    Args:
        sizes: bytes that the node at each place reads, by the place, ascending.
        alive: values that pass each place of the model, see `alive_counts`.
        most: bytes of a piece; a single node may have more.

    >>> seams({0: 5, 1: 1, 2: 1, 3: 8, 4: 1}, [0, 1, 2, 1, 2, 1], 7)
    [3, 4]
    >>> seams({0: 5, 1: 5, 2: 5}, [0, 1, 1, 1], 1)
    [1, 2]
    """
    chosen: list[int] = []
    piece: list[int] = []  # places of the nodes behind the last seam
    for place in sizes:
        piece.append(place)
        while len(piece) > 1 and sum(sizes[each] for each in piece) > most:
            sums = dict(zip(piece[1:], itertools.accumulate(sizes[each] for each in piece), strict=False))
            late = [each for each in piece[1:] if sums[each] >= sums[place] / 2]
            chosen.append(min(late, key=lambda each: (alive[each], -each)))
            piece = [each for each in piece if each >= chosen[-1]]
    return chosen


def weight_bytes(model: Model) -> int:
    """Return the bytes of all constants; what is shared counts once."""
    return sum({constant.identity: raw_length(constant.tensor) for constant in model.constants.values()}.values())


def read_bytes(model: Model, places: Iterable[int]) -> int:
    """Return the bytes of the constants that the nodes at some places of `model.top` read, shared ones once."""
    nodes = [model.nodes[model.top[place]] for place in places]
    names = {name for node in nodes for name in (*node.inputs, *node.captured)} & model.constants.keys()
    read = (model.constants[name] for name in names)
    return sum({constant.identity: raw_length(constant.tensor) for constant in read}.values())


def alive_counts(model: Model) -> list[int]:
    """Return how many values pass each place of `model.top`."""
    order, changes = order_of(model), [0] * (len(model.top) + 2)
    for name, last in last_reads(model, order).items():
        changes[order.get(name, -1) + 1] += 1
        changes[min(last, len(model.top)) + 1] -= 1
    return list(itertools.accumulate(changes))[:-1]
