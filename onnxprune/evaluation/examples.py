"""A handful of samples with what two models make of each, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np

from onnxprune.data.batching import Piece
from onnxprune.data.samples import Data
from onnxprune.evaluation.thumbnails import thumbnail
from onnxprune.graph.tensors import Array
from onnxprune.metrics.arrays import Arrays, Function, beside_ids, in_double, mask_input
from onnxprune.metrics.boxes import found_boxes
from onnxprune.metrics.dense import snr_db
from onnxprune.metrics.heads import Head, find_head, head_boxes
from onnxprune.metrics.kinds import choose_metric
from onnxprune.metrics.matching import Detections, above
from onnxprune.metrics.metric import Metric, counted_tokens
from onnxprune.runtime.chain import Runner

MOST = 6  # samples
_BEST = 3  # classes of a sample, or words
_BOXES = 12  # of a sample
_VALUES = 24  # numbers or words of an input that are shown
_TOKENS = 64  # of a text that is shown
_PAST = "past"  # in the names of caches
_CHANNELS = (1, 3)  # of a picture

Text: TypeAlias = Callable[[Sequence[int]], "str | None"]  # of ids; None where some are no tokens


@dataclass(frozen=True)
class Reader:
    """What gives the text of ids, or why the tokenizer beside a model does not; nothing where there is none."""

    text: Text | None = None
    why_none: str | None = None


@dataclass(frozen=True)
class Words:
    """How ids are read by people."""

    text: Text
    inputs: Collection[str] = field(default=())  # that hold ids


@dataclass(frozen=True)
class _Beside:
    """What is known of a sample beside its outputs."""

    feeds: Arrays
    words: Words | None
    head: Head | None  # of a detector, where the original has one


def examples(
    pair: tuple[Runner, Runner], data: Data, metric: str | Function | None, words: Words | None = None
) -> dict[str, Any]:
    """Return some samples, evenly spaced, with the answers of both models; docs/report.md has the fields.

    Args:
        pair: the original and the other model.
        data: samples as both take them.
        metric: what of the outputs is compared, as for `compare`.
        words: how ids are read; None shows ids.
    """
    count = min(MOST, data.count)
    numbers = [i * data.count // count for i in range(count)]
    chosen, kind, head = list[dict[str, Any]](), None, _head(pair[0], data, numbers)
    vectors = list[list[Array]]()
    for number in numbers:
        piece = data.piece([number])
        before, after = (_outputs(session, piece) for session in pair)
        feeds, label = piece.own_feeds, None if data.labels is None else int(data.labels[number])
        labels = None if data.labels is None else data.labels[number : number + 1]
        found = choose_metric(before, feeds, labels if metric is None else None, metric)
        kind = kind or found.kind
        beside = _Beside(feeds, words, head)
        sides = [_SHOWN.get(found.loss_by.label, _dense)(found, each, beside) for each in (before, after)]
        inputs = [_input(name, array, _said(name, feeds, words)) for name, array in feeds.items()]
        closeness = _closeness(found, before, after)
        if found.loss_by.vectors is not None:
            vectors.append([each.reshape(-1) for each in found.loss_by.vectors(found, before, after, feeds)])
        chosen.append({"sample": number, "inputs": inputs, "label": label, "answers": sides, "closeness": closeness})
    for side in (0, 1) if len(vectors) == count else ():
        for number, (each, nearest) in enumerate(zip(chosen, _nearest([pair[side] for pair in vectors]), strict=True)):
            named = [(f"sample {chosen[other]['sample']}", alike) for other, alike in nearest if other != number]
            each["answers"][side] = _answer(best=named[:_BEST])
    return {"kind": kind, "samples": chosen}


def _outputs(session: Runner, piece: Piece) -> Arrays:
    outputs = session.run(session.taken(piece.feeds))
    return piece.counting(outputs, piece.axes_of(outputs))


def _head(original: Runner, data: Data, numbers: Sequence[int]) -> Head | None:
    """Return how the raw head of a detector is read, where a picture goes in, by what the original makes of samples."""
    sizes = [
        array.shape[2:] if array.shape[1] in _CHANNELS else array.shape[1:3]
        for array in (data.piece(numbers[:1]).own_feeds.values() if numbers else ())
        if array.ndim == 4 and len(array) == 1 and {array.shape[1], array.shape[3]} & {*_CHANNELS}
    ]
    outputs = (_outputs(original, data.piece([number])) for number in numbers)
    return find_head(outputs, (sizes[0][0], sizes[0][1])) if sizes else None


def _said(name: str, feeds: Arrays, words: Words | None) -> str | None:
    """Return the text of the ids of an input, without padding; of a long one, its beginning and its end.

    None where there is none, so that ids are shown.
    """
    if words is None or name not in words.inputs:
        return None
    ids = feeds[name]
    mask = _mask(name, feeds)
    counted = ids.reshape(-1) if mask is None else ids[feeds[mask][:, -ids.shape[-1] :] != 0]
    shown = [int(each) for each in counted]
    if not shown:
        return None
    if len(shown) <= _TOKENS:
        return words.text(shown) or None
    ends = words.text(shown[: _TOKENS // 2]), words.text(shown[-_TOKENS // 2 :])
    return None if None in ends else f"{ends[0]} … {ends[1]}"


def _mask(name: str, feeds: Arrays) -> str | None:
    """Return the input that says which ids of another one are no padding.

    It is of the same text: `decoder_attention_mask` is that of `decoder_input_ids`. It has their length; more than it
    only where it counts what a cache holds, too.
    """
    ids = feeds[name]
    if ids.ndim != 2:
        return None
    are_cached = any(_PAST in each for each in feeds)
    others = beside_ids(name, feeds)
    return mask_input({each: a for each, a in others.items() if a.shape == ids.shape or are_cached}, ids.shape)


def _nearest(vectors: Sequence[Array]) -> list[list[tuple[int, float]]]:
    """Return for each vector all of them with their cosines, the nearest first."""
    units = np.stack([in_double(each) for each in vectors])
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return [[(int(other), float(row[other])) for other in np.argsort(-row, kind="stable")] for row in units @ units.T]


def _input(name: str, array: Array, text: str | None) -> dict[str, Any]:
    """Return an input of one sample: a picture where it is one, else its text, its first numbers or words."""
    own = array[0] if array.ndim and len(array) == 1 else array
    image = thumbnail(np.asarray(own))
    values = [] if image else [_plain(each) for each in np.asarray(own).reshape(-1)[:_VALUES]]
    return {"name": name, "shape": list(array.shape), "image": image, "values": values, "text": text}


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, np.floating) else str(value)


def _answer(
    *,
    best: Sequence[tuple[str, float]] = (),
    texts: Sequence[str | None] = (),
    boxes: Sequence[Sequence[float]] = (),
    image: str | None = None,
) -> dict[str, Any]:
    """Return what one model says of a sample: named scores, boxes as corners, class and score, or a picture.

    `texts` are what the names stand for, where these are ids.
    """
    named = [{"name": name, "score": _number(score), "text": text} for (name, score), text in zip_longest(best, texts)]
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


def _classes(metric: Metric, outputs: Arrays, _: _Beside) -> dict[str, Any]:
    shares = _shares(outputs[metric.outputs[0]].reshape(-1), metric.probabilities)
    return _answer(best=[(f"class {index}", shares[index]) for index in np.argsort(-shares, kind="stable")[:_BEST]])


def _words(metric: Metric, outputs: Arrays, beside: _Beside) -> dict[str, Any]:
    """Return the likeliest words at the last token that is no padding."""
    scores = outputs[metric.outputs[0]]
    counted = counted_tokens(metric, beside.feeds, scores.shape[:2])[0]
    shares = _shares(scores[0, np.flatnonzero(counted).max(initial=0)], metric.probabilities)
    best = [int(index) for index in np.argsort(-shares, kind="stable")[:_BEST]]
    texts = [] if beside.words is None else [beside.words.text([index]) for index in best]
    return _answer(best=[(f"token {index}", shares[index]) for index in best], texts=texts)


def _boxes(metric: Metric, outputs: Arrays, _: _Beside) -> dict[str, Any]:
    return _answer(boxes=_box_rows(above(found_boxes(metric, outputs)[0], metric.least)))


def _box_rows(boxes: Detections) -> list[tuple[float, ...]]:
    rows = zip(boxes.corners, boxes.classes, boxes.scores, strict=True)
    return [(*corners, float(kind), score) for corners, kind, score in rows][:_BOXES]


def _dense(metric: Metric, outputs: Arrays, beside: _Beside) -> dict[str, Any]:
    if beside.head is not None and beside.head.output in outputs:
        return _answer(boxes=_box_rows(head_boxes(beside.head, outputs)))
    array = outputs[metric.outputs[0]]
    own = np.asarray(array[0] if array.ndim and len(array) == 1 else array)
    if own.dtype.kind not in "fiu" or not own.size:
        return _answer()
    image, numbers = thumbnail(own), in_double(own)
    spread = (("least", numbers.min()), ("mean", numbers.mean()), ("most", numbers.max()))
    return _answer(best=() if image else spread, image=image)


_SHOWN: Mapping[str, Callable[[Metric, Arrays, _Beside], dict[str, Any]]] = {
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
