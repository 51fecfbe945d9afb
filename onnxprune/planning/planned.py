"""What a plan says of each group: how many units it keeps, and which; and what group of a model it means.

A plan is made on one file and may be applied to another form of the same network, in half precision or quantized. There
a group mostly has the same name. Where it has not, it is found by what makes its units: a weight keeps its name in all
forms, but for what quantizers append to it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnxprune.dependency.groups import Group, layer_name
from onnxprune.errors import OptionError

_NEAR = 0.4  # likeness of names from which one is proposed


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """What becomes of one group."""

    name: str
    kind: str
    units: int  # before the cut
    keep: int
    kept: tuple[int, ...] | None = None  # which of them, ascending; None: the most important ones, or all
    makers: tuple[str, ...] = ()  # weights and nodes that make the units
    saves_macs: int | None = None  # of one sample, by this cut alone
    saves_params: int | None = None
    loss: float | None = None  # of the output by its loss curve, where there is one

    @property
    def is_cut(self) -> bool:
        """Whether it loses units."""
        return self.keep < self.units

    @property
    def wanted(self) -> str | int:
        """The kept indices as text, or their count where importance decides."""
        return self.keep if self.kept is None else as_ranges(self.kept)

    def __str__(self) -> str:
        return f"group {self.name!r} ({self.units} {self.kind})"


def makers_of(group: Group) -> tuple[str, ...]:
    """Return the weights and nodes that make the units of a group; those that read them, where no weight does."""
    making = [member for member in group.members if member.role == "out"] or list(group.members)
    return tuple(dict.fromkeys(name for member in making for name in (member.constant, member.node)))


def fitted(planned: Iterable[PlannedGroup], groups: Sequence[Group]) -> dict[str, PlannedGroup]:
    """Return what a plan says by the names that groups have in this model.

    A group is meant by its name, with as many units; else by the weights and nodes that make its units.

    Args:
        planned: the groups of the plan.
        groups: those of the model.

    Raises:
        OptionError: for a group that the model does not have, one of another size, one that cannot lose units, and for
            two that are the same here.
    """
    result: dict[str, PlannedGroup] = {}
    by_name, made = {group.name: group for group in groups}, dict[str, list[Group]]()
    for each in planned:
        group = by_name.get(each.name)
        if group is None or group.units != each.units:
            made = made or _by_maker(groups)
            group = _by_makers(each, made) or _refused(each, group, groups)
        if each.is_cut:
            _check_able(each, group)
        if group.name in result:
            other = result[group.name].name
            raise OptionError(f"plan: {each} and {other!r} are one group in this model, {group.name!r}: take one out")
        result[group.name] = each
    return result


def _by_maker(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups whose units each layer makes, by its name."""
    made: dict[str, list[Group]] = {}
    for group in groups:
        for name in dict.fromkeys(map(layer_name, makers_of(group))):
            made.setdefault(name, []).append(group)
    return made


def _by_makers(each: PlannedGroup, made: Mapping[str, Sequence[Group]]) -> Group | None:
    """Return the one group of this size whose units most of the same weights and nodes make; None where none is."""
    shared: dict[str, int] = {}
    alike: dict[str, Group] = {}
    for name in dict.fromkeys(map(layer_name, each.makers)):
        for group in made.get(name, ()):
            if group.units == each.units:
                alike[group.name] = group
                shared[group.name] = shared.get(group.name, 0) + 1
    best = [alike[name] for name, count in shared.items() if count == max(shared.values())]
    best = [group for group in best if group.kind == each.kind] if len(best) > 1 else best
    return best[0] if len(best) == 1 else None


def _refused(each: PlannedGroup, group: Group | None, groups: Sequence[Group]) -> Group:
    """Raise OptionError for a group that the model does not have as the plan expects it."""
    if group is not None:
        raise OptionError(
            f"plan: {each} has {group.units} {group.kind} in this model, {each.units} are expected: make a plan for it"
        )
    near = nearest(each.name, [group.name for group in groups])
    makers = ", ".join(map(repr, each.makers)) or "its weights"
    sized = next((f", which has {group.units} {group.kind}" for group in groups if group.name == near), "")
    raise OptionError(
        f"plan: this model has no {each}, and none whose units {makers} make"
        + (f"; the nearest name is {near!r}{sized}" if near else "")
        + "; 'onnxprune inspect' lists the groups"
    )


def _check_able(each: PlannedGroup, group: Group) -> None:
    if group.lock is not None:
        raise OptionError(f"plan: {each} cannot lose units in this model: {group.locked}; take it out of the plan")
    if each.keep < group.least:
        raise OptionError(
            f"plan: {each} keeps {each.keep}, but {group.least} of its units are picked for each row: keep as many"
        )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is spelled most like another one; None where none is near.

    >>> nearest("block.1.fc", ["blocks.1.fc", "head"])
    'blocks.1.fc'
    """
    return next(iter(difflib.get_close_matches(name, list(known), 1, _NEAR)), None)


# -- indices as text -------------------------------------------------------------------------------------------


def as_ranges(indices: Sequence[int]) -> str:
    """Return ascending indices as text.

    >>> as_ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1][1:] = [index]
        else:
            parts.append([index])
    return ",".join("-".join(map(str, part)) for part in parts)


def from_ranges(text: str, units: int) -> tuple[int, ...]:
    """Return the indices that text lists, of so many units.

    >>> from_ranges("0-2, 5", 8)
    (0, 1, 2, 5)

    Raises:
        ValueError: for anything but ascending indices below `units` and ranges of them; says what is wrong.
    """
    indices: list[int] = []
    for part in text.split(","):
        first, dash, last = (each.strip() for each in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part.strip()!r} is no index such as 14, and no range such as 0-11")
        start, end = int(first), int(last or first)
        if end < start or (indices and start <= indices[-1]):
            raise ValueError(f"{part.strip()!r} does not ascend: list each index once, in order")
        if end >= units:  # before it is written out: a few digits may stand for more indices than there is memory
            raise ValueError(f"{end} is there, but the units are 0 to {units - 1}")
        indices += range(start, end + 1)
    return tuple(indices)


def counts_of(planned: Mapping[str, PlannedGroup]) -> dict[str, int]:
    """Return how many units groups keep, by name."""
    return {name: each.keep for name, each in planned.items()}
