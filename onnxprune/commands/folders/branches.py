"""Branches that are named, in a folder of several networks: each network has those globs that mean some of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from onnxprune.dependency.branches import branches
from onnxprune.dependency.trace import trace
from onnxprune.errors import NothingToPrune, OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.shapes.probe import settled
from onnxprune.planning.branches.removal import named
from onnxprune.planning.options import AUTO, Options

_NAMING = ("without", "linearize")  # options that name branches
Globs: TypeAlias = Mapping[str, tuple[str, ...]]  # by option


def own_globs(leads: Mapping[str, Model], options: Options) -> dict[str, Globs]:
    """Return the globs of branches that mean some of each network, by the name of the file that leads it.

    Nothing is traced where there is one network, or no glob.

    Args:
        leads: what leads each network, by the name of its file.
        options: of the run.

    Raises:
        OptionError: for a glob that means no branch of any of them.
    """
    globs: dict[str, tuple[str, ...]] = {option: getattr(options, option) for option in _NAMING}
    if len(leads) < 2 or not any(globs.values()):
        return dict.fromkeys(leads, globs)
    meant = {name: _meant(model, options, globs) for name, model in leads.items()}
    for option, glob in ((option, glob) for option, each in globs.items() for glob in each):
        refusals = [found[option, glob] for found in meant.values()]
        if None not in refusals:
            raise OptionError(f"{next(iter(leads))}: {refusals[0]}; nor in the other networks of the folder")
    return {
        name: {option: tuple(glob for glob in each if found[option, glob] is None) for option, each in globs.items()}
        for name, found in meant.items()
    }


def _meant(model: Model, options: Options, globs: Globs) -> dict[tuple[str, str], str | None]:
    """Return why a glob of an option means no branch of a network; None where it means one."""
    seen = replace(settled(model), changes_io=options.change_io)
    found = branches(trace(seen))
    reasons: dict[tuple[str, str], str | None] = {}
    for option, glob in ((option, glob) for option, each in globs.items() for glob in each):
        reasons[option, glob] = None
        try:
            named(seen, found, () if glob == AUTO else (glob,), option)
        except OptionError as error:
            reasons[option, glob] = str(error)
    return reasons


def with_own_globs(options: Options, globs: Globs) -> Options:
    """Return options with the globs of one network.

    Raises:
        NothingToPrune: where branches alone were to go, and none of them is its own.
    """
    without, linearize = (globs.get(name, getattr(options, name)) for name in _NAMING)
    own = replace(options, without=without, linearize=linearize)
    if options.shortens and not (own.shortens or own.cuts_widths or own.vocabulary is not None):
        raise NothingToPrune("nothing to remove: the branches that are named are of another network")
    return own
