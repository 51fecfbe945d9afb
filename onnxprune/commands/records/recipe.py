"""Recipes: what a call was asked for, as the keys of the command line, so that `onnxprune run` repeats it."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable, Mapping
from typing import Any

_NAMES = {"ratios": "ratio", "targets": "target", "inputs": "input"}  # keywords of Python that are options by a name
_SWITCHES = {
    "latency": "no-latency",
    "batch_norm": "no-batch-norm",
}  # keywords that are true, unless an option is given
_TEXT_ALONE = ("vocabulary", "tune", "masks")  # a file or a length on the command line; lists and dicts in Python alone


def recipe_of_call(command: str, source: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the step of a recipe that does what a call in Python did.

    Models and samples in memory stand there in brackets, by their type: a recipe cannot name them.

    Args:
        command: its name.
        source: the model.
        values: the keywords of the call; what is None was not given.
    """
    recipe: dict[str, Any] = {"run": command, "source": plain(source)}
    for name, value in values.items():
        if value is None or (name in _SWITCHES and value is True):
            continue
        if name in _SWITCHES:
            recipe[_SWITCHES[name]] = True
        elif name in _NAMES:
            recipe.setdefault(_NAMES[name], [])
            recipe[_NAMES[name]] = [*_listed(recipe[_NAMES[name]]), *_pairs(value)]
        elif name in _TEXT_ALONE:
            recipe[name] = plain(value) if isinstance(value, (str, os.PathLike)) else _in_brackets(value)
        else:
            recipe[name.replace("_", "-")] = plain(value)
    return recipe


def _listed(value: Any) -> list[str]:
    return list(value) if isinstance(value, list) else [str(value)]


def _pairs(value: Any) -> list[str]:
    """Return pairs, as a dict or a sequence has them, as the command line takes them: KEY=VALUE."""
    pairs: Iterable[Any] = value.items() if isinstance(value, Mapping) else value
    return [f"{key}={typed(each)}" for key, each in pairs]


def typed(value: Any) -> str:
    """Return a value, or several, as it is typed.

    >>> typed([0.2, "8ms"]), typed(0.5)
    ('0.2,8ms', '0.5')
    """
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def plain(value: Any) -> Any:
    """Return a value as a recipe has it: as TOML holds it, or in brackets.

    >>> plain(("a", 1)), plain({"heads": 8}), plain(object())
    (['a', 1], {'heads': 8}, '(object)')
    """
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping) and all(map(_is_one, value.values())):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)) and all(map(_is_one, value)):
        return [plain(each) for each in value]
    return _in_brackets(value)


def _is_one(value: Any) -> bool:
    """Whether it is one value that TOML holds."""
    return isinstance(value, (str, numbers.Real, os.PathLike))


def _in_brackets(value: Any) -> str:
    return f"({type(value).__name__})"
