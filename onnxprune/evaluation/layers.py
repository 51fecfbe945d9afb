"""Two models layer by layer, in the order in which data flows: what each costs, and how long it takes.

A *layer* is a node with weights, or one that multiplies: what a picture of a network has a box for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxprune.dependency.account import accounts
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import Trace
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.graph.write import runnable
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
            largest = max(shapes, key=len, default=None)
            params = 0 if account is None else account.params
            found.append(Layer(node.name, node.op, count, params, None if largest is None else tuple(largest)))
    return tuple(found)


def layer_values(
    before: Sequence[Layer],
    after: Sequence[Layer],
    times: tuple[Mapping[str, float], Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Return plain values of the layers of two models, matched by their names.

    Args:
        before: of the original.
        after: of the other model. What it alone has comes last.
        times: milliseconds by layer of both, where they were measured.
    """
    old, new = ({layer.node: layer for layer in each} for each in (before, after))
    return [_pair(name, old.get(name), new.get(name), times) for name in dict.fromkeys((*old, *new))]


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
