"""What the exporter of the zoo takes: a module, its inputs, and which of their dims are dynamic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn


@dataclass(frozen=True)
class Specimen:
    """One architecture, ready to be exported."""

    module: nn.Module
    feeds: Mapping[str, Tensor]  # inputs in order of the module's arguments
    dims: Mapping[str, Mapping[int, str]]  # names of the dynamic dims of each input
    original: str  # name of the class of interest, where `module` is a wrapper
    config: str  # what it was built with


@dataclass(frozen=True)
class Recipe:
    """How to make a specimen, and with which exporters."""

    make: Callable[[], Specimen]
    exporters: tuple[str, ...] = ("torchscript", "dynamo")


Recipes: TypeAlias = Mapping[str, Recipe]


def axes(text: str) -> dict[int, str]:
    """Return the named dims in a text such as ``batch 3 height width``; numbers and _ are static.

    >>> axes("batch 3 height _")
    {0: 'batch', 2: 'height'}
    """
    return {i: name for i, name in enumerate(text.split()) if name.isidentifier() and name != "_"}


def specimen(module: nn.Module, config: Any = "", original: str = "", **inputs: tuple[Tensor, str]) -> Specimen:
    """Return a specimen; each input is an example with the text of its dims."""
    return Specimen(
        module=module.eval(),
        feeds={name: tensor for name, (tensor, _) in inputs.items()},
        dims={name: axes(text) for name, (_, text) in inputs.items()},
        original=original or type(module).__name__,
        config=str(config),
    )
