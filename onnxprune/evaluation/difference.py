"""How far two models lie apart on the same feeds, and how far they may."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import ModelError
from onnxprune.graph.files.encode import fits_one_message
from onnxprune.graph.files.message import message
from onnxprune.graph.files.write import write
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.runtime.chain import Runner, chain
from onnxprune.runtime.session import open_session
from onnxprune.surgery.ports import UNCHANGED, PortChanges

# Largest difference allowed, relative to the largest magnitude of the output. Float32 round-off of deep networks
# measures 1e-7 to 2e-6 here; a wrong slice gives 1e-2 and more. Half precision has 3 decimal digits.
TOLERANCES = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
NOISE_FACTOR = 10  # a model that amplifies round-off may differ by this multiple of its own measured noise
MASKED = 1e8  # magnitude from which a number stands for infinity
TEXT_KINDS = "SUO"  # kinds of numpy types that hold text
BLOCK = 2**18  # numbers that are compared at once


@dataclass(frozen=True, slots=True)
class Run:
    """One comparison of the two models."""

    dims: Mapping[str, int]  # size of each dynamic dim
    max_abs_diff: float
    max_rel_diff: float  # over the largest magnitude of the masked model's output


@dataclass(frozen=True, slots=True)
class Reference:
    """The outputs of the masked model on one setting of the dynamic dims."""

    dims: Mapping[str, int]  # size of each dynamic dim
    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]
    noise: Mapping[str, float] = field(default_factory=dict)  # round-off of each output, where measured
    changes: PortChanges = UNCHANGED  # what the pruned model takes and gives of these feeds and outputs


@contextlib.contextmanager
def open_proto(proto: Any, folder: Path, optimize: bool = True, exact: bool = False) -> Iterator[Runner]:
    """Open a model in memory for few runs; one that does not fit a message goes through a temporary file.

    One whose session would not fit the memory is run piece by piece.
    """
    pieces = chain(proto, folder, optimize=optimize, exact=exact, frees=True)
    if pieces is not None:
        yield pieces
        return
    if fits_one_message(proto):
        yield open_session(message(proto, folder), folder=folder, optimize=optimize, exact=exact, frees=True)
        return
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        write(proto, path, folder)
        yield open_session(path, optimize=optimize, exact=exact, frees=True)


def compare_outputs(pruned: Runner, cases: Sequence[Reference], tolerance: float) -> tuple[list[Run], str | None]:
    """Run the pruned model on each case; stop at the first problem."""
    runs: list[Run] = []
    for case in cases:
        try:
            pruned_outputs = pruned.run(case.changes.of(case.feeds))
        except ModelError as error:
            return runs, str(error)
        run, problem = _difference(case, pruned_outputs, tolerance)
        runs.append(run)
        if problem is not None:
            return runs, problem
    return runs, None


def _difference(case: Reference, pruned_outputs: Mapping[str, Array], tolerance: float) -> tuple[Run, str | None]:
    """Compare all outputs of one run; return the worst, and a sentence for the first that is wrong."""
    worst_abs = worst_rel = 0.0
    problem = None
    for name, reference in case.changes.of(case.outputs).items():
        output = pruned_outputs[name]
        if output.shape != reference.shape:
            wrong = f"output {name!r} has shape {output.shape}, expected {reference.shape}"
            return Run(case.dims, np.inf, np.inf), wrong
        if output.dtype.kind in TEXT_KINDS:
            different = float((output != reference).any())
            worst_abs, worst_rel = max(worst_abs, different), max(worst_rel, different)
            problem = problem or (f"output {name!r} holds other text than the masked model's" if different else None)
            continue
        absolute, relative, finite = distance_between(reference, output)
        worst_abs, worst_rel = max(worst_abs, absolute), max(worst_rel, relative)
        if not finite:
            problem = problem or f"output {name!r} is not finite where the masked model's is"
        elif relative > max(tolerance, NOISE_FACTOR * case.noise.get(name, 0.0)):
            problem = problem or (
                f"output {name!r} differs from the masked model by {relative:.1e} of its range, "
                f"more than {tolerance:.0e}"
            )
    return Run(case.dims, worst_abs, worst_rel), problem


def distance_between(reference: Array, output: Array) -> tuple[float, float, bool]:
    """Return absolute and relative difference, and whether `output` is finite wherever `reference` is.

    Block by block: in double precision, whole outputs would be held several times.
    """
    old, new, worst = reference.reshape(-1), output.reshape(-1), np.zeros(4)
    for start in range(0, old.size, BLOCK):
        wide, other = (array[start : start + BLOCK].astype(np.float64) for array in (old, new))
        usable = np.isfinite(wide)
        if not np.isfinite(other[usable]).all():
            return np.inf, np.inf, False
        worst = np.maximum(worst, _distances(wide[usable], other[usable]))
    absolute, of_masked, difference, size = map(float, worst)
    return absolute, max(of_masked, difference / max(size, 1e-30)), True


def _distances(reference: Array, output: Array) -> tuple[float, float, float, float]:
    """Return the largest difference; of masked numbers, relative to each; of the others; and the largest of these."""
    differences, sizes = np.abs(reference - output), np.abs(reference)
    is_masked = sizes >= MASKED  # minus infinity, nearly, as a mask makes it: no part of the range
    others = differences[~is_masked], sizes[~is_masked]
    relative = differences[is_masked] / sizes[is_masked]
    absolute, of_masked, difference, size = (float(each.max(initial=0.0)) for each in (differences, relative, *others))
    return absolute, of_masked, difference, size


def tolerance_of(model: Model) -> float:
    """Return the tolerance of the least precise weights or inputs of the model."""
    names = {constant.dtype.name for constant in model.constants.values() if constant.is_weight and constant.shape}
    names |= {port.dtype.name for port in model.inputs if port.dtype is not None}
    return max((TOLERANCES[name] for name in names if name in TOLERANCES), default=TOLERANCES["float32"])
