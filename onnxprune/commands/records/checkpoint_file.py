"""The file that a run of `tune` is saved to: what may stand at its place, and when it goes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxprune.errors import InputError
from onnxprune.graph.files.publish import Reads, check_written


@dataclass(frozen=True)
class CheckpointFile:
    """Where a run is saved, and what is done with what an earlier one left there. Its methods need PyTorch."""

    path: Path
    resume: bool = False  # whether the run goes on from it
    force: bool = False  # whether that of an earlier run may be replaced

    def check(self, reads: Reads, beside: Sequence[tuple[Path, str]] = ()) -> None:
        """Raise InputError where the run cannot be saved there, or would replace what is no checkpoint, or is wanted.

        Args:
            reads: what was read; none of it may be replaced.
            beside: what is read or written beside it, and what each is: "is the output".
        """
        self._check_name()
        if self.path.is_dir():
            raise in_the_way(self.path, "it is a folder, and tune saves to a file")
        check_written([(self.path, "the checkpoint")], reads, force=True, beside=beside)
        if self.resume:
            if not self.path.exists():
                raise nothing_to_resume(self.path)
            return
        if self.path.exists():
            self._check_replaceable()

    def _check_name(self) -> None:
        """Raise InputError for a name that the system does not take, such as one that is too long."""
        try:
            os.lstat(self.path)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:  # ValueError: a null character
            why = getattr(error, "strerror", None) or error
            raise InputError(f"{self.path}: the checkpoint cannot be written: {why}") from None

    def _check_replaceable(self) -> None:
        if not _is_checkpoint(self.path):
            raise in_the_way(self.path, "it is no checkpoint of tune")
        if not self.force:
            raise not_replaced(self.path, "a run that was ended")

    def remove(self) -> None:
        """Remove what the run wrote, went on from or was to replace; anything else that stands there by now stays."""
        from onnxprune.training.tuning.checkpoint import unfinished  # noqa: PLC0415 - needs PyTorch

        with contextlib.suppress(OSError):  # the result is written, and counts
            for path in unfinished(self.path):
                path.unlink()
            if _is_checkpoint(self.path):
                self.path.unlink()


def nothing_to_resume(path: Path) -> InputError:
    """Return the error of a run that is to go on, where nothing was begun."""
    return InputError(f"{path}: there is no checkpoint to resume; leave out --resume to begin")


def in_the_way(path: Path, why: str) -> InputError:
    """Return the error of a run that is to be saved where something else stands."""
    return InputError(f"{path} is in the way: {why}; give another --checkpoint")


def not_replaced(path: Path, what: str) -> InputError:
    """Return the error of a run that would replace what an earlier one has saved."""
    return InputError(f"{path} holds {what}: go on from there with --resume, or remove it with --force")


def _is_checkpoint(path: Path) -> bool:
    """Whether a file holds a run of tuning."""
    from onnxprune.training.tuning.checkpoint import is_checkpoint  # noqa: PLC0415 - needs PyTorch

    return is_checkpoint(path)
