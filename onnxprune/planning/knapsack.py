"""Knapsack: how many units each group loses so that the output suffers least at a given cost. Numpy alone.

Each group offers levels of removal, each with a loss; one level per group is picked: a multiple-choice knapsack. Costs
are products of sizes (the MACs of a layer depend on the groups at both of its ends): they are made linear around a
plan, solved by dynamic programming within a few levels of it, and made linear again, until nothing improves. Swaps
then recover what rounding and linear costs have missed: one group gives levels back, another takes some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

BINS = 4000  # of the cost in the dynamic program
ROUNDS = 12
REACH = 3  # levels that one round, or one swap, moves a group by, at most
SWAPS = 2_000  # over the number of groups: so many are made at most
TRIED = 64  # swaps whose true cost is looked at, the best by linear costs first
FEW = 1_000  # plans: where there are no more, each is looked at

Plan = dict[str, int]  # group -> number of its level


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels of removal that one group offers."""

    removed: tuple[int, ...]  # units, ascending, from 0
    losses: tuple[float, ...]  # of the output at these counts, not falling


Cost = Callable[[Mapping[str, int]], float]  # removed units by group -> cost over what is allowed: at most 1 fits


def solve(groups: Mapping[str, Levels], cost: Cost) -> dict[str, int] | None:
    """Return how many units each group loses, None where the search finds no plan that fits.

    Args:
        groups: the levels of each, by name.
        cost: of removed units, relative to the budget.
    """
    start = _proportional(groups, cost) or _cheapest(groups, cost)
    if cost(_removed(groups, start)) > 1:
        return None
    best = _improved(groups, start, cost)
    for _ in range(ROUNDS):
        fitting = _repaired(groups, _round(groups, best, cost), cost)
        if fitting is None:
            break
        candidate = _improved(groups, fitting, cost)
        if _loss(groups, candidate) >= _loss(groups, best) - 1e-12:
            break
        best = candidate
    if math.prod(len(levels.removed) for levels in groups.values()) <= FEW:
        return _removed(groups, _best_of_all(groups, best, cost))
    return _removed(groups, _swapped(groups, best, cost))


def _best_of_all(groups: Mapping[str, Levels], plan: Plan, cost: Cost) -> Plan:
    """Return the best of all plans that fit; `plan`, which does, where none is better."""
    best, least = plan, _loss(groups, plan) - 1e-12
    for levels in product(*(range(len(each.removed)) for each in groups.values())):
        other = dict(zip(groups, levels, strict=True))
        loss = _loss(groups, other)
        if loss < least and cost(_removed(groups, other)) <= 1:
            best, least = other, loss
    return best


