"""The least memory that running a model takes: the values that are alive at the same time.

A file of two kilobytes can state an input of gigabytes, or make gigabytes of it. Only sizes that no choice of shapes
changes count here, so that what is too large is too large for every run.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.errors import ModelError
from onnxprune.graph.limits import bytes_of, excess
from onnxprune.graph.model import Model
from onnxprune.graph.probe import Probe
from onnxprune.graph.tensors import numpy_type, raw_length

PER_WEIGHT = 8  # bytes between nodes that each byte of weights allows beyond the limit: large models make large values


def check_runnable(model: Model, probe: Probe) -> None:
    """Raise ModelError for a model whose run takes more memory than `limits` allows, whatever its dynamic dims are.

    Args:
        model: the model.
        probe: of it.
    """
    sizes = _least_sizes(probe)
    peak, where = peak_bytes(model, sizes)
    held = sum(raw_length(constant.tensor) for constant in model.constants.values())
    problem = excess(f"a run of the model, at {where}," if where else "an input", peak, PER_WEIGHT * held)
    if problem is not None:
        largest = max(sizes, key=lambda name: sizes[name])
        shape = list(probe.shape(largest) or ())
        raise ModelError(f"{problem}, or give smaller sizes with --input. The largest value is {largest!r} {shape}")


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
        inside = sum(sizes.get(name, 0) for body in node.bodies for name in body.outputs)
        current += sum(made.values())
        alive.update(made)
        if current + inside > peak:
            peak, where = current + inside, str(node)
        for name in {*_reads(model, index), *made}:
            if last.get(name, -1) <= place and name not in kept:
                current -= alive.pop(name, 0)
    return peak, where


def _reads(model: Model, index: int) -> tuple[str, ...]:
    node = model.nodes[index]
    return (*node.inputs, *node.captured)


def _least_sizes(probe: Probe) -> dict[str, int]:
    """Return the bytes of each value where every size that differs between the settings is 1."""
    least: dict[str, int] = {}
    for name, kind in probe.first.kinds.items():
        sizes = probe.sizes(name)
        if sizes is not None:
            fixed = [dim[0] if len(set(dim)) == 1 else 1 for dim in sizes]
            least[name] = bytes_of(fixed, numpy_type(kind).itemsize if kind else 1)
    return least
