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
from onnxprune.commands.follow import Lead, counts, follow, holds_same, lead_of, uncut
from onnxprune.commands.prune import prune_file
from onnxprune.commands.report_files import write_report
from onnxprune.data.samples import files_of
from onnxprune.errors import InputError, NothingToPrune, OnnxpruneError, OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.publish import Reads, check_written, resolved, signals_held, staging
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
    _check_places(source, target, force)
    models = {path: load(path) for path in _models_in(source)}
    networks = _networks(models)
    samples = {network[0]: _Samples.of(network[0], source, networks, data, options.eval_data) for network in networks}
    files_read = [path for each in samples.values() for path in each.files]
    _check_reads(source, target, report_path, files_read, force)
    place = resolved(target)
    with _beside(place) as scratch:
        whole = scratch / place.name
        _copy_others(source, whole, models)
        run = _Run(source, whole, options, progress, learning)
        files = [
            each for network in networks for each in run.pruned([models[path] for path in network], samples[network[0]])
        ]
        if all(each.report is None for each in files):
            raise NothingToPrune("; ".join(f"{each.name}: {each.why}" for each in files))
        files.sort(key=lambda each: each.name)
        result = FolderResult(target, tuple(files), tuple(_settle(whole, files)))
        _name_outputs(result)
        with signals_held(), staging(force) as reports:
            if report_path is not None:
                write_report(result.report, report_path, reports.add(report_path))
            _publish(whole, place, scratch / "old", force)
            on_written()
    return result


# -- what is there -----------------------------------------------------------------------------------------


def _check_places(source: Path, target: Path, force: bool) -> None:
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder")
    one, other = resolved(source), resolved(target)
    if one == other or one in other.parents or other in one.parents:
        raise InputError(f"{target}: the output lies in the input or is it; give another folder")
    if os.path.lexists(target) and not target.is_dir():
        raise InputError(f"{target} is a file; give a folder")
    if os.path.lexists(target) and not force:
        raise InputError(f"{target} exists; give another name, or {_REPLACE}")
    if not other.parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.parent}")


def _check_reads(source: Path, target: Path, report: Path | None, data: Sequence[Path], force: bool) -> None:
    """Raise InputError when what is read would go away: only what looks like an output of ours is replaced."""
    place = resolved(target)
    if place.is_dir():
        found = [*_walked(place)]
        kept = next((path for path in found if resolved(path) in {resolved(each) for each in data}), None)
        if kept is not None:
            raise InputError(f"{target}: {kept.relative_to(place)} in it is part of the data; give another folder")
        hidden = next((path for path in place.iterdir() if path.name.startswith(".")), None)
        if hidden is not None or (any(place.iterdir()) and not any(path.suffix == _MODEL for path in found)):
            what = f"it holds {hidden.name}" if hidden is not None else "it holds no model"
            raise InputError(f"{target} is not replaced, {what}; remove it yourself, or give another name")
    if report is None:
        return
    if resolved(report).is_relative_to(place):
        raise InputError(f"{report}: the report would lie in the output; give it a place beside that")
    if resolved(report).is_relative_to(resolved(source)):
        raise InputError(f"{report}: the report would lie in the input; give it a place beside that")
    check_written([(report, "the report")], Reads(data=tuple(data)), force)


def _walked(folder: Path) -> Iterator[Path]:
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


def _models_in(folder: Path) -> list[Path]:
    found = sorted(path for path in _walked(folder) if path.suffix == _MODEL and path.is_file())
    if not found:
        raise InputError(f"{folder}: the folder holds no file that ends in {_MODEL}")
    return found


def _networks(models: Mapping[Path, Model]) -> list[list[Path]]:
    """Return the files of each network; the first of them leads: the one with the most weights and no branches."""
    if len(models) == 1:
        return [[*models]]
    networks: list[list[Path]] = []
    held = {path: counts(model) for path, model in models.items()}
    bodies = {path: sum(bool(node.bodies) for node in model.nodes) for path, model in models.items()}
    for path in sorted(models, key=lambda path: (bodies[path] > 0, -sum(held[path].values()), path)):
        own = next((each for each in networks if holds_same(held[each[0]], held[path])), None)
        networks.append([path]) if own is None else own.append(path)
    return networks


