"""The model as samples run it: where it branches, the branch that all of them take stands in the main graph.

Loss curves and refits look at layer after layer of the main graph. In a merged decoder all layers lie in the bodies of
an If, so that they look at `graph.forms.straight` instead. Cuts are still made in the model itself, and the proof is of
it: what was found is carried over by the weights, which both have under the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.calibration.batches import Calibration
from onnxprune.dependency.groups import Group, groups
from onnxprune.dependency.trace import Trace, trace
from onnxprune.errors import ModelError
from onnxprune.graph.forms.straight import straight, switches
from onnxprune.graph.model import Model, Node
from onnxprune.runtime.replay import Replay

_DEEPEST = 4  # Ifs inside of one another that are looked into


@dataclass(frozen=True)
class AsRun:
    """A model without the Ifs that all samples take one branch of."""

    traced: Trace
    groups: Sequence[Group]  # under the names that they have in the model itself
    taken: tuple[Mapping[str, bool], ...]  # conditions by the first output of an If, from the outside in
    unlike: frozenset[str]  # weights that nodes elsewhere read in another way: they are not fitted to these samples

    def of(self, model: Model) -> Model:
        """Return of another model, with the same nodes, what is run."""
        for conditions in self.taken:
            model = straight(model, conditions)
        return model


def as_run(whole: Trace, all_groups: Sequence[Group], calibration: Calibration | None) -> AsRun | None:
    """Return a model as its calibration samples run it; None where they run it as it stands.

    Args:
        whole: the model.
        all_groups: its groups.
        calibration: the samples.
    """
    model = whole.model
    if calibration is None or model.whole is not None:
        return None
    taken: list[Mapping[str, bool]] = []
    try:
        while len(taken) < _DEEPEST and (conditions := _conditions(model, calibration)):
            taken.append(conditions)
            model = straight(model, conditions)
        if not taken:
            return None
        traced = trace(model)
    except ModelError:  # it cannot be run or traced so: it is looked at as it stands
        return None
    return AsRun(traced, _named(traced, whole, all_groups), tuple(taken), _unlike(whole.model, model))


def _conditions(model: Model, calibration: Calibration) -> dict[str, bool]:
    """Return the conditions of Ifs that are the same for all batches, by the first output of the If."""
    found = switches(model)
    if not found:
        return {}
    seen: dict[str, set[bool]] = {node.outputs[0]: set() for node in found}
    names = list(dict.fromkeys(node.inputs[0] for node in found))
    for values in Replay(model, calibration.batches).run(names):
        for node in found:
            seen[node.outputs[0]].update(np.ravel(values[node.inputs[0]]).astype(bool).tolist())
    return {name: conditions.pop() for name, conditions in seen.items() if len(conditions) == 1}


def _named(own: Trace, known: Trace, all_groups: Sequence[Group]) -> list[Group]:
    """Return the groups of what is run under the names that they have in the model itself.

    They lie on the same weights in the same order, and the same nodes read these: branches that are not taken may hold
    groups of their own on the same weights.
    """
    places = {key: group.name for group in all_groups for key in _keys(group, known.model)}
    named = list[Group]()
    for group in groups(own):
        names = {places.get(key) for key in _keys(group, own.model)}
        if len(names) == 1 and None not in names:
            named.append(replace(group, name=str(names.pop())))
    return named


def _keys(group: Group, model: Model) -> Iterator[tuple[str, str, int, bytes]]:
    """Yield what tells the units of a group on each of its weights: who reads it, its name, and where they lie."""
    for member in group.members:
        node = model.nodes[member.sink[0]]
        yield next(filter(None, node.outputs), ""), member.constant, member.dim, member.places.tobytes()


def _unlike(model: Model, seen: Model) -> frozenset[str]:
    """Return the weights that branches which are not taken read in another way than those that are.

    Alike is a node of the same operator that reads it in the same place, and whose other inputs come from the same
    weights: then it sees what the fitted one sees. What a cache holds needs no weights, so there may be fewer.
    """
    own, before, unlike = {name for node in seen.nodes for name in node.outputs}, _weights_before(model), set[str]()
    for name in model.constants:
        readers = [(model.nodes[at], slot) for at, slot in model.readers.get(name, ()) if slot >= 0]
        taken = [pair for pair in readers if own.issuperset(pair[0].outputs)]
        others = [pair for pair in readers if not own.issuperset(pair[0].outputs)]
        if taken and any(not any(_are_alike(one, other, before) for one in taken) for other in others):
            unlike.add(name)
    return frozenset(unlike)


def _are_alike(taken: tuple[Node, int], other: tuple[Node, int], before: Mapping[str, frozenset[str]]) -> bool:
    (node, slot), (elsewhere, place) = taken, other
    here, there = (
        frozenset().union(*(before.get(name, frozenset()) for name in each.inputs)) for each in (node, elsewhere)
    )
    return (node.op, slot) == (elsewhere.op, place) and there <= here and bool(there) == bool(here)


def _weights_before(model: Model) -> dict[str, frozenset[str]]:
    """Return the matrices that values come from, with no other matrix in between, by the name of the value."""
    before: dict[str, frozenset[str]] = {}
    for node in model.nodes:
        own = [name for name in model.weights_of(node.index) if len(model.constants[name].shape) > 1]
        given = (before.get(name, frozenset()) for name in (*node.inputs, *node.captured))
        before |= dict.fromkeys(node.outputs, frozenset(own) if own else frozenset().union(*given))
    return before
