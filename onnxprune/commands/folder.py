"""`prune` of a folder: one network or several, and what programs need beside them.

Programs that run language models take a folder: the model in one file or several, their weights beside them, a
tokenizer, settings. All of it is copied; models are pruned; settings that state what was cut follow
(`commands.folder_settings`). The new folder appears whole or not at all.

Files that hold the same weights (the decoder for the first token, and the one for those behind it) are one network:
they are cut alike, see `commands.follow`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxprune.commands.finish import Complete, Publish
from onnxprune.commands.folder_settings import SETTINGS, adjusted
from onnxprune.commands.follow import Digest, Lead, digests, follow, holds_same, lead_of, uncut
from onnxprune.commands.prune import prune_file
from onnxprune.commands.report_files import write_report
from onnxprune.errors import InputError, NothingToPrune, OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.publish import resolved, signals_held, staging
from onnxprune.graph.read import load
from onnxprune.graph.write import staged
from onnxprune.planning.options import Options, make_options
from onnxprune.progress import Progress, silent

_REPLACE = "--force (in Python: force=True) to replace it"
_MODEL = ".onnx"


@dataclass(frozen=True)
class PrunedFile:
    """One model of a folder."""

    name: str  # its path in the folder
    report: dict[str, Any] | None  # see docs/report.md; None: it was copied as it is
    why: str | None = None  # it was copied
    leads: bool = False  # whether other files follow it, or it is a network of its own


@dataclass(frozen=True)
class FolderResult:
    """A folder that was written."""

    target: Path
    files: tuple[PrunedFile, ...]
    settings: tuple[str, ...]  # what was changed in them, as sentences

    @property
    def report(self) -> dict[str, Any]:
        """Plain values of all models."""
        files = {each.name: each.report if each.why is None else {"copied": each.why} for each in self.files}
        return {"output": str(self.target), "files": files, "settings": list(self.settings)}


def prune_folder(
    source: Path | str,
    target: Path | str,
    ratio: float | None = None,
    *,
    data: Any = None,
    tune: Any = None,
    rounds: int = 1,
    masks: Any = None,
    force: bool = False,
    **options: Any,
) -> FolderResult:
    """Prune all models of the folder `source` and write the folder `target`; the arguments are those of `prune`.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune_files`.
    """
    checked = make_options(ratio=ratio, **options)
    learning = {"tune": tune, "rounds": rounds, "masks": masks}
    return prune_files(Path(source), Path(target), checked, data, force=force, progress=silent, **learning)


def prune_files(
    source: Path,
    target: Path,
    options: Options,
    data: Any = None,
    *,
    report_path: Path | None = None,
    force: bool = False,
    progress: Progress,
    on_written: Callable[[], object] = lambda: None,
    **learning: Any,
) -> FolderResult:
    """Prune all models of the folder `source` and write the folder `target`.

    Args:
        source: has at least one file that ends in .onnx, also in folders within.
        target: of which nothing is there, or with `force` a folder, which is replaced.
        options: of pruning each network.
        data: samples; of a folder with several networks, a folder in which each has its own, named like the model
            without its ending: ``encoder_model.npz``.
        report_path: where the reports of all models go.
        force: whether `target` may be replaced.
        progress: called before each step.
        on_written: called when all is in place.
        **learning: `tune`, `rounds` and `masks` of `prune_file`.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune_file`; nothing is written then. A network
            that can lose nothing is copied, where others lose something.
    """
    options = options.checked()
    _check_places(source, target, report_path, force)
    models = {path: load(path) for path in _models_in(source)}
    networks = _networks(models)
    sources = {network[0]: _data_of(network[0], networks, data) for network in networks}
    with _beside(target) as scratch, staging(force) as reports:
        whole = scratch / target.name
        _copy_others(source, whole, models)
        run = _Run(source, whole, options, progress, learning)
        files = [
            each for network in networks for each in run.pruned([models[path] for path in network], sources[network[0]])
        ]
        if all(each.report is None for each in files):
            raise NothingToPrune("; ".join(f"{each.name}: {each.why}" for each in files))
        files.sort(key=lambda each: each.name)
        result = FolderResult(target, tuple(files), tuple(_settle(whole, files)))
        _name_outputs(result)
        if report_path is not None:
            write_report(result.report, report_path, reports.add(report_path))
        with signals_held():
            _publish(whole, target, scratch / "old", force)
            on_written()
    return result


# -- what is there -----------------------------------------------------------------------------------------


def _check_places(source: Path, target: Path, report: Path | None, force: bool) -> None:
    one, other = resolved(source), resolved(target)
    if one == other or one in other.parents or other in one.parents:
        raise InputError(f"{target}: the output lies in the input or is it; give another folder")
    if os.path.lexists(target) and not (force and target.is_dir()):
        what = f"exists; give another name, or {_REPLACE}" if target.is_dir() else "is a file; give a folder"
        raise InputError(f"{target} {what}")
    if not other.parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.parent}")
    if report is not None and resolved(report).is_relative_to(other):
        raise InputError(f"{report}: the report would lie in the output; give it a place beside that")


def _models_in(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob(f"*{_MODEL}") if path.is_file() and not _is_hidden(path, folder))
    if not found:
        raise InputError(f"{folder}: the folder holds no file that ends in {_MODEL}")
    return found


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _networks(models: Mapping[Path, Model]) -> list[list[Path]]:
    """Return the files of each network; the first of them leads: the one with the most weights and no branches."""
    networks: list[list[Path]] = []
    held = {path: _counts(model) for path, model in models.items()}
    bodies = {path: sum(bool(node.bodies) for node in model.nodes) for path, model in models.items()}
    for path in sorted(models, key=lambda path: (bodies[path] > 0, -sum(held[path].values()), path)):
        own = next((each for each in networks if holds_same(held[each[0]], held[path])), None)
        networks.append([path]) if own is None else own.append(path)
    return networks


def _counts(model: Model) -> dict[Digest, int]:
    return {digest: model.constants[name].count for name, digest in digests(model).items()}


def _data_of(lead: Path, networks: Sequence[Sequence[Path]], data: Any) -> Any:
    """Return the samples of one network."""
    if data is None or len(networks) == 1:
        return data
    folder = Path(data) if isinstance(data, (str, os.PathLike)) else None
    own = [] if folder is None else [folder / f"{lead.stem}.npz", folder / lead.stem]
    if folder is None or not folder.is_dir() or not any(path.exists() for path in own):
        names = ", ".join(f"{each[0].stem}.npz" for each in networks)
        raise OptionError(
            f"data: the folder holds {len(networks)} networks; give a folder with samples of each: {names}"
        )
    return str(next(path for path in own if path.exists()))


# -- what is made ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield a hidden folder beside a place, on the same disk; it goes in the end."""
    with signals_held():
        folder = tempfile.mkdtemp(prefix=".onnxprune-", dir=resolved(target).parent)
    try:
        yield Path(folder)
    finally:
        with signals_held():
            shutil.rmtree(folder, ignore_errors=True)


