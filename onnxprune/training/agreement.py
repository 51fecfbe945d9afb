"""Does the network compute what ONNX Runtime computes? If not, which node is the first that differs?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from onnxprune.errors import ModelError, VerificationError
from onnxprune.graph.model import Model
from onnxprune.graph.parts import with_outputs
from onnxprune.graph.tensors import Array
from onnxprune.graph.write import serialize
from onnxprune.runtime.replay import Replay
from onnxprune.runtime.session import open_session
from onnxprune.training.network import Network

# Largest difference relative to the largest magnitude: a wrong operator gives 1e-2 and more, round-off of deep networks
# 1e-6. Half precision is rounded by ONNX Runtime at every node, and not here.
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2
_MASKED = 1e8  # magnitude from which a number stands for infinity
_TAPPED = 64  # values that are compared in one run of ONNX Runtime


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the network lies from ONNX Runtime on one set of feeds."""

    difference: float  # the largest of all outputs, relative to the largest magnitude of the output
    output: str  # where


def check_agreement(network: Network, feeds: Mapping[str, Array]) -> Agreement:
    """Compare the outputs with those of ONNX Runtime.

    Args:
        network: of a model.
        feeds: inputs by name.

    Raises:
        VerificationError: when they differ by more than round-off; the message names the first node that does.
        ModelError: when one of both cannot run.
    """
    model = network.model
    expected = next(Replay(model, [feeds], threads=1).run(model.tensor_outputs))
    with torch.no_grad():
        results = network(feeds)
    worst = max(
        (Agreement(difference_of(results[name], expected[name]), name) for name in expected),
        key=lambda each: each.difference,
    )
    limit = tolerance(model)
    if not worst.difference <= limit:
        raise VerificationError(
            f"output {worst.output!r} in PyTorch differs from ONNX Runtime by {worst.difference:.1e} of its "
            f"range, more than {limit:.0e}; {_first_to_differ(network, feeds, limit)}"
        )
    return worst


def tolerance(model: Model) -> float:
    """Return the largest difference that is round-off, by the precision of the weights."""
    half = any(constant.dtype.name in ("float16", "bfloat16") for constant in model.constants.values())
    return HALF_TOLERANCE if half else TOLERANCE


def difference_of(result: object, expected: Array) -> float:
    """Return the largest difference over the largest magnitude; infinity where shapes differ, or one alone is finite.

    >>> difference_of(torch.tensor([1.0, 2.0]), np.array([1.0, 2.5], np.float32))
    0.2
    """
    array = (
        result.detach().cpu().double().numpy() if isinstance(result, torch.Tensor) else np.asarray(result, np.float64)
    )
    wanted = np.asarray(expected).astype(np.float64)
    if array.shape != wanted.shape:
        return float("inf")
    far = np.abs(wanted) < _MASKED
    if not np.array_equal(np.abs(array) < _MASKED, far):
        return float("inf")
    magnitude = float(np.abs(wanted[far]).max(initial=0.0))
    distance = float(np.abs(array[far] - wanted[far]).max(initial=0.0))
    return distance / magnitude if magnitude else distance


def _first_to_differ(network: Network, feeds: Mapping[str, Array], limit: float) -> str:
    """Return a sentence about the first node, in the order of the graph, whose output differs."""
    model = network.model
    nodes = [model.nodes[index] for index in model.top if model.nodes[index].op != "Constant"]
    for start in range(0, len(nodes), _TAPPED):
        names = [
            name for node in nodes[start : start + _TAPPED] for name in node.outputs if name and model.readers.get(name)
        ]
        if not names:
            continue
        try:
            session = open_session(serialize(with_outputs(model.proto, names)), folder=model.folder, optimize=False)
            expected = session.run(feeds)
        except ModelError:
            return "the values between its nodes cannot be compared"
        with torch.no_grad():
            results = network(feeds, taps=[name for name in names if name in expected])
        for node in nodes[start : start + _TAPPED]:
            for name in node.outputs:
                if name in results and difference_of(results[name], expected[name]) > limit:
                    return f"the first node that differs is {node}"
    return "no node between inputs and outputs differs by as much: round-off adds up"
