"""How many nodes a model has once the calls of its local functions are inlined.

Functions that call another one twice double with every level: a few kilobytes state a million nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import ModelProto, NodeProto

from onnxprune.errors import ModelError
from onnxprune.graph.bodies import bodies_of

MOST_NODES = 100_000  # or ten times as many as the file holds

_Name = tuple[str, str]  # domain and name of a function


def check_expansion(proto: ModelProto) -> None:
    """Raise ModelError for functions that call themselves, or make more nodes than anybody writes."""
    calls = {(function.domain, function.name): _counts(function.node, proto) for function in proto.functions}
    sizes: dict[_Name, int] = {}
    for name in calls:
        _settle(name, calls, sizes)
    own, called = _counts(proto.graph.node, proto)
    written = own + sum(own for own, _ in calls.values())
    total = own + sum(sizes[name] for name in called)
    if total > max(MOST_NODES, 10 * written):
        raise ModelError(
            f"its {len(calls)} local functions would make {total:.4g} nodes of the {written} that the file holds, more "
            f"than {max(MOST_NODES, 10 * written):,}; inline fewer of them"
        )


def _counts(nodes: Iterable[NodeProto], proto: ModelProto) -> tuple[int, list[_Name]]:
    """Return how many nodes a list and its bodies have themselves, and the functions that they call."""
    known = {(function.domain, function.name) for function in proto.functions}
    listed = [(node.domain, node.op_type) for node in _all(nodes)]
    return len(listed), [name for name in listed if name in known]


def _all(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    pending = [nodes]
    while pending:
        for node in pending.pop():
            yield node
            pending.extend(body.node for body in bodies_of(node))


def _settle(name: _Name, calls: dict[_Name, tuple[int, list[_Name]]], sizes: dict[_Name, int]) -> None:
    """Find out how many nodes a function makes; those that it calls come first, by a stack of our own."""
    pending, open_ = [name], set[_Name]()
    while pending:
        current = pending[-1]
        own, called = calls[current]
        missing = [each for each in called if each not in sizes]
        if current in sizes:
            pending.pop()
        elif not missing:
            sizes[current] = own + sum(sizes[each] for each in called)
            open_.discard(pending.pop())
        elif current in open_:
            raise ModelError(f"function {current[1]!r} calls itself, which no reader can inline")
        else:
            open_.add(current)
            pending.extend(dict.fromkeys(missing))
