"""Fidelity: how much of what a model does a smaller model still does.

What is compared follows from the outputs of the original on one batch. The first line that fits decides:

================  ==========================================================================================
kind              outputs
================  ==========================================================================================
classification    there are labels: the first output of floats must be ``[samples, classes]``
language model    floats ``[samples, tokens, vocabulary]``, 256 words or more, beside integers
                  ``[samples, tokens]`` among the inputs, all of which are words of it and not all 0 or 1
boxes             floats ``[.., 4]`` that are corners in order (or centers and sizes from 0 to 1) beside one score,
                  or one per class, for each; or ``[.., 6]``: corners, a score from 0 to 1, a whole number
embedding         the first output of floats, or any beside it: vectors ``[.., width]`` of 2 or 3 axes, 16 wide or
                  more and of length 1; ``[samples, width]`` whose width is a multiple of 32 from 64 on (networks
                  have such widths, and sets of classes hardly ever); ``[samples, tokens, width]`` of such a width
                  beside integers ``[samples, tokens]`` among the inputs; probabilities are none of these
classification    the first output of floats is ``[samples, classes]``, two classes or more; ones may follow
dense             anything else
================  ==========================================================================================

A metric's name overrules the table; then the sizes alone must fit. ``module:function`` names a function of the user,
see `Function`.

Two things are measured. The *loss* of a batch is what can be minimised: 0 for equal outputs, smooth, finite whatever
the finite values are, infinite where the other model gives NaN or infinity and the reference does not. The *figures*
of all batches are what people read. Numpy only; no graph is known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune import boxes, check
from onnxprune.errors import DataError, OptionError

Array: TypeAlias = npt.NDArray[Any]
Flags: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Arrays: TypeAlias = Mapping[str, Array]
Figures: TypeAlias = Mapping[str, "float | None"]  # None for what is not finite, as in JSON
# (reference outputs, outputs, feeds, labels) of a batch to one float or several by name; feeds and labels may be None.
# Batches are averaged by their samples. The first name is the headline; higher is better unless a word of it says
# otherwise (`LOWER`): "top5" and "mAP" rise, "word_error_rate" and "l1Loss" fall.
Function: TypeAlias = Callable[[Arrays, Arrays, "Arrays | None", "Array | None"], Any]

LOWER = ("distance", "divergence", "err", "error", "errors", "kl", "loss", "mae", "mse", "perplexity", "rmse", "wer")
CAP = 1e30  # the largest finite loss
RANKED = 512  # samples at most whose similarities are ranked: the first ones
VOCABULARY = 256  # words at least: those of a model on bytes
WIDTH, MULTIPLE = 64, 32  # of an embedding
UNIT_WIDTH = 16  # of an embedding of length 1
BLOCK = 1 << 21  # numbers that are worked on at once
LEAST_SCORE = 0.25  # of a box that counts, where the original gives any


@dataclass(frozen=True, eq=False)
class Batch:
    """What both models gave for the same feeds."""

    reference: Arrays  # outputs of the original
    outputs: Arrays  # of the other model, by the same names
    feeds: Arrays | None
    labels: Array | None


@dataclass(frozen=True)
class Metric:
    """What is compared, as `choose` decided."""

    kind: str  # a key of `KINDS`, or "function"
    name: str  # of the headline figure
    higher_is_better: bool
    outputs: tuple[str, ...]  # those compared; figures are of the first, but for dense outputs
    distance: str  # the kind whose loss this has: `kind`, but for a function
    probabilities: bool = False  # whether class scores are such, and no logits
    ids: str | None = None  # the input of a language model that holds its words
    shift: int = 1  # which word a token predicts: the next one, or 0 for models that see both sides
    mask: str | None = None  # the input that is 0 where a token is padding
    parts: tuple[str | None, str | None] = (None, None)  # beside boxes: the outputs of their scores and classes
    centers: bool = False  # whether boxes are centers and sizes
    least: float = 0.0  # score of a box that counts
    function: Function | None = field(default=None, repr=False)

    def loss(self, reference: Arrays, outputs: Arrays, feeds: Arrays | None = None) -> float:
        """Return how far the outputs of a batch lie from the reference, 0 for equal ones.

        Classification and language models: mean KL(reference || outputs), in nats; embeddings: mean 1 - cosine; dense
        outputs: mean square error over the variance of the reference; boxes: see `boxes.distance`. Several outputs are
        added up. A function of the user need not be smooth, so that the loss is then that of the kind in the table.

        Args:
            reference: outputs of the original.
            outputs: those of the other model, by the same names.
            feeds: the inputs, which tell what is padding; all tokens count without.
        """
        with np.errstate(all="ignore"):
            found = KINDS[self.distance].loss(self, Batch(reference, outputs, feeds, None))
        if found == math.inf:
            return found
        return CAP if math.isnan(found) else min(max(0.0, found), CAP)

    def start(self) -> Tally:
        """Return an empty tally."""
        return Tally(self)

    def headline(self, figures: Figures) -> str:
        """Return figures in words, as the function of this name."""
        return headline(figures)


class Tally:
    """Figures over batches: sums, and as many vectors as are ranked."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._sums: dict[str, float] = {}
        self._vectors: list[tuple[Array, Array]] = []  # of embeddings, before and after

    def add(self, reference: Arrays, outputs: Arrays, feeds: Arrays | None = None, labels: Array | None = None) -> None:
        """Count a batch.

        Raises:
            DataError: when labels are no classes of the output.
            OptionError: when the user's function does not return numbers.
        """
        with np.errstate(all="ignore"):
            found = _kind(self.metric).sums(self.metric, Batch(reference, outputs, feeds, labels))
        for name, value in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        left = RANKED - sum(len(one) for one, _ in self._vectors)
        if self.metric.kind == "embedding" and left > 0:
            one, other = _sample_vectors(self.metric, reference, outputs, feeds)
            if one.shape == other.shape:
                self._vectors.append((one[:left], other[:left]))

    def figures(self) -> dict[str, float]:
        """Return what was counted; nothing of an empty tally."""
        if not self._sums:
            return {}
        found = _kind(self.metric).figures(self.metric, self._sums)
        if sum(len(one) for one, _ in self._vectors) > 2:  # two pairs of samples at least, else there is no order
            before, after = (np.concatenate(side) for side in zip(*self._vectors, strict=True))
            found["rank_correlation"] = rank_correlation(_similarities(before), _similarities(after))
        return found


