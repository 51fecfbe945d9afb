"""Loss curves of experts: how much the output suffers when some are never picked.

No weight consumes experts, which a layer sums over by weights that it makes for each row. So each level is the masked
model itself, in which the scores of removed experts are the worst that there are, run on the held-out batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.batches import Calibration
from onnxprune.criteria.elimination import follow
from onnxprune.dependency.groups import EXPERTS
from onnxprune.dependency.trace import Trace
from onnxprune.graph.files.message import message
from onnxprune.graph.tensors import Array
from onnxprune.planning.curves.curve import Curve
from onnxprune.planning.curves.measured import Cut, measured_counts
from onnxprune.progress import Progress, silent
from onnxprune.runtime.chain import chain
from onnxprune.runtime.session import open_session
from onnxprune.surgery.mask import masked


def is_of_experts(cut: Cut) -> bool:
    """Whether the units of a cut are experts."""
    return any(group.kind == EXPERTS for group in cut.groups)


def expert_curves(
    traced: Trace,
    cuts: Sequence[Cut],
    calibration: Calibration,
    *,
    to_output: bool,
    reached: Collection[str] = (),
    progress: Progress = silent,
) -> dict[str, Curve]:
    """Return the curve of each cut, by name; experts go in the order of their scores.

    Args:
        traced: the model with its axes.
        cuts: of experts.
        calibration: batches and the loss of an output.
        to_output: whether losses of the output are measured.
        reached: names of groups to whose experts rows are sent, as far as it is known. Others that show no loss at any
            count are taken for such that no row reaches: nothing was measured of these.
        progress: called before each step.

    Raises:
        ModelError: when ONNX Runtime cannot run the model.
    """
    before = list(_outputs(traced, traced.model.proto, calibration)) if to_output and cuts else []
    curves = {}
    for number, cut in enumerate(cuts):
        progress("measuring loss curves of experts", number + 1, len(cuts))
        counts = measured_counts(cut.removed)
        order = np.argsort(cut.scores, kind="stable")[: counts[-1]]
        errors = follow(order, counts, (), scores=cut.scores).errors
        after = (_loss(traced, cut, order[:count], calibration, before) for count in counts) if to_output else ()
        losses = (0.0, *after) if to_output else None
        if losses is not None and not any(losses) and not any(group.name in reached for group in cut.groups):
            losses = None
        curves[cut.name] = Curve(tuple(order.tolist()), (0, *counts), losses, (0.0, *errors))
    return curves


def _outputs(traced: Trace, proto: Any, calibration: Calibration) -> Iterator[dict[str, Array]]:
    """Yield the outputs of a form of the model on held-out batches."""
    folder, names = traced.model.folder, traced.model.tensor_outputs
    session = chain(proto, folder) or open_session(message(proto, folder), folder=folder)
    for number in calibration.judged:
        found = session.run(calibration.batches[number])
        yield {name: found[name] for name in names}


def _loss(
    traced: Trace,
    cut: Cut,
    removed: npt.NDArray[np.intp],
    calibration: Calibration,
    before: Sequence[Mapping[str, Array]],
) -> float:
    """Return the loss of the output on held-out batches, from that before, where some experts are never picked."""
    mask = ~np.isin(np.arange(cut.groups[0].units), removed)
    after = _outputs(traced, masked(traced, {group.atom: mask for group in cut.groups}), calibration)
    losses = [
        calibration.metric.loss(one, other, calibration.batches[number])
        for number, one, other in zip(calibration.judged, before, after, strict=True)
    ]
    return float(np.mean(losses))
