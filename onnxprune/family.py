"""A family of pruned models: one calibration, then a member for each of several targets.

Members are independent tasks (`executors`): the layers of each are refitted by a worker, here or elsewhere. Surgery,
proof, timing and writing are done here, one member at a time, so that nothing that runs beside it is measured.

The folder remembers. Every member has a record in ``.sweep/`` that tells what it was made from, and loss curves lie
there too: a run that was interrupted goes on where it stopped. A member counts as finished when its record fits what is
asked and its file is the one that was recorded; model, report and record appear together or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import html
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

from onnxprune import check, rewrite
from onnxprune._version import __version__
from onnxprune.calibrate import Calibration
from onnxprune.charts import family_html, family_svg
from onnxprune.curves import Curve
from onnxprune.data import files_of
from onnxprune.errors import InputError, NothingToPrune, OptionError
from onnxprune.executors import SERIAL, Sent, Workers, given, sent
from onnxprune.executors import workers as open_workers
from onnxprune.groups import groups
from onnxprune.model import Model, Source, data_file, load, staged
from onnxprune.options import Options, make_options
from onnxprune.pipeline import (
    Finish,
    Prepared,
    Repairs,
    decide,
    finish,
    measured,
    prepare,
    repaired,
    write_report,
    write_text,
)
from onnxprune.planning import Evidence, Plan, gather
from onnxprune.progress import Progress, silent
from onnxprune.promise import Decided
from onnxprune.publish import Reads, check_files, check_written, resolved, staging, stamps
from onnxprune.report import printable
from onnxprune.runtime import machine
from onnxprune.targets import UNITS, exact
from onnxprune.trace import trace

KINDS = (*UNITS, "ratio")  # what a family can be of
_MEMORY = ".sweep"  # folder in the folder of the family
_SUMMARY = "sweep"  # name of the files about all members


@dataclass(frozen=True)
class Family:
    """Models of one family, in the order in which they were asked for."""

    folder: Path
    summary: Mapping[str, Any]  # as sweep.json holds it, see docs/sweep.md

    @property
    def members(self) -> list[Path]:
        """The models."""
        return [self.folder / member["path"] for member in self.summary["members"]]


@dataclass(frozen=True)
class _Member:
    """One model that is asked for, and what is known of it."""

    name: str
    value: Any  # of the target
    options: Options
    made_from: Mapping[str, Any]  # all that it depends on

    @property
    def key(self) -> str:
        return _digest(self.made_from)


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
    folder = _Folder(out, reads, force)
    none = {member.name: why for member in members if (why := folder.why_none(member)) is not None}
    missing = [member for member in members if member.name not in none and not folder.has(member)]
    if resume:
        folder.refuse_others(missing)
    folder.check(missing)
    if missing:
        none |= _make(model, missing, data, folder=folder, workers=workers, progress=progress)
    summary = _summary(kind, members, none, folder)
    folder.write_summary(summary)
    return Family(out, summary)


def _members(model: Model, options: Options, kind: str, values: Sequence[Any], *, data: Any) -> list[_Member]:
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
    found: dict[str, _Member] = {}
    for value in values:
        asked = {"ratio": value} if kind == "ratio" else {"targets": (*options.targets, (kind, value))}
        own = replace(options, **asked).checked()
        text = re.sub(r"[^\w.+-]", "_", exact(value) if isinstance(value, float) else str(value))
        name = f"{stem}_{kind}_{text}"
        if name in found:
            raise OptionError(f"{kind} {text} is given twice")
        found[name] = _Member(name, value, own, {**everywhere, **_depends_on(own, data is not None)})
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


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


# -- making members --------------------------------------------------------------------------------------------


def _make(
    model: Model, missing: Sequence[_Member], data: Any, *, folder: _Folder, workers: Workers, progress: Progress
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
    ready: Prepared, missing: Sequence[_Member], folder: _Folder, workers: Workers, progress: Progress
) -> tuple[list[tuple[_Member, Prepared, Decided]], dict[str, str]]:
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


def _evidence(asked: Prepared, member: _Member, folder: _Folder, workers: Workers, progress: Progress) -> Evidence:
    """Return scores and loss curves: those that lie in the folder, or new ones, which then do."""
    free = {"option targets"} | (set() if asked.options.ratios else {"option ratio"})  # globs: which groups are alike
    timing = ("latency", "provider", "threads", "batch", "profile_seconds")
    late = {"machine", *(f"option {name}" for name in (*timing, *(["metric"] if asked.sampled is None else [])))}
    key = _digest({name: value for name, value in member.made_from.items() if name not in free | late})
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
    member: _Member,
    asked: Prepared,
    decided: Decided,
    repairs: Repairs,
    *,
    folder: _Folder,
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
                record = {"key": member.key, "made_from": member.made_from, "seconds": taken, **_written(path, told)}
                write_report(record, folder.record(member), files.add(folder.record(member)))

            yield path, complete

    def tell(text: str, step: int = 0, steps: int = 0, /) -> None:
        progress(f"{member.name}: {text}", step, steps)

    rewritten = rewrite.rewrite(asked.traced, asked.masks(decided.plan))
    finish(asked, decided, rewritten, repairs=repairs, progress=tell, publish=publish)


def _written(path: Path, report: Path) -> dict[str, Any]:
    """Return what tells the file of a model, the one beside it, and its report."""
    beside = data_file(path)
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return {
        "sha256": digest.hexdigest(),
        "data_bytes": beside.stat().st_size if beside.exists() else 0,
        "report_sha256": hashlib.sha256(report.read_bytes()).hexdigest(),
    }


# -- the folder ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Folder:
    """Where a family lies, and what it remembers."""

    path: Path
    reads: Reads
    force: bool

    def model(self, member: _Member) -> Path:
        return self.path / f"{member.name}.onnx"

    def report(self, member: _Member) -> Path:
        return self.path / f"{member.name}.json"

    def record(self, member: _Member) -> Path:
        return self.path / _MEMORY / f"{member.name}.json"

    def recorded(self, member: _Member) -> dict[str, Any] | None:
        """Return the record of a member, whatever it was made from."""
        found = _read_json(self.record(member))
        return found if isinstance(found, dict) and {"key", "made_from", "sha256"} <= set(found) else None

    def has(self, member: _Member) -> bool:
        """Whether a member is finished, from what is asked now."""
        found, path = self.recorded(member), self.model(member)
        if found is None or found["key"] != member.key or not path.is_file() or not self.report(member).is_file():
            return False
        return all(found.get(name) == value for name, value in _written(path, self.report(member)).items())

    def _note(self, member: _Member) -> Path:
        return self.path / _MEMORY / f"{member.name}.none.json"

    def why_none(self, member: _Member) -> str | None:
        """Return why there is no model of a member, from what is asked now; None where that is not known."""
        found = _read_json(self._note(member))
        return found.get("why") if isinstance(found, dict) and found.get("key") == member.key else None

    def note_none(self, member: _Member, why: str) -> None:
        """Keep why there is no model of a member."""
        path = self._note(member)
        with staging(force=True) as files:
            write_report({"key": member.key, "made_from": member.made_from, "why": why}, path, files.add(path))

    def may_replace(self, member: _Member) -> bool:
        """Whether the files of a member may be replaced: a sweep has written them, or force allows it."""
        return self.force or self.record(member).is_file()

    def refuse_others(self, missing: Sequence[_Member]) -> None:
        """Raise InputError when a member is there that was made from something else."""
        for member in missing:
            found = self.recorded(member)
            if found is not None and found["key"] != member.key:
                before = found["made_from"]
                differ = [name for name, value in member.made_from.items() if before.get(name) != value]
                raise InputError(
                    f"{self.model(member)} was made from another {', '.join(differ) or 'version'}: give another "
                    "folder, or leave out --resume to make it anew"
                )

    def check(self, missing: Sequence[_Member]) -> None:
        """Make the folder; raise InputError when something must not or cannot be written."""
        try:
            (self.path / _MEMORY).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path}: the folder cannot be made: {error.strerror}") from None
        for member in missing:
            target = self.model(member)
            beside = data_file(resolved(target))
            check_files(target, beside, self.report(member), self.reads, self.may_replace(member))
        outputs = [(path, "a file of the sweep") for path in self._summaries()]
        check_written(outputs, self.reads, self.force or self._owns_summary())

    def _summaries(self) -> list[Path]:
        return [self.path / f"{_SUMMARY}{suffix}" for suffix in (".json", ".svg", ".html")]

    def _owns_summary(self) -> bool:
        return (self.path / _MEMORY / "owner").is_file()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write what is to be said of all members."""
        table, plot, page = self._summaries()
        with staging(force=True) as files:
            write_report(summary, table, files.add(table))
            write_text(family_svg(summary), plot, files.add(plot))
            write_text(_page(summary), page, files.add(page))
            owner = self.path / _MEMORY / "owner"
            write_text("sweep.json, sweep.svg and sweep.html are of onnxprune sweep\n", owner, files.add(owner))

    def evidence(self, key: str) -> Evidence | None:
        """Return the scores and curves that are kept, None where there are none of this key."""
        found = _read_json(self._evidence_path(key))
        try:
            return None if found is None else _evidence_of(found)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def keep_evidence(self, key: str, evidence: Evidence) -> None:
        """Keep scores and curves; numbers are written so that they are read as the same bits."""
        path = self._evidence_path(key)
        scores = {name: {"type": str(each.dtype), "of": each.tolist()} for name, each in evidence.scores.items()}
        curves = {name: dataclasses.asdict(curve) for name, curve in evidence.curves.items()}
        with staging(force=True) as files:
            write_report({"scores": scores, "curves": curves}, path, files.add(path))

    def _evidence_path(self, key: str) -> Path:
        return self.path / _MEMORY / f"curves-{key[:16]}.json"


