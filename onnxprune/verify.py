"""The oracle: what the masked model computes, the pruned model computes.

*The dense model with the removed units zeroed where they are consumed gives the same output as the pruned model.*
Run on two settings of the dynamic dims, together with onnx's checker, strict shape inference, and a comparison of
inputs and outputs. A model that fails is not written, and the group that broke it is named.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from onnxprune.axes import kept_mask
from onnxprune.data import Data
from onnxprune.errors import DataError, ModelError, VerificationError
from onnxprune.groups import Group
from onnxprune.model import (
    Array,
    Model,
    Port,
    fits_one_message,
    load,
    problems,
    serialize,
    signature,
    with_outputs,
    write,
)
from onnxprune.probe import Choice, dynamic_dims
from onnxprune.rewrite import Kept, masked, rewrite
from onnxprune.runtime import Session, open_session, random_feeds
from onnxprune.trace import Trace

# Largest difference allowed, relative to the largest magnitude of the output. Float32 round-off of deep networks
# measures 1e-7 to 2e-6 here; a wrong slice gives 1e-2 and more. Half precision has 3 decimal digits.
TOLERANCES = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
NOISE_FACTOR = 10  # a model that amplifies round-off may differ by this multiple of its own measured noise
NOISE_LIMIT = 1e-3  # of an output's range: where round-off makes more of it, the values behind it are compared too
_MASKED = 1e8  # magnitude from which a number stands for infinity
_DEEPEST = 60  # nodes behind an output
_AHEAD, _TAPPED = 16, 1000  # levels behind an output, and values, that are measured at once at most
_TAPPED_ELEMENTS = 2**26  # of these values in one case, by the sizes that the probe gave to dynamic dims
_TEXT = "SUO"  # kinds of numpy types that hold text

# Sizes that are tried for the two settings, until the model runs: all dims different, so that a height is not taken
# for a width; the second setting short, so that a clamped dim shows; then larger, then dims alike, then one sample.
_DIFFERENT = (
    (Choice((2, 5), (8, 9, 10, 11), (64, 96, 160)), Choice((3, 4), (3, 4, 5, 2), (128, 96, 64))),
    (Choice((2, 5), (16, 18, 20, 22), (224, 256, 288)), Choice((3, 4), (12, 14, 10, 15), (256, 224, 192))),
    (Choice((2, 5), (48, 56, 64, 72), (32, 64, 96)), Choice((3, 4), (64, 72, 48, 56), (64, 32, 96))),
)
_SQUARE = (
    (Choice((2,), (5,), (n,)), Choice((3,), (8,), (m,))) for n, m in ((128, 160), (640, 512), (299, 331), (1, 1))
)
_COUNTS = ((2, 3), (1, 1), (24, 48), (8, 16))  # samples for the two cases, the same for data that is given
_ALIKE = (*((first.alike(), second.alike()) for first, second in _DIFFERENT), *_SQUARE)
_ATTEMPTS = (
    *_DIFFERENT,
    *_ALIKE,
    (Choice((24,), (24,), (64,)), Choice((48,), (48,), (96,))),  # frames of videos, blocks of text
    (Choice((2,), (512,), (64,)), Choice((3,), (576,), (96,))),  # waveforms
    *((replace(first, batches=(1,)), replace(second, batches=(1,))) for first, second in (*_DIFFERENT, *_ALIKE)),
)

NOT_FITTED: Mapping[str, Array] = MappingProxyType({})
_FAR = Choice((1,), (1031, 1033, 1039, 1049), (64, 96, 160))

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
    noise: Mapping[str, float] = field(default_factory=dict)  # what round-off makes of each output, where measured


@dataclass(frozen=True, slots=True)
class Verification:
    """What the oracle found."""

    runs: tuple[Run, ...]
    tolerance: float  # of max_rel_diff
    problem: str | None  # one sentence, None if all is well
    noise: float = 0.0  # measured round-off of the masked model, where a difference was above the tolerance

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
    fitted: Mapping[str, Array] = NOT_FITTED,
) -> Verification:
    """Compare a pruned model with the masked one it must equal.

    Args:
        traced: the original with its axes.
        kept: bool ``[units]`` by atom, as given to `rewrite`.
        pruned: the file that was written, as it was read back.
        data: samples to compare on; random feeds without.
        seed: of the random feeds.
        inputs: those of the model, where the caller fixes the shape of some.
        fitted: constants of the original that hold other numbers since the pruned model was refitted.

    Raises:
        ModelError: when the original itself cannot be run.
        DataError: when there are no feeds that it runs on, or an output of it is never finite.
    """
    tolerance = _tolerance(traced.model)
    problem = _static_problem(traced.model, pruned)
    if problem is not None:
        return Verification((), tolerance, problem)
    reference = masked(traced, kept, fitted)
    with _open(reference, traced.model.folder) as dense:
        cases = _references(dense, settings(traced.model, dense, data, seed, inputs))
    problem = _plain_problem(traced.model, cases, tolerance)
    if problem is not None:
        return Verification((), tolerance, problem)
    try:
        session = open_session(pruned.path or serialize(pruned.proto), folder=pruned.folder)
    except ModelError as error:
        return Verification((), tolerance, str(error))
    runs, problem = _compare(session, cases, tolerance)
    if problem is not None:
        with _open(reference, traced.model.folder, optimize=False) as plain:
            cases = [_with_noise(case, plain) for case in cases]
            unoptimized = [replace(case, outputs=plain.run(case.feeds), noise={}) for case in cases]
        runs, problem = _compare(session, cases, tolerance)
        if problem is not None:
            otherwise = _compare_plain(pruned, unoptimized, tolerance)
            otherwise = otherwise or _compare_exact(reference, traced.model.folder, pruned, cases, tolerance)
            runs, problem = otherwise or (runs, problem)
    loud = _loud(cases)
    if problem is None and loud:
        with contextlib.suppress(ModelError):  # of a value that no session can give
            problem = _inside(_Pair(traced, kept, reference, pruned), cases, loud, tolerance)
    noise = max((amount for case in cases for amount in case.noise.values()), default=0.0)
    return Verification(tuple(runs), tolerance, problem, noise)


def _plain_problem(model: Model, cases: Sequence[Reference], tolerance: float) -> str | None:
    """Return in what a model in plain form differs from what was read, on the feeds of the cases."""
    if model.original is None:
        return None
    for optimize in (True, False):  # an optimization that approximates may take hold of one of them alone
        with (
            _open(model.original, model.folder, optimize) as first,
            _open(model.proto, model.folder, optimize) as plain,
        ):
            expected = [replace(case, outputs=first.run(case.feeds)) for case in cases]
            _, problem = _compare(plain, expected, tolerance)
        if problem is None:
            return None
    return f"what was inlined or computed before the cut is wrong: {problem}"


def _compare_plain(pruned: Model, cases: Sequence[Reference], tolerance: float) -> tuple[list[Run], None] | None:
    """Compare with ONNX Runtime's optimizations off on both sides; return the runs if they agree, None if not.

    Some optimizations approximate: from version 1.32 on a product with a dequantized weight quantizes the activations,
    too, where the weight has one scale. They can take hold of one of two equal models alone, so that what was cut is
    proven without them.
    """
    try:
        with _open(pruned.proto, pruned.folder, optimize=False) as plain:
            runs, problem = _compare(plain, cases, tolerance)
    except ModelError:
        return None
    return (runs, None) if problem is None else None


def _compare_exact(
    reference: Any, folder: Path, pruned: Model, cases: Sequence[Reference], tolerance: float
) -> tuple[list[Run], None] | None:
    """Compare with integer products that do not saturate on both sides; return the runs if they agree, None if not.

    On x64 without VNNI, ONNX Runtime adds products of uint8 and int8 in pairs that saturate. Which are paired changes
    with every unit that goes, so that only sums without saturation tell whether the surgery was right.
    """
    try:
        with (
            _open(reference, folder, exact=True) as dense,
            _open(pruned.proto, pruned.folder, exact=True) as small,
        ):
            found = [replace(case, outputs=dense.run(case.feeds), noise={}) for case in cases]
            runs, problem = _compare(small, found, tolerance)
    except ModelError:
        return None
    return (runs, None) if problem is None else None


def _with_noise(case: Reference, plain: Session) -> Reference:
    """Measure what this model makes of round-off, output by output.

    Some networks amplify rounding errors. How much is measured: the same masked model with and without the
    optimizations of ONNX Runtime (`plain`), and on feeds that differ in their last digit, differs by round-off alone.
    """
    return replace(case, noise=_noise(case, plain))


def _noise(case: Reference, plain: Session) -> dict[str, float]:
    noise: dict[str, float] = {}
    for feeds in (case.feeds, {name: _nudged(array) for name, array in case.feeds.items()}):
        again = plain.run(feeds)
        for name, output in case.outputs.items():
            if output.dtype.kind not in _TEXT and output.shape == again[name].shape:
                noise[name] = max(noise.get(name, 0.0), _distance(output, again[name])[1])
    return noise


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two models that must agree."""

    traced: Trace
    kept: Kept
    reference: Any  # the masked model, an onnx.ModelProto
    pruned: Model


