"""From a network and the form of its inputs to a program: every node runs once, what follows from sizes stays out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from onnxprune.graph.model import Node
from onnxprune.training.network.fusions import fused
from onnxprune.training.network.program import Program, Step, assembled
from onnxprune.training.operators import registry

if TYPE_CHECKING:
    from onnxprune.training.network.module import Network

_MEASURES = frozenset(("Shape", "Size"))


def specialised(network: Network, values: Mapping[str, Any], outputs: Sequence[str]) -> Program:
    """Return the program of a network for inputs of these shapes.

    Args:
        network: whose nodes are run.
        values: inputs and weights, by name.
        outputs: names of the values that the program returns.

    Raises:
        ModelError: when a node cannot be computed.
    """
    run = _Run(network, dict(values), Counter(outputs))
    for index in network.model.top:
        if index in network.steps:
            run.waiting.update(network.steps[index].reads)
    with torch.no_grad():
        for index in network.model.top:
            if index in network.steps:
                run.add(network.model.nodes[index])
    for name in outputs:
        if name in run.fixed or name not in run.flows:
            run.on_device(name)
    steps = fused(run.steps, outputs, run.fixed, run.shapes)
    return assembled(steps, run.moved, outputs, frozenset(values))


@dataclass
class _Run:
    """The values of one run, and the steps that do not follow from sizes."""

    network: Network
    alive: dict[str, Any]  # inputs, weights, and what follows from them, until the last step reads it
    waiting: Counter[str]  # how many nodes and outputs will read a value
    fixed: dict[str, Any] = field(default_factory=dict)  # on the host
    moved: dict[str, Any] = field(default_factory=dict)  # fixed values as steps read them
    is_open: set[str] = field(default_factory=set)  # values whose shape depends on numbers
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of all values that steps read or make
    stated: frozenset[str] = field(init=False)  # inputs and weights
    flows: set[str] = field(init=False)  # names of the values that flow, also of those that are let go
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Note what flows from the start."""
        self.flows, self.stated = set(self.alive), frozenset(self.alive)

    def add(self, node: Node) -> None:
        """Run a node."""
        step = self.network.steps[node.index]
        for name in step.reads:
            if name not in self.flows and name not in self.fixed:
                self.fixed[name] = self.network.constant(name)
        measures = node.op in _MEASURES and node.inputs[0] not in self.is_open
        if measures or all(name in self.fixed for name in step.reads):
            inputs = [
                (self.fixed[name] if name in self.fixed else self.alive[name]) if name else None for name in step.inputs
            ]
            self.fixed.update(zip(step.outputs, self.network.results(step, inputs), strict=False))
        else:
            self._add_step(step, node)
        self._let_go(step)

    def _let_go(self, step: Step) -> None:
        """Forget values that nothing will read: a run must not hold all of them at once."""
        self.waiting.subtract(step.reads)
        for name in (*step.reads, *step.outputs):
            if self.waiting[name] <= 0 and name not in self.stated:
                self.alive.pop(name, None)

    def _add_step(self, step: Step, node: Node) -> None:
        line = registry.operator(node)
        sizes = frozenset[int]() if line is None else line.host
        names = tuple(self._name(name, on_host=slot in sizes) for slot, name in enumerate(step.inputs))
        inputs = [(self.alive[name] if name in self.alive else self.moved[name]) if name else None for name in names]
        made = dict(zip(step.outputs, self.network.results(step, inputs), strict=False))
        self.alive.update(made)
        self.flows.update(step.outputs)
        for name, value in (*zip(names, inputs, strict=True), *made.items()):
            if isinstance(value, torch.Tensor):
                self.shapes[name] = tuple(value.shape)
        flowing = any(slot in sizes and name in self.flows for slot, name in enumerate(step.inputs))
        if flowing or (line and line.is_open) or any(name in self.is_open for name in step.inputs):
            self.is_open.update(step.outputs)
        self.steps.append(Step(step.place, step.compute, names, step.outputs, node=node, kinds=step.kinds))

    def _name(self, name: str, *, on_host: bool) -> str:
        """Return the name under which a step finds a value; sizes stay on the host."""
        if not name or name not in self.fixed:
            return name
        if not on_host:
            return self.on_device(name)
        place = f"{name} on the host"
        self.moved[place] = self.fixed[name]
        return place

    def on_device(self, name: str) -> str:
        """Put a fixed value where the parameters are."""
        if name not in self.moved:
            value = self.fixed[name] if name in self.fixed else self.network.constant(name)
            self.moved[name] = self.network.on_device(value)
        return name
