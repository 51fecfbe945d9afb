"""The tuner: a lesson and options in, better weights out, or none.

Held-out samples decide which state of the weights is the best; where that is the first one, nothing changes. A loss
that is not finite ends the run with the best state so far.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from onnxprune.graph.tensors import Array
from onnxprune.metrics.words import headline
from onnxprune.progress import Progress, silent
from onnxprune.training.settings import TuneOptions
from onnxprune.training.tuning import checkpoint
from onnxprune.training.tuning.callbacks import Callback
from onnxprune.training.tuning.judge import Judge
from onnxprune.training.tuning.learner import Weights, changed, learner_of
from onnxprune.training.tuning.lesson import Lesson
from onnxprune.training.tuning.looks import Looks
from onnxprune.training.tuning.precision import AUTO, faster
from onnxprune.training.tuning.resources import resources
from onnxprune.training.tuning.saving import Saver, Saving
from onnxprune.training.tuning.schedule import FEWEST, USUAL, factor, range_test, rates_to_test
from onnxprune.training.tuning.stepping import NotFinite, Stepper

_TESTING, _TESTING_AT_MOST = 0.1, 0.25  # of the time that a range test may take, and one of the fewest rates
_TEST = 1.5  # gradients that its step takes the time of: the loss of the first weights is looked at, too
_PATIENCE = 0.25  # of a run, in which held-out samples may be worse than at first
_FALLING = 0.8  # times the losses that were measured first: those that are below it have not come to rest
_WORSE, _LOWER, _AGAIN = 1.1, 4.0, 3  # times the loss at first: the rate is divided by this then, so many times at most


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured after a step."""

    step: int
    seconds: float  # since the run began
    loss: float | None  # mean of the steps since the measurement before; None at first
    held: float  # loss of the held-out samples; infinite where it is not finite
    rate: float  # learning rate
    samples_per_s: float | None
    figures: Mapping[str, float]  # of the held-out samples, see `metrics`


@dataclass(frozen=True, eq=False)
class Tuned:
    """What came of tuning."""

    weights: Mapping[str, Array]  # those that are better otherwise, by name; none where tuning did not help
    history: tuple[Measured, ...]  # the first is before any step
    best: Measured
    rate: float  # the largest learning rate
    rates: tuple[tuple[float, float], ...]  # of the range test, with smoothed logarithms of losses; none without
    precision: str  # in which the steps were computed
    again: tuple[int, ...]  # steps after which it began again, each time at a lower rate
    steps: int  # that were taken
    samples: int  # that were looked at, views of one counted each time
    seconds: float
    stopped: str | None  # a sentence, where it ended early

    @property
    def helped(self) -> bool:
        """Whether held-out samples are better off."""
        return bool(self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "helped": self.helped,
            "steps": self.steps,
            "samples": self.samples,
            "seconds": self.seconds,
            "stopped": self.stopped,
            "rate": self.rate,
            "rates": [list(each) for each in self.rates],
            "precision": self.precision,
            "again": list(self.again),
            "best": _plain(self.best),
            "history": [_plain(each) for each in self.history],
        }


def _plain(measured: Measured) -> dict[str, Any]:
    values = asdict(measured)
    values["held"] = _finite(measured.held)
    values["figures"] = {name: _finite(value) for name, value in measured.figures.items()}
    return values


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def tuned(
    lesson: Lesson,
    options: TuneOptions,
    *,
    saving: Saving | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Progress = silent,
) -> Tuned:
    """Return the best weights that a run meets.

    The same lesson, options and number of threads give the same bits, also where the run was ended and resumed; but
    for a run whose length is a time, or whose precision is chosen by time.

    Args:
        lesson: who learns what; its network is left with the best weights.
        options: of tuning.
        saving: where checkpoints are written; None: nowhere.
        callbacks: are told what is measured.
        progress: called before each step.

    Raises:
        InputError: when a checkpoint cannot be written or read.
        OptionError: when nothing can be learned, or a checkpoint is of another run.
    """
    with resources(options.threads):
        torch.manual_seed(options.seed)
        run = _Run(lesson, options, saving, callbacks, progress)
        return run.finished()


