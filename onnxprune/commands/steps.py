"""The steps of `prune`, each a function from values to values."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune.calibration.batches import Calibration, calibration
from onnxprune.commands.files import sample_files
from onnxprune.data import generated
from onnxprune.data.samples import Data, limit, load_data, shares_samples, split, with_shapes
from onnxprune.dependency import cost
from onnxprune.dependency.account import accounts, unreached
from onnxprune.dependency.axes import Atom, Mask
from onnxprune.dependency.groups import Group, groups, weights
from onnxprune.dependency.trace import Trace, trace
from onnxprune.errors import DataError, InputError, ModelError, NothingToPrune, OptionError, UnreachableTarget
from onnxprune.evaluation import blame, verify
from onnxprune.evaluation.compare import compare_models
from onnxprune.evaluation.comparison import Comparison
from onnxprune.evaluation.place import timed_feeds
from onnxprune.graph.edit import with_contents
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port
from onnxprune.graph.publish import Reads, check_files, resolved, staging, stamps
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view
from onnxprune.graph.write import data_file, staged
from onnxprune.planning.choice import all_reasons, choose, first_sink, nothing, reasons_for
from onnxprune.planning.options import Options
from onnxprune.planning.plan import UNKNOWN, UNREACHABLE, Evidence, Machine, Plan, kept_masks, plan, usual_step
from onnxprune.planning.profile import Speed, memory_predictor, profiled
from onnxprune.planning.promise import Decided, settle
from onnxprune.planning.targets import Target
from onnxprune.progress import Progress
from onnxprune.recovery.refit import Refitted, refit
from onnxprune.recovery.unfitted import unfitted
from onnxprune.report.document import build_report
from onnxprune.surgery import mask, rewrite

_LATENCY_BUDGET_S = 3.0
_CALIBRATED = 0.75  # of the samples at most, where the same source is evaluated on
_GENERATED, _FEWEST = 128, 16  # samples that are generated where none are given
_PASS_MACS = 2 * 10**11  # of one pass over generated samples, more or less
_NO_BUDGET_S = 0.001  # where latency is not asked for, but outputs are compared


@dataclass(frozen=True)
class Result:
    """A pruned and verified model."""

    model: Any  # onnx.ModelProto
    report: dict[str, Any]  # see docs/report.md
    folder: Path  # where external data of the model lies
    external: bool  # whether weights go to a file beside the model, as they did in the source
    reads: Reads  # the files that it was made from: none of them is overwritten by accident
    stamps: Mapping[Path, Any]  # of the files that hold its external data, as they were read

    def save(self, path: str | os.PathLike[str], force: bool = False) -> Path:
        """Write the model, atomically; return the path.

        Raises:
            InputError: when the file exists and `force` is not set, holds what the model was made from, or its folder
                cannot be written; and when external data has changed since it was read.
        """
        target = Path(path)
        check_files(target, data_file(resolved(target)), None, self.reads, force)
        if stamps(path for path in self.stamps if path.exists()) != self.stamps:
            raise InputError(
                f"{self.folder}: the weights of the input have changed since they were read; prune it again"
            )
        with staging(force) as files, staged(self.model, target, self.folder, self.external, files):
            return target


Finish: TypeAlias = Callable[[dict[str, Any]], object]  # completes the report, before the model is moved into place
Publish: TypeAlias = Callable[[Any, Path], "contextlib.AbstractContextManager[tuple[Path, Finish]]"]


@dataclass(frozen=True)
class Prepared:
    """A model that can be planned for: what does not depend on how much is to go."""

    traced: Trace
    found: Sequence[Group]
    chosen: Mapping[str, float]  # ratio by name of the groups that are to be pruned
    options: Options  # resolved
    calibrated: Calibration | None
    why_not_any: str | None  # why no samples could be generated to calibrate on
    sampled: Data | None  # what is calibrated and verified on
    evaluated: Data | None  # what is compared on
    ports: Sequence[Port]  # the inputs, with the shapes that the options fix
    reads: Reads
    stamped: Mapping[Path, Any]

    def asked(self, options: Options) -> Prepared:
        """Return the same with other ratios or targets."""
        options = options.resolved(self.calibrated is not None)
        return replace(self, options=options, chosen=choose(self.found, options))

    def masks(self, planned: Plan) -> dict[Atom, Mask]:
        """Return what a plan keeps.

        Raises:
            NothingToPrune: when that is everything; says why.
        """
        if not planned.kept:
            left = unreached(self.traced, all_reasons(self.found), weights(self.traced))
            raise NothingToPrune(nothing(self.found, self.chosen, self.options, left))
        return kept_masks(self.found, planned.kept)


def prepare(model: Model, options: Options, given: Any, progress: Progress) -> Prepared:
    """Return a model with its groups and what it is calibrated on.

    Raises:
        InputError: as `prune`.
    """
    options.check_effects(given is not None)
    stamped = stamps(model.data_files)
    sampled, evaluated = _samples(model, options, given)
    ports = with_shapes(model.inputs, dict(options.inputs))
    progress(f"tracing {len(model.nodes)} nodes")
    traced = trace(model)
    found = groups(traced)
    chosen = choose(found, options)
    calibrated, why_not_any = _calibrated(traced, options, sampled, ports, progress)
    options = options.resolved(calibrated is not None)
    reads = Reads(model.path, tuple(model.data_files), sample_files(given, options))
    return Prepared(
        traced, found, chosen, options, calibrated, why_not_any, sampled, evaluated, ports, reads, stamped
    )  # fmt: skip


def measured(ready: Prepared, progress: Progress) -> Speed | None:
    """Return what the model takes on this machine, None where no plan depends on it.

    Raises:
        ModelError, DataError: when it cannot be run.
    """
    options, traced = ready.options, ready.traced
    if not options.is_measured:
        return None
    if not ready.chosen:
        ready.masks(Plan({}))  # says why nothing can be pruned, before anything is timed
    chosen = [group for group in ready.found if group.name in ready.chosen]
    shapes = dict(options.inputs)
    feeds = timed_feeds(traced.model, ready.evaluated, batch=options.batch, seed=options.seed, shapes=shapes)
    return profiled(
        traced,
        chosen,
        feeds,
        provider=options.provider,
        threads=options.threads,
        usual={group.atom: usual_step(group, options) for group in chosen},
        find_steps=options.finds_steps,
        fit=options.finds_steps or any(one.kind == "latency" for one in options.bounds),
        seconds=options.profile_seconds,
        seed=options.seed,
        progress=progress,
    )


def decide(ready: Prepared, evidence: Evidence, speed: Speed | None, progress: Progress) -> Decided:
    """Return the plan that meets the targets, as measured where that is possible.

    Raises:
        OptionError: when a target cannot be met.
        NothingToPrune: when the model meets all of them already, or no plan makes it faster.
    """
    traced, found, options = ready.traced, ready.found, ready.options
    originals = _originals(traced, speed, options)
    bounds = tuple((one, one.fraction(originals.get(one.kind, 1.0))) for one in options.bounds)
    if bounds and all(fraction >= 1 for _, fraction in bounds):
        raise NothingToPrune(f"nothing has to go: the model meets {', '.join(str(one) for one, _ in bounds)} already")
    fractions = tuple((one.kind, fraction) for one, fraction in bounds)

    def plan_for(machine: Machine) -> Plan:
        try:
            return plan(
                traced, found, ready.chosen, options,
                calibration=ready.calibrated, evidence=evidence, machine=machine, bounds=fractions,
            )  # fmt: skip
        except UnreachableTarget as error:
            told = [f"{one} (at best {_amount(one, error.best[one.kind], originals)})" for one, _ in bounds]
            raise UnreachableTarget(f"target {', '.join(told)} {UNREACHABLE}", error.best) from None

    if speed is None:
        return Decided(plan_for(UNKNOWN), bounds)
    predict: dict[str, Callable[[Mapping[Atom, int]], float]] = {}
    if speed.predict is not None:
        predict["latency"] = speed.fraction
    if any(one.kind == "memory" for one in options.bounds):
        predict["memory"] = memory_predictor(traced, speed.feeds).fraction
    best, tried = settle(
        plan_for,
        ready.masks,
        lambda masks: rewrite.rewrite(traced, masks),
        fractions,
        speed=speed,
        predict=predict,
        progress=progress,
    )
    steps = {group.name: best.steps[group.atom] for group in found if group.atom in best.steps}
    shown = steps if options.finds_steps else {}
    return Decided(best.plan, bounds, tried, best, shown, speed.complete, speed.unknown)


def _amount(target: Target, fraction: float, originals: Mapping[str, float]) -> str:
    """Return what can be reached, in the unit in which it was asked for."""
    if target.is_fraction:
        return f"{fraction:.3f}"
    return f"{fraction * originals[target.kind] / replace(target, value=1.0).amount:.4g}{target.unit}"


def _originals(traced: Trace, speed: Speed | None, options: Options) -> dict[str, float]:
    """Return what the original takes, by kind of target."""
    kinds = {one.kind for one in options.bounds}
    if not kinds:
        return {}
    counter, found = cost.Counter(traced), {}
    if speed is not None and "latency" in kinds:
        found["latency"] = speed.before_ms
    if speed is not None and "memory" in kinds:
        memory = speed.memory_before()
        if memory is None:
            raise OptionError("target memory needs the CPU provider, on a system where memory can be measured")
        found["memory"] = float(memory)
    return {**counter.before, **found}


Repairs: TypeAlias = tuple[dict[str, Array], list[Refitted]]  # new contents of constants; what became of each layer


def repaired(ready: Prepared, planned: Plan, rewritten: rewrite.Rewritten, progress: Progress) -> Repairs:
    """Return what gives the layers of the pruned model back what they computed, where there is anything to fit to."""
    options = ready.options
    if ready.calibrated is None or not (options.reconstruct or options.batch_norm):
        return {}, []
    pruned = view(rewritten.proto, folder=ready.traced.model.folder)
    which = {"linear": bool(options.reconstruct), "batch_norm": options.batch_norm}
    contents, fits = refit(
        ready.traced,
        kept_masks(ready.found, planned.kept),
        pruned,
        ready.calibrated.batches,
        cuts=rewritten.cuts,
        seed=options.seed,
        sweeps=options.sweeps or 1,
        progress=progress,
        **which,
    )
    cut = [group for group in ready.found if group.name in planned.kept]
    return contents, [*fits, *unfitted(ready.traced.model, cut, pruned, **which)]


def finish(
    ready: Prepared,
    decided: Decided,
    rewritten: rewrite.Rewritten,
    *,
    repairs: Repairs,
    progress: Progress,
    publish: Publish,
) -> Result:
    """Return the pruned model, repaired, verified, measured, published.

    Raises:
        VerificationError: when it does not equal the masked one; nothing is published then.
    """
    model, traced, options = ready.traced.model, ready.traced, ready.options
    planned, seed = decided.plan, options.seed
    masks = ready.masks(planned)
    contents, fits = repairs
    fitted = mask.in_original(model, rewritten.cuts, contents)
    proto = with_contents(view(rewritten.proto, folder=model.folder), contents) if contents else rewritten.proto
    with publish(proto, model.folder) as (path, complete):
        progress("verifying: masked = pruned")
        after = verify.read_back(path)
        verification = verify.verify(traced, masks, after, ready.sampled, seed, inputs=ready.ports, fitted=fitted)
        if not verification.passed:
            broken = blame.blame(traced, masks, ready.found, ready.sampled, seed, inputs=ready.ports)
            raise blame.failure(verification, broken)
        comparison = _measure(model, after, options, ready.evaluated, progress)
        reasons = reasons_for(ready.found, ready.chosen, options, planned.kept)
        ordered = sorted(ready.found, key=first_sink)
        report = build_report(
            before=model,
            after=after,
            macs=(cost.macs(traced), cost.macs(traced, rewrite.new_sizes(masks))),
            options=options,
            groups=[(group, planned.kept.get(group.name), reasons.get(group.name)) for group in ordered],
            accounts=accounts(traced, ready.found, reasons),
            cuts=rewritten.cuts,
            verification=verification,
            comparison=comparison,
            calibration=ready.calibrated or ready.why_not_any,
            curves=planned.curves,
            fits=fits,
            held_out=not _seen(ready.sampled, ready.evaluated, options),
            promise=decided.told,
        )
        complete(report)
    return Result(proto, report, model.folder, model.is_external, ready.reads, ready.stamped)


def loss_metric(data: Data, options: Options) -> str | None:
    """Return whose loss is minimised: a function of the user need not be smooth, and labels mean classes."""
    asked = None if options.metric is None or ":" in options.metric else options.metric
    return "classification" if asked is None and data.labels is not None else asked


def _calibrated(
    traced: Trace, options: Options, sampled: Data | None, ports: Sequence[Port], progress: Progress
) -> tuple[Calibration | None, str | None]:
    """Return what to calibrate on: the samples that were given, or generated ones where the options look at any.

    The second is why none could be generated, where they would be by default.

    Raises:
        OptionError: when an option asks for samples, none are given, and none can be made.
    """
    if sampled is not None:
        return calibration(traced.model, sampled, loss_metric(sampled, options)), None
    if not options.looks_at_samples:
        return None, None
    progress("generating samples to calibrate on")
    macs = cost.macs(traced)
    count = max(_FEWEST, min(_GENERATED, _PASS_MACS // max(1, macs)))
    try:
        made = generated.inputs(traced.model, count, seed=options.seed, ports=ports, macs=macs)
        return calibration(traced.model, made.data, None, source="generated", told=made.told), None
    except (DataError, ModelError) as error:
        if options.criterion is None and options.scope != "loss" and not options.reconstruct:
            return None, str(error)
        raise OptionError(f"no samples are given with --data, and none can be generated: {error}") from None


def _samples(model: Model, options: Options, given: Any) -> tuple[Data | None, Data | None]:
    """Return what to calibrate on and what to evaluate on: other samples, unless there is but one."""
    evaluated = None
    if options.eval_data is not None:
        evaluated = load_data(options.eval_data, model.inputs, preprocess=options.preprocess)
    if given is None:
        return None, evaluated
    data = load_data(given, model.inputs, preprocess=options.preprocess)
    if evaluated is not None:
        return limit(data, options.most_samples(data.count), options.seed), evaluated
    share = min(_CALIBRATED, options.most_samples(data.count) / data.count)
    used, rest = split(data, share, options.seed)
    return used, rest if rest.count else used


def _seen(sampled: Data | None, evaluated: Data | None, options: Options) -> bool:
    """Return whether samples are evaluated that calibration saw; two parts of one source are disjoint."""
    if sampled is None or evaluated is None:
        return False
    return evaluated is sampled or (options.eval_data is not None and shares_samples(sampled, evaluated))


def _measure(model: Model, after: Model, options: Options, data: Data | None, progress: Progress) -> Comparison | None:
    """Time both models and, with labels, count right answers; None where nothing is asked for."""
    if not options.latency and data is None:
        return None
    progress(f"measuring latency on {options.provider}" if options.latency else "comparing outputs")
    return compare_models(
        model,
        after,
        data=data,
        provider=options.provider,
        threads=options.threads,
        batch=options.batch,
        budget_s=_LATENCY_BUDGET_S if options.latency else _NO_BUDGET_S,
        seed=options.seed,
        memory=False,
        detail=False,
        shapes=dict(options.inputs),
        metric=None if data is None else options.metric,
    )
