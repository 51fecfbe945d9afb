"""Recipes: what a call was asked for, as the keys of the command line, so that `onnxprune run` repeats it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

_NAMES = {"ratios": "ratio", "targets": "target", "inputs": "input"}  # keywords of Python that are options by a name
_SWITCHES = {
    "latency": "no-latency",
    "batch_norm": "no-batch-norm",
}  # keywords that are true, unless an option is given


def recipe_of_call(command: str, source: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the step of a recipe that does what a call in Python did.

    Models and samples in memory stand there in brackets, by their type: a recipe cannot name them.

    Args:
        command: its name.
        source: the model.
        values: the keywords of the call; what is None was not given.
    """
    recipe: dict[str, Any] = {"run": command, "source": _plain(source)}
    for name, value in values.items():
        if value is None or (name in _SWITCHES and value is True):
            continue
        if name in _SWITCHES:
            recipe[_SWITCHES[name]] = True
        elif name in _NAMES:
            recipe.setdefault(_NAMES[name], [])
            recipe[_NAMES[name]] = [*_listed(recipe[_NAMES[name]]), *_pairs(value)]
        else:
            recipe[name.replace("_", "-")] = _plain(value)
    return recipe


def _listed(value: Any) -> list[str]:
    return list(value) if isinstance(value, list) else [str(value)]


def _pairs(value: Any) -> list[str]:
    """Return pairs, as a dict or a sequence has them, as the command line takes them: KEY=VALUE."""
    pairs: Iterable[Any] = value.items() if isinstance(value, Mapping) else value
    return [f"{key}={_text(each)}" for key, each in pairs]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _plain(value: Any) -> Any:
    """Return a value as a recipe has it."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping) and all(isinstance(each, (int, float, str)) for each in value.values()):
        return dict(value)
    if isinstance(value, (list, tuple)) and all(isinstance(each, (int, float, str)) for each in value):
        return list(value)
    return f"({type(value).__name__})"
