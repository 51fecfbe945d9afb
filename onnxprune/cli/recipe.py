"""Keys of recipes and of defaults: the options of a command as they are typed, its arguments by their names.

A key is the long name of an option without its dashes (``round-to``, also ``round_to``), or the name of an argument
(``source``). A value is what is typed, or as TOML has it: numbers, true and false, a list for what can be repeated, a
table for KEY=VALUE.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from onnxprune import check
from onnxprune.commands.records.recipe import plain, typed
from onnxprune.errors import OptionError

HANDLED = "onnxprune.handled"  # key of the context of a command: values of options that are no parameters of it
_OF_ONE_RUN = ("quiet", "as_json", "force", "resume", "checkpoint")  # what the run that repeats another needs not have
_GIVEN = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP)


def keys_of(command: click.Command) -> dict[str, click.Parameter]:
    """Return the parameters of a command by their keys; an option that says no to another has its own."""
    keys: dict[str, click.Parameter] = {}
    for param in command.params:
        for name in _long_names(param):
            keys[name] = param
    return keys


def _long_names(param: click.Parameter) -> list[str]:
    if isinstance(param, click.Argument):
        return [str(param.name)]
    return [name.removeprefix("--") for name in (*param.opts, *param.secondary_opts) if name.startswith("--")]


def named_values(command: click.Command, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return values by the names of the parameters that keys mean, in the form that click takes.

    Args:
        command: whose keys they are.
        values: by key.
        where: they stand, for messages.

    Raises:
        OptionError: for a key that the command does not have, which says what is near; and for a null character.
    """
    known = keys_of(command)
    by_key = {_spelled(key, known): value for key, value in values.items()}
    check.keys(where, by_key, known)
    named = dict[str, Any]()
    for key, value in by_key.items():
        param = known[key]
        if str(param.name) in named:
            raise OptionError(f"{where}: {key} says again what another key says: give one of the two")
        says_no = f"--{key}" in param.secondary_opts
        given = _flag(where, key, value) != says_no if says_no else _value(where, key, param, value)
        if "\0" in typed(given):
            raise OptionError(f"{where}: {key} has a null character, which no file, name or number has")
        named[str(param.name)] = given
    return named


def _spelled(key: str, known: Iterable[str]) -> str:
    dashed = key.replace("_", "-")
    return dashed if key not in known and dashed in known else key


def _flag(where: str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{where}: {key} is true or false, got {value!r}")
    return value


def _value(where: str, key: str, param: click.Parameter, value: Any) -> Any:
    """Return a value in the form that click takes: lists for what can be repeated, text for pairs."""
    if isinstance(param, click.Option) and param.is_flag:
        return _flag(where, key, value)
    listed = [f"{name}={typed(each)}" for name, each in value.items()] if isinstance(value, Mapping) else value
    if param.multiple if isinstance(param, click.Option) else False:
        return [typed(each) for each in listed] if isinstance(listed, list) else [typed(listed)]
    return typed(listed)


def recipe_of(context: click.Context) -> dict[str, Any]:
    """Return the step of a recipe that does what the running command does.

    It has what was given, typed or by a file, also where that is the default, which another pyproject.toml may change;
    but not what is shown, whether files are replaced, and where an earlier run goes on: a repeat begins anew.
    """
    recipe: dict[str, Any] = {"run": str(context.command.name)}
    values = {**context.params, **context.meta.get(HANDLED, {})}
    arguments_first = sorted(keys_of(context.command).items(), key=lambda each: isinstance(each[1], click.Option))
    for key, param in arguments_first:
        name = str(param.name)
        if name not in values or name in _OF_ONE_RUN or context.get_parameter_source(name) not in _GIVEN:
            continue
        if not (isinstance(param, click.Option) and param.secondary_opts):
            recipe[key] = plain(values[name])
        elif values[name] != (f"--{key}" in param.secondary_opts):
            recipe[key] = True
    return recipe
