"""`prune` in rounds: cut a part, tune, measure, again; the teacher is the original in all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from onnxprune.commands.rounds.folder import Finished, Keeper
from onnxprune.commands.rounds.tune_pruned import Tuning, improver, taught
from onnxprune.commands.steps.cut import Pass, cut
from onnxprune.commands.steps.decide import decide, score
from onnxprune.commands.steps.finish import Publish, compared, with_report
from onnxprune.commands.steps.int8 import DEPLOYED, Int8, chosen_where_asked, met_by, written_in
from onnxprune.commands.steps.job import Job
from onnxprune.commands.steps.learn import stored
from onnxprune.commands.steps.measured import measured
from onnxprune.commands.steps.prepare import PreparedModel, part_to_run, prepare
from onnxprune.commands.steps.tune_cut import Kept, initializers_in_all, kept_by_report, kept_in_all, units_in_all
from onnxprune.data.caches import suited_data
from onnxprune.dependency.account import accounts
from onnxprune.dependency.cost import CACHE, Counter
from onnxprune.errors import NothingToPrune, OptionError, UnreachableTarget
from onnxprune.evaluation.verify import read_back
from onnxprune.graph.edit import with_weights_inside
from onnxprune.graph.files.publish import check_unchanged
from onnxprune.graph.forms.remainder import same_part
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Evidence, Plan
from onnxprune.planning.promise import Decision
from onnxprune.planning.rounds import Wanted, options_of_round, tuning_of_round, wanted
from onnxprune.planning.targets import MEASURED, Target
from onnxprune.progress import Progress, silent
from onnxprune.report.document import file_values
from onnxprune.report.rounds import rounds_report
from onnxprune.training.settings import TuneOptions
from onnxprune.training.tuning.order import held_out

# By kind of target, what reports of files call it.
_COUNTED = {"macs": "macs", "params": "params", "size": "size_bytes", CACHE: "cache_bytes"}


def in_rounds(
    job: Job, keeper: Keeper, publish: Publish, progress: Progress, given: Int8 | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model and the report of all rounds, when both are published.

    Args:
        job: what to do.
        keeper: has what is finished.
        publish: writes the last round.
        progress: called before each step.
        given: the form of eight bits, where it was chosen for another model that this one is made of.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`; rounds that are finished stay with the keeper.
    """
    first = prepare(job.model, job.options, job.data, progress, tunes=job.learning.tuning is not None)
    tuning = job.learning.tuning
    if tuning is not None:
        tuning_of_round(_most_steps(tuning, first), 0, 0, job.learning.rounds)  # says now what cannot be enough
    with chosen_where_asked(first, progress) if given is None else contextlib.nullcontext(given) as int8:
        rounds = _Rounds(job, first, tuning, wanted(first.groups, first.options), keeper, progress, int8)
        for number in range(job.learning.rounds - 1):
            rounds.add(keeper.finished(number) or rounds.kept(number))
        proto, report = rounds.last(publish)
        return rounds.by_itself(proto), report


