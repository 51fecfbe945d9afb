"""Loss curves from gradients: which are measured all the same, and when gradients are the better buy.

A measured loss is a run from the group to the output: all of them cost the square of the depth. Gradients tell all
losses for one backward pass a sample (`calibration.weight_slopes`), to second order; a few losses, spread over the
depth and over small and large cuts, are measured to calibrate what they tell (`planning.curves.curve.scale_of`). Where
weights are so large that few sums of gradients are kept, chance decides what these tell, and no law mends that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.calibration.batches import Calibration
from onnxprune.calibration.weight_slopes import ENOUGH as ENOUGH_SUMS
from onnxprune.calibration.weight_slopes import WeightSlopes, chance, room, weight_slopes
from onnxprune.dependency.trace import Trace
from onnxprune.errors import ModelError, OptionError
from onnxprune.planning.curves.measured import MEASURED, Cut, consuming, measurable
from onnxprune.planning.curves.schedule import Measurable, Schedule, spread
from onnxprune.planning.options import Options
from onnxprune.planning.scoring import affordable_passes
from onnxprune.progress import Progress, silent
from onnxprune.training.extra import check_torch

CALIBRATED = 8  # losses that are measured beside gradients
ENOUGH = 2  # measured levels of every curve that leave nothing to gain
_LEVELS = (0.5, 0.8, 0.35)  # shares of the last level that are measured, in turns


def choose_source(
    traced: Trace,
    cuts: Sequence[Cut],
    calibration: Calibration,
    options: Options,
    planned: Schedule,
    *,
    levels: int = MEASURED,
    progress: Progress = silent,
) -> tuple[Schedule, WeightSlopes | None]:
    """Return which losses are measured, and the gradients that tell the others where they come from gradients.

    Args:
        traced: the model with its axes.
        cuts: what may be removed.
        calibration: samples and the metric.
        options: curves ("measured", "gradient" or "auto"), effort and seed.
        planned: what the effort allows to measure.
        levels: counts of a curve at most.
        progress: called before each step.

    Raises:
        OptionError: when gradients are asked for, and PyTorch is not installed.
        ModelError: when gradients are asked for, and the model has none.
    """
    each = measurable(traced, cuts, calibration, levels=levels)
    if options.curves == "measured" or not cuts or (options.curves == "auto" and is_enough(planned, each)):
        return planned, None
    names = consuming(traced.model, cuts)
    fit = room(traced.model, names)
    if options.curves == "auto" and fit < ENOUGH_SUMS:
        progress(
            f"loss curves are measured, as gradients are too large: there is room for {fit} of at least {ENOUGH_SUMS}, "
            f"and losses by them would be off by {chance(fit):.0%}"
        )
        return planned, None
    try:
        check_torch(f"--curves {options.curves}")
        slopes = weight_slopes(
            traced.model,
            names,
            calibration,
            passes=affordable_passes(traced, calibration, options),
            seed=options.seed,
            progress=progress,
        )
    except (ModelError, OptionError) as error:
        if options.curves == "gradient":
            raise
        progress(f"loss curves are measured, as there are no gradients: {error}")
        return planned, None
    if slopes.rows < ENOUGH_SUMS:
        off = f"losses are off by {chance(slopes.rows):.0%}"
        few = f"by gradients of {slopes.answers} answers, kept as {slopes.rows} sums, {off}"
        if options.curves == "auto":
            progress(f"loss curves are measured: {few}")
            return planned, None
        progress(f"{few}: with fewer than {ENOUGH_SUMS}, chance decides, and --curves measured tells better")
    return calibrating(each, len(calibration.judged)), slopes


def is_enough(planned: Schedule, curves: Mapping[str, Measurable]) -> bool:
    """Whether two levels of every curve are measured: more lower the loss of plans by hardly anything."""
    return all(len(planned.levels.get(name, ())) >= min(ENOUGH, each.levels) for name, each in curves.items())


def calibrating(curves: Mapping[str, Measurable], batches: int) -> Schedule:
    """Return the few losses that calibrate gradients: of curves spread over the depth, small and large cuts in turns.

    Args:
        curves: by name, in the order of the graph.
        batches: that are judged.
    """
    names = list(curves)
    places = np.unique(np.linspace(0, len(names) - 1, min(CALIBRATED, len(names))).round().astype(int))
    levels = {}
    for turn, place in enumerate(places):
        count = curves[names[place]].levels
        share = _LEVELS[turn % len(_LEVELS)]
        levels[names[place]] = (max(0, round(share * count) - 1),) if count > 1 else spread(count, 1)
    work = sum(curves[name].opened + batches * curves[name].run for name in levels)
    return Schedule(levels, batches, work, sum(each.levels for each in curves.values()))
