"""For every node with weights: which of its axes can be cut, or were, and why the others were not.

There is no silent no-op: a weight that keeps its size has a reason, a node that gives it, and a word on what would
free it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxprune.dependency.axes import Lock, walk
from onnxprune.dependency.groups import Group, RoleFinder
from onnxprune.dependency.trace import Trace, Use

ALONE = "no axis of it meets another weight"

_REPORT = "nothing in this version; please report the model"

# What would free an axis, by what its reason says; the first that matches counts.
_FREES: Sequence[tuple[str, str]] = (
    (r"^the (attributes|rule) of ", _REPORT),  # first: what an exception says may be anything
    (r"^it (is part of|computes) a cache", "--change-io"),
    (r"part of the graph (in|out)put|to whoever runs the model", "nothing: the model keeps its inputs and outputs"),
    (r"removing a unit is not the same|(normalises|reduces|quantizes by the range) over it", "--width"),
    (r"(outer|inner) factor", "--only NAME"),
    (r"--ratio|--ignore|--only|--round-to|--min-units|--criterion|its ratio|its loss curve|criterion", "other options"),
    (
        r"prune before|float model|block by block|last block|share a byte|\bquantize[ds]\b|"
        r"weights? (that are|is) packed|orders its matrices|integers whose scales",
        "prune the model before that step",
    ),
    (
        r"run time|(shape|tensors) of .* unknown|dynamic",
        "perhaps fixed sizes: export with them, or fold what computes them (onnxslim, onnxsim)",
    ),
    (
        r"no common refinement|no multiple of|differ in size|cannot be cut at|would be cut into",
        "other sizes: they have no common divisor",
    ),
    (
        r"positions?\b|\bind(ex|ices)\b|by value|computed by|interpolates over it|reverses it|along it|steer|"
        r"takes a diagonal|determinant|multiples of one size|random|numbers? |categories|works on text|image file|"
        r"column by column|apart by their width|by their sizes|values that are alike",
        "nothing: each index has a meaning of its own",
    ),
    (ALONE, "nothing: what it makes is consumed by no weight"),
    (
        r"has no rule|was refused|has a form of|one runtime|kernels|branch|turn to turn|loop|Squeeze without axes|"
        r"state of zeros|a cache|several states|layout|mixes branches|scores|compiled|custom operator|older kind|"
        r"never released|training|optimizer|a body on|a whole model|holds|tells whether|what may hold none|"
        r"one unit alone|activation|metric|inside|the dims of a head|"
        r"' is \d+ and|has \d+ (in|out)puts|has \d+ (axes|heads|bodies)|has the shape|has scales of|"
        r"has \w+ = |is absent|are reshaped to|names axis|do not fit|gets no tensors|its rule gives|contain itself|"
        r"cannot be told",
        _REPORT,
    ),
)


@dataclass(frozen=True, slots=True)
class Locked:
    """One group, or axis, that a node keeps whole."""

    group: str | None  # None for an axis that no group has
    reason: str
    at: str  # the node, input or output that gives the reason
    frees: str  # what would free it


@dataclass(frozen=True, slots=True)
class Account:
    """One node with weights."""

    node: str
    op: str
    weights: tuple[str, ...]  # names of its constants
    params: int
    pruned: tuple[str, ...]  # groups that can lose units, or have lost some
    locked: tuple[Locked, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = asdict(self)
        return {**plain, **{name: list(plain[name]) for name in ("weights", "pruned", "locked")}}


def frees(reason: str) -> str:
    """Return what would free an axis that is locked for a reason.

    >>> frees("Softmax normalises over it: removing a unit is not the same as masking it")
    '--width'
    """
    words = re.sub(r" \(at .*\)|'[^']*'", " ''", reason)  # without the names, which may be of any words
    return next((what for pattern, what in _FREES if re.search(pattern, words)), _REPORT)


def accounts(traced: Trace, groups: Sequence[Group], kept_whole: Mapping[str, str]) -> tuple[Account, ...]:
    """Return an account of every node with weights, in graph order.

    Args:
        traced: the model.
        groups: its groups.
        kept_whole: why a group is not cut, by its name; groups that are not here are.
    """
    finder = RoleFinder(traced)
    uses: dict[int, list[Use]] = {}
    for use in traced.uses:
        weight = traced.model.constants.get(use.constant)
        if weight is not None and weight.is_weight and weight.shape and use.node >= 0:
            for sink in dict.fromkeys(sink for sink, _ in finder.sinks(use.node, use.slot)):
                uses.setdefault(sink, []).append(use)
    carried = _by_weight(groups)
    accounted = [_account(traced, index, uses[index], carried, kept_whole) for index in sorted(uses)]
    return (*accounted, *_untraced(traced))


def unreached(
    traced: Trace, kept_whole: Mapping[str, Sequence[str]], names: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Return the weights `names` by the reason of their first group, or of their first axis where they have none.

    Args:
        traced: the model.
        kept_whole: by weight, why its groups are not cut.
        names: of weights.
    """
    uses: dict[str, list[Use]] = {}
    for use in traced.uses:
        uses.setdefault(use.constant, []).append(use)
    result: dict[str, list[str]] = {}
    for name in names:
        lock = _first_lock(traced, uses.get(name, ()))
        own = next(iter(kept_whole.get(name, ())), None)
        result.setdefault(own or (str(lock) if lock else ALONE), []).append(name)
    return {reason: tuple(listed) for reason, listed in result.items()}


