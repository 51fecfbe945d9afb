"""What in a file makes ONNX Runtime slow, and what to do about it."""

from __future__ import annotations

import numpy as np

from onnxprune.graph.model import Model
from onnxprune.graph.tensors import FLOAT, Array

_CHUNK = 1 << 18  # elements that are looked at together: they stay in the cache
_LISTING_MEANS = 4  # version of the format from which on a caller may replace an initializer that is an input


def punished(model: Model) -> tuple[str, ...]:
    """Return a sentence for each thing in a model that makes it slower than it need be; empty where there is none."""
    return (*_listed(model), *_denormals(model))


def _listed(model: Model) -> list[str]:
    """Report weights that a caller may replace: ONNX Runtime then takes none of them for constant."""
    proto = model.original or model.proto
    if proto.ir_version < _LISTING_MEANS:
        return []
    initializers = {tensor.name for tensor in proto.graph.initializer}
    listed = sum(info.name in initializers for info in proto.graph.input)
    if not listed:
        return []
    return [
        f"{listed:,} of {len(initializers):,} initializers are listed as graph inputs, so that ONNX Runtime folds no "
        "constants and uses no blocked layouts for them; take them off the inputs with "
        "'python -m onnxruntime.tools.remove_initializer_from_input --input IN.onnx --output OUT.onnx'"
    ]


def _denormals(model: Model) -> list[str]:
    """Report float32 weights too small for full precision: a CPU takes many times as long for each."""
    counts = {
        name: count
        for name, constant in model.constants.items()
        if constant.tensor.data_type == FLOAT and (count := denormals(model.array(name)))
    }
    if not counts:
        return []
    total, most = sum(counts.values()), max(counts, key=lambda name: counts[name])
    return [
        f"denormal weights (nonzero, below 1.18e-38), slow on a CPU: {total:,}, most of them in {most!r}; make them "
        "0 in the file, or let ONNX Runtime do so with the session entry 'session.set_denormal_as_zero'"
    ]


def denormals(array: Array) -> int:
    """Return how many elements of a float32 array are nonzero and below the smallest normal number.

    >>> denormals(np.array([0, 1, 1e-39, -1e-45], np.float32))
    2
    """
    bits = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
    count = 0
    for start in range(0, bits.size, _CHUNK):
        # Without its sign and less 1, a denormal lies below the smallest normal number, and zero above all others.
        rest = (bits[start : start + _CHUNK] << 1) - np.uint32(1)
        count += int(np.count_nonzero(rest < np.uint32(0x00FFFFFF)))
    return count
