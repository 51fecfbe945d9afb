"""Which groups are to be pruned, by the globs of the options; and for every other one, why it is not."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from onnxprune.dependency.account import ALONE
from onnxprune.dependency.groups import Group, carriers
from onnxprune.errors import OptionError
from onnxprune.planning.allocate import MIN_SHARE
from onnxprune.planning.options import Options
from onnxprune.planning.planned import counts_of, fitted
from onnxprune.planning.targets import MEASURED

_HELD = "another file or body of the same network cannot lose it"
_SPARED = "the method spares the first and the last blocks"
_ENLARGING = "its cut adds parameters: another place reads a weight of it and is not cut alike, so that both are stored"
_INSTEAD = "an outer factor of the same axis is pruned instead"
_REASONS = 3  # listed when nothing can be pruned
_NEAR = 3  # names that are proposed


def select_ratios(groups: Sequence[Group], options: Options) -> dict[str, float]:
    """Return the ratio of every group that is to be pruned, by name.

    Inner factors (head dims inside heads) are pruned only when a glob of `only` or `ratios` names their group:
    the ratio counts once per axis.

    Raises:
        OptionError: for a glob that matches nothing.
    """
    left_out = _left_out(groups, options)
    own, shaped = named_ratios(groups, options), shaped_counts(groups, options)
    ratios: dict[str, float] = {}
    for group in groups:
        able = _is_able(group, options) and (not group.inner or group.name in shaped or _named(group, groups, options))
        if able and group.name not in left_out and (group.name in own or not options.only_shaped):
            ratios[group.name] = own.get(group.name, options.ratio)
    return ratios


def named_ratios(groups: Sequence[Group], options: Options) -> dict[str, float]:
    """Return the ratios that globs or the target shape give to groups, by name.

    Raises:
        OptionError: for a glob that matches nothing.
    """
    named = {name: ratio for glob, ratio in options.ratios for name in _meant(glob, groups)}
    units = {group.name: group.units for group in groups}
    return {**named, **{name: 1 - count / units[name] for name, count in shaped_counts(groups, options).items()}}


def shaped_counts(groups: Sequence[Group], options: Options) -> dict[str, int]:
    """Return how many units groups keep by a plan or the target shape, by name.

    Raises:
        OptionError: for a kind that no group has, one whose groups cannot lose units, more units than there are, and
            for a plan that does not fit the model.
    """
    counts = counts_of(fitted(options.planned, groups))
    for key, count in options.shape:
        for group in _shaped(key, count, groups, options):
            if count > group.units:
                raise OptionError(
                    f"shape {key}={count}: group {group.name!r} has {group.units} {group.kind}; ask for fewer, or "
                    "leave it out with --ignore"
                )
            if count < group.least:
                raise OptionError(
                    f"shape {key}={count}: {group.least} of the {group.units} {group.kind} of group {group.name!r} are "
                    "picked for each row: ask for as many at least"
                )
            counts[group.name] = count
    return counts


def _shaped(key: str, count: int, groups: Sequence[Group], options: Options) -> list[Group]:
    """Return the groups that a key of the target shape means: those of a kind, or those that a glob matches."""
    kind, left_out = key.replace("-", " ").replace("_", " "), _left_out(groups, options)
    meant = [group for group in groups if group.kind == kind]
    if not meant and any(fnmatchcase(group.name, key) or group.name == key for group in groups):
        names = _meant(key, groups)
        meant = [group for group in groups if group.name in names]
    if not meant:
        kinds = dict.fromkeys(group.kind for group in groups if _is_able(group, options))
        raise OptionError(
            f"shape {key}={count}: this model has no {kind} and no group of this name; units that can be removed are: "
            f"{', '.join(kinds) or 'none'}"
        )
    able = [group for group in meant if _is_able(group, options) and group.name not in left_out]
    if not able:
        reasons = dict.fromkeys(why_not(group) or "left out by --ignore or --only" for group in meant)
        raise OptionError(f"shape {key}={count}: no group of these can lose units: {'; '.join(reasons)}")
    return [group for group in able if not group.inner] or able


def least_counts(groups: Sequence[Group], options: Options) -> dict[str, int]:
    """Return how many units groups keep at least, by name: as the options say, else a tenth, rounded up.

    Of experts there are always as many as are picked.

    Raises:
        OptionError: for a glob that matches nothing.
    """
    wanted = _wanted_counts(groups, options)
    return {group.name: max(group.least, wanted[group.name]) for group in groups}


def _wanted_counts(groups: Sequence[Group], options: Options) -> dict[str, int]:
    """Return how many units groups keep at least by the options, by name."""
    if isinstance(options.min_units, int):
        return dict.fromkeys((group.name for group in groups), options.min_units)
    least = {group.name: math.ceil(MIN_SHARE * group.units) for group in groups}
    for glob, count in options.min_units or ():
        least.update(dict.fromkeys(_meant(glob, groups), count))
    return least


def _is_able(group: Group, options: Options) -> bool:
    """Whether units of a group can be removed under these options."""
    return group.lock is None and (group.exact or options.width)


def _left_out(groups: Sequence[Group], options: Options) -> set[str]:
    """Return the names of the groups that `ignore`, `held`, `spared` and `only` exclude."""
    ignored = {name for pattern in options.ignore for name in _meant(pattern, groups, _names_in)}
    wanted = {name for pattern in options.only for name in _meant(pattern, groups)}
    return (
        ignored
        | {*options.held, *options.spared}
        | ({group.name for group in groups} - wanted if options.only else set())
    )


def _meant(pattern: str, groups: Sequence[Group], *names: Callable[[Group], Iterable[str]]) -> set[str]:
    """Return the names of the groups that a glob means: by the first of `names` by which it matches any.

    Without `names`, the whole name of a group means that group alone, even where a node has the same name. Brackets are
    part of a name, as in `layers[0]`; they list characters, as in `layers.[01]`, where no name has them.

    Raises:
        OptionError: when it matches nothing; says what is near.
    """
    if not names and any(group.name == pattern for group in groups):
        return {pattern}
    for match in (is_named, fnmatchcase):
        for names_of in names or (_makers, _names_in):
            meant = {group.name for group in groups if any(match(name, pattern) for name in names_of(group))}
            if meant:
                return meant
    near = _near(pattern, dict.fromkeys(name for group in groups for name in _names_in(group)))
    raise OptionError(
        f"{pattern!r} matches no group, and no node or weight of one; "
        + (f"near are {', '.join(map(repr, near))}; " if near else "")
        + "'onnxprune inspect --json' lists them"
    )


def _near(pattern: str, names: Iterable[str]) -> list[str]:
    """Return a few names that a glob which matches nothing may have meant: that hold its text, or are spelled alike."""
    text = pattern.strip("*?").lower()
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.lower(), name)
    holding = [lower for lower in by_lower if text and text in lower]
    alike = difflib.get_close_matches(text, by_lower, _NEAR, 0.5)
    tails = {lower[-len(text) :]: lower for lower in by_lower if text}
    by_tail = [tails[tail] for tail in difflib.get_close_matches(text, tails, _NEAR, 0.7)]
    return [by_lower[lower] for lower in list(dict.fromkeys([*sorted(holding, key=len), *alike, *by_tail]))[:_NEAR]]


def _makers(group: Group) -> Iterator[str]:
    """Yield the names of a group and of what makes its units."""
    yield group.name
    for member in group.members:
        if member.role == "out":
            yield from (member.node, member.constant)


def _names_in(group: Group) -> Iterator[str]:
    """Yield the names of a group and of all its nodes and weights."""
    yield from (group.name, *group.nodes, *(member.constant for member in group.members))


def _named(group: Group, groups: Sequence[Group], options: Options) -> bool:
    """Whether a glob means this inner group: it is or matches the name, and not also that of an outer factor."""
    weights = {member.constant for member in group.members}
    outer = [g for g in groups if g.prunable and weights & {member.constant for member in g.members}]
    for glob in (*options.only, *(glob for glob, _ in options.ratios)):
        match = is_named if any(is_named(name, glob) for g in groups for name in _names_in(g)) else fnmatchcase
        if glob == group.name or (match(group.name, glob) and not any(match(g.name, glob) for g in outer)):
            return True
    return False


# -- why groups are left alone -------------------------------------------------------------------------------


def first_sink(group: Group) -> int:
    """Return the node that groups are listed by."""
    return group.members[0].sink[0]


def why_not(group: Group) -> str | None:
    """Return why a group is not pruned by default, None if it is."""
    if group.locked is not None:
        return group.locked
    if group.inexact is not None:
        return f"{group.inexact}: removing a unit is not the same as masking it"
    if group.inner:
        return _INSTEAD
    return None


def reasons_for(
    groups: Sequence[Group],
    ratios: Mapping[str, float],
    options: Options,
    kept: Mapping[str, Sequence[int]],
    enlarging: Collection[str] = (),
) -> dict[str, str]:
    """Return why groups keep all their units under these options, by name; those that lose some are absent.

    Args:
        groups: those of the model.
        ratios: ratio by group name, of those that are to be pruned.
        options: what was asked for.
        kept: units by group name, of those that lose some.
        enlarging: names of groups whose cut would have added parameters.
    """
    left_out, names = _left_out(groups, options), {group.atom: group.name for group in groups}
    reasons: dict[str, str] = {}
    for group in groups:
        if group.name in enlarging:
            reasons[group.name] = _ENLARGING
        elif group.name in ratios and group.name not in kept:
            reasons[group.name] = _why_not_cut(group, ratios, options)
        elif group.name not in kept:
            outer = [names[atom] for atom in group.outer if atom in names]
            reasons[group.name] = _why_not_selected(group, outer, ratios, options, group.name in left_out)
    return reasons


def _why_not_selected(
    group: Group, outer: Iterable[str], ratios: Mapping[str, float], options: Options, left_out: bool
) -> str:
    """Return why a group is not to be pruned: a lock, the options, or an outer factor that is."""
    if not _is_able(group, options):
        return why_not(group) or ""
    if group.name in options.held:
        return _HELD
    if group.name in options.spared:
        return _SPARED
    if left_out:
        return "left out by --ignore or --only"
    if options.only_shaped and not group.inner:
        return "the plan says nothing of it" if options.planned else "--shape says nothing of it"
    outer_ratios = [ratios[name] for name in outer if name in ratios]
    if any(outer_ratios):
        return _INSTEAD
    return "its ratio is 0" if outer_ratios else "an inner factor of an axis is pruned only where it is named"


def _why_not_cut(group: Group, ratios: Mapping[str, float], options: Options) -> str:
    """Return why a group that was to be pruned keeps all its units."""
    if ratios[group.name] == 0:
        if options.shortens and not (options.shape or options.ratios or options.planned):
            return "whole branches alone were to go; --ratio or --target cut units of those that stay"
        if options.planned:
            return "it keeps all its units by the plan"
        return "it keeps all its units by --shape" if options.shape else "its ratio is 0"
    if options.criterion == "bn" and not any(member.role == "scale" for member in group.members):
        return "criterion bn cannot score it: no BatchNormalization scales its units"
    if options.ranking == "loss":
        return "by its loss curve, removing units from other groups costs the output less"
    if any(kind in MEASURED for kind, _ in options.targets):
        return "units of other groups buy more for this target, given the steps of the kernels and --min-units"
    if options.finds_steps:
        return "no smaller count suits the steps of the kernels, or its cut buys no time here"
    if options.ranking == "global":
        return "no unit scored low enough among those of all groups, given --round-to and --min-units"
    return "no smaller count is allowed by --ratio, --round-to and --min-units"


def why_nothing(
    groups: Sequence[Group],
    ratios: Mapping[str, float],
    options: Options,
    unreached: Mapping[str, Sequence[str]],
    enlarging: Collection[str] = (),
) -> str:
    """Say why no group lost a unit: first what the options decided, then the most frequent locks."""
    if not groups:
        reason = next((reason for reason in unreached if reason != ALONE), "")
        return "nothing to prune: the model has no weights that meet in an axis" + f"; {reason}" * bool(reason)
    why = reasons_for(groups, ratios, options, {}, enlarging)
    reasons: dict[str, list[str]] = {}
    for group in sorted(groups, key=lambda group: group.name not in ratios):
        reasons.setdefault(why[group.name], []).append(group.name)
    most_frequent = sorted(reasons.items(), key=lambda item: (item[1][0] not in ratios, -len(item[1])))[:_REASONS]
    listed = "; ".join(
        f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {reason}" for reason, names in most_frequent
    )
    return f"nothing to prune. {listed}"


def all_reasons(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Return by weight why its groups are not pruned by default."""
    reasons = {name: [why_not(group) for group in carried] for name, carried in carriers(groups).items()}
    return {name: [why for why in of_one if why is not None] for name, of_one in reasons.items()}


def is_named(name: str, pattern: str) -> bool:
    """Whether a name is the pattern, or matches it as a glob whose brackets stand for themselves."""
    return name == pattern or fnmatchcase(name, pattern.replace("[", "[[]"))
