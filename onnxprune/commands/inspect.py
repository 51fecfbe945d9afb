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
    all_groups, all_weights = groups(traced), weights(traced)
    macs = cost.macs_by_atom(traced)
    reached = {name for name, carried in carriers(all_groups).items() if any(group.prunable for group in carried)}
    locked = {name: constant for name, constant in all_weights.items() if name not in reached}
    return Inspection(
        model=traced.model,
        groups=tuple(sorted(all_groups, key=first_sink)),
        macs=cost.macs(traced),
        group_macs={group.name: macs.get(group.atom, 0) for group in all_groups},
        locked_params=sum(constant.count for constant in locked.values()),
        unreached=unreached(traced, all_reasons(all_groups), list(locked)),
        accounts=accounts(
            traced, all_groups, {group.name: reason for group in all_groups if (reason := why_not(group)) is not None}
        ),
    )
