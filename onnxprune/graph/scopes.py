"""The graphs of a model one by one: the main graph, and the bodies inside of nodes, at any depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from onnxprune.graph.model import Model


@dataclass(frozen=True)
class Scope:
    """The nodes of one graph, and what whoever holds it reads of them."""

    nodes: tuple[int, ...]  # indices of its own nodes, in order
    outputs: frozenset[str]
    owners: Mapping[int, int] = field(repr=False)  # of nodes at any depth: the node of this graph that is or holds each
    ports: Mapping[str, str] = field(
        default_factory=dict
    )  # outputs of the model, by the outputs that are given as them


def given(model: Model) -> frozenset[str]:
    """Return the values that the graphs of a model give: to whoever runs it, and bodies to their nodes."""
    return frozenset().union(*(scope.outputs for scope in scopes(model)))


def scopes(model: Model) -> Iterator[Scope]:
    """Yield the main graph, then all bodies."""
    ports, top = {port.name for port in model.outputs}, frozenset(model.top)
    yield Scope(model.top, frozenset({*ports, *model.tensor_outputs}), model.owners, {name: name for name in ports})
    for node in model.nodes:
        for body in node.bodies:
            owners = {inner: index for index in body.nodes for inner in model.within(index)}
            pairs = zip(body.outputs, node.outputs, strict=True) if node.op == "If" and node.index in top else ()
            own = {inner: name for inner, name in pairs if name in ports and not model.readers.get(name)}
            yield Scope(body.nodes, frozenset(body.outputs), owners, own)
