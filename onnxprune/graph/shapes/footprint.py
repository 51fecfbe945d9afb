"""The least memory that running a model takes: the values that are alive at the same time.

A file of two kilobytes can state an input of gigabytes, or make gigabytes of it. Only sizes that no choice of shapes
changes count here, so that what is too large is too large for every run.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.errors import ModelError, TooLarge
from onnxprune.graph.files.limits import bytes_of, excess, most_bytes
from onnxprune.graph.model import Model, Node
from onnxprune.graph.shapes.probe import Probe, setting_at
from onnxprune.graph.tensors import Shape, numpy_type, raw_length

COMPARED = 8  # times that outputs are held while they are compared: of two models, in double precision
PER_WEIGHT = 8  # bytes between nodes that each byte of weights allows beyond the limit: large models make large values
_RECURRENT_RANK = 3  # of a weight of a recurrent node: directions, gates, inputs
# Where the inputs stand in the weight of a recurrent node: https://onnx.ai/onnx/operators/onnx__LSTM.html, input W, and
# com.microsoft.DynamicQuantizeLSTM of https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
_INPUTS_AT = {"GRU": 2, "LSTM": 2, "RNN": 2, "com.microsoft.DynamicQuantizeLSTM": 1}


def check_runnable(model: Model, probe: Probe) -> None:
    """Raise ModelError for a model whose run takes more memory than `limits` allows, whatever its dynamic dims are.

    Args:
        model: the model.
        probe: of it.
    """
    shapes = _least_shapes(probe)
    problem = _problem(model, shapes, probe.first.kinds)
    if problem is not None:
        raise ModelError(f"{model.path}: {problem}" if model.path else problem)


def check_run(model: Model, dims: Mapping[str, int], most: int | None = None) -> None:
    """Raise TooLarge when a run takes more memory than is allowed.

    Args:
        model: the model.
        dims: the size of each dynamic dim, by the key of `graph.dims.dynamic_dims`.
        most: bytes that are allowed beyond what the weights of the model allow; by default what `limits` says.
    """
    setting = setting_at(model, dims)
    problem = _problem(model, setting.shapes, setting.kinds, most)
    if problem is not None:
        raise TooLarge(problem)


def _problem(
    model: Model, shapes: Mapping[str, Shape], kinds: Mapping[str, int], most: int | None = None
) -> str | None:
    """Return in a sentence why a run with values of these shapes is not allowed; None where it is.

    A run may take half as much again as a value alone: its values, and the outputs that are compared, are not all of
    what is allocated, but they come and go.
    """
    sizes = {
        name: bytes_of(shape, numpy_type(kinds[name]).itemsize if kinds[name] else 1) for name, shape in shapes.items()
    }
    peak, where = peak_bytes(model, sizes)
    peak += COMPARED * sum(sizes.get(port.name, 0) for port in model.outputs)
    held = sum(raw_length(constant.tensor) for constant in model.constants.values())
    allowed = PER_WEIGHT * held + (most_bytes() // 2 if most is None else most - most_bytes())
    problem = excess(f"a run of the model, at {where}," if where else "the input", peak, allowed)
    if problem is None:
        return None
    largest = max(sizes, key=lambda name: sizes[name])
    return f"{problem}, or give smaller sizes with --input. The largest value is {largest!r} {list(shapes[largest])}"


def peak_bytes(model: Model, sizes: Mapping[str, int]) -> tuple[int, str]:
    """Return the most bytes that are alive at one node of the main graph, and the node in words.

    Args:
        model: the model.
        sizes: bytes by the name of the value; constants count elsewhere.
    """
    last = {name: place for place, index in enumerate(model.top) for name in _reads(model, index)}
    kept = {port.name for port in model.outputs}
    alive = {port.name: sizes.get(port.name, 0) for port in model.inputs}
    current, peak, where = sum(alive.values()), 0, ""
    peak = current
    for place, index in enumerate(model.top):
        node = model.nodes[index]
        made = {name: sizes[name] for name in node.outputs if name in sizes and name not in model.constants}
        inside = sum(sizes.get(name, 0) for body in node.bodies for name in body.outputs) + _gate_bytes(
            model, node, sizes
        )
        current += sum(made.values())
        alive.update(made)
        if current + inside > peak:
            peak, where = current + inside, str(node)
        for name in {*_reads(model, index), *made}:
            if last.get(name, -1) <= place and name not in kept:
                current -= alive.pop(name, 0)
    return peak, where


def _gate_bytes(model: Model, node: Node, sizes: Mapping[str, int]) -> int:
    """Return what a recurrent node holds beside its outputs: its gates at all steps, from one product."""
    weight = model.constants.get(node.inputs[1]) if node.op in _INPUTS_AT and len(node.inputs) > 1 else None
    if weight is None or len(weight.shape) != _RECURRENT_RANK or not weight.count:
        return 0
    return sizes.get(node.inputs[0], 0) * weight.count // weight.shape[_INPUTS_AT[node.op]] ** 2


def _reads(model: Model, index: int) -> tuple[str, ...]:
    node = model.nodes[index]
    return (*node.inputs, *node.captured)


def _least_shapes(probe: Probe) -> dict[str, Shape]:
    """Return the shape of each value where every size that differs between the settings is 1."""
    sizes = {name: probe.sizes(name) for name in probe.first.shapes}
    return {
        name: tuple(dim[0] if len(set(dim)) == 1 else 1 for dim in known)
        for name, known in sizes.items()
        if known is not None
    }