@dataclass(frozen=True)
class Kind:
    """One way to compare outputs."""

    name: str  # of the headline figure
    higher_is_better: bool
    find: Callable[[Arrays, Arrays, Array | None, bool], Metric | None]  # outputs, feeds, labels, asked for by name
    loss: Callable[[Metric, Batch], float]
    sums: Callable[[Metric, Batch], dict[str, float]]
    figures: Callable[[Metric, Mapping[str, float]], dict[str, float]]
    needs: str


def choose(
    outputs: Arrays,
    feeds: Arrays | None = None,
    labels: Array | None = None,
    metric: str | Function | None = None,
) -> Metric:
    """Return what is compared, by the outputs of the original on one batch: see the table above.

    Args:
        outputs: of the original.
        feeds: the inputs that gave them.
        labels: ``[samples]``, class indices.
        metric: a kind of the table, ``module:function``, or a function; None decides by the table.

    Raises:
        OptionError: when there is no such kind or function, or the function does not return numbers.
        DataError: when the outputs do not fit the kind, or the labels do not fit the outputs.
    """
    if callable(metric):
        return _of_function(metric, outputs, feeds, labels)
    if metric is not None and ":" in metric:
        return _of_function(check.function("metric", metric), outputs, feeds, labels)
    if metric is not None or labels is not None:
        return _by_name(metric or "classification", outputs, feeds or {}, labels)
    found = (kind.find(outputs, feeds or {}, None, False) for kind in KINDS.values())
    return next(metric for metric in found if metric is not None)


def checked_name(metric: Any) -> str:
    """Return the name of a kind or of a function that is there, spelled as here.

    >>> checked_name("language-model"), checked_name("math:dist")
    ('language model', 'math:dist')

    Raises:
        OptionError: for another name.
    """
    if isinstance(metric, str) and ":" in metric:
        check.function("metric", metric)
        return metric
    known = str(metric).replace("-", " ").replace("_", " ")
    if known not in KINDS:
        raise OptionError(f"unknown metric {metric!r}; there are: {', '.join(KINDS)}, or MODULE:FUNCTION")
    return known


def _by_name(metric: str, outputs: Arrays, feeds: Arrays, labels: Array | None) -> Metric:
    name = checked_name(metric)
    if name == "classification" and labels is not None:
        top1(outputs, labels)
    found = KINDS[name].find(outputs, feeds, labels, True)
    if found is None:
        there = ", ".join(f"{output!r} {array.dtype.name} {list(array.shape)}" for output, array in outputs.items())
        raise DataError(f"metric {name!r} needs {KINDS[name].needs}; the outputs are {there or 'none'}")
    return found


def _metric(kind: str, outputs: Sequence[str], **fields: Any) -> Metric:
    return Metric(kind, KINDS[kind].name, KINDS[kind].higher_is_better, tuple(outputs), kind, **fields)


def _kind(metric: Metric) -> Kind:
    return KINDS.get(metric.kind, _FUNCTION)


# -- what arrays are ---------------------------------------------------------------------------------------


def is_float(array: Array) -> bool:
    """Whether an array holds floats; by name, because bfloat16 is of no kind that numpy knows."""
    return "float" in array.dtype.name


def is_number(array: Array) -> bool:
    """Whether an array holds anything but text and objects."""
    return array.dtype.kind not in "OUS"


def _wide(array: Array) -> Floats:
    """Return an array in double precision, in which no sum is lost."""
    return array.astype(np.float64)


def _flat(outputs: Arrays, name: str) -> Array:
    array = outputs[name]
    return array.reshape(len(array), math.prod(array.shape[1:]))  # -1 would refuse an empty batch


def _first(outputs: Arrays) -> str | None:
    """Return the first output of floats; the first of all where there is none."""
    return next((name for name, array in outputs.items() if is_float(array)), next(iter(outputs), None))


def _samples(arrays: Arrays) -> int | None:
    """Return the samples of a batch: the first axis of the first array that has one."""
    return next((len(array) for array in arrays.values() if array.ndim), None)


def _are_probabilities(array: Array) -> bool:
    """Whether the last axis holds probabilities, by the first rows."""
    if not array.size:
        return False
    x = _wide(array.reshape(-1, array.shape[-1])[:64])
    near = np.abs(x.sum(axis=-1) - 1) < 0.02  # float16 makes so much of 1,000 classes
    return bool((x >= 0).all() and near.all())


def _are_units(array: Array) -> bool:
    norms = np.sqrt(np.square(_wide(array)).sum(axis=-1))
    return bool(norms.size and (np.abs(norms - 1) < 0.01).all())


