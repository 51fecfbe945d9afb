"""What held-out samples say of a network while it is tuned: its loss there, and the figures that people read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from onnxprune.data.batching import Piece
from onnxprune.data.samples import pieces
from onnxprune.graph.tensors import Array
from onnxprune.training.tuning.lesson import Lesson
from onnxprune.training.tuning.losses import Values
from onnxprune.training.tuning.written import Text

_WRITING = 32  # held-out samples that text is written for, in whole runs
_KEPT_BYTES = 256 * 2**20  # of outputs of the teacher that are kept


class Judge:
    """The held-out samples of a lesson.

    Text is written for some of them once, by the first weights: what two states write differs by more than they do.
    """

    def __init__(self, lesson: Lesson, batch: int, first: Values) -> None:
        """Take a lesson.

        Args:
            lesson: with a network.
            batch: samples of a run.
            first: the weights before any step: they write, and figures compare with them where there is no teacher.
        """
        self._lesson, self._batch, self._first = lesson, batch, first
        aim = lesson.objective.judged
        self._given, self._written = aim.given, aim.written
        self._names = tuple(dict.fromkeys((*aim.teacher, *lesson.metric.outputs)))
        self._each = max(1, -(-lesson.held.count // _WRITING))  # of so many runs, one has text written for it
        self._texts: dict[int, Text] = {}
        self._taught: dict[int, Values] = {}
        self._left = _KEPT_BYTES
        self._before: dict[int, Mapping[str, Array]] = {}  # without a teacher, the outputs at first

    def __call__(self, weights: Values) -> tuple[float, dict[str, float]]:
        """Return the mean loss, infinite where it is not finite, and the figures.

        Args:
            weights: that the network uses instead of its own.
        """
        tally, given, written, count = self._lesson.metric.start(), list[float](), list[float](), 0
        for number, piece in enumerate(pieces(self._lesson.held, self._batch)):
            places, labels = range(count, count + piece.samples), self._lesson.held.labels
            own = None if labels is None else labels[places.start : places.stop]
            with torch.no_grad():
                taught = self._of_teacher(number, piece)
                seen = self._lesson.seen(piece, own, self._given, taught, weights)
                outputs = seen.student
                if not set(self._lesson.metric.outputs) <= set(outputs):
                    outputs = self._outputs(piece, weights)
                given += self._given(seen).double().tolist() if self._given.terms else []
                if self._written.terms and number % self._each == 0:
                    text = self._text(number, piece, places)
                    seen = self._lesson.seen(piece, own, self._written, {}, weights, text=text)
                    written += self._written(seen).double().tolist()
            count += piece.samples
            after = self._arrays(outputs, piece)
            before = self._arrays(taught, piece) if taught else self._at_first(number, piece)
            tally.add(before, after, piece.own_feeds, own)
        loss = sum(sum(each) / len(each) for each in (given, written) if each)
        figures = {name: float(value) for name, value in tally.figures().items()}
        return (loss if math.isfinite(loss) else math.inf), figures

    def _text(self, number: int, piece: Piece, places: Sequence[int]) -> Text:
        """Return what the first weights write for a run, all of it by themselves."""
        if number not in self._texts:
            keys = [(place,) for place in places]
            self._texts[number] = self._lesson.text(piece, self._first, keys, mixed=0.0)
        return self._texts[number]

    def _outputs(self, piece: Piece, weights: Values) -> Values:
        with torch.no_grad():
            values: Values = self._lesson.network(piece.feeds, taps=self._lesson.metric.outputs, weights=weights)
        return values

    def _at_first(self, number: int, piece: Piece) -> Mapping[str, Array]:
        """Return the outputs of the network before any step."""
        if number not in self._before:
            self._before[number] = self._arrays(self._outputs(piece, self._first), piece)
        return self._before[number]

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
