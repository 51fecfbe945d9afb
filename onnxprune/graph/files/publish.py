"""Files that appear whole or not at all: what may be written, and how it is moved into place.

Everything is written to hidden folders beside its place first. The moves come last, all together: they are taken back
when one of them fails, and signals wait until they are done.

A process that is killed between two of them leaves the old model or the new one, never a mixture. The first file that
was staged (the model) is the one commit point: it is renamed over the old one in a single step. Its weights have a file
of their own that nobody else reads yet, and come before it; old weights go last. Reports come before a model whose
place is free, so that it stands for the whole. Where an old model is replaced, its report goes before it and the new
one comes behind it: no report ever stands beside a model that it does not describe.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeAlias

from onnxprune.errors import InputError, OnnxpruneError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Stamp: TypeAlias = tuple[int, int, int]  # of a file: its number, its bytes, when it was last changed in ns
# What a file in a folder may be called, by what it is.
_EXAMPLES = {
    "the overlay": "overlay.json", "the page": "page.html", "the plan": "plan.toml", "the plot": "plot.svg",
    "the report": "report.json",
}  # fmt: skip
_REPLACE = "--force (in Python: force=True) to replace it"


# -- what may be written ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reads:
    """The files that a model was made from."""

    source: Path | None = None
    weights: tuple[Path, ...] = ()  # the external data of the source
    data: tuple[Path, ...] = ()  # those of the samples
    tokens: Path | None = None  # the list of the tokens that are kept
    plan: Path | None = None  # what is to be cut

    @property
    def beside(self) -> list[tuple[Path | None, str]]:
        """What is no model, and what each file is."""
        what = "is the data" if len(self.data) == 1 else "is part of the data"
        return [
            *((path, what) for path in self.data),
            (self.tokens, "is the list of tokens to keep"),
            (self.plan, "is the plan"),
        ]


def stamps(paths: Iterable[Path]) -> dict[Path, Stamp]:
    """Return by path what differs when a file is changed or replaced; nothing of files that are not there."""
    statuses = {path: path.stat() for path in paths if path.exists()}
    return {path: (status.st_ino, status.st_size, status.st_mtime_ns) for path, status in statuses.items()}


def check_unchanged(before: Mapping[Path, Stamp], source: Path | None = None) -> None:
    """Raise InputError when the files of a model are not any more what they were when their stamps were taken.

    Args:
        before: the stamps.
        source: which of the files is the model; the others hold its weights.
    """
    now = stamps(before)
    changed = [path for path, stamp in before.items() if now.get(path) != stamp]
    if source in changed:
        raise InputError(f"{source}: the input has changed since it was read; prune it again")
    if changed:
        names = ", ".join(map(str, changed))
        raise InputError(f"{names}: the weights of the input have changed since they were read; prune it again")


@contextlib.contextmanager
def blamed_on_change(before: Mapping[Path, Stamp], source: Path | None) -> Iterator[None]:
    """Say of what fails in the block that files of the model have changed, where they have; see `check_unchanged`."""
    try:
        yield
    except (OnnxpruneError, OSError):
        check_unchanged(before, source)
        raise


def check_files(target: Path, weights: Path, report: Path | None, reads: Reads, force: bool) -> None:
    """Raise InputError when a file must not or cannot be written: it is read too, is there, or has no folder.

    Args:
        target: the model to write.
        weights: the file beside it that may take its external data; one that is there already stays, see `Staging`.
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
    for path in (target, weights):
        check_apart(path, "the output", reads.beside if own else [*sources, *reads.beside])
    if report is not None:
        written = [(target, "is the output"), (weights, "is for weights of the output")]
        check_apart(report, "the report", [*sources, *reads.beside, *written])
    for path in (target, *([] if report is None else [report])):
        _check_free(path, force)


