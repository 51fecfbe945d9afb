"""Slicing: which streams are turned, and how many of the directions of a turned one are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.dependency.axes import Atom
from onnxprune.dependency.branches import branches
from onnxprune.dependency.groups import Group
from onnxprune.dependency.trace import Trace
from onnxprune.planning.left import Cost, targets_left
from onnxprune.planning.options import Options
from onnxprune.planning.plan import ROUND_CHANNELS, Evidence, tied_groups


@dataclass(frozen=True)
class Stream:
    """Units that branches are added to, and that something normalises over."""

    name: str  # of their group
    atom: Atom
    key: str  # a value that tells the stream from others, also in a graph where another one was turned


def streams_of(traced: Trace, all_groups: Sequence[Group]) -> list[Stream]:
    """Return the streams of a model, in the order of the graph; also those whose units are locked."""
    normalised = traced.partition.averaged().keys() | {group.atom for group in all_groups if group.mixed is not None}
    by_atom = {group.atom: group for group in all_groups if group.atom in normalised and group.kind != "positions"}
    found: dict[Atom, Stream] = {}
    for branch in branches(traced):
        key = next(name for name in reversed(traced.model.nodes[branch.node].outputs) if name)
        for axis in traced.axes(traced.values.get(branch.value, ())):
            if isinstance(axis, Atom) and axis in by_atom:
                found.setdefault(axis, Stream(by_atom[axis].name, axis, key))
    return list(found.values())


def options_of_cut(options: Options, costs: Mapping[str, Cost]) -> Options:
    """Return options that cut directions of turned streams.

    Args:
        options: of the whole run.
        costs: of the original and of the turned model, by kind of target.
    """
    return replace(
        options, method=None, rotations="one", criterion="l2", scope="group", width=True, only=(), ignore=(),
        reconstruct=bool(options.reconstruct), round_to=options.round_to or ROUND_CHANNELS,
        targets=targets_left(options, costs),
    )  # fmt: skip


def by_order(traced: Trace, all_groups: Sequence[Group], ratios: Mapping[str, float]) -> Evidence:
    """Return scores that fall from the first unit to the last: directions are sorted by what they carry."""
    tied = tied_groups(all_groups, ratios, traced)
    scores = {first: np.arange(next(iter(names.values())).units, 0.0, -1.0) for first, names in tied.items()}
    return Evidence(scores, {})
