"""Learn masks: weights and a gate on each unit are trained together, until the gates that are open keep to a budget.

The network learns to do what the original does, as in tuning. Gates and weights lower the loss; the multipliers of the
budget raise it while the budget is missed, as Xia et al. 2023, Sheared LLaMA, section 2.1, has it. The budget tightens
over the first half of the steps. What a gate is in the end is multiplied into the weights that read the unit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from onnxprune.dependency.groups import Group
from onnxprune.errors import OptionError
from onnxprune.graph.tensors import Array
from onnxprune.progress import Progress, silent
from onnxprune.training.network.units import Units, gated, units_of
from onnxprune.training.settings import TuneOptions
from onnxprune.training.sparse.gates import Budget, Gates, Multipliers
from onnxprune.training.tuning import checkpoint
from onnxprune.training.tuning.lesson import Lesson
from onnxprune.training.tuning.precision import AUTO, SINGLE, autocast, faster, seconds_of
from onnxprune.training.tuning.resources import resources
from onnxprune.training.tuning.saving import Saver, Saving
from onnxprune.training.tuning.schedule import factor
from onnxprune.training.tuning.stepping import NotFinite, adamw, check_gradient, check_losses

Tensor = torch.Tensor
RATE = 1e-3  # of the weights, by default
RAMP = 0.5  # of the steps, in which the budget tightens
MEASURED = 20  # times that a run is measured
_TRAVEL = 100.0  # what a gate may move in all of a run, in the unit of log alpha
_FASTEST = 0.5  # rate of gates
_EAGER = 2.0  # rate of the multipliers over that of the gates
_TIMED, _TIMING = 3, 0.1  # steps that say how many a time has room for; share of it after which one is enough
_SEEDS = 1_000_003  # between the draws of two seeds


@dataclass(frozen=True, slots=True)
class Step:
    """What was measured after a step."""

    step: int
    seconds: float
    loss: float  # mean of the steps since the measurement before
    over: float  # by how much the budget is missed at most, as a share of the original
    wanted: float  # how tight the budget is by then, 0 to 1
    kept: float  # units whose gate is expected not to be shut, of all that have one


@dataclass(frozen=True, eq=False)
class Masks:
    """What came of learning."""

    scores: Mapping[str, Array]  # how open the gate of each unit is, by the first of the groups that lose the same
    gates: Mapping[str, Array]  # what units are multiplied by in the end, the same way
    weights: Mapping[str, Array]  # as they were trained, without the gates
    history: tuple[Step, ...]
    steps: int
    seconds: float
    rate: float  # learning rate of the weights
    precision: str = SINGLE  # in which the steps were computed

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = {"steps": self.steps, "seconds": self.seconds, "rate": self.rate, "precision": self.precision}
        return {**plain, "history": [asdict(each) for each in self.history]}


@dataclass(frozen=True, eq=False)
class Gated:
    """The groups whose units have gates."""

    units: tuple[Units, ...]
    first: Mapping[str, str]  # of each group, the first of those that lose the same units
    counts: Mapping[str, int]  # units, by the first

    def weights(self, gates: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights that read units, each unit times its gate; gates by the first of the groups."""
        return gated(self.units, {name: gates[first] for name, first in self.first.items()}, weights)


def gated_of(lesson: Lesson, tied: Mapping[str, Sequence[Group]]) -> Gated:
    """Return the groups that can have gates: a weight that is trained reads their units.

    Args:
        lesson: has the network.
        tied: groups that lose the same units, by the first of them.

    Raises:
        OptionError: when no group can.
    """
    groups = [group for alike in tied.values() for group in alike]
    known = {each.name: each for each in units_of(lesson.network, groups) if each.consumers}
    able = {first: alike for first, alike in tied.items() if all(group.name in known for group in alike)}
    if not able:
        raise OptionError("masks has no effect: no weight that is trained reads units that can be removed")
    first = {group.name: name for name, alike in able.items() for group in alike}
    counts = {name: alike[0].units for name, alike in able.items()}
    return Gated(tuple(known[name] for name in first), first, counts)


def learned_masks(
    lesson: Lesson,
    groups: Gated,
    budget: Budget,
    options: TuneOptions,
    *,
    saving: Saving | None = None,
    progress: Progress = silent,
) -> Masks:
    """Return weights and gates that keep to a budget. The same as `tuner.tuned` holds for bits and checkpoints.

    Args:
        lesson: who learns what; its network is left with the weights.
        groups: that have gates.
        budget: what they keep, by the first of the groups that lose the same units.
        options: of learning.
        saving: where checkpoints are written; None: nowhere.
        progress: called before each step.

    Raises:
        InputError: when a checkpoint cannot be written or read.
        OptionError: when a checkpoint is of another run; and for a loss or gradient that is not finite, of which it
            names step and samples. Tuning would keep its best state; gates that are half learned are none.
    """
    with resources(options.threads):
        torch.manual_seed(options.seed)
        return _Run(lesson, groups, budget, options, saving, progress).finished()


