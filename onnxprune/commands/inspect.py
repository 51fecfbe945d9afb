"""`inspect`: groups, costs, and every lock with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxprune import check
from onnxprune.commands.steps.prepare import part_to_run
from onnxprune.dependency import cost
from onnxprune.dependency.account import accounts, unreached
from onnxprune.dependency.groups import carriers, groups, weights
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import Source, load
from onnxprune.graph.model import Constant, Model
from onnxprune.graph.shapes.footprint import check_runnable
from onnxprune.planning.choice import all_reasons, first_sink, why_not
from onnxprune.planning.inspection import Inspection


def inspect(source: Source, inputs: Mapping[str, Sequence[int]] | None = None) -> Inspection:
    """Return the groups of a model, their cost, and every lock with its reason.

    Args:
        source: as for `prune`.
        inputs: shapes of inputs by their name, as for `prune`.

    Raises:
        ModelError: when the model cannot be read, or no run of it is allowed as much memory as it would take.
        OptionError: for an input that is not there, or a shape that it cannot have.
    """
    traced = trace(part_to_run(load(source), dict(check.shapes("inputs", inputs or {}))))
    check_runnable(traced.model, traced.probe)
    all_groups, all_weights = groups(traced), weights(traced)
    elsewhere = _weights_elsewhere(traced.model)
    macs = cost.macs_by_atom(traced)
    reached = {name for name, carried in carriers(all_groups).items() if any(group.prunable for group in carried)}
    locked = {name: constant for name, constant in all_weights.items() if name not in reached}
    return Inspection(
        model=traced.model,
        groups=tuple(sorted(all_groups, key=first_sink)),
        macs=cost.macs(traced),
        group_macs={group.name: macs.get(group.atom, 0) for group in all_groups},
        locked_params=sum(constant.count for constant in (*locked.values(), *elsewhere.values())),
        unreached=unreached(traced, all_reasons(all_groups), list(locked)) | _by_reader(traced.model, elsewhere),
        accounts=accounts(
            traced, all_groups, {group.name: reason for group in all_groups if (reason := why_not(group)) is not None}
        ),
    )


def _weights_elsewhere(model: Model) -> dict[str, Constant]:
    """Return the weights of the file that only nodes read which cannot be run."""
    names = {name for each in (model.whole.left_out if model.whole else ()) for name in each.reads}
    constants = model.file.constants
    only = sorted(names & constants.keys() - model.constants.keys())
    return {name: constants[name] for name in only if constants[name].is_weight and constants[name].shape}


def _by_reader(model: Model, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return these weights by the reason why they stay: what reads them is not run."""
    left_out = model.whole.left_out if model.whole else ()
    result: dict[str, tuple[str, ...]] = {}
    for name in names:
        reason = f"{next(each.op for each in left_out if name in each.reads)} reads it, which is not run"
        result[reason] = (*result.get(reason, ()), name)
    return result
