"""Defaults of options: the table ``[tool.onnxprune]`` of the nearest pyproject.toml that has one, upward from here.

A key of it is an option of any command, and holds for all that have it; a table in it is for the command of that name::

    [tool.onnxprune]
    threads = 4

    [tool.onnxprune.prune]
    data = "samples.npz"

The file is found, not named: it may have come with a folder from elsewhere. What would run code is refused in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from onnxprune import check
from onnxprune.cli.recipe import keys_of, named_values
from onnxprune.data.toml_file import read_toml
from onnxprune.errors import OptionError

_FILE = "pyproject.toml"


def _is_function(text: str) -> bool:
    from onnxprune.data.feeds import is_function  # it imports numpy

    return is_function(text)


_RUNS: Mapping[str, Callable[[str], bool]] = {  # options that run or load code, and by which of their values
    "timer": lambda _: True,
    "custom-ops": lambda _: True,
    "scheduler": lambda _: True,
    "provider-option": lambda _: True,  # there are libraries among them
    "data": _is_function,
    "eval-data": _is_function,
    "metric": lambda text: ":" in text,
    "loss": lambda text: ":" in text,
}


def defaults(commands: Mapping[str, click.Command], folder: Path) -> dict[str, dict[str, Any]]:
    """Return defaults by command, each by the name of its parameter.

    Args:
        commands: by name.
        folder: where the search begins.

    Raises:
        InputError: for a file of this name that is no TOML.
        OptionError: for a key that no command has, which says what is near; and for one that would run code.
    """
    path, table = _table(folder)
    if path is None:
        return {}
    where = f"{path}: [tool.onnxprune]"
    options = {name: _options(command) for name, command in commands.items()}
    common = {key: value for key, value in table.items() if key not in commands}
    spelled = {key.replace("_", "-"): value for key, value in common.items()}
    check.keys(where, spelled, [*commands, *dict.fromkeys(key for keys in options.values() for key in keys)])
    found = {}
    for name, command in commands.items():
        own = table.get(name, {})
        if not isinstance(own, Mapping):
            raise OptionError(f"{where}: {name} is a command: its defaults are a table, [tool.onnxprune.{name}]")
        place = f"{where[:-1]}.{name}]"
        check.keys(place, [key.replace("_", "-") for key in own], options[name])
        shared = {key: value for key, value in spelled.items() if key in options[name]}
        found[name] = _checked(command, shared, where) | _checked(command, own, place)
    return found


def _checked(command: click.Command, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return values by the names of the parameters that keys mean; raise OptionError for one that would run code."""
    named = named_values(command, values, where)
    for key, runs in _RUNS.items():
        param = keys_of(command).get(key)
        given = named.get(str(param.name)) if param is not None else None
        for text in given if isinstance(given, list) else [] if given is None else [given]:
            if runs(text):
                raise OptionError(
                    f"{where}: {key} = {text!r} would run code, which no file that is merely found may do: type "
                    f"--{key}, or name it in a recipe"
                )
    return named


def _options(command: click.Command) -> list[str]:
    return [key for key, param in keys_of(command).items() if isinstance(param, click.Option)]


def _table(folder: Path) -> tuple[Path | None, Mapping[str, Any]]:
    """Return the nearest file with defaults, and these; None where there is none."""
    for each in (folder, *folder.parents):
        path = each / _FILE
        if path.is_file():
            tool = read_toml(path).get("tool", {})
            table = tool.get("onnxprune") if isinstance(tool, Mapping) else None
            if isinstance(table, Mapping):
                return path, table
    return None, {}
