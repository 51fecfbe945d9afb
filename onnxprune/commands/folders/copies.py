"""Copies: weights of the leading file that hold the same numbers, and become different ones where layers are refitted.

What another file has of them becomes what they became, where something tells which is which. The same name does, where
no graph of the file reads it in more places than the leading file does, and nothing speaks against it: exporters number
what has no name, and the same number may be another layer's. So weights that have no copies are looked for, from where
each is read towards the inputs; those that are met first must not all be others. Where nothing tells, copies have to
stay alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from onnxprune.commands.folders.held import Digest, Held
from onnxprune.commands.folders.settle import PrunedFile
from onnxprune.graph.model import Model
from onnxprune.graph.scopes import scopes
from onnxprune.recovery.refit import COPIED
from onnxprune.report.words import plural

_STEPS = 16  # nodes, from where a weight is read to those that tell it from its copies, at most


def copies(lead: Held, others: Sequence[Held]) -> tuple[str, ...]:
    """Return the names of the weights of a leading file that have to stay alike, since some other file has copies."""
    kept = frozenset().union(*(untold(lead, other) for other in others))
    return tuple(name for name, digest in lead.digests.items() if digest in kept)


def told_of_copies(files: Sequence[PrunedFile]) -> Iterator[str]:
    """Yield a sentence on each file some of whose layers are not refitted since others have copies of their weights."""
    for file in files:
        fits = [] if file.report is None else file.report["reconstruction"]
        layers = [fit["node"] for fit in fits if fit["why_not"] == COPIED]
        if layers:
            are = "is" if len(layers) == 1 else "are"
            yield f"{file.name}: {plural(len(layers), 'layer')} {are} not refitted, such as {layers[0]!r}: {COPIED}"


def untold(lead: Held, other: Held) -> frozenset[Digest]:
    """Return what several weights of a leading file hold, and a weight of another one of which nothing tells which."""
    reads, there = _reads(lead.model), _reads(other.model)
    alike = Counter(digest for name, digest in lead.digests.items() if reads[name])
    alone = frozenset(digest for digest in lead.telling.values() if alike[digest] == 1)
    before, behind = _Ways(lead, alone), _Ways(other, alone)

    def is_told(name: str, digest: Digest) -> bool:
        if lead.digests.get(name) != digest or there[name] > reads[name]:
            return False
        one, same = before.nearest(name), behind.nearest(name)
        return not one or not same or not one.isdisjoint(same)

    copied = [(name, digest) for name, digest in other.digests.items() if alike[digest] > 1 and there[name]]
    not_told = frozenset(digest for name, digest in copied if not is_told(name, digest))
    names: dict[Digest, list[str]] = {}
    for name, digest in copied:
        names.setdefault(digest, []).append(name)
    orders = ((digest, _in_order(lead.model, each), _in_order(other.model, each)) for digest, each in names.items())
    return not_told | {digest for digest, one, same in orders if one != same}


def _in_order(model: Model, names: Sequence[str]) -> list[str]:
    """Return names in the order in which nodes read them first; those that none does come first."""
    first = {name: [place for place in model.readers.get(name, ()) if place[1] >= 0] for name in names}
    return sorted(names, key=lambda name: min(first[name], default=(-1, -1)))


class _Ways:
    """The ways from the places where weights of a file are read towards its inputs."""

    def __init__(self, held: Held, alone: Collection[Digest]) -> None:
        """Note which node makes each value; `alone` is what weights hold that have no copies."""
        self._held, self._alone = held, alone
        self._makers = {name: node.index for node in held.model.nodes for name in node.outputs if name}

    def nearest(self, name: str) -> frozenset[Digest]:
        """Return what those weights without copies hold that are met first from where a weight is read, if any."""
        model, digests = self._held.model, self._held.digests
        nodes = {index for index, slot in model.readers.get(name, ()) if slot >= 0}
        seen = set[int]()
        for _ in range(_STEPS):
            met = {digests[each] for index in nodes for each in model.weights_of(index)}
            if not met.isdisjoint(self._alone):
                return frozenset(met.intersection(self._alone))
            seen |= nodes
            made = (self._makers.get(each) for index in nodes for each in model.nodes[index].inputs)
            nodes = {index for index in made if index is not None} - seen
        return frozenset()


def _reads(model: Model) -> Counter[str]:
    """Return in how many places a graph reads each value, the one that reads it most."""
    most = Counter[str]()
    for scope in scopes(model):
        most |= Counter(name for index in scope.nodes for name in model.nodes[index].inputs if name)
    return most
