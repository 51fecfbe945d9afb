"""From a direction of the outputs back to gates and weights: one backward pass gives the derivative by all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from onnxprune.errors import ModelError, VerificationError, said
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.training.network.agreement import check_agreement
from onnxprune.training.network.module import Network
from onnxprune.training.network.program import Step
from onnxprune.training.network.unit_gate import Gate
from onnxprune.training.operators.types import tensor_of

Tensor = torch.Tensor
Directions = Callable[[Mapping[str, Array]], Sequence[Mapping[str, Array]]]


class Pullback:
    """A network whose outputs are differentiated by gates, and by weights.

    Nothing is learned: gates are one, and weights what the file holds.
    """

    def __init__(self, model: Model, gates: Sequence[Gate] = (), weights: Sequence[str] = ()) -> None:
        """Read the network.

        Args:
            model: in plain form.
            gates: factors of one, in front of inputs of nodes.
            weights: names of constants of floats.

        Raises:
            ModelError: when an operator has no line in the table; it names the node.
        """
        self.model = model
        self._network = Network(model, learns=False)
        for gate in gates:
            self._network._parameters[gate.name] = torch.nn.Parameter(torch.ones(gate.size))
            self._network.steps[gate.node] = gated(self._network.steps[gate.node], gate)
        self._weights = {name: tensor_of(model.array(name)).clone().requires_grad_() for name in weights}

    def check(self, feeds: Mapping[str, Array]) -> None:
        """Make sure that the network computes what ONNX Runtime computes.

        Raises:
            ModelError: when it does not, or cannot be run; it names the node.
        """
        try:
            check_agreement(self._network, feeds)
        except VerificationError as error:
            raise ModelError(f"gradients cannot be trusted: {error}") from error

    def run(self, feeds: Mapping[str, Array], directions: Directions) -> list[dict[str, Array]]:
        """Return for each direction the derivative of the outputs along it, by the names of gates and weights.

        What the outputs do not depend on, as far as derivatives tell, is left out.

        Args:
            feeds: inputs by name.
            directions: from the outputs, numbers that they are multiplied with before they are summed up.

        Raises:
            ModelError: when a node cannot be computed; it names the node.
        """
        outputs = self._network(feeds, weights=self._weights)
        arrays = {name: value.detach().cpu().numpy() for name, value in outputs.items()}
        wanted = {**self._network.weights, **self._weights}
        derivatives = []
        drawn = directions(arrays)
        for number, direction in enumerate(drawn):
            pairs = [
                (outputs[name], torch.from_numpy(np.ascontiguousarray(v)).to(outputs[name]))
                for name, v in direction.items()
                if outputs[name].requires_grad
            ]
            derivatives.append(_derivatives(pairs, wanted, keep=number + 1 < len(drawn)) if pairs else {})
        return derivatives


def _derivatives(
    pairs: Sequence[tuple[Tensor, Tensor]], wanted: Mapping[str, Tensor], *, keep: bool
) -> dict[str, Array]:
    values, along = zip(*pairs, strict=True)
    try:
        grads = torch.autograd.grad(values, list(wanted.values()), along, retain_graph=keep, allow_unused=True)
    except RuntimeError as error:
        raise ModelError(f"PyTorch cannot differentiate this model: {said(error)}") from error
    return {name: grad.detach().cpu().numpy() for name, grad in zip(wanted, grads, strict=True) if grad is not None}


def gated(step: Step, gate: Gate) -> Step:
    """Return a step with a gate, as a further input, in front of one of its inputs."""
    inner = step.compute

    def compute(*values: Any) -> Any:
        inputs = list(values[:-1])
        value = inputs[gate.slot]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            inputs[gate.slot] = _Scaled.apply(value, values[-1], gate.dim)  # type: ignore[no-untyped-call]
        return inner(*inputs)

    return replace(step, compute=compute, inputs=(*step.inputs, gate.name))


class _Scaled(torch.autograd.Function):
    """A value times a factor of one for each index along a dim: nothing is computed but the derivative."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gate: Tensor, dim: int) -> Tensor:
        """Return the value."""
        ctx.save_for_backward(value)
        ctx.dim = dim
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the derivative by the value, and by the gate: the sum of gradient times value."""
        (value,) = ctx.saved_tensors
        product = grads[0] * value
        others = tuple(dim for dim in range(value.ndim) if dim != ctx.dim % value.ndim)
        return grads[0], product.sum(others) if others else product, None