def _token_inputs(feeds: Arrays, shape: tuple[int, ...]) -> dict[str, Array]:
    """Return the integers ``[samples, tokens]`` among the inputs."""
    return {name: array for name, array in feeds.items() if array.dtype.kind in "iu" and array.shape == shape}


def _mask_of(feeds: Arrays, shape: tuple[int, ...]) -> str | None:
    """Return the input that says which tokens are no padding: named so, or ones in front of zeros in every row."""
    flags = {name: a for name, a in _flags(feeds) if len(a) == shape[0] and a.shape[1] >= shape[1]}
    named = [name for name in flags if "mask" in name.lower()]
    leading = [name for name, a in flags.items() if a[:, 0].all() and (np.diff(a.astype(int)) <= 0).all()]
    return next(iter(named + leading), None)


def _flags(feeds: Arrays) -> Iterator[tuple[str, Array]]:
    for name, array in feeds.items():
        if array.ndim == 2 and array.size and array.dtype.kind in "iub" and ((array == 0) | (array == 1)).all():
            yield name, array


def _counted(metric: Metric, feeds: Arrays | None, shape: tuple[int, ...]) -> Flags:
    """Return which tokens ``[samples, tokens]`` count: those that are no padding."""
    mask = None if metric.mask is None or feeds is None else feeds.get(metric.mask)
    if mask is None or mask.ndim != 2 or len(mask) != shape[0] or mask.shape[1] < shape[1]:
        return np.ones(shape, bool)
    return np.asarray(mask[:, mask.shape[1] - shape[1] :] != 0)  # a mask may go over the past as well


# -- class scores ------------------------------------------------------------------------------------------


def top1(outputs: Arrays, labels: Array) -> Array:
    """Return the index of the largest score per sample ``[samples]``, checked against the labels of a batch.

    Raises:
        DataError: when the first output of floats is not ``[samples, classes]``, or lacks a class of the labels.
    """
    name = _first(outputs)
    scores = np.zeros(0) if name is None else outputs[name]
    if not _is_scores(scores, len(labels)):
        expected = f"[{len(labels)}, classes], one score per class"
        raise DataError(f"accuracy needs a first output {expected}; {name or '(none)'!r} is {list(scores.shape)}")
    classes = scores.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        there = f"labels from {labels.min()} to {labels.max()}"
        raise DataError(f"the data has {there}, but output {name!r} scores classes 0 to {classes - 1}")
    return _tops(_wide(scores.reshape(len(scores), -1)))


def _is_scores(array: Array, samples: int | None) -> bool:
    flat = array.ndim >= 2 and all(dim == 1 for dim in array.shape[2:])
    return flat and is_float(array) and array.shape[1] > 1 and samples in (None, len(array))


def _tops(rows: Floats) -> Array:
    """Return the index of the largest value per row ``[rows]``, the first of equal ones; -1 where any is NaN."""
    return np.where(np.isnan(rows).any(axis=1), -1, np.argmax(rows, axis=1))


def _find_classes(outputs: Arrays, feeds: Arrays, labels: Array | None, asked: bool) -> Metric | None:
    name = _first(outputs)
    samples = _samples(feeds) if labels is None else len(labels)
    if name is None or not _is_scores(outputs[name], samples):
        return None
    are = _are_probabilities(_flat(outputs, name))
    others = [
        other
        for other, array in outputs.items()
        if other != name and _is_scores(array, len(outputs[name])) and not _looks_embedded(array, feeds)
    ]
    alike = [other for other in others if _are_probabilities(_flat(outputs, other)) == are]
    return _metric("classification", [name, *alike], probabilities=are)


def _logs(rows: Floats, are_probabilities: bool) -> Floats:
    """Return the logarithms of probabilities ``[rows, classes]``, of which logits or probabilities are given."""
    x = np.log(np.maximum(rows, 1e-12)) if are_probabilities else np.clip(rows, -1e200, 1e200)
    x -= x.max(axis=1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=1, keepdims=True)))


def _divergences(logs: Floats, other: Floats, is_broken: Flags) -> Floats:
    """Return KL(reference || other) per row, in nats; infinite where the other is broken, 0 without a reference."""
    found = np.maximum((np.exp(logs) * (logs - other)).sum(axis=1), 0.0)
    return np.where(is_broken, np.inf, np.where(np.isnan(found), 0.0, found))


def _broken(reference: Array, other: Array) -> Flags:
    """Return which rows are not finite where the reference is."""
    return np.asarray((np.isfinite(reference) & ~np.isfinite(other)).any(axis=1))


_ROW_SUMS = ("rows", "agreed", "kl", "predicted", "loss_before", "loss_after")


