"""`sweep`: a family of pruned models, one calibration and then a member for each of several targets.

Members are independent tasks of `runtime.executors`: a worker refits the layers of each, on this machine or another.
Surgery, proof, timing and writing are done here, one member at a time, so that nothing runs beside what is timed.

The folder remembers. Every member has a record in ``.sweep/`` of what it was made from, and loss curves lie there too:
a run that was interrupted goes on where it stopped. A member counts as finished when its record fits the options of
this run and its file is the recorded one; model, report and record appear together or not at all.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnxprune import check
from onnxprune.algebra.threads import one_blas_thread
from onnxprune.commands.prune import bounded
from onnxprune.commands.records.recipe import recipe_of_call, typed
from onnxprune.commands.records.report_files import PageFile, ReportFiles, write_report
from onnxprune.commands.steps.decide import decide, profile, score
from onnxprune.commands.steps.finish import Complete, finish
from onnxprune.commands.steps.prepare import PreparedModel, prepare, sample_files
from onnxprune.commands.steps.recover import Recovery
from onnxprune.commands.sweeps.folder import SweepFolder, file_digests
from onnxprune.commands.sweeps.members import KINDS, Member, make_members
from onnxprune.commands.sweeps.recovery import recover_all
from onnxprune.commands.sweeps.summary import summarize
from onnxprune.errors import NothingToPrune, OptionError
from onnxprune.evaluation.details import details_of_none
from onnxprune.graph.files.publish import Reads, blamed_on_change, staging
from onnxprune.graph.files.read import Source, load
from onnxprune.graph.files.write import staged
from onnxprune.graph.model import Model
from onnxprune.planning.options import Options, make_options
from onnxprune.planning.plan import Evidence
from onnxprune.planning.promise import Decision
from onnxprune.progress import Progress, logged, silent
from onnxprune.report.charts import family_page, family_svg
from onnxprune.runtime.executors import ALONE, Workers, from_executor
from onnxprune.runtime.executors import workers as open_workers


@dataclass(frozen=True)
class Family:
    """Models of one family, in the order of their values."""

    folder: Path
    summary: Mapping[str, Any]  # as sweep.json holds it, see docs/sweep.md

    @property
    def members(self) -> list[Path]:
        """The models."""
        return [self.folder / member["path"] for member in self.summary["members"]]


def sweep(
    source: Source,
    out: str | os.PathLike[str],
    kind: str,
    values: Sequence[Any],
    *,
    data: Any = None,
    workers: int = 1,
    scheduler: str | None = None,
    executor: Executor | None = None,
    resume: bool = False,
    force: bool = False,
    **options: Any,
) -> Family:
    """Prune a model to several targets, from one calibration, into a folder; what is finished there stays.

    Args:
        source: as for `prune`.
        out: the folder; it is made where there is none.
        kind: what the values are of: "ratio", or a target such as "macs" or "latency".
        values: one for each member.
        data: samples, as for `prune`.
        workers: processes of this machine to run in; 1 is this one.
        scheduler: the address of a Dask scheduler to run on instead.
        executor: any other executor to run in instead; its workers must have the package.
        resume: whether members of other options that are there are an error; else they are made anew.
        force: whether files may be replaced that no sweep has written.
        **options: as for `prune`.

    Raises:
        InputError, VerificationError: as `prune`; members that are finished stay.
        NothingToPrune: when the original meets every value already.
    """
    checked, values = make_options(**options), list(values)
    recipe = recipe_of_call("sweep", source, {"output": out, "data": data, **options})
    recipe[{"ratio": "ratios"}.get(kind, kind)] = typed(values)
    opened = open_workers(workers, scheduler) if executor is None else contextlib.nullcontext(from_executor(executor))
    with opened as pool:
        return make_family(
            source, Path(out), kind, values, checked, data=data, workers=pool, resume=resume, force=force,
            progress=logged, recipe=recipe,
        )  # fmt: skip


@one_blas_thread()
def make_family(
    source: Source,
    out: Path,
    kind: str,
    values: Sequence[Any],
    options: Options,
    *,
    data: Any = None,
    workers: Workers = ALONE,
    resume: bool = False,
    force: bool = False,
    report_path: Path | None = None,
    page: PageFile | None = None,
    progress: Progress = silent,
    recipe: Mapping[str, Any] = MappingProxyType({}),
) -> Family:
    """Make a member for each value in the folder `out`; those that are there already, from the same, stay.

    Args:
        source: as for `prune`.
        out: the folder; it is made where there is none.
        kind: one of `KINDS`: what the values are targets of.
        values: of the target, or ratios.
        options: of all members.
        data: samples, as for `prune`.
        workers: where curves are measured and layers refitted; the members are the same everywhere.
        resume: whether members of other options that are there are an error; else they are made anew.
        force: whether files may be replaced that no sweep has written.
        report_path: where the summary goes beside the folder, as JSON.
        page: shows the summary.
        progress: called before each step.
        recipe: what makes the same family again.

    Raises:
        InputError, VerificationError: as `prune`; members that are finished stay.
        NothingToPrune: when the original meets every value already.
    """
    check.choice("kind", kind, KINDS)
    _check_effect(options)
    model = load(source)
    members = make_members(model, options, kind, values, data=data)
    reads = Reads(model.path, tuple(model.data_files), sample_files(data, options))
    reports = ReportFiles(None, report_path, force, page)
    reports.check(reads)
    folder = SweepFolder(out, reads, force, model.is_external)
    none = {member.name: why for member in members if (why := folder.why_none(member)) is not None}
    missing = [member for member in members if member.name not in none and not folder.has(member)]
    if resume:
        folder.refuse_others(missing)
    folder.check(missing)
    if missing:
        with bounded(model), blamed_on_change(model.stamps, model.path):
            none |= _make(model, missing, data, folder=folder, workers=workers, progress=progress)
    summary = summarize(kind, members, none, folder, recipe)
    folder.write_summary(summary)
    shown = summary if page is None else {**summary, "details": details_of_none(page.command)}
    reports.write(shown, svg=partial(family_svg, summary), page=partial(family_page, summary))
    return Family(out, summary)


def _check_effect(options: Options) -> None:
    """Raise OptionError for options that have no effect in a sweep."""
    if options.method is not None:
        raise OptionError(f"method {options.method} has no effect in a sweep: prune has it, for one target at a time")
    if options.quantize is not None:
        raise OptionError("quantize has no effect in a sweep: run onnxprune quantize on its members")
    if options.beside_widths is not None:
        what = options.beside_widths
        raise OptionError(f"{what} has no effect in a sweep, which cuts widths alone: sweep what prune made with it")


@dataclass(frozen=True)
class _PlannedMember:
    """A member that loses units, and the plan that says which."""

    member: Member
    prepared: PreparedModel  # with the options of the member
    decision: Decision


def _make(
    model: Model, missing: Sequence[Member], data: Any, *, folder: SweepFolder, workers: Workers, progress: Progress
) -> dict[str, str]:
    """Make the members that are missing; plan all of them first, so that a target out of reach is known soon.

    Returns:
        By the names of the members that lose nothing, why.
    """
    prepared = prepare(model, missing[0].options, data, progress)
    planned, none = _plan_all(prepared, missing, folder, workers, progress)
    if not planned:
        return none
    plans = [(each.prepared.options, each.decision.plan) for each in planned]
    recoveries = recover_all(prepared, plans, workers, progress)
    for each in planned:
        seconds, recovery = next(recoveries)
        _finish(each, recovery, folder, seconds=seconds, progress=progress)
    return none


def _plan_all(
    prepared: PreparedModel, missing: Sequence[Member], folder: SweepFolder, workers: Workers, progress: Progress
) -> tuple[list[_PlannedMember], dict[str, str]]:
    """Return the members that lose units, with their plans; and by name why the others do not.

    Raises:
        OptionError: for a target that cannot be reached; names the member.
    """
    planned, none = [], {}
    variants = [
        replace(prepared.with_options(member.options), file_name=folder.model(member).name) for member in missing
    ]
    speed = profile(variants[0], progress)
    for member, variant in zip(missing, variants, strict=True):
        evidence = _evidence(member, variant, folder, workers, progress)
        progress(f"planning {member.name}")
        try:
            decision = decide(variant, evidence, speed, progress)
            variant.masks(decision.plan)
        except OptionError as error:
            raise OptionError(f"{member.name}: {error}") from None
        except NothingToPrune as error:
            none[member.name] = str(error)
            if not member.options.is_measured:  # the next run may measure something else
                folder.note_none(member, str(error))
        else:
            planned.append(_PlannedMember(member, variant, decision))
    return planned, none


def _evidence(
    member: Member, prepared: PreparedModel, folder: SweepFolder, workers: Workers, progress: Progress
) -> Evidence:
    """Return scores and loss curves: those that the folder keeps, or new ones, which it keeps from then on."""
    key = member.evidence_key(has_data=prepared.calibration_data is not None)
    evidence = folder.evidence(key, {group.name: group.units for group in prepared.groups})
    if evidence is None:
        evidence = score(prepared, progress, workers)
        folder.keep_evidence(key, evidence)
    return evidence


def _finish(
    planned: _PlannedMember, recovery: Recovery, folder: SweepFolder, *, seconds: float, progress: Progress
) -> None:
    """Cut, recover, prove, time and write one member."""
    start = time.perf_counter()
    member, prepared, plan = planned.member, planned.prepared, planned.decision.plan
    model, target = prepared.traced.model, folder.model(member)

    @contextlib.contextmanager
    def publish(proto: Any, weights_folder: Path) -> Iterator[tuple[Path, Complete]]:
        force = folder.may_replace(member)
        written = partial(staged, proto, target, weights_folder, model.is_external, alignment=model.alignment)
        with staging(force) as files, written(files) as path:

            def complete(report: dict[str, Any]) -> None:
                report["output"]["path"] = str(target)
                total_seconds = round(seconds + time.perf_counter() - start, 3)
                report_path = files.add(folder.report(member))
                write_report(report, folder.report(member), report_path)
                record = {
                    "key": member.key,
                    "made_from": member.made_from,
                    "seconds": total_seconds,
                    **file_digests(path, report_path),
                }
                write_report(record, folder.record(member), files.add(folder.record(member), ahead=True))

            yield path, complete
        for weights in files.removed:
            progress(f"removed old weights {weights}")

    def member_progress(text: str, step: int = 0, steps: int = 0, /) -> None:
        progress(f"{member.name}: {text}", step, steps)

    rewritten = prepared.rewritten(plan)
    finish(prepared, planned.decision, rewritten, recovery=recovery, progress=member_progress, publish=publish)
