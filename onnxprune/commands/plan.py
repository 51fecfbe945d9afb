"""`plan`: what would be cut of a model, and what that is expected to cost, without a model that is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnxprune.algebra.threads import one_blas_thread
from onnxprune.commands.prune import bounded_source, with_lasting_samples
from onnxprune.commands.records.recipe import recipe_of_call
from onnxprune.commands.steps.cut import decided
from onnxprune.commands.steps.job import Job, Learning
from onnxprune.commands.steps.prepare import PreparedModel, prepare, sample_files
from onnxprune.commands.ways.shorten import Left, left_of, shortened_model
from onnxprune.commands.ways.weigh import weigh
from onnxprune.data.notes import NOWHERE
from onnxprune.dependency import cost
from onnxprune.dependency.branches import Branch
from onnxprune.errors import OptionError
from onnxprune.graph.files.publish import Reads, blamed_on_change, check_written
from onnxprune.graph.files.read import Source
from onnxprune.graph.model import Model
from onnxprune.graph.ports import cache_bytes
from onnxprune.planning.choice import first_sink
from onnxprune.planning.curves.curve import usual_slope
from onnxprune.planning.left import rest_of
from onnxprune.planning.options import Options, make_options
from onnxprune.planning.plan import Evidence, Plan, kept_masks, tied_groups
from onnxprune.planning.plan_file import CutPlan, PlannedBranch
from onnxprune.planning.planned import PlannedGroup, makers_of
from onnxprune.planning.promise import Decision
from onnxprune.progress import Progress, logged
from onnxprune.report.document import file_values
from onnxprune.surgery.rewrite import new_sizes

_NOT_PLANNED = {  # options that change a model otherwise than by leaving units and branches out
    "vocabulary": "the tokens that are kept",
    "tie": "weights that are stored once",
    "method": "what published methods change beside the cut",
    "linearize": "linear maps",
    "quantize": "eight bits",
}


def plan(source: Source, ratio: float | None = None, *, data: Any = None, **options: Any) -> CutPlan:
    """Return what `prune` would cut of `source`, and what that is expected to cost.

    Args:
        source: as for `prune`. It is not changed.
        ratio: as for `prune`.
        data: as for `prune`.
        **options: as for `prune`, without vocabulary, tie, method, linearize and quantize.

    Raises:
        InputError: for a model, data or option that cannot be used.
        NothingToPrune: when no group can lose a unit; says why.
    """
    checked = make_options(ratio=ratio, **options)
    recipe = recipe_of_call("plan", source, {"ratio": ratio, "data": data, **options})
    with bounded_source(source) as model:
        return planned(Job(model, checked, data, Learning()), logged, recipe)


def plan_file(
    source: Path,
    target: Path | None,
    options: Options,
    data: Any = None,
    *,
    force: bool,
    progress: Progress,
    recipe: Mapping[str, Any] = MappingProxyType({}),
) -> CutPlan:
    """Return the plan for a file, and write it as TOML; nothing is written without a `target`.

    Raises:
        InputError, NothingToPrune: as `plan`; InputError also for a file that must not or cannot be written.
    """
    options = options.checked()
    outputs, samples = [] if target is None else [(target, "the plan")], sample_files(data, options)
    check_written(outputs, Reads(source, data=samples), force)
    progress(f"reading {source}")
    with bounded_source(source) as model:
        check_written(outputs, Reads(source, tuple(model.data_files), samples), force)
        made = planned(Job(model, options, data, Learning()), progress, recipe)
    if target is not None:
        made.save(target, force)
    return made


@one_blas_thread()
def planned(job: Job, progress: Progress, recipe: Mapping[str, Any]) -> CutPlan:
    """Return the plan for a job, whose model is bounded in memory; `recipe` is what makes it again.

    Raises:
        InputError, NothingToPrune: as `plan`.
    """
    for name, what in _NOT_PLANNED.items():
        if getattr(job.options, name):
            raise OptionError(f"{name} has no place in a plan, which lists units and branches, not {what}: use prune")
    with blamed_on_change(job.model.stamps, job.model.path):
        job = with_lasting_samples(job)
        if not job.options.shortens:
            return _Whole(job.model, job.options, recipe).plan(*_decided(job, progress))
        return _shortened(job, recipe, progress)


def _shortened(job: Job, recipe: Mapping[str, Any], progress: Progress) -> CutPlan:
    """Return the plan of branches that go, and of what is cut of the rest."""
    prepared, made = prepare(job.model, job.options, job.data, progress), None
    if job.options.weighs_branches:
        weighed = weigh(prepared, progress, NOWHERE)
        if not weighed.chosen.choice.removed:
            return _Whole(job.model, job.options, recipe).plan(*_of(prepared, progress, weighed.evidence))
        made = weighed.chosen
    shorter = shortened_model(prepared, progress, made=made)
    left = left_of(prepared, shorter, progress)
    whole = _Whole(job.model, job.options, recipe, shorter.shortened.branches, left)
    rest = rest_of(job.options, left.costs) if job.options.cuts_widths else None
    if rest is None:
        return whole.plan(prepared, Decision(Plan({})))
    rest = replace(rest, depth=None, without=())
    return whole.plan(*_decided(replace(job, model=left.model, options=rest), progress))


def _decided(job: Job, progress: Progress) -> tuple[PreparedModel, Decision]:
    return _of(prepare(job.model, job.options, job.data, progress), progress)


def _of(
    prepared: PreparedModel, progress: Progress, evidence: Evidence | None = None
) -> tuple[PreparedModel, Decision]:
    """Return a model and what is cut of it.

    Raises:
        NothingToPrune: when nothing is; says why.
    """
    decision = decided(prepared, progress, evidence)
    prepared.masks(decision.plan)
    return prepared, decision


@dataclass(frozen=True)
class _Whole:
    """The model that a plan is for, and the branches that go first."""

    model: Model
    options: Options
    recipe: Mapping[str, Any]
    branches: tuple[Branch, ...] = ()
    left: Left | None = None  # what these leave

    def plan(self, prepared: PreparedModel, decision: Decision) -> CutPlan:
        """Return the plan that cuts what was decided of what is left."""
        traced, kept = prepared.traced, decision.plan.kept
        counter = cost.Counter(traced)
        sizes = new_sizes(kept_masks(prepared.groups, kept))
        kinds = ("params", "macs", "size", *([cost.CACHE] if cache_bytes(self.model.inputs) else []))
        costs = {kind: counter.fraction(kind, sizes) for kind in kinds}
        if decision.accepted is not None:
            costs |= decision.accepted.measured
        shares = {} if self.left is None else {kind: each.share for kind, each in self.left.costs.items()}
        expected = {kind: round(share * shares.get(kind, 1.0), 4) for kind, share in costs.items()}
        groups = [] if self.left is not None and not kept else _groups(prepared, decision.plan, counter)
        losses = _losses(prepared, decision.plan)
        if losses:
            expected["loss"] = _rounded(sum(losses.values()))
        before = cost.macs(traced) if self.left is None else self.left.costs["macs"].original
        return CutPlan(
            tuple(groups),
            tuple(PlannedBranch(each.name, each.macs, each.params) for each in self.branches),
            self.options.change_io,
            {name: value for name, value in file_values(self.model, int(before)).items() if name != "warnings"},
            expected,
            self.recipe,
        )


def _groups(prepared: PreparedModel, plan: Plan, counter: cost.Counter) -> list[PlannedGroup]:
    """Return the groups that may lose units, in the order of the graph."""
    losses, loss_of = _losses(prepared, plan), {}
    for first, names in tied_groups(prepared.groups, prepared.ratios, prepared.traced).items():
        if first in losses:
            loss_of[first] = _rounded(losses[first])
        loss_of |= {name: 0.0 for name in names if name != first and first in losses}  # lost with the first
    result = []
    for group in sorted(prepared.groups, key=first_sink):
        if group.name not in prepared.ratios:
            continue
        kept = plan.kept.get(group.name)
        keep = group.units if kept is None else len(kept)
        sizes = {group.atom: keep}
        saved = {kind: round(counter.count(kind, {}) - counter.count(kind, sizes)) for kind in ("macs", "params")}
        result.append(
            PlannedGroup(
                group.name, group.kind, group.units, keep, None if kept is None else tuple(map(int, kept)),
                makers_of(group), saved["macs"], saved["params"], loss_of.get(group.name),
            )
        )  # fmt: skip
    return result


def _losses(prepared: PreparedModel, plan: Plan) -> dict[str, float]:
    """Return what cuts cost the output by loss curves, by the first of the groups that lose the same units."""
    curves = {name: curve for name, curve in plan.curves.items() if curve.losses is not None and name in plan.kept}
    slope, units = usual_slope(plan.curves), {group.name: group.units for group in prepared.groups}
    return {name: curve.at([units[name] - len(plan.kept[name])], slope)[0] for name, curve in curves.items()}


def _rounded(loss: float) -> float:
    return float(f"{loss:.4g}")