def _row_sums(
    metric: Metric, reference: Array, other: Array, index: Array, words: Array | None = None
) -> dict[str, float]:
    """Return sums over rows of scores: equal top-1, KL, and minus the logarithms of what was to be predicted.

    Args:
        metric: says whether scores are probabilities.
        reference: of the original ``[rows, classes]``.
        other: of the other model; may have other classes.
        index: the rows that count.
        words: for each row the class that it predicts, -1 where that does not count; None where none is known.
    """
    sums = dict.fromkeys(_ROW_SUMS, 0.0)
    for block in _blocks(len(index), reference.shape[1]):
        a, b = (_wide(side[index[block]]) for side in (reference, other))
        sums["rows"] += len(a)
        sums["agreed"] += float((_tops(a) == _tops(b)).sum())
        if a.shape != b.shape:
            sums["kl"] = sums["loss_after"] = math.inf
            continue
        logs, others, is_broken = _logs(a, metric.probabilities), _logs(b, metric.probabilities), _broken(a, b)
        sums["kl"] += float(_divergences(logs, others, is_broken).sum())
        if words is not None:
            target = words[index[block]]
            hit = np.flatnonzero(target >= 0)
            sums["predicted"] += len(hit)
            sums["loss_before"] -= float(logs[hit, target[hit]].sum())
            sums["loss_after"] -= float(np.where(is_broken[hit], -np.inf, others[hit, target[hit]]).sum())
    return sums


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of rows that are worked on at once, so that the memory is bounded."""
    step = max(1, BLOCK // max(1, width))
    yield from (slice(start, start + step) for start in range(0, rows, step))


def _class_loss(metric: Metric, batch: Batch) -> float:
    reference, outputs = batch.reference, batch.outputs
    total = 0.0
    for name in metric.outputs:
        a, b = _flat(reference, name), _flat(outputs, name)
        if a.shape != b.shape:
            return CAP
        total += _row_sums(metric, a, b, np.arange(len(a)))["kl"] / max(1, len(a))
    return total


def _class_sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs, labels = batch.reference, batch.outputs, batch.labels
    a, b = (_flat(side, metric.outputs[0]) for side in (reference, outputs))
    sums = _row_sums(metric, a, b, np.arange(min(len(a), len(b))))
    if labels is not None:
        for key, side in (("right_before", reference), ("right_after", outputs)):
            sums[key] = float((top1(side, labels) == labels).sum())
    return sums


def _class_figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    rows = max(1.0, sums["rows"])
    found = {"agreement": sums["agreed"] / rows, "kl": sums["kl"] / rows}
    if "right_before" in sums:
        found.update(accuracy_before=sums["right_before"] / rows, accuracy_after=sums["right_after"] / rows)
    return found


# -- language models ---------------------------------------------------------------------------------------


def _find_language(outputs: Arrays, feeds: Arrays, labels: Array | None, asked: bool) -> Metric | None:
    for name, array in outputs.items():
        if array.ndim != 3 or not is_float(array) or not (asked or array.shape[2] >= VOCABULARY):
            continue
        ids = _ids_of(feeds, array.shape[:2], array.shape[2])
        if ids is not None:
            mask = _mask_of({each: a for each, a in feeds.items() if each != ids}, array.shape[:2])
            are = _are_probabilities(array)
            found = _metric("language model", [name], ids=ids, mask=mask, probabilities=are)
            return replace(found, shift=_shift(found, array, feeds))
    return None


def _ids_of(feeds: Arrays, shape: tuple[int, ...], vocabulary: int) -> str | None:
    """Return the input that holds words of a vocabulary: of several, the one of the largest numbers.

    Masks and segments are 0 and 1 alone; positions are smaller than the words of a real text.
    """
    inputs = _token_inputs(feeds, shape)
    largest = {name: int(array.max(initial=0)) for name, array in inputs.items()}
    if any(array.min(initial=0) < 0 for array in inputs.values()) or max(largest.values(), default=0) < 2:
        return None
    return max(largest, key=largest.__getitem__) if max(largest.values()) < vocabulary else None


def _shift(metric: Metric, scores: Array, feeds: Arrays) -> int:
    """Return which word is predicted: the next one, or its own where a model that sees all words is surer of that."""
    few = {name: feeds[name][:4] for name in (metric.ids, metric.mask) if name is not None}
    losses = []
    with np.errstate(all="ignore"):
        for shift in (1, 0):
            sums = _word_sums(replace(metric, shift=shift), scores[:4], scores[:4], few)
            losses.append(sums["loss_before"] / sums["predicted"] if sums["predicted"] else math.inf)
    return 0 if losses[1] < losses[0] < math.inf else 1


def _words(metric: Metric, shape: tuple[int, ...], feeds: Arrays | None) -> Array:
    """Return for each token ``[samples, tokens]`` the word that it predicts, -1 where that does not count."""
    ids = None if feeds is None or metric.ids is None else feeds.get(metric.ids)
    if ids is None or ids.shape != shape:
        return np.full(shape, -1)
    words = np.where(_counted(metric, feeds, shape), ids.astype(np.int64), -1)
    if metric.shift:  # padding predicts nothing, and is not predicted
        following = np.where(words[:, :-1] < 0, -1, words[:, 1:])
        words = np.concatenate([following, np.full((len(words), 1), -1)], axis=1)
    return words


def _word_sums(metric: Metric, reference: Array, other: Array, feeds: Arrays | None) -> dict[str, float]:
    """Return sums over the tokens ``[samples, tokens, vocabulary]`` that count."""
    shape = reference.shape[:2]
    if other.shape[:2] != shape:
        return {**dict.fromkeys(_ROW_SUMS, 0.0), "rows": 1.0, "kl": math.inf}
    index = np.flatnonzero(_counted(metric, feeds, shape))
    a, b = (side.reshape(-1, side.shape[2]) for side in (reference, other))
    return _row_sums(metric, a, b, index, _words(metric, shape, feeds).reshape(-1))


def _language_loss(metric: Metric, batch: Batch) -> float:
    reference, outputs, feeds = batch.reference, batch.outputs, batch.feeds
    a, b = (side[metric.outputs[0]] for side in (reference, outputs))
    if a.shape != b.shape:
        return CAP
    sums = _word_sums(metric, a, b, feeds)
    return sums["kl"] / max(1.0, sums["rows"])


def _language_sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs, feeds = batch.reference, batch.outputs, batch.feeds
    return _word_sums(metric, reference[metric.outputs[0]], outputs[metric.outputs[0]], feeds)


def _language_figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    found = {}
    if sums["predicted"]:
        for side in ("before", "after"):
            mean = sums[f"loss_{side}"] / sums["predicted"]
            found[f"perplexity_{side}"] = math.exp(mean) if mean < 700 else math.inf
    rows = max(1.0, sums["rows"])
    return {**found, "kl": sums["kl"] / rows, "agreement": sums["agreed"] / rows}


# -- embeddings --------------------------------------------------------------------------------------------


def _find_embedding(outputs: Arrays, feeds: Arrays, labels: Array | None, asked: bool) -> Metric | None:
    fits = _is_vectors if asked else _looks_embedded
    found = sorted((name for name, a in outputs.items() if fits(a, feeds)), key=lambda name: outputs[name].ndim)
    if not found or not (asked or _first(outputs) in found):
        return None
    tokens = next((outputs[name].shape[:2] for name in found if outputs[name].ndim == 3), None)
    return _metric("embedding", found, mask=None if tokens is None else _mask_of(feeds, tokens))


def _is_vectors(array: Array, feeds: Arrays) -> bool:
    flat = array.ndim in (2, 3) or (array.ndim == 4 and array.shape[2:] == (1, 1))
    return flat and is_float(array) and _vectors(array).shape[-1] > 1


def _looks_embedded(array: Array, feeds: Arrays) -> bool:
    if not _is_vectors(array, feeds) or _are_probabilities(_vectors(array)):
        return False
    vectors = _vectors(array)
    width = vectors.shape[-1]
    if width >= UNIT_WIDTH and _are_units(vectors):
        return True
    is_wide = width >= WIDTH and width % MULTIPLE == 0
    return is_wide and (vectors.ndim == 2 or bool(_token_inputs(feeds, vectors.shape[:2])))


def _vectors(array: Array) -> Array:
    """Return the vectors of an output: ``[.., width]``, also of ``[samples, width, 1, 1]``."""
    return array.reshape(array.shape[:2]) if array.shape[2:] == (1, 1) else array


def cosines(reference: Array, other: Array) -> Floats:
    """Return the cosine of each pair of rows ``[rows]``.

    Two zero vectors are alike, one is like no other. A vector that is not finite is like no other, but where the
    reference is not finite either, nothing is known, and they count as alike.

    >>> cosines(np.array([[1.0, 0], [0, 0], [0, 0]]), np.array([[1.0, 1], [0, 0], [0, 1]])).round(3).tolist()
    [0.707, 1.0, 0.0]
    """
    (a, one), (b, another) = _units(reference), _units(other)
    found = 1 - np.square(a - b).sum(axis=1) / 2  # exactly 1 for equal rows, exact for small angles
    found = np.where(one & another, np.clip(found, -1, 1), (one == another) * 1.0)
    known = np.isfinite(reference).all(axis=1)
    return np.where(known, np.where(np.isfinite(other).all(axis=1), found, 0.0), 1.0)


def _units(rows: Array) -> tuple[Floats, Flags]:
    """Return rows of length 1, and which of them have a length at all."""
    x = _wide(rows)
    x = np.where(np.isfinite(x).all(axis=1, keepdims=True), x, 0.0)
    size = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
    x = x / np.where(size > 0, size, 1.0)  # no square overflows or vanishes
    norms = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
    return x / np.where(norms > 0, norms, 1.0), norms[:, 0] > 0


def _rows(metric: Metric, outputs: Arrays, name: str, feeds: Arrays | None) -> Array:
    """Return the vectors of an output that count ``[rows, width]``."""
    array = _vectors(outputs[name])
    return array if array.ndim == 2 else array[_counted(metric, feeds, array.shape[:2])]


def _embedding_loss(metric: Metric, batch: Batch) -> float:
    reference, outputs, feeds = batch.reference, batch.outputs, batch.feeds
    total = 0.0
    for name in metric.outputs:
        a, b = (_rows(metric, side, name, feeds) for side in (reference, outputs))
        if a.shape != b.shape:
            return CAP
        if _broken(a, b).any():
            return math.inf
        total += float((1 - cosines(a, b)).sum()) / max(1, len(a))
    return total


def _embedding_sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs, feeds = batch.reference, batch.outputs, batch.feeds
    a, b = (_rows(metric, side, metric.outputs[0], feeds) for side in (reference, outputs))
    return {"rows": float(len(a)), "cosine": float(cosines(a, b).sum()) if a.shape == b.shape else 0.0}


def _embedding_figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    return {"cosine": sums["cosine"] / max(1.0, sums["rows"])}


def _sample_vectors(metric: Metric, reference: Arrays, outputs: Arrays, feeds: Arrays | None) -> tuple[Array, Array]:
    """Return a vector per sample before and after ``[samples, width]``: of tokens, their mean."""
    found = []
    for side in (reference, outputs):
        array = _wide(_vectors(side[metric.outputs[0]]))
        if array.ndim == 3:
            weights = _counted(metric, feeds, array.shape[:2])[:, :, None]
            array = np.where(weights, array, 0.0).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
        found.append(_units(array)[0].astype(np.float32))
    return found[0], found[1]


def _similarities(vectors: Array) -> Floats:
    """Return the cosines of all pairs of different samples."""
    each = _wide(vectors)
    return np.asarray((each @ each.T)[np.triu_indices(len(each), 1)])


def rank_correlation(one: Floats, other: Floats) -> float:
    """Return Spearman's correlation of two series: 1 where both have one order, 0 where one of them has none.

    >>> rank_correlation(np.array([1.0, 2, 3]), np.array([1.0, 10, 100])), rank_correlation(np.arange(3.0), np.ones(3))
    (1.0, 0.0)
    """
    a, b = _ranks(one), _ranks(other)
    if (a == b).all():
        return 1.0
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(np.square(a).sum()) * float(np.square(b).sum()))
    return float(np.clip((a * b).sum() / size, -1, 1)) if size else 0.0


def _ranks(series: Floats) -> Floats:
    """Return the rank of each value; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(series, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)])


