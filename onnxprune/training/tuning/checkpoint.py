"""Checkpoints: all that a run needs to go on as if it had never been ended, in one file that appears whole.

Order and views of samples follow from the seed and the step, so that weights, optimiser, the best state, what was
measured so far, and the random states of PyTorch are all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from onnxprune.errors import InputError, OptionError, said

_FORMAT = 4  # of what is stored: 3 has how often held-out samples are looked at, 4 statistics of batches


def digest_of(arrays: Mapping[str, Any]) -> str:
    """Return a digest of arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes() if array.dtype.kind not in "OUS" else repr(array.tolist()).encode())
    return digest.hexdigest()


def save(path: Path, run: Mapping[str, str], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; what stood there before is replaced in one step, or stays.

    Args:
        path: of the file.
        run: what it is, see `training.tuning.saving.run_of`.
        state: what is stored.

    Raises:
        InputError: when it cannot be written, as on a full disk.
    """
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=_prefix(path), dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": _FORMAT, "run": dict(run), "state": dict(state)}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch turns some failed writes into a RuntimeError
        why = getattr(error, "strerror", None) or said(error)
        there = "; the checkpoint before it is whole, go on with --resume" if path.exists() else ""
        raise InputError(f"{path}: the checkpoint cannot be written: {why}{there}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _prefix(path: Path) -> str:
    """Return what names of unfinished checkpoints begin with."""
    return f".{path.name[:100]}-"


def unfinished(path: Path) -> list[Path]:
    """Return what runs left beside a checkpoint that were killed while they wrote it."""
    pattern = re.compile(re.escape(_prefix(path)) + "[a-z0-9_]{8}")  # as tempfile makes them
    return sorted(other for other in path.parent.iterdir() if pattern.fullmatch(other.name))


def load(path: Path, run: Mapping[str, str]) -> dict[str, Any]:
    """Return the state of a checkpoint.

    Raises:
        InputError: when there is none, it cannot be read, or another release wrote it.
        OptionError: when it is of another run; it names what differs.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no checkpoint to resume; leave out --resume to begin")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        known, state, written = content["run"], content["state"], content["format"]
    except Exception as error:  # whatever PyTorch makes of a damaged file
        raise InputError(f"{path}: the checkpoint cannot be read: {said(error)}") from None
    if written != _FORMAT:
        raise InputError(
            f"{path}: the checkpoint is of another release of onnxprune (format {written}, this one reads {_FORMAT}): "
            "resume with that release, or leave out --resume to begin anew"
        )
    for name, value in run.items():
        if known.get(name) != value:
            was = "was not there" if name not in known else f"was {_short(known[name])}"
            raise OptionError(f"{path} is a checkpoint of another run: {name} is {_short(value)} and {was}")
    return dict(state)


def is_checkpoint(path: Path) -> bool:
    """Return whether a file holds a run, of whatever model and release; numbers of weights are left in the file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever PyTorch makes of a file of another kind, or of none
        return False
    return isinstance(content, dict) and {"format", "run", "state"} <= content.keys()


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}"
