"""Which group broke a model that is not proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxprune.data.samples import Data
from onnxprune.dependency.groups import Group
from onnxprune.dependency.trace import Trace
from onnxprune.errors import DataError, ModelError, VerificationError
from onnxprune.evaluation.difference import compare_outputs, open_proto, tolerance_of
from onnxprune.evaluation.intermediate import MaskedAndPruned
from onnxprune.evaluation.verify import NOT_FITTED, Verification, hidden_problem, references
from onnxprune.graph.edit import Content, with_contents
from onnxprune.graph.files.checks import problems
from onnxprune.graph.ports import Port
from onnxprune.graph.view import view
from onnxprune.surgery.mask import masked
from onnxprune.surgery.ports import port_changes
from onnxprune.surgery.rewrite import Kept, rewrite


def blame(
    traced: Trace,
    kept: Kept,
    groups: Sequence[Group],
    data: Data | None = None,
    seed: int = 0,
    *,
    inputs: Sequence[Port] | None = None,
    fitted: Mapping[str, Content] = NOT_FITTED,
) -> list[str]:
    """Return the names of a smallest set of cut groups that fails alone, by halving; arguments as for `verify`.

    Several are those of which no half fails: all of them, where that is so from the start.
    """
    if fitted:
        contents = with_contents(traced.model, fitted)
        traced = replace(traced, model=replace(traced.model, proto=contents, path=None))
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
    reference = masked(traced, part)
    try:
        changes = port_changes(traced, part)
        cases = [replace(each, changes=changes) for each in references(traced.model, reference, data, seed, inputs)]
        with open_proto(proto, folder) as pruned:
            tolerance = tolerance_of(traced.model)
            _, problem = compare_outputs(pruned, cases, tolerance)
        if problem is None:
            pair = MaskedAndPruned(traced, part, reference, view(proto, folder=folder))
            problem = hidden_problem(pair, cases, tolerance)
    except ModelError:
        return False
    except DataError:  # this half tells nothing
        return True
    return problem is None


def failure(verification: Verification, names: Sequence[str]) -> VerificationError:
    """Return the error for a verification that did not pass, with the groups that broke it; without any, none did."""
    if not names:
        return VerificationError(
            f"the pruned model is wrong and was not written: {verification.problem}. No group broke it, so that "
            "leaving one out does not help: please report the model"
        )
    shown = ", ".join(repr(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    blamed = f"Broken by group {shown}: leave it out"
    if len(names) > 1:
        blamed = f"Broken by groups {shown} together, of which no half fails alone: leave some out"
    return VerificationError(
        f"the pruned model is wrong and was not written: {verification.problem}. {blamed} with --ignore, and please "
        "report the model"
    )