# -- boxes -------------------------------------------------------------------------------------------------


def _find_boxes(outputs: Arrays, feeds: Arrays, labels: Array | None, asked: bool) -> Metric | None:
    for name, array in outputs.items():
        if array.ndim not in (2, 3) or not is_float(array) or array.shape[-1] not in (4, 6):
            continue
        if array.shape[-1] == 6:
            if asked or _is_packed(array):
                return _with_least(_metric("boxes", [name]), outputs)
            continue
        parts = _beside(outputs, name)
        ordered, centers = _are_corners(array), array.ndim == 3 and _in_unit(array)
        if asked or (parts[0] is not None and (ordered or centers)):
            rest = [other for other, a in outputs.items() if other not in (name, *parts) and is_float(a)]
            are = parts[0] is not None and _in_unit(outputs[parts[0]])
            return _with_least(
                _metric("boxes", [name, *rest], parts=parts, centers=centers and not ordered, probabilities=are),
                outputs,
            )
    return None


def _is_packed(array: Array) -> bool:
    x = _wide(array.reshape(-1, 6))
    return _are_corners(x[:, :4]) and _in_unit(x[:, 4]) and bool((x[:, 5] == np.round(x[:, 5])).all())


def _are_corners(array: Array) -> bool:
    return bool((array[..., 0] <= array[..., 2]).all() and (array[..., 1] <= array[..., 3]).all())


