"""Directions: in which a stream varies most on calibration data, at the places where layers read it.

Ashkboos et al. 2024, "SliceGPT", arXiv 2401.15024, section 3.3: the eigenvectors of ``Σ xᵀ x``, with x the rows that a
normalisation gives, before its scale and offset. Moments are summed in float64, batch by batch; values are taken a few
places at a time, and the model goes on from there, so that memory is that of one batch, and each node runs once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnxprune.dependency.frames import Signal
from onnxprune.errors import DataError
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.progress import Progress, silent
from onnxprune.runtime.replay import Feeds, Replay
from onnxprune.runtime.stations import order_of

TAPPED_BYTES = 256 * 2**20  # of the values that one run returns; the others take further runs
_SMALL = 1e-6  # of the largest scale: a unit that is multiplied by less is read by nobody


def second_moments(
    model: Model,
    signals: Mapping[int, Sequence[Signal]],
    batches: Sequence[Feeds],
    *,
    progress: Progress = silent,
    tapped_bytes: int = TAPPED_BYTES,
) -> dict[int, Array]:
    """Return ``xᵀ x / rows`` of what layers read in each frame, summed over the places: ``[units, units]`` float64.

    Places have rows of their own: a head that reads one token counts as much as a layer that reads all.

    Args:
        model: the original.
        signals: by frame, what layers read there.
        batches: feeds by input name.
        progress: called before each run.
        tapped_bytes: of the values that one run returns, about.

    Raises:
        DataError: for a value that is not finite.
        ModelError: when ONNX Runtime cannot run the model.
    """
    order, replay = order_of(model), Replay(model, batches)
    places = [(frame, signal) for frame, each in signals.items() for signal in each]
    places.sort(key=lambda place: order.get(place[1].value, -1))
    totals: dict[int, Array] = {}
    done = 0
    for some in _parts(replay, places, tapped_bytes):
        progress(f"looking at the stream: {done + 1} to {done + len(some)} of {len(places)} places")
        done += len(some)
        sums, rows = dict[int, Array](), [0] * len(some)
        for values in replay.run([signal.value for _, signal in some]):
            for number, (_, signal) in enumerate(some):
                x = _rows(values[signal.value], signal)
                sums[number] = sums.get(number, 0) + x.T @ x
                rows[number] += len(x)
        for number, (frame, _) in enumerate(some):
            totals[frame] = totals.get(frame, 0) + sums[number] / max(1, rows[number])
        if done < len(places) and some[-1][1].value in order:
            replay.advance(some[-1][1].value)
    return totals


def directions(moments: Array) -> tuple[Array, Array]:
    """Return orthogonal directions, those of the largest moments first, and the share of each.

    Args:
        moments: symmetric ``[units, units]``.

    Returns:
        ``[units, units]``, a direction a column, and ``[units]``, which sum to 1; both float64.

    >>> basis, shares = directions(np.diag([1.0, 3.0]))
    >>> np.abs(basis).tolist(), shares.tolist()
    ([[0.0, 1.0], [1.0, 0.0]], [0.75, 0.25])
    """
    values, vectors = np.linalg.eigh((moments + moments.T) / 2)
    values = np.maximum(values[::-1], 0)
    return np.ascontiguousarray(vectors[:, ::-1]), values / max(float(values.sum()), 1e-300)


def _parts(
    replay: Replay, places: Sequence[tuple[int, Signal]], tapped_bytes: int
) -> Iterator[list[tuple[int, Signal]]]:
    """Yield the places in order, as many as one run may return."""
    first = 0
    while first < len(places):
        value = next(replay.run([places[first][1].value], (0,)))[places[first][1].value]
        count = max(1, tapped_bytes // max(1, value.nbytes))
        yield list(places[first : first + count])
        first += count


def _rows(value: Array, signal: Signal) -> Array:
    """Return what layers read, in the directions of the stream and before scale and offset: ``[rows, units]``.

    Raises:
        DataError: where it is not finite.
    """
    x = np.moveaxis(value, signal.dim, -1).astype(np.float64)
    x = x.reshape(-1, x.shape[-1])
    if signal.offset is not None:
        x = x - signal.offset
    if signal.gain is not None:
        seen = np.abs(signal.gain) > _SMALL * np.abs(signal.gain).max()
        x = np.where(seen, x / np.where(seen, signal.gain, 1), 0)
    if not np.isfinite(x).all():
        raise DataError(f"{signal.value!r}, which layers read, holds NaN or infinite values for these samples")
    return x
