"""Places: values between nodes at which a student is held to its teacher, and the units of the teacher that it kept.

Good places are those that all later layers see through: where few values are alive, as at the ends of blocks. Of each
part of the network, by its nodes with weights, one is taken. Numpy alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.dependency.axes import Atom, Mask, kept_mask
from onnxprune.dependency.trace import Trace
from onnxprune.graph.model import Model, Node
from onnxprune.graph.tensors import Array

PLACES = 6  # of a network


@dataclass(frozen=True, eq=False)
class Place:
    """A value that both networks have."""

    name: str
    kept: Mapping[int, Array] = field(default_factory=dict)  # by axis: which indices of the teacher's the student has


def places_of(student: Model, teacher: Model, count: int = PLACES) -> list[str]:
    """Return names of values that both models compute, one in each of so many parts of the student."""
    known = {name for index in teacher.top for name in teacher.nodes[index].outputs}
    known -= teacher.fixed | set(student.tensor_outputs)
    candidates = [each for each in _alive(student) if each[0] in known]
    total = max((share for _, _, share in candidates), default=0)
    best: dict[int, tuple[int, str]] = {}
    for name, alive, share in candidates:
        part = min(count - 1, share * count // max(1, total))
        if part not in best or alive <= best[part][0]:
            best[part] = alive, name
    return list(dict.fromkeys(name for _, (_, name) in sorted(best.items())))


def _alive(model: Model) -> Iterator[tuple[str, int, int]]:
    """Yield each value that is computed from inputs: its name, how many are alive then, nodes with weights so far."""
    nodes = [model.nodes[index] for index in model.top]
    last = {name: place for place, node in enumerate(nodes) for name in (*node.inputs, *node.captured) if name}
    last.update(dict.fromkeys(model.tensor_outputs, len(nodes)))
    alive: set[str] = set()
    weighty = 0
    for place, node in enumerate(nodes):
        made = [name for name in node.outputs if name and name not in model.fixed]
        if not made:
            continue
        weighty += _has_weights(model, node)
        alive = {name for name in (*alive, *made) if last.get(name, -1) > place}
        if made[0] in alive and weighty:
            yield made[0], len(alive), weighty


def _has_weights(model: Model, node: Node) -> bool:
    fixed = [model.constants[name] for name in node.inputs if name in model.constants]
    return any(constant.is_weight and len(constant.shape) > 1 for constant in fixed)


def kept_of(traced: Trace, masks: Mapping[Atom, Mask], names: Sequence[str]) -> dict[str, dict[int, Array]]:
    """Return by value the indices of each axis that a cut keeps, of axes that lose some.

    Args:
        traced: the model before the cut.
        masks: bool ``[units]`` by atom.
        names: of values.
    """
    kept: dict[str, dict[int, Array]] = {}
    for name in names:
        axes = traced.axes(traced.values.get(name, ()))
        by_axis = {axis: kept_mask(each, masks) for axis, each in enumerate(axes)}
        kept[name] = {axis: np.flatnonzero(mask) for axis, mask in by_axis.items() if not mask.all()}
    return kept


def shape_after(shape: Sequence[int], kept: Mapping[int, Array]) -> tuple[int, ...]:
    """Return a shape of the teacher with the units that were kept.

    >>> shape_after((2, 8, 4), {1: np.arange(3)})
    (2, 3, 4)
    """
    return tuple(len(kept[axis]) if axis in kept else size for axis, size in enumerate(shape))