def _copy_others(source: Path, whole: Path, models: Mapping[Path, Model]) -> None:
    """Copy all but models, their weights and what is hidden; links become files."""
    left = {resolved(path) for path in models} | {
        resolved(path) for model in models.values() for path in model.data_files
    }
    whole.mkdir()
    for path in sorted(source.rglob("*")):
        if path.is_file() and not _is_hidden(path, source) and resolved(path) not in left:
            copy = whole / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


@dataclass(frozen=True)
class _Run:
    """What all models of a folder have in common."""

    source: Path
    whole: Path  # the folder that is made
    options: Options
    progress: Progress
    learning: Mapping[str, Any]

    def pruned(self, network: Sequence[Model], data: Any) -> list[PrunedFile]:
        """Prune the first file of a network, and cut the others alike."""
        lead, *followers = network
        for model in network:
            self._place(model).parent.mkdir(parents=True, exist_ok=True)
        held = uncut(lead, followers) if followers else ()
        options, said = replace(self.options, ignore=(*self.options.ignore, *held)), self._progress(lead)
        try:
            result = prune_file(
                self.source / self._name(lead), self._place(lead), options, data,
                force=False, progress=said, **self.learning,
            )  # fmt: skip
        except NothingToPrune as error:
            for model in network:
                _copy_model(model, self._place(model))
            return [PrunedFile(self._name(model), None, str(error)) for model in network]
        files = [PrunedFile(self._name(lead), result.report, leads=True)]
        if followers:
            became = lead_of(lead, result.model, result.report)
            files += [PrunedFile(self._name(model), self._followed(model, became)) for model in followers]
        return files

    def _followed(self, model: Model, lead: Lead) -> dict[str, Any]:
        publish = _publishing(model, self._place(model))
        return follow(model, lead, self.options, publish, self._progress(model))[1]

    def _name(self, model: Model) -> str:
        return model.path.relative_to(self.source).as_posix() if model.path is not None else ""

    def _place(self, model: Model) -> Path:
        return self.whole / self._name(model)

    def _progress(self, model: Model) -> Progress:
        """Return what says of which model a step is."""
        name = self._name(model)
        return lambda step, *rest: self.progress(f"{name}: {step}", *rest)


def _publishing(model: Model, place: Path) -> Publish:
    @contextlib.contextmanager
    def publish(proto: Any, folder: Path) -> Iterator[tuple[Path, Complete]]:
        with (
            staging(False) as files,
            staged(proto, place, folder, model.is_external, files, alignment=model.alignment) as path,
        ):
            yield path, lambda report: report["output"].update(path=str(place))

    return publish


def _copy_model(model: Model, place: Path) -> None:
    """Copy a model that loses nothing, with its weights."""
    assert model.path is not None
    shutil.copyfile(model.path, place)
    for path in model.data_files:
        copy = place.parent / path.relative_to(model.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _settle(whole: Path, files: Sequence[PrunedFile]) -> Iterator[str]:
    """Bring settings into line with what was cut; yield what was changed."""
    reports = {each.name: each.report for each in files if each.report is not None and each.leads}
    for name in SETTINGS:
        for path in sorted(whole.rglob(name)):
            text, changes = adjusted(path.read_text(encoding="utf-8"), reports)
            if changes:
                path.write_text(text, encoding="utf-8")
                yield from (f"{path.relative_to(whole)}: {change}" for change in changes)


def _name_outputs(result: FolderResult) -> None:
    for each in result.files:
        if each.report is not None:
            each.report["output"]["path"] = str(result.target / each.name)


def _publish(whole: Path, target: Path, old: Path, force: bool) -> None:
    """Move the folder into place; what was there goes away with `old`."""
    if os.path.lexists(target):
        if not force:
            raise InputError(f"{target} exists; give another name, or {_REPLACE}")
        target.rename(old)
    try:
        whole.rename(target)
    except OSError as error:
        if os.path.lexists(old):
            old.rename(target)
        raise InputError(f"{target}: cannot be written: {error.strerror}") from None