def _in_unit(array: Array) -> bool:
    return bool((array >= 0).all() and (array <= 1).all())


def _beside(outputs: Arrays, name: str) -> tuple[str | None, str | None]:
    """Return the outputs that score and class the boxes of one: a number for each, or the scores of all classes."""
    shape = outputs[name].shape[:-1]
    alike = {other: array for other, array in outputs.items() if array.shape == shape and is_number(array)}
    whole = [other for other, array in alike.items() if not is_float(array) or _are_classes(array)]
    single = [other for other, array in alike.items() if other not in whole and _in_unit(array)]
    many = [
        other
        for other, array in outputs.items()
        if is_float(array) and array.shape[:-1] == shape and array.ndim == len(shape) + 1 and array.shape[-1] != 4
    ]
    return next(iter(single + many), None), next(iter(whole), None)


def _are_classes(array: Array) -> bool:
    """Whether floats are class numbers, as TensorFlow writes them."""
    x = _wide(array)
    return bool(x.size and (x == np.round(x)).all() and x.max() > 1)


def _with_least(metric: Metric, outputs: Arrays) -> Metric:
    with np.errstate(all="ignore"):
        best = max((each.scores.max(initial=0.0) for each in _boxes(metric, outputs)), default=0.0)
    return replace(metric, least=LEAST_SCORE if best >= LEAST_SCORE else 0.0)


def _boxes(metric: Metric, outputs: Arrays) -> Sequence[boxes.Found]:
    """Return the boxes of every image of a batch."""
    array = _wide(outputs[metric.outputs[0]])
    if array.shape[-1] == 6:
        return boxes.images(array[..., :4], array[..., 4], array[..., 5], False)
    shape = array.shape[:-1]
    parts = [None if part is None else outputs[part] for part in metric.parts]
    fitting = (part if part is not None and part.shape[: len(shape)] == shape else None for part in parts)
    scores, classes = fitting  # numbers of another count are not those of the boxes, which a batch without any hides
    points = None if scores is None else _wide(scores)
    if points is not None and points.ndim == array.ndim:
        points = points if metric.probabilities else 1 / (1 + np.exp(-points))
        classes = points.argmax(axis=-1) if classes is None else classes
        points = points.max(axis=-1, initial=0.0)
    return boxes.images(array, points, classes, metric.centers)


def _boxes_loss(metric: Metric, batch: Batch) -> float:
    reference, outputs = batch.reference, batch.outputs
    names = [name for name in (metric.outputs[0], *metric.parts) if name is not None]
    if any(np.isfinite(reference[name]).all() and not np.isfinite(outputs[name]).all() for name in names):
        return math.inf
    before, after = _boxes(metric, reference), _boxes(metric, outputs)
    if len(before) != len(after):
        return CAP
    apart = [boxes.distance(one, other) for one, other in zip(before, after, strict=True)]
    rest = sum(_error(reference[name], outputs[name]) for name in metric.outputs[1:])
    return sum(apart) / max(1, len(apart)) + rest


def _boxes_sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs = batch.reference, batch.outputs
    sums = {"boxes": 0.0, "matched": 0.0, "iou": 0.0}
    for one, other in zip(_boxes(metric, reference), _boxes(metric, outputs), strict=False):
        before, after = (boxes.above(each, metric.least) for each in (one, other))
        pairs = boxes.match(before, after)
        sums["boxes"] += len(before.scores) + len(after.scores)
        sums["matched"] += 2 * len(pairs)
        sums["iou"] += 2 * sum(pairs)
    return sums


