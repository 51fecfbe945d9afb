"""The folder of a sweep: its members, their records, and the loss curves that an interrupted run left."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.commands.records.report_files import write_report, write_text
from onnxprune.commands.sweeps.members import Member
from onnxprune.criteria.importance import Scores
from onnxprune.data.opening import read_json
from onnxprune.errors import InputError
from onnxprune.graph.files.publish import Reads, check_files, check_written, digest_of, resolved, staging
from onnxprune.graph.files.write import check_weights_name, data_file, weights_of
from onnxprune.planning.curves.curve import Curve
from onnxprune.planning.plan import Evidence
from onnxprune.report.charts import family_page, family_svg

_MEMORY = ".sweep"  # folder in the folder of the family
_SUMMARY = "sweep"  # name of the files about all members
MOST_BYTES = 256 * 2**20  # of a record or a report that is read


def file_digests(path: Path, report: Path) -> dict[str, Any]:
    """Return what identifies the file of a model, the one of its external data, and its report."""
    weights = [file for file in weights_of(path) if file.exists()]
    return {
        "sha256": digest_of(path),
        "data_bytes": sum(file.stat().st_size for file in weights),
        "report_sha256": digest_of(report),
    }


@dataclass(frozen=True)
class SweepFolder:
    """Where the files of a family lie, and what is remembered of earlier runs."""

    path: Path
    reads: Reads
    force: bool
    external: bool = False  # whether the weights of the models go to files beside them

    def model(self, member: Member) -> Path:
        """Where the model of a member lies."""
        return self.path / f"{member.name}.onnx"

    def report(self, member: Member) -> Path:
        """Where the report of a member lies."""
        return self.path / f"{member.name}.json"

    def record(self, member: Member) -> Path:
        """Where the record of what a member was made from lies."""
        return self.path / _MEMORY / f"{member.name}.json"

    def recorded(self, member: Member) -> dict[str, Any] | None:
        """Return the record of a member, whatever it was made from."""
        record = read_json(self.record(member), MOST_BYTES)
        known = isinstance(record, dict) and {"key", "made_from", "sha256"} <= set(record)
        return record if known and isinstance(record["made_from"], dict) else None

    def has(self, member: Member) -> bool:
        """Whether a member is finished, and made from the same as in this run."""
        record, path = self.recorded(member), self.model(member)
        if record is None or record["key"] != member.key or not path.is_file() or not self.report(member).is_file():
            return False
        return all(record.get(name) == value for name, value in file_digests(path, self.report(member)).items())

    def _note(self, member: Member) -> Path:
        return self.path / _MEMORY / f"{member.name}.none.json"

    def why_none(self, member: Member) -> str | None:
        """Return the noted reason why a member, made from the same as in this run, has no model; None without one."""
        note = read_json(self._note(member), MOST_BYTES)
        why = note.get("why") if isinstance(note, dict) and note.get("key") == member.key else None
        return why if isinstance(why, str) else None

    def note_none(self, member: Member, why: str) -> None:
        """Note why a member has no model."""
        path = self._note(member)
        with staging(force=True) as files:
            write_report({"key": member.key, "made_from": member.made_from, "why": why}, path, files.add(path))

    def may_replace(self, member: Member) -> bool:
        """Whether the files of a member may be replaced: a sweep has written them, or force allows it."""
        return self.force or self.record(member).is_file()

    def refuse_others(self, missing: Sequence[Member]) -> None:
        """Raise InputError when a missing member is there after all, made from something else."""
        for member in missing:
            record = self.recorded(member)
            if record is not None and record["key"] != member.key:
                before = record["made_from"]
                differ = [name for name, value in member.made_from.items() if before.get(name) != value]
                raise InputError(
                    f"{self.model(member)} was made from another {', '.join(differ) or 'version'}: give another "
                    "folder, or leave out --resume to make it anew"
                )

    def check(self, missing: Sequence[Member]) -> None:
        """Make the folder; raise InputError when something must not or cannot be written."""
        try:
            (self.path / _MEMORY).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path}: the folder cannot be made: {error.strerror}") from None
        for member in missing:
            target = self.model(member)
            weights = data_file(resolved(target))
            check_files(target, weights, self.report(member), self.reads, self.may_replace(member))
            check_weights_name(target, self.external)
        outputs = [(path, "a file of the sweep") for path in self._summaries()]
        check_written(outputs, self.reads, self.force or self._owns_summary())

    def _summaries(self) -> list[Path]:
        return [self.path / f"{_SUMMARY}{suffix}" for suffix in (".json", ".svg", ".html")]

    def _owns_summary(self) -> bool:
        return (self.path / _MEMORY / "owner").is_file()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the table, plot and page of all members."""
        table, plot, page = self._summaries()
        with staging(force=True) as files:
            write_report(summary, table, files.add(table))
            write_text(family_svg(summary), plot, files.add(plot))
            write_text(family_page(summary), page, files.add(page))
            owner = self.path / _MEMORY / "owner"
            write_text(
                "sweep.json, sweep.svg and sweep.html are of onnxprune sweep\n", owner, files.add(owner, ahead=True)
            )

    def evidence(self, key: str, units: Mapping[str, int]) -> Evidence | None:
        """Return the scores and loss curves that are kept; None where there are none of this key, or damaged ones.

        Args:
            key: of what they were made from.
            units: of each group, by name.
        """
        plain = read_json(self._evidence_path(key), MOST_BYTES)
        try:
            return None if plain is None else _evidence_of(plain, units)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            return None

    def keep_evidence(self, key: str, evidence: Evidence) -> None:
        """Keep scores and loss curves; numbers are written so that the same bits are read."""
        path = self._evidence_path(key)
        scores = {name: {"type": str(each.dtype), "of": each.tolist()} for name, each in evidence.scores.items()}
        curves = {name: dataclasses.asdict(curve) for name, curve in evidence.curves.items()}
        with staging(force=True) as files:
            plain = {"scores": scores, "curves": curves, "judged": evidence.judged, "looked": evidence.looked}
            write_report(plain, path, files.add(path))

    def _evidence_path(self, key: str) -> Path:
        return self.path / _MEMORY / f"curves-{key[:16]}.json"


