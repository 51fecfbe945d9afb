"""The command ``onnxprune``: a group whose default command is `prune`."""

from __future__ import annotations

import difflib
import itertools
from pathlib import Path
from typing import Any

import click

from onnxprune._version import __version__
from onnxprune.cli.defaults import defaults
from onnxprune.cli.failing import DEFAULTS, NO_DEFAULTS, failing
from onnxprune.cli.screen import readers_may_leave
from onnxprune.errors import InputError
from onnxprune.training.tuning.processes import check_alone

_HELP = frozenset({"-h", "--help"})
_CONTEXT = {"help_option_names": sorted(_HELP), "max_content_width": 100}


class _Commands(click.Group):
    """A group whose default command is `prune`, and whose usage errors are short."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; say in one line what is wrong with its options."""
        try:
            with failing(), readers_may_leave():  # of the help of a command
                return super().invoke(ctx)
        except click.UsageError as error:
            message = " ".join(error.format_message().split()).rstrip(".")
            click.echo(f"onnxprune: {message}; see '{(error.ctx or ctx).command_path} --help'", err=True)
            ctx.exit(error.exit_code)
        return None

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments; where nobody reads the help that they ask for, that is all."""
        with failing(), readers_may_leave():
            return super().make_context(*args, **kwargs)
        raise click.exceptions.Exit(0)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            meant = difflib.get_close_matches(args[0], self.commands, 1)
            if meant and not Path(args[0]).exists():
                raise click.UsageError(f"No file or command {args[0]!r}, did you mean {meant[0]!r}?", ctx)
            args = ["prune", *args]
        if not (ctx.resilient_parsing or ctx.params["no_defaults"]):
            self._take_defaults(ctx, args)
        return super().resolve_command(ctx, args)

    def _take_defaults(self, ctx: click.Context, args: list[str]) -> None:
        """Let options that nobody gives, nor the caller in `default_map`, be as a pyproject.toml has them."""
        try:
            known, given = defaults(self.commands, Path.cwd()), ctx.default_map or {}
        except InputError:
            if _HELP.isdisjoint(args):
                raise
            return  # help needs none
        ctx.meta[DEFAULTS] = {name for name in known.get(args[0], {}) if name not in given.get(args[0], {})}
        ctx.default_map = {name: {**known.get(name, {}), **given.get(name, {})} for name in {*known, *given}}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let options of `prune` stand in front of the input."""
        ours = [*itertools.takewhile({*_HELP, "--version", NO_DEFAULTS}.__contains__, args)]
        rest = args[len(ours) :]
        if rest and rest[0].startswith("-"):
            rest = ["prune", *rest]
        return super().parse_args(ctx, [*ours, *rest])


_EXIT_CODES = (
    "Exit codes: 0 done; 1 a check or bound was missed; 2 bad input, or too little memory; 3 nothing to prune; 4 a "
    "fault of onnxprune, which COMMAND --debug shows."
)


@click.group(cls=_Commands, context_settings=_CONTEXT, epilog=_EXIT_CODES)
@click.version_option(__version__, prog_name="onnxprune")
@click.option(NO_DEFAULTS, is_flag=True, help="Take no defaults from a pyproject.toml.")
@click.pass_context
def cli(context: click.Context, no_defaults: bool) -> None:  # no_defaults: read by `resolve_command`
    """Make a trained ONNX model smaller and faster by removing whole channels, heads and neurons.

    \b
    onnxprune model.onnx --ratio 0.3 -o small.onnx      prune (the default command)
    onnxprune compare model.onnx small.onnx             measure both side by side
    onnxprune inspect model.onnx                        what can be pruned, and what cannot
    onnxprune sensitivity model.onnx --data d.npz       what each group costs that loses units
    onnxprune sweep model.onnx --macs 0.8,0.6 -o out/   several targets from one calibration
    onnxprune report small.json -o small.html           a page of a report
    onnxprune plan model.onnx --ratio 0.3 -o plan.toml  what would be cut, as a file to edit
    onnxprune apply plan.toml model.onnx -o small.onnx  cut it
    onnxprune quantize model.onnx -o int8.onnx          eight bits
    onnxprune tune small.onnx --teacher model.onnx --data d.npz --time 20m -o tuned.onnx
    onnxprune run recipe.toml                           several steps from a file

    'onnxprune prune --help' lists the options of the default command.
    """  # noqa: D301 - click keeps paragraphs behind a backspace as they are
    if context.invoked_subcommand not in (None, "tune"):
        check_alone(str(context.invoked_subcommand))
