"""The oracle: the pruned model computes what the masked model computes.

*The dense model with the removed units zeroed where they are consumed gives the same output as the pruned model.*
Run on two settings of the dynamic dims, together with onnx's checker, strict shape inference, and a comparison of
inputs and outputs. A model that fails is not written, and the group that broke it is named.

Where the masked and the pruned model do not fit the memory, both are run piece by piece from the same feeds to their
outputs (`runtime.chain`), and the same outputs are compared under the same tolerance: the proof is no weaker, and the
weights of one piece are in memory. Values at the seams are rounded to the type that the graph states for them; a
session of the whole may leave that out between fused nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxprune.data.samples import Data
from onnxprune.dependency.branches import Branch
from onnxprune.dependency.trace import Trace
from onnxprune.errors import DataError, ModelError, VerificationError
from onnxprune.evaluation.difference import TEXT_KINDS, Reference, Run, compare_outputs, open_proto, tolerance_of
from onnxprune.evaluation.intermediate import MaskedAndPruned, check_told, problem_behind, with_noise
from onnxprune.evaluation.settings import settings
from onnxprune.evaluation.telling import loud_outputs
from onnxprune.graph.edit import Content, in_full_precision
from onnxprune.graph.files.aside import with_weights_aside
from onnxprune.graph.files.checks import problems
from onnxprune.graph.files.deferred import defers
from onnxprune.graph.files.encode import serialize
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import signature
from onnxprune.graph.forms.remainder import left_out_nodes
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port
from onnxprune.runtime.chain import Runner, chain
from onnxprune.runtime.session import open_session
from onnxprune.surgery.mask import masked
from onnxprune.surgery.ports import PortChanges, port_changes
from onnxprune.surgery.rewrite import Kept

NOT_FITTED: Mapping[str, Content] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of the oracle."""

    runs: tuple[Run, ...]
    tolerance: float  # of max_rel_diff
    problem: str | None  # one sentence, None if all is well
    noise: float = 0.0  # measured round-off of the masked model, where a difference was above the tolerance
    is_of_groups: bool = True  # whether a group may be to blame: no, where what was made before the cut is wrong

    @property
    def passed(self) -> bool:
        """Whether the pruned model is proven equal to the masked one."""
        return self.problem is None

    @property
    def max_abs_diff(self) -> float:
        """The largest absolute difference of any output in any run."""
        return max((run.max_abs_diff for run in self.runs), default=0.0)

    @property
    def max_rel_diff(self) -> float:
        """The largest relative difference of any output in any run."""
        return max((run.max_rel_diff for run in self.runs), default=0.0)


def verify(
    traced: Trace,
    kept: Kept,
    pruned: Model,
    data: Data | None = None,
    seed: int = 0,
    *,
    inputs: Sequence[Port] | None = None,
    fitted: Mapping[str, Content] = NOT_FITTED,
    gone: Sequence[Branch] = (),
    rewritten: Collection[str] = (),
) -> Verification:
    """Compare a pruned model with the masked one it must equal.

    Args:
        traced: the original with its axes.
        kept: bool ``[units]`` by atom, as passed to `rewrite`.
        pruned: the file that was written, as it was read back.
        data: samples to compare on; random feeds without.
        seed: of the random feeds.
        inputs: those of the model, where the caller fixes the shape of some.
        fitted: constants of the original that hold other numbers since the pruned model was refitted.
        gone: branches of the original that the pruned model lacks.
        rewritten: values between nodes that the pruned model writes otherwise.

    Of caches that are cut, the pruned model gets the kept part of what the masked one gets, and must give that, too.

    Raises:
        ModelError: when the original itself cannot be run.
        DataError: when there are no feeds that it runs on, or an output of it is never finite, or proves nothing.
    """
    tolerance, folder = tolerance_of(traced.model), traced.model.folder
    changes = port_changes(traced, kept, gone)
    if (problem := _static_problem(traced.model.file, pruned.file, changes)) is not None:
        return Verification((), tolerance, problem)
    problem, reference, cases = _part_problem(traced.model, pruned, changes), masked(traced, kept, fitted, gone), []
    if problem is None:
        cases = references(traced.model, reference, data, seed, inputs)
        problem = _plain_problem(traced.model, cases, tolerance)
    if problem is not None:
        return Verification((), tolerance, problem, is_of_groups=False)
    cases = [_of_pruned(case, changes) for case in cases]
    try:
        session = _opened(pruned)
    except ModelError as error:
        return Verification((), tolerance, str(error))
    runs, problem = compare_outputs(session, cases, tolerance)
    if problem is not None:
        with open_proto(reference, folder, optimize=False) as plain:
            cases = [with_noise(case, plain) for case in cases]
            unoptimized = [replace(case, outputs=plain.run(case.feeds), noise={}) for case in cases]
        runs, problem = compare_outputs(session, cases, tolerance)
        if problem is not None:
            pair = reference, pruned
            runs, problem = _compare_otherwise(pair, folder, cases, unoptimized, tolerance) or (runs, problem)
    if problem is None:
        both = MaskedAndPruned(traced, kept, reference, pruned, frozenset(rewritten))
        problem = hidden_problem(both, cases, tolerance)
    noise = max((amount for case in cases for amount in case.noise.values()), default=0.0)
    return Verification(tuple(runs), tolerance, problem, noise)


