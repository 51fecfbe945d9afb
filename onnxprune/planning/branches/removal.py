"""Which branches may go, by the globs of the options; and why the others may not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from onnxprune.dependency.branches import Branch
from onnxprune.errors import OptionError
from onnxprune.graph.model import Model
from onnxprune.planning.choice import is_named
from onnxprune.planning.options import Options

_HELD = "another file or body of the same network cannot lose it, or is not proven to lose the same"
_LISTED = 3  # names of branches in a message


def may_go(model: Model, found: Sequence[Branch], options: Options) -> tuple[list[Branch], dict[str, str]]:
    """Return the branches that may go under these options, in order, and why the others may not, by name.

    A glob of `ignore` means the branches with a node or weight of this name, and so does one of `only`: where that
    means some, the others stay.
    """
    reasons = {branch.name: branch.locked for branch in found if branch.locked is not None}
    names = {branch.name: set(_names(model, branch)) for branch in found}
    only = {name for name, own in names.items() if any(_meant(own, glob) for glob in options.only)}
    for branch in found:
        if branch.name in reasons:
            continue
        if branch.name in options.held_branches:
            reasons[branch.name] = _HELD
        elif any(_meant(names[branch.name], glob) for glob in options.ignore):
            reasons[branch.name] = "left out by --ignore"
        elif only and branch.name not in only:
            reasons[branch.name] = "left out by --only"
        elif branch.macs == 0:
            reasons[branch.name] = "others need all that it computes"
    return [branch for branch in found if branch.name not in reasons], reasons


def named(model: Model, found: Sequence[Branch], globs: Sequence[str], option: str = "without") -> set[str]:
    """Return the names of the branches that globs of an option mean: those in which one means each weight.

    Raises:
        OptionError: for a glob that means none.
    """
    gone: set[str] = set()
    for glob in globs:
        meant = {branch.name for branch in found if _is_inside(model, branch, glob)}
        if not meant:
            listed = ", ".join(repr(branch.name) for branch in found[:_LISTED])
            more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            there = f"branches are {listed}{more}" if found else "the model has no branches"
            raise OptionError(f"{option} {glob!r}: no branch has this name, or layers of such names alone; {there}")
        gone |= meant
    return gone


def _is_inside(model: Model, branch: Branch, glob: str) -> bool:
    """Whether a glob means a branch: its name, or that of each node with weights in it."""
    layers = [model.nodes[index] for index in branch.nodes if model.weights_of(index)]
    named = [any(_match(name, glob) for name in (node.name, *model.weights_of(node.index))) for node in layers]
    return _match(branch.name, glob) or (bool(named) and all(named))


def _names(model: Model, branch: Branch) -> Iterator[str]:
    """Yield the name of a branch, and those of its nodes and weights."""
    yield branch.name
    for index in branch.nodes:
        yield model.nodes[index].name
        yield from model.weights_of(index)


def _meant(names: set[str], glob: str) -> bool:
    return any(_match(name, glob) for name in names)


def _match(name: str, glob: str) -> bool:
    """Whether a name is the glob, or matches it; brackets may stand for themselves, or list characters."""
    return is_named(name, glob) or fnmatchcase(name, glob)
