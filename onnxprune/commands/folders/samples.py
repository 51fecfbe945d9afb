"""Samples for the networks of a folder: one source for a single network, a folder with one for each of several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.commands.steps.prepare import part_to_run
from onnxprune.data.caches import check_no_past, suited_data
from onnxprune.data.samples import Data, files_of, load_data
from onnxprune.errors import OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Role
from onnxprune.planning.options import Options


@dataclass(frozen=True)
class Samples:
    """Samples of one network: to calibrate on, and to compare on."""

    data: Any
    evaluation: Any

    @classmethod
    def of(cls, name: str, names: Sequence[str], data: Any, evaluation: Any) -> Samples:
        """Return those of a network, of a folder with several of them those that are named like it."""
        return cls(_own(name, names, data, "data"), _own(name, names, evaluation, "eval_data"))

    @classmethod
    def of_all(cls, names: Sequence[str], data: Any, evaluation: Any) -> list[Samples]:
        """Return those of each network of a folder, by the names of the files that lead them."""
        return [cls.of(name, names, data, evaluation) for name in names]

    def without_past(self, file: Model, body: Model, options: Options) -> Samples:
        """Return the samples of a file as a body of it takes them, which knows nothing of a past.

        Raises:
            DataError: when they cannot be read, or hold a past.
        """
        names = {port.name for port in body.inputs}
        inputs = part_to_run(file, dict(options.inputs)).inputs
        pasts = [port.name for port in inputs if port.role is Role.PAST and port.name not in names]

        def of_body(source: Any) -> Data | None:
            if source is None:
                return None
            data = load_data(source, inputs, preprocess=options.preprocess)
            check_no_past(data, pasts)
            return suited_data(data, body.inputs)

        return Samples(of_body(self.data), of_body(self.evaluation))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that they are read from."""
        return (*files_of(self.data), *files_of(self.evaluation))


def _own(name: str, names: Sequence[str], data: Any, option: str) -> Any:
    """Return the part of a source of samples that is meant for one of several networks."""
    if data is None or len(names) == 1:
        return data
    folder = Path(data) if isinstance(data, (str, os.PathLike)) else None
    own = [] if folder is None else [(folder / name).with_suffix(".npz"), (folder / name).with_suffix("")]
    found = next((path for path in own if path.exists()), None)
    if found is None:
        listed = ", ".join(Path(each).with_suffix(".npz").as_posix() for each in names)
        missing = f", and {folder} has none of {name}" if folder is not None and folder.is_dir() else ""
        raise OptionError(
            f"{option}: the folder holds {len(names)} networks; give a folder with samples of each: {listed}{missing}"
        )
    return str(found)
