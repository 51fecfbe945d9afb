"""Files that appear whole or not at all: what may be written, and how it is moved into place.

Everything is written to hidden folders beside its place first. The moves come last, all together: they are taken back
when one of them fails, signals wait until they are done, and the first file that was staged (the model) is the last to
move, so that it stands for the whole.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from onnxprune.errors import InputError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_REPLACE = "--force (in Python: force=True) to replace it"


# -- what may be written ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reads:
    """The files that a model was made from."""

    source: Path | None = None
    weights: tuple[Path, ...] = ()  # the external data of the source
    data: tuple[Path, ...] = ()  # those of the samples


def stamps(paths: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    """Return by path what differs when a file is changed or replaced."""
    statuses = {path: path.stat() for path in paths}
    return {path: (status.st_ino, status.st_size, status.st_mtime_ns) for path, status in statuses.items()}


def check_files(target: Path, weights: Path, report: Path | None, reads: Reads, force: bool) -> None:
    """Raise InputError when a file must not or cannot be written: it is read too, is there, or has no folder.

    Args:
        target: the model to write.
        weights: the file beside it that may take its external data.
        report: the report to write.
        reads: what was read; only the source may be replaced, by force, and its weights with it.
        force: whether files that are there may be replaced.
    """
    _check_regular(target, "pruned.onnx")
    if report is not None:
        _check_regular(report, "report.json")
    own = reads.source is not None and resolved(target) == resolved(reads.source)
    if own and not force:
        raise InputError(f"{target} is the input; give another name, or {_REPLACE}")
    sources = [(reads.source, "is the input"), *((path, "holds weights of the input") for path in reads.weights)]
    samples = [(path, "is the data" if len(reads.data) == 1 else "is part of the data") for path in reads.data]
    for path in (target, weights):
        _check_apart(path, "the output", samples if own else [*sources, *samples])
    if report is not None:
        written = [(target, "is the output"), (weights, "is for weights of the output")]
        _check_apart(report, "the report", [*sources, *samples, *written])
    for path in (target, weights, *([] if report is None else [report])):
        _check_free(path, force)


def check_written(outputs: Sequence[tuple[Path, str]], reads: Reads, force: bool) -> None:
    """Raise InputError when one of several files, no model among them, must not or cannot be written.

    Args:
        outputs: the files, and what each is: "the plot".
        reads: what was read; none of it may be replaced.
        force: whether files that are there may be replaced.
    """
    others = [(reads.source, "is the input"), *((path, "holds weights of the input") for path in reads.weights)]
    others += [(path, "is the data" if len(reads.data) == 1 else "is part of the data") for path in reads.data]
    for path, role in outputs:
        _check_regular(path, role.split()[-1])
        _check_apart(path, role, others)
        _check_free(path, force)
        others.append((path, f"is {role}"))


def _check_regular(path: Path, name: str) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name, such as {path / name}")
    status = _status(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is a device or pipe; give the name of a file")


def _check_apart(path: Path, role: str, others: Sequence[tuple[Path | None, str]]) -> None:
    for other, what in others:
        if other is not None and _same(path, other):
            raise InputError(f"{path} {what}; give {role} another name")


def _check_free(path: Path, force: bool) -> None:
    status = _status(path)
    if status is not None and not (force and stat.S_ISREG(status.st_mode)):
        raise _exists(path)
    folder = resolved(path).parent
    folder = path.parent if folder == resolved(path.parent) else folder  # as it was given, unless a link leads away
    if not folder.is_dir():
        raise InputError(f"{path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path}: the folder {folder} cannot be written")


def _exists(path: Path) -> InputError:
    return InputError(f"{path} exists; give another name, or {_REPLACE}")


def resolved(path: Path) -> Path:
    """Return the file that a path leads to, through links; it need not exist."""
    return Path(os.path.realpath(path))


def _same(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file, whatever they are called."""
    one, two = _status(path), _status(other)
    if (one is None) != (two is None):
        return False
    if one is None or two is None:
        return resolved(path) == resolved(other)
    return os.path.samestat(one, two)


def _status(path: Path) -> os.stat_result | None:
    """Return what the system knows of a file; None where there is none, or none can be (too long a name)."""
    try:
        return path.stat()
    except OSError:
        return None


# -- into place ------------------------------------------------------------------------------------------


class Staging:
    """Files that wait in hidden folders; made by `staging`."""

    def __init__(self, scratch: contextlib.ExitStack) -> None:
        self._scratch = scratch
        self.moves: list[tuple[Path, Path]] = []  # where a file is, where it shall be
        self.stale: list[Path] = []  # files to remove when all others are in place

    def add(self, target: Path) -> Path:
        """Return where to write what shall be `target`.

        Raises:
            InputError: when its folder cannot be written.
        """
        place = resolved(target)
        with signals_held():  # between the making of the folder and its registration
            try:
                folder = tempfile.TemporaryDirectory(prefix=".onnxprune-", dir=place.parent)
            except OSError as error:
                raise InputError(f"{target.parent}: cannot write there: {error.strerror}") from None
            self._scratch.callback(_remove, folder)
        temporary = Path(folder.name) / place.name
        self.moves.append((temporary, place))
        return temporary


def _remove(folder: tempfile.TemporaryDirectory[str]) -> None:
    with signals_held():
        folder.cleanup()


@contextlib.contextmanager
def staging(force: bool, done: Callable[[], object] = lambda: None) -> Iterator[Staging]:
    """Yield a `Staging`; when the block ends well, move all its files into place, or none.

    Args:
        force: whether files that are there may be replaced.
        done: called once when they are in place, before any signal that came meanwhile has its effect.

    Raises:
        InputError: when a file is there by now, without `force`.
    """
    with contextlib.ExitStack() as scratch:
        files = Staging(scratch)
        yield files
        with signals_held():
            _publish(files.moves[::-1], force)
            done()
            for path in files.stale:
                with contextlib.suppress(OSError):
                    path.unlink()


def _publish(moves: Sequence[tuple[Path, Path]], force: bool) -> None:
    with contextlib.ExitStack() as undo:
        for i, (temporary, target) in enumerate(moves):
            if force and target.exists():
                _replace(temporary, target, temporary.with_name(f".old-{i}"), undo)
            else:
                _create(temporary, target, undo)
        undo.pop_all()


def _create(temporary: Path, target: Path, undo: contextlib.ExitStack) -> None:
    """Move a file to a place that is free, also if another process wants it."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a file system without links: only there, a file made since this line is replaced
        if target.exists():
            raise _exists(target) from None
        temporary.replace(target)
    undo.callback(target.unlink)


def _replace(temporary: Path, target: Path, backup: Path, undo: contextlib.ExitStack) -> None:
    """Move a file into the place of another, whose permissions it gets."""
    temporary.chmod(stat.S_IMODE(target.stat().st_mode))
    try:
        os.link(target, backup)
    except OSError:
        target.rename(backup)
    undo.callback(backup.replace, target)
    temporary.replace(target)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let signals wait for the end of the block; outside the main thread, Python delivers none anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        came.append(number)

    heard = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    handlers = {number: signal.signal(number, hold) for number in heard}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
