"""Branches of files that hold the same weights: which of one file is which of another, and which all of them can lose.

A branch is known by the weights that it alone reads. A file that has them twice, as a merged decoder does in the bodies
of its If, has the branch twice, and loses both. Each file is proven to equal what it is without what it loses, which
says nothing of the others: where weights do not tell for sure that they lose the same, the branch stays in all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from onnxprune.commands.folders.handing import parts, ports_of
from onnxprune.dependency.branches import Branch, branches, branches_of_graphs
from onnxprune.dependency.trace import Trace
from onnxprune.errors import InputError
from onnxprune.graph.dims import past_keys
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port, Role
from onnxprune.graph.scopes import Scope

Digests: TypeAlias = Mapping[str, bytes]  # of the contents of weights, by name


@dataclass(frozen=True)
class Owned:
    """A branch of the leading file, and the contents of its weights."""

    name: str
    weights: frozenset[bytes]  # that nothing else in the file reads: they tell the branch from others
    read: frozenset[bytes]  # all
    parts: frozenset[str] = frozenset()  # of caches that files hand to one another, that go with it


def owned(traced: Trace, digests: Digests) -> tuple[Owned, ...]:
    """Return the branches of the main graph of a file, in order.

    Args:
        traced: the file with its axes.
        digests: of the contents of its weights, by name; of those alone that tell them from others.
    """
    readers: dict[bytes, set[int]] = {}
    for name, digest in digests.items():
        readers.setdefault(digest, set()).update(at for at, _ in traced.model.readers.get(name, ()))
    found = list[Owned]()
    for branch in branches(traced):
        inside = _inside(traced.model, branch)
        read = frozenset(_read(traced.model, inside, digests))
        telling = frozenset(digest for digest in read if readers[digest] <= inside)
        found.append(Owned(branch.name, telling, read, parts(traced.model, branch.ports)))
    return tuple(found)


@dataclass(frozen=True)
class Counterparts:
    """What branches of the leading file are in another one."""

    same: Mapping[str, tuple[Branch, ...]]  # by the name that they have in the leading file
    stay: frozenset[str]  # names of those that the other file cannot lose, or not for sure

    def of(self, names: Collection[str]) -> tuple[Branch, ...]:
        """Return the branches that go with some of the leading file, in the order of the nodes that add them.

        Raises:
            InputError: when one of them stays.
        """
        for name in names:
            if name in self.stay:
                raise _other_loss(name)
        gone = (branch for name in names for branch in self.same.get(name, ()))
        return tuple(sorted(gone, key=lambda branch: (branch.node, branch.slot)))


def counterparts(
    own: Sequence[Owned], traced: Trace, digests: Digests, *, known: Collection[bytes], ports: Sequence[Port]
) -> Counterparts:
    """Return what branches of a leading file are in another file.

    A branch stays where its weights do not tell it from others in the leading file, and where a graph of the other file
    has it in another form: it reads weights of it outside of such a branch, or has none such beside a branch or
    matrices that are none of the leading file. So it does where other parts of caches would go with it.

    Args:
        own: the branches of the leading file.
        traced: the other file with its axes.
        digests: of the contents of its weights, as of `owned`.
        known: the digests of all weights of the leading file.
        ports: the inputs of the other file, as proofs feed them.
    """
    search = _Search(own, traced.model, digests, frozenset(known), ports)
    for scope, found in branches_of_graphs(traced):
        search.look_into(scope, found)
    search.stay.update(each.name for each in own if not each.weights or not search.loses_same(each))
    return Counterparts({name: tuple(each) for name, each in search.same.items()}, frozenset(search.stay))


@dataclass(frozen=True)
class _Search:
    """Goes through the graphs of a file."""

    own: Sequence[Owned]
    model: Model
    digests: Digests
    known: frozenset[bytes]
    ports: Sequence[Port]
    same: dict[str, list[Branch]] = field(default_factory=dict)
    stay: set[str] = field(default_factory=set)
    covered: dict[str, set[int]] = field(default_factory=dict)  # by the name of a branch: nodes of those that are it

    def look_into(self, scope: Scope, found: Sequence[Branch]) -> None:
        """Find the branches of the leading file among those of one graph."""
        here, has_others = set[str](), False
        is_proven = _runs_in_proofs(self.model, scope, self.ports)
        for branch in found:
            inside = _inside(self.model, branch)
            each = self._owned_by(inside)
            if each is None:
                has_others = True
            elif inside <= self.covered.get(each.name, set()):  # in a body of itself
                continue
            else:
                if each.name in here or not self._is_all_of(inside, each) or not is_proven or branch.locked is not None:
                    self.stay.add(each.name)
                here.add(each.name)
                self.same.setdefault(each.name, []).append(branch)
                self.covered.setdefault(each.name, set()).update(inside)
        self._keep_others(scope, here, has_others)

    def loses_same(self, each: Owned) -> bool:
        """Whether the same parts of caches go from the file as from the leading one, and wherever it has them."""
        lost = {name for branch in self.same.get(each.name, ()) for name in branch.ports}
        return lost & self.model.handed_on == ports_of(self.model, each.parts)

    def _owned_by(self, inside: Collection[int]) -> Owned | None:
        """Return the smallest branch of the leading file that has all that tells nodes from those of others."""
        telling = frozenset().union(*(each.weights for each in self.own)) & _read(self.model, inside, self.digests)
        having = (each for each in self.own if telling <= each.weights)
        return min(having, key=lambda each: len(each.weights), default=None) if telling else None

    def _is_all_of(self, inside: Collection[int], each: Owned) -> bool:
        """Whether nodes read no weight but those of a branch of the leading file."""
        return _read(self.model, inside, self.digests) <= each.read

    def _keep_others(self, scope: Scope, here: Collection[str], has_others: bool) -> None:
        """Let branches stay that one graph has, but not as a branch that is the same."""
        within = frozenset().union(*self.covered.values())
        left = set(scope.nodes) - within
        has_others = bool(left) and (has_others or self._reads_matrices_of_its_own(left))
        for each in self.own:
            outside = set(scope.nodes) - self.covered.get(each.name, set())
            is_missing = each.name not in here and has_others
            if is_missing or each.weights & _read(self.model, outside, self.digests):
                self.stay.add(each.name)

    def _reads_matrices_of_its_own(self, nodes: Iterable[int]) -> bool:
        """Whether nodes read matrices that the leading file has not, or in another form."""
        names = (name for name in _names(self.model, nodes) if name in self.digests)
        return any(len(self.model.constants[name].shape) > 1 and self.digests[name] not in self.known for name in names)


def check_lost(
    own: Sequence[Owned], gone: Collection[str], before: Collection[bytes], after: Collection[bytes]
) -> None:
    """Raise InputError where a file without branches lacks weights of others, or has some of theirs.

    Args:
        own: the branches of the leading file.
        gone: names of those that went.
        before: the contents of what is read in the file.
        after: the same, when the branches are gone.
    """
    went = {each.name: each.weights for each in own if each.name in gone}
    lost = frozenset(before) - frozenset(after)
    for name, weights in went.items():
        if not weights.isdisjoint(after):
            raise _other_loss(name)
    for each in own:
        if lost & each.weights - frozenset().union(*went.values()):
            raise _other_loss(each.name)


def check_ports(own: Sequence[Owned], gone: Collection[str], before: Model, after: Model) -> None:
    """Raise InputError where a file without branches takes or gives a cache of them, or lacks one of others.

    Args:
        own: the branches of the leading file.
        gone: names of those that went.
        before: the file, with what it hands on.
        after: the same, when the branches are gone.
    """
    left = {port.name for port in (*after.inputs, *after.outputs)}
    for each in own:
        ports = ports_of(before, each.parts)
        if not (ports.isdisjoint(left) if each.name in gone else ports <= left):
            raise _other_loss(each.name)


def _other_loss(name: str) -> InputError:
    return InputError(
        f"what goes with branch {name!r} of the file that leads cannot go here alone; prune the files one by one"
    )


def _runs_in_proofs(model: Model, scope: Scope, ports: Sequence[Port]) -> bool:
    """Whether proofs run a graph: the main one, and both bodies of an If there whose condition is an input.

    Proofs feed conditions both ways, all alike: what is computed from several may never hold. One that asks for the
    past is fed as the caches are, and only where their length is open both ways.
    """
    if scope.nodes == model.top:
        return True
    holder = next(node for node in model.nodes if any(body.nodes == scope.nodes for body in node.bodies))
    if holder.op != "If" or holder.index not in model.top:
        return False
    conditions = [port for port in ports if port.name == holder.inputs[0]]
    return any(port.role is not Role.BRANCH or past_keys(ports) for port in conditions)


def _inside(model: Model, branch: Branch) -> set[int]:
    """Return the nodes that go with a branch, at any depth."""
    return {inner for index in branch.nodes for inner in model.within(index)}


def _read(model: Model, nodes: Iterable[int], digests: Digests) -> set[bytes]:
    """Return the contents of the weights that nodes read themselves."""
    return {digests[name] for name in _names(model, nodes) if name in digests}


def _names(model: Model, nodes: Iterable[int]) -> Iterator[str]:
    """Yield the names of the weights that nodes read themselves."""
    for index in nodes:
        yield from model.weights_of(index)
