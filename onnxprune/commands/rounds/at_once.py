"""`prune` in one round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxprune.commands.rounds.folder import Keeper
from onnxprune.commands.rounds.tune_pruned import Tuning, improver
from onnxprune.commands.steps.cut import Pass, cut
from onnxprune.commands.steps.finish import Publish
from onnxprune.commands.steps.int8 import Int8
from onnxprune.commands.steps.job import Job
from onnxprune.commands.steps.prepare import prepare
from onnxprune.progress import Progress


def at_once(
    job: Job, keeper: Keeper, publish: Publish, progress: Progress, int8: Int8 | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model, an onnx.ModelProto, and its report, when both are published.

    Where it is written in eight bits, their form is that of `int8`, or else one that is chosen for the model itself.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`.
    """
    options = job.learning.tuning
    prepared = prepare(job.model, job.options, job.data, progress, tunes=options is not None)
    improve = None
    if options is not None:
        how = Tuning(options, job.original, checkpoint=keeper.tuning(), resume=keeper.resume)
        improve = improver(prepared, how, progress)
    once = Pass(publish, improve, job.original, job.timed, notes=keeper.notes().of("widths"), int8=int8)
    return cut(replace(prepared, file_name=job.name), once, progress)
