"""Step of `prune` with learned masks: gates and weights are trained under a budget, then what is shut is cut."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.commands.rounds.folder import Keeper
from onnxprune.commands.rounds.tune_pruned import Tuning, improver
from onnxprune.commands.steps.decide import decide
from onnxprune.commands.steps.finish import Publish, finish, with_report
from onnxprune.commands.steps.int8 import Int8, chosen_where_asked, written_in
from onnxprune.commands.steps.job import Job
from onnxprune.commands.steps.learn import lesson_values, stored
from onnxprune.commands.steps.prepare import PreparedModel, prepare
from onnxprune.commands.steps.recover import recover
from onnxprune.dependency.axes import Atom
from onnxprune.dependency.cost import Counter
from onnxprune.errors import OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.view import view
from onnxprune.planning.choice import shaped_counts
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Evidence, tied_groups
from onnxprune.planning.promise import Decision
from onnxprune.planning.targets import MEASURED
from onnxprune.progress import Progress, silent
from onnxprune.report.document import file_values
from onnxprune.training.settings import TuneOptions

if TYPE_CHECKING:
    from onnxprune.training.sparse.gates import Budget
    from onnxprune.training.sparse.mask_learner import Gated

CRITERION = "masks"  # what the report calls it


def by_masks(
    job: Job, keeper: Keeper, publish: Publish, progress: Progress, given: Int8 | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the model that learned masks leave, an onnx.ModelProto, and its report, when both are published.

    Gates and weights learn from the original, where the model was made of another one.

    Args:
        job: what to do.
        keeper: has what is learned by now.
        publish: writes the model.
        progress: called before each step.
        given: the form of eight bits, where it was chosen for another model that this one is made of.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`.
    """
    options = options_of_masks(job.options)
    prepared = prepare(job.model, options, job.data, progress, tunes=True)
    with chosen_where_asked(prepared, progress) if given is None else contextlib.nullcontext(given) as int8:
        return _by_masks(job, prepared, keeper, publish, progress, int8)


def _by_masks(  # noqa: PLR0917 - as they follow from one another
    job: Job, prepared: PreparedModel, keeper: Keeper, publish: Publish, progress: Progress, int8: Int8 | None
) -> tuple[Any, dict[str, Any]]:
    """Return the same of a model that is prepared; it is written in eight bits where their form is given."""
    masks, model = job.learning.masks, prepared.traced.model
    assert masks is not None
    original = job.original or model
    learned, decision, values = _learned(prepared, original, masks, keeper, progress, int8)
    options = options_of_masks(job.options)
    cut = replace(prepare(learned, options, job.data, progress, tunes=True), file_name=job.name)
    rewritten = cut.rewritten(decision.plan)
    recovery = recover(cut, decision.plan, rewritten, progress, keeper.notes().of("masks"))
    improve, tuning = None, job.learning.tuning
    if tuning is not None:
        how = Tuning(tuning, original, checkpoint=keeper.tuning(), resume=keeper.resume)
        improve = improver(cut, how, progress)

    def finished(decision: Decision, publish: Publish) -> tuple[Any, dict[str, Any]]:
        return finish(
            cut, decision, rewritten, recovery=recovery, progress=progress, publish=publish, improve=improve,
            original=original, timed=job.timed,
        )  # fmt: skip

    publish = partial(with_report, publish, partial(_of_original, model, values))
    others = original, job.timed
    return written_in(int8, cut, decision, finished, publish=publish, others=others, progress=progress)


def options_of_masks(options: Options) -> Options:
    """Return options under which gates decide: units are ranked over all groups, and what was learned stays.

    Raises:
        OptionError: where there is no budget that gates can keep to, or something else ranks the units.
    """
    kinds = [target.kind for target in options.bounds]
    if not kinds and not options.shape:
        raise OptionError("masks needs a budget: give a target of macs, params or size, or a shape")
    measured = [kind for kind in kinds if kind in MEASURED]
    if measured:
        raise OptionError(
            f"masks cannot learn under a target of {measured[0]}, which is measured and no sum over units: give macs, "
            "params, size or a shape"
        )
    for name in ("criterion", "scope"):
        if getattr(options, name) is not None:
            raise OptionError(f"{name} has no effect with masks: units are ranked by their gates")
    return replace(options, criterion="l2", scope="global", reconstruct=bool(options.reconstruct), batch_norm=False)


