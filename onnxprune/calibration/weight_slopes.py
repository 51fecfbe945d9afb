"""Derivatives of drawn log-likelihoods by weights, kept, so that the loss of any small change of them can be told.

To second order the divergence of the outputs is half of the mean of ``<gradient, change> ** 2``, over samples and drawn
answers: one backward pass an answer serves all layers and all changes. Answers are drawn independently, and their
gradients have mean zero: those of several samples may be added up before they are squared. So memory is bounded.
What is left is a mean of the squares of ``n`` independent sums, which are about normal: its relative error is
``sqrt(2 / n)``, the standard deviation of chi-square over its mean. Gradients themselves are within a factor of two of
measured losses; with 16 sums chance adds a third to that, with one or two it is as large as the loss.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.batches import Calibration
from onnxprune.calibration.gradients import Answers
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.progress import Progress, silent

IN_MEMORY = 256 * 2**20  # bytes of gradients; more go to a temporary file
MOST_BYTES = 3 * 2**30
ENOUGH = 16  # sums, below which chance decides losses
_LOOKING = "looking at gradients"


def room(model: Model, names: Sequence[str]) -> int:
    """Return how many derivatives by some constants memory and temporary files have room for, at least one."""
    return max(1, MOST_BYTES // max(1, 4 * _size(model, names)))


def chance(sums: int) -> float:
    """Return the relative standard error of losses that so many sums of gradients tell."""
    return math.sqrt(2 / sums)


def _size(model: Model, names: Sequence[str]) -> int:
    return sum(model.constants[name].count for name in names)


class WeightSlopes:
    """Derivatives by some constants, a row for each answer, or for several that are added up."""

    def __init__(self, model: Model, names: Sequence[str], answers: int, samples: int) -> None:
        """Take memory for so many answers.

        Args:
            model: in plain form.
            names: of constants.
            answers: that will be added, of all samples.
            samples: that they are of.
        """
        self.samples, self.answers = samples, answers
        self._model, self._number = model, 0
        sizes = {name: model.constants[name].count for name in names}
        self.rows = max(1, min(answers, room(model, names)))
        shape = self.rows, _size(model, names)
        if 4 * shape[0] * shape[1] <= IN_MEMORY:
            self._slopes = np.zeros(shape, np.float32)
        else:
            with tempfile.TemporaryFile(prefix="onnxprune-") as file:  # which lives as long as it is mapped
                self._slopes = np.memmap(file, np.float32, "w+", shape=shape)
        ends = np.cumsum([0, *sizes.values()])
        self._parts = {name: slice(ends[at], ends[at + 1]) for at, name in enumerate(sizes)}
        self.names: set[str] = set()  # of constants that gradients reach

    def add(self, derivatives: Mapping[str, Array]) -> None:
        """Add the derivatives of one answer."""
        row = self._slopes[self._number % self.rows]
        for name, part in self._parts.items():
            if name in derivatives:
                self.names.add(name)
                row[part] += derivatives[name].reshape(-1)
        self._number += 1

    def loss(self, contents: Mapping[str, Array]) -> float:
        """Return the loss of the output, to second order, when constants hold other numbers.

        Args:
            contents: by name; all are among `names`.
        """
        along: npt.NDArray[np.float64] = np.zeros(self.rows)
        for name, content in contents.items():
            change = content.astype(np.float32) - self._model.array(name).astype(np.float32)
            along += self._slopes[:, self._parts[name]] @ change.reshape(-1)
        return float(np.square(along).sum() / (2 * self.answers))


def weight_slopes(
    model: Model,
    names: Sequence[str],
    calibration: Calibration,
    *,
    passes: float = float("inf"),
    answers: int = 64,
    seed: int = 0,
    progress: Progress = silent,
) -> WeightSlopes:
    """Return the derivatives by some constants, on the samples that losses are judged on.

    Args:
        model: in plain form.
        names: of constants of floats.
        calibration: samples and the metric.
        passes: over all samples that may be spent, forward or backward.
        answers: that are drawn in all, at least.
        seed: of the answers.
        progress: called before each step.

    Raises:
        ModelError: when an operator has no gradient, or the network in PyTorch computes something else.
    """
    from onnxprune.training.network.pullback import Pullback  # noqa: PLC0415

    pullback = Pullback(model, weights=names)
    source = Answers(
        model,
        calibration,
        passes,
        seed,
        of_weights=True,
        drawn=True,
        which=calibration.judged,
        answers=answers,
        fewest=1,
    )
    slopes = WeightSlopes(model, names, len(source) * source.draws, len(source))
    for number, sample in enumerate(source):
        if not number:
            pullback.check(sample.feeds)
        progress(_LOOKING, number + 1, len(source))
        for derivatives in pullback.run(sample.feeds, sample.directions):
            slopes.add(derivatives)
    return slopes
