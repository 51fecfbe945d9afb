"""What held-out samples say of a network while it is tuned: its loss there, and the figures that people read."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from onnxprune.data.batching import Piece
from onnxprune.data.samples import pieces
from onnxprune.graph.tensors import Array
from onnxprune.training.lesson import Lesson
from onnxprune.training.losses import Values

WRITING = 16  # held-out samples that the student writes text for, and those of one run at least
_KEPT_BYTES = 256 * 2**20  # of outputs of the teacher that are kept


class Judge:
    """The held-out samples of a lesson."""

    def __init__(self, lesson: Lesson, batch: int) -> None:
        self._lesson, self._batch = lesson, batch
        aim = lesson.objective.judged
        self._given, self._written = aim.given, aim.written
        self._names = tuple(dict.fromkeys((*aim.teacher, *lesson.metric.outputs)))
        self._each = max(1, -(-lesson.held.count // WRITING))  # of so many runs, one has text written for it
        self._taught: dict[int, Values] = {}
        self._left = _KEPT_BYTES
        self._before: dict[int, Mapping[str, Array]] = {}  # without a teacher, the outputs at first

    @property
    def cost(self) -> float:
        """About how many runs forward of a sample the judge takes."""
        held, writer = self._lesson.held.count, self._lesson.writer
        return held + (min(held, max(WRITING, self._batch)) * writer.cost(0.0) if self._written.terms else 0.0)

    def __call__(self, weights: Values) -> tuple[float, dict[str, float]]:
        """Return the mean loss, infinite where it is not finite, and the figures.

        Args:
            weights: that the network uses instead of its own.
        """
        tally, given, written, count = self._lesson.metric.start(), list[float](), list[float](), 0
        for number, piece in enumerate(pieces(self._lesson.held, self._batch)):
            places = range(count, count + piece.samples)
            labels = self._lesson.held.labels
            own = None if labels is None else labels[places.start : places.stop]
            with torch.no_grad():
                taught = self._of_teacher(number, piece)
                seen = self._lesson.seen(piece, own, self._given, taught, weights)
                outputs = seen.student
                if not set(self._lesson.metric.outputs) <= set(outputs):
                    outputs = self._lesson.network(piece.feeds, taps=self._lesson.metric.outputs, weights=weights)
                given += self._given(seen).double().tolist() if self._given.terms else []
                if self._written.terms and number % self._each == 0:
                    keys = [(place,) for place in places]  # the same each time
                    seen = self._lesson.seen(piece, own, self._written, {}, weights, keys=keys)
                    written += self._written(seen).double().tolist()
            count += piece.samples
            after = self._arrays(outputs, piece)
            before = self._arrays(taught, piece) if taught else self._before.setdefault(number, after)
            tally.add(before, after, piece.own_feeds, own)
        loss = sum(sum(each) / len(each) for each in (given, written) if each)
        figures = {name: float(value) for name, value in tally.figures().items()}
        return (loss if math.isfinite(loss) else math.inf), figures

    def _of_teacher(self, number: int, piece: Piece) -> Values:
        if self._lesson.teacher is None:
            return {}
        if number in self._taught:
            return self._taught[number]
        values = self._lesson.teacher(piece.feeds, self._names)
        size = sum(value.numel() * value.element_size() for value in values.values())
        if size <= self._left:
            self._left -= size
            self._taught[number] = values
        return values

    def _arrays(self, values: Values, piece: Piece) -> dict[str, Array]:
        names = self._lesson.metric.outputs
        arrays = {name: values[name].detach().float().cpu().numpy() for name in names}
        return piece.counting(arrays, piece.axes_of(arrays))