class _Rounds:
    """The rounds of a run: what is finished, and the next one."""

    def __init__(  # noqa: PLR0917 - as they follow from one another
        self,
        job: Job,
        first: PreparedModel,
        tuning: TuneOptions | None,
        all_rounds: Wanted,
        keeper: Keeper,
        progress: Progress,
        int8: Int8 | None = None,
    ) -> None:
        self.job, self.first, self.tuning = job, first, tuning
        self.all_rounds, self.keeper, self.progress = all_rounds, keeper, progress
        self.int8 = int8  # how the last round is written, where it is in eight bits
        self.model = job.model  # what is left by now
        self.units = dict(all_rounds.units)
        self.reports: list[dict[str, Any]] = []  # of rounds, also of those that were skipped
        self.parts: list[Kept] = []  # what each cut kept

    @property
    def original(self) -> Model:
        """The part that is run of the model that the first round cuts."""
        return self.first.traced.model

    @property
    def teacher(self) -> Model:
        """What is learned from, and compared with: the model that the first round cuts, or what it was made of."""
        return self.job.original or self.original

    @property
    def cuts(self) -> list[dict[str, Any]]:
        """The reports of the rounds that cut something."""
        return [report for report in self.reports if "skipped" not in report]

    def add(self, finished: Finished) -> None:
        """Take over what a round came to."""
        self.reports.append(finished.report)
        if finished.model is None:
            return
        self.parts.append(kept_by_report(self._run_part(), finished.report))
        self.units |= {group["name"]: group["kept"] for group in finished.report["groups"]}
        self.model = finished.model

    def kept(self, number: int) -> Finished:
        """Do a round, and keep it."""
        try:
            with self.keeper.publish(number) as publish:
                self._do(number, publish)
        except NothingToPrune as error:
            self.keeper.skip(number, str(error))
        finished = self.keeper.finished(number)
        assert finished is not None
        return finished

    def last(self, publish: Publish) -> tuple[Any, dict[str, Any]]:
        """Do the last round, and publish it; where nothing is left to prune, what the round before it came to."""
        try:
            return self._do(self.job.learning.rounds - 1, partial(with_report, publish, self._as_whole))
        except NothingToPrune as error:
            if not self.cuts:
                raise
            return self._ended_early(publish, str(error))

    def by_itself(self, proto: Any) -> Any:
        """Return a model that needs no files of finished rounds: its weights lie where the original's do, or inside."""
        folder = self.model.folder
        return proto if folder == self.job.model.folder else with_weights_inside(proto, folder)

    def _ended_early(self, publish: Publish, why: str) -> tuple[Any, dict[str, Any]]:
        """Publish what the rounds so far came to, with the tuning that is left."""
        number = self.job.learning.rounds - 1
        progress = self._progress_of(number)
        part = self._run_part()
        contents: Mapping[str, Array] = {}
        tuning = self._tuning_of(number)
        if tuning is not None:
            data, is_measured = self.first.tuning_data, self.job.options.is_measured
            assert data is not None
            contents, tuning_report = taught(
                part, suited_data(data, part.inputs), tuning, progress, is_measured=is_measured
            )
        proto = stored(part, contents)

        def finished(_: Decision, publish: Publish) -> tuple[Any, dict[str, Any]]:
            report = dict(self.cuts[-1])
            with publish(proto, self.model.folder) as (path, complete):
                if tuning is not None:
                    after = same_part(read_back(path), part)
                    report["output"] = file_values(after, report["output"]["macs"])
                    report |= {"tuning": tuning_report(path), **compared(self.teacher, after, self.first, progress)}
                complete(report)
            return proto, report

        def as_whole(report: dict[str, Any]) -> None:
            self.reports.append({"skipped": why, "tuning": None if tuning is None else report["tuning"]})
            _turn_into(report, self._whole(report))

        told = partial(with_report, publish, as_whole)
        others = self.job.original, self.job.timed
        return written_in(self.int8, self.first, self._met(), finished, publish=told, others=others, progress=progress)

    def _met(self) -> Decision:
        """Return the decision that cuts nothing more, under the targets of eight bits where these are written."""
        if self.int8 is None:
            return Decision(Plan({}))
        goals, _, _ = self._costs()
        return met_by(self.first, tuple((target, goals[target.kind]) for target in self.job.options.bounds))

    # -- one round -----------------------------------------------------------------------------------------

    def _do(self, number: int, publish: Publish) -> tuple[Any, dict[str, Any]]:
        """Cut what is left by now, tune and publish it.

        Raises:
            OptionError: when a target cannot be met; names the round.
        """
        left, told = self.job.learning.rounds - number, self._progress_of(number)
        prepared = self.first if self.model is self.job.model else self._prepared(told)
        goals, now, originals = self._costs()
        if self.int8 is not None and left > 1:
            goals = {kind: goal / self.int8.share(kind) for kind, goal in goals.items()}
        kinds = DEPLOYED if self.int8 is not None and left == 1 else ()
        deployed = {kind: originals.get(kind, 1.0) for kind in kinds}  # what is not measured is as it was
        options = options_of_round(self.all_rounds, self.units, goals, now, left, deployed)
        if options is None:
            raise NothingToPrune(f"nothing has to go: {', '.join(map(str, self.job.options.bounds))} is met already")
        prepared = prepared.with_options(options if left == 1 else replace(options, quantize=None))
        notes = self.keeper.notes(number)
        evidence = score(prepared, told, notes=notes)
        is_first = self.model is self.job.model
        if is_first:
            self._check_reachable(evidence, options)
        tuning = self._tuning_of(number)
        wanted_of = {
            target.kind: now[target.kind] * target.value if target.is_fraction else goals[target.kind]
            for target in options.bounds
        }

        def noted(report: dict[str, Any]) -> None:
            report["round"] = {"wanted": wanted_of, "budget": _length(report["tuning"])}

        once = Pass(
            partial(with_report, publish, noted),
            improve=None if tuning is None else improver(prepared, tuning, told),
            original=self.job.original if is_first else self.teacher,
            evidence=evidence,
            notes=notes,
            int8=self.int8 if left == 1 else None,
        )
        try:
            return cut(replace(prepared, file_name=self.job.name), once, told)
        except UnreachableTarget as error:
            raise OptionError(f"{self._name(number)}: {error}") from None

    def _name(self, number: int) -> str:
        return f"round {number + 1} of {self.job.learning.rounds}"

    def _progress_of(self, number: int) -> Progress:
        """Return what says before each step which round it is of."""

        def progress(text: str, step: int = 0, steps: int = 0, /) -> None:
            self.progress(f"{self._name(number)}: {text}", step, steps)

        return progress

    def _run_part(self) -> Model:
        """Return the part that is run of what is left by now; dims that are open have the sizes of the first round."""
        part = part_to_run(self.model, dict(self.job.options.inputs))
        return replace(part, sizes={**self.original.sizes, **part.sizes})

    def _prepared(self, progress: Progress) -> PreparedModel:
        return prepare(self.model, self.job.options, self.job.data, progress, tunes=self.tuning is not None)

    def _check_reachable(self, evidence: Evidence, first: Options) -> None:
        """Raise OptionError now for targets that cannot be reached in the end, but for those that are measured."""
        targets = tuple(pair for pair in self.job.options.targets if pair[0] not in MEASURED)
        if targets and any(kind not in MEASURED for kind, _ in first.targets):
            whole = replace(self.job.options, targets=targets)
            deployed = None if self.int8 is None else self.int8.deployed(self.original)
            decide(self.first.with_options(whole), evidence, None, silent, deployed)

    def _tuning_of(self, number: int) -> Tuning | None:
        """Return how a round is tuned: with its share of the steps, which its lesson counts, or of the time."""
        if self.tuning is None:
            return None
        spent, rounds = sum(self._budgets()), self.job.learning.rounds
        return Tuning(
            replace(self.tuning, seed=self.tuning.seed + number),
            self.teacher,
            kept_in_all(self.parts) if self.parts else None,
            self.keeper.tuning(number),
            self.keeper.resume,
            part=lambda options: tuning_of_round(options, spent, number, rounds),
        )

    def _budgets(self) -> Iterator[float]:
        """Yield the steps or seconds that the rounds so far had."""
        return (report["round"]["budget"] for report in self.cuts)

    def _costs(self) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Return the targets and what is left by now costs, as fractions of the original, and what that costs, by kind.

        What has to be measured is left out of the last where nothing needs it: the original is what is left then.
        """
        targets = self.job.options.bounds
        before: dict[str, float] = dict(Counter(self.first.traced).before)
        now = dict(before)
        if self.cuts:
            output = self.cuts[-1]["output"]
            now = {kind: output[name] for kind, name in _COUNTED.items()}
            source = self.cuts[0]["input"]
            before = {kind: source[name] for kind, name in _COUNTED.items()}
        if any(_needs_measuring(target, bool(self.cuts)) for target in targets):
            costs = self._measured()
            before |= {kind: sides[0] for kind, sides in costs.items()}
            now |= {kind: sides[1] for kind, sides in costs.items()}
        goals = {target.kind: target.fraction(before.get(target.kind, 1.0)) for target in targets}
        return goals, {kind: now.get(kind, 1.0) / max(1e-12, before.get(kind, 1.0)) for kind in goals}, before

    def _measured(self) -> dict[str, tuple[float, float]]:
        """Return latency in ms and memory in bytes, of the original and of what is left by now."""
        now = part_to_run(self.model, dict(self.job.options.inputs))
        return measured(self.original, now, self.first.evaluation_data, self.job.options)

    # -- all rounds ----------------------------------------------------------------------------------------

    def _as_whole(self, report: dict[str, Any]) -> None:
        """Put the report of all rounds in the place of that of the last."""
        self.reports.append(dict(report))
        _turn_into(report, self._whole(report))

    def _whole(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """Return the report of all rounds."""
        check_unchanged(self.job.model.stamps, self.job.model.path)
        kept = units_in_all(self.all_rounds.units, self.cuts)
        reasons = {group["name"]: group["locked"] for group in last["groups"]}
        groups = [self._group(entry, kept[entry["name"]], reasons) for entry in self.cuts[0]["groups"]]
        why = {each["name"]: each["locked"] for each in groups if each["locked"] is not None}
        return rounds_report(
            last,
            self.reports,
            options=self.first.options.to_dict(),
            groups=groups,
            nodes=[account.to_dict() for account in accounts(self.first.traced, self.first.groups, why)],
            initializers=initializers_in_all(self.cuts),
        )

    @staticmethod
    def _group(entry: Mapping[str, Any], kept: Sequence[int], reasons: Mapping[str, str | None]) -> dict[str, Any]:
        """Return what the report says of a group of the original."""
        is_whole = len(kept) == entry["units"]
        reason = reasons.get(entry["name"]) or entry["locked"] or "no round removed any of its units"
        return {**entry, "kept": len(kept), "kept_units": list(kept), "locked": reason if is_whole else None}


def _most_steps(tuning: TuneOptions, first: PreparedModel) -> TuneOptions:
    """Return options whose length, where it is in epochs, is in steps of one sample each: lessons have no more."""
    if tuning.epochs is None or first.tuning_data is None:
        return tuning
    learned, _ = held_out(first.tuning_data)
    return replace(tuning, epochs=None, steps=tuning.epochs * learned.count)


def _length(tuning: Mapping[str, Any] | None) -> float | None:
    """Return the steps or seconds that a report says a cut was to be tuned for; None where it was not."""
    if tuning is None:
        return None
    options = tuning["options"]
    return float(options["time"] if options["steps"] is None else options["steps"])


def _turn_into(report: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Let a report, which others hold, be another one."""
    report.clear()
    report.update(other)


def _needs_measuring(target: Target, has_cuts: bool) -> bool:
    """Whether a target depends on what this machine does with the original, and with what is left by now."""
    return target.kind in MEASURED and (has_cuts or not target.is_fraction)
