"""The functions of PyTorch behind a value: which kernels computed it."""

from __future__ import annotations

from typing import Any


def kernels(value: Any) -> str:
    """Return the names of the functions behind a tensor, in one text."""
    waiting, seen = [value.grad_fn], set()
    while waiting:
        function = waiting.pop()
        if function is not None and function not in seen:
            seen.add(function)
            waiting += [each for each, _ in function.next_functions]
    return " ".join(sorted({type(function).__name__ for function in seen}))
