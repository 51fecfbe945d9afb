"""Latency and memory of plans on this machine: predicted for any plan, measured for a few.

Nodes are timed (`latency.kernels`), a model of latency is fitted to a few pruned candidates (`latency.predict`), and
each plan made from it is raced against the original. The ratio of measurement to prediction corrects the next plan, so
that only measured latencies are promised.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.dependency import cost
from onnxprune.dependency.axes import Atom, Mask
from onnxprune.dependency.groups import Group
from onnxprune.dependency.trace import Trace
from onnxprune.graph.files.write import as_file, runnable
from onnxprune.graph.model import Model
from onnxprune.graph.shapes.probe import shapes_at
from onnxprune.graph.tensors import Array
from onnxprune.latency import predict
from onnxprune.latency.bench import Noise, Race, noise_of, race_between, raced
from onnxprune.latency.kernels import Tables
from onnxprune.latency.timer import Timer
from onnxprune.planning.allocate import round_units
from onnxprune.planning.work import sizes_of
from onnxprune.progress import Progress, silent
from onnxprune.runtime.memory import peak_memory_bytes
from onnxprune.runtime.session import Session, open_session
from onnxprune.runtime.timing import time_interleaved
from onnxprune.runtime.trial import ALL, limited_to
from onnxprune.surgery.rewrite import Rewritten, rewrite

STEPS = (16, 8, 4, 1)  # units that are taken from a multiple of 16, to see whether that makes a model faster
SAVED = 0.5  # of what they save if time were even, that they must
NOISE = 0.02  # of a time, that is no difference: two sessions of one model differ by as much
UNIFORM = (0.75, 0.5, 0.25)  # of each group, in candidates that the prediction is fitted to
MIXED = 2  # candidates of random counts besides
OVER = 1.015  # of a target, up to which a plan is kept where none stayed below it: sessions of one model differ by more
MOST_OVER = 1.05  # the same at most, however much a timer varies
RACE_S = 2.0  # of a candidate beside the original
CONFIRM = 3  # times as long lasts the second race of what seems to meet a target
LEAST_S, ROUNDS = 0.15, 150  # of a race: time at least, and runs that are enough
CANDIDATE_S, STEP_S = 0.8, 1.6  # the same while the prediction is fitted, and while steps are looked for
SHARES = (0.5, 0.25)  # of the time for profiling: until when steps are looked for, and what is left for candidates


@dataclass(frozen=True)
class Deployed:
    """What is made of a cut model before it is used: that is what is raced."""

    name: str  # of the way, for the table of races
    make: Callable[[Any], Any]  # from a model to what is made of it


class Speed:
    """Latency of plans on one machine; made by `profiled`."""

    def __init__(
        self,
        traced: Trace,
        feeds: Mapping[str, Array],
        *,
        provider: str,
        threads: int,
        names: Mapping[Atom, str],
        steps: Mapping[Atom, int],
        tables: Tables,
        timer: Timer | None = None,
        deployed: Deployed | None = None,
    ) -> None:
        self._deployed = deployed
        self.traced, self.feeds, self.tables = traced, feeds, tables
        self.steps, self._names = dict(steps), dict(names)
        self._provider, self._threads, self._timer = provider, threads, timer
        self._peak_before: int | None = None
        self._setting = ALL  # of ONNX Runtime's optimisation, with which all that is raced can be opened
        self.races: list[tuple[Mapping[Atom, int], Race]] = []
        self.predict: predict.Latency | None = None
        self.complete = True  # whether the time was enough to measure everything
        self.unknown = 0  # nodes whose times are worked out from MACs

    @cached_property
    def _original(self) -> Callable[[], object]:
        """Runs the original once."""
        return self._opened(*runnable(self.traced.model)).timed(self.feeds)

    @cached_property
    def noise(self) -> Noise | None:
        """How much the user's timer varies on the original; None where ONNX Runtime is timed."""
        if self._timer is None:
            return None
        with as_file(self.traced.model) as path:
            return noise_of(self._timer, path, self.traced.model.sha256())

    @property
    def over(self) -> float:
        """Of a latency that is bounded, up to which a measured one counts as within it."""
        return min(MOST_OVER, max(OVER, 1 + self.unsure))

    @property
    def unsure(self) -> float:
        """Half of the 95 % interval of a usual race on the user's timer, over it; 0 where ONNX Runtime is timed."""
        return 0.0 if self.noise is None else self.noise.unsure

    @cached_property
    def before_ms(self) -> float:
        """The latency of the original, as it is now."""
        if self.noise is not None:
            return self.noise.median_ms
        (times_ms,) = time_interleaved([self._original], budget_s=CANDIDATE_S, min_rounds=5)
        return float(np.median(times_ms))

    @cached_property
    def _usual_s(self) -> float:
        """How long one run of the original takes, roughly."""
        self._original()
        start = time.perf_counter()
        self._original()
        return time.perf_counter() - start

    def fraction(self, sizes: Mapping[Atom, int]) -> float:
        """Return the predicted latency when atoms have these sizes, over the original's."""
        assert self.predict is not None, "nothing was fitted"
        return self.predict.fraction(sizes)

    def race(self, proto: Any, budget_s: float = RACE_S) -> Race:
        """Return a candidate timed beside the original, runs interleaved."""
        if self._timer is not None:
            with as_file(self.traced.model, proto) as path:
                return self._asked(path, budget_s)
        return self._raced(*runnable(self.traced.model, proto), budget_s)

    def race_of(self, written: Model, budget_s: float = RACE_S) -> Race:
        """Return a model in a file timed beside the original, runs interleaved."""
        if self._timer is not None:
            with as_file(written) as path:
                return self._asked(path, budget_s)
        if not written.is_external:
            return self.race(written.proto, budget_s)
        return self._raced(*runnable(written), budget_s)

    def _asked(self, path: Path, budget_s: float) -> Race:
        """Return what the user's timer says of a file and of that of the original."""
        assert self._timer is not None
        assert self.noise is not None
        share = budget_s / RACE_S
        with as_file(self.traced.model) as original:
            race = race_between(raced(self._timer, original, path, self.noise, share))
        return replace(race, unsure=max(race.unsure, self.unsure / math.sqrt(share)))  # few rounds may agree by chance

    def _raced(self, source: Path | bytes, folder: Path | None, budget_s: float) -> Race:
        budget_s = min(budget_s, max(LEAST_S, 2 * ROUNDS * self._usual_s))  # quick models need no seconds
        session = self._opened(source, folder)
        once = session.timed(session.taken(self.feeds))
        runs = [self._original, once]
        return race_between(time_interleaved(runs, budget_s=budget_s, min_rounds=5, warmup_s=budget_s / 3))

    def raced_part(self, rewritten: Rewritten) -> Any:
        """Return what is raced of a cut model: all of it by a timer, the part that can be run by ONNX Runtime."""
        is_whole = self._timer is not None and rewritten.whole is not None
        proto = rewritten.whole if is_whole else rewritten.proto
        return proto if self._deployed is None else self._deployed.make(proto)

    @cached_property
    def whole(self) -> float:
        """The latency of the model without cuts, as it is deployed, over the original's, in a race of this run."""
        return 1.0 if self._deployed is None else self.race(self._uncut, CANDIDATE_S).fraction

    def whole_at_most(self, bound: float) -> float:
        """Return the latency of the model without cuts, as it is deployed, over the original's.

        Where it seems to be within a bound, it is raced again for longer, and what is returned is the slow end of the
        95 % interval: that nothing has to be cut is said only where it is sure.
        """
        if self._deployed is None or self.whole > bound:
            return self.whole
        race = self.race(self._uncut, CONFIRM * RACE_S)
        return race.fraction * (1 + race.unsure)

    @cached_property
    def _uncut(self) -> Any:
        return self.raced_part(rewrite(self.traced, {}))

    def memory(self, proto: Any) -> float | None:
        """Return the peak memory of a candidate over the original's, None where it cannot be measured."""
        before, after = self.memory_before(), self._peak(proto)
        return None if not before or after is None else after / before

    def memory_of(self, written: Model) -> float | None:
        """Return the peak memory of a model in a file over the original's, None where it cannot be measured."""
        if not written.is_external:
            return self.memory(written.proto)
        before = self.memory_before()
        if not before or self._provider != "cpu":
            return None
        source, folder = runnable(written)
        after = self._peak_of(source, folder)
        return None if after is None else after / before

    def memory_before(self) -> int | None:
        """Return the peak memory of the original in bytes, None where it cannot be measured."""
        if self._peak_before is None:
            self._peak_before = self._peak(None)
        return self._peak_before

    def _peak(self, proto: Any | None) -> int | None:
        if self._provider != "cpu":
            return None
        return self._peak_of(*runnable(self.traced.model, proto))

    def _peak_of(self, source: Path | bytes, folder: Path | None) -> int | None:
        with limited_to(self._setting):
            return peak_memory_bytes(source, self.feeds, threads=self._threads, folder=folder)

    def _opened(self, source: Path | bytes, folder: Path | None) -> Session:
        """Return a session.

        Where it needs a stricter setting than the original had, that is opened anew with it, and what was measured with
        more optimisers is forgotten.
        """
        with limited_to(self._setting):
            session = open_session(source, provider=self._provider, threads=self._threads, folder=folder)
        if session.setting != self._setting:
            self._setting, self._peak_before = session.setting, None
            self.races.clear()
            for name in ("_original", "whole", "_about"):
                self.__dict__.pop(name, None)
        return session

    def candidate(self, sizes: Mapping[Atom, int], budget_s: float = CANDIDATE_S) -> Race:
        """Race the model whose atoms keep their first units; one that was raced before is not raced again.

        Where it opens with fewer optimisers than those before it, these are raced again as well, with as few.
        """
        cut = {atom: size for atom, size in sizes.items() if size < atom.size}
        known = [self.tables.number(key) for key in self._keys(cut)]
        before = [other for other, _ in self.races]
        if None in known or self._timer is not None:  # what stands behind a timer may be another device by now
            rewritten = rewrite(self.traced, {atom: first_units(atom, size) for atom, size in cut.items()})
            race = self.race(self.raced_part(rewritten), budget_s)
            if self._timer is None:
                self.tables.keep(
                    dict(zip(self._keys(cut), (race.fraction, race.before_ms, race.after_ms), strict=True))
                )
        else:
            race = Race(*(number or 0.0 for number in known))
        forgotten = before[len(self.races) :]  # all of them, or none
        self.races.append((cut, race))
        for other in forgotten:
            self.candidate(other, budget_s)
        return race

    def _keys(self, cut: Mapping[Atom, int]) -> list[str]:
        """Return under which keys the figures of a race are kept."""
        counts = sorted((self._names[atom], size) for atom, size in cut.items())
        about = hashlib.sha256(json.dumps([self._about, counts]).encode()).hexdigest()[:16]
        return [f"race {about} {figure}" for figure in ("fraction", "before", "after")]

    @cached_property
    def _about(self) -> str:
        """What the result of a race depends on beside the candidate, as a key."""
        shapes = sorted((name, array.shape) for name, array in self.feeds.items())
        way = [self._deployed.name] if self._deployed else []
        setting = [] if self._setting == ALL else [self._setting.level, *self._setting.disabled]
        return json.dumps([self.traced.model.sha256(), shapes, *way, *setting])

    def fit(self, timed: predict.Timed) -> None:
        """Fit the prediction to the candidates that were raced."""
        whole = self.whole
        raced = [(sizes, race.fraction) for sizes, race in self.races if sizes]
        self.predict = predict.fitted(timed, raced, whole)


