"""Values behind the outputs: they are compared where an output is mostly round-off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.dependency.axes import kept_mask
from onnxprune.dependency.trace import Trace
from onnxprune.errors import DataError, ModelError
from onnxprune.evaluation.difference import TEXT_KINDS, Reference, compare_outputs, distance_between, open_proto
from onnxprune.evaluation.telling import loud_outputs, mute_outputs
from onnxprune.graph.forms.parts import with_outputs
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.runtime.chain import Runner
from onnxprune.surgery.rewrite import Kept

_DEEPEST = 60  # nodes behind an output
_SEARCHES = 16  # how often values behind an output are measured; what is quiet of the last is compared then
_AHEAD, _TAPPED = 16, 1000  # levels behind an output, and values, that are measured at once at most
_TAPPED_ELEMENTS = 2**25  # of these values in one case, by the sizes that the probe gave to dynamic dims


def with_noise(case: Reference, plain: Runner) -> Reference:
    """Measure how much this model amplifies round-off, output by output.

    Some networks amplify rounding errors. How much is measured: the same masked model with and without the
    optimizations of ONNX Runtime (`plain`), and on feeds that differ in their last digit, differs by round-off alone.
    """
    return replace(case, noise=_noise(case, plain))


def _noise(case: Reference, plain: Runner) -> dict[str, float]:
    noise: dict[str, float] = {}
    for feeds in (case.feeds, {name: _nudged(array) for name, array in case.feeds.items()}):
        again = plain.run(feeds)
        for name, output in case.outputs.items():
            if output.dtype.kind not in TEXT_KINDS and output.shape == again[name].shape:
                noise[name] = max(noise.get(name, 0.0), distance_between(output, again[name])[1])
    return noise


@dataclass(frozen=True, slots=True)
class MaskedAndPruned:
    """The two models that must agree."""

    traced: Trace
    kept: Kept
    reference: Any  # the masked model, an onnx.ModelProto
    pruned: Model
    rewritten: frozenset[str] = frozenset()  # values that are written otherwise in the second one: not compared


def problem_behind(pair: MaskedAndPruned, cases: Sequence[Reference], loud: set[str], tolerance: float) -> str | None:
    """Compare the values that `loud` outputs are computed from, back to where round-off is small; return what is wrong.

    A sigmoid that is nearly 0, or the order of equal scores, is round-off alone, a class is the same for many scores,
    and a gate that is shut the same for all: such an output proves nothing.
    Between the nodes the pruned model has the values of the masked one, without the removed units.

    Raises:
        DataError: when an output is one number everywhere, or empty, and so is all that it is computed from.
    """
    quiet = _quiet(pair, cases, loud, tolerance, _AHEAD) or _quiet(pair, cases, loud, tolerance, 0)
    quiet = _comparable(pair, quiet)
    check_told(pair, cases, () if quiet is None else tuple(quiet[0].outputs), tolerance)
    if quiet is None:
        return None  # round-off everywhere: there is nothing else to compare
    names = tuple(quiet[0].outputs)
    with open_proto(with_outputs(pair.pruned.proto, names), pair.pruned.folder) as session:
        _, problem = compare_outputs(session, [_without_units(pair, case) for case in quiet], tolerance)
    return problem and f"the outputs tell little, and behind them {problem}"


def _comparable(pair: MaskedAndPruned, quiet: list[Reference] | None) -> list[Reference] | None:
    """Return the values that both models write alike; None where there are none."""
    if quiet is None or not pair.rewritten:
        return quiet
    each = [
        replace(case, outputs={name: array for name, array in case.outputs.items() if name not in pair.rewritten})
        for case in quiet
    ]
    return each if each and each[0].outputs else None


def check_told(pair: MaskedAndPruned, cases: Sequence[Reference], compared: Sequence[str], tolerance: float) -> None:
    """Raise DataError for an output that proves nothing where no value behind it was compared either.

    An output that no cut reaches has nothing to prove.

    Args:
        pair: the models.
        cases: the outputs of the masked model.
        compared: values behind the outputs that are compared.
        tolerance: of a relative difference.
    """
    for name in mute_outputs(cases, tolerance):
        sources = _sources(pair.traced, name)
        if sources.isdisjoint(compared) and any(_is_cut(pair, source) for source in sources):
            count = sum(case.outputs[name].size for case in cases)
            what = "the same number everywhere" if count else "empty"
            raise DataError(
                f"output {name!r} of the original is {what} on the feeds used, and so is what it is computed from: "
                "that proves nothing; give other samples with --data, or mend the weights"
            )


def _sources(traced: Trace, name: str) -> set[str]:
    """Return the values that a value is computed from, itself included."""
    makers = {output: node for node in traced.model.nodes for output in node.outputs if output}
    reached, waiting = {name}, [name]
    while waiting:
        node = makers.get(waiting.pop())
        new = set() if node is None else {*node.inputs, *node.captured} - {"", *reached}
        reached |= new
        waiting += new
    return reached


def _is_cut(pair: MaskedAndPruned, name: str) -> bool:
    """Whether a value loses units."""
    axes = pair.traced.axes(pair.traced.values.get(name, ()))
    return any(not kept_mask(axis, pair.kept).all() for axis in axes)


def _quiet(
    pair: MaskedAndPruned, cases: Sequence[Reference], loud: set[str], tolerance: float, most: int
) -> list[Reference] | None:
    """Return the values behind the outputs that are not loud, measured alone; None where there are none.

    Args:
        pair: the models.
        cases: the outputs of the masked model.
        loud: outputs that prove little.
        tolerance: of a relative difference.
        most: levels that are measured ahead of the current one, at most.
    """
    names, levels = tuple(cases[0].outputs), _Levels(pair, cases, most)
    measured: list[Reference] = []
    depth, stride = 0, 1
    for _ in range(_SEARCHES):
        further = _far_behind(pair.traced, names, loud, min(stride, _DEEPEST - depth)) if depth < _DEEPEST else ()
        if not further and stride == 1:
            break
        measured = levels.of(further) if further else measured
        loud_there = loud_outputs(measured, tolerance) if further else set()
        if stride > 1 and len(loud_there) < max(1, len(further)):  # too far: what is quiet may begin before
            stride //= 2
            continue
        if not loud_there and not levels.are_alone(further):
            measured = _measured(pair, further, cases)
            loud_there = loud_outputs(measured, tolerance)
        if not loud_there:
            return measured
        depth, names = depth + stride, further
        # Round-off grows on the way to the outputs: where all is loud, so is what comes behind it, and is passed over.
        stride = 2 * stride if len(loud_there) == len(further) else 1
        loud = loud_there
    return _without(measured, loud_outputs(measured, tolerance))


def _without(cases: Sequence[Reference], loud: set[str]) -> list[Reference] | None:
    """Return the values that are not loud; None where there are none."""
    quiet = [
        replace(case, outputs={name: array for name, array in case.outputs.items() if name not in loud})
        for case in cases
    ]
    return quiet if quiet and quiet[0].outputs else None


def _far_behind(traced: Trace, names: Sequence[str], loud: set[str], levels: int) -> tuple[str, ...]:
    """Return the values so many levels behind the loud ones of `names`; none where the inputs are nearer."""
    behind = _behind(traced, names, loud)
    for _ in range(levels - 1):
        behind = _behind(traced, behind, set(behind))
    return behind


class _Levels:
    """Values of the masked model further and further behind its outputs, several levels measured at once.

    Tapped nodes cannot be fused: values that were not measured alone only tell where to look.
    """

    def __init__(self, pair: MaskedAndPruned, cases: Sequence[Reference], most: int) -> None:
        self._pair, self._cases, self._ahead, self._most = pair, cases, 0, most
        self._names: set[str] = set()
        self._tapped: list[Reference] = []

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
            for case in self._tapped
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
            self._tapped, self._names = _measured(self._pair, tuple(wanted), self._cases), set(wanted)
        except ModelError:  # of a value that no session can give, and that may never be needed
            self._ahead = 0
            self._tapped, self._names = _measured(self._pair, names, self._cases), set(names)

    def _elements(self, name: str) -> int:
        traced = self._pair.traced
        return math.prod(axis.size for axis in traced.axes(traced.values.get(name, ())))


def _behind(traced: Trace, names: Sequence[str], loud: set[str]) -> tuple[str, ...]:
    """Return `names` with the loud ones replaced by the values that their nodes read."""
    makers = {name: node for node in traced.model.nodes for name in node.outputs if name}
    apart = {
        port.name for port in traced.model.inputs
    } | traced.model.fixed  # what no feed and no cut before it changes
    value_names: list[str] = []
    for name in names:
        node = makers.get(name)
        if name not in loud or node is None:
            value_names.append(name)
        else:
            read = (*node.inputs, *node.captured)
            value_names += [source for source in read if source in traced.values and source not in apart]
    return tuple(dict.fromkeys(value_names))


def _measured(pair: MaskedAndPruned, names: Sequence[str], cases: Sequence[Reference]) -> list[Reference]:
    """Return the values between nodes of the masked model, and their round-off."""
    tapped, folder = with_outputs(pair.reference, names), pair.traced.model.folder
    with open_proto(tapped, folder) as dense:
        measured = [replace(case, outputs=dense.run(case.feeds), noise={}) for case in cases]
    with open_proto(tapped, folder, optimize=False) as plain:
        return [replace(case, noise=_noise(case, plain)) for case in measured]


def _without_units(pair: MaskedAndPruned, case: Reference) -> Reference:
    """Return the values of the masked model without the units that the pruned one does not have."""
    outputs = dict(case.outputs)
    for name, array in case.outputs.items():
        if name in case.changes.kept:  # a port: what is compared of it is known
            continue
        for dim, axis in enumerate(pair.traced.axes(pair.traced.values.get(name, ()))):
            mask = kept_mask(axis, pair.kept)
            if not mask.all() and mask.size == array.shape[dim]:
                outputs[name] = outputs[name].compress(mask, axis=dim)
    return replace(case, outputs=outputs)


def _nudged(array: Array) -> Array:
    """Return the next larger numbers; anything but float32 and float64 stays as it is."""
    return np.nextafter(array, array.dtype.type(np.inf)) if array.dtype.name in ("float32", "float64") else array
