"""The folder of a sweep: what lies in it, and what it remembers of a run that was interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.commands.files import write_report, write_text
from onnxprune.errors import InputError
from onnxprune.graph.publish import Reads, check_files, check_written, resolved, staging
from onnxprune.graph.write import data_file
from onnxprune.planning.curves import Curve
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Evidence
from onnxprune.report.charts import family_page, family_svg

_MEMORY = ".sweep"  # folder in the folder of the family
_SUMMARY = "sweep"  # name of the files about all members


@dataclass(frozen=True)
class Member:
    """One model that is asked for, and what is known of it."""

    name: str
    value: Any  # of the target
    options: Options
    made_from: Mapping[str, Any]  # all that it depends on

    @property
    def key(self) -> str:
        """Tells apart what members were made from."""
        return digest_of(self.made_from)


def digest_of(plain: Any) -> str:
    """Return the SHA-256 of plain values, in hex."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def file_digests(path: Path, report: Path) -> dict[str, Any]:
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


@dataclass(frozen=True)
class SweepFolder:
    """Where a family lies, and what it remembers."""

    path: Path
    reads: Reads
    force: bool

    def model(self, member: Member) -> Path:
        """Where the model of a member lies."""
        return self.path / f"{member.name}.onnx"

    def report(self, member: Member) -> Path:
        """Where its report lies."""
        return self.path / f"{member.name}.json"

    def record(self, member: Member) -> Path:
        """Where the record of what it was made from lies."""
        return self.path / _MEMORY / f"{member.name}.json"

    def recorded(self, member: Member) -> dict[str, Any] | None:
        """Return the record of a member, whatever it was made from."""
        found = read_json(self.record(member))
        return found if isinstance(found, dict) and {"key", "made_from", "sha256"} <= set(found) else None

    def has(self, member: Member) -> bool:
        """Whether a member is finished, from what is asked now."""
        found, path = self.recorded(member), self.model(member)
        if found is None or found["key"] != member.key or not path.is_file() or not self.report(member).is_file():
            return False
        return all(found.get(name) == value for name, value in file_digests(path, self.report(member)).items())

    def _note(self, member: Member) -> Path:
        return self.path / _MEMORY / f"{member.name}.none.json"

    def why_none(self, member: Member) -> str | None:
        """Return why there is no model of a member, from what is asked now; None where that is not known."""
        found = read_json(self._note(member))
        return found.get("why") if isinstance(found, dict) and found.get("key") == member.key else None

    def note_none(self, member: Member, why: str) -> None:
        """Keep why there is no model of a member."""
        path = self._note(member)
        with staging(force=True) as files:
            write_report({"key": member.key, "made_from": member.made_from, "why": why}, path, files.add(path))

    def may_replace(self, member: Member) -> bool:
        """Whether the files of a member may be replaced: a sweep has written them, or force allows it."""
        return self.force or self.record(member).is_file()

    def refuse_others(self, missing: Sequence[Member]) -> None:
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

    def check(self, missing: Sequence[Member]) -> None:
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
            write_text(family_page(summary), page, files.add(page))
            owner = self.path / _MEMORY / "owner"
            write_text("sweep.json, sweep.svg and sweep.html are of onnxprune sweep\n", owner, files.add(owner))

    def evidence(self, key: str) -> Evidence | None:
        """Return the scores and curves that are kept, None where there are none of this key."""
        found = read_json(self._evidence_path(key))
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


def read_json(path: Path) -> Any:
    """Return what a file holds; None where there is none, or none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
