"""Networks of a folder: the files of each, and which of them leads: the others are cut as it was.

The file with the most weights and no branches leads. Where each has its layers in the bodies of an If, as the only file
of a merged decoder does, no file tells layers one after the other. Then the body leads that texts run from their first
token on, as a model of its own (`graph.forms.straight`): it has the branches, and samples calibrate it. It is never
written. All files of the network follow it, that of the body too, in which both bodies lose the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from onnxprune.commands.folders.held import Held
from onnxprune.graph.forms.straight import begins_apart, begun
from onnxprune.graph.forms.tied import twins
from onnxprune.planning.options import Options


@dataclass(frozen=True, eq=False)
class Network:
    """The files of one network, the first of which leads."""

    files: tuple[Held, ...]
    by_body: bool = False  # whether the body of the first one that texts begin with leads, in its place

    @cached_property
    def lead(self) -> Held:
        """What leads."""
        return Held(begun(self.files[0].model)) if self.by_body else self.files[0]

    @property
    def followers(self) -> tuple[Held, ...]:
        """The files that are cut as what leads was."""
        return self.files if self.by_body else self.files[1:]


def networks_of(files: Sequence[Held], options: Options) -> list[Network]:
    """Return the networks of a folder; a body leads where branches of it go that all files are to lose.

    Args:
        files: all of the folder.
        options: of the run.
    """
    found = _sharing(files) if len(files) > 1 else [[*files]]  # of one, the weights are not read
    return [Network(tuple(each), _leads_by_body(each, options)) for each in found]


def _sharing(files: Sequence[Held]) -> list[list[Held]]:
    """Return the files of each network, which hold the same weights; the first of them leads."""
    found: list[list[Held]] = []
    for file in sorted(files, key=_last):
        own = next((each for each in found if each[0].holds_same(file)), None)
        found.append([file]) if own is None else own.append(file)
    return found


def _leads_by_body(files: Sequence[Held], options: Options) -> bool:
    """Whether the body of the first file leads: branches alone, and beside widths, can be followed."""
    if not options.shortens or options.beside_widths != "depth" or options.vocabulary is not None:
        return False
    if options.tie and any(twins(file.model) for file in files):
        return False
    return begins_apart(files[0].model)


def _last(file: Held) -> tuple[bool, int, str]:
    """Return what puts a file behind others."""
    return any(node.bodies for node in file.model.nodes), -sum(file.counts.values()), str(file.model.path)
