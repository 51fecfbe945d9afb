"""Where a folder is read and written: what may lie there, what is in it, and how it appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from onnxprune.commands.records.report_files import ReportFiles
from onnxprune.errors import InputError
from onnxprune.graph.files.publish import Reads, resolved, taken

MODEL = ".onnx"


def check_places(source: Path, target: Path, force: bool) -> None:
    """Raise InputError where a folder cannot be read, or another one not be written."""
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder")
    one, other = resolved(source), resolved(target)
    if one == other or one in other.parents or other in one.parents:
        raise InputError(f"{target}: the output lies in the input or is it; give another folder")
    if os.path.lexists(target) and not target.is_dir():
        raise InputError(f"{target} is a file; give a folder")
    if os.path.lexists(target) and not force:
        raise taken(target)
    if not other.parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.parent}")


def check_reads(source: Path, target: Path, reports: ReportFiles, reads: Reads, checkpoint: Path | None = None) -> None:
    """Raise InputError when what is read would go away, or something else be read or moved with a folder.

    Only what looks like an output of ours is replaced.
    """
    place = resolved(target)
    if place.is_dir():
        found = [*walked(place)]
        given = {resolved(path): what for path, what in reads.beside if path is not None}
        kept = next((path for path in found if resolved(path) in given), None)
        if kept is not None:
            what = given[resolved(kept)].replace("is the data", "is part of the data")
            raise InputError(f"{target}: {kept.relative_to(place)} in it {what}; give another folder")
        hidden = next((path for path in place.iterdir() if path.name.startswith(".")), None)
        if hidden is not None or (any(place.iterdir()) and not any(path.suffix == MODEL for path in found)):
            what = f"it holds {hidden.name}" if hidden is not None else "it holds no model"
            raise InputError(f"{target} is not replaced, {what}; remove it yourself, or give another name")
    for path, role in (*reports.outputs, *([] if checkpoint is None else [(checkpoint, "the checkpoint")])):
        if resolved(path).is_relative_to(place):
            raise InputError(f"{path}: {role} would lie in the output; give it a place beside that")
        if resolved(path).is_relative_to(resolved(source)):
            raise InputError(f"{path}: {role} would lie in the input; give it a place beside that")
        if checkpoint is not None and role != "the checkpoint" and resolved(path).is_relative_to(resolved(checkpoint)):
            raise InputError(f"{path}: {role} would lie in the checkpoint or is it; give it a place beside that")
    reports.check(reads)


def walked(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those within, also behind links; what is hidden is passed over.

    Raises:
        InputError: for a link that leads nowhere.
    """
    seen = {resolved(folder)}
    waiting = [folder]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                if resolved(path) not in seen:
                    seen.add(resolved(path))
                    waiting.append(path)
            elif path.exists():
                yield path
            else:
                raise InputError(f"{path}: the link leads nowhere")


def into_place(whole: Path, place: Path, old: Path, force: bool) -> None:
    """Move the folder into place; what was there goes away with `old`."""
    try:
        if os.path.lexists(place):
            if not force:
                raise taken(place)
            place.rename(old)
        whole.rename(place)
    except OSError as error:
        if os.path.lexists(old) and not os.path.lexists(place):
            old.rename(place)
        raise InputError(f"{place}: cannot be written: {error.strerror}") from None
