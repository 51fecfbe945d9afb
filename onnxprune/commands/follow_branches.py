"""Branches of files that hold the same weights: which of one file is which of another, and which all of them can lose.

A branch is known by the weights that it alone reads. A file that has them twice, as a merged decoder does in the bodies
of its If, has the branch twice, and loses both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnxprune.dependency.branches import Branch, branches, branches_of_graphs
from onnxprune.dependency.trace import Trace
from onnxprune.graph.model import Model

Weights: TypeAlias = Mapping[bytes, int]  # how many numbers weights hold, by the digest of their contents


@dataclass(frozen=True)
class Owned:
    """A branch of the leading file, and the weights that it alone reads."""

    name: str
    weights: Weights


def owned(traced: Trace, digests: Mapping[str, bytes]) -> tuple[Owned, ...]:
    """Return the branches of the main graph of a file, in order.

    Args:
        traced: the file with its axes.
        digests: of the contents of its weights, by name; of those alone that tell them from others.
    """
    return tuple(Owned(each.name, _weights(traced.model, each, digests, alone=True)) for each in branches(traced))


@dataclass(frozen=True)
class Counterparts:
    """What branches of the leading file are in another one."""

    same: Mapping[str, tuple[Branch, ...]]  # by the name that they have in the leading file
    stay: frozenset[str]  # names of those that the other file cannot lose

    def of(self, names: Collection[str]) -> tuple[Branch, ...]:
        """Return the branches that go with some of the leading file, in the order of the nodes that add them."""
        gone = (branch for name in names for branch in self.same.get(name, ()))
        return tuple(sorted(gone, key=lambda branch: (branch.node, branch.slot)))


def counterparts(own: Sequence[Owned], traced: Trace, digests: Mapping[str, bytes]) -> Counterparts:
    """Return what branches of a leading file are in another file.

    Args:
        own: the branches of the leading file.
        traced: the other file with its axes.
        digests: of the contents of its weights, as of `owned`.
    """
    same: dict[str, list[Branch]] = {}
    stay, covered = set[str](), set[int]()
    for scope, found in branches_of_graphs(traced):
        left = {each.name: each.weights for each in own}
        for branch in found:
            name = _most_alike(left, _weights(traced.model, branch, digests))
            if name is None:
                continue
            del left[name]  # where layers share their weights, one after the other is the next that has them
            same.setdefault(name, []).append(branch)
            covered.update(inner for index in branch.nodes for inner in traced.model.within(index))
            if branch.locked is not None or not branch.macs:
                stay.add(name)
        read = {digests[name] for name in _names(traced.model, set(scope.nodes) - covered) if name in digests}
        stay.update(name for name, weights in left.items() if not read.isdisjoint(weights))
    return Counterparts({name: tuple(each) for name, each in same.items()}, frozenset(stay))


def _most_alike(known: Mapping[str, Weights], weights: Weights) -> str | None:
    """Return the name of the weights with which others share most numbers; None where they share none with any."""
    shared = {name: sum(count for digest, count in each.items() if digest in weights) for name, each in known.items()}
    best = max(shared, key=lambda name: shared[name], default=None)
    return best if best is not None and shared[best] else None


def _weights(model: Model, branch: Branch, digests: Mapping[str, bytes], *, alone: bool = False) -> Weights:
    """Return the weights that a branch reads; `alone` leaves out those that nodes read which do not go with it."""
    inside = {inner for index in branch.nodes for inner in model.within(index)}
    names = {name for name in _names(model, inside) if name in digests}
    if alone:
        names = {name for name in names if all(index in inside for index, slot in model.readers[name] if slot >= 0)}
    return {digests[name]: model.constants[name].count for name in names}


def _names(model: Model, nodes: Collection[int]) -> Iterator[str]:
    """Yield the names of the weights that nodes read themselves."""
    for index in nodes:
        yield from model.weights_of(index)
