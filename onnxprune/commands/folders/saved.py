"""Where a run on a folder is saved: a folder of rounds for each network, under the name of the file that leads it.

What a network has saved goes when all networks are written: of one that is done, a run that goes on has the rounds, the
notes and the last checkpoint of the tuning. Files that follow one are cut by its plan and need none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxprune.commands.records.checkpoint_file import nothing_to_resume
from onnxprune.commands.rounds.folder import Keeper, RoundsFolder, keeper_of
from onnxprune.commands.steps.job import Job
from onnxprune.graph.files.publish import resolved
from onnxprune.graph.model import Model

TOKENS = ".tokens"  # behind the name of a file that is cut again, to lose tokens alone


@dataclass(frozen=True, eq=False)
class SavedNetworks:
    """What is kept of the networks of a folder."""

    path: Path | None  # of the folder that has a folder for each; None: nothing is kept
    resume: bool  # whether what is there is gone on from; else it is removed
    force: bool  # also where rounds are finished
    _keepers: dict[str, Keeper] = field(default_factory=dict)

    @contextlib.contextmanager
    def run(self, models: Mapping[str, Model]) -> Iterator[None]:
        """Keep a run, which the block is; what it has kept is removed where that ends well, and empty folders always.

        Args:
            models: all of the folder, by name.

        Raises:
            InputError: when there is nothing to resume, or a folder is of something else or holds finished rounds.
        """
        if self.path is not None:
            self._begin(self.path, models)
        try:
            yield
            for keeper in self._keepers.values():
                keeper.remove()
        finally:
            if self.path is not None:
                for name in self._keepers:
                    _remove_empty(self.path, Path(name))

    def _begin(self, path: Path, models: Mapping[str, Model]) -> None:
        """Make way for a run, or see that there is something to go on with."""
        places = {path / f"{name}{end}": model for name, model in models.items() for end in ("", TOKENS)}
        folders = [RoundsFolder(place, model, self.resume, self.force) for place, model in places.items()]
        if self.resume:
            if not any(each.is_begun for each in folders):
                raise nothing_to_resume(path)
            return
        for each in folders:
            each.check_replaceable()
        for each in folders:
            if each.is_begun:
                each.remove()

    def keeper(self, name: str, job: Job) -> Keeper:
        """Return what keeps a network, which goes on where something of it was kept.

        Args:
            name: of the file that leads it.
            job: what is done, on the samples as they were given.

        Raises:
            InputError, OptionError: as `keeper_of`.
        """
        path = None if self.path is None else self.path / name
        resume = path is not None and self.resume and RoundsFolder(path, job.model, resume=True).is_begun
        keeper = self._keepers[name] = keeper_of(job, path, resume=resume, force=self.force)
        return keeper


def place_of(checkpoint: Path | None, target: Path, *, keeps: bool) -> Path | None:
    """Return where the run that writes a folder is saved: beside it by default; None where it is not.

    Args:
        checkpoint: the folder that was asked for, if one was.
        target: the folder that is written.
        keeps: whether there is something to save, or to go on with.
    """
    place = resolved(target)
    default = place.with_name(f"{place.name}.checkpoint") if keeps else None
    return default if checkpoint is None else checkpoint


def _remove_empty(path: Path, name: Path) -> None:
    """Remove a folder of a network and those that lead to it, where nothing is in them."""
    for folder in (name, *name.parents):
        with contextlib.suppress(OSError):  # it is not there, or something is in it
            (path / folder).rmdir()
