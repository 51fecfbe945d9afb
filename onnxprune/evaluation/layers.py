"""Two models layer by layer, in the order in which data flows: what each costs, and how long it takes.

A *layer* is a node with weights, or one that multiplies: what a picture of a network has a box for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxprune.dependency.account import accounts
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import Trace
from onnxprune.graph.files.write import runnable
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.latency.speedup import by_op
from onnxprune.runtime.timing import NodeTime, node_times

_PROFILE_S = 1.0  # for the timed runs of each model


@dataclass(frozen=True)
class Layer:
    """One node with weights or multiplications."""

    node: str
    op: str
    macs: int  # of one sample, with those of its bodies
    params: int
    shape: tuple[int, ...] | None  # of its largest weight; None without weights


def layers(traced: Trace) -> tuple[Layer, ...]:
    """Return the layers of a model, in the order in which data flows."""
    model, macs = traced.model, NodeMacs(traced)
    weights = {account.node: account for account in accounts(traced, (), {})}
    top, found = set(model.top), []
    for index, node in enumerate(model.nodes):
        count, account = macs.of(index) if index in top else 0, weights.get(node.name)
        if account is not None or count:
            shapes = [] if account is None else [model.constants[name].shape for name in account.weights]
            largest = max(shapes, key=math.prod, default=None)
            params = 0 if account is None else account.params
            found.append(Layer(node.name, node.op, count, params, None if largest is None else tuple(largest)))
    return tuple(found)


def layer_values(
    before: Sequence[Layer],
    after: Sequence[Layer],
    times: tuple[Mapping[str, float], Mapping[str, float]] | None = None,
    meant: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return plain values of the layers of two models, matched by their names, or by what they stand for.

    Args:
        before: of the original.
        after: of the other model. What it alone has comes behind the layer in front of it there.
        times: milliseconds by layer of both, where they were measured.
        meant: nodes of the original by nodes of the other model that stand for them, as of `standing_for`.
    """
    old = {layer.node: layer for layer in before}
    name_of = {layer.node: (meant or {}).get(layer.node, layer.node) for layer in after}
    name_of = {node: name if name in old else node for node, name in name_of.items()}
    new: dict[str, Layer] = {}
    for layer in after:
        name = name_of[layer.node]
        new[name] = _together(new[name], layer) if name in new else replace(layer, node=name)
    if times is not None:
        moved: dict[str, float] = {}
        for node, ms in times[1].items():
            moved[name_of.get(node, node)] = moved.get(name_of.get(node, node), 0.0) + ms
        times = times[0], moved
    return [_pair(name, old.get(name), new.get(name), times) for name in _in_order([*old], [*new])]


def _together(one: Layer, other: Layer) -> Layer:
    """Return what two nodes that stand for one layer cost."""
    shape = max(one.shape, other.shape, key=lambda each: -1 if each is None else math.prod(each))
    return replace(one, macs=one.macs + other.macs, params=one.params + other.params, shape=shape)


def _in_order(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return all names: those of `old` in their order, each that `new` alone has behind the one in front of it.

    >>> _in_order(["a", "b", "c"], ["x", "a", "y", "z", "c"])
    ['x', 'a', 'y', 'z', 'b', 'c']
    """
    known, behind, at = set(old), dict[str, list[str]](), ""
    for name in new:
        at = name if name in known else at
        behind.setdefault(at, []).extend([name] * (name not in known))
    return [*behind.get("", ()), *(each for name in old for each in (name, *behind.get(name, ())))]


def standing_for(before: Model, after: Model) -> dict[str, str]:
    """Return the node of `before` that each node of `after` stands for, by its name.

    A node stands for that of its own name; else for the one that makes its value in `before`; else, as the nodes in
    eight bits in front of such a value, for what it feeds. Nodes that lead to nothing of `before` are left out.
    """
    known = {node.name for node in before.nodes}
    made = {value: node.name for node in before.nodes for value in node.outputs if value}
    found: dict[str, str] = {}
    fed: dict[str, str] = {}  # by value, what the first node that reads it stands for
    for node in reversed(after.nodes):
        values = [value for value in node.outputs if value]
        meant = [made[value] for value in values if value in made] + [fed[value] for value in values if value in fed]
        name = node.name if node.name in known else next(iter(meant), None)
        if name is not None:
            found[node.name] = name
            fed |= dict.fromkeys((value for value in node.inputs if value), name)
    return found


def _pair(
    name: str,
    old: Layer | None,
    new: Layer | None,
    times: tuple[Mapping[str, float], Mapping[str, float]] | None,
) -> dict[str, Any]:
    pair = old, new
    either = old or new
    assert either is not None  # the name is of one of them
    return {
        "node": name,
        "op": either.op,
        "macs": [0 if each is None else each.macs for each in pair],
        "params": [0 if each is None else each.params for each in pair],
        "shapes": [None if each is None or each.shape is None else list(each.shape) for each in pair],
        "ms": None if times is None else [round(side.get(name, 0.0), 5) for side in times],
    }


# -- time --------------------------------------------------------------------------------------------------


def profiled(model: Model, feeds: Mapping[str, Array], threads: int) -> list[NodeTime]:
    """Return how long each kernel of a model takes on the CPU, in the order in which they run.

    Raises:
        ModelError: when ONNX Runtime cannot run the model.
    """
    source, folder = runnable(model)
    return node_times(source, feeds, threads=threads, folder=folder, budget_s=_PROFILE_S)


def op_values(before: Sequence[NodeTime], after: Sequence[NodeTime]) -> list[dict[str, Any]]:
    """Return plain values of the times of both models by type of kernel, the longest first."""
    return [
        {"op": op.op, "nodes": [op.nodes_before, op.nodes_after], "ms": [round(op.before_ms, 5), round(op.after_ms, 5)]}
        for op in by_op(before, after)
    ]


def times_by_layer(model: Model, known: Iterable[str], kernels: Iterable[NodeTime]) -> dict[str, float]:
    """Return milliseconds by layer; together they are those of all kernels.

    ONNX Runtime fuses nodes, names kernels after nodes or after the values that they make, and adds some of its own.
    A kernel counts for the last layer at or in front of the node that its name means; one that means none, for the
    layer of the kernel that ran before.

    Args:
        model: the model.
        known: names of its layers.
        kernels: in the order in which they ran.
    """
    owner = _owners(model, set(known))
    at = next(iter(owner.values()), "")
    totals: dict[str, float] = {}
    for kernel in kernels:
        at = _meant(kernel.name, owner) or at
        totals[at] = totals.get(at, 0.0) + kernel.ms
    return totals


def _owners(model: Model, known: set[str]) -> dict[str, str]:
    """Return the layer of every node and value, by its name: the last one in front of it, or else the first."""
    at = next((node.name for node in model.nodes if node.name in known), "")
    owner: dict[str, str] = {}
    for node in model.nodes:
        at = node.name if node.name in known else at
        owner |= dict.fromkeys((node.name, *(name for name in node.outputs if name)), at)
    return owner


def _meant(kernel: str, owner: Mapping[str, str]) -> str | None:
    """Return the layer of the node or value whose name a kernel's name begins with; the longest name counts.

    >>> _meant("conv_out_nchwc", {"conv": "conv", "conv_out": "conv"}), _meant("ReorderOutput", {"conv": "conv"})
    ('conv', None)
    """
    name = kernel.removeprefix("fused ")
    found = (owner[name[:end]] for end in range(len(name), 0, -1) if name[:end] in owner)
    return next(found, None)