def _swapped(groups: Mapping[str, Levels], plan: Plan, cost: Cost) -> Plan:
    """Return the plan after swaps: one group loses fewer units, another more, and the loss falls."""
    for _ in range(SWAPS // max(1, len(groups))):
        swapped = _swap(groups, plan, cost)
        if swapped is None:
            break
        plan = _improved(groups, swapped, cost)
    return plan


def _swap(groups: Mapping[str, Levels], plan: Plan, cost: Cost) -> Plan | None:
    """Return the plan after the best swap that fits, of those that are tried; None where none does."""
    now, moves = cost(_removed(groups, plan)), []
    for name, levels in groups.items():
        for level in range(max(0, plan[name] - REACH), min(len(levels.removed), plan[name] + REACH + 1)):
            if level != plan[name]:
                change = cost(_removed(groups, {**plan, name: level})) - now
                moves.append((name, level, levels.losses[level] - levels.losses[plan[name]], change))
    losses, changes = (np.array([move[at] for move in moves]) for at in (2, 3))
    numbers = np.array([list(groups).index(move[0]) for move in moves])
    both, total = losses[:, None] + losses, changes[:, None] + changes
    slack = np.abs(changes[:, None] * changes)  # costs are products: two changes come to more or less than their sum
    fits = (both < -1e-12) & (now + total - slack <= 1) & (numbers[:, None] < numbers)
    pairs = np.argwhere(fits)
    for first, second in pairs[np.argsort(both[fits], kind="stable")][:TRIED]:
        other = {**plan, **{moves[at][0]: moves[at][1] for at in (first, second)}}
        if cost(_removed(groups, other)) <= 1:
            return other
    return None


def _removed(groups: Mapping[str, Levels], plan: Plan) -> dict[str, int]:
    return {name: groups[name].removed[level] for name, level in plan.items()}


def _loss(groups: Mapping[str, Levels], plan: Plan) -> float:
    return sum(groups[name].losses[level] for name, level in plan.items())


def _proportional(groups: Mapping[str, Levels], cost: Cost) -> Plan | None:
    """Return the plan that takes the same share of the levels of every group, and the least that fits."""
    for share in np.linspace(0, 1, 65):
        plan = {name: round(share * (len(levels.removed) - 1)) for name, levels in groups.items()}
        if cost(_removed(groups, plan)) <= 1:
            return plan
    return None


def _cheapest(groups: Mapping[str, Levels], cost: Cost) -> Plan:
    """Return the plan of least cost that changing one group at a time reaches: fewer units may take more time."""
    plan = {name: len(levels.removed) - 1 for name, levels in groups.items()}
    for _ in range(2):
        for name, levels in groups.items():
            costs = [(cost(_removed(groups, {**plan, name: level})), level) for level in range(len(levels.removed))]
            plan[name] = min(costs)[1]
    return plan


def _round(groups: Mapping[str, Levels], plan: Plan, cost: Cost) -> Plan:
    """Return the best plan near `plan` if costs were linear around it."""
    now = cost(_removed(groups, plan))
    windows, changes, losses = {}, [], []
    for name, levels in groups.items():
        window = range(max(0, plan[name] - REACH), min(len(levels.removed), plan[name] + REACH + 1))
        windows[name] = window
        changes.append([cost(_removed(groups, {**plan, name: level})) - now for level in window])
        losses.append([levels.losses[level] for level in window])
    entries = dynamic(losses, changes, 1 - now)
    return plan if entries is None else {n: windows[n][at] for n, at in zip(groups, entries, strict=True)}


def dynamic(losses: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float) -> list[int] | None:
    """Return the choice of one entry per row with the least sum of losses whose costs sum to `budget` at most.

    Costs are rounded up to one of `BINS` of the budget, so that the budget holds. None where nothing fits.

    >>> dynamic([[0.0, 1.0], [0.0, 5.0]], [[3.0, 1.0], [3.0, 1.0]], 4.0)
    [1, 0]
    """
    least = [min(row) for row in costs]
    room = budget - sum(least)
    if room < 0:
        return None
    unit = max(room, 1e-12) / BINS
    best = np.zeros(BINS + 1)  # least loss at a cost of at most so many units
    picks: list[npt.NDArray[np.intp]] = []
    above = [(np.array(row) - low) / unit - 1e-9 for row, low in zip(costs, least, strict=True)]
    weights = [np.ceil(np.minimum(each, BINS + 1)).astype(int) for each in above]
    for row, weight in zip(losses, weights, strict=True):
        options = np.full((len(row), BINS + 1), np.inf)
        for number, (loss, taken) in enumerate(zip(row, weight, strict=True)):
            if taken <= BINS:
                options[number, taken:] = best[: BINS + 1 - taken] + loss
        picks.append(options.argmin(0))
        best = options.min(0)
    at, entries = BINS, []
    for pick, weight in zip(reversed(picks), reversed(weights), strict=True):
        entries.append(int(pick[at]))
        at -= int(weight[entries[-1]])
    return entries[::-1]


def _repaired(groups: Mapping[str, Levels], plan: Plan, cost: Cost) -> Plan | None:
    """Take more units, the cheapest loss per saved cost first, until the plan fits; None where it never does."""
    plan, now = dict(plan), cost(_removed(groups, plan))
    while now > 1:
        steps = []
        for name, levels in groups.items():
            if plan[name] + 1 < len(levels.removed):
                saved = now - cost(_removed(groups, {**plan, name: plan[name] + 1}))
                lost = levels.losses[plan[name] + 1] - levels.losses[plan[name]]
                steps.append((lost / saved if saved > 0 else np.inf, -saved, name))
        if not steps:
            return None
        _, _, name = min(steps)
        plan[name] += 1
        now = cost(_removed(groups, plan))
    return plan


def _improved(groups: Mapping[str, Levels], plan: Plan, cost: Cost) -> Plan:
    """Give back units, the largest relief first, as long as the plan fits."""
    plan = dict(plan)
    while True:
        steps = [
            (groups[name].losses[level] - groups[name].losses[level - 1], name) for name, level in plan.items() if level
        ]
        for _, name in sorted(steps, reverse=True):
            fewer = {**plan, name: plan[name] - 1}
            if cost(_removed(groups, fewer)) <= 1:
                plan = fewer
                break
        else:
            return plan
