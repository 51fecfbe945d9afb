"""The graphs of the zoo that are proven in every run of the tests: few that have of everything what all of them have.

A graph's *features* are its exporter, its opset, its operators, the forms of its nodes (which inputs and attributes an
operator has, with texts, flags, ranks of kernels) and the reasons of its locks. The cover is the short list that a
greedy choice finds in which every feature of the zoo occurs; the cheapest graph per new feature comes first. The
others are proven by the soak.

>>> greedy({"a": {1, 2}, "b": {2, 3}, "c": {3}}, {"a": 1.0, "b": 5.0, "c": 1.0})
['a', 'c']
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping

from onnx import AttributeProto, ModelProto, NodeProto, helper

from onnxprune.dependency.account import accounts
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.graph.model import Model
from onnxprune.planning.choice import why_not
from tests.support import zoo_store
from tests.support.paths import ZOO
from tests.support.zoo_store import Entry

COVER = ZOO / "cover.json"
BASE_NODES = 40  # what a graph costs besides its nodes, in nodes: reading it, opening sessions
MOST_INPUTS = 12  # of a node that tell its form: a Concat of more is a Concat of many


def load_cover() -> frozenset[str]:
    """Return the names of the graphs that every run proves."""
    return frozenset(json.loads(COVER.read_text(encoding="utf-8")))


def save_cover(names: list[str]) -> None:
    """Write the names, one a line."""
    COVER.write_text(json.dumps(sorted(names), indent=1) + "\n", encoding="utf-8")


def written_features(entry: Entry) -> set[Hashable]:
    """Return the features that a stored graph shows without being traced."""
    proto = zoo_store.read(entry.path)
    features: set[Hashable] = {("exporter", entry.exporter), ("opset", entry.opset)}
    for node in all_nodes(proto):
        operator = f"{node.domain}.{node.op_type}".removeprefix("ai.onnx.").removeprefix(".")
        inputs = "".join("x" if name else "-" for name in node.input)[:MOST_INPUTS]
        attributes = sorted(map(attribute_form, node.attribute))
        features |= {("operator", operator), ("form", operator, inputs, *attributes)}
    return features


def attribute_form(attribute: AttributeProto) -> str:
    """Return what of an attribute tells the form of its node: texts, flags, the rank of a kernel; else the name alone.

    >>> attribute_form(helper.make_attribute("mode", "linear"))
    'mode=linear'
    >>> attribute_form(helper.make_attribute("kernel_shape", [3, 3]))
    'kernel_shape 2d'
    """
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return f"{attribute.name}={value.decode()}"
    if value in (0, 1) and isinstance(value, int):
        return f"{attribute.name}={value}"
    return f"{attribute.name} {len(value)}d" if attribute.name == "kernel_shape" else attribute.name


def all_nodes(proto: ModelProto) -> Iterator[NodeProto]:
    """Yield the nodes of all graphs and functions."""
    bodies = [proto.graph.node, *(function.node for function in proto.functions)]
    while bodies:
        for node in bodies.pop():
            yield node
            bodies += [attribute.g.node for attribute in node.attribute if attribute.HasField("g")]


def lock_reasons(model: Model) -> set[Hashable]:
    """Return the reasons of its locks, without places, names and numbers."""
    traced = trace(model)
    all_groups = groups(traced)
    by_group = {group.name: reason for group in all_groups if (reason := why_not(group)) is not None}
    of_nodes = {lock.reason for account in accounts(traced, all_groups, by_group) for lock in account.locked}
    return {("reason", general(reason)) for reason in {*by_group.values(), *of_nodes}}


def general(reason: str) -> str:
    """Return a reason without what differs from graph to graph.

    >>> general("Softmax of 'x' has 12 heads (at node_3)")
    "Softmax of '' has # heads"
    """
    return re.sub(r"\d+", "#", re.sub(r"'[^']*'", "''", re.sub(r" \(at .*\)", "", reason)))


def all_features(entry: Entry) -> set[Hashable]:
    """Return all features of a stored graph."""
    return written_features(entry) | lock_reasons(load(zoo_store.refill(zoo_store.read(entry.path))))


def greedy(features: Mapping[str, set[Hashable]], costs: Mapping[str, float]) -> list[str]:
    """Return names whose features are all there are: again and again the one with the most new features per cost."""
    missing = set().union(*features.values())
    names: list[str] = []
    while missing:
        best = max(sorted(features), key=lambda name: len(features[name] & missing) / costs[name])
        names.append(best)
        missing -= features[best]
    for name in tuple(names):  # what was the best at its time may not be needed beside those that came later
        others = [each for each in names if each != name]
        if features[name] <= set().union(*(features[each] for each in others)):
            names = others
    return names


def cover(features: Mapping[str, set[Hashable]], entries: Mapping[str, Entry]) -> list[str]:
    """Return the graphs that every run proves, given the features of all."""
    return greedy(features, {name: BASE_NODES + entry.nodes for name, entry in entries.items()})