def _evidence_of(plain: Any, units: Mapping[str, int]) -> Evidence:
    """Return scores and loss curves from plain values.

    Raises:
        AttributeError, KeyError, OverflowError, TypeError, ValueError: when they are none of these groups.
    """
    curves = {name: _curve_of(curve, units[name]) for name, curve in plain["curves"].items()}
    scores = {name: _scores_of(each, units[name]) for name, each in plain["scores"].items()}
    if not curves.keys() <= scores.keys() or type(plain["judged"]) is not int or plain["judged"] < 0:
        raise ValueError("curves without scores, or no number of samples")
    return Evidence(scores, curves, plain["judged"], _looked_of(plain["looked"]))


def _looked_of(plain: Any) -> dict[str, Any] | None:
    if plain is not None and not {"samples", "answers", "draws", "without"} <= plain.keys():
        raise ValueError("not what gradients were looked at")
    return plain if plain is None else dict(plain)


def _scores_of(plain: Any, units: int) -> Scores:
    if plain["type"] not in ("float32", "float64"):
        raise ValueError("no scores")
    scores = np.array(plain["of"], plain["type"])
    if scores.shape != (units,):
        raise ValueError("scores of other units")
    return scores


def _curve_of(plain: Any, units: int) -> Curve:
    order, removed, told = (tuple(plain[name]) for name in ("order", "removed", "told"))
    errors = tuple(map(float, plain["errors"]))
    losses = None if plain["losses"] is None else tuple(map(float, plain["losses"]))
    if any(type(count) is not int for count in (*order, *removed, *told)):
        raise TypeError("counts must be whole")
    ascending = removed[:1] == (0,) and all(one < other for one, other in itertools.pairwise(removed))
    if not ascending or not set(told) <= set(removed) or removed[-1] > len(order):
        raise ValueError("no counts of units")
    if len(set(order)) != len(order) or not set(order) <= set(range(units)):
        raise ValueError("no order of units")
    if len(errors) != len(removed) or (losses is not None and len(losses) != len(removed)):
        raise ValueError("not a number for each count")
    foretold = None if plain["foretold"] is None else tuple(map(float, plain["foretold"]))
    if foretold is not None and len(foretold) != len(removed):
        raise ValueError("not a number for each count")
    return Curve(order, removed, losses, errors, told, foretold, int(plain["sums"]))
