"""`inspect`: groups, costs, and every lock with its reason."""

from __future__ import annotations

from onnxprune.dependency import cost
from onnxprune.dependency.account import accounts, unreached
from onnxprune.dependency.groups import carriers, groups, weights
from onnxprune.dependency.trace import trace
from onnxprune.graph.read import Source, load
from onnxprune.planning.choice import all_reasons, first_sink, why_not
from onnxprune.planning.inspection import Inspection


def inspect(source: Source) -> Inspection:
    """Return the groups of a model, their cost, and every lock with its reason.

    Args:
        source: as for `prune`.

    Raises:
        ModelError: when the model cannot be read.
    """
    traced = trace(load(source))
    found = groups(traced)
    by_atom = cost.macs_by_atom(traced)
    reached = {name for name, carried in carriers(found).items() if any(group.prunable for group in carried)}
    everything = weights(traced)
    unreached_names = [name for name in everything if name not in reached]
    return Inspection(
        model=traced.model,
        groups=tuple(sorted(found, key=first_sink)),
        macs=cost.macs(traced),
        group_macs={group.name: by_atom.get(group.atom, 0) for group in found},
        locked_params=sum(constant.count for name, constant in everything.items() if name not in reached),
        unreached=unreached(traced, all_reasons(found), unreached_names),
        accounts=accounts(traced, found, {g.name: reason for g in found if (reason := why_not(g)) is not None}),
    )
