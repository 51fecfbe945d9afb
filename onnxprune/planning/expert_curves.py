"""Loss curves of experts: how much the output suffers when some are never picked.

No weight consumes experts, which a layer sums over by weights that it makes for each row. So each level is the masked
model itself, in which the scores of removed experts are the worst that there are, run on the held-out batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.calibration.batches import Calibration
from onnxprune.criteria.elimination import follow
from onnxprune.dependency.groups import EXPERTS
from onnxprune.dependency.trace import Trace
from onnxprune.graph.message import message
from onnxprune.planning.curve import Curve
from onnxprune.planning.curves import Cut, measured_counts
from onnxprune.progress import Progress, silent
from onnxprune.runtime.chain import chain
from onnxprune.runtime.session import open_session
from onnxprune.surgery.mask import masked


def is_of_experts(cut: Cut) -> bool:
    """Whether the units of a cut are experts."""
    return any(group.kind == EXPERTS for group in cut.groups)


def expert_curves(
    traced: Trace, cuts: Sequence[Cut], calibration: Calibration, *, to_output: bool, progress: Progress = silent
) -> dict[str, Curve]:
    """Return the curve of each cut, by name; experts go in the order of their scores.

    Args:
        traced: the model with its axes.
        cuts: of experts.
        calibration: batches and the loss of an output.
        to_output: whether losses of the output are measured.
        progress: called before each step.

    Raises:
        ModelError: when ONNX Runtime cannot run the model.
    """
    curves = {}
    for number, cut in enumerate(cuts):
        progress("measuring loss curves of experts", number + 1, len(cuts))
        counts = measured_counts(cut.removed)
        order = np.argsort(cut.scores, kind="stable")[: counts[-1]]
        errors = follow(order, counts, (), scores=cut.scores).errors
        losses = (0.0, *(_loss(traced, cut, order[:count], calibration) for count in counts)) if to_output else None
        curves[cut.name] = Curve(tuple(order.tolist()), (0, *counts), losses, (0.0, *errors))
    return curves


def _loss(
    traced: Trace, cut: Cut, removed: np.ndarray[tuple[int, ...], np.dtype[np.intp]], calibration: Calibration
) -> float:
    """Return the loss of the output on held-out batches where some experts are never picked."""
    names = traced.model.tensor_outputs
    mask = ~np.isin(np.arange(cut.groups[0].units), removed)
    dense, without = traced.model.proto, masked(traced, {group.atom: mask for group in cut.groups})
    folder = traced.model.folder
    before, after = (
        chain(each, folder) or open_session(message(each, folder), folder=folder) for each in (dense, without)
    )
    losses = []
    for number in calibration.judged:
        feeds = calibration.batches[number]
        one, other = ({name: session.run(feeds)[name] for name in names} for session in (before, after))
        losses.append(calibration.metric.loss(one, other, feeds))
    return float(np.mean(losses))
