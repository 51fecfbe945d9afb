"""Matrices: the weights of units as their ops multiply with them, which is what criteria rank units by.

A file may keep them as integers with a scale and a zero point, transposed, or times a norm. How large a unit is follows
from none of these alone: integers of one expert may all be larger than those of another, and mean less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from onnxprune.dependency.axes import Atom, Axes, positions
from onnxprune.dependency.groups import Group, Member, Role, RoleFinder, by_unit
from onnxprune.dependency.rules import Coupling
from onnxprune.dependency.trace import Trace
from onnxprune.graph.effective import ConstantValues
from onnxprune.graph.model import Node
from onnxprune.graph.tensors import Array

Sink: TypeAlias = tuple[int, int]  # node and input slot where the value of a weight is consumed
Form: TypeAlias = tuple[str, int, tuple[int, ...]]  # of a weight: the op that it is for, the slot, the shape


def matrices(group: Group, traced: Trace, values: ConstantValues | None = None) -> Iterator[tuple[Role, Array]]:
    """Yield role and ``[units, fan]`` matrix of each weight of a group, one at a time to bound memory.

    A weight counts as what its op multiplies with: dequantized, cast, normed. Constants that make one such value
    together (a quantized weight and its scales) give one matrix.
    """
    values = values or ConstantValues(traced.model)
    seen: set[Sink] = set()
    for member in group.members:
        if member.sink in seen:
            continue
        seen.add(member.sink)
        evaluated = list(_consumed(member, group.atom, traced, values))
        if evaluated:
            yield from ((member.role, matrix) for matrix in evaluated)
        else:  # what the reference cannot evaluate counts as it is stored
            alike = (other for other in group.members if other.sink == member.sink)
            yield from ((each.role, each.matrix(traced.model.array(each.constant))) for each in alike)
    if any(group.alone):
        yield from _alone(group, traced, values)


def multiplied(traced: Trace, sink: Sink, values: ConstantValues) -> Array | None:
    """Return a weight as its op multiplies with it: dequantized, cast, normed; None where it cannot be evaluated.

    Integers whose scale is applied behind a product of integers count with that scale.
    """
    index, slot = sink
    coupling = traced.couplings.get(index)
    if coupling is None:
        return None
    array, encoding = values.array(coupling.node.inputs[slot]), coupling.encodings.get(slot)
    if array is None or encoding is None:
        return array
    real = encoding.decode([values.array(name) for name in coupling.node.inputs])
    return real * _scale_behind(traced, coupling, slot, values) if encoding.is_unscaled else real


def _consumed(member: Member, atom: Atom, traced: Trace, values: ConstantValues) -> Iterator[Array]:
    """Yield the value of a weight where it is consumed, as ``[units, fan]``, for each axis that has the units."""
    index, slot = member.sink
    array = multiplied(traced, member.sink, values)
    if array is None:
        return
    for dim, axis in enumerate(traced.axes(traced.couplings[index].inputs[slot] or ())):
        located = member.places if axis is member.axis else positions(axis, atom)
        if located.size:
            yield by_unit(array, dim, located)


# -- weights that units have alone ------------------------------------------------------------------------------------


def _alone(group: Group, traced: Trace, values: ConstantValues) -> Iterator[tuple[Role, Array]]:
    """Yield the weights that units have alone: those that all units have, in one form and at one kind of op."""
    finder = RoleFinder(traced)
    of_units = [_by_form(names, traced, finder) for names in group.alone]
    for form in dict.fromkeys(form for each in of_units for form in each):
        sinks_of_units = [each.get(form, []) for each in of_units]
        if len({len(sinks) for sinks in sinks_of_units}) > 1:
            continue
        for sinks in zip(*sinks_of_units, strict=True):
            matrix, (index, slot) = _stacked(traced, sinks, values), sinks[0]
            if matrix is not None:
                yield finder.role(index, slot, group.atom), matrix


def _stacked(traced: Trace, sinks: Sequence[Sink], values: ConstantValues) -> Array | None:
    """Return the weights of all units, float ``[units, fan]``, one read at a time; None where one is not evaluated."""
    matrix: Array | None = None
    for unit, sink in enumerate(sinks):
        array = multiplied(traced, sink, values)
        if array is None:
            return None
        matrix = np.empty((len(sinks), array.size), np.float32) if matrix is None else matrix
        matrix[unit] = array.ravel()
    return matrix


def _by_form(names: Sequence[str], traced: Trace, finder: RoleFinder) -> dict[Form, list[Sink]]:
    """Return where the weights of one unit are multiplied with, in the order of the graph, by their form."""
    reads = {place for name in names for place in traced.model.readers.get(name, ()) if place[1] >= 0}
    found: dict[Form, list[Sink]] = {}
    for index, slot in sorted({sink for place in reads for sink in finder.sinks(*place)}):
        coupling = traced.couplings.get(index)
        axes = None if coupling is None else coupling.inputs[slot]
        if coupling is not None and axes is not None:
            form = coupling.node.op, slot, tuple(axis.size for axis in axes)
            found.setdefault(form, []).append((index, slot))
    return found


# -- scales that are applied behind a product -------------------------------------------------------------------------


def _scale_behind(traced: Trace, product: Coupling, slot: int, values: ConstantValues) -> Array:
    """Return the constants by which a product of integers is multiplied before all else, times one another.

    Those that differ between rows say nothing of its weight: they are left out.

    Args:
        traced: the model with its axes.
        product: the node that multiplies.
        slot: of its weight, along whose axes the constants are returned.
        values: of what follows from constants.
    """
    node, weight = product.node, traced.axes(product.inputs[slot] or ())
    scale: Array = np.ones([1] * len(weight), np.float32)
    while len(places := traced.model.readers.get(node.outputs[0], ())) == 1 and places[0][1] >= 0:
        index, at = places[0]
        node, coupling = traced.model.nodes[index], traced.couplings.get(index)
        if coupling is None or node.op not in ("Cast", "Mul", "DequantizeLinear"):
            break
        made = traced.axes((coupling.outputs or [None])[0] or ())
        for factor in _factors(node, at, len(made), values):
            along = _along(factor, made, weight)
            scale = scale if along is None else scale * along
    return scale


def _factors(node: Node, at: int, rank: int, values: ConstantValues) -> Iterator[Array]:
    """Yield the constants by which a node multiplies what it reads in a slot, also those times what is measured."""
    waiting = [node.inputs[1 - at]] if node.op == "Mul" else []
    for name in waiting:
        known, maker = values.array(name), values.producers.get(name)
        if known is not None:
            yield known
        elif maker is not None and maker.op == "Mul":
            waiting += (each for each in maker.inputs if each not in waiting)
    scale = values.array(node.inputs[1]) if node.op == "DequantizeLinear" and at == 0 else None
    if scale is not None:
        behind = rank - node.attrs.get("axis", 1) % rank - 1 if scale.size > 1 else 0
        yield scale.reshape(*scale.shape, *[1] * behind) if scale.ndim == 1 else scale


def _along(factor: Array, made: Axes, weight: Axes) -> Array | None:
    """Return a factor of a product in a shape that lies along the axes of its weight; None where it has others."""
    shape = [1] * len(weight)
    for size, axis in zip(factor.shape, made[len(made) - factor.ndim :], strict=True):
        if size != 1 and (weight.count(axis) != 1 or axis.size != size):
            return None
        if size != 1:
            shape[weight.index(axis)] = size
    return factor.astype(np.float32).reshape(shape)
