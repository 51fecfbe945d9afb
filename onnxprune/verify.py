"""The oracle: what the masked model computes, the pruned model computes.

*The dense model with the removed units zeroed where they are consumed gives the same output as the pruned model.*
Run on two settings of the dynamic dims, together with onnx's checker, strict shape inference, and a comparison of
inputs and outputs. A model that fails is not written, and the group that broke it is named.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxprune.data import Data
from onnxprune.errors import DataError, ModelError, VerificationError
from onnxprune.groups import Group
from onnxprune.model import Array, Model, Port, fits_one_message, problems, serialize, signature, write
from onnxprune.probe import dynamic_dims
from onnxprune.rewrite import Kept, masked, rewrite
from onnxprune.runtime import Session, open_session, random_feeds
from onnxprune.trace import Trace

# Largest difference allowed, relative to the largest magnitude of the output. Float32 round-off of deep networks
# measures 1e-7 to 2e-6 here; a wrong slice gives 1e-2 and more. Half precision has 3 decimal digits.
TOLERANCES = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
NOISE_FACTOR = 10  # a model that amplifies round-off may differ by this multiple of its own measured noise
_SIDES = ((64, 96), (224, 256), (32, 48), (128, 160), (640, 512))  # images tried until the model runs
_LENGTHS = (5, 8)
_BATCHES = (2, 3)

Case: TypeAlias = "tuple[Mapping[str, int], Mapping[str, Array]]"  # dims, feeds


@dataclass(frozen=True, slots=True)
class Run:
    """One comparison of the two models."""

    dims: Mapping[str, int]  # size of each dynamic dim
    max_abs_diff: float
    max_rel_diff: float  # over the largest magnitude of the masked model's output


@dataclass(frozen=True, slots=True)
class Reference:
    """What the masked model gives on one setting of the dynamic dims."""

    dims: Mapping[str, int]  # size of each dynamic dim
    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Verification:
    """What the oracle found."""

    runs: tuple[Run, ...]
    tolerance: float  # of max_rel_diff
    problem: str | None  # one sentence, None if all is well

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


def verify(traced: Trace, kept: Kept, pruned: Model, data: Data | None = None, seed: int = 0) -> Verification:
    """Compare a pruned model with the masked one it must equal.

    Args:
        traced: the original with its axes.
        kept: bool ``[units]`` by atom, as given to `rewrite`.
        pruned: the file that was written, as it was read back.
        data: samples to compare on; random feeds without.
        seed: of the random feeds.

    Raises:
        ModelError: when the original itself cannot be run.
        DataError: when there are no feeds that it runs on, or an output of it is never finite.
    """
    tolerance = _tolerance(traced.model)
    problem = _static_problem(traced.model, pruned)
    if problem is not None:
        return Verification((), tolerance, problem)
    reference = masked(traced, kept)
    with _open(reference, traced.model.folder) as dense:
        cases = _references(dense, settings(traced.model, dense, data, seed))
    try:
        session = open_session(pruned.path or serialize(pruned.proto), folder=pruned.folder)
    except ModelError as error:
        return Verification((), tolerance, str(error))
    runs, problem = _compare(session, cases, tolerance)
    if problem is not None and runs:
        with _open(reference, traced.model.folder, optimize=False) as plain:
            problem = None if _within_noise(plain, cases, runs[-1]) else problem
    return Verification(tuple(runs), tolerance, problem)


def _references(dense: Session, cases: Sequence[Case]) -> list[Reference]:
    """Run the masked model on each case.

    Raises:
        DataError: when an output has no finite number in any run: it could not be compared.
    """
    found = [Reference(dims, feeds, dense.run(feeds)) for dims, feeds in cases]
    for name in found[0].outputs:
        outputs = [case.outputs[name] for case in found]
        numeric = [output for output in outputs if output.size and output.dtype.kind not in "SUO"]
        if numeric and not any(np.isfinite(output.astype(np.float64)).any() for output in numeric):
            raise DataError(
                f"output {name!r} of the original is not finite on the feeds used, so that nothing can be proven; "
                "give samples with --data, or mend the weights"
            )
    return found


@contextlib.contextmanager
def _open(proto: Any, folder: Path, optimize: bool = True) -> Iterator[Session]:
    """Open a model in memory; one that does not fit a message goes through a temporary file."""
    if fits_one_message(proto):
        yield open_session(serialize(proto), folder=folder, optimize=optimize)
        return
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        write(proto, path, folder)
        yield open_session(path, optimize=optimize)


def _static_problem(before: Model, after: Model) -> str | None:
    """Return what is wrong with the pruned graph itself; faults that the original has too do not count."""
    found = problems(after.proto)
    if found is not None and problems(before.proto) is None:
        return f"the pruned graph is not valid: {found.splitlines()[0]}"
    if signature(before) != signature(after):
        return "the pruned model has other inputs or outputs than the original"
    return None


def _compare(pruned: Session, cases: Sequence[Reference], tolerance: float) -> tuple[list[Run], str | None]:
    """Run the pruned model on each case; stop at the first problem."""
    runs: list[Run] = []
    for case in cases:
        try:
            given = pruned.run(case.feeds)
        except ModelError as error:
            return runs, str(error)
        run, problem = _difference(case, given, tolerance)
        runs.append(run)
        if problem is not None:
            return runs, problem
    return runs, None


def _difference(case: Reference, given: Mapping[str, Array], tolerance: float) -> tuple[Run, str | None]:
    """Compare all outputs of one run; return the worst, and a sentence for the first that is wrong."""
    worst_abs = worst_rel = 0.0
    problem = None
    for name, reference in case.outputs.items():
        output = given[name]
        if output.shape != reference.shape:
            return Run(
                case.dims, np.inf, np.inf
            ), f"output {name!r} has shape {output.shape}, expected {reference.shape}"
        if output.dtype.kind in "SUO":
            different = float((output != reference).any())
            worst_abs, worst_rel = max(worst_abs, different), max(worst_rel, different)
            problem = problem or (f"output {name!r} holds other text than the masked model's" if different else None)
            continue
        absolute, relative, finite = _distance(reference, output)
        worst_abs, worst_rel = max(worst_abs, absolute), max(worst_rel, relative)
        if not finite:
            problem = problem or f"output {name!r} is not finite where the masked model's is"
        elif relative > tolerance:
            problem = problem or (
                f"output {name!r} differs from the masked model by {relative:.1e} of its range, "
                f"more than {tolerance:.0e}"
            )
    return Run(case.dims, worst_abs, worst_rel), problem


def _distance(reference: Array, output: Array) -> tuple[float, float, bool]:
    """Return absolute and relative difference, and whether `output` is finite wherever `reference` is."""
    wide, other = reference.astype(np.float64), output.astype(np.float64)
    usable = np.isfinite(wide)
    if not usable.any():
        return 0.0, 0.0, True
    if not np.isfinite(other[usable]).all():
        return np.inf, np.inf, False
    absolute = float(np.abs(wide - other)[usable].max())
    return absolute, absolute / max(float(np.abs(wide[usable]).max()), 1e-30), True


def _within_noise(plain: Session, cases: Sequence[Reference], run: Run) -> bool:
    """Whether the difference is what this model makes of round-off.

    Some networks amplify rounding errors. How much is measured: the same masked model with and without the
    optimizations of ONNX Runtime (`plain`) differs by round-off alone.
    """
    noise = [_difference(case, plain.run(case.feeds), np.inf)[0].max_rel_diff for case in cases]
    return np.isfinite(run.max_rel_diff) and run.max_rel_diff <= NOISE_FACTOR * max(noise)


def settings(model: Model, session: Session, data: Data | None = None, seed: int = 0) -> list[Case]:
    """Return two settings of the dynamic dims with feeds on which the model runs.

    Args:
        model: whose inputs are fed.
        session: a session of it, to find sizes that it accepts.
        data: samples to take the feeds from; without, random numbers.
        seed: of the random numbers.

    Raises:
        DataError: when the model runs on none of the sizes that are tried.
    """
    if data is not None:
        samples = [_first_samples(model.inputs, data, count) for count in _BATCHES]
        return [(_dims_of(model.inputs, feeds), feeds) for feeds in samples]
    return [_runnable(model.inputs, session, which, seed) for which in (0, 1)]


def _runnable(inputs: Sequence[Port], session: Session, which: int, seed: int) -> Case:
    """Return random feeds of the first sizes that the model accepts."""
    reason = ""
    for batch, sides in itertools.product((_BATCHES[which], 1), _SIDES):  # some graphs fit a batch of one alone
        dims = _sized(inputs, batch, sides[which], _LENGTHS[which])
        feeds = random_feeds(inputs, dims, seed + which)
        try:
            session.run(feeds)
        except ModelError as error:
            reason = reason or str(error)
        else:
            return dims, feeds
    raise DataError(f"the original model runs on none of the sizes tried for its dynamic dims; use --data. {reason}")


def _sized(inputs: Sequence[Port], batch: int, side: int, length: int) -> dict[str, int]:
    dims: dict[str, int] = {}
    for port in inputs:
        is_image = len(port.shape or ()) == 4
        for i, key in dynamic_dims(port):
            dims.setdefault(key, batch if i == 0 else side if is_image and i >= 2 else length)
    return dims


def _first_samples(inputs: Sequence[Port], data: Data, count: int) -> dict[str, Array]:
    fixed = next((p.shape[0] for p in inputs if p.shape and isinstance(p.shape[0], int)), None)
    return {name: array[: fixed or count] for name, array in data.feeds.items()}


def _dims_of(inputs: Sequence[Port], feeds: Mapping[str, Array]) -> dict[str, int]:
    return {key: feeds[port.name].shape[i] for port in inputs for i, key in dynamic_dims(port)}


def _tolerance(model: Model) -> float:
    """Return the tolerance of the least precise weights or inputs of the model."""
    names = {constant.dtype.name for constant in model.constants.values() if constant.is_weight and constant.shape}
    names |= {port.dtype.name for port in model.inputs if port.dtype is not None}
    return max((TOLERANCES[name] for name in names if name in TOLERANCES), default=TOLERANCES["float32"])


# -- which group broke it ----------------------------------------------------------------------------------


def blame(traced: Trace, kept: Kept, groups: Sequence[Group], data: Data | None = None, seed: int = 0) -> list[str]:
    """Return the names of a smallest set of cut groups that fails alone, by halving."""
    suspects = [group for group in groups if group.atom in kept]
    while len(suspects) > 1:
        middle = len(suspects) // 2
        halves = (suspects[:middle], suspects[middle:])
        failing = next((half for half in halves if not _passes(traced, kept, half, data, seed)), None)
        if failing is None:
            break  # only together
        suspects = failing
    return [group.name for group in suspects]


def _passes(traced: Trace, kept: Kept, groups: Sequence[Group], data: Data | None, seed: int) -> bool:
    part = {group.atom: kept[group.atom] for group in groups}
    proto = rewrite(traced, part).proto
    if problems(proto) is not None:
        return False
    folder = traced.model.folder
    try:
        with _open(masked(traced, part), folder) as dense, _open(proto, folder) as pruned:
            cases = _references(dense, settings(traced.model, dense, data, seed))
            _, problem = _compare(pruned, cases, _tolerance(traced.model))
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