def _boxes_figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    return {
        "matched": sums["matched"] / sums["boxes"] if sums["boxes"] else 1.0,
        "mean_iou": sums["iou"] / sums["matched"] if sums["matched"] else float(not sums["boxes"]),
    }


# -- dense outputs -----------------------------------------------------------------------------------------


def gaps(reference: Array, other: Array) -> Floats:
    """Return absolute differences; infinities at the same place are equal, as in masks, and so are NaNs.

    >>> gaps(np.array([1.0, np.nan, np.inf, 0]), np.array([3.0, np.nan, np.inf, np.nan])).tolist()
    [2.0, 0.0, 0.0, inf]
    """
    a, b = _wide(reference), _wide(other)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return np.where(np.isnan(apart), np.inf, apart)


def snr_db(error: float, signal: float) -> float:
    """Return the ratio of two sums of squares in decibels: infinite without an error.

    >>> snr_db(1.0, 100.0), snr_db(0.0, 1.0), snr_db(1.0, 0.0)
    (20.0, inf, -inf)
    """
    if error == 0 or signal == 0 or math.isinf(error):
        return -math.inf if error else math.inf
    return 10 * (math.log10(signal) - math.log10(error))


def _find_dense(outputs: Arrays, feeds: Arrays, labels: Array | None, asked: bool) -> Metric | None:
    numbers = [name for name, array in outputs.items() if is_number(array)]
    floats = [name for name in numbers if is_float(outputs[name])]
    return _metric("dense", floats or numbers)


def _padded(reference: Array, other: Array) -> tuple[Array, Array]:
    """Return arrays of one shape: where their sizes follow from values, what one of them lacks counts as zeros."""
    if reference.shape == other.shape:
        return reference, other
    a, b = _wide(reference), _wide(other)
    if a.ndim != b.ndim:
        a, b = a.reshape(-1), b.reshape(-1)
    shape = tuple(map(max, zip(a.shape, b.shape, strict=True)))
    return _grown(a, shape), _grown(b, shape)


def _grown(array: Array, shape: tuple[int, ...]) -> Array:
    return np.pad(array, [(0, size - n) for size, n in zip(shape, array.shape, strict=True)])


def _error(reference: Array, other: Array) -> float:
    """Return the mean square error over the variance of the reference; over its mean square where that is constant."""
    a, b = map(_wide, _padded(reference, other))
    known = np.isfinite(a)
    if not known.any():
        return 0.0
    values, others = a[known], b[known]
    if not np.isfinite(others).all():
        return math.inf
    size = float(np.abs(values).max()) or 1.0
    values, others = values / size, others / size  # no square of the reference overflows
    square, variance = float(np.square(values).mean()), float(values.var())
    scale = variance if variance > 1e-12 * square else square
    return min(float(np.square(values - others).mean()) / (scale or 1.0), CAP)


def _dense_loss(metric: Metric, batch: Batch) -> float:
    reference, outputs = batch.reference, batch.outputs
    return sum(_error(reference[name], outputs[name]) for name in metric.outputs)


def _dense_sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs = batch.reference, batch.outputs
    sums = {}
    for name in metric.outputs:
        a, b = _padded(reference[name], outputs[name])
        sums[f"error {name}"] = float(np.square(gaps(a, b)).sum())
        wide = _wide(a)
        sums[f"signal {name}"] = float(np.square(np.where(np.isfinite(wide), wide, 0.0)).sum())
    return sums


def _dense_figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    each = {name: snr_db(sums[f"error {name}"], sums[f"signal {name}"]) for name in metric.outputs}
    several = {f"snr_db of {name}": value for name, value in each.items()} if len(each) > 1 else {}
    return {"snr_db": min(each.values()), **several}


# -- a function of the user --------------------------------------------------------------------------------


def _of_function(function: Function, outputs: Arrays, feeds: Arrays | None, labels: Array | None) -> Metric:
    name = next(iter(_returned(function, outputs, outputs, feeds, labels)))
    higher = is_higher_better(name)
    return replace(choose(outputs, feeds), kind="function", name=name, higher_is_better=higher, function=function)


def is_higher_better(name: str) -> bool:
    """Whether a larger figure of this name is the better one: yes, unless a word of it is in `LOWER`.

    >>> [is_higher_better(name) for name in ("mAP", "word_error_rate", "l1Loss", "lossless")]
    [True, False, False, True]
    """
    split = "".join(f" {char}" if char.isupper() else char for char in name) + f" {name}"
    words = "".join(char if char.isalnum() else " " for char in split).lower().split()
    return not set(words) & set(LOWER)


def _returned(
    function: Function, reference: Arrays, outputs: Arrays, feeds: Arrays | None, labels: Array | None
) -> dict[str, float]:
    """Return what a user's function gives for a batch, by name."""
    own = getattr(function, "__name__", type(function).__name__)
    given = function(reference, outputs, feeds, labels)
    try:
        found = {
            str(name): float(value) for name, value in (given if isinstance(given, Mapping) else {own: given}).items()
        }
    except (TypeError, ValueError):
        found = {}
    if not found:
        raise OptionError(f"metric {own!r} must return a number, or a dict of numbers by name, got {given!r}")
    return found