def plain_problem(model: Model, seed: int, inputs: Sequence[Port]) -> str | None:
    """Return how a model in plain form differs from the file that was read, on random feeds; None where it is equal.

    `verify` looks at that by itself: this is for models that are made of a plain form before anything is proven.
    """
    if model.original is None:
        return None
    return _plain_problem(model, references(model, model.proto, None, seed, inputs), tolerance_of(model))


def _compare_otherwise(
    pair: tuple[Any, Model],
    folder: Path,
    cases: Sequence[Reference],
    unoptimized: Sequence[Reference],
    tolerance: float,
) -> tuple[list[Run], None] | None:
    """Return runs in which both models agree without what runtimes do to them, one thing at a time; None without any.

    Args:
        pair: the masked model, and the file that was written.
        folder: where external data of the first lies.
        cases: feeds, and what the masked model gives.
        unoptimized: the same, with what it gives as it stands in the graph.
        tolerance: of outputs.
    """
    reference, pruned = pair
    return (
        _compare_plain(pruned, unoptimized, tolerance)
        or _compare_exact(reference, folder, pruned, cases, tolerance)
        or _compare_in_full(reference, folder, pruned, cases, tolerance)
    )


def _of_pruned(case: Reference, changes: PortChanges) -> Reference:
    """Return a case with what ports of the pruned model change; an output that it lacks is not compared."""
    outputs = {name: array for name, array in case.outputs.items() if name not in changes.gone}
    return replace(case, outputs=outputs, changes=changes)


def _opened(pruned: Model) -> Runner:
    """Return what runs the very file that was written."""
    pieces = chain(pruned.stored if pruned.path else pruned.proto, pruned.folder, frees=True)
    return pieces or open_session(pruned.path or serialize(pruned.proto), folder=pruned.folder, frees=True)


def hidden_problem(pair: MaskedAndPruned, cases: Sequence[Reference], tolerance: float) -> str | None:
    """Return what is wrong behind outputs that prove little; see `problem_behind`."""
    loud = loud_outputs(cases, tolerance)
    if not loud:
        return None
    try:
        return problem_behind(pair, cases, loud, tolerance)
    except ModelError:  # of a value that no session can give
        check_told(pair, cases, (), tolerance)
        return None


def _plain_problem(model: Model, cases: Sequence[Reference], tolerance: float) -> str | None:
    """Return how a model in plain form differs from the file that was read, on the feeds of the cases."""
    if model.original is None:
        return None
    for optimize in (True, False):  # an optimization that approximates may take hold of one of them alone
        with (
            open_proto(model.original, model.folder, optimize) as first,
            open_proto(model.proto, model.folder, optimize) as plain,
        ):
            expected = [replace(case, outputs=first.run(case.feeds)) for case in cases]
            _, problem = compare_outputs(plain, expected, tolerance)
        if problem is None:
            return None
    problem = _problem_beyond_noise(model, cases, tolerance)
    return problem and f"what was inlined or computed before the cut is wrong: {problem}"


def _problem_beyond_noise(model: Model, cases: Sequence[Reference], tolerance: float) -> str | None:
    """Return how a model in plain form differs from its file by more than round-off, which is measured."""
    with (
        open_proto(model.original, model.folder) as first,
        open_proto(model.original, model.folder, optimize=False) as unoptimized,
        open_proto(model.proto, model.folder) as plain,
    ):
        expected = [with_noise(replace(case, outputs=first.run(case.feeds)), unoptimized) for case in cases]
        _, problem = compare_outputs(plain, expected, tolerance)
    return problem


def _part_problem(before: Model, after: Model, changes: PortChanges) -> str | None:
    """Return what is wrong outside of the part that is run, where the models are parts: nothing there may change."""
    if before.whole is None or after.whole is None:
        return None
    if _signature(before, changes) != signature(after):
        return "the part of the pruned model that is run has other inputs or outputs than that of the original"
    if [each.key for each in before.whole.left_out] != [each.key for each in after.whole.left_out]:
        return "the pruned model lacks nodes that are not run"
    old, new = left_out_nodes(before), left_out_nodes(after)
    changed = (each for each in before.whole.left_out if old[each.key] != new[each.key])
    return next((f"{each.op} {each.node!r}, which is not run, was changed" for each in changed), None)


