"""``onnxprune run``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from onnxprune.cli.failing import NO_DEFAULTS, failing
from onnxprune.cli.group import cli
from onnxprune.cli.options import DEBUG, PATH, QUIET
from onnxprune.cli.recipe import named_values
from onnxprune.cli.screen import say
from onnxprune.commands.run import Step, read_recipe
from onnxprune.errors import OptionError


@cli.command()
@click.argument("recipe", metavar="RECIPE.toml", type=PATH)
@QUIET
@DEBUG
def run(recipe: Path, quiet: bool) -> None:
    """Run the steps of RECIPE.toml in order, until one fails.

    A step is a table [[step]]: its command under run, options under their names, arguments under source, before, after,
    plan. Paths are relative to the folder of the file.
    """
    with failing():
        steps = read_recipe(recipe, {name: command for name, command in cli.commands.items() if name != "run"})
        calls = [_call(step) for step in steps]  # all of them are checked before the first one runs
        ahead = [NO_DEFAULTS] if click.get_current_context().find_root().params["no_defaults"] else []
        with contextlib.chdir(recipe.parent):
            for number, (step, (arguments, options)) in enumerate(zip(steps, calls, strict=True), 1):
                if not quiet:
                    say(f"step {number} of {len(steps)}: {step.command}")
                code = _run([*ahead, step.command, "--", *arguments], {step.command: options})
                if code:
                    say(f"{step.place} ended with exit code {code}")
                    sys.exit(code)


def _call(step: Step) -> tuple[list[str], dict[str, object]]:
    """Return the arguments of a step, and its options by the names of parameters.

    Raises:
        OptionError: for a key that is not known, and an argument that is missing.
    """
    command = cli.commands[step.command]
    values = named_values(command, step.values, step.place)
    arguments = []
    for param in command.params:
        if isinstance(param, click.Argument):
            if param.name not in values:
                raise OptionError(f"{step.place}: needs {param.name}, which is {param.make_metavar(_context(command))}")
            arguments.append(str(values.pop(param.name)))
    return arguments, values


def _context(command: click.Command) -> click.Context:
    return click.Context(command)


def _run(arguments: list[str], options: dict[str, dict[str, object]]) -> int:
    """Run a command as if it had been typed, with its options by its name; return its exit code."""
    try:
        code = cli.main(arguments, "onnxprune", standalone_mode=False, default_map=options)
    except SystemExit as end:
        code = end.code
    return code if isinstance(code, int) else 0
