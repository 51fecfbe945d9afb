"""Statistics of BatchNormalization while a network learns: those of the batch, and running means of them.

Ioffe & Szegedy 2015; the variance is that of all values, as the page of the operator has it,
https://onnx.ai/onnx/operators/onnx__BatchNormalization.html. Its `momentum` is not used: what exporters write there is
often not what the network was trained with. PyTorch 1.0 wrote 1, which moves nothing, and so does whatever was trained
with cumulative means; 0.99 and more, of batches of thousands, lag behind by hundreds of runs.
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
MOMENTUM = 0.9  # share of the running statistics that a run leaves
_HALF = 65504.0  # the largest number of float16


@dataclass(frozen=True)
class _Norm:
    """A BatchNormalization whose statistics are estimated."""

    mean: str
    variance: str
    epsilon: float
    largest: float | None  # number that the file can hold; None: as large as any


class Statistics:
    """What the nodes of a network have seen in a run, and the running means that follow from it."""

    def __init__(self, model: Model, frozen: Sequence[str] = ()) -> None:
        """Find the nodes.

        Args:
            model: in plain form.
            frozen: patterns of names; where one matches mean, variance, scale or bias of a node, its statistics stay.

        Raises:
            OptionError: when all of them do.
        """
        nodes = [node for node in model.nodes if node.op == "BatchNormalization"]
        top = frozenset(model.top)
        own = [n for n in nodes if n.index in top and _is_by_constants(n, model) and _are_own(n, model)]
        self.known = tuple(name for node in own for name in node.inputs[3:5])  # those that patterns may name
        taken = [
            node for node in own if not any(matches(name, pattern) for name in node.inputs[1:5] for pattern in frozen)
        ]
        self._norms = {node.index: _norm(node, model) for node in taken}
        self.others = len(nodes) - len(taken)
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}
        if not taken:
            raise OptionError(f"{_why_none(len(nodes), len(own))}: leave out statistics")

    @property
    def count(self) -> int:
        """How many nodes are normalised by the statistics of batches; `others` are not."""
        return len(self._norms)

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
                moved = torch.lerp(own, after[name], MOMENTUM)
                after[name] = moved if norm.largest is None else moved.clamp(-norm.largest, norm.largest)
        return after


def _norm(node: Node, model: Model) -> _Norm:
    _, _, _, mean, variance = node.inputs
    is_half = any(model.constants[name].dtype.name == "float16" for name in (mean, variance))
    return _Norm(mean, variance, attributes_of(node).get("epsilon", 1e-5), _HALF if is_half else None)


def _why_none(nodes: int, own: int) -> str:
    """Return why no node takes the statistics of batches, as the beginning of a message."""
    if own:
        return "all statistics of BatchNormalization are frozen"
    if nodes:
        return (
            "no BatchNormalization of the model has statistics of its own (those that it is fed, computes, or shares "
            "with other layers stay)"
        )
    return "the model has no BatchNormalization (most exporters fold it into the convolution in front)"


def _is_by_constants(node: Node, model: Model) -> bool:
    """Whether a node normalises channels by constants."""
    if len(node.outputs) != 1 or attributes_of(node).get("training_mode"):
        return False
    given = [model.constants.get(name) for name in node.inputs[1:5]]
    return all(constant is not None and len(constant.shape) == 1 for constant in given)


def _are_own(node: Node, model: Model) -> bool:
    """Whether nothing but the same layer reads mean and variance of a node.

    Exporters share equal constants: a mean of zeros may be that of layers that see other values. Nodes that share scale
    and bias, too, are one layer that runs several times.
    """
    given = {port.name for port in model.outputs}.union(model.tensor_outputs, model.overridable)
    return all(
        name not in given
        and all(
            place == slot and model.nodes[index].inputs[1:] == node.inputs[1:] for index, place in model.readers[name]
        )
        for slot, name in enumerate(node.inputs[3:5], 3)
    )
