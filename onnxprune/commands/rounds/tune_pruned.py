"""Step of `prune` that tunes: what was cut and refitted learns from the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune.commands.steps.finish import Improve, Masks
from onnxprune.commands.steps.learn import Learned, learn, lesson_values, proven
from onnxprune.commands.steps.prepare import PreparedModel
from onnxprune.commands.steps.tune_cut import Kept, kept_by_masks, kept_in_all
from onnxprune.data.caches import suited_data
from onnxprune.data.samples import Data
from onnxprune.errors import OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.shapes.probe import settled
from onnxprune.graph.tensors import Array
from onnxprune.progress import Progress
from onnxprune.training.settings import TuneOptions

# Better numbers for weights, and what reports on them once they are written.
Taught: TypeAlias = tuple[Mapping[str, Array], Callable[[Path], dict[str, Any]]]


@dataclass(frozen=True)
class Tuning:
    """How a cut is tuned."""

    options: TuneOptions
    original: Model | None = None  # the teacher, where that is not the model that is cut
    kept: Kept | None = None  # which of the original's values that model has
    checkpoint: Path | None = None  # where it is saved
    resume: bool = False  # whether it goes on from there, where something is there
    part: Callable[[TuneOptions], TuneOptions] | None = None  # see `learn`: of cuts that share the length


def improver(prepared: PreparedModel, tuning: Tuning, progress: Progress) -> Improve:
    """Return what tunes a cut of a model.

    Args:
        prepared: the model, with the samples to learn from.
        tuning: how.
        progress: called before each step.
    """
    data = prepared.tuning_data
    assert data is not None
    teacher, before = tuning.original or prepared.traced.model, [] if tuning.kept is None else [tuning.kept]

    def improve(after: Model, masks: Masks) -> Taught:
        how = replace(tuning, original=teacher, kept=kept_in_all([*before, kept_by_masks(prepared.traced, masks)]))
        return taught(
            after, suited_data(data, settled(after).inputs), how, progress, is_measured=prepared.options.is_measured
        )

    return improve


def taught(model: Model, data: Data, tuning: Tuning, progress: Progress, *, is_measured: bool) -> Taught:
    """Return better numbers for weights of a model, and what reports on them once they are written.

    Args:
        model: what was cut.
        data: the samples to learn from.
        tuning: how; by which teacher, and which of its values the model has.
        progress: called before each step.
        is_measured: whether the model depends on measurements: a resumed run may then have another one.
    """

    def learned(resume: bool) -> Learned:
        return learn(
            model, tuning.original, data, tuning.options, part=tuning.part, kept=tuning.kept,
            checkpoint=tuning.checkpoint, resume=resume, progress=progress,
        )  # fmt: skip

    resume = tuning.resume and tuning.checkpoint is not None and tuning.checkpoint.exists()
    try:
        own = learned(resume)
    except OptionError as error:
        if not (resume and is_measured):
            raise
        progress(f"the cut that was measured is another one than before, tuning begins anew ({error})")
        own = learned(False)

    def report(path: Path) -> dict[str, Any]:
        gap = proven(own.lesson, path, own.contents, progress)
        proof = {"passed": True, "max_rel_diff": gap}
        values = {"options": own.options.to_dict(), "lesson": lesson_values(own.lesson, own.options)}
        return {**values, "proof": proof, **own.outcome.to_dict()}

    return own.contents, report