def _evidence_of(plain: Any) -> Evidence:
    curves = {
        name: Curve(
            tuple(curve["order"]),
            tuple(curve["removed"]),
            None if curve["losses"] is None else tuple(curve["losses"]),
            tuple(curve["errors"]),
        )
        for name, curve in plain["curves"].items()
    }
    return Evidence({name: np.array(each["of"], each["type"]) for name, each in plain["scores"].items()}, curves)


def _read_json(path: Path) -> Any:
    """Return what a file holds; None where there is none, or none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


# -- what is said of all -----------------------------------------------------------------------------------------


def _summary(kind: str, members: Sequence[_Member], none: Mapping[str, str], folder: _Folder) -> dict[str, Any]:
    """Return what sweep.json holds.

    Args:
        kind: of the values.
        members: all that were asked for.
        none: by name, why there is no model of some.
        folder: has the reports of the others.

    Raises:
        NothingToPrune: when there is a model of none of the members.
    """
    made = [member for member in members if member.name not in none]
    if not made:
        raise NothingToPrune("; ".join(f"{member.name}: {none[member.name]}" for member in members))
    reports = [_read_json(folder.report(member)) for member in made]
    rows = [_row(member, report, folder.recorded(member) or {}) for member, report in zip(made, reports, strict=True)]
    plain = {
        "onnxprune": __version__,
        "input": reports[0]["input"],
        "kind": kind,
        "options": _common(made[0].options, kind),
        "members": rows,
        "without_model": [
            {"value": member.value, "why": none[member.name]} for member in members if member.name in none
        ],
    }
    found: dict[str, Any] = json.loads(json.dumps(plain))
    return found


def _common(options: Options, kind: str) -> dict[str, Any]:
    """Return the options that hold for all members."""
    plain = {name: value for name, value in options.to_dict().items() if name != "ratio" or kind != "ratio"}
    return {**plain, "targets": [pair for pair in options.targets if pair[0] != kind]}


def without_model(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each value of a family of which there is no model."""
    return [
        printable(f"{summary['kind']} {each['value']}: no model, {each['why']}") for each in summary["without_model"]
    ]


def _page(summary: Mapping[str, Any]) -> str:
    """Return the plot and the table as a page, and what is in neither."""
    sentences = "".join(f"<p>{html.escape(sentence)}</p>\n" for sentence in without_model(summary))
    return family_html(summary).replace("</body>", f"{sentences}</body>")


def _row(member: _Member, report: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "value": member.value,
        "path": f"{member.name}.onnx",
        "report": f"{member.name}.json",
        **{name: report["output"][name] for name in ("sha256", "params", "macs", "size_bytes")},
        "latency": report["latency"][0] if report["latency"] else None,
        "accuracy": report["accuracy"],
        "fidelity": report["fidelity"],
        "max_rel_diff": report["verification"]["max_rel_diff"],
        "seconds": record.get("seconds"),
    }
