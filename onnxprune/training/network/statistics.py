"""Statistics of BatchNormalization while a network learns: those of the batch, and running means of them.

Ioffe & Szegedy 2015; `momentum` and the variance (of all values, not of a sample) are those of the operator's page,
https://onnx.ai/onnx/operators/onnx__BatchNormalization.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.errors import OptionError
from onnxprune.graph.model import Model, Node
from onnxprune.training.network.attributes import attributes_of
from onnxprune.training.network.trainable import matches

Tensor = torch.Tensor
_SLOTS = {3: "mean", 4: "variance"}  # of BatchNormalization


@dataclass(frozen=True)
class _Norm:
    """A BatchNormalization whose statistics are estimated."""

    mean: str
    variance: str
    momentum: float
    epsilon: float


class Statistics:
    """What the nodes of a network have seen in a run, and the running means that follow from it."""

    def __init__(self, model: Model, frozen: Sequence[str] = ()) -> None:
        """Find the nodes.

        Args:
            model: in plain form.
            frozen: patterns of names; where one matches mean, variance, scale or bias of a node, its statistics stay.

        Raises:
            OptionError: when there is none.
        """
        self._norms = {node.index: _norm(node) for node in _normalisations(model, frozen)}
        if not self._norms:
            raise OptionError(
                "no BatchNormalization of the model can take the statistics of batches (most exporters fold it into "
                "the convolution in front): leave out statistics"
            )
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The constants that are estimated, each once."""
        return tuple(dict.fromkeys(name for norm in self._norms.values() for name in (norm.mean, norm.variance)))

    def step(self, node: Node, usual: Callable[..., Any], is_learning: Callable[[], bool]) -> Callable[..., Any]:
        """Return what runs a node: by the statistics of the batch while the network learns.

        A channel with one value alone has no variance: there the node runs as usual.

        Args:
            node: of the model.
            usual: runs it by the statistics that it is given.
            is_learning: says how it is run.
        """
        norm = self._norms.get(node.index)
        if norm is None:
            return usual

        def compute(a: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Any:
            count = a.numel() // max(1, a.shape[1])
            if not is_learning() or count < 2:
                return usual(a, scale, bias, mean, variance)
            own = torch.zeros_like(mean), torch.zeros_like(variance)
            # with a momentum of 1, the running statistics of PyTorch are those of the batch
            result = F.batch_norm(a, *own, scale, bias, True, 1.0, norm.epsilon)
            self._seen[node.index] = own[0], own[1] * ((count - 1) / count)
            return result

        return compute

    def begin(self) -> None:
        """Forget what the last run saw: what the backward pass computes again does not count twice."""
        self._seen.clear()

    def moved(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return running statistics behind a run; new tensors, as the backward pass may still need the old ones.

        Args:
            values: in front of it, by name.
        """
        after = dict(values)
        for index, seen in self._seen.items():
            norm = self._norms[index]
            for name, own in zip((norm.mean, norm.variance), seen, strict=True):
                after[name] = torch.lerp(own, after[name], norm.momentum)
        return after


def _norm(node: Node) -> _Norm:
    attributes = attributes_of(node)
    _, _, _, mean, variance = node.inputs
    return _Norm(mean, variance, attributes.get("momentum", 0.9), attributes.get("epsilon", 1e-5))


def _normalisations(model: Model, frozen: Sequence[str]) -> list[Node]:
    """Return the nodes whose statistics are constants that are theirs alone.

    Exporters share equal constants: a mean of zeros may be that of layers that see other values. Nodes that share scale
    and bias, too, are one layer that runs several times.
    """
    nodes = [model.nodes[index] for index in model.top]
    return [
        node
        for node in nodes
        if _by_statistics(node, model)
        and all(_is_own(name, node, slot, model) for slot, name in enumerate(node.inputs[1:5], 1) if slot in _SLOTS)
        and not any(matches(name, pattern) for name in node.inputs[1:5] for pattern in frozen)
    ]


def _by_statistics(node: Node, model: Model) -> bool:
    """Whether a node normalises channels by constants."""
    if node.op != "BatchNormalization" or len(node.outputs) != 1 or attributes_of(node).get("training_mode"):
        return False
    given = [model.constants.get(name) for name in node.inputs[1:5]]
    return all(constant is not None and len(constant.shape) == 1 for constant in given)


def _is_own(name: str, node: Node, slot: int, model: Model) -> bool:
    """Whether nothing but the same layer reads a constant."""
    given = {port.name for port in model.outputs}.union(model.tensor_outputs, model.overridable)
    places = model.readers[name]
    same = all(place == slot and model.nodes[index].inputs[1:] == node.inputs[1:] for index, place in places)
    return same and name not in given
