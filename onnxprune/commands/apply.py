"""`apply`: a plan and a model in, the model cut as the plan says out, recovered, proven and measured as by `prune`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxprune import check
from onnxprune.commands.applied import OPTIONS
from onnxprune.commands.prune import Result, prune_file, prune_model
from onnxprune.commands.records.recipe import recipe_of_call
from onnxprune.commands.steps.decide import as_planned
from onnxprune.commands.steps.job import make_learning
from onnxprune.commands.steps.prepare import PreparedModel, prepare
from onnxprune.errors import OptionError
from onnxprune.graph.files.read import Source
from onnxprune.graph.model import Model
from onnxprune.planning.options import make_options
from onnxprune.planning.plan import Plan
from onnxprune.planning.plan_file import AsPlan, CutPlan, read_plan
from onnxprune.progress import Progress, silent
from onnxprune.surgery.readings import Correction, Reading, corrections, readings
from onnxprune.surgery.rewrite import Cut


def apply(
    plan: AsPlan,
    source: Source,
    *,
    data: Any = None,
    tune: Any = None,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    force: bool = False,
    **options: Any,
) -> Result:
    """Return `source` cut as a plan says, verified.

    Args:
        plan: a file, plain values as such a file has them, or what `onnxprune.plan` returned.
        source: the model, as for `prune`: the one that the plan was made for, or another form of the same network, such
            as one in half precision or a quantized one.
        data: samples, as for `prune`.
        tune: as for `prune`.
        checkpoint: as for `prune`.
        resume: as for `prune`.
        force: as for `prune`.
        **options: criterion (which units stay where the plan has a count alone), reconstruct, sweeps, effort,
            batch_norm, eval_data, preprocess, samples, metric, inputs, provider, threads, batch, latency, seed,
            quantize, timer, timer_seconds: as for `prune`.

    Raises:
        InputError: for a plan, model, data or option that cannot be used, and a plan that does not fit the model.
        NothingToPrune: when the plan leaves all units where they are.
        VerificationError: when the pruned model does not equal the masked one.
    """
    for name in options:
        check.choice("option", name, OPTIONS)
    checked = make_options(**{**read_plan(plan).options(), **options})
    named = plan if isinstance(plan, (str, os.PathLike)) else None
    recipe = recipe_of_call("apply", source, {"plan": named or "(plan)", "data": data, "tune": tune, **options})
    learning = make_learning(tune, 1, None, data, checked)
    return prune_model(source, checked, data, learning, recipe, checkpoint=checkpoint, resume=resume, force=force)


def apply_file(
    plan: Path,
    source: Path,
    target: Path,
    options: Mapping[str, Any],
    data: Any = None,
    *,
    report_path: Path | None = None,
    tune: Any = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    force: bool,
    progress: Progress,
    on_written: Callable[[], object] = lambda: None,
    **rest: Any,
) -> Result:
    """Cut the file `source` as the file `plan` says, to the file `target`; the rest is as of `prune_file`.

    Raises:
        InputError, NothingToPrune, VerificationError: as `apply`; InputError also for files that must not or cannot be
            written.
    """
    checked = make_options(**{**read_plan(plan).options(), **options})
    return prune_file(
        source, target, checked, data, report_path=report_path, tune=tune, checkpoint=checkpoint, resume=resume,
        plan_path=plan, force=force, progress=progress, on_written=on_written, **rest,
    )  # fmt: skip


class PlannedCut:
    """What a plan cuts of a model, traced once, when it is first asked for.

    Each part raises OptionError for a plan that does not fit the model, takes branches out, or has counts without
    indices, and NothingToPrune when it leaves all units where they are.
    """

    def __init__(self, plan: CutPlan, model: Model) -> None:
        """Take a plan, and the model that it is for."""
        self._plan, self._model = plan, model

    @property
    def weights(self) -> Mapping[str, Cut]:
        """The weights that are cut, by their names in the result."""
        prepared, decided = self._decided
        return prepared.rewritten(decided).cuts

    @property
    def readings(self) -> list[Reading]:
        """What is left of weights for each place of the model that reads one."""
        prepared, decided = self._decided
        return readings(prepared.traced, prepared.masks(decided))

    @property
    def corrections(self) -> list[Correction]:
        """The nodes that go on dividing by as many units as there were, in the file that is made of the model."""
        prepared, decided = self._decided
        return corrections(prepared.traced, prepared.masks(decided))

    @cached_property
    def _decided(self) -> tuple[PreparedModel, Plan]:
        plan = self._plan
        if plan.branches:
            raise OptionError(f"plan: branch {plan.branches[0].name!r} goes as a whole: units alone are cut here")
        counted = [each for each in plan.groups if each.is_cut and each.kept is None]
        if counted:
            raise OptionError(f"plan: {counted[0]} has a count alone: list the indices that are kept")
        options = make_options(**plan.options(), criterion="l2", reconstruct=False)
        prepared = prepare(self._model, options, None, silent)
        return prepared, as_planned(prepared, silent).plan
