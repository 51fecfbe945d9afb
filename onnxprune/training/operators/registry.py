"""The registry of operators: what computes a node, which of its inputs are sizes, which are weights.

A function takes the inputs of the node by position (None where one is left out) and its attributes by name, with the
defaults of the operator's page; what the page knows and the function does not is refused by name. It returns a tensor,
or a tuple for several outputs. Of the names that are no attributes, ``outputs`` is how many outputs the node has,
``version`` the version of its operator set, ``run`` the bodies of control flow, by attribute, and ``kinds`` the element
types of its inputs, 0 where unknown.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from onnxprune.errors import ModelError
from onnxprune.graph.model import Node

Compute = Callable[..., Any]
_Function = TypeVar("_Function", bound=Compute)
_CONTEXT = frozenset(("outputs", "version", "run", "kinds"))


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator from one version on."""

    name: str  # "Conv", or "com.microsoft.Gelu" outside the default domain
    since: int
    compute: Compute
    host: frozenset[int]  # inputs whose numbers decide the shape of what is made: sizes, axes, places
    weights: frozenset[int]  # inputs that are learned, where they are constants
    scales: frozenset[
        int
    ]  # inputs that are learned where they look so: factors and summands, see `training.network.trainable`
    passes: frozenset[int]  # inputs whose numbers are those of the output, in another order or type
    is_open: bool  # whether the shape of what is made depends on numbers that flow through
    names: frozenset[str] | None  # of attributes; None takes any
    context: frozenset[str]  # what it takes beside inputs and attributes


_OPERATORS: dict[str, list[Operator]] = {}


def op(
    *names: str,
    since: int = 1,
    host: Sequence[int] = (),
    weights: Sequence[int] = (),
    scales: Sequence[int] = (),
    passes: Sequence[int] = (),
    is_open: bool = False,
) -> Callable[[_Function], _Function]:
    """Register a function for operators of these names, see `Operator`."""

    def register(compute: _Function) -> _Function:
        for name in names:
            versions = _OPERATORS.setdefault(name, [])
            if any(each.since == since for each in versions):
                raise ValueError(f"two functions for {name} of version {since}")
            versions.append(
                Operator(
                    name,
                    since,
                    compute,
                    frozenset(host),
                    frozenset(weights),
                    frozenset(scales),
                    frozenset(passes),
                    is_open,
                    *_taken(compute),
                )
            )
            versions.sort(key=lambda each: each.since)
        return compute

    return register


def line(name: str, compute: Compute, **marks: Any) -> None:
    """Register one line of a table."""
    op(name, **marks)(compute)


def _taken(compute: Compute) -> tuple[frozenset[str] | None, frozenset[str]]:
    """Return the attributes that a function takes, and what of the context; builtins of torch take neither."""
    try:
        parameters = inspect.signature(compute).parameters.values()
    except ValueError:
        return frozenset(), frozenset()
    names = frozenset(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    return (None if takes_any else names - _CONTEXT), names & _CONTEXT


def names() -> frozenset[str]:
    """Return the operators that have a line."""
    return frozenset(_OPERATORS)


def operator(node: Node) -> Operator | None:
    """Return the line of a node's operator in its version; None if there is none."""
    fitting = [each for each in _OPERATORS.get(node.op, ()) if each.since <= node.version]
    return fitting[-1] if fitting else None


def bound(node: Node, attributes: Mapping[str, Any], run: Mapping[str, Any], kinds: Sequence[int] = ()) -> Compute:
    """Return what computes a node: a function of its inputs alone.

    Args:
        node: the node.
        attributes: by name; tensors as arrays of numpy.
        run: what runs its bodies, by attribute.
        kinds: element types of its inputs, 0 where unknown.

    Raises:
        ModelError: when its operator, or an attribute of it, has no line.
    """
    line_of = operator(node)
    if line_of is None:
        raise ModelError(f"{node}: this operator has no line in the table of gradients (operator set {node.version})")
    known = line_of.names
    strange = sorted(set(attributes) - known) if known is not None else []
    if strange:
        raise ModelError(f"{node}: attribute {strange[0]!r} of {node.op} has no meaning in the table of gradients")
    context = {"outputs": len(node.outputs), "version": node.version, "run": run, "kinds": kinds}
    wanted = {name: context[name] for name in line_of.context}
    return partial(line_of.compute, **attributes, **wanted) if attributes or wanted else line_of.compute


# -- what the functions share --------------------------------------------------------------------------


def ints(values: torch.Tensor | Sequence[int]) -> list[int]:
    """Return the numbers of a tensor of sizes, or of an attribute, as a flat list."""
    if isinstance(values, torch.Tensor):
        return [int(number) for number in values.reshape(-1).tolist()]
    return [int(number) for number in np.asarray(values).reshape(-1)]


def dim_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    >>> dim_of(-1, 4)
    3
    """
    return axis + rank if axis < 0 else axis
