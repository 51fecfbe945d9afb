"""Sequences of tensors, as Python's lists, and optional values, as None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from onnxprune.training.operators.registry import ints, line, op

Tensor = torch.Tensor

# fmt: off
line("SequenceConstruct",     lambda *a: (list(a),))
line("SequenceEmpty",         lambda *, dtype=1: ([],))
line("SequenceLength",        lambda a: torch.tensor(len(a)))
line("SequenceAt",            lambda a, at: a[ints(at)[0]])
line("SequenceInsert",        lambda a, value, at=None: (_inserted(a, value, len(a) if at is None else ints(at)[0]),))
line("SequenceErase",         lambda a, at=None: (_erased(a, -1 if at is None else ints(at)[0]),))
line("ConcatFromSequence",    lambda a, *, axis, new_axis=0: torch.stack(a, axis) if new_axis else torch.cat(a, axis), is_open=True)
line("Optional",              lambda a=None: a)
line("OptionalGetElement",    lambda a: a)
line("OptionalHasElement",    lambda a=None: torch.tensor(a is not None))
# fmt: on


def _inserted(values: Sequence[Any], value: Any, at: int) -> list[Any]:
    copy = list(values)
    copy.insert(at if at >= 0 else at + len(values), value)
    return copy


def _erased(values: Sequence[Any], at: int) -> list[Any]:
    copy = list(values)
    del copy[at]
    return copy


@op("SplitToSequence", host=(1,), is_open=True)
def split_to_sequence(
    a: Tensor, sizes: Tensor | None = None, *, axis: int = 0, keepdims: int = 1
) -> tuple[list[Tensor]]:
    """Return the parts along an axis, of one size or of several."""
    if sizes is None:
        parts = torch.split(a, 1, axis)
        return (list(parts) if keepdims else [part.squeeze(axis) for part in parts],)
    return (list(torch.split(a, int(sizes) if sizes.dim() == 0 else ints(sizes), axis)),)
