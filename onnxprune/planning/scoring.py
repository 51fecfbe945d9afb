"""Scoring: what a criterion says of the units of each group, from weights, activations or gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, TypeAlias

import numpy as np

from onnxprune.calibration.batches import Calibration
from onnxprune.calibration.experts import Used, used_experts
from onnxprune.calibration.gradients import Gradients, gradients
from onnxprune.calibration.statistics import activations
from onnxprune.criteria import importance
from onnxprune.dependency.groups import Group
from onnxprune.dependency.matrices import matrices
from onnxprune.dependency.trace import Trace
from onnxprune.graph.effective import ConstantValues
from onnxprune.planning.curves.effort import EFFORTS
from onnxprune.planning.options import Options
from onnxprune.planning.work import one_pass
from onnxprune.progress import Progress, silent
from onnxprune.runtime.executors import ALONE, Workers
from onnxprune.training.extra import check_torch

Tied: TypeAlias = "Mapping[str, Mapping[str, Group]]"  # first of the groups that lose the same units -> all, by name


@dataclass(frozen=True)
class Observed:
    """What samples tell a criterion."""

    activations: Mapping[str, Sequence[importance.Seen]] = field(default_factory=dict)  # by name of the group
    gradients: Gradients | None = None
    experts: Mapping[str, Used] = field(default_factory=dict)  # by name of the group

    @property
    def told(self) -> dict[str, Any] | None:
        """What gradients were looked at, as plain values; None where none were."""
        if self.gradients is None:
            return None
        answers = "drawn" if self.gradients.draws else "right ones"
        return {
            "samples": self.gradients.samples,
            "answers": answers,
            "draws": max(1, self.gradients.draws),
            "without": dict(self.gradients.why_none),
        }


NOTHING = Observed()


def look(
    traced: Trace,
    tied: Tied,
    calibration: Calibration | None,
    options: Options,
    *,
    progress: Progress = silent,
    workers: Workers = ALONE,
) -> Observed:
    """Return what the criterion of the options has to see of samples.

    Args:
        traced: the model with its axes.
        tied: the groups to score.
        calibration: samples; None where the criterion looks at weights alone.
        options: criterion, effort and seed, resolved.
        progress: called before each step.
        workers: where activations are looked at.

    Raises:
        OptionError: when gradients are needed, and PyTorch is not installed.
        ModelError: when gradients are needed, and an operator has none.
    """
    criterion = importance.CRITERIA[str(options.criterion)]
    if calibration is None or not criterion.data:
        return NOTHING
    groups = [group for names in tied.values() for group in names.values()]
    experts = used_experts(traced, groups, calibration.batches, progress=progress)
    if options.criterion == "obs":
        return Observed(experts=experts)
    if criterion.by_gradients is None:
        seen_groups = [group for group in groups if group.name not in experts]
        seen = activations(traced, seen_groups, calibration.batches, progress=progress, workers=workers)
        return Observed(seen, experts=experts)
    check_torch(f"--criterion {options.criterion}")
    by_slopes = gradients(
        traced,
        groups,
        calibration,
        of_weights=options.criterion == "taylor-weights",
        of_elements=options.criterion == "taylor-elements",
        passes=affordable_passes(traced, calibration, options),
        seed=options.seed,
        progress=progress,
    )
    for reason in dict.fromkeys(by_slopes.why_none.values()):
        names = [name for name, why in by_slopes.why_none.items() if why == reason]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        progress(f"{names[0]}{more}: scored by the L2 norm of weights, as {reason}")
    return Observed(gradients=by_slopes, experts=experts)


def _of_experts(used: Used, options: Options) -> importance.Scores:
    """Return the scores of experts: by load where a criterion counts how often units are active, else by output."""
    return used.load if options.criterion == "apoz" else used.output


def affordable_passes(traced: Trace, calibration: Calibration, options: Options) -> float:
    """Return how many passes over all samples the effort of the options allows."""
    once = one_pass(traced, calibration.batches)
    budget = EFFORTS[options.effort].spent_on_curves(once, calibration.source == "data")
    return float("inf") if budget is None else budget / max(1.0, once)


def scores_of(traced: Trace, tied: Tied, options: Options, seen: Observed = NOTHING) -> dict[str, importance.Scores]:
    """Return the scores of each set of groups that lose the same units, by the criterion; none for some.

    Where a criterion looks at gradients and some group has none, the L2 norms of its weights count times the usual
    score of a unit.
    """
    rng, values = np.random.default_rng(options.seed), ConstantValues(traced.model)
    criterion = "l2" if options.criterion == "obs" else str(options.criterion)  # obs ranks units while curves are made
    slopes = {} if seen.gradients is None else seen.gradients.slopes
    scores, without = {}, []
    for first, names in tied.items():
        known = [slopes[name] for name in names if name in slopes]
        if known:
            group = next(iter(names.values()))
            score = importance.score(criterion, matrices(group, traced, values), rng, slopes=reduce(add, known))
            group_scores = [score]
        else:
            without.append(first)
            group_scores = [
                _of_experts(seen.experts[name], options)
                if name in seen.experts
                else importance.score(criterion, matrices(group, traced, values), rng, seen.activations.get(name, ()))
                for name, group in names.items()
            ]
        scored = [score for score in group_scores if score is not None]
        if scored:
            scores[first] = np.mean(scored, axis=0)
    usual = [float(each.mean()) for first, each in scores.items() if first not in without]
    for first in [name for name in without if name in scores] if usual else ():
        scores[first] = scores[first] * float(np.median(usual))
    return scores