def first_units(atom: Atom, count: int) -> Mask:
    """Return the mask that keeps the first units."""
    return np.arange(atom.size) < count


def profiled(
    traced: Trace,
    groups: Sequence[Group],
    feeds: Mapping[str, Array],
    *,
    provider: str = "cpu",
    threads: int = 1,
    usual: Mapping[Atom, int],
    find_steps: bool = True,
    fit: bool = True,
    seconds: float = 60.0,
    seed: int = 0,
    tables: Tables | None = None,
    timer: Timer | None = None,
    deployed: Deployed | None = None,
    progress: Progress = silent,
) -> Speed:
    """Return the latency of plans for these groups on this machine, with the steps of its kernels.

    Args:
        traced: the model with its axes.
        groups: the groups that may lose units.
        feeds: what the model is timed on.
        provider: short name, see `runtime.session.PROVIDERS`.
        threads: on the CPU, 0 is ONNX Runtime's choice.
        usual: by atom, the step of kept counts where none is measured.
        find_steps: whether the steps of the kernels in use are measured.
        fit: whether latencies are to be predicted.
        seconds: for all of it, roughly; times known from earlier runs take none.
        seed: of the random candidates.
        tables: where times are kept; by default in the user's cache.
        timer: what models are raced on, instead of this machine; nodes are timed here all the same.
        deployed: what is made of cut models before they are raced.
        progress: called before each step.
    """
    start = time.monotonic()
    tables = tables or Tables(provider, threads)
    steps = {group.atom: usual[group.atom] for group in groups}
    names = {group.atom: group.name for group in groups}
    speed = Speed(
        traced, feeds, provider=provider, threads=threads, names=names, steps=steps, tables=tables, timer=timer,
        deployed=deployed,
    )  # fmt: skip
    if find_steps:
        until = start + SHARES[0] * seconds
        speed.steps, speed.complete = _steps(speed, groups, steps, until=until, progress=progress)
    if fit:
        sizing = predict.Sizing(traced, shapes_at(traced.model, sizes_of(feeds, traced.model)))
        grids = predict.grids(sizing, speed.steps, {group.atom: group.least for group in groups})
        until = start + (1 - SHARES[1]) * seconds
        kernels = [kernel for grid in sorted(grids, key=_macs_of, reverse=True) for kernel in grid.kernels]
        speed.complete &= tables.measure(kernels, until=until, progress=progress)
        times = {kernel.key: tables.ms(kernel) for kernel in kernels}
        timed = predict.Timed(sizing, grids, times, by_timer=timer is not None)
        speed.unknown = timed.unknown
        _race_candidates(speed, groups, start + seconds, seed, progress)
        speed.fit(timed)
    return speed


