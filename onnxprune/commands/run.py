"""`run`: the steps of a recipe, in order. A step is a command with its options as keys; the command line runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune import check
from onnxprune.data.toml_file import read_toml
from onnxprune.errors import OptionError


@dataclass(frozen=True)
class Step:
    """A command, and what it is asked for."""

    command: str
    values: Mapping[str, Any]  # by key
    place: str  # in words, for messages: "recipe.toml: step 2 (compare)"


def read_recipe(path: Path, commands: Mapping[str, object]) -> list[Step]:
    """Return the steps of a recipe.

    Args:
        path: of the file.
        commands: by name, that a step can be.

    Raises:
        InputError: when it cannot be read, or is no TOML.
        OptionError: for another key than ``step``, a step without a command, or one that is not known.
    """
    values = read_toml(path)
    if "plan" in values:
        raise OptionError(f"{path}: is a plan, and no recipe: cut a model by 'onnxprune apply {path} MODEL -o OUTPUT'")
    check.keys(str(path), values, ("step",))
    tables = values.get("step", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(each, Mapping) for each in tables):
        raise OptionError(f'{path}: a recipe has steps, each under [[step]], with run = "prune" or another command')
    return [_step(f"{path}: step {number}", each, commands) for number, each in enumerate(tables, 1)]


def _step(place: str, values: Mapping[str, Any], commands: Mapping[str, object]) -> Step:
    command = values.get("run")
    if not isinstance(command, str):
        raise OptionError(f"{place}: needs run, the name of a command: {', '.join(commands)}")
    check.keys(f"{place}: run", [command], commands)
    rest = {key: value for key, value in values.items() if key != "run"}
    return Step(command, rest, f"{place} ({command})")