class _Run:
    """One run: what changes while it lasts."""

    def __init__(
        self,
        lesson: Lesson,
        options: TuneOptions,
        saving: Saving | None,
        callbacks: Sequence[Callback],
        progress: Progress,
    ) -> None:
        self.lesson, self.options, self.saving = lesson, options, saving
        self.processes = lesson.processes
        self.saver = None if saving is None or not self.processes.is_main else Saver(saving)
        self.callbacks, self.progress = (callbacks, progress) if self.processes.is_main else ((), silent)
        self.first = {name: value.clone() for name, value in lesson.network.state_dict().items()}
        self.learner = learner_of(lesson.network, options.lora, options.seed)
        self.order = lesson.order(options)
        self.stepper = Stepper(lesson, self.learner, self.order, options)
        self.judge = Judge(lesson, self.order.size, self.first)
        self.total = options.steps or (options.epochs or 0) * self.order.steps_of_epoch
        self.looks = self._looks()
        self.text, self.last_rate = "tuning", 0.0
        # -- what a checkpoint holds
        self.step, self.spent, self.samples = 0, 0.0, 0
        self.rate, self.rates = options.rate or 0.0, list[tuple[float, float]]()
        self.again: list[int] = []
        self.history: list[Measured] = []
        self.best: Measured | None = None
        self.best_weights: Weights = {}
        self.since: list[float] = []  # losses of the steps since the last measurement
        self.stopped: str | None = None

    def _looks(self) -> Looks:
        """Return when held-out samples are looked at: in a run of known length, by what a look costs beside a step."""
        looks = Looks(self.total)
        if self.total:
            seen = self.total * self.order.size * self.order.runs
            looks.limit_to(self.lesson.held.count / (seen * self.stepper.cost))
        return looks

    # -- the run -------------------------------------------------------------------------------------------

    def finished(self) -> Tuned:
        """Go to the end, and return what came of it."""
        self.began = time.monotonic()
        if self.saving is not None and self.saving.resume:
            found = checkpoint.load(self.saving.path, self.saving.run) if self.processes.is_main else {}
            self._take_up(self.processes.of_main(found))  # the others may run where the file is not
        else:
            self._begin()
        self._wait()
        while self.stopped is None and self.progressed < 1:
            self._advance()
        if self.since and self.stopped is None:  # the time was over before the next look
            self._measure()
        if self.saver is not None and self.saver.pays_at_the_end:  # proofs, and other networks of a folder, come now
            self.saver.save(self._state())
        best = self.best or self.history[0]
        weights = changed(self.first, self.best_weights)
        self.lesson.network.load_state_dict({**self.first, **self.best_weights})
        arrays = {name: value.detach().cpu().numpy() for name, value in weights.items()}
        return Tuned(
            weights=arrays,
            history=tuple(self.history),
            best=best,
            rate=self.rate,
            rates=tuple(self.rates),
            precision=self.stepper.precision,
            again=tuple(self.again),
            steps=self.step,
            samples=self.samples,
            seconds=self.seconds,
            stopped=self.stopped,
        )

    @property
    def seconds(self) -> float:
        """Since the run began, without the time in which it was ended."""
        own = self._own_seconds
        return own if self.options.time is None else self.processes.of_main(own)  # all of them end at the same step

    @property
    def _own_seconds(self) -> float:
        """The same by the clock of this process: no other one has to ask with it."""
        return self.spent + time.monotonic() - self.began

    @property
    def progressed(self) -> float:
        """The share of the run that is done."""
        limit = self.options.time
        return self.seconds / limit if limit is not None else self.step / self.total

    def _begin(self) -> None:
        """Measure the network as it is, and look for a learning rate."""
        self.progress("looking at held-out samples")
        began = time.monotonic()
        self._measure()
        if self.options.time is not None:
            self.looks.limit_to(self.processes.of_main(time.monotonic() - began) / self.options.time)
        if self.options.precision == AUTO:
            self.progress("trying precisions")
            self.stepper.precision = faster(
                lambda precision: self.processes.of_main(self.stepper.seconds(precision)), self.options.time
            )
        if not self.rate:
            self._find_rate()

    def _find_rate(self) -> None:
        """Look for a learning rate, where there is time for it."""
        fit = math.inf if self.options.time is None else self.options.time / max(1e-9, self._seconds_of_a_test())
        if _TESTING_AT_MOST * fit < FEWEST:
            self.rate = USUAL
            return
        rates, place = rates_to_test(_TESTING * fit), 0

        def loss_at(rate: float) -> float:
            nonlocal place
            self.progress("looking for a learning rate", place + 1, len(rates))
            place += 1
            return self.stepper.tested(place - 1, rate, self.first)

        self.rate, self.rates = range_test(loss_at, rates)
        self.stepper.begin_again(self.first)

    def _seconds_of_a_test(self) -> float:
        """Return how long the range test takes for a rate: a run of the network, once kernels and memory are warm."""
        times = 1 if self.options.precision == AUTO else 2
        *_, last = (self.processes.of_main(self.stepper.seconds(self.stepper.precision)) for _ in range(times))
        return _TEST * last / self.order.runs

    def _advance(self) -> None:
        """Take one step; measure and save where it is time."""
        progressed = self.progressed
        self.progress(self.text, self.step + 1, self.total)
        self.last_rate = self.rate * factor(progressed, self.options.warmup, self.step - max(self.again, default=0))
        try:
            loss, samples = self.stepper.step(self.step, self.last_rate)
        except NotFinite as error:
            self.stopped = f"{error} at step {self.step + 1}: tuning ended there, the best state before it counts"
            return
        self.step += 1
        self.samples += samples
        self.since.append(loss)
        if self.looks.is_due(self.step, self.progressed):
            self._measure()
            self._wait()
            if self._is_led_away():
                self._begin_again()
        if self.saver is not None and self.saver.is_due:
            self.saver.save(self._state())

    def _is_led_away(self) -> bool:
        """Whether a rate that nobody asked for has made held-out samples worse for long, and never better.

        A good rate may make them worse at first: what was refitted leaves the place where it stood, and finds another.
        While it does, the losses there fall.
        """
        if self.options.rate or len(self.again) >= _AGAIN or (self.best is not None and self.best.step > 0):
            return False
        at_first, last = self.history[0].held, self.history[-1].held
        tries = [measured.held for measured in self.history if measured.step > max(self.again, default=0)]
        early, late = tries[: len(tries) // 2], tries[len(tries) // 2 :]
        is_over = len(tries) >= max(1, round(_PATIENCE * self.looks.count))
        is_falling = bool(early) and np.mean(late) < _FALLING * np.mean(early)
        return is_over and not is_falling and not last <= _WORSE * at_first

    def _begin_again(self) -> None:
        """Take all steps back, and go on with a lower rate.

        A range test looks at the loss of single steps: a network that is nearly right already (layers that were
        refitted) is led away by rates at which others learn fastest.
        """
        self.stepper.begin_again(self.first)
        self.again.append(self.step)
        self.rate /= _LOWER

    def _wait(self) -> None:
        """Let steps alone count from here to the next look."""
        self.looks.go_on(self.progressed)
        self.waited = time.monotonic()

    def _measure(self) -> None:
        """Look at the held-out samples; keep the state if it is the best."""
        seen = len(self.since) * self.order.size * self.order.runs
        speed = seen / max(1e-9, time.monotonic() - self.waited) if seen else None
        held, figures = self.processes.of_main(self._judged() if self.processes.is_main else (math.inf, {}))
        loss = sum(self.since) / len(self.since) if self.since else None
        measured = Measured(self.step, self.seconds, loss, held, self.last_rate, speed, figures)
        self.history.append(measured)
        if self.best is None or held < self.best.held:
            self.best = measured
            self.best_weights = {name: value.clone() for name, value in self.learner.merged().items()}
        self.since = []
        self._tell(measured)

    def _judged(self) -> tuple[float, dict[str, float]]:
        """Return the loss of the held-out samples, and the figures."""
        held, figures = self.judge(self.learner.weights())
        if self.lesson.penalty is not None:
            with torch.no_grad():
                held += self.lesson.penalty(self.lesson.network.weights).item()
        return held, figures

    def _tell(self, measured: Measured) -> None:
        figures = {"held_out_loss": measured.held, **{f"held_out/{n}": v for n, v in measured.figures.items()}}
        if measured.loss is not None:
            figures |= {"loss": measured.loss, "rate": measured.rate, "samples_per_s": measured.samples_per_s or 0.0}
        for each in self.callbacks:
            each(measured.step, figures)
        if measured.loss is None:
            return
        done = max(1e-9, self.progressed)
        left = max(0.0, (1 - done) / done * self.seconds)
        speed = f"{measured.samples_per_s:.3g} samples/s, " if measured.samples_per_s else ""
        self.text = (
            f"tuning: loss {measured.loss:.4g}, held out {measured.held:.4g} ({headline(measured.figures)}), "
            f"{speed}{time_text(left)} left"
        )

    # -- checkpoints ---------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "step": self.step,
            "seconds": self._own_seconds,  # the main process saves alone
            "samples": self.samples,
            "rate": self.rate,
            "rates": self.rates,
            "precision": self.stepper.precision,
            "again": self.again,
            "history": [asdict(each) for each in self.history],
            "best": None if self.best is None else asdict(self.best),
            "best_weights": self.best_weights,
            "since": self.since,
            "looks": self.looks.times,
            "learned": [each.detach() for each in self.learner.parameters()],
            "statistics": dict(self.lesson.network.statistics),
            "optimiser": self.stepper.optimiser.state_dict(),
            "texts": self.stepper.texts.state,
            "random": torch.get_rng_state(),
        }

    def _take_up(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self.step, self.spent, self.samples = state["step"], state["seconds"], state["samples"]
        self.rate, self.rates = state["rate"], [(rate, loss) for rate, loss in state["rates"]]
        self.stepper.precision = state["precision"]
        self.again = list(state["again"])
        self.history = [Measured(**each) for each in state["history"]]
        self.best = None if state["best"] is None else Measured(**state["best"])
        device = self.lesson.network.device
        self.best_weights = {name: value.to(device) for name, value in state["best_weights"].items()}
        self.since, self.looks.times = list(state["since"]), state["looks"]
        with torch.no_grad():
            for own, value in zip(self.learner.parameters(), state["learned"], strict=True):
                own.copy_(value)
        self.lesson.network.load_state_dict(state["statistics"], strict=False)
        self.stepper.optimiser.load_state_dict(state["optimiser"])
        self.stepper.texts.take_up(state["texts"])
        torch.set_rng_state(state["random"])


def time_text(seconds: float) -> str:
    """Return a time in words.

    >>> time_text(42), time_text(190), time_text(7500)
    ('42 s', '3 min', '2.1 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