def _inside(pair: _Pair, cases: Sequence[Reference], loud: set[str], tolerance: float) -> str | None:
    """Compare what `loud` outputs are computed from, back to where round-off is small; return what is wrong.

    A sigmoid that is nearly 0, or the order of equal scores, is round-off alone, and a class is the same for many
    scores: such an output proves nothing.
    Between the nodes the pruned model has the values of the masked one, without the units that are gone.
    """
    found = _quiet(pair, cases, loud, _AHEAD) or _quiet(pair, cases, loud, 0)
    if found is None:
        return None  # round-off all the way: there is nothing else to compare
    names = tuple(found[0].outputs)
    with _open(with_outputs(pair.pruned.proto, names), pair.pruned.folder) as session:
        _, problem = _compare(session, [_without_units(pair, case) for case in found], tolerance)
    return problem and f"the outputs tell little, and behind them {problem}"


def _quiet(pair: _Pair, cases: Sequence[Reference], loud: set[str], most: int) -> list[Reference] | None:
    """Return the values behind the outputs that are not loud, measured alone; None where there are none.

    Args:
        pair: the models.
        cases: what the outputs are.
        loud: outputs that prove little.
        most: levels that are measured ahead of the one that is looked at.
    """
    names, levels = tuple(cases[0].outputs), _Levels(pair, cases, most)
    for _ in range(_DEEPEST):
        names = _behind(pair.traced, names, loud)
        if not names:
            break
        found = levels.of(names)
        loud = _loud(found)
        if not loud and not levels.are_alone(names):
            found = _measured(pair, names, cases)
            loud = _loud(found)
        if not loud:
            return found
    return None


