"""Files that hold the same weights, cut alike: one leads, the others follow it by the contents of their weights.

Exporters write one decoder into several files: for the first token, for those behind it, for both. Their weights have
other names in each, but the same numbers. What follows loses what the leading file has lost of each weight, and takes
the numbers that its weights were refitted to. Where several weights held the same numbers (biases of zero) and became
different ones, those of the same name are taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from onnxprune.commands.finish import Publish, finish
from onnxprune.commands.prepare import PreparedModel, prepare
from onnxprune.dependency.groups import Group, groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import InputError
from onnxprune.graph.model import Model
from onnxprune.graph.probe import settled
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view
from onnxprune.planning.choice import why_not
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Plan
from onnxprune.planning.promise import Decision
from onnxprune.progress import Progress

Digest: TypeAlias = bytes
_SHARED = 0.5  # of the weights of the smaller file, from which two files hold the same network


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

    def kept(self, digest: Digest | None, dim: int) -> tuple[int, ...] | None:
        """Return the indices of a dim that are left; None where all are, or where weights that held the same differ."""
        kept = {each.kept.get(dim) for each in self._known(digest)}
        return kept.pop() if len(kept) == 1 else None

    def content(self, name: str, digest: Digest | None, kept: Axes) -> Array | None:
        """Return what a weight of another file holds that is cut like this; None where the leading one has none such.

        Raises:
            InputError: when there are several, and no name tells which.
        """
        alike = [each for each in self._known(digest) if dict(each.kept) == dict(kept)]
        found = [each for each in alike if each.name == name] or alike
        if not found:
            return None
        if not all(np.array_equal(each.content, found[0].content) for each in found[1:]):
            others = " and ".join(repr(each.name) for each in found[:2])
            raise InputError(
                f"weight {name!r} holds what {others} held in the file that leads, which became different ones; prune "
                "the files one by one"
            )
        return found[0].content

    def _known(self, digest: Digest | None) -> Sequence[Became]:
        return () if digest is None else self.became.get(digest, ())


def digests(model: Model) -> dict[str, Digest]:
    """Return a digest of the contents of every weight, by name."""
    return {name: _digest(model.array(name)) for name, each in model.constants.items() if each.is_weight}


def _digest(array: Array) -> Digest:
    digest = hashlib.sha256(repr((array.dtype.name, array.shape)).encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return digest.digest()


def holds_same(one: Mapping[Digest, int], other: Mapping[Digest, int]) -> bool:
    """Whether two files hold one network: most of what the smaller one has, the other has too.

    Args:
        one: numbers of each weight of a file, by digest.
        other: of the other.
    """
    shared = sum(count for digest, count in one.items() if digest in other)
    return shared > _SHARED * min(sum(one.values()), sum(other.values()))


def lead_of(original: Model, proto: Any, report: Mapping[str, Any]) -> Lead:
    """Return what became of the weights of a file that was pruned.

    Args:
        original: the file.
        proto: the pruned model.
        report: of the run.
    """
    known, after = digests(original), view(proto, folder=original.folder)
    cuts = {name: (each["source"], each["kept"]) for name, each in report["initializers"].items()}
    became: dict[Digest, list[Became]] = {}
    for name in after.constants:
        source, axes = cuts.get(name, (name, {}))
        if source in known:
            kept = {int(dim): tuple(places) for dim, places in axes.items()}
            became.setdefault(known[source], []).append(Became(source, kept, after.array(name)))
    return Lead(became)


def uncut(model: Model, followers: Sequence[Model]) -> tuple[str, ...]:
    """Return the weights of a leading file, by name, of which some other file can lose no units."""
    held: set[tuple[Digest, int]] = set()
    for follower in followers:
        known, at = digests(follower), settled(follower)
        held.update(
            (known[member.constant], member.dim)
            for group in groups(trace(at))
            if why_not(group) is not None
            for member in group.members
            if member.constant in known
        )
    own = digests(model)
    locked = [
        member.constant
        for group in groups(trace(settled(model)))
        if why_not(group) is None
        for member in group.members
        if (own.get(member.constant, b""), member.dim) in held
    ]
    return tuple(dict.fromkeys(locked))


def follow(
    model: Model, lead: Lead, options: Options, publish: Publish, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """Return a file that is cut as the leading one was, an onnx.ModelProto, and its report, when both are published.

    Args:
        model: the file.
        lead: what became of the weights.
        options: of the run: of measuring and of inputs.
        publish: writes the model.
        progress: called before each step.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`; InputError also when a weight cannot become what it
            became in the leading file.
    """
    plain = replace(options, criterion="l2", scope="group", reconstruct=False, batch_norm=False, targets=(), ratios=())
    prepared = prepare(model, plain, None, progress)
    known = digests(prepared.traced.model)
    plan = Plan({group.name: units for group in prepared.groups if (units := _units(group, known, lead)) is not None})
    rewritten = prepared.rewritten(plan)
    contents = dict(_contents(prepared, rewritten.cuts, view(rewritten.proto, folder=model.folder), known, lead))
    return finish(prepared, Decision(plan), rewritten, recovery=(contents, []), progress=progress, publish=publish)


def _units(group: Group, known: Mapping[str, Digest], lead: Lead) -> tuple[int, ...] | None:
    """Return the units that a group keeps; None where it loses none."""
    kept = np.ones(group.units, bool)
    for member in group.members if why_not(group) is None else ():
        left = lead.kept(known.get(member.constant), member.dim)
        if left is not None:
            kept &= np.isin(member.places, left).all(1)
    return None if kept.all() or not kept.any() else tuple(np.flatnonzero(kept).tolist())


def _contents(
    prepared: PreparedModel, cuts: Mapping[str, Any], after: Model, known: Mapping[str, Digest], lead: Lead
) -> Iterator[tuple[str, Array]]:
    """Yield the numbers of the weights of a cut file, by name: those of the leading one."""
    for name in after.constants:
        source = cuts[name].source if name in cuts else name
        digest = known.get(source)
        content = lead.content(source, digest, cuts[name].kept if name in cuts else {})
        if content is None and digest in lead.became:
            raise InputError(
                f"{prepared.traced.model.path}: weight {source!r} cannot be cut as it is in the file that leads; prune "
                "the files one by one"
            )
        if content is not None and not np.array_equal(content, after.array(name)):
            yield name, content
