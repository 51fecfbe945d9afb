"""Widths and branches in one knapsack: a branch competes with the heads and neurons that it could lose instead.

A branch that may go is an item with one level: all of it, at the loss that the output has without it after repair. What
it saves are the costs of its nodes, whatever is left of their widths; in a plan without the branch, the widths inside
of it cost nothing and save nothing, so that the knapsack leaves them whole. Losses of widths nearly add up while they
are small; those of branches do not: several that are cheap each may cost much together. So what was chosen is measured
together, and the knapsack is solved again with losses of branches that sum to that, until it chooses the same. The plan
with the least sum of what was measured and what curves foretell decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnxprune.dependency.branches import Branch
from onnxprune.dependency.groups import Group
from onnxprune.dependency.trace import Trace
from onnxprune.errors import OptionError
from onnxprune.planning import allocate, knapsack
from onnxprune.planning.choice import named_ratios
from onnxprune.planning.costs import Bound, Costs
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Evidence, demands_on, offered, tied_groups
from onnxprune.planning.targets import MEASURED

ROUNDS = 4  # of solving and measuring together, at most
_PREFIX = "branch "  # in front of the names of branches, which groups may have, too


@dataclass(frozen=True)
class Mix:
    """Branches that go, beside cuts of widths."""

    branches: frozenset[str]  # names; none where widths alone lose less
    loss: float  # of the branches, measured, and of the widths, by their curves


def counted_bounds(options: Options) -> tuple[Bound, ...]:
    """Return the targets that branches and widths are weighed under, as fractions of the original.

    What is measured is no sum over nodes: its fraction stands for that of the MACs, and is met as measured by the
    widths that are cut afterwards.

    Raises:
        OptionError: without targets, and for amounts of what has to be measured or is unknown here.
    """
    if not options.bounds:
        raise OptionError("depth=auto needs a target, such as macs=0.6: what branches and widths are weighed under")
    bounds: dict[str, float] = {}
    for target in options.bounds:
        kind = "macs" if target.kind in MEASURED else target.kind
        if not target.is_fraction:
            raise OptionError(
                f"depth=auto weighs fractions of the original: give {target.kind} as one, not as {target.text}"
            )
        bounds[kind] = min(target.value, bounds.get(kind, 1.0))
    return tuple(bounds.items())


def mixed(
    traced: Trace,
    groups: Sequence[Group],
    ratios: Mapping[str, float],
    options: Options,
    evidence: Evidence,
    *,
    branches: Sequence[Branch],
    alone: Mapping[str, float],
    together: Callable[[frozenset[str]], float],
    gone: Sequence[Branch] = (),
) -> Mix | None:
    """Return which branches go; None where no plan of widths and branches meets the targets.

    Args:
        traced: the model with its axes.
        groups: its groups.
        ratios: ratio by group name: which of them lose units.
        options: with targets, resolved.
        evidence: scores and loss curves of the groups.
        branches: that may go.
        alone: the loss of the output without each of them, by name, beyond that of those that go in any case.
        together: measures the loss without several of them, likewise.
        gone: branches that go in any case.
    """
    bounds, tied = counted_bounds(options), tied_groups(groups, ratios, traced)
    able = {_PREFIX + each.name: each for each in branches if math.isfinite(alone.get(each.name, math.inf))}
    named = {_PREFIX + each.name: each for each in gone}
    costs = Costs(traced, tied, {}, able | named)
    demands = demands_on(traced, groups, tied, ratios=ratios, options=options, scores=evidence.scores)
    of_globs = named_ratios(groups, options).keys()
    own = {first: demand for first, demand in demands.items() if tied[first].keys() & of_globs}
    fixed = {**allocate.removed(own, allocate.allocate(own, "group")), **dict.fromkeys(named, 1)}
    widths = offered({first: demand for first, demand in demands.items() if first not in own}, evidence.curves)

    def solved(scale: float, names: Mapping[str, Branch]) -> tuple[frozenset[str], float] | None:
        items = {
            name: knapsack.Levels((0, 1), (0.0, scale * max(0.0, alone[each.name]))) for name, each in names.items()
        }
        removed = knapsack.solve(
            {**widths, **items}, lambda removed: costs.over(bounds, {**fixed, **removed}) / (1 + 1e-9)
        )
        if removed is None:
            return None
        loss = sum(levels.losses[levels.removed.index(removed[name])] for name, levels in widths.items())
        return frozenset(each.name for name, each in names.items() if removed[name]), loss

    plans = [Mix(going, loss) for going, loss in filter(None, [solved(1.0, {})])]
    seen, scale = set[frozenset[str]](), 1.0
    for _ in range(ROUNDS):
        found = solved(scale, able)
        if found is None or found[0] in seen or not found[0]:
            break
        going, loss = found
        seen.add(going)
        lost, apart = together(going), sum(max(0.0, alone[name]) for name in going)
        if math.isfinite(lost):
            plans.append(Mix(going, lost + loss))
        scale = max(1.0, lost / apart) if apart > 0 and math.isfinite(lost) else 2 * scale
    return min(plans, key=lambda plan: (plan.loss, len(plan.branches)), default=None)
