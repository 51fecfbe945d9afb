"""What a folder holds: its networks, the files of each, and what they are pruned by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxprune.commands.folders.held import Held
from onnxprune.commands.folders.networks import Network, networks_of
from onnxprune.commands.folders.places import MODEL, walked
from onnxprune.commands.folders.samples import Samples
from onnxprune.commands.folders.words import Tokens, tokens_that_go
from onnxprune.commands.steps.job import Learning
from onnxprune.errors import InputError
from onnxprune.graph.files.read import load
from onnxprune.graph.model import Model
from onnxprune.graph.ports import cache_bytes
from onnxprune.planning.options import Options
from onnxprune.progress import Progress


@dataclass(frozen=True)
class Found:
    """What a folder holds."""

    networks: Sequence[Network]
    files: Sequence[Mapping[str, Model]]  # of each network, by name
    samples: Sequence[Samples]  # of each network
    tokens: Tokens | None  # of which some go; None where all stay

    @property
    def models(self) -> dict[str, Model]:
        """All of them, by name."""
        return {name: model for files in self.files for name, model in files.items()}

    @cached_property
    def has_caches(self) -> bool:
        """Whether any of the models keeps something of the past."""
        return any(cache_bytes(model.inputs) for model in self.models.values())

    @property
    def data_files(self) -> tuple[Path, ...]:
        """The files that hold samples."""
        return tuple(path for each in self.samples for path in each.files)


def found_in(folder: Path, data: Any, options: Options, learning: Learning, progress: Progress) -> Found:
    """Return what a folder holds.

    Args:
        folder: with all models.
        data: samples to calibrate on.
        options: of the run.
        learning: of the run.
        progress: called before each step.

    Raises:
        InputError: when there is no model, or one cannot be read.
        OptionError: for samples that are not of its networks, and for tokens that cannot go.
    """
    networks = networks_of([*_read(folder, progress)], options)
    files = [{name_in(folder, file.model): file.model for file in network.files} for network in networks]
    tokens = tokens_that_go(options, learning, files)
    samples = Samples.of_all([next(iter(each)) for each in files], data, options.eval_data)
    return Found(networks, files, samples, tokens)


def _read(folder: Path, progress: Progress) -> Iterator[Held]:
    """Yield all models of a folder.

    Raises:
        InputError: when there is none, or one cannot be read.
    """
    found = sorted(path for path in walked(folder) if path.suffix == MODEL and path.is_file())
    if not found:
        raise InputError(f"{folder}: the folder holds no file that ends in {MODEL}")
    for path in found:
        progress(f"{path.relative_to(folder).as_posix()}: reading {path}")
        yield Held(load(path))


def name_in(folder: Path, model: Model) -> str:
    """Return the path of a model from a folder on."""
    return "" if model.path is None else model.path.relative_to(folder).as_posix()
