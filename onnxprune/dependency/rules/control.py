"""Control flow: If, Loop and Scan. Their bodies are traced like the main graph, with the outer values that they read.

A body gets its inputs from the node (`enter`), is traced, and then gives the node its outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.dependency.axes import Axes, Axis
from onnxprune.dependency.rules.registry import rule
from onnxprune.dependency.rules.site import Site
from onnxprune.errors import CannotUnify
from onnxprune.graph.model import Body

_CHANGES = "its size changes from turn to turn"


def _no_inputs(x: Site) -> None:
    """Branches have no inputs: they read outer values."""


@rule("If", family="control", enter=_no_inputs)
def if_(x: Site) -> None:
    """Both branches give the same axes; where sizes decide which is taken, the other one follows where it can."""
    condition = x.value(0)
    taken = None if condition is None or condition.size != 1 else f"{'then' if condition.item() else 'else'}_branch"
    for index, name in enumerate(x.node.outputs):
        if name:
            bodies = sorted(x.node.bodies, key=lambda body: body.attribute != taken)
            first, *others = (x.inner(body.outputs[index]) for body in bodies)
            for axes in others:
                if taken is None:
                    first = _same(x, first, axes, f"the branches of {x.node.op} give it different sizes", index)
                elif len(axes) == len(first):  # never taken, but its sizes are checked with the other's
                    for one, other in zip(first, axes, strict=True):
                        if one.size == other.size:
                            x.unify(one, other)
            x.output(first, index)


def _same(x: Site, left: Axes, right: Axes, reason: str, index: int) -> Axes:
    """Unify what two bodies, or two turns of a loop, give; where sizes differ, both are locked."""
    if len(left) != len(right):
        raise CannotUnify(f"{x.node.op} gives it {len(left)} or {len(right)} axes")
    axes: list[Axis] = []
    for dim, (one, other) in enumerate(zip(left, right, strict=True)):
        if one.size == other.size:
            x.unify(one, other)
            axes.append(one)
        else:
            x.lock(one, reason)
            x.lock(other, reason)
            axes.append(x.unknown(x.output_shape(index)[dim], reason))
    return tuple(axes)


def _state_axes(x: Site, name: str, slot: int) -> Axes:
    """Return the axes of a state inside a body: those of its initial value, new ones where a turn changes the size."""
    axes = x.axes(slot)
    inside = x.inner_sizes(name)
    if len(inside) != len(axes):
        raise CannotUnify(f"state {name!r} has {len(inside)} axes, its initial value {len(axes)}")
    result = list(axes)
    for dim, (sizes, before) in enumerate(zip(inside, x.input_sizes(slot), strict=True)):
        if sizes != before:
            x.lock(axes[dim], _CHANGES)
            result[dim] = x.unknown(sizes[0], _CHANGES)
    return tuple(result)


def _enter_states(x: Site, names: Sequence[str], first_slot: int) -> None:
    for slot, name in enumerate(names, first_slot):
        x.give_inner(name, _state_axes(x, name, slot))


def _leave_states(x: Site, states: Sequence[str], results: Sequence[str]) -> None:
    """The value of a state before and after a turn has the same axes, and so has the output."""
    for index, (state, result) in enumerate(zip(states, results, strict=True)):
        axes = _same(x, x.inner(state), x.inner(result), _CHANGES, index)
        x.output(axes, index)


def _enter_loop(x: Site) -> None:
    body = _body(x)
    for port in body.inputs[:2]:
        x.give_inner(port.name, ())
    _enter_states(x, [port.name for port in body.inputs[2:]], 2)


@rule("Loop", family="control", enter=_enter_loop)
def loop(x: Site) -> None:
    """States keep their axes from turn to turn; what each turn gives is stacked along a new axis."""
    body = _body(x)
    states = [port.name for port in body.inputs[2:]]
    _leave_states(x, states, body.outputs[1 : 1 + len(states)])
    for index, inner in enumerate(body.outputs[1 + len(states) :], len(states)):
        if index < len(x.node.outputs) and x.node.outputs[index]:
            x.output((x.made(0, index), *x.inner(inner)), index)


def _enter_scan(x: Site) -> None:
    body, count = _body(x), x.attr("num_scan_inputs")
    states, scanned = body.inputs[:-count], body.inputs[-count:]
    if len(states) + count != len(x.node.inputs):
        raise CannotUnify("Scan has a form of opset 8, which is not supported")
    _enter_states(x, [port.name for port in states], 0)
    for slot, (port, axis) in enumerate(zip(scanned, x.attr("scan_input_axes", [0] * count), strict=True), len(states)):
        axes = list(x.axes(slot))
        x.lock(axes.pop(x.dim(axis, len(axes))), "Scan goes along it")
        x.give_inner(port.name, axes)


@rule("Scan", family="control", enter=_enter_scan)
def scan(x: Site) -> None:
    """As a Loop, over slices of its inputs; the axis along which they are taken is locked."""
    body, count = _body(x), x.attr("num_scan_inputs")
    states = [port.name for port in body.inputs[:-count]]
    _leave_states(x, states, body.outputs[: len(states)])
    stacked = body.outputs[len(states) :]
    places = x.attr("scan_output_axes", [0] * len(stacked))
    for index, (inner, place) in enumerate(zip(stacked, places, strict=True), len(states)):
        if x.node.outputs[index]:
            axes = list(x.inner(inner))
            at = x.dim(place, len(axes) + 1)
            axes.insert(at, x.made(at, index))
            x.output(axes, index)


def _body(x: Site) -> Body:
    if len(x.node.bodies) != 1:
        raise CannotUnify(f"{x.node.op} has {len(x.node.bodies)} bodies, expected one")
    return x.node.bodies[0]
