"""Steps of `tune` and of `prune` with tuning: learn, put the weights back, hold the file against the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.commands.steps.tune_cut import Kept
from onnxprune.data.samples import Data, pieces
from onnxprune.graph.edit import with_contents
from onnxprune.graph.forms.remainder import with_own_ports
from onnxprune.graph.forms.sparse import as_stored
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view
from onnxprune.progress import Progress, silent
from onnxprune.training.settings import TuneOptions
from onnxprune.training.tuning.processes import ALONE, Processes

if TYPE_CHECKING:
    from onnxprune.training.network.statistics import Statistics
    from onnxprune.training.tuning.callbacks import Callback
    from onnxprune.training.tuning.lesson import Lesson
    from onnxprune.training.tuning.tuner import Tuned

_CHECKED = 64  # held-out samples on which the written file is held against the network


@dataclass(frozen=True, eq=False)
class Learned:
    """What came of a run."""

    lesson: Lesson
    options: TuneOptions  # of the run, with its own length
    outcome: Tuned
    contents: dict[str, Array]  # of the constants that got better


def learn(
    model: Model,
    teacher: Model | None,
    data: Data,
    options: TuneOptions,
    *,
    part: Callable[[TuneOptions], TuneOptions] | None = None,
    kept: Kept | None = None,
    processes: Processes = ALONE,
    checkpoint: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: Progress = silent,
) -> Learned:
    """Return what comes of a run.

    Args:
        model: to be tuned.
        teacher: that it follows.
        data: the samples.
        options: of tuning.
        part: where the length in the options is that of several runs, returns options with that of this run alone; it
            is called with a length in steps or seconds, never in epochs. None: there is one run.
        kept: which units of the teacher the model has.
        processes: that learn together.
        checkpoint: where the run is saved.
        resume: whether it goes on from there.
        callbacks: are told what is measured.
        progress: called before each step.

    Raises:
        InputError, VerificationError: as `tune`.
    """
    from onnxprune.training.network.writing import contents_of  # noqa: PLC0415
    from onnxprune.training.tuning.lesson import lesson_of  # noqa: PLC0415 - needs PyTorch
    from onnxprune.training.tuning.saving import Saving, run_of  # noqa: PLC0415
    from onnxprune.training.tuning.tuner import tuned  # noqa: PLC0415

    progress("holding the network against ONNX Runtime")
    lesson = lesson_of(model, teacher, data, options, kept, processes=processes)
    if part is not None:
        options = part(_in_steps(options, lesson))
    saving = None
    if checkpoint is not None:
        saving = Saving(checkpoint, run_of(model, teacher, data, options, lesson.places), resume)
    outcome = tuned(lesson, options, saving=saving, callbacks=callbacks, progress=progress)
    lesson.processes.leave()
    return Learned(lesson, options, outcome, contents_of(model, outcome.weights))


def _in_steps(options: TuneOptions, lesson: Lesson) -> TuneOptions:
    """Return options whose length, where it is in epochs, is in steps: the lesson knows how many samples one takes."""
    if options.epochs is None:
        return options
    return replace(options, epochs=None, steps=options.epochs * lesson.order(options).steps_of_epoch)


def proven(lesson: Lesson, path: Path, contents: Mapping[str, Array], progress: Progress) -> float:
    """Return how far a written file lies from the network, on held-out samples.

    Raises:
        VerificationError: when that is more than round-off.
    """
    from onnxprune.training.network.writing import check_file  # noqa: PLC0415 - needs PyTorch

    progress("verifying: the file = the network")
    some = lesson.held.subset(range(min(_CHECKED, lesson.held.count)))
    batches = (piece.feeds for piece in pieces(some, 16))
    return check_file(lesson.network, path, contents, batches)


def stored(model: Model, contents: Mapping[str, Array]) -> Any:
    """Return what the file shall hold: what it held, with other numbers in some weights."""
    file = model.file
    if not contents:
        return file.stored
    if file.original is not None:
        as_read = view(file.original, folder=file.folder, is_plain=True)
        if all(name in as_read.constants and _same(as_read, file, name) for name in contents):
            return with_contents(as_read, contents)
    proto = with_contents(file, contents)
    if model.whole is not None:
        proto = with_own_ports(proto, model.whole)
    return as_stored(proto, model)


def _same(one: Model, other: Model, name: str) -> bool:
    """Whether a constant is the same in what was read and in plain form."""
    return one.constants[name].shape == other.constants[name].shape and np.array_equal(
        one.array(name), other.array(name)
    )


def lesson_values(lesson: Lesson, options: TuneOptions) -> dict[str, Any]:
    """Return what was learned from what, as plain values."""
    order, slim = lesson.order(options), options.slim
    return {
        "metric": lesson.metric.kind,
        "losses": dict(lesson.losses) | ({} if slim is None else {"slim": slim}),
        "places": [place.name for place in lesson.places],
        "augment": list(lesson.augment.ways),
        "weights": len(lesson.network.weights),
        "statistics": _statistics(lesson.network.running, order.size),
        "samples": lesson.train.count,
        "held_out": lesson.held.count,
        "batch": order.size * order.runs,
        "device": str(lesson.network.device),
        "processes": lesson.processes.count,
    }


def _statistics(running: Statistics | None, size: int) -> dict[str, int] | None:
    """Return how many normalisations took the statistics of batches, and of how many samples these are."""
    return None if running is None else {"of_batches": running.count, "kept": running.others, "samples": size}