class _Levels:
    """Values of the masked model further and further behind its outputs, several levels measured at once.

    What is tapped cannot be fused: values that were not measured alone tell where to look, and no more.
    """

    def __init__(self, pair: _Pair, cases: Sequence[Reference], most: int) -> None:
        self._pair, self._cases, self._ahead, self._most = pair, cases, 0, most
        self._names: set[str] = set()
        self._found: list[Reference] = []

    def of(self, names: Sequence[str]) -> list[Reference]:
        """Return these values in every case."""
        if not self._names.issuperset(names):
            self._measure(names)
        return [
            replace(
                case,
                outputs={name: array for name, array in case.outputs.items() if name in names},
                noise={name: amount for name, amount in case.noise.items() if name in names},
            )
            for case in self._found
        ]

    def are_alone(self, names: Sequence[str]) -> bool:
        """Whether no other values were measured with these."""
        return self._names == set(names)

    def _measure(self, names: Sequence[str]) -> None:
        behind, wanted = tuple(names), dict.fromkeys(names)
        for _ in range(self._ahead):
            behind = _behind(self._pair.traced, behind, set(behind))
            more = wanted | dict.fromkeys(behind)
            if len(more) > _TAPPED or sum(map(self._elements, more)) > _TAPPED_ELEMENTS:
                break
            wanted = more
        self._ahead = min(2 * self._ahead + 1, self._most)
        try:
            self._found, self._names = _measured(self._pair, tuple(wanted), self._cases), set(wanted)
        except ModelError:  # of a value that no session can give, and that may never be asked for
            self._ahead = 0
            self._found, self._names = _measured(self._pair, names, self._cases), set(names)

    def _elements(self, name: str) -> int:
        traced = self._pair.traced
        return math.prod(axis.size for axis in traced.axes(traced.values.get(name, ())))


def _loud(cases: Sequence[Reference]) -> set[str]:
    """Return the values that prove little: mostly round-off, or whole numbers, such as the class of the top score."""
    noisy = {name for case in cases for name, amount in case.noise.items() if amount > NOISE_LIMIT}
    return noisy | {name for case in cases for name, output in case.outputs.items() if output.dtype.kind in "biu"}


