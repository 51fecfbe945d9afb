"""Copies: weights of the leading file that hold the same numbers, and become different ones where layers are refitted.

What another file has of them becomes what they became, where something tells which is which. The same name does, where
no graph of the file reads it in more places than the leading file does. Where nothing tells, copies have to stay alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from onnxprune.commands.folders.held import Digest, Held
from onnxprune.commands.folders.settle import PrunedFile
from onnxprune.graph.model import Model
from onnxprune.graph.scopes import scopes
from onnxprune.recovery.refit import COPIED
from onnxprune.report.words import plural


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
    return frozenset(
        digest
        for name, digest in other.digests.items()
        if alike[digest] > 1 and there[name] and not (lead.digests.get(name) == digest and there[name] <= reads[name])
    )


def _reads(model: Model) -> Counter[str]:
    """Return in how many places a graph reads each value, the one that reads it most."""
    most = Counter[str]()
    for scope in scopes(model):
        most |= Counter(name for index in scope.nodes for name in model.nodes[index].inputs if name)
    return most