def _learned(  # noqa: PLR0917 - as they follow from one another
    prepared: PreparedModel,
    original: Model,
    options: TuneOptions,
    keeper: Keeper,
    progress: Progress,
    int8: Int8 | None,
) -> tuple[Model, Decision, dict[str, Any]]:
    """Return the model with weights that go without what is shut, the plan of that, and what the report says."""
    from onnxprune.training.network.writing import contents_of  # noqa: PLC0415
    from onnxprune.training.sparse.mask_learner import folded, gated_of, learned_masks  # noqa: PLC0415
    from onnxprune.training.tuning.lesson import lesson_of  # noqa: PLC0415 - needs PyTorch
    from onnxprune.training.tuning.saving import Saving, run_of  # noqa: PLC0415

    model, data = prepared.traced.model, prepared.tuning_data
    assert data is not None
    progress("holding the network against ONNX Runtime")
    lesson = lesson_of(model, original, data, options)
    tied = tied_groups(prepared.groups, prepared.ratios, prepared.traced)
    groups = gated_of(lesson, {first: list(names.values()) for first, names in tied.items()})
    even = {first: np.zeros(count) for first, count in groups.counts.items()}
    deployed = None if int8 is None else int8.deployed(model)
    decide(prepared, Evidence(even, {}), None, silent, deployed)  # says now what cannot be reached
    saving = None
    if keeper.masks is not None:
        run = run_of(model, original, data, options, lesson.places)
        saving = Saving(keeper.masks, run, keeper.resume and keeper.masks.exists())
    counted = prepared.options if int8 is None else int8.in_float32(prepared.options)
    budget = _budget(replace(prepared, options=counted), groups)
    masks = learned_masks(lesson, groups, budget, options, saving=saving, progress=progress)
    decision = decide(
        prepared, Evidence({name: each.astype(np.float64) for name, each in masks.scores.items()}, {}), None, progress,
        deployed,
    )  # fmt: skip
    contents = contents_of(model, folded(groups, masks, decision.plan.kept, lesson))
    learned = view(stored(model, contents), folder=model.folder)
    values = {
        "options": options.to_dict(),
        "lesson": lesson_values(lesson, options),
        "gates": sum(groups.counts.values()),
        "without": sorted(set(tied) - set(groups.counts)),
        **masks.to_dict(),
    }
    return learned, decision, values


@dataclass(frozen=True)
class _Costs:
    """A cost of plans as gates see it: of counts that need not be whole."""

    counter: Counter
    alike: Mapping[str, Sequence[Atom]]  # atoms that lose the same units
    kind: str

    def __call__(self, kept: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """Return the fraction of the original, and how it grows with each count."""
        value = self._of(kept)
        return value, {name: value - self._of({**kept, name: max(0.0, count - 1)}) for name, count in kept.items()}

    def _of(self, kept: Mapping[str, float]) -> float:
        sizes: Any = {atom: count for name, count in kept.items() for atom in self.alike[name]}
        return self.counter.fraction(self.kind, sizes)


def _budget(prepared: PreparedModel, groups: Gated) -> Budget:
    """Return what the gates are to keep to."""
    from onnxprune.training.sparse.gates import Budgets, CostBudget, ShapeBudget  # noqa: PLC0415 - needs PyTorch

    counter, atoms = Counter(prepared.traced), {group.name: group.atom for group in prepared.groups}
    alike: dict[str, list[Atom]] = {}
    for name, first in groups.first.items():
        alike.setdefault(first, []).append(atoms[name])
    parts: list[Budget] = []
    for target in prepared.options.bounds:
        goal = target.fraction(counter.before.get(target.kind, 1.0))
        parts.append(CostBudget(_Costs(counter, alike, target.kind), goal))
    shaped = shaped_counts(prepared.groups, prepared.options)
    counts = _gated_counts(shaped, groups, {group.name: group.units for group in prepared.groups})
    if counts:
        parts.append(ShapeBudget(groups.counts, counts))
    if not parts:
        raise OptionError("masks has no effect: the shape leaves every group whole that has gates")
    return parts[0] if len(parts) == 1 else Budgets(parts)


def _gated_counts(shaped: Mapping[str, int], groups: Gated, units: Mapping[str, int]) -> dict[str, int]:
    """Return what a shape leaves of groups that have gates, by the first of those that lose the same units.

    Raises:
        OptionError: where a group without gates is to lose units.
    """
    counts: dict[str, int] = {}
    for name, count in shaped.items():
        first = groups.first.get(name)
        if first is not None:
            counts[first] = min(count, counts.get(first, count))
        elif count < units[name]:
            raise OptionError(
                f"masks cannot learn which {count} of {units[name]} units of group {name!r} stay: no weight that is "
                "trained reads them; freeze less, or leave the group out of the shape"
            )
    return counts


def _of_original(original: Model, values: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Let a report tell of the original, and of what was learned."""
    report["input"] = file_values(original, report["input"]["macs"])
    report["options"] |= {"criterion": CRITERION}
    report["masks"] = dict(values)