def _behind(traced: Trace, names: Sequence[str], loud: set[str]) -> tuple[str, ...]:
    """Return `names` with the loud ones replaced by the values that their nodes read."""
    makers = {name: node for node in traced.model.nodes for name in node.outputs if name}
    inputs = {port.name for port in traced.model.inputs}
    found: list[str] = []
    for name in names:
        node = makers.get(name)
        if name not in loud or node is None:
            found.append(name)
        else:
            read = (*node.inputs, *node.captured)
            found += [source for source in read if source in traced.values and source not in inputs]
    return tuple(dict.fromkeys(found))


def _measured(pair: _Pair, names: Sequence[str], cases: Sequence[Reference]) -> list[Reference]:
    """Return what the masked model gives for values between nodes, and their round-off."""
    tapped, folder = with_outputs(pair.reference, names), pair.traced.model.folder
    with _open(tapped, folder) as dense:
        found = [Reference(case.dims, case.feeds, dense.run(case.feeds)) for case in cases]
    with _open(tapped, folder, optimize=False) as plain:
        return [replace(case, noise=_noise(case, plain)) for case in found]


def _without_units(pair: _Pair, case: Reference) -> Reference:
    """Return the values of the masked model without the units that the pruned one does not have."""
    outputs = dict(case.outputs)
    for name, array in case.outputs.items():
        for dim, axis in enumerate(pair.traced.axes(pair.traced.values.get(name, ()))):
            mask = kept_mask(axis, pair.kept)
            if not mask.all() and mask.size == array.shape[dim]:
                outputs[name] = outputs[name].compress(mask, axis=dim)
    return replace(case, outputs=outputs)


def _nudged(array: Array) -> Array:
    """Return the next larger numbers; anything but float32 and float64 stays as it is."""
    return np.nextafter(array, array.dtype.type(np.inf)) if array.dtype.name in ("float32", "float64") else array


def read_back(path: Path) -> Model:
    """Return the model that was just written, read as a user would.

    Raises:
        VerificationError: when it cannot be read: that is our fault, not the user's.
    """
    try:
        return load(path)
    except ModelError as error:
        reason = str(error).replace(f"{path}: ", "")
        raise VerificationError(
            f"the pruned model is wrong and was not written: {reason}. Please report the model"
        ) from None


def _references(dense: Session, cases: Sequence[Case]) -> list[Reference]:
    """Run the masked model on each case.

    Raises:
        DataError: when an output has no finite number in any run: it could not be compared.
    """
    found = [Reference(dims, feeds, dense.run(feeds)) for dims, feeds in cases]
    for name in found[0].outputs:
        outputs = [case.outputs[name] for case in found]
        numeric = [output for output in outputs if output.size and output.dtype.kind not in _TEXT]
        if numeric and not any(np.isfinite(output.astype(np.float64)).any() for output in numeric):
            raise DataError(
                f"output {name!r} of the original is not finite on the feeds used, so that nothing can be proven; "
                "give samples with --data, or mend the weights"
            )
    return found


@contextlib.contextmanager
def _open(proto: Any, folder: Path, optimize: bool = True, exact: bool = False) -> Iterator[Session]:
    """Open a model in memory; one that does not fit a message goes through a temporary file."""
    if fits_one_message(proto):
        yield open_session(serialize(proto), folder=folder, optimize=optimize, exact=exact)
        return
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        write(proto, path, folder)
        yield open_session(path, optimize=optimize, exact=exact)


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
            wrong = f"output {name!r} has shape {output.shape}, expected {reference.shape}"
            return Run(case.dims, np.inf, np.inf), wrong
        if output.dtype.kind in _TEXT:
            different = float((output != reference).any())
            worst_abs, worst_rel = max(worst_abs, different), max(worst_rel, different)
            problem = problem or (f"output {name!r} holds other text than the masked model's" if different else None)
            continue
        absolute, relative, finite = _distance(reference, output)
        worst_abs, worst_rel = max(worst_abs, absolute), max(worst_rel, relative)
        if not finite:
            problem = problem or f"output {name!r} is not finite where the masked model's is"
        elif relative > max(tolerance, NOISE_FACTOR * case.noise.get(name, 0.0)):
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
    differences, sizes = np.abs(wide[usable] - other[usable]), np.abs(wide[usable])
    is_masked = sizes >= _MASKED  # minus infinity, nearly, as a mask makes it: no part of the range
    relative = float((differences[is_masked] / sizes[is_masked]).max(initial=0.0))
    if not is_masked.all():
        largest = max(float(sizes[~is_masked].max()), 1e-30)
        relative = max(relative, float(differences[~is_masked].max()) / largest)
    return float(differences.max()), relative, True