def _first_lock(traced: Trace, uses: Iterable[Use]) -> Lock | None:
    atoms = [atom for use in uses for axis in traced.axes(use.axes) for atom in walk(axis)]
    locks = (traced.partition.lock_of(atom) or traced.partition.mix_of(atom) for atom in atoms)
    return next((lock for lock in locks if lock is not None), None)


def _by_weight(groups: Iterable[Group]) -> dict[tuple[str, str], list[Group]]:
    """Return the groups of each use of a weight, by the name of the weight and of the node."""
    result: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        for key in dict.fromkeys((member.constant, member.node) for member in group.members):
            result.setdefault(key, []).append(group)
    return result


def _account(
    traced: Trace,
    index: int,
    uses: Sequence[Use],
    carried: Mapping[tuple[str, str], Sequence[Group]],
    kept_whole: Mapping[str, str],
) -> Account:
    node = traced.model.nodes[index]
    groups = {g.name: g for use in uses for g in carried.get((use.constant, node.name), ())}
    locked = [_locked(group, kept_whole[name]) for name, group in groups.items() if name in kept_whole]
    names = tuple(dict.fromkeys(use.constant for use in uses))
    return Account(
        node=node.name,
        op=node.op,
        weights=names,
        params=sum(math.prod(traced.model.constants[name].shape) for name in names),
        pruned=tuple(name for name in groups if name not in kept_whole),
        locked=tuple(locked) if groups else (_lock_of_axes(traced, uses, node.name),),
    )


def _locked(group: Group, reason: str) -> Locked:
    lock = group.lock or group.mixed
    at = lock.node if lock is not None and lock.reason in reason else group.nodes[0]
    return Locked(group.name, reason.replace(f" (at {at})", ""), at, frees(reason))


def _lock_of_axes(traced: Trace, uses: Sequence[Use], node: str) -> Locked:
    """Return the first lock of the axes of weights that no group has."""
    lock = _first_lock(traced, uses) or Lock(ALONE, node)
    return Locked(None, lock.reason, lock.node, frees(lock.reason))


def _untraced(traced: Trace) -> Iterable[Account]:
    """Yield nodes with weights inside bodies that were not traced, because the node that has the body was refused."""
    for owner in traced.model.nodes:
        pending = [index for body in owner.bodies for index in body.nodes if index not in traced.couplings]
        for node in (traced.model.nodes[index] for index in pending):
            constants = [traced.model.constants[name] for name in node.inputs if name in traced.model.constants]
            weights = [constant for constant in constants if constant.is_weight and constant.shape]
            if weights:
                reason = f"it is read inside a body of {owner.op}, which has no rule or was refused"
                yield Account(
                    node=node.name,
                    op=node.op,
                    weights=tuple(dict.fromkeys(constant.name for constant in weights)),
                    params=sum(constant.count for constant in weights),
                    pruned=(),
                    locked=(Locked(None, reason, owner.name, frees(reason)),),
                )
