"""Rounds: how much of a model goes in each of several, and how much of the tuning each of them gets.

The schedule is geometric in what is left: of n rounds that are left each keeps the same share of what is there, so that
the last one ends at the target. A round that fell short, or took more because units come in steps, is made up for by
those after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from onnxprune.dependency.groups import Group
from onnxprune.errors import OptionError
from onnxprune.planning.choice import least_counts, named_ratios, select_ratios, shaped_counts
from onnxprune.planning.options import Options
from onnxprune.planning.targets import measured_amount
from onnxprune.training.settings import TuneOptions

# Of the tuning, for the last round: it alone trains what is written. A choice; `tools/measure/rounds.py shares` tells.
LAST = 0.5
_LEAST = 1e-9
_MET = 1 - _LEAST  # of what is there, from which a target counts as met


@dataclass(frozen=True)
class Wanted:
    """What all rounds together shall come to, in terms of the original."""

    options: Options
    units: Mapping[str, int]  # of each group of the original, by name
    ratios: Mapping[str, float]  # of the groups that are to be pruned
    named: Mapping[str, float]  # of those that a glob means
    counts: Mapping[str, int]  # that the target shape states
    least: Mapping[str, int]  # that each group keeps


def wanted(groups: Sequence[Group], options: Options) -> Wanted:
    """Return what the options say of the groups of the original.

    Raises:
        OptionError: for a glob that matches nothing, and a shape that the model cannot have.
    """
    units = {group.name: group.units for group in groups}
    ratios, named = select_ratios(groups, options), named_ratios(groups, options)
    return Wanted(options, units, ratios, named, shaped_counts(groups, options), least_counts(groups, options))


def kept_share(goal: float, now: float, left: int) -> float:
    """Return the share of what is there that a round keeps, so that so many rounds end at the goal.

    >>> kept_share(0.25, 1.0, 2), kept_share(0.25, 0.5, 1), kept_share(0.5, 0.4, 3)
    (0.5, 0.5, 1.0)

    Args:
        goal: of the original.
        now: what is there, of the original.
        left: rounds, this one included.
    """
    return float(min(1.0, (goal / now) ** (1 / left)))


def options_of_round(  # noqa: PLR0917 - as they follow from one another
    all_rounds: Wanted,
    units: Mapping[str, int],
    goals: Mapping[str, float],
    now: Mapping[str, float],
    left: int,
    deployed: Mapping[str, float] = MappingProxyType({}),
) -> Options | None:
    """Return the options of one round, in terms of what is there; None where all that is aimed at is reached.

    Args:
        all_rounds: what they come to.
        units: that are there, by group.
        goals: of the targets, as fractions of the original, by kind.
        now: what is there costs, as fractions of the original, by kind of target.
        left: rounds, this one included.
        deployed: what the original costs, in ms or bytes, by kinds of targets that are not of the model but of what is
            made of it in this round: where the model costs less than the goal, what is made of it is still to cost no
            more than that, and the target is that amount.
    """
    options, whole = all_rounds.options, all_rounds.units
    shares = {kind: kept_share(goal, now[kind], left) for kind, goal in goals.items()}
    targets = tuple(
        (kind, share if goals[kind] <= now[kind] else measured_amount(kind, goals[kind] * deployed[kind]))
        for kind, share in shares.items()
        if share < _MET or kind in deployed
    )
    there = {name: count for name, count in units.items() if name in whole}
    named = {
        name: 1 - kept_share(1 - ratio, there[name] / whole[name], left)
        for name, ratio in all_rounds.named.items()
        if name in there and name not in all_rounds.counts
    }
    counts = {
        name: round(there[name] * kept_share(min(count, there[name]) / there[name], 1.0, left))
        for name, count in all_rounds.counts.items()
        if name in there
    }
    is_met = bool(goals) and not targets
    if (
        is_met
        and not any(ratio > _LEAST for ratio in named.values())
        and all(counts[name] >= there[name] for name in counts)
    ):
        return None
    least = {name: min(count, there[name]) for name, count in all_rounds.least.items() if name in there}
    return replace(
        options,
        targets=targets,
        ratio=0.0 if is_met else _common_ratio(all_rounds, there, left),
        ratios=tuple(named.items()),
        shape=tuple(counts.items()),
        min_units=tuple(least.items()),
    )


def _common_ratio(all_rounds: Wanted, there: Mapping[str, int], left: int) -> float:
    """Return the ratio of a round for all groups without one of their own."""
    common = [name for name in all_rounds.ratios if name not in all_rounds.named and name in there]
    if not common or all_rounds.options.ratio == 0:
        return all_rounds.options.ratio
    now = sum(there[name] for name in common) / sum(all_rounds.units[name] for name in common)
    return 1 - kept_share(1 - all_rounds.options.ratio, now, left)


# -- tuning ------------------------------------------------------------------------------------------------


def share_of_tuning(number: int, rounds: int, last: float = LAST) -> float:
    """Return the share of what is left of the tuning that a round gets: all of it in the last one.

    Those before it are alike.

    >>> [share_of_tuning(number, 3) for number in range(3)]
    [0.25, 0.3333333333333333, 1.0]

    Args:
        number: of the round, from 0.
        rounds: how many there are.
        last: the share of all tuning that is for the last one.
    """
    if number == rounds - 1:
        return 1.0
    each = (1 - last) / (rounds - 1)
    return each / (each * (rounds - 1 - number) + last)


def tuning_of_round(options: TuneOptions, spent: float, number: int, rounds: int, *, last: float = LAST) -> TuneOptions:
    """Return the options of tuning with the length that one round has.

    Args:
        options: those of the round but for that: the length is that of all rounds, with a number of steps or a time.
        spent: steps or seconds that rounds before it got.
        number: of the round, from 0.
        rounds: how many there are.
        last: the share of all tuning that is for the last one.

    Raises:
        OptionError: when there are fewer steps than rounds.
    """
    share = share_of_tuning(number, rounds, last)
    if options.time is not None:
        return replace(options, time=(options.time - spent) * share)
    total = options.steps or 0
    if total < rounds:
        raise OptionError(f"rounds {rounds} needs at least {rounds} steps of tuning, got {total}")
    left = total - int(spent)
    return replace(options, steps=max(1, min(round(left * share), left - (rounds - 1 - number))))