def settings(
    model: Model, session: Session, data: Data | None = None, seed: int = 0, inputs: Sequence[Port] | None = None
) -> list[Case]:
    """Return settings of the dynamic dims with feeds on which the model runs: two, and a long one for lengths.

    Args:
        model: whose inputs are fed.
        session: a session of it, to find sizes that it accepts.
        data: samples to take the feeds from; without, random numbers.
        seed: of the random numbers.
        inputs: those of the model, where the caller fixes the shape of some.

    Returns:
        Two cases, or one where the data holds too few samples for a second one.

    Raises:
        DataError: when the model runs on none of the sizes that are tried, or not on those that are fixed.
    """
    if data is not None:
        return _sampled(model.inputs, session, data)
    ports = tuple(inputs or model.inputs)
    given = ports != tuple(model.inputs)
    return [*(_runnable(ports, session, which, seed, given) for which in (0, 1)), *_far(ports, session, seed)]


def _far(inputs: Sequence[Port], session: Session, seed: int) -> Iterator[Case]:
    """Yield feeds of great length where the model takes them: what is clamped from below shows there."""
    if not any(i and len(port.shape or ()) != 4 for port in inputs for i, _ in dynamic_dims(port)):
        return
    dims = _FAR.of(inputs)
    feeds = random_feeds(inputs, dims, seed)
    with contextlib.suppress(ModelError):
        session.run(feeds)
        yield dims, feeds


def _runnable(inputs: Sequence[Port], session: Session, which: int, seed: int, given: bool = False) -> Case:
    """Return random feeds of the first sizes that the model accepts."""
    reason = ""
    for attempt in _ATTEMPTS:
        dims = attempt[which].of(inputs)
        feeds = random_feeds(inputs, dims, seed + which)
        try:
            session.run(feeds)
        except ModelError as error:
            reason = reason or str(error)
        else:
            return dims, feeds
    if given:
        raise DataError(f"the original model does not run on the sizes given with --input. {reason}")
    raise DataError(
        "the original model runs on none of the sizes tried for its dynamic dims; give sizes with --input NAME=SHAPE, "
        f"or samples with --data. {reason}"
    )


def _sampled(inputs: Sequence[Port], session: Session, data: Data) -> list[Case]:
    """Return the first samples, and others for a second case, in numbers that the model accepts.

    Raises:
        ModelError: when it runs on no number of samples.
    """
    fixed = next((port.shape[0] for port in inputs if port.shape and isinstance(port.shape[0], int)), None)
    tried = [(fixed, fixed)] if fixed is not None else _COUNTS
    reason: ModelError | None = None
    for first, second in tried:
        bounds = [(0, first), (first, first + second)]
        ends = [(start, min(end, data.count)) for start, end in bounds]
        feeds = [_part(data, start, end) for start, end in ends if end - start >= (fixed or 1)]
        try:
            for part in feeds:
                session.run(part)
        except ModelError as error:
            reason = reason or error
        else:
            return [(_dims_of(inputs, part), part) for part in feeds]
    raise reason or ModelError("there are no samples")


def _part(data: Data, start: int, end: int) -> dict[str, Array]:
    """Return the samples from `start` to `end`, of which those of other shapes than the first are left out."""
    return data.take([i for i in range(start, end) if data.shapes(i) == data.shapes(start)])


def _dims_of(inputs: Sequence[Port], feeds: Mapping[str, Array]) -> dict[str, int]:
    return {key: feeds[port.name].shape[i] for port in inputs for i, key in dynamic_dims(port)}


def _tolerance(model: Model) -> float:
    """Return the tolerance of the least precise weights or inputs of the model."""
    names = {constant.dtype.name for constant in model.constants.values() if constant.is_weight and constant.shape}
    names |= {port.dtype.name for port in model.inputs if port.dtype is not None}
    return max((TOLERANCES[name] for name in names if name in TOLERANCES), default=TOLERANCES["float32"])


# -- which group broke it ----------------------------------------------------------------------------------


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
        with _open(masked(traced, part), folder) as dense, _open(proto, folder) as pruned:
            cases = _references(dense, settings(traced.model, dense, data, seed, inputs))
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
