"""A model as a `torch.nn.Module`: weights under their names, gradients for all of them, the same numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from onnxprune.errors import ModelError, said
from onnxprune.graph.model import Model, Node
from onnxprune.graph.tensors import Array
from onnxprune.training.network.attributes import attributes_of
from onnxprune.training.network.program import Program, Step, shape_of
from onnxprune.training.network.specialise import specialised
from onnxprune.training.network.statistics import Statistics
from onnxprune.training.network.trainable import trainable
from onnxprune.training.operators import registry
from onnxprune.training.operators.types import tensor_of

Tensor = torch.Tensor
PROGRAMS = 16  # forms of inputs that are kept
_SHAPING = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")  # operators that change no number


class Network(torch.nn.Module):
    """A model of ONNX in PyTorch.

    Its parameters have the names of the constants that they are; what is half precision in the file is single
    precision here. Statistics of BatchNormalization stay as they are, unless `batch_statistics` is set: then, after
    `train()`, batches are normalised by their own, which move running means (buffers), and after `eval()` by these.

    >>> from onnxprune.graph.files.read import load
    >>> network = Network(load("models/cnn.onnx"))
    >>> next(iter(network.state_dict())) in network.model.constants
    True
    """

    def __init__(
        self,
        model: Model,
        *,
        frozen: Sequence[str] = (),
        learns: bool = True,
        segments: int = 1,
        batch_statistics: bool = False,
    ) -> None:
        """Read the weights.

        Args:
            model: in plain form.
            frozen: patterns of names of weights that stay as they are.
            learns: whether there are parameters at all; a teacher has none.
            segments: parts that are computed again in the backward pass instead of being kept, see `Program`.
            batch_statistics: whether BatchNormalization learns by the statistics of batches.

        Raises:
            ModelError: when an operator has no line in the table; it names the node.
            OptionError: when a pattern matches nothing, or there are no such statistics.
        """
        super().__init__()
        self.model, self.segments = model, segments
        check_operators(model)
        images = _weights_of_images(model)
        self.running = Statistics(model, frozen) if batch_statistics else None
        known = self.running.known if self.running else ()
        for name in trainable(model, frozen, known) if learns else ():
            tensor = tensor_of(model.array(name))
            layout = torch.channels_last if name in images else torch.contiguous_format
            # `register_parameter` takes no dots in names
            self._parameters[name] = torch.nn.Parameter(tensor.clone(memory_format=layout))
        for name in self.running.names if self.running else ():
            self._buffers[name] = tensor_of(model.array(name)).clone()
        stated = [*model.proto.graph.input, *model.proto.graph.output]
        self._kinds = model.value_kinds | {info.name: info.type.tensor_type.elem_type for info in stated}
        shaped = (node for node in model.nodes if node.op in _SHAPING)
        self._shaped = {
            node.outputs[0]: node.inputs[0] for node in shaped
        }  # by what is the same numbers in another shape
        self._constants: dict[str, Tensor] = {}
        self._programs: dict[Any, Program] = {}
        self.steps = {node.index: self._step(node) for node in model.nodes if node.op != "Constant"}

    @property
    def weights(self) -> Mapping[str, torch.nn.Parameter]:
        """The parameters, by the name of the constant."""
        return {name: value for name, value in self._parameters.items() if value is not None}

    @property
    def statistics(self) -> Mapping[str, Tensor]:
        """The means and variances that learning moves, by the name of the constant."""
        return {name: value for name, value in self._buffers.items() if value is not None}

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the host where there are none."""
        return next((each.device for each in self.parameters()), self._device)

    _device = torch.device("cpu")

    def to(self, *args: Any, **kwargs: Any) -> Network:
        """Move parameters and constants to a device."""
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None:
            self._device = device
            self._programs.clear()
        super().to(*args, **kwargs)
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over weights and statistics by name; torch's own takes dots for submodules.

        Raises:
            KeyError: when names differ and `strict` is set.
        """
        own = self.state_dict()  # detached, but the same memory
        if strict and set(state_dict) != set(own):
            differing = sorted(set(state_dict) ^ set(own))
            raise KeyError(f"weights that only one side has: {differing[:3]}")
        for name, value in state_dict.items():
            if name in own:
                own[name].copy_(value)
        return torch.nn.modules.module._IncompatibleKeys([], [])

    def forward(
        self, feeds: Mapping[str, Tensor | Array], taps: Iterable[str] = (), weights: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the tensor outputs, or the values of `taps`, by name.

        Args:
            feeds: inputs by name.
            taps: names of values between nodes, instead of the outputs.
            weights: what is used in the place of some constants, by name.

        Raises:
            ModelError: when a node cannot be computed; it names the node and the shapes of its inputs.
        """
        inputs = {name: self._input(value) for name, value in feeds.items()}
        outputs = tuple(taps) or self.model.tensor_outputs
        replaced = dict(weights or {})
        values = {**inputs, **self.weights, **self.statistics, **replaced}
        added = replaced.keys() - self._parameters.keys() - self._buffers.keys()
        key = (shape_of(inputs), outputs, frozenset(added), self.device)
        program = self._programs.get(key)
        if program is None:
            if len(self._programs) >= PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            with torch.autocast(self.device.type, enabled=False):  # what is fixed serves runs in every precision
                program = self._programs[key] = specialised(self, values, outputs)
        with self._seeing():
            if self.segments > 1 and torch.is_grad_enabled():
                return program.run_in_segments(values, self.segments)
            return program.run(values)

    # -- how ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _seeing(self) -> Iterator[None]:
        """Move running statistics by what is seen in a run."""
        if self.running is None or not self.training or torch.is_inference_mode_enabled():
            yield
            return
        self.running.begin()
        yield
        with torch.no_grad():
            self._buffers.update(self.running.moved(self.statistics))

    def _input(self, value: Tensor | Array) -> Tensor:
        tensor = value if isinstance(value, torch.Tensor) else tensor_of(value)
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        return tensor.to(self.device)

    def constant(self, name: str) -> Tensor:
        """Return a constant that is not trained, on the host."""
        if name not in self._constants:
            self._constants[name] = tensor_of(self.model.array(name))
        return self._constants[name]

    def _step(self, node: Node) -> Step:
        """Return what runs a node; the values that its bodies read come behind its inputs."""
        bodies = {body.attribute: body for body in node.bodies}
        if not bodies:
            kinds = tuple(self._kind(name) for name in node.inputs)
            bound = registry.bound(node, attributes_of(node), {}, kinds)
            if self.running is not None:
                bound = self.running.step(node, bound, lambda: self.training)
            return Step(str(node), bound, node.inputs, node.outputs, kinds=kinds)
        count = len(node.inputs)

        def compute(*values: Any) -> Any:
            outer = dict(zip(node.captured, values[count:], strict=True))
            run = {name: self._body(body, outer) for name, body in bodies.items()}
            return registry.bound(node, attributes_of(node), run)(*values[:count])

        return Step(str(node), compute, (*node.inputs, *node.captured), node.outputs)

    def _kind(self, name: str) -> int:
        """Return the element type of a value; 0 where the file states it neither there nor in another shape."""
        while name not in self._kinds and name not in self.model.constants and name in self._shaped:
            name = self._shaped[name]
        constant = self.model.constants.get(name)
        return self._kinds.get(name, 0) if constant is None else constant.tensor.data_type

    def _body(self, body: Any, outer: Mapping[str, Any]) -> Callable[..., tuple[Any, ...]]:
        def run(*inputs: Any) -> tuple[Any, ...]:
            values = {**outer, **{port.name: value for port, value in zip(body.inputs, inputs, strict=False)}}
            for index in body.nodes:
                step = self.steps.get(index)
                if step is not None:
                    self._take(step, values)
            return tuple(self._value(name, values) for name in body.outputs)

        return run

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        """Return a value of a run, a parameter, or a constant."""
        if not name:
            return None
        if name in values:
            return values[name]
        own = self._parameters.get(name, self._buffers.get(name))
        return own if own is not None else self.on_device(self.constant(name))

    def values_of(self, step: Step, values: Mapping[str, Any]) -> list[Any]:
        """Return the inputs of a step: values of a run, parameters and constants."""
        return [self._value(name, values) for name in step.inputs]

    def _take(self, step: Step, values: dict[str, Any]) -> None:
        values.update(zip(step.outputs, self.results(step, self.values_of(step, values)), strict=False))

    def results(self, step: Step, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Return what a step makes of its inputs.

        Raises:
            ModelError: when PyTorch cannot compute it; it names the node and the shapes.
        """
        try:
            results = step.compute(*inputs)
        except ModelError:
            raise
        except Exception as error:  # whatever PyTorch raises
            shapes = ", ".join(str(list(each.shape)) if isinstance(each, torch.Tensor) else "-" for each in inputs)
            raise ModelError(
                f"{step.place}: PyTorch cannot compute it for inputs of shapes {shapes}: {said(error)}"
            ) from error
        return results if isinstance(results, tuple) else (results,)

    def on_device(self, value: Any) -> Any:
        """Return a tensor where the parameters are; other values as they are."""
        return value.to(self.device) if isinstance(value, torch.Tensor) else value


def _weights_of_images(model: Model) -> set[str]:
    """Return the weights of convolutions over two axes.

    With channels last in memory, which their outputs then have too, depthwise and small convolutions take a fifth to a
    quarter less time on the CPU; ResNet-50 takes as long.
    """
    names = (node.inputs[1] for node in model.nodes if node.op == "Conv")
    return {name for name in names if name in model.constants and len(model.constants[name].shape) == 4}


def check_operators(model: Model) -> None:
    """Make sure that every node has a line.

    Raises:
        ModelError: when one has none; it names the node, and the other operators without one.
    """
    without = [node for node in model.nodes if node.op != "Constant" and registry.operator(node) is None]
    if without:
        others = sorted({node.op for node in without} - {without[0].op})
        more = f"; nor have {', '.join(others)}" if others else ""
        raise ModelError(
            f"{without[0]}: gradients of this operator are not known (operator set {without[0].version}){more}"
        )
