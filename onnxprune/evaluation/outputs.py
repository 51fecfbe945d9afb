"""Outputs of two models on the same feeds: how far they lie apart, how many answers are right."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.data.batching import Piece
from onnxprune.data.samples import Data, pieces
from onnxprune.errors import DataError, ModelError
from onnxprune.evaluation.comparison import Difference, Fidelity
from onnxprune.graph.tensors import Array
from onnxprune.metrics.arrays import Function, is_float, is_number, row_blocks
from onnxprune.metrics.classification import top1
from onnxprune.metrics.dense import gaps, snr_db
from onnxprune.metrics.kinds import choose_metric
from onnxprune.metrics.metric import Metric, Tally
from onnxprune.runtime.beside import beside
from onnxprune.runtime.chain import Chain, Runner
from onnxprune.runtime.replay import BUDGET_BYTES, KeptBatches

BESIDE_PIECES = 2  # of the samples that both models run on at the same time


def accuracy(session: Runner, data: Data, batch: int) -> float:
    """Return the share of samples whose largest score in the first output is that of the label.

    Args:
        session: of a classifier: its first output is ``[samples, classes]``.
        data: samples with labels.
        batch: samples per run, where the model takes any number of them.

    Raises:
        DataError: without labels, or when the first output or the labels do not fit.
    """
    if data.labels is None:
        raise DataError("accuracy needs an array 'labels' of class indices in the data")
    right = start = 0
    for piece in pieces(data, batch):
        expected = data.labels[start : start + piece.samples]
        start += len(expected)
        outputs = session.run(piece.feeds)
        right += int((top1(piece.counting(outputs, piece.axes_of(outputs)), expected) == expected).sum())
    return right / data.count


@dataclass(frozen=True)
class _Deviation:
    """How far one output of a batch lies from the reference."""

    is_float: bool
    max_diff: float
    max_reference: float
    error: float  # sum of squares
    signal: float  # sum of squares


@dataclass(frozen=True)
class _Batch:
    """What is kept of a batch that was run through both models."""

    samples: int
    deviations: Mapping[str, _Deviation | None]  # by output; None where it cannot be compared


def run_both(
    pair: tuple[Runner, Runner],
    pieces: Iterable[Piece],
    data: Data | None,
    metric: str | Function | None,
    left_out: Collection[str] = (),
) -> tuple[list[_Batch], dict[str, float], Fidelity]:
    """Run both models over all pieces; return the batches, the figures of class scores, and the fidelity.

    Outputs that are `left_out` are not compared: the second model lacks them, or they have other sizes there.
    """
    all_batches: list[_Batch] = []
    tallies: list[Tally] = []
    for start, piece, before, after in _outputs(pair, pieces, is_random=data is None, left_out=left_out):
        n, feeds = piece.samples, piece.own_feeds
        labels = None if data is None or data.labels is None else data.labels[start : start + n]
        tallies = tallies or [each.start() for each in _watched(before, feeds, labels, metric)]
        for tally in tallies:
            tally.add(before, after, feeds, labels)
        all_batches.append(_Batch(n, {name: _deviation(before[name], after[name]) for name in after}))
    classes = [tally for tally in tallies if tally.metric.kind == "classification"]
    fidelity = Fidelity(tallies[0].metric.kind, tallies[0].figures())
    return all_batches, classes[0].figures() if classes else {}, fidelity


def _outputs(
    pair: tuple[Runner, Runner], pieces: Iterable[Piece], *, is_random: bool, left_out: Collection[str]
) -> Iterator[tuple[int, Piece, dict[str, Array], dict[str, Array]]]:
    """Yield the position of the first sample of each piece, the piece, and what both models give for its samples.

    A run that copies fill up is left out where some output cannot be told apart by sample, unless there is no other:
    copies would count as samples do.
    """
    mixed: list[tuple[int, Piece, dict[str, Array], dict[str, Array]]] = []
    start, is_empty = 0, True

    for piece, *both in _runs(pair, pieces, is_random):
        before, after = ({name: array for name, array in each.items() if name not in left_out} for each in both)
        axes = piece.axes_of(before)
        paired = {name: after[other] for name, other in _pairs(before, after)}
        item = start, piece, piece.counting(before, axes), piece.counting(paired, axes)
        start += piece.samples
        if None in axes.values():
            mixed = mixed or [item]
        else:
            is_empty = False
            yield item
    yield from mixed if is_empty else ()


def _runs(
    pair: tuple[Runner, Runner], pieces: Iterable[Piece], is_random: bool
) -> Iterator[tuple[Piece, dict[str, Array], dict[str, Array]]]:
    """Yield each piece with what both models give for it; chains go through all of them together."""
    first, second = pair
    if isinstance(first, Chain) and isinstance(second, Chain):
        taken = list(pieces)
        expected = KeptBatches(BUDGET_BYTES)  # so that no piece of both models is open at the same time
        for outputs in first.runs([first.taken(piece.feeds) for piece in taken]):
            expected.append(outputs)
        others = second.runs([second.taken(piece.feeds) for piece in taken])
        yield from ((piece, dict(one), other) for piece, one, other in zip(taken, expected, others, strict=True))
        return

    def run(piece: Piece) -> tuple[Piece, dict[str, Array], dict[str, Array]]:
        before, after = (_run(session, session.taken(piece.feeds), is_random) for session in pair)
        return piece, before, after

    most = BESIDE_PIECES if all(session.provider == "cpu" for session in pair) else 1  # of a device, memory is short
    yield from beside(run, pieces, most)


def _watched(
    before: Mapping[str, Array],
    feeds: Mapping[str, Array],
    labels: Array | None,
    metric: str | Function | None,
) -> list[Metric]:
    """Return the metric that is compared, and that of class scores beside it where another one is requested."""
    main_metric = choose_metric(before, feeds, labels, metric)
    if metric is None or main_metric.kind == "classification":
        return [main_metric]
    return [main_metric, *(each for each in [choose_metric(before, feeds)] if each.kind == "classification")]


def _run(session: Runner, feeds: Mapping[str, Array], is_random: bool) -> dict[str, Array]:
    try:
        return session.run(feeds)
    except ModelError as error:
        if not is_random:
            raise
        hint = "the feeds were random, of default sizes; give real ones with --data"
        raise ModelError(f"{error} ({hint})") from None


def _pairs(before: Mapping[str, Array], after: Mapping[str, Array]) -> list[tuple[str, str]]:
    """Return which outputs belong together: those of equal names, or all by position if no name is shared."""
    shared = [(name, name) for name in before if name in after]
    if len(before) != len(after) or 0 < len(shared) < len(before):
        both = f"{', '.join(before)} in the first, {', '.join(after)} in the second"
        raise ModelError(f"the models cannot be compared: their outputs differ, {both}")
    return shared or list(zip(before, after, strict=True))


def _deviation(reference: Array, other: Array) -> _Deviation | None:
    """Compare two arrays, see `metrics.dense.gaps`.

    Block by block: in double precision, those of a vocabulary would be held several times.
    """
    if reference.shape != other.shape or not (is_number(reference) and is_number(other)):
        return None
    old, new = reference.reshape(-1), other.reshape(-1)
    parts = [_deviation_of(old[at], new[at], is_float(reference)) for at in row_blocks(old.size, 1)]
    return _merged(parts) if parts else _Deviation(is_float(reference), 0.0, 0.0, 0.0, 0.0)


def _deviation_of(reference: Array, other: Array, is_of_floats: bool) -> _Deviation:
    """Compare two arrays of so few numbers that they may be held in double precision."""
    diff, a = gaps(reference, other), reference.astype(np.float64)
    finite = np.where(np.isfinite(a), a, 0.0)
    with np.errstate(over="ignore"):
        error, signal = float(np.square(diff).sum()), float(np.square(finite).sum())
    maxima = float(diff.max(initial=0.0)), float(np.abs(finite).max(initial=0.0))
    return _Deviation(is_of_floats, *maxima, error, signal)


def difference_of(
    all_batches: Sequence[_Batch], agreement: float | None, resized: Sequence[str] = (), gone: Sequence[str] = ()
) -> Difference:
    """Return how far the outputs of all batches lie apart, of the worst output.

    Args:
        all_batches: what was run.
        agreement: as of `Difference`.
        resized: outputs that were left out since they have other sizes in the second model.
        gone: inputs and outputs that it lacks.
    """
    outputs = {name: [batch.deviations[name] for batch in all_batches] for name in all_batches[0].deviations}
    whole = {name: _merged(parts) for name, parts in outputs.items()}
    good = [deviation for deviation in whole.values() if deviation is not None]
    counted = [deviation for deviation in good if deviation.is_float] or good
    return Difference(
        max_abs_diff=max((each.max_diff for each in counted), default=None),
        max_rel_diff=max((_ratio(each.max_diff, each.max_reference) for each in counted), default=None),
        snr_db=min((snr_db(each.error, each.signal) for each in counted), default=None),
        agreement=agreement,
        incomparable=(*(name for name, deviation in whole.items() if deviation is None), *resized),
        gone=tuple(gone),
    )


def _merged(parts: Sequence[_Deviation | None]) -> _Deviation | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return _Deviation(
        is_float=known[0].is_float,
        max_diff=max(part.max_diff for part in known),
        max_reference=max(part.max_reference for part in known),
        error=sum(part.error for part in known),
        signal=sum(part.signal for part in known),
    )


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else math.inf
