"""A family of pruned models: one calibration, then a member for each of several targets.

Members are independent tasks (`executors`): the layers of each are refitted by a worker, here or elsewhere. Surgery,
proof, timing and writing are done here, one member at a time, so that nothing that runs beside it is measured.

The folder remembers. Every member has a record in ``.sweep/`` that tells what it was made from, and loss curves lie
there too: a run that was interrupted goes on where it stopped. A member counts as finished when its record fits what is
asked and its file is the one that was recorded; model, report and record appear together or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune import check
from onnxprune._version import __version__
from onnxprune.calibration.batches import Calibration
from onnxprune.commands.files import write_report
from onnxprune.commands.steps import Finish, Prepared, Repairs, decide, finish, measured, prepare, repaired
from onnxprune.commands.sweep_folder import Member, SweepFolder, digest_of, file_digests
from onnxprune.commands.sweep_summary import summarize
from onnxprune.data.samples import files_of
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import NothingToPrune, OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.publish import Reads, staging, stamps
from onnxprune.graph.read import Source, load
from onnxprune.graph.write import staged
from onnxprune.planning.options import Options, make_options
from onnxprune.planning.plan import Evidence, Plan, gather
from onnxprune.planning.promise import Decided
from onnxprune.planning.targets import UNITS, exact
from onnxprune.progress import Progress, silent
from onnxprune.runtime.executors import SERIAL, Sent, Workers, given, sent
from onnxprune.runtime.executors import workers as open_workers
from onnxprune.runtime.machine import machine
from onnxprune.surgery import rewrite

KINDS = (*UNITS, "ratio")  # what a family can be of


@dataclass(frozen=True)
class Family:
    """Models of one family, in the order in which they were asked for."""

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
        resume: whether what is there must be of the same options; else it is made anew.
        force: whether files may be replaced that no sweep has written.
        **options: as for `prune`.

    Raises:
        InputError, VerificationError: as `prune`; members that are finished stay.
        NothingToPrune: when no value asks for less than the original is.
    """
    chosen = make_options(**options)
    with contextlib.nullcontext(given(executor)) if executor is not None else open_workers(workers, scheduler) as found:
        return make_family(
            source, Path(out), kind, values, chosen, data=data, workers=found, resume=resume, force=force
        )  # fmt: skip


