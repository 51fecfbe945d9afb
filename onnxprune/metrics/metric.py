"""What a metric is: a kind of comparison, what it compares of a model, and the figures of many batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.metrics.arrays import Array, Arrays, Figures, Flags, Function
from onnxprune.metrics.ranks import rank_correlation, similarities
from onnxprune.metrics.words import headline

CAP = 1e30  # the largest finite loss
RANKED = 512  # samples at most whose similarities are ranked: the first ones


@dataclass(frozen=True, eq=False)
class Batch:
    """What both models gave for the same feeds."""

    reference: Arrays  # outputs of the original
    outputs: Arrays  # of the other model, by the same names
    feeds: Arrays | None
    labels: Array | None


@dataclass(frozen=True, eq=False)
class Drawing:
    """What a random direction of the outputs is drawn from."""

    outputs: Arrays  # of the original
    feeds: Arrays | None
    rng: np.random.Generator
    scales: Mapping[str, float]  # by output, see `Metric.scales`


@dataclass(frozen=True)
class Kind:
    """One way to compare outputs."""

    label: str  # what people call it, as in --metric
    name: str  # of the headline figure
    higher_is_better: bool
    find: Callable[[Arrays, Arrays, Array | None, bool], Metric | None]  # outputs, feeds, labels, asked for by name
    loss: Callable[[Metric, Batch], float]
    sums: Callable[[Metric, Batch], dict[str, float]]
    figures: Callable[[Metric, Mapping[str, float]], dict[str, float]]
    needs: str  # the outputs that it needs, in words
    draw: Callable[[Metric, Drawing], dict[str, Array]]  # see `Metric.drawn`
    # see `Metric.slope`; None where nothing tells what is right
    slope: Callable[[Metric, Batch], dict[str, Array] | None] | None = None
    # a vector per sample, before and after, where the order of their similarities is compared
    vectors: Callable[[Metric, Arrays, Arrays, Arrays | None], tuple[Array, Array]] | None = None

    def metric(self, outputs: Sequence[str], **fields: Any) -> Metric:
        """Return what is compared of these outputs; `fields` are those of `Metric`."""
        return Metric(self, self, self.name, self.higher_is_better, tuple(outputs), **fields)


@dataclass(frozen=True)
class Metric:
    """What is compared, as `metrics.kinds.choose_metric` decides."""

    figures_by: Kind  # how figures are counted
    loss_by: Kind  # whose loss this has: `figures_by`, but for a function
    name: str  # of the headline figure
    higher_is_better: bool
    outputs: tuple[str, ...]  # those compared; figures are of the first, but for dense outputs
    probabilities: bool = False  # whether class scores are such, and no logits
    ids: str | None = None  # the input of a language model that holds its words
    shift: int = 1  # which word a token predicts: the next one, or 0 for models that see both sides
    mask: str | None = None  # the input that is 0 where a token is padding
    parts: tuple[str | None, str | None] = (None, None)  # beside boxes: the outputs of their scores and classes
    centers: bool = False  # whether boxes are centers and sizes
    least: float = 0.0  # score of a box that counts
    function: Function | None = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """A key of `metrics.kinds.KINDS`, or "function"."""
        return self.figures_by.label

    def loss(self, reference: Arrays, outputs: Arrays, feeds: Arrays | None = None) -> float:
        """Return how far the outputs of a batch lie from the reference, 0 for equal ones.

        Classification and language models: mean KL(reference || outputs), in nats; embeddings: mean 1 - cosine; dense
        outputs: mean square error over the variance of the reference; boxes: see `metrics.matching.distance`. Several
        outputs are added up. A function of the user need not be smooth, so that the loss is then that of the kind in
        the table.

        Args:
            reference: outputs of the original.
            outputs: those of the other model, by the same names.
            feeds: the inputs, which tell what is padding; all tokens count without.
        """
        with np.errstate(all="ignore"):
            value = self.loss_by.loss(self, Batch(reference, outputs, feeds, None))
        if value == math.inf:
            return value
        return CAP if math.isnan(value) else min(max(0.0, value), CAP)

    def drawn(
        self, outputs: Arrays, feeds: Arrays | None, rng: np.random.Generator, scales: Mapping[str, float]
    ) -> dict[str, Array]:
        """Return a random direction: numbers v, by output and in its shape, float32.

        Half of the mean of ``<v, d> ** 2`` is the loss, to second order, of outputs that differ by d: v is drawn with
        the covariance that the gradients of drawn log-likelihoods have, the Fisher information of the outputs. (The
        gradient of the loss itself is zero where outputs are equal.) Labels would be drawn from what the original is
        sure of; normal numbers of the same covariance have no rare events, which a network that is sure of itself
        would wait for in vain. Dense outputs and embeddings are seen as means of normal distributions.

        Args:
            outputs: of the original, for a batch.
            feeds: the inputs, which tell what is padding.
            rng: that draws.
            scales: as `scales` tells.
        """
        with np.errstate(all="ignore"):
            drawn = self.loss_by.draw(self, Drawing(outputs, feeds, rng, scales))
        return {name: np.nan_to_num(v, nan=0.0, posinf=0.0, neginf=0.0) for name, v in drawn.items()}

    def slope(self, outputs: Arrays, feeds: Arrays | None, labels: Array | None) -> dict[str, Array] | None:
        """Return the gradient of the log-likelihood of what is right, by output, float32; None where nothing tells.

        Labels tell it of classes, the words of a text of a language model. It is that of the mean over rows.

        Args:
            outputs: of the original, for a batch.
            feeds: the inputs.
            labels: ``[samples]``, class indices.
        """
        if self.loss_by.slope is None:
            return None
        with np.errstate(all="ignore"):
            slope = self.loss_by.slope(self, Batch(outputs, outputs, feeds, labels))
        return slope and {name: np.nan_to_num(v, nan=0.0, posinf=0.0, neginf=0.0) for name, v in slope.items()}

    def scales(self, outputs: Arrays) -> dict[str, float]:
        """Return by output what squared errors are divided by, from a whole batch: of one sample there is no variance.

        Only losses that are relative to the variance of an output need it.
        """
        return {name: error_scale(outputs[name]) for name in self.compared if name in outputs}

    @property
    def compared(self) -> tuple[str, ...]:
        """All outputs that have a part in the loss."""
        return tuple(dict.fromkeys((*self.outputs, *(name for name in self.parts if name is not None))))

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
            sums = self.metric.figures_by.sums(self.metric, Batch(reference, outputs, feeds, labels))
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        left = RANKED - sum(len(one) for one, _ in self._vectors)
        vectors = self.metric.figures_by.vectors
        if vectors is not None and left > 0:
            one, other = vectors(self.metric, reference, outputs, feeds)
            if one.shape == other.shape:
                self._vectors.append((one[:left], other[:left]))

    def figures(self) -> dict[str, float]:
        """Return what was counted; nothing of an empty tally."""
        if not self._sums:
            return {}
        figures = self.metric.figures_by.figures(self.metric, self._sums)
        if sum(len(one) for one, _ in self._vectors) > 2:  # two pairs of samples at least, else there is no order
            before, after = (np.concatenate(side) for side in zip(*self._vectors, strict=True))
            figures["rank_correlation"] = rank_correlation(similarities(before), similarities(after))
        return figures


def counted_tokens(metric: Metric, feeds: Arrays | None, shape: tuple[int, ...]) -> Flags:
    """Return which tokens ``[samples, tokens]`` count: those that are no padding."""
    mask = None if metric.mask is None or feeds is None else feeds.get(metric.mask)
    if mask is None or mask.ndim != 2 or len(mask) != shape[0] or mask.shape[1] < shape[1]:
        return np.ones(shape, bool)
    return np.asarray(mask[:, mask.shape[1] - shape[1] :] != 0)  # a mask may go over the past as well


def error_scale(reference: Array) -> float:
    """Return the variance of what is finite; its mean square where that is constant, and 1 where that is 0."""
    values = np.asarray(reference).astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return 1.0
    size = float(np.abs(values).max()) or 1.0
    values = values / size  # no square overflows
    square, variance = float(np.square(values).mean()), float(values.var())
    return usual_scale(variance, square) * size * size or 1.0


def usual_scale(variance: float, square: float) -> float:
    """Return a variance; the mean square where there is none, and 1 where that is 0.

    >>> usual_scale(0.5, 2.0), usual_scale(0.0, 4.0), usual_scale(0.0, 0.0)
    (0.5, 4.0, 1.0)
    """
    return (variance if variance > 1e-12 * square else square) or 1.0
