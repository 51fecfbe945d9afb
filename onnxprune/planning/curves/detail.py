"""Detail: on how many rows layers are looked at, and how often all units are, so that the algebra stays in a budget.

What takes the time of p³ for p inputs, or of n² p for n rows, is known before anything is run. The finest detail that
fits the budget is taken, the same for all layers: first fewer rows, which makes wide layers cheap, then larger blocks
of units that go at once. Small networks and `thorough` have the finest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxprune.calibration.batches import HELD_EVERY, Calibration
from onnxprune.criteria.elimination import STEPS
from onnxprune.criteria.surgeon import PROBES, gram_work, rows_work
from onnxprune.dependency.groups import Group
from onnxprune.dependency.trace import Trace
from onnxprune.graph.linear import Layer, layers
from onnxprune.graph.model import Model
from onnxprune.planning.curves.effort import EFFORTS
from onnxprune.planning.curves.views import FEW_ROWS, FINEST, LEAST_ROWS, ROWS_PER_INPUT, Detail, taps
from onnxprune.planning.work import atom_sizes, numbers, one_pass
from onnxprune.recovery import refit
from onnxprune.recovery.moments import most_rows

LEVELS = 6  # of a curve, about
_RIDGES = 6  # systems that a fit solves, about: strengths that are tried, and the last one twice


LADDER = (
    FINEST,
    *(Detail(8192, STEPS, widest) for widest in (1600, 1024, 512)),
    *(Detail(rows, STEPS, 256) for rows in (4096, 3072, 2048, 1536)),
    *(Detail(rows, STEPS // 2, 256) for rows in (1536, 1024, 768)),
    *(Detail(rows, STEPS // 4, 256) for rows in (768, 512, 256)),
)


@dataclass(frozen=True, slots=True)
class Size:
    """What decides how long it takes to look at a layer."""

    rows: int  # that the samples give
    ins: int
    outs: int
    taps: int = 1  # inputs of one channel
    units: tuple[int, ...] = ()  # channels of each group whose units it consumes


def for_curves(
    traced: Trace, groups: Sequence[Group], calibration: Calibration, budget: float | None
) -> tuple[Detail, float]:
    """Return the detail of the curves of groups within a budget of work (None: the finest), and their work."""
    known = {layer.node.index: layer for layer in layers(traced.model) if layer.groups == 1}
    consumed: dict[int, list[int]] = {}
    for member in (member for group in groups for member in group.members if member.role == "in"):
        if member.sink[0] in known:
            consumed.setdefault(member.sink[0], []).append(member.places.size)
    batch, sizes = atom_sizes(traced, calibration.batches[0]), []
    for at, units in consumed.items():
        made = len(calibration.batches) * numbers(traced, known[at].output, batch)
        _, outs, ins = known[at].shape(traced.model.constants[known[at].weight].shape)
        sizes.append(Size(rows_of(traced, known[at], made), ins, outs, taps(known[at]), tuple(units)))
    return _finest(sizes, budget, curve_work)


def for_refits(traced: Trace, pruned: Model, calibration: Calibration, budget: float | None) -> tuple[Detail, float]:
    """Return the detail of the refits of a pruned model within a budget of work (None: the finest), and their work."""
    batch, sizes = atom_sizes(traced, calibration.batches[0]), []
    for layer in layers(pruned):
        groups, outs, ins = layer.shape(pruned.constants[layer.weight].shape)
        if groups == 1 and layer.output in traced.values:
            made = len(calibration.batches) * numbers(traced, layer.output, batch)
            sizes.append(Size(rows_of(traced, layer, made), ins, outs))
    return _finest(sizes, budget, refit_work)


def rows_of_refits(traced: Trace, pruned: Model, calibration: Calibration, effort: str) -> int:
    """Return how many rows a refit of a layer of a pruned model sees at most, with an effort."""
    once = one_pass(traced, calibration.batches)
    budget = EFFORTS[effort].spent_on_refits(once, calibration.source == "data")
    return for_refits(traced, pruned, calibration, budget)[0].rows


def curve_work(size: Size, detail: Detail) -> float:
    """Return the work of the moments, the elimination and the errors of one layer."""
    each = size.taps if size.taps > 1 and size.ins > detail.widest else 1  # taps that count as outputs
    ins, outs, taps = size.ins // each, min(PROBES, size.outs * each), size.taps // each
    units = [count * taps for count in size.units]
    most = min(most_rows((1, size.outs, ins), ROWS_PER_INPUT, LEAST_ROWS, detail.rows), size.rows)
    rows = most - most // HELD_EVERY
    judged = sum(2 * ins * min(LEVELS * outs, 2 * count) * (1 + ins / max(1, count) / 2) * count for count in units)
    by_gram = gram_work(rows, ins, units) + min(judged, sum(2 * LEVELS * outs * ins * (ins + count) for count in units))
    if rows >= ins:
        return by_gram
    few = min(rows, FEW_ROWS)
    at_levels = LEVELS * 2 * (few**3 / 3 + outs * few * (few + ins))
    return min(by_gram, rows_work(few, ins, detail.steps, len(units)) + len(units) * at_levels)


def refit_work(size: Size, detail: Detail) -> float:
    """Return the work of the moments and the fit of one layer."""
    rows = min(most_rows((1, size.outs, size.ins), refit.ROWS_PER_INPUT, refit.LEAST_ROWS, detail.rows), size.rows)
    ins, outs = size.ins, size.outs
    if rows >= ins:
        return rows * ins * (ins / 2 + outs) + 2 * (_RIDGES * ins**3 / 3 + 6 * outs * ins**2)
    return rows**2 * ins + 2 * _RIDGES * rows**3 / 3 + 6 * outs * rows * (rows + ins)


def _finest(sizes: Sequence[Size], budget: float | None, work: Callable[[Size, Detail], float]) -> tuple[Detail, float]:
    for detail in LADDER:
        total = sum(work(size, detail) for size in sizes)
        if budget is None or total <= budget:
            break
    return detail, total


def rows_of(traced: Trace, layer: Layer, made: float) -> int:
    """Return how many rows a layer has that makes so many numbers in all batches."""
    return int(made) // max(1, _channels(traced, layer))


def _channels(traced: Trace, layer: Layer) -> int:
    """Return how many numbers of the output a row of the original has."""
    axes = traced.axes(traced.values[layer.output])
    return axes[-1 if layer.window is None else 1].size
