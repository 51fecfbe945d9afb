"""Step of `prune` that tunes: what was cut and refitted learns from the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxprune.commands.finish import Improve, Masks
from onnxprune.commands.learn import learn, lesson_values, proven
from onnxprune.commands.prepare import PreparedModel
from onnxprune.commands.tune_cut import kept_by_masks
from onnxprune.data.samples import Data, load_data
from onnxprune.errors import OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.progress import Progress
from onnxprune.training.extra import check_torch
from onnxprune.training.settings import TuneOptions, amount, make_tune_options


def tune_options(tune: Any, data: Any) -> TuneOptions | None:
    """Return the options of tuning that `prune` is given.

    Args:
        tune: a length such as "20m" or "500 steps", a dict of options of `tune`, or None.
        data: samples; there must be some.

    Raises:
        OptionError: for other values, without data, and without PyTorch.
    """
    if tune is None:
        return None
    if data is None:
        raise OptionError("tune needs data: give samples with --data")
    check_torch("--tune")
    return make_tune_options(**(dict(tune) if isinstance(tune, Mapping) else amount("tune", tune)))


def improver(prepared: PreparedModel, options: TuneOptions, data_source: Any, progress: Progress) -> Improve:
    """Return what tunes a cut of a model, with the model as its teacher.

    Args:
        prepared: the model.
        options: of tuning.
        data_source: samples; where others are evaluated, all of them, else those that calibration takes.
        progress: called before each step.
    """

    def improve(after: Model, masks: Masks) -> tuple[Mapping[str, Array], Callable[[Path], dict[str, Any]]]:
        traced, data = prepared.traced, _samples(prepared, data_source)
        lesson, outcome, contents = learn(
            after, traced.model, data, options, kept=kept_by_masks(traced, masks), progress=progress
        )

        def report(path: Path) -> dict[str, Any]:
            gap = proven(lesson, path, contents, progress)
            proof = {"passed": True, "max_rel_diff": gap}
            values = {"options": options.to_dict(), "lesson": lesson_values(lesson, options.slim), "proof": proof}
            return {**values, **outcome.to_dict()}

        return contents, report

    return improve


def _samples(prepared: PreparedModel, data_source: Any) -> Data:
    model, options = prepared.traced.model, prepared.options
    if options.eval_data is None and prepared.calibration_data is not None:
        return prepared.calibration_data
    return load_data(data_source, model.inputs, preprocess=options.preprocess)