def make_family(
    source: Source,
    out: Path,
    kind: str,
    values: Sequence[Any],
    options: Options,
    *,
    data: Any = None,
    workers: Workers = SERIAL,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
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
        resume: whether what is there must be of the same options; else it is made anew.
        force: whether files may be replaced that no sweep has written.
        progress: is told what is done.

    Raises:
        InputError, VerificationError: as `prune`; members that are finished stay.
        NothingToPrune: when no value asks for less than the original is.
    """
    check.choice("kind", kind, KINDS)
    model = load(source)
    members = _members(model, options, kind, values, data=data)
    reads = Reads(model.path, tuple(model.data_files), (*files_of(data), *files_of(options.eval_data)))
    folder = SweepFolder(out, reads, force)
    none = {member.name: why for member in members if (why := folder.why_none(member)) is not None}
    missing = [member for member in members if member.name not in none and not folder.has(member)]
    if resume:
        folder.refuse_others(missing)
    folder.check(missing)
    if missing:
        none |= _make(model, missing, data, folder=folder, workers=workers, progress=progress)
    summary = summarize(kind, members, none, folder)
    folder.write_summary(summary)
    return Family(out, summary)


def _members(model: Model, options: Options, kind: str, values: Sequence[Any], *, data: Any) -> list[Member]:
    """Return what is asked for.

    Raises:
        OptionError: for values that are none, or the same twice.
    """
    if not values:
        raise OptionError(f"{kind} needs values, such as 0.8,0.65,0.5")
    if kind in dict(options.targets) or (kind == "ratio" and options.targets):
        raise OptionError("target says the same as the values of the sweep: give one of the two")
    everywhere = {
        "onnxprune": __version__,
        "input": model.sha256(),
        "weights": [list(stamp[1:]) for stamp in stamps(sorted(model.data_files)).values()],
        "data": [_fingerprint(data), _fingerprint(options.eval_data)],
    }
    stem = model.path.stem if model.path is not None else "model"
    found: dict[str, Member] = {}
    for value in values:
        asked = {"ratio": value} if kind == "ratio" else {"targets": (*options.targets, (kind, value))}
        own = replace(options, **asked).checked()
        text = re.sub(r"[^\w.+-]", "_", exact(value) if isinstance(value, float) else str(value))
        name = f"{stem}_{kind}_{text}"
        if name in found:
            raise OptionError(f"{kind} {text} is given twice")
        found[name] = Member(name, value, own, {**everywhere, **_depends_on(own, data is not None)})
    return list(found.values())


def _depends_on(options: Options, has_data: bool) -> dict[str, Any]:
    """Return the options that have an effect on a member, as plain values, and the machine where it has one."""
    idle: set[str] = set() if options.is_measured else {"profile_seconds"}
    timed = options.latency or options.is_measured
    if not timed:  # outputs are compared on the provider
        idle |= {"threads", "batch"} | (set() if has_data or options.eval_data is not None else {"provider"})
    told = json.loads(json.dumps(options.to_dict(), default=str))
    found = {f"option {name}": value for name, value in told.items() if name not in idle}
    return {**found, **({"machine": machine()} if timed else {})}


def _fingerprint(source: Any) -> Any:
    """Return what differs when samples do; of those that can be read but once, nothing that comes again."""
    if source is None:
        return None
    paths = sorted(files_of(source))
    if paths:
        return [str(source), *([str(path), *stamp[1:]] for path, stamp in stamps(filter(Path.exists, paths)).items())]
    arrays = source if isinstance(source, Mapping) else {"": source}
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        return f"{type(source).__name__} {time.time_ns()}"
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _make(
    model: Model, missing: Sequence[Member], data: Any, *, folder: SweepFolder, workers: Workers, progress: Progress
) -> dict[str, str]:
    """Make the members that are missing: plans of all first, as one that cannot be reached is soon known.

    Returns:
        Of the members that lose nothing, by name, why.
    """
    ready = prepare(model, missing[0].options, data, progress)
    plans, none = _plans(ready, missing, folder, workers, progress)
    if not plans:
        return none
    job = _job(ready, workers, progress)
    refits = workers.map(_refitted, job, [(asked.options, decided.plan) for _, asked, decided in plans])
    if workers.parallel:
        progress("refitting layers", 1, len(plans))
        refits = iter(list(_counted(refits, len(plans), progress)))  # nothing runs beside what is timed
    for member, asked, decided in plans:
        seconds, repairs = next(refits)
        _finish(member, asked, decided, repairs, folder=folder, seconds=seconds, progress=progress)
    return none


def _plans(
    ready: Prepared, missing: Sequence[Member], folder: SweepFolder, workers: Workers, progress: Progress
) -> tuple[list[tuple[Member, Prepared, Decided]], dict[str, str]]:
    """Return the members that lose anything, with their plans; and by name why the others do not.

    Raises:
        OptionError: for a target that cannot be reached; tells the member.
    """
    plans, none = [], {}
    each = [ready.asked(member.options) for member in missing]
    speed = measured(each[0], progress)
    for member, asked in zip(missing, each, strict=True):
        evidence = _evidence(asked, member, folder, workers, progress)
        progress(f"planning {member.name}")
        try:
            decided = decide(asked, evidence, speed, progress)
            asked.masks(decided.plan)
        except OptionError as error:
            raise OptionError(f"{member.name}: {error}") from None
        except NothingToPrune as error:
            none[member.name] = str(error)
            if not member.options.is_measured:  # another time another may be measured
                folder.note_none(member, str(error))
        else:
            plans.append((member, asked, decided))
    return plans, none


def _counted(found: Iterator[Any], count: int, progress: Progress) -> Iterator[Any]:
    for number, each in enumerate(found):
        yield each
        progress("refitting layers", min(number + 2, count), count)


def _evidence(asked: Prepared, member: Member, folder: SweepFolder, workers: Workers, progress: Progress) -> Evidence:
    """Return scores and loss curves: those that lie in the folder, or new ones, which then do."""
    free = {"option targets"} | (set() if asked.options.ratios else {"option ratio"})  # globs: which groups are alike
    timing = ("latency", "provider", "threads", "batch", "profile_seconds")
    late = {"machine", *(f"option {name}" for name in (*timing, *(["metric"] if asked.sampled is None else [])))}
    key = digest_of({name: value for name, value in member.made_from.items() if name not in free | late})
    found = folder.evidence(key)
    if found is None:
        progress(f"scoring {len(asked.chosen)} of {len(asked.found)} groups by {asked.options.criterion}")
        found = gather(
            asked.traced, asked.found, asked.chosen, asked.options, calibration=asked.calibrated, progress=progress,
            workers=workers,
        )  # fmt: skip
        folder.keep_evidence(key, found)
    return found


@dataclass(frozen=True, eq=False)
class _Job:
    """What all refits share."""

    model: Sent | Prepared  # in a worker it is opened there
    calibrated: Calibration | None
    progress: Progress = silent

    @cached_property
    def ready(self) -> Prepared:
        if isinstance(self.model, Prepared):
            return self.model
        traced = trace(self.model.open())
        ports = traced.model.inputs
        return Prepared(
            traced, groups(traced), {}, Options(), self.calibrated, None, None, None, ports, Reads(), {}
        )  # fmt: skip


def _job(ready: Prepared, workers: Workers, progress: Progress) -> _Job:
    if not workers.parallel:
        return _Job(ready, None, progress)
    calibrated = ready.calibrated
    if calibrated is not None:
        plain = None if calibrated.metric.function is None else replace(calibrated.metric, function=None)
        calibrated = replace(calibrated, batches=list(calibrated.batches), metric=plain or calibrated.metric)
    return _Job(sent(ready.traced.model, workers), calibrated)


def _refitted(job: _Job, task: tuple[Options, Plan]) -> tuple[float, Repairs]:
    """Return what repairs the model of a plan, and the seconds that it took."""
    start = time.perf_counter()
    options, planned = task
    ready = replace(job.ready, options=options)
    found = repaired(ready, planned, rewrite.rewrite(ready.traced, ready.masks(planned)), job.progress)
    return time.perf_counter() - start, found


def _finish(
    member: Member,
    asked: Prepared,
    decided: Decided,
    repairs: Repairs,
    *,
    folder: SweepFolder,
    seconds: float,
    progress: Progress,
) -> None:
    """Cut, repair, prove, time and write one member."""
    start = time.perf_counter()
    model, target = asked.traced.model, folder.model(member)

    @contextlib.contextmanager
    def publish(proto: Any, place: Path) -> Iterator[tuple[Path, Finish]]:
        replaced = folder.may_replace(member)
        with staging(replaced) as files, staged(proto, target, place, model.is_external, files) as path:

            def complete(report: dict[str, Any]) -> None:
                report["output"]["path"] = str(target)
                taken = round(seconds + time.perf_counter() - start, 3)
                told = files.add(folder.report(member))
                write_report(report, folder.report(member), told)
                record = {
                    "key": member.key,
                    "made_from": member.made_from,
                    "seconds": taken,
                    **file_digests(path, told),
                }
                write_report(record, folder.record(member), files.add(folder.record(member)))

            yield path, complete

    def tell(text: str, step: int = 0, steps: int = 0, /) -> None:
        progress(f"{member.name}: {text}", step, steps)

    rewritten = rewrite.rewrite(asked.traced, asked.masks(decided.plan))
    finish(asked, decided, rewritten, repairs=repairs, progress=tell, publish=publish)
