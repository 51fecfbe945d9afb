"""Files that hold the same weights, cut alike: one leads, the others follow it by the contents of their weights.

Whole branches go first, those that hold the weights of the leading file's (see `commands.folders.follow_branches`).

Exporters write one decoder into several files: for the first token, for those behind it, for both. Their weights have
other names in each, but the same numbers. What follows loses what the leading file has lost of each weight, and takes
the numbers that its weights were refitted to. Where several weights held the same numbers (biases of zero) and became
different ones, those of the same name are taken; where nothing tells which is which, they keep their numbers (see
`commands.folders.copies`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxprune.commands.folders.copies import copies, untold
from onnxprune.commands.folders.follow_branches import (
    Counterparts,
    Owned,
    check_lost,
    check_ports,
    counterparts,
    owned,
)
from onnxprune.commands.folders.handing import handed_on
from onnxprune.commands.folders.held import Digest, Held
from onnxprune.commands.steps.finish import Publish, finish, with_report
from onnxprune.commands.steps.prepare import PreparedModel, prepare
from onnxprune.commands.ways.shorten import Shorter, left_of, told_of_whole
from onnxprune.data.samples import with_shapes
from onnxprune.dependency.branches import Branch, branches_of_graphs, nodes_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.groups import Group, groups
from onnxprune.dependency.trace import Trace, trace
from onnxprune.errors import InputError
from onnxprune.graph.model import Model
from onnxprune.graph.shapes.probe import settled
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view
from onnxprune.planning.branches.depth import Shortening
from onnxprune.planning.choice import why_not
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Plan
from onnxprune.planning.promise import Decision
from onnxprune.progress import Progress
from onnxprune.report.depth import depth_values
from onnxprune.surgery.depth import without
from onnxprune.surgery.rewrite import Cut

Place: TypeAlias = tuple[Digest, int, bytes]  # of units: a weight, one of its dims, and the indices of each unit there
Axes: TypeAlias = Mapping[int, tuple[int, ...]]  # of each dim that lost something: the indices that are left


@dataclass(frozen=True, eq=False)
class Became:
    """What became of one weight, or of one of its copies: where its uses differ, it is stored once for each."""

    name: str  # in the leading file
    kept: Axes
    content: Array


@dataclass(frozen=True)
class Lead:
    """What became of the weights of a file, by what they held."""

    became: Mapping[Digest, Sequence[Became]]
    file: Held  # as it was
    branches: tuple[Owned, ...] = ()  # of the file, where some of them may go
    gone: tuple[str, ...] = ()  # the names of those that went
    handed_on: tuple[str, ...] = ()  # inputs and outputs by which files of the network hand caches to one another
    depth: Mapping[str, Any] | None = None  # what its report says of branches

    @property
    def is_narrower(self) -> bool:
        """Whether any weight lost some of its numbers, but not all."""
        return any(each.kept for alike in self.became.values() for each in alike)

    def kept(self, name: str, digest: Digest | None, dim: int, is_told: bool) -> set[tuple[int, ...] | None]:
        """Return the indices of a dim that are left, None for all: several where weights that held the same differ.

        Arguments as of `content`.
        """
        alike = self._known(digest)
        return {each.kept.get(dim) for each in [each for each in alike if is_told and each.name == name] or alike}

    def content(self, name: str, digest: Digest | None, kept: Axes, is_told: bool) -> Array | None:
        """Return what a weight of another file holds that is cut like this; None where the leading one has none such.

        Args:
            name: of the weight.
            digest: of what it held.
            kept: the indices that are left.
            is_told: whether its name tells which it is of those that held the same.

        Raises:
            InputError: when there are several, and no name tells which.
        """
        alike = [each for each in self._known(digest) if dict(each.kept) == dict(kept)]
        found = [each for each in alike if is_told and each.name == name] or alike
        if not found:
            return None
        if not all(np.array_equal(each.content, found[0].content) for each in found[1:]):
            others = " and ".join(repr(each.name) for each in found[:2])
            raise InputError(
                f"weight {name!r} holds what {others} held in the file that leads, which became different ones; prune "
                "without what changes them (--method laco, --tune, --masks), or the files one by one"
            )
        return found[0].content

    def _known(self, digest: Digest | None) -> Sequence[Became]:
        return () if digest is None else self.became.get(digest, ())


def lead_of(original: Held, known: Uncut, proto: Any, folder: Path, report: Mapping[str, Any]) -> Lead:
    """Return what became of the weights and branches of a file that was pruned.

    Args:
        original: the file.
        known: what it has in common with those that follow.
        proto: the pruned model.
        folder: where its external data lies.
        report: of the run.
    """
    depth = report["depth"]
    gone = tuple(branch["name"] for branch in (depth or {"branches": ()})["branches"] if branch["removed"])
    return Lead(_became(original, proto, folder, report), original, known.owned, gone, known.handed_on, depth)


def _became(original: Held, proto: Any, folder: Path, report: Mapping[str, Any]) -> dict[Digest, list[Became]]:
    known, after = original.digests, view(proto, folder=folder)
    cuts = {name: (each["source"], each["kept"]) for name, each in report["initializers"].items()}
    became: dict[Digest, list[Became]] = {}
    for name in (name for name in after.constants if after.readers.get(name)):  # what nothing reads is not cut
        source, axes = cuts.get(name, (name, {}))
        if source in known:
            kept = {int(dim): tuple(places) for dim, places in axes.items()}
            became.setdefault(known[source], []).append(Became(source, kept, after.array(name)))
    return became


def _traced(model: Model, options: Options) -> Trace:
    return trace(replace(settled(model), changes_io=options.change_io, handed_on=frozenset(options.handed_on)))


@dataclass(frozen=True)
class Uncut:
    """What of a leading file some other file of the network cannot lose."""

    groups: tuple[str, ...]  # names of those whose units stay
    branches: tuple[str, ...]  # names of those that stay
    owned: tuple[Owned, ...]  # all branches of the file; none where none may go
    copies: tuple[str, ...]  # names of weights that other files have in copies, and nothing tells which is which
    handed_on: tuple[str, ...] = ()  # inputs and outputs by which files of the network hand caches to one another

    def kept_by(self, options: Options) -> Options:
        """Return options by which all of this stays, and copies keep their numbers."""
        return replace(
            options, held=self.groups, held_branches=self.branches, copies=self.copies, handed_on=self.handed_on
        )


def uncut(lead: Held, followers: Sequence[Held], options: Options) -> Uncut:
    """Return what of a leading file some other file cannot lose.

    Args:
        lead: the leading file.
        followers: the others.
        options: of the run.
    """
    held, stay = set[str](), set[str]()
    options = replace(options, handed_on=handed_on([each.model for each in (lead, *followers)]))
    traced = _traced(lead.model, options)
    own, known = groups(traced), owned(traced, lead.telling) if options.shortens else ()
    contents = frozenset(lead.telling.values())
    for follower in followers:
        touched, free = set[tuple[Digest, int]](), set[Place]()
        other, not_told = _traced(follower.model, options), untold(lead, follower)
        ports = with_shapes(follower.model.inputs, dict(shapes_of(follower.model, options)))
        stay |= counterparts(known, other, follower.telling, known=contents, ports=ports).stay
        for group in groups(other):
            places = {*_places(group, follower.telling)}
            touched.update(place[:2] for place in places)
            is_known = any(place[0] not in not_told for place in places)
            free.update(places if is_known and group.locked is None and group.inexact is None else ())
        held.update(
            group.name
            for group in own
            if any(place[:2] in touched and place not in free for place in _places(group, lead.telling))
        )
    whole = tuple(group.name for group in own if group.name in held)
    stays = tuple(each.name for each in known if each.name in stay)
    return Uncut(whole, stays, known, copies(lead, followers), options.handed_on)


def _places(group: Group, telling: Mapping[str, Digest]) -> Iterator[Place]:
    """Yield where the units of a group lie: the weight by its digest, the dim, and the indices of each unit there."""
    for member in group.members:
        if member.constant in telling:
            yield telling[member.constant], member.dim, member.places.tobytes()


def follow(
    file: Held, lead: Lead, options: Options, publish: Publish, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """Return a file that is cut as the leading one was, an onnx.ModelProto, and its report, when both are published.

    Args:
        file: that follows.
        lead: what became of the weights.
        options: of the run: of measuring and of inputs.
        publish: writes the model.
        progress: called before each step.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`; InputError also when a weight cannot become what it
            became in the leading file.
    """
    options = replace(options, handed_on=lead.handed_on)
    prepared, not_told = prepare(file.model, _plain(options, file.model), None, progress), untold(lead.file, file)
    same = _counterparts(file, prepared, lead) if lead.gone else Counterparts({}, frozenset())
    gone = same.of(lead.gone)
    if lead.is_narrower and not gone:
        return _narrowed(file, prepared, lead, not_told, publish=publish, progress=progress)
    shorter = _shorter(prepared, chosen_as(lead.depth, same, gone), options)
    after = view(shorter.shortened.rewritten.proto, folder=file.model.folder)
    _check_shorter(file, prepared.traced.model, after, lead)
    if not lead.is_narrower:
        contents = dict(_contents({}, after, file, lead, not_told))
        told = partial(with_report, publish, lambda report: report.update(depth=shorter.values))
        return finish(
            prepared, Decision(Plan({})), shorter.shortened.rewritten, recovery=(contents, []), progress=progress,
            publish=told if lead.gone else publish, shortened=shorter.shortened,
        )  # fmt: skip
    left = left_of(prepared, shorter, progress)
    later, told = Held(left.model), partial(with_report, publish, told_of_whole(prepared, shorter, left, progress))
    of_later = prepare(later.model, _plain(options, later.model), None, progress)
    return _narrowed(later, of_later, lead, not_told, publish=told, progress=progress, original=file.model)


def _counterparts(file: Held, prepared: PreparedModel, lead: Lead) -> Counterparts:
    """Return what branches of the leading file are in another one."""
    return counterparts(
        lead.branches, prepared.traced, file.telling, known=frozenset(lead.file.telling.values()), ports=prepared.ports
    )


def chosen_as(depth: Mapping[str, Any] | None, same: Counterparts, gone: Sequence[Branch]) -> Shortening:
    """Return the choice of branches that go, with what was measured of those in the leading file that they are.

    Args:
        depth: what the report of the leading file says of its branches; None where none could go.
        same: what they are in this file.
        gone: the branches of this file that go.
    """
    choice = Shortening(tuple(gone))
    if depth is None:
        return choice
    alike = [(each, branch.name) for each in depth["branches"] for branch in same.same.get(each["name"], ())]
    losses, scores = ({name: each[key] for each, name in alike if each[key] is not None} for key in ("loss", "score"))
    return replace(choice, alone=losses, scores=scores, measured=depth["measured"])


def _check_shorter(file: Held, before: Model, after: Model, lead: Lead) -> None:
    """Raise InputError where a file without branches has lost other weights or caches than the leading one has."""
    read = [
        {file.telling[name] for name in model.constants if name in file.telling and model.readers.get(name)}
        for model in (file.model, after)
    ]
    check_lost(lead.branches, lead.gone, *read)
    check_ports(lead.branches, lead.gone, before, after)


def _plain(options: Options, model: Model) -> Options:
    """Return options of a file that follows: nothing is chosen there."""
    return Options(
        criterion="l2", scope="group", reconstruct=False, batch_norm=False, provider=options.provider,
        threads=options.threads, batch=options.batch, latency=options.latency, seed=options.seed,
        change_io=options.change_io, handed_on=options.handed_on, timer=options.timer,
        timer_seconds=options.timer_seconds, inputs=shapes_of(model, options),
    ).checked()  # fmt: skip


def shapes_of(model: Model, options: Options) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the shapes that options fix, by input, of those that a file has."""
    ports = {port.name for port in model.inputs}
    return tuple(each for each in options.inputs if each[0] in ports)


def _shorter(prepared: PreparedModel, choice: Shortening, options: Options) -> Shorter:
    """Return a file without branches, whose weights are as they were."""
    traced, counted = prepared.traced, NodeMacs(prepared.traced)
    shortened = without(traced.model, choice.removed, traced.probe.dtype)
    found = [branch for _, each in branches_of_graphs(traced) for branch in each]
    reasons = {branch.name: branch.locked for branch in found if branch.locked is not None}
    went, whole = counted.total(shortened.dead), counted.total(nodes_of(found))
    choice = replace(choice, removed=shortened.branches)
    values = depth_values(options, found, choice, reasons, min(1.0, went / max(1, whole)))
    return Shorter(shortened, ({}, []), values, went)


def _narrowed(
    file: Held,
    prepared: PreparedModel,
    lead: Lead,
    not_told: Collection[Digest],
    *,
    publish: Publish,
    progress: Progress,
    original: Model | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Return a file whose widths are cut as those of the leading one were, and its report.

    Where it was made of another one without branches, it is compared with that `original`.
    """
    found = {group.name: _units(group, file.telling, lead, not_told) for group in prepared.groups}
    rewritten = prepared.rewritten(plan := Plan({name: units for name, units in found.items() if units is not None}))
    after = view(rewritten.proto, folder=file.model.folder)
    contents = dict(_contents(rewritten.cuts, after, file, lead, not_told))
    return finish(
        prepared, Decision(plan), rewritten, recovery=(contents, []), progress=progress, publish=publish,
        original=original,
    )  # fmt: skip


def _units(
    group: Group, telling: Mapping[str, Digest], lead: Lead, not_told: Collection[Digest]
) -> tuple[int, ...] | None:
    """Return the units that a group keeps; None where it loses none.

    Raises:
        InputError: when weights of the group lost different units in the leading file.
    """
    found: set[tuple[int, ...]] = set()
    for member in group.members if why_not(group) is None else ():
        digest = telling.get(member.constant)
        lefts = lead.kept(member.constant, digest, member.dim, digest not in not_told)
        if len(lefts) == 1:
            left = lefts.pop()
            kept = np.ones(group.units, bool) if left is None else np.isin(member.places, left).all(1)
            found.add(tuple(np.flatnonzero(kept).tolist()))
    if len(found) > 1:
        raise InputError(
            f"group {group.name!r} holds weights that lost different units in the file that leads; prune the files one "
            "by one"
        )
    units = found.pop() if found else ()
    return units if 0 < len(units) < group.units else None


def _contents(
    cuts: Mapping[str, Cut], after: Model, file: Held, lead: Lead, not_told: Collection[Digest]
) -> Iterator[tuple[str, Array]]:
    """Yield the numbers of the weights of a cut file, by name: those of the leading one."""
    known = file.digests
    for name in after.constants:
        source = cuts[name].source if name in cuts else name
        digest = known.get(source)
        kept = cuts[name].kept if name in cuts else {}
        content = lead.content(source, digest, kept, digest not in not_told)
        if content is None and digest is not None and (kept or digest in lead.became):
            raise InputError(
                f"weight {source!r} is cut as none is in the file that leads: it is stored in another form, or its "
                "uses differ; prune the files one by one"
            )
        if content is not None and not np.array_equal(content, after.array(name)):
            yield name, content
