"""One step of the optimiser after the other: samples, views, losses, gradients, weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from onnxprune.data.batching import Piece
from onnxprune.data.samples import Data
from onnxprune.graph.tensors import Array
from onnxprune.training.network.module import Network
from onnxprune.training.settings import TuneOptions
from onnxprune.training.tuning.learner import Learner
from onnxprune.training.tuning.lesson import Lesson
from onnxprune.training.tuning.losses import Objective, Values
from onnxprune.training.tuning.order import Order
from onnxprune.training.tuning.precision import SINGLE, autocast, seconds_of
from onnxprune.training.tuning.texts import Texts, Written
from onnxprune.training.tuning.written import Text

_GRADIENT = 10 / 3  # runs forward that take as long as a gradient of the student, with what the teacher says


class NotFinite(Exception):
    """A loss or a gradient that is NaN or infinite; says of which samples."""


def check_losses(losses: torch.Tensor, rows: Array, data: Data) -> None:
    """Raise NotFinite where losses are NaN or infinite; it names their samples.

    Args:
        losses: of samples, ``[samples]``.
        rows: the numbers of these in `data`, ``[samples]``.
        data: that is learned from.
    """
    wrong = torch.isfinite(losses).logical_not().nonzero().flatten().tolist()
    if wrong:
        names = _named([rows[at] for at in wrong], data)
        raise NotFinite(f"the loss of sample{'s' * (len(wrong) > 1)} {names} was not finite")


def check_gradient(norm: float, runs: Iterable[Array], data: Data) -> None:
    """Raise NotFinite where the norm of a gradient is NaN or infinite; it names the samples.

    Args:
        norm: of the gradient of a step.
        runs: the numbers in `data` of the samples of the step.
        data: that is learned from.
    """
    if not math.isfinite(norm):
        names = _named([row for rows in runs for row in rows], data)
        raise NotFinite(f"the gradient of samples {names} was not finite")


def _named(rows: Sequence[int], data: Data, most: int = 4) -> str:
    """Return the numbers that samples have in their source, as text."""
    numbers = [int(row if data.rows is None else data.rows[row]) for row in rows]
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more


@dataclass(frozen=True, eq=False)
class _View:
    """Samples as a run sees them."""

    piece: Piece
    rows: Array  # their numbers among those to learn from; none of them count where another process has them all
    place: tuple[int, int]  # the numbers of the step and of its run
    share: range  # their places in the run, which several processes share
    whole: Array  # the samples of the run

    @property
    def keys(self) -> list[tuple[int, ...]]:
        """What the text that each sample gets follows from."""
        return [(*self.place, int(row)) for row in self.rows]


@dataclass(frozen=True, eq=False)
class _Task:
    """Terms of the loss, and what they are seen on in a step."""

    aim: Objective
    step: int  # whose samples are taken
    texts: tuple[Text, ...] = ()  # that the student has written for them, one a run; (): none

    def text(self, view: _View) -> Text | None:
        """Return the text of a run, as this process sees it."""
        return self.texts[view.place[1]].part(view.share, view.piece.size) if self.texts else None


@dataclass(frozen=True, eq=False)
class _Losses:
    """Losses of the samples of a run."""

    own: torch.Tensor  # of those of this process, with gradients
    whole: torch.Tensor  # of all of them ``[samples]``


def adamw(parameters: Sequence[torch.Tensor], decay: float) -> torch.optim.AdamW:
    """Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization; biases and norms do not decay."""
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, fused=True)  # one pass over memory


@contextlib.contextmanager
def _kept_statistics(network: Network) -> Iterator[None]:
    """Give a network back the statistics that it had, where a step fails."""
    before = dict(network.statistics)  # which runs do not change: they put others in their place
    try:
        yield
    except NotFinite:
        network.load_state_dict(before, strict=False)
        raise


class Stepper:
    """Takes steps; each follows from its number and the state of weights and optimiser alone."""

    def __init__(self, lesson: Lesson, learner: Learner, order: Order, options: TuneOptions) -> None:
        self._lesson, self._learner, self._order, self._options = lesson, learner, order, options
        self._processes = lesson.processes
        self._given, self._written = lesson.objective.given, lesson.objective.written
        self.texts = Texts(options.reuse)
        self.precision = options.precision or SINGLE  # the caller chooses one for AUTO
        self.optimiser = self._fresh()

    def _fresh(self) -> torch.optim.AdamW:
        return adamw(self._learner.parameters(), self._options.decay)

    @property
    def cost(self) -> float:
        """About how many runs forward a sample of a step costs: those of a gradient, and its share of writing."""
        writing = self._lesson.writer.cost(self._written.mixed) / self._options.reuse if self._written.terms else 0.0
        return _GRADIENT * sum(bool(each.terms) for each in (self._given, self._written)) + writing

    def step(self, number: int, rate: float) -> tuple[float, int]:
        """Take a step; return the mean loss and how many samples it saw.

        Raises:
            NotFinite: when loss or gradients are not; weights and statistics stay as they were.
        """
        tasks, total = list(self._tasks(number)), 0.0
        self.optimiser.zero_grad(set_to_none=True)
        with _kept_statistics(self._lesson.network):
            for task in tasks:
                total += self._learned(task)
            self._processes.add_gradients(self._learner.parameters())
            total += self._penalised()
            norm = torch.nn.utils.clip_grad_norm_(self._learner.parameters(), self._options.clip)
            runs = (rows for task in tasks for rows in self._order.at(task.step))
            check_gradient(float(norm), runs, self._lesson.train)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        return total, sum(map(len, self._order.at(number)))

    def _tasks(self, number: int) -> Iterator[_Task]:
        """Yield what is learned in a step: from its samples, and from what the student has written."""
        if self._given.terms:
            yield _Task(self._given, number)
        if self._written.terms:
            if self.texts.is_due(number):
                count = self.texts.count
                views = [self._view(rows, count, part) for part, rows in enumerate(self._order.at(count))]
                written = self.texts.keep(Written(count, tuple(self._text(view) for view in views)))
            else:
                written = self.texts.at(number)
            yield _Task(self._written, written.number, written.texts)

    def _learned(self, task: _Task) -> float:
        """Add the gradients of a task; return the mean loss."""
        runs = self._order.at(task.step)
        count, total = sum(map(len, runs)), 0.0
        for part, rows in enumerate(runs):
            view = self._view(rows, task.step, part)
            with self._learning(view):
                losses = self._losses(view, task)
                check_losses(losses.whole, rows, self._lesson.train)
                torch.autograd.backward(losses.own.sum() / count)
            total += float(losses.whole.sum() / count)
        return total

    def tested(self, number: int, rate: float, first: Values) -> float:
        """Take a step at a rate; return the logarithm of the loss over that of the first weights on the same samples.

        Args:
            number: of the step.
            rate: learning rate.
            first: the weights before any step.
        """
        task, view = _Task(self._lesson.unwritten, number), self._view(self._order.at(number)[0], number, 0)
        taught = self._lesson.taught(view.piece, task.aim)
        with self._learning(view):
            with torch.no_grad():
                before = float(self._losses(view, task, taught, first).whole.mean())
            losses = self._losses(view, task, taught)
            now = float(losses.whole.mean())
            if not (math.isfinite(now) and math.isfinite(before)):
                return math.inf
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(losses.own.sum() / len(view.whole))
        self._processes.add_gradients(self._learner.parameters())
        torch.nn.utils.clip_grad_norm_(self._learner.parameters(), self._options.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        return math.log(max(now, 1e-30) / max(before, 1e-30))

    def seconds(self, precision: str) -> float:
        """Return how long the gradients of a step take in a precision, see `seconds_of`; weights stay as they are."""
        self.precision, network = precision, self._lesson.network
        before = dict(network.statistics)  # which runs do not change: they put others in their place
        taken = seconds_of(lambda: self._learned(_Task(self._lesson.unwritten, 0)))
        self.optimiser.zero_grad(set_to_none=True)
        network.load_state_dict(before, strict=False)
        return taken

    def begin_again(self, first: Values) -> None:
        """Take back all steps; `first` are the weights before any."""
        self._learner.reset(first)
        self.texts.forget()
        self.optimiser = self._fresh()

    # -- how -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _learning(self, view: _View) -> Iterator[None]:
        """Let a run count by its own statistics, where that was asked for; elsewhere the network runs as its file.

        What is left of an epoch is fewer samples than others, or filled up with copies: it runs as the file would.
        """
        network = self._lesson.network
        network.train(len(view.whole) == self._order.size)
        try:
            yield
        finally:
            network.eval()

    def _view(self, rows: Array, number: int, part: int) -> _View:
        """Return a view of samples, for a run of a step."""
        piece = self._lesson.train.piece(rows)
        piece = replace(piece, feeds=self._lesson.augment(piece.feeds, number, part))
        batch = self._lesson.train.batch
        share = self._processes.share(len(rows), batch.step, number + part)
        if len(share) == len(rows):
            return _View(piece, rows, (number, part), share, rows)
        places = np.asarray(share if len(share) else [0])
        return _View(piece.part(places, len(share), batch), rows[places], (number, part), share, rows)

    def _losses(self, view: _View, task: _Task, taught: Values | None = None, weights: Values | None = None) -> _Losses:
        """Return the loss of each sample."""
        labels = self._lesson.train.labels
        wanted = None if labels is None else labels[view.rows]
        used = self._learner.weights() if weights is None else weights
        with self._autocast():
            seen = self._lesson.seen(view.piece, wanted, task.aim, taught, used, keys=view.keys, text=task.text(view))
        own = task.aim(replace(seen, processes=self._processes))
        return _Losses(own, self._processes.whole(own.detach(), view.share, len(view.whole)))

    def _text(self, view: _View) -> Text:
        """Return what the student writes for a run, in all processes together."""
        with self._autocast(), torch.no_grad():
            own = self._lesson.text(view.piece, self._learner.weights(), view.keys, self._written.mixed)
        rows, device = len(view.share), self._lesson.network.device
        words, drawn = (torch.from_numpy(each[:rows]).to(device) for each in (own.words, own.drawn))
        whole = [self._processes.whole(each, view.share, len(view.whole)).cpu().numpy() for each in (words, drawn)]
        return Text(*whole)

    def _autocast(self) -> torch.autocast:
        return autocast(self.precision, self._lesson.network.device.type)

    def _penalised(self) -> float:
        """Add the gradient of the penalty on units; return the penalty."""
        if self._lesson.penalty is None:
            return 0.0
        penalty = self._lesson.penalty(self._lesson.network.weights)
        torch.autograd.backward(penalty)
        return penalty.item()