def check_name(target: Path, ending: str) -> None:
    """Raise InputError when the name of a file beside `target`, its own with `ending` behind it, would be too long."""
    place = resolved(target)
    try:
        most = os.pathconf(place.parent, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # nobody can say
        return
    room = most - len(os.fsencode(ending))
    if len(os.fsencode(place.name)) > room:
        raise InputError(
            f"{target}: the weights go to a file beside it, whose name would be longer than the {most} bytes that the "
            f"system takes; give a name of at most {room} bytes"
        )


def check_written(
    outputs: Sequence[tuple[Path, str]], reads: Reads, force: bool, beside: Sequence[tuple[Path, str]] = ()
) -> None:
    """Raise InputError when one of several files, no model among them, must not or cannot be written.

    Args:
        outputs: the files, and what each is: "the plot".
        reads: what was read; none of it may be replaced.
        force: whether files that are there may be replaced.
        beside: what is written beside them, and what each is: "is the output".
    """
    others = [
        *beside,
        (reads.source, "is the input"),
        *((path, "holds weights of the input") for path in reads.weights),
    ]
    others += reads.beside
    for path, role in outputs:
        _check_regular(path, _EXAMPLES.get(role, role.split()[-1]))
        check_apart(path, role, others)
        _check_free(path, force)
        others.append((path, f"is {role}"))


def _check_regular(path: Path, name: str) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name, such as {path / name}")
    status = _status(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is a device or pipe; give the name of a file")


def check_apart(path: Path, role: str, others: Sequence[tuple[Path | None, str]]) -> None:
    """Raise InputError where a path leads to one of several others.

    Args:
        path: of what is to be written.
        role: what it is: "the report".
        others: the others, if they are there, and what each is: "is the output".
    """
    for other, what in others:
        if other is not None and _same(path, other):
            raise InputError(f"{path} {what}; give {role} another name")


def _check_free(path: Path, force: bool) -> None:
    status = _status(path)
    if status is not None and not (force and stat.S_ISREG(status.st_mode)):
        raise taken(path)
    folder = resolved(path).parent
    folder = path.parent if folder == resolved(path.parent) else folder  # as it was given, unless a link leads away
    if not folder.is_dir():
        raise InputError(f"{path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path}: the folder {folder} cannot be written")


def taken(path: Path) -> InputError:
    """Return the error for a place where something is, which is not replaced."""
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


@dataclass(frozen=True)
class _Move:
    """A file that waits in a hidden folder, of its own but for weights."""

    temporary: Path  # where it is
    place: Path  # where it shall be

    @property
    def backup(self) -> Path:
        """Where the file that it replaces waits until all is done."""
        return self.temporary.with_name(".old" if self.temporary.name != ".old" else ".older")


class Staging:
    """Files that wait in hidden folders; made by `staging`."""

    def __init__(self, scratch: contextlib.ExitStack) -> None:
        self._scratch = scratch
        self.ahead: list[_Move] = []  # what has to be there before the main file is
        self.weights: list[_Move] = []  # external data of the main file: in place before it, and never over another
        self.moves: list[_Move] = []  # the main file, and what belongs to it
        self.stale: Callable[[], Iterable[Path]] = tuple  # says which files go when all others are in place
        self.removed: list[Path] = []  # of these, what is gone

    def add(self, target: Path, *, ahead: bool = False) -> Path:
        """Return where to write what shall be `target`.

        The first file is the main one: the others stand beside what it holds, and follow it.

        Args:
            target: the place.
            ahead: whether it has to be in place before the main file, such as a note of whose that is.

        Raises:
            InputError: when its folder cannot be written.
        """
        place = resolved(target)
        move = _Move(hidden_beside(target, self._scratch) / place.name, place)
        (self.ahead if ahead else self.moves).append(move)
        return move.temporary

    def add_weights(self, temporary: Path) -> None:
        """Take external data of the main file along, under the name that it has beside the temporary file of that."""
        self.weights.append(_Move(temporary, self.moves[0].place.with_name(temporary.name)))


def hidden_beside(target: Path, scratch: contextlib.ExitStack) -> Path:
    """Make a hidden folder beside a place, on the same disk, which goes with `scratch`; return its path.

    Raises:
        InputError: when the folder of the place cannot be written.
    """
    with signals_held():  # between the making of the folder and its registration
        try:
            folder = tempfile.TemporaryDirectory(prefix=".onnxprune-", dir=resolved(target).parent)
        except OSError as error:
            raise InputError(f"{target.parent}: cannot write there: {error.strerror}") from None
        scratch.callback(_remove, folder)
    return Path(folder.name)


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
        InputError: when a file is there by now, without `force`; with it, when a folder or device is.
    """
    with contextlib.ExitStack() as scratch:
        files = Staging(scratch)
        yield files
        for move in (*files.ahead, *files.weights, *files.moves):
            _flush(move.temporary)
        with signals_held():
            _publish(files, force)
            done()


def _publish(files: Staging, force: bool) -> None:
    if not files.moves:
        return
    main, *others = files.moves
    stale = set(files.stale())
    with contextlib.ExitStack() as undo:
        for move in files.ahead:
            _put(move, force, undo)
        for move in files.weights:
            if not same_bytes(move.temporary, move.place):
                _create(move, undo)
        for move in others:
            if force and os.path.lexists(move.place):
                _take_away(move, undo)
        behind = others if os.path.lexists(main.place) else []
        for move in () if behind else others[::-1]:
            _create(move, undo)
        _put(main, force, undo)
        for move in behind:
            _create(move, undo)
        undo.pop_all()
    _flush(main.place.parent)
    for path in sorted(stale.difference(move.place for move in files.weights)):
        with contextlib.suppress(OSError):
            path.unlink()
            files.removed.append(path)


def _put(move: _Move, force: bool, undo: contextlib.ExitStack) -> None:
    """Move a file into place: in one step, whether another one is there or not."""
    if not (force and os.path.lexists(move.place)):
        _create(move, undo)
        return
    _back_up(move)
    undo.callback(move.backup.replace, move.place)
    move.temporary.replace(move.place)


def _create(move: _Move, undo: contextlib.ExitStack) -> None:
    """Move a file to a place that is free, also if another process wants it."""
    try:
        os.link(move.temporary, move.place)
    except FileExistsError:
        raise taken(move.place) from None
    except OSError:  # a file system without links: only there, a file made since this line is replaced
        if os.path.lexists(move.place):
            raise taken(move.place) from None
        move.temporary.replace(move.place)
    undo.callback(move.place.unlink)


def _take_away(move: _Move, undo: contextlib.ExitStack) -> None:
    """Make a place free; what was there comes back if a later step fails."""
    _back_up(move)
    undo.callback(move.backup.replace, move.place)
    move.place.unlink()


def _back_up(move: _Move) -> None:
    """Keep a file that is to be replaced by one with its permissions, without a moment in which it is not there.

    Raises:
        InputError: when it is no file any more.
    """
    status = move.place.lstat()
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "link, device or pipe"
        raise InputError(f"{move.place} has become a {kind}; it stays, and nothing was written: give another name")
    move.temporary.chmod(stat.S_IMODE(status.st_mode))
    try:
        os.link(move.place, move.backup)
    except OSError:
        shutil.copy2(move.place, move.backup)


def same_bytes(path: Path, other: Path) -> bool:
    """Whether both are files that hold the same."""
    try:
        statuses = path.lstat(), other.lstat()
    except OSError:
        return False
    alike = all(stat.S_ISREG(status.st_mode) for status in statuses) and len({s.st_size for s in statuses}) == 1
    return alike and digest_of(path) == digest_of(other)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Let the system write a file, or the names in a folder, to the disk; where it can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
