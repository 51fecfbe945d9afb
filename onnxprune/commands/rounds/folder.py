"""The folder in which `prune` keeps what a run that is ended goes on from: finished rounds, tuning, notes.

It lies beside the output, and goes when the run has ended well. The model of a round and its report appear together or
not at all; ``run.json`` says what they were made from, and a run of anything else is refused.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune.commands.records.checkpoint_file import in_the_way, not_replaced, nothing_to_resume
from onnxprune.commands.records.made_from import effective, sources
from onnxprune.commands.records.report_files import write_report
from onnxprune.commands.steps.finish import Complete, Publish
from onnxprune.commands.steps.job import Job
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.data.opening import read_json
from onnxprune.errors import InputError, OptionError
from onnxprune.graph.files.publish import staging
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import staged, weights_of, write
from onnxprune.graph.model import Model
from onnxprune.graph.view import view

MOST_BYTES = 256 * 2**20  # of a report that is read
_RUN = "run.json"
_KIND = "onnxprune checkpoint"  # in run.json: a folder without it is somebody else's
_SHORT = 40  # characters of a value in an error


@dataclass(frozen=True)
class Finished:
    """What a round came to."""

    model: Model | None  # None where there was nothing to prune
    report: dict[str, Any]  # of the pass; or why it was skipped


class KeptInMemory:
    """Rounds of a run that nothing is kept of: one goes over into the next."""

    masks: Path | None = None
    resume = False

    def tuning(self, number: int = 0) -> Path | None:
        """The tuning of a round is saved nowhere."""
        return None

    def notes(self, number: int = 0) -> Notes:
        """What a round measures and fits is written down nowhere."""
        return NOWHERE

    def remove(self) -> None:
        """Nothing lies anywhere."""

    def leaving_nothing(self) -> contextlib.AbstractContextManager[None]:
        """Nothing lies anywhere."""
        return contextlib.nullcontext()

    def __init__(self, original: Model) -> None:
        self._original = original
        self._rounds: dict[int, Finished] = {}

    def finished(self, number: int) -> Finished | None:
        """Return what a round, from 0, came to; None where it is not finished."""
        return self._rounds.get(number)

    def skip(self, number: int, why: str) -> None:
        """Note that a round had nothing to prune."""
        self._rounds[number] = Finished(None, {"skipped": why})

    @contextlib.contextmanager
    def publish(self, number: int) -> Iterator[Publish]:
        """Yield what writes the result of a round to a temporary file, for checks, and keeps it."""
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
            path, original = Path(scratch) / "pruned.onnx", self._original

            @contextlib.contextmanager
            def published(proto: Any, folder: Path) -> Iterator[tuple[Path, Complete]]:
                write(proto, path, folder, original.is_external, original.alignment)
                yield path, partial(self._keep, number, proto, folder)

            yield published

    def _keep(self, number: int, proto: Any, folder: Path, report: dict[str, Any]) -> None:
        report["output"]["path"] = None
        self._rounds[number] = Finished(view(proto, folder=folder), report)


@dataclass(frozen=True)
class RoundsFolder:
    """Rounds that are kept in files."""

    path: Path
    original: Model
    resume: bool  # whether what is there is gone on from; else it is removed
    force: bool = False  # also where rounds are finished

    def tuning(self, number: int = 0) -> Path:
        """Return where the tuning of a round, from 0, is saved."""
        return self.path / f"tuning-{number + 1}.checkpoint"

    def notes(self, number: int = 0) -> Notes:
        """Return the notes of what a round, from 0, measured and fitted."""
        return Notes(self.path / f"notes-{number + 1}")

    @property
    def masks(self) -> Path:
        """Where the learning of masks is saved."""
        return self.path / "masks.checkpoint"

    def open(self, run: Mapping[str, Any]) -> None:
        """Make the folder for a run, or go on with what is there.

        Args:
            run: what it is: plain values by name.

        Raises:
            InputError: when there is nothing to resume, the folder is of something else or holds finished rounds, or it
                cannot be made.
            OptionError: when what is there is of another run; it names what differs.
        """
        run = {"kind": _KIND, **run}
        if self.resume:
            known = self._known()
            if known is None:
                raise nothing_to_resume(self.path)
            _check_same(self.path, known, run)
            return
        self.check_replaceable()
        if self.is_begun:
            self.remove()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path}: the folder cannot be made: {error.strerror}") from None
        with staging(force=True) as files:
            write_report(run, self.path / _RUN, files.add(self.path / _RUN))

    @property
    def is_begun(self) -> bool:
        """Whether a run was begun here."""
        return self._known() is not None

    def _known(self) -> dict[str, Any] | None:
        """Return what the run is that was begun here; None where none was."""
        known = read_json(self.path / _RUN, MOST_BYTES)
        return known if isinstance(known, dict) and known.get("kind") == _KIND else None

    def check_replaceable(self) -> None:
        """Raise InputError where there is what nobody said may be removed: finished rounds, tuning, something else."""
        if not self.is_begun:
            if self.path.exists() and (self.path.is_file() or any(self.path.iterdir())):
                raise in_the_way(self.path, "checkpoints of this run go there")
            return
        rounds = len(self._named(r"round-\d+\.onnx"))
        learned = [*self._named(r"tuning-\d+\.checkpoint"), *([self.masks] if self.masks.exists() else [])]
        if (rounds or learned) and not self.force:
            some = "a finished round" if rounds == 1 else f"{rounds} finished rounds"
            raise not_replaced(self.path, some if rounds else "a run that was ended")

    def _named(self, pattern: str) -> list[Path]:
        """Return the files of the folder whose whole name is as a pattern says."""
        paths = self.path.iterdir() if self.path.is_dir() else ()
        return sorted(path for path in paths if re.fullmatch(pattern, path.name))

    def remove(self) -> None:
        """Remove all that a run keeps, and the folder where nothing else is in it."""
        for model in self._named(r"round-\d+\.onnx"):
            weights = (path for path in weights_of(model) if path.name.startswith(f"{model.name}."))
            for path in (*weights, model):
                path.unlink(missing_ok=True)
        for folder in self._named(r"notes-\d+"):
            Notes(folder).remove()
        own = self._named(r"(round-\d+\.json|tuning-\d+\.checkpoint|\.(tuning-\d+|masks)\.checkpoint-.*)")
        for path in (*own, self.masks, self.path / _RUN):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not there, or something else is in it
            self.path.rmdir()

    @contextlib.contextmanager
    def leaving_nothing(self) -> Iterator[None]:
        """Remove the folder where the block fails before there is anything to go on from."""
        try:
            yield
        except BaseException:
            if self.path.is_dir() and [path.name for path in self.path.iterdir()] == [_RUN]:
                self.remove()
            raise

    def finished(self, number: int) -> Finished | None:
        """Return what a round, from 0, came to; None where it is not finished.

        Raises:
            InputError: when what is there cannot be read.
        """
        model, report = self._files(number)
        plain = read_json(report, MOST_BYTES)
        if not isinstance(plain, dict) or not (model.is_file() or "skipped" in plain):
            return None
        return Finished(None if "skipped" in plain else load(model), plain)

    def skip(self, number: int, why: str) -> None:
        """Note that a round had nothing to prune."""
        _, path = self._files(number)
        with staging(force=True) as files:
            write_report({"skipped": why}, path, files.add(path))

    @contextlib.contextmanager
    def publish(self, number: int) -> Iterator[Publish]:
        """Yield what writes the result of a round to the folder; the tuning that led to it is done with then."""
        model, path = self._files(number)
        original = self.original

        @contextlib.contextmanager
        def published(proto: Any, folder: Path) -> Iterator[tuple[Path, Complete]]:
            with (
                staging(force=True) as files,
                staged(proto, model, folder, original.is_external, files, alignment=original.alignment) as temporary,
            ):

                def complete(report: dict[str, Any]) -> None:
                    report["output"]["path"] = str(model)
                    write_report(report, path, files.add(path))

                yield temporary, complete

        yield published
        self.tuning(number).unlink(missing_ok=True)
        self.notes(number).remove()

    def _files(self, number: int) -> tuple[Path, Path]:
        return self.path / f"round-{number + 1}.onnx", self.path / f"round-{number + 1}.json"


def _check_same(path: Path, known: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Raise OptionError when a checkpoint is of another run."""
    plain = json.loads(json.dumps(run))
    for name in dict.fromkeys((*plain, *known)):
        if plain.get(name) != known.get(name):
            now, before = _short(plain.get(name)), _short(known.get(name))
            raise OptionError(f"{path} is a checkpoint of another run: {name} is {now} and was {before}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHORT else f"{text[:18]}...{text[-18:]}"


Keeper: TypeAlias = KeptInMemory | RoundsFolder  # of what a run has finished


def keeper_of(job: Job, path: Path | None, *, resume: bool, force: bool) -> Keeper:
    """Return what keeps the rounds of a run: a folder, or nothing but memory.

    Args:
        job: what the run does.
        path: of the folder.
        resume: whether to go on with what is there.
        force: whether finished rounds that are there may be removed.

    Raises:
        InputError, OptionError: as `RoundsFolder.open`; OptionError where there is nothing to save, or no folder.
    """
    if path is None:
        if resume:
            raise OptionError("resume needs a checkpoint: the folder that the run was saved to")
        return KeptInMemory(job.model)
    folder = RoundsFolder(path, job.model, resume, force)
    made_from = {**sources(job.model, job.options, job.data), **effective(job.options, job.data is not None)}
    made_from.pop("machine", None)  # another one may go on
    folder.open({**made_from, **job.learning.to_dict()})
    return folder