def _function_sums(metric: Metric, batch: Batch) -> dict[str, float]:
    reference, outputs, feeds, labels = batch.reference, batch.outputs, batch.feeds, batch.labels
    assert metric.function is not None
    samples = float(_samples(feeds or {}) or _samples(reference) or 1)
    before = _returned(metric.function, reference, reference, feeds, labels)
    after = _returned(metric.function, reference, outputs, feeds, labels)
    sums = {name: value * samples for name, value in after.items()}
    return {**sums, **{f"{name}_before": value * samples for name, value in before.items()}, "": samples}


def _function_figures(metric: Metric, sums: Mapping[str, float]) -> dict[str, float]:
    return {name: value / sums[""] for name, value in sums.items() if name}


# -- kinds and words ---------------------------------------------------------------------------------------

KINDS: Mapping[str, Kind] = {  # in the order in which they are tried
    "language model": Kind(
        "perplexity_after", False, _find_language, _language_loss, _language_sums, _language_figures,
        "an output [samples, tokens, vocabulary] and an input [samples, tokens] of words in it",
    ),
    "boxes": Kind(
        "matched", True, _find_boxes, _boxes_loss, _boxes_sums, _boxes_figures,
        "an output [.., 4] of boxes, or [.., 6] with score and class",
    ),
    "embedding": Kind(
        "cosine", True, _find_embedding, _embedding_loss, _embedding_sums, _embedding_figures,
        "an output [samples, width] or [samples, tokens, width]",
    ),
    "classification": Kind(
        "agreement", True, _find_classes, _class_loss, _class_sums, _class_figures, "a first output [samples, classes]"
    ),
    "dense": Kind("snr_db", True, _find_dense, _dense_loss, _dense_sums, _dense_figures, "an output of numbers"),
}  # fmt: skip
_FUNCTION = Kind("", True, lambda *_: None, _dense_loss, _function_sums, _function_figures, "")


def headline(figures: Figures) -> str:
    """Return figures in words; those that are not finite may be None, as in a report.

    >>> headline({"agreement": 0.93, "kl": 0.0412}), headline({"perplexity_before": 25.81, "perplexity_after": 32.1})
    ('top-1 agreement 0.930, KL 0.041', 'perplexity 25.8 -> 32.1')
    """
    for key, shown in _WORDS.items():
        if key in figures:
            return ", ".join(f"{words} {show(figures, name)}" for name, words, show in shown if name in figures)
    listed = [name for name in figures if name.removesuffix("_before") not in figures or not name.endswith("_before")]
    return ", ".join(f"{name} {_change(figures, name)}" for name in listed) or "no output can be compared"


def row(figures: Figures) -> tuple[str, str, str] | None:
    """Return label, before and after for a table; None for class scores, which accuracy and agreement cover.

    >>> row({"cosine": 0.9812}), row({"map_before": 0.52, "map": 0.49}), row({"agreement": 0.9, "kl": 0.1})
    (('mean cosine', '1.000', '0.981'), ('map', '0.52', '0.49'), None)
    """
    for key, label, before, show in _ROWS:
        if key in figures:
            return label, before, show(figures, key)
    if "perplexity_after" in figures:
        return "perplexity", _short(figures["perplexity_before"]), _short(figures["perplexity_after"])
    if "agreement" in figures or not figures:
        return None
    name = next((name for name in figures if f"{name}_before" in figures), next(iter(figures)))
    return name, _short(figures.get(f"{name}_before")), _short(figures[name])


def main_figure(figures: Figures) -> tuple[str, str, float | None]:
    """Return the name of the figure that tells most, in words, and what it is for the original itself.

    >>> main_figure({"agreement": 0.9, "kl": 0.1}), main_figure({"perplexity_before": 20.0, "perplexity_after": 25.0})
    (('agreement', 'top-1 agreement', 1.0), ('perplexity_after', 'perplexity', 20.0))
    """
    for key, ((name, words, _), *_) in _WORDS.items():
        if key in figures:
            exact = None if name == "snr_db" else 1.0
            return name, words, figures["perplexity_before"] if name == "perplexity_after" else exact
    name = next(name for name in figures if f"{name}_before" in figures or not name.endswith("_before"))
    return name, name, figures.get(f"{name}_before")


def _short(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _share(figures: Figures, name: str) -> str:
    value = figures[name]
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _decibels(figures: Figures, name: str) -> str:
    value = figures[name]
    return "-" if value is None or not math.isfinite(value) else f"{value:.1f} dB"


def _change(figures: Figures, name: str) -> str:
    """Return a figure of two models, or of one."""
    before = f"{name.removesuffix('_after')}_before"
    return f"{_short(figures[before])} -> {_short(figures[name])}" if before in figures else _short(figures[name])


_Show: TypeAlias = Callable[[Figures, str], str]
_WORDS: Mapping[str, Sequence[tuple[str, str, _Show]]] = {  # by the figure that tells the kind
    "perplexity_after": [("perplexity_after", "perplexity", _change)],
    "agreement": [
        ("agreement", "top-1 agreement", _share), ("kl", "KL", _share), ("accuracy_after", "accuracy", _change),
    ],
    "cosine": [("cosine", "mean cosine", _share), ("rank_correlation", "rank correlation", _share)],
    "matched": [("matched", "boxes matched", _share), ("mean_iou", "mean IoU", _share)],
    "snr_db": [("snr_db", "SNR", _decibels)],
}  # fmt: skip
_ROWS: Sequence[tuple[str, str, str, _Show]] = [
    ("cosine", "mean cosine", "1.000", _share),
    ("matched", "boxes matched", "1.000", _share),
    ("snr_db", "SNR, worst output", "-", _decibels),
]
