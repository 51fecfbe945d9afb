"""The model as samples run it: where it branches, the branch that all of them take stands in the main graph.

Loss curves and refits look at layer after layer of the main graph. In a merged decoder all layers lie in the bodies of
an If, so that they look at `graph.straight` instead. Cuts are still made in the model itself, and the proof is of it:
what was found is carried over by the weights, which both have under the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.calibration.batches import Calibration
from onnxprune.commands.prepare import PreparedModel
from onnxprune.dependency.groups import Group, groups
from onnxprune.dependency.trace import Trace, trace
from onnxprune.errors import ModelError
from onnxprune.graph.model import Model
from onnxprune.graph.straight import straight, switches
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


def as_run(prepared: PreparedModel) -> AsRun | None:
    """Return a model as its calibration samples run it; None where they run it as it stands."""
    calibration, model = prepared.calibration, prepared.traced.model
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
    return AsRun(traced, _named(groups(traced), prepared.groups), tuple(taken), _unlike(prepared.traced.model, model))


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


def _named(own: Sequence[Group], known: Sequence[Group]) -> list[Group]:
    """Return groups under the names of those of the model itself that lie on the same weights in the same order."""
    places = {key: group for group in reversed(known) for key in _keys(group)}  # of several, the first
    pairs = (
        (group, {id(found): found for key in _keys(group) if (found := places.get(key)) is not None}) for group in own
    )
    return [
        replace(group, name=next(iter(found.values())).name)
        for group, found in pairs
        if len(found) == 1 and all(key in places for key in _keys(group))
    ]


def _keys(group: Group) -> Iterator[tuple[str, int, bytes]]:
    """Yield what tells the units of a group on each of its weights."""
    for member in group.members:
        yield member.constant, member.dim, member.places.tobytes()


def _unlike(model: Model, seen: Model) -> frozenset[str]:
    """Return the weights that nodes in branches that are not taken read in another way than those that are."""
    own, unlike = {node.outputs[0] for node in seen.nodes if node.outputs}, set[str]()
    for name in model.constants:
        readers = [(model.nodes[at], slot) for at, slot in model.readers.get(name, ()) if slot >= 0]
        ways = {(node.op, slot) for node, slot in readers}
        if len(ways) > 1 and any(node.outputs[0] not in own for node, _ in readers):
            unlike.add(name)
    return frozenset(unlike)
