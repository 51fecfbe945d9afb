"""Does the network compute what ONNX Runtime computes? If not, which node is the first that differs?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onnxprune.errors import ModelError, VerificationError
from onnxprune.graph.edit import in_full_precision
from onnxprune.graph.files.encode import fits_one_message, serialize
from onnxprune.graph.files.write import write
from onnxprune.graph.forms.parts import with_outputs
from onnxprune.graph.model import Model, Node
from onnxprune.graph.tensors import Array
from onnxprune.runtime.session import Session, open_session
from onnxprune.training.network.module import Network
from onnxprune.training.operators.types import tensor_of

# Largest difference relative to the largest magnitude: a wrong operator gives 1e-2 and more, round-off of deep networks
# 1e-6. Half precision is rounded by ONNX Runtime at every node, and not here.
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2
NOISE_FACTOR = 10  # a model that amplifies round-off may differ by this multiple of its own measured noise
_MASKED = 1e8  # magnitude from which a number stands for infinity
_TAPPED = 64  # nodes that are compared with one session of ONNX Runtime


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the network lies from ONNX Runtime on one set of feeds."""

    difference: float  # the largest of all outputs, relative to the largest magnitude of the output
    output: str  # where
    noise: float = 0.0  # what round-off alone makes there, where it had to be measured


def check_agreement(network: Network, feeds: Mapping[str, Array]) -> Agreement:
    """Compare the outputs with those of ONNX Runtime.

    A model that amplifies round-off may differ by ten times of what round-off makes of its own outputs, when each of
    its nodes agrees with ONNX Runtime on what ONNX Runtime feeds it.

    Args:
        network: of a model.
        feeds: inputs by name.

    Raises:
        VerificationError: when they differ by more than round-off; the message names the first node that does.
        ModelError: when one of both cannot run.
    """
    model = network.model
    (expected,) = _run(model, model.tensor_outputs, [feeds])
    with torch.no_grad():
        results = network(feeds)
    worst = _worst(results, expected)
    limit = tolerance(model)
    if worst.difference <= limit:
        return worst
    what = (
        f"output {worst.output!r} in PyTorch differs from ONNX Runtime by {worst.difference:.1e} of its range, more "
        f"than {limit:.0e}"
    )
    node = first_to_differ(network, feeds, limit)
    if node is not None:
        raise VerificationError(f"{what}; the first node that differs is {node}")
    noise = round_off(model, feeds, expected).get(worst.output, 0.0)
    if not worst.difference <= NOISE_FACTOR * noise:
        raise VerificationError(
            f"{what}; each node alone agrees, so round-off adds up, but in ONNX Runtime it makes {noise:.1e} alone"
        )
    return Agreement(worst.difference, worst.output, noise)


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


def _worst(results: Mapping[str, Any], expected: Mapping[str, Array]) -> Agreement:
    differences = (Agreement(difference_of(results[name], expected[name]), name) for name in expected)
    return max(differences, key=lambda each: each.difference, default=Agreement(0.0, ""))


def _run(
    model: Model, outputs: Iterable[str], feeds: Sequence[Mapping[str, Array]], *, optimize: bool = True
) -> list[dict[str, Array]]:
    """Return values of ONNX Runtime, which adds up bytes without saturation where it can."""
    proto = with_outputs(model.proto, list(outputs))
    with tempfile.TemporaryDirectory() as folder:
        contents: bytes | Path = Path(folder) / "model.onnx"
        if fits_one_message(proto):
            contents = serialize(proto)
        else:
            write(proto, Path(folder) / "model.onnx", model.folder)
        run = Exactly(contents, folder=model.folder, optimize=optimize)
        return [run(each) for each in feeds]


class Exactly:
    """Runs a model so that bytes are added up without saturation, where it can be run so; the rest is `open_session`'s.

    Some models load but do not run so: they are run as usual from there on.
    """

    def __init__(self, source: Path | bytes, *, folder: Path | None = None, optimize: bool = True) -> None:
        self._open = partial(open_session, source, folder=folder, threads=1, optimize=optimize)
        self._session: Session | None = None
        self._exact = True

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name.

        Raises:
            ModelError: when ONNX Runtime cannot run the model.
        """
        try:
            self._session = self._session or self._open(exact=self._exact)
            return dict(self._session.run(feeds))
        except ModelError:
            if not self._exact:
                raise
            self._session, self._exact = None, False
            return self(feeds)


def round_off(model: Model, feeds: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, float]:
    """Return what round-off makes of each output: without ONNX Runtime's optimisations, and of feeds nearby.

    Where kernels round activations to whole numbers, what that makes counts as well: a number near a half is rounded
    one way or the other, by processor.
    """
    noise: dict[str, float] = {}
    nearby = {name: _nudged(array) for name, array in feeds.items()}
    runs = _run(model, expected, [feeds, nearby], optimize=False)
    exact = in_full_precision(model.proto)
    if exact is not None:
        runs += _run(replace(model, proto=exact), expected, [feeds])
    for results in runs:
        for name, again in results.items():
            noise[name] = max(noise.get(name, 0.0), difference_of(again, expected[name]))
    return noise


def _nudged(array: Array) -> Array:
    """Return an array that differs in its last digit."""
    if array.dtype.kind != "f":
        return array
    result: Array = np.nextafter(array, np.array(np.inf, array.dtype))
    return result


def first_to_differ(network: Network, feeds: Mapping[str, Array], limit: float) -> Node | None:
    """Return the first node, in the order of the graph, that differs on what ONNX Runtime feeds it.

    Integers of one byte may differ by one: halves between them are rounded either way.

    Raises:
        ModelError: when ONNX Runtime cannot run the model with these outputs.
    """
    model = network.model
    nodes = [model.nodes[index] for index in model.top if model.nodes[index].op != "Constant"]
    for start in range(0, len(nodes), _TAPPED):
        compared = nodes[start : start + _TAPPED]
        for node, results, expected in _alone(network, feeds, compared):
            for result, wanted in zip(results, expected, strict=False):
                if wanted is None or result is None or (wanted.dtype.itemsize == 1 and _is_next(result, wanted)):
                    continue
                if not difference_of(result, wanted) <= limit:
                    return node
    return None


def _is_next(result: Any, wanted: Array) -> bool:
    return result.shape == wanted.shape and bool((np.abs(result.double().numpy() - wanted) <= 1).all())


def _alone(
    network: Network, feeds: Mapping[str, Array], nodes: Sequence[Node]
) -> Iterator[tuple[Node, Sequence[Any], list[Array | None]]]:
    """Yield what each node makes of the values of ONNX Runtime, and what ONNX Runtime makes of them."""
    model = network.model
    names = {name for node in nodes for name in (*node.inputs, *node.captured, *node.outputs) if name}
    names -= feeds.keys() | model.constants.keys()
    values = {**_run(model, sorted(names), [feeds], optimize=False)[0], **feeds}
    tensors = {name: tensor_of(value).to(network.device) for name, value in values.items() if _is_tensor(value)}
    for node in nodes:
        step = network.steps[node.index]
        if all(name in tensors or name in model.constants for name in step.reads):
            with torch.no_grad():
                results = network.results(step, network.values_of(step, tensors))
            made = [None if each is None else each.cpu() for each in results]  # an output that nobody reads
            yield node, made, [values.get(name) for name in node.outputs]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind not in "OUSc"
