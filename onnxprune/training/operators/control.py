"""Branches and loops: the bodies run in Python, node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from onnxprune.training.operators.registry import dim_of, op

Tensor = torch.Tensor
Run = Callable[..., tuple[Any, ...]]  # takes the inputs of a body, returns its outputs


@op("If", is_open=True)
def branch(condition: Tensor, *, run: Mapping[str, Run]) -> tuple[Any, ...]:
    """Return what the branch makes that the condition asks for."""
    return run["then_branch" if bool(condition) else "else_branch"]()


@op("Loop", host=(0, 1), is_open=True)
def loop(turns: Tensor | None, condition: Tensor | None, *states: Any, run: Mapping[str, Run]) -> tuple[Any, ...]:
    """Return the last states, and what each turn gave, one behind the other."""
    body, limit = run["body"], None if turns is None else int(turns)
    goes_on, number, scanned = condition is None or bool(condition), 0, list[tuple[Any, ...]]()
    while goes_on and (limit is None or number < limit):
        results = body(torch.tensor(number), torch.tensor(goes_on), *states)
        goes_on, states, rest = bool(results[0]), results[1 : 1 + len(states)], results[1 + len(states) :]
        scanned.append(rest)
        number += 1
    return (*states, *(torch.stack(each) for each in zip(*scanned, strict=True)))


@op("Scan", since=9, is_open=True)
def scan(
    *values: Tensor, run: Mapping[str, Run], num_scan_inputs: int, scan_input_axes: Sequence[int] = (),
    scan_input_directions: Sequence[int] = (), scan_output_axes: Sequence[int] = (),
    scan_output_directions: Sequence[int] = (),
) -> tuple[Any, ...]:  # fmt: skip
    """Return the last states, and what each turn gave, along an axis."""
    count = len(values) - num_scan_inputs
    states, scanned = values[:count], values[count:]
    axes = scan_input_axes or [0] * num_scan_inputs
    backwards = scan_input_directions or [0] * num_scan_inputs
    parts = [each.unbind(dim_of(axis, each.dim())) for each, axis in zip(scanned, axes, strict=True)]
    turns = [part[::-1] if back else part for part, back in zip(parts, backwards, strict=True)]
    made = list[tuple[Any, ...]]()
    for inputs in zip(*turns, strict=True):
        results = run["body"](*states, *inputs)
        states = results[:count]
        made.append(results[count:])
    outputs = list(zip(*made, strict=True))
    ends = scan_output_axes or [0] * len(outputs)
    turned = scan_output_directions or [0] * len(outputs)
    stacked = [
        torch.stack(each[::-1] if back else each, dim_of(axis, each[0].dim() + 1))
        for each, axis, back in zip(outputs, ends, turned, strict=True)
    ]
    return (*states, *stacked)
