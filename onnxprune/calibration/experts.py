"""What experts do on samples: how often each is picked, and how much it adds.

The *load* of an expert is the mean over rows of the weight with which it is picked, zero where it is not: what Shazeer
et al. 2017, "Outrageously Large Neural Networks", equation 6, call its importance. Its *output* is the mean over rows
of that weight times the norm of what it answers to the row: what the layer loses with it. Lasby et al. 2025, "REAP the
Experts", take the same mean over the rows that pick it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.dependency.axes import Atom
from onnxprune.dependency.groups import EXPERTS, Group
from onnxprune.dependency.rules.coupling import Choice, Coupling
from onnxprune.dependency.trace import Trace
from onnxprune.graph.forms.parts import part
from onnxprune.graph.tensors import Array
from onnxprune.progress import Progress, silent
from onnxprune.runtime.replay import Feeds, Replay
from onnxprune.runtime.session import Session, open_session

Each = npt.NDArray[np.float64]  # of every expert

_FUSED = ("com.microsoft.MoE", "com.microsoft.QMoE")  # that compute their experts inside
_BARRED = -6e4  # the score of an expert that is not picked
_LEAST = 1e-30  # that is divided by
_SUM = 1e-3  # by which shares may differ from one, in half precision


@dataclass(frozen=True, eq=False)
class Used:
    """What is seen of the experts of a group; both have a mean of 1."""

    load: Each
    output: Each  # of a layer whose experts cannot be told apart in the graph, the load


def used_experts(
    traced: Trace, groups: Sequence[Group], batches: Sequence[Feeds], *, progress: Progress = silent
) -> dict[str, Used]:
    """Return what experts do on samples, by name of their group; groups that no row reaches are absent.

    Args:
        traced: the model with its axes.
        groups: some groups of it; those that are no experts are passed over.
        batches: feeds by input name.
        progress: called before each step.

    Raises:
        ModelError: when ONNX Runtime cannot run the model.
    """
    layers = [layer for group in groups if group.kind == EXPERTS for layer in _layers(traced, group)]
    if not layers:
        return {}
    progress("looking at experts")
    names = dict.fromkeys(name for layer in layers for name in layer.names)
    for values in Replay(traced.model, batches).run(names):
        for layer in layers:
            layer.add(values)
    found: dict[str, list[_Layer]] = {}
    for layer in layers:
        found.setdefault(layer.group.name, []).append(layer)
    unreached = [name for name, own in found.items() if not any(layer.load.any() for layer in own)]
    for name in unreached:
        progress(f"no row of the samples reaches the experts of {name!r}: they are ranked by their weights")
    return {name: Used(*_means(own)) for name, own in found.items() if name not in unreached}


def gates(scores: Array, count: int, largest: bool = True) -> Each:
    """Return about the weight of each expert for each row, 0 where it is not among those that are picked.

    What a graph makes of scores can be anything; here weights of picked experts have a sum of 1.

    Args:
        scores: ``[rows, experts]``; numbers from 0 on with a sum of 1 are shares, any others their logarithms.
        count: experts that are picked.
        largest: whether high scores are good ones.

    >>> gates(np.array([[0.0, 0.0, -9.0]]), 2).tolist()
    [[0.5, 0.5, 0.0]]
    """
    wide = scores.astype(np.float64) * (1 if largest else -1)
    are_shares = wide.size and wide.min() >= 0 and np.allclose(wide.sum(1), 1, atol=_SUM)
    shares = wide if are_shares else _shares(wide)
    return _normalised(_of_picked(wide, shares, count))


def fused_gates(scores: Array, count: int, normalised: bool) -> Each:
    """Return the weight of each expert for each row in an operator that makes it inside, 0 where it is not picked.

    Args:
        scores: ``[rows, experts]``, logarithms of shares.
        count: experts that are picked.
        normalised: whether weights of picked experts have a sum of 1; else they are shares among all.

    >>> fused_gates(np.zeros((1, 4)), 2, False).tolist()
    [[0.25, 0.25, 0.0, 0.0]]
    """
    wide = scores.astype(np.float64)
    picked = _of_picked(wide, _shares(wide), count)
    return _normalised(picked) if normalised else picked


def _shares(scores: Each) -> Each:
    """Return the softmax of each row."""
    powers = np.exp(scores - scores.max(1, keepdims=True, initial=-np.inf))
    shares: Each = powers / powers.sum(1, keepdims=True)
    return shares


def _normalised(weights: Each) -> Each:
    """Return weights of which each row has a sum of 1."""
    normalised: Each = weights / np.maximum(weights.sum(1, keepdims=True), _LEAST)
    return normalised


def _of_picked(scores: Each, shares: Each, count: int) -> Each:
    """Return the shares of the experts with the best scores, 0 elsewhere."""
    picked = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    result = np.zeros_like(shares)
    np.put_along_axis(result, picked, np.take_along_axis(shares, picked, 1), 1)
    return result


class _Layer:
    """One place where some of the experts of a group are picked, and sums over the rows that were seen."""

    def __init__(self, traced: Trace, group: Group, coupling: Coupling, choice: Choice) -> None:
        self.group, self._node, self._choice = group, coupling.node, choice
        self._traced = traced
        self._fused = _Alone(traced, coupling) if coupling.node.op in _FUSED else None
        rows = _row_atoms(traced, coupling, choice)
        self._answers = _answers(traced, group.atom, rows)
        self._summed = [] if self._fused or self._answers else _summed(traced, group.atom, rows)
        inputs = [coupling.node.inputs[slot] for slot in ((0, choice.slot) if self._fused else (choice.slot,))]
        self.names = [*inputs, *(each.name for each in self._summed), *(each.name for each in self._answers)]
        self.load, self.output = np.zeros(group.units), np.zeros(group.units)
        self.rows = 0

    def add(self, values: Mapping[str, Array]) -> None:
        """Add the rows of a batch."""
        scores = np.moveaxis(values[self._node.inputs[self._choice.slot]], self._choice.dim, -1)
        weights = self._weights(scores.reshape(-1, scores.shape[-1]))
        self.load += weights.sum(0)
        self.rows += len(weights)
        if self._fused is not None:
            answers = self._fused.norms(values[self._node.inputs[0]], scores)
            self.output += (weights * answers).sum(0)
        elif self._answers:
            self.output += [each.norm(values[each.name]) for each in self._answers]
        elif self._summed:
            norms = [each.norms(values[each.name]) for each in self._summed]
            if {len(each) for each in norms} <= {1, len(weights)}:  # else rows are cut up in another way
                self.output += np.prod(np.broadcast_arrays(*norms), axis=0).sum(0)

    def _weights(self, scores: Array) -> Each:
        """Return the weight of each expert for each row ``[rows, experts]``."""
        if self._fused is None:
            return gates(scores, self._choice.count, self._choice.largest)
        normalised = bool(self._node.attrs.get("normalize_routing_weights", 0))
        return fused_gates(scores, self._choice.count, normalised)


class _Alone:
    """A fused layer alone, which answers with one expert at a time."""

    def __init__(self, traced: Trace, coupling: Coupling) -> None:
        node = coupling.node
        inputs = {name: traced.probe.dtype(name) for name in node.inputs[:2]}
        self._node = node
        self._session = self._open(traced, inputs)

    def _open(self, traced: Trace, inputs: Mapping[str, np.dtype[np.generic]]) -> Session:
        output = self._node.outputs[0]
        constant = [each.index for each in traced.model.nodes if set(each.outputs) & set(self._node.inputs[2:])]
        nodes = [index for index in constant if traced.model.nodes[index].outputs[0] in traced.model.fixed]
        message = part(traced.model, [*nodes, self._node.index], inputs, [output], {})
        return open_session(message, folder=traced.model.folder)

    def norms(self, rows: Array, scores: Array) -> Each:
        """Return the norm of the answer of each expert to each row ``[rows, experts]``."""
        found = []
        for expert in range(scores.shape[-1]):
            barred = np.full_like(scores, _BARRED)
            barred[..., expert] = 0
            fed = {self._node.inputs[0]: rows, self._node.inputs[1]: barred}
            answer = self._session.run(fed)[self._node.outputs[0]].astype(np.float64)
            found.append(np.linalg.norm(answer.reshape(-1, answer.shape[-1]), axis=1))
        return np.stack(found, axis=1)


def _layers(traced: Trace, group: Group) -> list[_Layer]:
    """Return where experts of a group are picked, in the main graph."""
    top = set(traced.model.top)
    return [
        _Layer(traced, group, coupling, choice)
        for index, coupling in traced.couplings.items()
        for choice in (coupling.chosen if index in top else ())
        if group.atom in traced.partition.atoms((coupling.inputs[choice.slot] or ())[choice.dim])
    ]


@dataclass(frozen=True)
class _Factor:
    """An input of a node that sums over experts."""

    name: str
    dim: int  # of the experts
    rows: tuple[int, ...]  # dims of what experts are picked for, in the order of those of the scores

    def norms(self, values: Array) -> Each:
        """Return the norm of what the input has for each expert, row by row ``[rows, experts]``."""
        ahead = (*self.rows, self.dim)
        front = np.moveaxis(values, ahead, range(len(ahead))).astype(np.float64)
        rows = math.prod(front.shape[: len(self.rows)])
        others = math.prod(front.shape[len(ahead) :])
        norms: Each = np.linalg.norm(front.reshape(rows, values.shape[self.dim], others), axis=2)
        return norms


def _row_atoms(traced: Trace, coupling: Coupling, choice: Choice) -> tuple[Atom, ...]:
    """Return what the rows are made of that experts are picked for, in their order."""
    axes = coupling.inputs[choice.slot] or ()
    return tuple(atom for dim, axis in enumerate(axes) if dim != choice.dim for atom in traced.partition.atoms(axis))


def _summed(traced: Trace, atom: Atom, rows: Sequence[Atom]) -> list[_Factor]:
    """Return the values that a node of the main graph sums over experts.

    Of several nodes it is the one with the largest value: what experts answer is larger than how they are weighted.
    """
    found = [factors for index in traced.model.top if (factors := list(_factors(traced, index, atom, rows)))]
    return max(found, key=lambda factors: max(_elements(traced, each.name) for each in factors), default=[])


def _factors(traced: Trace, index: int, atom: Atom, rows: Sequence[Atom]) -> Iterator[_Factor]:
    """Yield the inputs of a node that sums over experts; weights are left out."""
    coupling = traced.couplings.get(index)
    if coupling is None or not _is_summed(traced, coupling, atom):
        return
    for name, axes in zip(coupling.node.inputs, coupling.inputs, strict=True):
        own = [traced.partition.atoms(axis) for axis in axes or ()]
        of_rows = [dim for dim, atoms in enumerate(own) if atoms and set(atoms) <= set(rows)]
        ordered = tuple(sorted(of_rows, key=lambda dim: rows.index(own[dim][0])))
        dims = [dim for dim, axis in enumerate(axes or ()) if traced.partition.resolve(axis) == atom]
        yield from (_Factor(name, dim, ordered) for dim in dims if name not in traced.model.fixed)


@dataclass(frozen=True)
class _Answer:
    """What one expert adds to the others."""

    name: str
    others: tuple[int, ...]  # dims of what it adds for a row

    def norm(self, values: Array) -> float:
        """Return the sum of the norms of what the expert answers, over the rows that it is picked for."""
        return float(np.sqrt(np.square(values, dtype=np.float64).sum(self.others)).sum())


def _answers(traced: Trace, atom: Atom, rows: Sequence[Atom]) -> list[_Answer]:
    """Return what each expert adds where a graph has layers for each alone; nothing where it has not.

    An expert may be added in several places: its answer is what has the most numbers for a row, and among these the
    last; not the sum of that with zeros. Answers that differ in their numbers from expert to expert are not compared.
    """
    apart, top = traced.apart.get(atom), set(traced.model.top)
    drops = [drop for drop in (apart.drops if apart else ()) if drop.node in top]
    sums = {(drop.output, drop.units) for drop in drops}
    found: dict[int, tuple[int, _Answer]] = {}
    for drop in drops:
        name = traced.model.nodes[drop.node].inputs[drop.slot]
        if (name, drop.units) in sums:
            continue
        axes = traced.values.get(name, ())
        own = [set(traced.partition.atoms(axis)) for axis in axes]
        others = tuple(dim for dim, atoms in enumerate(own) if not atoms & {*rows, *(apart.counts if apart else ())})
        width = math.prod(axes[dim].size for dim in others)
        unit = min(drop.units)
        if len(drop.units) == 1 and width >= found.get(unit, (0, None))[0]:
            found[unit] = width, _Answer(name, others)
    alike = len({width for width, _ in found.values()}) == 1
    return [found[unit][1] for unit in sorted(found)] if alike and len(found) == atom.size else []


def _elements(traced: Trace, name: str) -> int:
    return math.prod(axis.size for axis in traced.values.get(name, ()))


def _is_summed(traced: Trace, coupling: Coupling, atom: Atom) -> bool:
    """Whether a node sums over experts."""
    axes = ((coupling.inputs[slot] or ())[dim] for slot, dim in coupling.contracted)
    return any(traced.partition.resolve(axis) == atom for axis in axes)


def _means(layers: Sequence[_Layer]) -> tuple[Each, Each]:
    """Return load and output over all layers that pick the experts of a group, each with a mean of 1."""
    load = sum((layer.load for layer in layers), np.zeros_like(layers[0].load))
    output = sum((layer.output for layer in layers), np.zeros_like(load))
    return _relative(load), _relative(output if output.any() else load)


def _relative(values: Each) -> Each:
    mean = values.mean()
    return values / mean if mean > 0 else np.ones_like(values)