@dataclass(frozen=True)
class _Samples:
    """Samples of one network: to calibrate on, and to compare on."""

    data: Any
    evaluation: Any

    @classmethod
    def of(cls, lead: Path, source: Path, networks: Sequence[Sequence[Path]], data: Any, evaluation: Any) -> _Samples:
        """Return those of a network, of a folder with several of them those that are named like it."""
        names = {each[0]: each[0].relative_to(source).with_suffix("") for each in networks}
        return cls(_own(lead, names, data, "data"), _own(lead, names, evaluation, "eval_data"))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that they are read from."""
        return (*files_of(self.data), *files_of(self.evaluation))


def _own(lead: Path, names: Mapping[Path, Path], data: Any, option: str) -> Any:
    """Return the part of a source of samples that is meant for one of several networks."""
    if data is None or len(names) == 1:
        return data
    folder = Path(data) if isinstance(data, (str, os.PathLike)) else None
    own = [] if folder is None else [folder / f"{names[lead]}.npz", folder / names[lead]]
    found = next((path for path in own if path.exists()), None)
    if found is None:
        listed = ", ".join(f"{name.as_posix()}.npz" for name in names.values())
        raise OptionError(
            f"{option}: the folder holds {len(names)} networks; give a folder with samples of each: {listed}"
        )
    return str(found)


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
    weights = {resolved(path) for model in models.values() for path in model.data_files}
    left = weights | {resolved(path) for path in models}
    whole.mkdir()
    for path in _walked(source):
        if resolved(path) not in left and path.is_file():
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

    def pruned(self, network: Sequence[Model], samples: _Samples) -> list[PrunedFile]:
        """Prune the first file of a network, and cut the others alike.

        Raises:
            InputError, VerificationError: as `prune_file`, with the name of the file in front.
        """
        lead, *followers = network
        for model in network:
            self._place(model).parent.mkdir(parents=True, exist_ok=True)
        held = uncut(lead, followers) if followers else ()
        options = replace(self.options, held=held, eval_data=samples.evaluation)
        try:
            with _named(self._name(lead)):
                result = prune_file(
                    self.source / self._name(lead), self._place(lead), options, samples.data,
                    force=False, progress=self._progress(lead), **self.learning,
                )  # fmt: skip
        except NothingToPrune as error:
            return [self._copied(model, str(error)) for model in network]
        files = [PrunedFile(self._name(lead), result.report, leads=True)]
        became = lead_of(lead, result.model, result.report) if followers else None
        return [*files, *(self._followed(model, became) for model in followers if became is not None)]

    def _followed(self, model: Model, lead: Lead) -> PrunedFile:
        publish = _publishing(model, self._place(model))
        with _named(self._name(model)):
            _, report = follow(model, lead, self.options, publish, self._progress(model))
        return PrunedFile(self._name(model), report)

    def _copied(self, model: Model, why: str) -> PrunedFile:
        """Write a model that loses nothing as it is, with weights under a name of its own."""
        if model.path is not None and not model.is_external:
            shutil.copyfile(model.path, self._place(model))
            return PrunedFile(self._name(model), None, why)
        with (
            staging(False) as files,
            staged(model.stored, self._place(model), model.folder, model.is_external, files, alignment=model.alignment),
        ):
            return PrunedFile(self._name(model), None, why)

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


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of which model of the folder an error is."""
    try:
        yield
    except NothingToPrune:
        raise
    except OnnxpruneError as error:
        raise type(error)(f"{name}: {error}") from error


def _settle(whole: Path, files: Sequence[PrunedFile]) -> Iterator[str]:
    """Bring settings into line with what was cut; yield what was changed.

    Settings speak of the models in their folder and below, where no others are nearer.
    """
    for name in SETTINGS:
        found = sorted(whole.rglob(name))
        for path in found:
            own = [each for each in files if _nearest(whole / each.name, found) == path]
            reports = {each.name: each.report for each in own if each.report is not None and each.leads}
            try:
                text, changes = adjusted(path.read_text(encoding="utf-8"), reports)
            except UnicodeDecodeError:
                continue
            if changes:
                path.write_text(text, encoding="utf-8")
                yield from (f"{path.relative_to(whole)}: {change}" for change in changes)


def _nearest(model: Path, settings: Sequence[Path]) -> Path | None:
    above = [path for path in settings if path.parent in model.parents]
    return max(above, key=lambda path: len(path.parts), default=None)


def _name_outputs(result: FolderResult) -> None:
    for each in result.files:
        if each.report is not None:
            each.report["output"]["path"] = str(result.target / each.name)


def _publish(whole: Path, place: Path, old: Path, force: bool) -> None:
    """Move the folder into place; what was there goes away with `old`."""
    try:
        if os.path.lexists(place):
            if not force:
                raise InputError(f"{place} exists; give another name, or {_REPLACE}")
            place.rename(old)
        whole.rename(place)
    except OSError as error:
        if os.path.lexists(old) and not os.path.lexists(place):
            old.rename(place)
        raise InputError(f"{place}: cannot be written: {error.strerror}") from None
