"""Which group broke a model that is not proven."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.data.samples import Data
from onnxprune.dependency.groups import Group
from onnxprune.dependency.trace import Trace
from onnxprune.errors import ModelError, VerificationError
from onnxprune.evaluation.difference import compare_outputs, open_proto, tolerance_of
from onnxprune.evaluation.settings import settings
from onnxprune.evaluation.verify import Verification, references
from onnxprune.graph.checks import problems
from onnxprune.graph.ports import Port
from onnxprune.surgery.mask import masked
from onnxprune.surgery.rewrite import Kept, rewrite


def blame(
    traced: Trace,
    kept: Kept,
    groups: Sequence[Group],
    data: Data | None = None,
    seed: int = 0,
    *,
    inputs: Sequence[Port] | None = None,
) -> list[str]:
    """Return the names of a smallest set of cut groups that fails alone, by halving; arguments as for `verify`."""
    suspects = [group for group in groups if group.atom in kept]
    while len(suspects) > 1:
        middle = len(suspects) // 2
        halves = (suspects[:middle], suspects[middle:])
        failing = next((half for half in halves if not _passes(traced, kept, half, data, seed, inputs=inputs)), None)
        if failing is None:
            break  # only together
        suspects = failing
    return [group.name for group in suspects]


def _passes(
    traced: Trace,
    kept: Kept,
    groups: Sequence[Group],
    data: Data | None,
    seed: int,
    *,
    inputs: Sequence[Port] | None,
) -> bool:
    part = {group.atom: kept[group.atom] for group in groups}
    proto = rewrite(traced, part).proto
    if problems(proto) is not None:
        return False
    folder = traced.model.folder
    try:
        with open_proto(masked(traced, part), folder) as dense, open_proto(proto, folder) as pruned:
            cases = references(dense, settings(traced.model, dense, data, seed, inputs))
            _, problem = compare_outputs(pruned, cases, tolerance_of(traced.model))
    except ModelError:
        return False
    return problem is None


def failure(verification: Verification, names: Sequence[str]) -> VerificationError:
    """Return the error for a verification that did not pass, with the groups that broke it."""
    shown = ", ".join(repr(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return VerificationError(
        f"the pruned model is wrong and was not written: {verification.problem}. Broken by group {shown}: "
        "leave it out with --ignore, and please report the model"
    )