def _compare_plain(pruned: Model, cases: Sequence[Reference], tolerance: float) -> tuple[list[Run], None] | None:
    """Compare with ONNX Runtime's optimizations off on both sides; return the runs if they agree, None if not.

    Some optimizations approximate: from version 1.32 on a product with a dequantized weight quantizes the activations,
    too, where the weight has one scale. They can take hold of one of two equal models alone, so that what was cut is
    proven without them.
    """
    try:
        with open_proto(pruned.proto, pruned.folder, optimize=False) as plain:
            runs, problem = compare_outputs(plain, cases, tolerance)
    except ModelError:
        return None
    return (runs, None) if problem is None else None


def _compare_exact(
    reference: Any, folder: Path, pruned: Model, cases: Sequence[Reference], tolerance: float
) -> tuple[list[Run], None] | None:
    """Compare with integer products that do not saturate on both sides; return the runs if they agree, None if not.

    On x64 without VNNI, ONNX Runtime adds products of uint8 and int8 in pairs that saturate. Which are paired changes
    with every removed unit, so that only sums without saturation tell whether the surgery was right.
    """
    dense = open_proto(reference, folder, exact=True)
    return _agreeing(dense, open_proto(pruned.proto, pruned.folder, exact=True), cases, tolerance)


def _compare_in_full(
    reference: Any, folder: Path, pruned: Model, cases: Sequence[Reference], tolerance: float
) -> tuple[list[Run], None] | None:
    """Compare without kernels that round activations on both sides; return the runs if they agree, None if not.

    Such a kernel rounds a row by what it holds, and what is summed in which order depends on its length, so that a
    right cut comes out otherwise. How far it may is measured: as they are, both models differ by no more than a few
    times what rounding changes in the masked one.
    """
    dense, small = in_full_precision(reference), in_full_precision(pruned.proto)
    if dense is None or small is None:
        return None
    agreeing = _agreeing(open_proto(dense, folder), open_proto(small, pruned.folder), cases, tolerance)
    if agreeing is None:
        return None
    try:
        with open_proto(dense, folder) as full, open_proto(pruned.proto, pruned.folder) as written:
            _, beyond = compare_outputs(written, [with_noise(case, full) for case in cases], tolerance)
    except ModelError:
        return None
    return agreeing if beyond is None else None


def _agreeing(
    first: AbstractContextManager[Runner],
    second: AbstractContextManager[Runner],
    cases: Sequence[Reference],
    tolerance: float,
) -> tuple[list[Run], None] | None:
    """Return the runs of two models that agree on the cases, None where they do not or cannot be run."""
    try:
        with first as dense, second as small:
            expected = [replace(case, outputs=dense.run(case.feeds), noise={}) for case in cases]
            runs, problem = compare_outputs(small, expected, tolerance)
    except ModelError:
        return None
    return (runs, None) if problem is None else None


def read_back(path: Path) -> Model:
    """Return the model that was just written, read as a user would; where tensors are deferred, its weights are aside.

    Raises:
        VerificationError: when it cannot be read: that is our fault, not the user's.
    """
    try:
        model = load(path)
        return with_weights_aside(model) if defers() else model
    except ModelError as error:
        reason = str(error).replace(f"{path}: ", "")
        raise VerificationError(
            f"the pruned model is wrong and was not written: {reason}. Please report the model"
        ) from None


def references(
    model: Model, reference: Any, data: Data | None, seed: int, inputs: Sequence[Port] | None
) -> list[Reference]:
    """Return what the masked model gives; its session is closed, and its memory free.

    Raises:
        DataError: when it runs on no feeds, or an output has no finite number in any run: it could not be compared.
    """
    with open_proto(reference, model.folder) as dense:
        all_references = settings(model, dense, data, seed, inputs)
    for name in all_references[0].outputs:
        outputs = [case.outputs[name] for case in all_references]
        numeric = [output for output in outputs if output.size and output.dtype.kind not in TEXT_KINDS]
        if numeric and not any(np.isfinite(output.astype(np.float64)).any() for output in numeric):
            raise DataError(
                f"output {name!r} of the original is not finite on the feeds used, so that nothing can be proven; "
                "give samples with --data, or mend the weights"
            )
    return all_references


def _signature(model: Model, changes: PortChanges) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return inputs and outputs as the pruned model must have them."""
    inputs, outputs = signature(model)
    return changes.ports(inputs), changes.ports(outputs)


def _static_problem(before: Model, after: Model, changes: PortChanges) -> str | None:
    """Return what is wrong with the pruned graph itself; faults that the original has too do not count."""
    fault = problems(after.proto)
    if fault is not None and problems(before.proto) is None:
        return f"the pruned graph is not valid: {fault.splitlines()[0]}"
    if _signature(before, changes) != signature(after):
        return "the pruned model has other inputs or outputs than the original"
    return None