class _Run:
    """One run: what changes while it lasts."""

    def __init__(  # noqa: PLR0917 - as its caller has them
        self,
        lesson: Lesson,
        groups: Gated,
        budget: Budget,
        options: TuneOptions,
        saving: Saving | None,
        progress: Progress,
    ) -> None:
        self.lesson, self.groups, self.budget = lesson, groups, budget
        self.options, self.saving, self.progress = options, saving, progress
        self.saver = None if saving is None else Saver(saving)
        device = lesson.network.device
        self.gates = Gates(groups.counts, device=device)
        self.multipliers = Multipliers(budget.equalities, device=device)
        self.order = lesson.order(options)
        self.total = options.steps or (options.epochs or 0) * self.order.steps_of_epoch
        self.planned = self.total  # steps; an estimate where the length is a time
        self.rate = options.rate or RATE
        self.optimisers = self._optimisers()
        self.precision = options.precision or SINGLE
        self.text = "learning masks"
        self.step, self.spent = 0, 0.0
        self.history: list[Step] = []
        self.since: list[float] = []

    def _optimisers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Return those of weights, gates and multipliers; the last ones are ascended."""
        return (
            adamw(list(self.lesson.network.weights.values()), self.options.decay),
            torch.optim.Adam(self.gates.parameters(), lr=0.0),
            torch.optim.Adam(self.multipliers.parameters(), lr=0.0, maximize=True),
        )

    def finished(self) -> Masks:
        """Go to the end, and return what came of it.

        Raises:
            OptionError: when a loss or gradient is not finite.
        """
        self.began = time.monotonic()
        try:
            self._learn()
        except NotFinite as error:
            raise OptionError(
                f"{error} at step {self.step + 1} of learning masks: look at what the data holds there, or give masks "
                f"a rate below {self.rate:g}, in Python as masks={{'rate': ...}}"
            ) from None
        if self.saver is not None and self.saver.pays_at_the_end:
            self.saver.save(self._state())
        return Masks(
            scores=_arrays(self.gates.scores()),
            gates=_arrays(self.gates.fixed()),
            weights=_arrays(self.lesson.network.weights),
            history=tuple(self.history),
            steps=self.step,
            seconds=self.seconds,
            rate=self.rate,
            precision=self.precision,
        )

    def _learn(self) -> None:
        """Take all steps, or those behind a checkpoint."""
        if self.saving is not None and self.saving.resume:
            self._take_up(checkpoint.load(self.saving.path, self.saving.run))
        else:
            self._begin()
        self._pace()
        self.ended = self.progressed >= 1
        while not self.ended:
            self._advance()

    def _begin(self) -> None:
        """Choose the precision, and guess how many steps there is time for."""
        if self.options.precision == AUTO:
            self.progress("trying precisions")
            self.precision = faster(self._seconds_in, self.options.time)
        if self.options.time is not None:
            self.planned = self._steps_in(self.options.time)

    def _seconds_in(self, precision: str) -> float:
        """Return how long the gradients of a step take in a precision, see `seconds_of`; weights stay as they are."""
        self.precision = precision
        return seconds_of(lambda: self._slopes(0.0))

    def _steps_in(self, limit: float) -> int:
        """Return how many steps a run has time for, from some whose gradients are left alone."""
        taken: list[float] = []
        while len(taken) < _TIMED and not (taken and self.seconds > _TIMING * limit):
            before = time.monotonic()
            self._slopes(0.0)
            taken.append(time.monotonic() - before)
        return max(1, round((limit - self.seconds) / max(1e-9, min(taken))))

    def _pace(self) -> None:
        """Let gates move no farther in a run than they have to, however many steps it has."""
        fast = min(_FASTEST, _TRAVEL / self.planned)
        for optimiser, rate in zip(self.optimisers[1:], (fast, _EAGER * fast), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate

    @property
    def seconds(self) -> float:
        """Since the run began, without the time in which it was ended."""
        return self.spent + time.monotonic() - self.began

    @property
    def progressed(self) -> float:
        """The share of the run that is done."""
        limit = self.options.time
        return self.seconds / limit if limit is not None else self.step / self.total

    def _advance(self) -> None:
        self.progress(self.text, self.step + 1, self.total)
        done = self.progressed
        tight = min(1.0, done / RAMP)
        loss, violations = self._slopes(tight)
        for group in self.optimisers[0].param_groups:
            group["lr"] = self.rate * factor(done, self.options.warmup, self.step)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        self.since.append(loss)
        self.ended = self.progressed >= 1  # asked once a step: the last one is measured
        if self.ended or self.step % max(1, self.planned // MEASURED) == 0:
            self._measure(violations, tight)
        if self.saver is not None and self.saver.is_due:
            self.saver.save(self._state())

    def _slopes(self, tight: float) -> tuple[float, Tensor]:
        """Make the gradients of a step those of its loss and the budget; return the loss, and how the budget is missed.

        Raises:
            NotFinite: when loss or gradients are not.
        """
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss = self._backward()
        violations = self.budget.violations(self.gates.expected(), tight)
        torch.autograd.backward(self.multipliers.penalty(violations))
        norm = torch.nn.utils.clip_grad_norm_(self.lesson.network.weights.values(), self.options.clip)
        others = [each.grad for each in (*self.gates.parameters(), *self.multipliers.parameters())]
        norms = [norm, *(slope.norm() for slope in others if slope is not None)]
        check_gradient(float(torch.stack(norms).sum()), self.order.at(self.step), self.lesson.train)
        return loss, violations.detach()

    def _backward(self) -> float:
        """Add the gradients of a step; return the mean loss of its samples."""
        runs = self.order.at(self.step)
        count, total = sum(map(len, runs)), 0.0
        labels, weights = self.lesson.train.labels, self.lesson.network.weights
        for part, rows in enumerate(runs):
            piece = self.lesson.train.piece(rows)
            piece = replace(piece, feeds=self.lesson.augment(piece.feeds, self.step, part))
            drawn = self.gates.sampled(torch.Generator().manual_seed(_SEEDS * self.options.seed + self.step))
            own = None if labels is None else labels[rows]
            with autocast(self.precision, self.lesson.network.device.type):
                used = self.groups.weights(drawn, weights)
                keys = [(self.step, part, int(row)) for row in rows]
                seen = self.lesson.seen(piece, own, self.lesson.objective, None, used, keys=keys)
            losses = self.lesson.objective(seen)
            check_losses(losses.detach(), rows, self.lesson.train)
            loss = losses.sum() / count
            torch.autograd.backward(loss)
            total += float(loss.detach())
        return total

    def _measure(self, violations: Tensor, tight: float) -> None:
        kept = sum(each.item() for each in self.gates.expected().values()) / sum(self.groups.counts.values())
        loss = sum(self.since) / len(self.since)
        over = violations.max().item()
        self.history.append(Step(self.step, self.seconds, loss, over, tight, kept))
        self.text = f"learning masks: loss {loss:.4g}, {kept:.1%} of the units open, {over:+.3f} of the budget"
        self.since = []

    # -- checkpoints ---------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "step": self.step,
            "planned": self.planned,
            "precision": self.precision,
            "seconds": self.seconds,
            "history": [asdict(each) for each in self.history],
            "since": self.since,
            "learned": [each.detach() for each in self._parameters()],
            "optimisers": [each.state_dict() for each in self.optimisers],
        }

    def _parameters(self) -> list[Tensor]:
        return [*self.lesson.network.weights.values(), *self.gates.parameters(), *self.multipliers.parameters()]

    def _take_up(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self.step, self.planned, self.spent = state["step"], state["planned"], state["seconds"]
        self.precision = state["precision"]
        self.history = [Step(**each) for each in state["history"]]
        self.since = list(state["since"])
        with torch.no_grad():
            for own, value in zip(self._parameters(), state["learned"], strict=True):
                own.copy_(value)
        for optimiser, value in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(value)


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: value.detach().float().cpu().numpy() for name, value in tensors.items()}


def folded(groups: Gated, masks: Masks, kept: Mapping[str, Sequence[int]], lesson: Lesson) -> dict[str, Array]:
    """Return the weights with the gates of units that stay multiplied into those that read them.

    Units that are removed are left as they are: the cut takes them away.

    Args:
        groups: that have gates.
        masks: what was learned.
        kept: units, by group; those of groups that keep all are absent.
        lesson: its network has the weights.
    """
    factors = {}
    for first, gates in masks.gates.items():
        stay = torch.zeros(len(gates), dtype=torch.bool)
        stay[list(kept.get(first, range(len(gates))))] = True
        factors[first] = torch.where(stay, torch.from_numpy(gates), torch.ones(len(gates))).to(lesson.network.device)
    with torch.no_grad():
        return {**masks.weights, **_arrays(groups.weights(factors, lesson.network.weights))}