def _macs_of(grid: predict.Grid) -> int:
    return sum(math.prod(axis.size for axis in axes) for axes in grid.macs)


def _race_candidates(speed: Speed, groups: Sequence[Group], until: float, seed: int, progress: Progress) -> None:
    rng = np.random.default_rng(seed)
    shares: list[list[float]] = [[share] * len(groups) for share in UNIFORM]
    shares += [rng.uniform(0.2, 1, len(groups)).tolist() for _ in range(MIXED)]
    for number, each in enumerate(shares):
        if number and time.monotonic() > until:
            break
        progress("racing candidates", number + 1, len(shares))
        pairs = zip(groups, each, strict=True)
        aligned = ((g, predict.aligned(g.units, float(share), speed.steps[g.atom])) for g, share in pairs)
        sizes = {group.atom: max(group.least, count) for group, count in aligned}
        speed.candidate(sizes)


# -- steps of kernels ------------------------------------------------------------------------------------------


def _steps(
    speed: Speed, groups: Sequence[Group], usual: Mapping[Atom, int], *, until: float, progress: Progress
) -> tuple[dict[Atom, int], bool]:
    """Return the step of kept counts by atom, and whether all candidates were raced: between steps, no time is saved.

    All groups of a kind are taken together: a count that leaves a blocked layout makes its neighbours slower too, and
    keeps nodes from being fused, which the times of single nodes do not show. Where no step shows, the usual one
    stays, or a finer one that measurably saved what it should: differences within noise do not count.
    """
    steps, complete = dict(usual), True
    kinds: dict[str, list[Group]] = {}
    for group in groups:
        kinds.setdefault("channels" if group.lanes else group.kind, []).append(group)
    for kind, alike in kinds.items():
        bases = {group: step_base(group.units, max(1, group.lanes)) for group in alike}
        if all(base == group.units for group, base in bases.items()):
            continue  # too few units for any step
        whole_blocks = {group.atom: base for group, base in bases.items()}
        best, even, step, harmless = speed.candidate(whole_blocks, STEP_S).fraction, 0.0, 0, 0
        for number, below in enumerate(STEPS):
            progress(f"looking for the step of {kind}", number + 1, len(STEPS))
            if time.monotonic() > until:
                complete = False
                break
            counts = {group: base - round_units(max(1, group.lanes), below) for group, base in bases.items()}
            sizes = {group.atom: count if count > 0 else bases[group] for group, count in counts.items()}
            saved = best - speed.candidate(sizes, STEP_S).fraction
            even = even or saved / below
            if saved < SAVED * even * below - NOISE * best:
                step = STEPS[number - 1] if number else 2 * below
                break
            if SAVED * even * below >= NOISE * best:
                harmless = below
        for group in alike if step or harmless else ():
            units = round_units(max(1, group.lanes), step or harmless)
            steps[group.atom] = min(units, group.units) if step else min(units, usual[group.atom])
    return steps, complete


def step_base(units: int, lanes: int) -> int:
    """Return a count that suits every step: a multiple of the largest, about two thirds; or all units where few.

    >>> step_base(256, 1), step_base(64, 8), step_base(12, 1)
    (160, 40, 12)
    """
    step = round_units(lanes, STEPS[0])
    return max(2 * step, int(0.65 * units / step) * step) if 3 * step <= units else units


# -- memory ----------------------------------------------------------------------------------------------------


def memory_predictor(traced: Trace, feeds: Mapping[str, Array]) -> cost.Footprint:
    """Return the model that predicts the peak memory of plans on these feeds."""
    sizing = predict.Sizing(traced, shapes_at(traced.model, sizes_of(feeds, traced.model)))
    return cost.Footprint(traced, sizing.fixed)
