"""A network for one form of its inputs: what follows from sizes alone is computed once, the rest is a list of steps.

Exporters write the arithmetic of sizes into the graph; run node by node it would stop a GPU at every Shape, and on a
CPU take longer than small layers. For given shapes of the inputs a value is *fixed* when it follows from constants
that are not trained and from shapes; fixed values stay on the host where they are sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from onnxprune.graph.model import Node

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One node that is run each time."""

    place: str  # the node, for messages
    compute: Callable[..., Any]
    inputs: tuple[str, ...]  # "" where one is left out
    outputs: tuple[str, ...]
    released: tuple[str, ...] = ()  # values that no later step reads
    node: Node | None = None  # whose step this is; None where one step runs several nodes
    kinds: tuple[int, ...] = ()  # element types of its inputs in the file, 0 where unknown

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that it takes."""
        return tuple(name for name in self.inputs if name)


@dataclass(frozen=True)
class Program:
    """The steps of a network for one form of its inputs."""

    steps: tuple[Step, ...] = field(repr=False)
    fixed: Mapping[str, Any] = field(
        repr=False
    )  # values that follow from sizes and from constants that are not trained
    outputs: tuple[str, ...]

    def run(self, values: Mapping[str, Any]) -> Values:
        """Return the outputs.

        Args:
            values: inputs and weights, by name.
        """
        alive: Values = {**self.fixed, **values}
        for step in self.steps:
            take(step, alive)
        return {name: alive[name] for name in self.outputs}

    def run_in_segments(self, values: Mapping[str, Any], count: int) -> Values:
        """Return the same; in the backward pass each of `count` segments is computed again instead of being kept.

        Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost.
        """
        alive: Values = {**self.fixed, **values}
        each = -(-len(self.steps) // max(1, count))
        for start in range(0, len(self.steps), each):
            steps = self.steps[start : start + each]
            later = {name for step in self.steps[start + each :] for name in step.reads} | set(self.outputs)
            made = [name for step in steps for name in step.outputs if name in later]
            read = list(dict.fromkeys(n for step in steps for n in step.reads if n in alive))

            def segment(
                *tensors: Any, steps: Sequence[Step] = steps, read: list[str] = read, made: list[str] = made
            ) -> Any:
                inner = dict(zip(read, tensors, strict=True))
                for step in steps:
                    take(step, inner, keep=made)
                return tuple(inner[name] for name in made)

            results = checkpoint(segment, *(alive[name] for name in read), use_reentrant=False)
            alive.update(zip(made, results, strict=True))
        return {name: alive[name] for name in self.outputs}


def take(step: Step, alive: Values, keep: Sequence[str] = ()) -> None:
    """Run one step on the values that are alive, and let go of those that it was the last to read."""
    results = step.compute(*[alive[name] if name else None for name in step.inputs])
    if len(step.outputs) == 1 and not isinstance(results, tuple):
        alive[step.outputs[0]] = results
    else:
        for name, value in zip(step.outputs, results, strict=False):
            alive[name] = value
    for name in step.released:
        if name not in keep:
            alive.pop(name, None)


def assembled(steps: Sequence[Step], fixed: Mapping[str, Any], outputs: Sequence[str], kept: frozenset[str]) -> Program:
    """Return the program of those steps that the outputs need.

    Args:
        steps: all, in order.
        fixed: values that no step makes, by name; those that nobody reads are dropped.
        outputs: names of values.
        kept: values that are never let go: inputs and weights.
    """
    needed, last = set(outputs), set(outputs)
    chosen: list[Step] = []
    for step in reversed(steps):
        if not any(name in needed for name in step.outputs):
            continue
        needed.update(step.reads)
        unread = {name for name in (*step.reads, *step.outputs) if name and name not in last and name not in kept}
        last.update(step.reads)
        last.update(step.outputs)
        released = tuple(sorted(unread - fixed.keys()))
        chosen.append(replace(step, released=released))
    used = {name: value for name, value in fixed.items() if name in needed}
    return Program(tuple(reversed(chosen)), used, tuple(outputs))


def shape_of(values: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
    """Return what is equal for inputs that one program can run."""
    return tuple((name, tuple(value.shape), value.dtype) for name, value in sorted(values.items()))
