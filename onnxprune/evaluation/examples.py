"""A handful of samples with what two models make of each, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxprune.data.samples import Data
from onnxprune.evaluation.thumbnails import thumbnail
from onnxprune.graph.tensors import Array
from onnxprune.metrics.arrays import Arrays, Function, in_double
from onnxprune.metrics.boxes import found_boxes
from onnxprune.metrics.dense import snr_db
from onnxprune.metrics.kinds import choose_metric
from onnxprune.metrics.matching import above
from onnxprune.metrics.metric import Metric
from onnxprune.runtime.chain import Runner

MOST = 6  # samples
_BEST = 3  # classes of a sample, or words
_BOXES = 12  # of a sample
_VALUES = 24  # numbers or words of an input that are shown


def examples(pair: tuple[Runner, Runner], data: Data, metric: str | Function | None) -> dict[str, Any]:
    """Return some samples, evenly spaced, with the answers of both models; docs/report.md has the fields.

    Args:
        pair: the original and the other model.
        data: samples as both take them.
        metric: what of the outputs is compared, as for `compare`.
    """
    count = min(MOST, data.count)
    chosen, kind = list[dict[str, Any]](), None
    vectors = list[list[Array]]()
    for number in (i * data.count // count for i in range(count)):
        piece = data.piece([number])
        both = [session.run(session.taken(piece.feeds)) for session in pair]
        before, after = (piece.counting(each, piece.axes_of(each)) for each in both)
        feeds, label = piece.own_feeds, None if data.labels is None else int(data.labels[number])
        labels = None if data.labels is None else data.labels[number : number + 1]
        found = choose_metric(before, feeds, labels if metric is None else None, metric)
        kind = kind or found.kind
        sides = [_SHOWN.get(found.loss_by.label, _dense)(found, each, feeds) for each in (before, after)]
        inputs = [_input(name, array) for name, array in feeds.items()]
        closeness = _closeness(found, before, after)
        if found.loss_by.vectors is not None:
            vectors.append([each.reshape(-1) for each in found.loss_by.vectors(found, before, after, feeds)])
        chosen.append({"sample": number, "inputs": inputs, "label": label, "answers": sides, "closeness": closeness})
    for side in (0, 1) if len(vectors) == count else ():
        for number, (each, nearest) in enumerate(zip(chosen, _nearest([pair[side] for pair in vectors]), strict=True)):
            named = [(f"sample {chosen[other]['sample']}", alike) for other, alike in nearest if other != number]
            each["answers"][side] = _answer(best=named[:_BEST])
    return {"kind": kind, "samples": chosen}


def _nearest(vectors: Sequence[Array]) -> list[list[tuple[int, float]]]:
    """Return for each vector all of them with their cosines, the nearest first."""
    units = np.stack([in_double(each) for each in vectors])
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return [[(int(other), float(row[other])) for other in np.argsort(-row, kind="stable")] for row in units @ units.T]


def _input(name: str, array: Array) -> dict[str, Any]:
    """Return an input of one sample: a picture where it is one, else its first numbers or words."""
    own = array[0] if array.ndim and len(array) == 1 else array
    image = thumbnail(np.asarray(own))
    values = [] if image else [_plain(each) for each in np.asarray(own).reshape(-1)[:_VALUES]]
    return {"name": name, "shape": list(array.shape), "image": image, "values": values}


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, np.floating) else str(value)


def _answer(
    *, best: Sequence[tuple[str, float]] = (), boxes: Sequence[Sequence[float]] = (), image: str | None = None
) -> dict[str, Any]:
    """Return what one model says of a sample: named scores, boxes as corners, class and score, or a picture."""
    named = [{"name": name, "score": _number(score)} for name, score in best]
    return {"best": named, "boxes": [[*map(_number, box)] for box in boxes], "image": image}


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _shares(scores: Array, are_shares: bool) -> Array:
    """Return probabilities of class scores ``[classes]``: as they are, or by a softmax."""
    points = in_double(scores)
    if are_shares:
        return points
    raised = np.exp(points - points.max())
    shares: Array = raised / raised.sum()
    return shares


def _classes(metric: Metric, outputs: Arrays, _: Arrays) -> dict[str, Any]:
    shares = _shares(outputs[metric.outputs[0]].reshape(-1), metric.probabilities)
    return _answer(best=[(f"class {index}", shares[index]) for index in np.argsort(-shares, kind="stable")[:_BEST]])


def _words(metric: Metric, outputs: Arrays, feeds: Arrays) -> dict[str, Any]:
    """Return the likeliest words at the last token that is no padding."""
    scores = outputs[metric.outputs[0]][0]
    mask = None if metric.mask is None else feeds.get(metric.mask)
    last = len(scores) - 1 if mask is None else int(np.flatnonzero(mask.reshape(-1)[: len(scores)]).max(initial=0))
    shares = _shares(scores[last], metric.probabilities)
    return _answer(best=[(f"token {index}", shares[index]) for index in np.argsort(-shares, kind="stable")[:_BEST]])


def _boxes(metric: Metric, outputs: Arrays, _: Arrays) -> dict[str, Any]:
    found = above(found_boxes(metric, outputs)[0], metric.least)
    rows = zip(found.corners, found.classes, found.scores, strict=True)
    return _answer(boxes=[(*corners, float(kind), score) for corners, kind, score in rows][:_BOXES])


def _dense(metric: Metric, outputs: Arrays, _: Arrays) -> dict[str, Any]:
    array = outputs[metric.outputs[0]]
    own = np.asarray(array[0] if array.ndim and len(array) == 1 else array)
    if own.dtype.kind not in "fiu" or not own.size:
        return _answer()
    image, numbers = thumbnail(own), in_double(own)
    spread = (("least", numbers.min()), ("mean", numbers.mean()), ("most", numbers.max()))
    return _answer(best=() if image else spread, image=image)


_SHOWN: Mapping[str, Callable[[Metric, Arrays, Arrays], dict[str, Any]]] = {
    "classification": _classes,
    "language model": _words,
    "boxes": _boxes,
}


def _closeness(metric: Metric, before: Arrays, after: Arrays) -> dict[str, Any] | None:
    """Return how alike the first output of both models is, where there is a number for one sample."""
    name = metric.outputs[0]
    one, other = (np.asarray(each[name]) for each in (before, after))
    if one.shape != other.shape or one.dtype.kind not in "fiu":
        return None
    a, b = in_double(one).reshape(-1), in_double(other).reshape(-1)
    if metric.loss_by.label == "embedding":
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        return {"name": "cosine", "value": _number(float(a @ b) / norm) if norm else None}
    if metric.loss_by.label == "dense":
        return {"name": "SNR in dB", "value": _number(snr_db(float(np.square(a - b).sum()), float(np.square(a).sum())))}
    return None
