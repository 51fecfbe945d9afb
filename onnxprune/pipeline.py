"""The pipeline: what `prune`, `inspect` and `compare` do, as lists of steps.

``load -> trace -> groups -> calibrate -> (profile) -> plan -> (race) -> rewrite -> refit -> verify -> compare``, each a
function from values to values. The command line and export scripts call the same functions.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune import check, cost, generated, rewrite, verify
from onnxprune.account import Account, accounts, unreached
from onnxprune.axes import Atom, Mask
from onnxprune.calibrate import Calibration, calibration
from onnxprune.charts import as_html, as_svg, comparison_html, comparison_svg
from onnxprune.choice import all_reasons, choose, first_sink, nothing, reasons_for, why_not
from onnxprune.data import Data, files_of, limit, load_data, shares_samples, split, with_shapes
from onnxprune.errors import DataError, InputError, ModelError, NothingToPrune, OptionError, UnreachableTarget
from onnxprune.executors import ALONE, Workers
from onnxprune.executors import given as workers_of
from onnxprune.groups import Group, carriers, groups, weights
from onnxprune.measure import Comparison, compare_models, timed_feeds
from onnxprune.model import Array, Model, Port, Source, data_file, load, staged, view, with_contents, write
from onnxprune.options import AUTO, Options, make_options
from onnxprune.planning import UNKNOWN, UNREACHABLE, Evidence, Machine, Plan, gather, kept_masks, plan, usual_step
from onnxprune.plot import as_png, drawing_packages
from onnxprune.profile import Speed, memory_predictor, profiled
from onnxprune.progress import Progress, silent
from onnxprune.promise import Decided, settle
from onnxprune.publish import Reads, check_files, check_written, resolved, staging, stamps
from onnxprune.refit import Refitted, refit
from onnxprune.report import build_report
from onnxprune.sensitive import LEVELS, Sensitivity, measure
from onnxprune.targets import Target
from onnxprune.trace import Trace, trace
from onnxprune.unfitted import unfitted

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


@dataclass(frozen=True)
class Inspection:
    """What can be pruned in a model, what cannot, and why."""

    model: Model
    groups: tuple[Group, ...]
    macs: int  # of one sample
    group_macs: Mapping[str, int]  # by group name: multiply-accumulates that its units take part in
    locked_params: int  # weights that no prunable group can shrink
    unreached: Mapping[str, tuple[str, ...]]  # reason -> names of weights that no prunable group carries
    accounts: tuple[Account, ...]  # of every node with weights

    @property
    def locks(self) -> dict[str, list[Group]]:
        """Groups that cannot be cut, by reason."""
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            reason = why_not(group)
            if reason is not None:
                found.setdefault(reason, []).append(group)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        listed = [
            {
                "name": group.name,
                "kind": group.kind,
                "units": group.units,
                "params": group.params,
                "macs": self.group_macs[group.name],
                "exact": group.exact,
                "locked": why_not(group),
                "nodes": list(group.nodes),
                "initializers": list(dict.fromkeys(member.constant for member in group.members)),
            }
            for group in self.groups
        ]
        return {
            "input": {"path": str(self.model.path) if self.model.path else None, "sha256": self.model.sha256()},
            "params": self.model.params,
            "macs": self.macs,
            "locked_params": self.locked_params,
            "groups": listed,
            "unreached": {reason: list(names) for reason, names in self.unreached.items()},
            "nodes": [account.to_dict() for account in self.accounts],
        }


# -- the three commands ----------------------------------------------------------------------------------


def prune(source: Source, ratio: float | None = None, *, data: Any = None, **options: Any) -> Result:
    """Return `source` without the least important `ratio` of its units, verified.

    Args:
        source: a path, an onnx.ModelProto, the program of ``torch.onnx.export(dynamo=True)``, or an
            onnx_graphsurgeon.Graph. It is not changed.
        ratio: the share of the units of each group to remove, in [0, 1); 0.3 unless `targets` are given.
        data: samples, which the models are then compared on: the path of an .npz with one array per input (first axis
            samples), of a folder, ``module:function``, arrays, or an iterable of feeds; see `data.load_data`. With
            ``labels``, accuracy is reported.
        **options: the fields of `Options`: targets (a dict such as {"latency": 0.6, "size": "20MB"}), criterion, scope,
            round_to, min_units, ignore, only, width, ratios (a dict glob -> ratio), provider, threads, batch,
            profile_seconds, latency, seed, inputs (a dict name -> shape), eval_data, preprocess, samples, metric.

    Raises:
        InputError: for a model, data or option that cannot be used.
        NothingToPrune: when no group can lose a unit; says why.
        VerificationError: when the pruned model does not equal the masked one.
    """
    chosen = make_options(ratio=ratio, **options)
    model = load(source)
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
        path = Path(scratch) / "pruned.onnx"

        @contextlib.contextmanager
        def publish(proto: Any, folder: Path) -> Iterator[tuple[Path, Finish]]:
            write(proto, path, folder, model.is_external)
            yield path, lambda report: report["output"].update(path=None)

        return _prune(model, chosen, data, silent, publish)


def prune_file(
    source: Path,
    target: Path,
    options: Options,
    data: Any = None,
    *,
    report_path: Path | None = None,
    force: bool,
    progress: Progress,
    on_written: Callable[[], object] = lambda: None,
) -> Result:
    """Prune the file `source` to the file `target`; nothing is written unless the result is verified.

    `on_written` is called when all files are in place: what fails later fails with them written.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`; InputError also when `target` or `report_path`
            exists without `force`, is another file of this run, or lies in a folder that cannot be written.
    """
    options = options.checked()
    weights, samples = data_file(resolved(target)), _sample_files(data, options)
    check_files(target, weights, report_path, Reads(source, data=samples), force)
    progress(f"reading {source}")
    model = load(source)
    check_files(target, weights, report_path, Reads(source, tuple(model.data_files), samples), force)

    @contextlib.contextmanager
    def publish(proto: Any, folder: Path) -> Iterator[tuple[Path, Finish]]:
        with staging(force, on_written) as files, staged(proto, target, folder, model.is_external, files) as path:

            def finish(report: dict[str, Any]) -> None:
                report["output"]["path"] = str(target)
                if report_path is not None:
                    write_report(report, report_path, files.add(report_path))

            yield path, finish

    return _prune(model, options, data, progress, publish)


def inspect(source: Source) -> Inspection:
    """Return the groups of a model, their cost, and every lock with its reason.

    Args:
        source: as for `prune`.

    Raises:
        ModelError: when the model cannot be read.
    """
    traced = trace(load(source))
    found = groups(traced)
    by_atom = cost.macs_by_atom(traced)
    reached = {name for name, carried in carriers(found).items() if any(group.prunable for group in carried)}
    everything = weights(traced)
    unreached_names = [name for name in everything if name not in reached]
    return Inspection(
        model=traced.model,
        groups=tuple(sorted(found, key=first_sink)),
        macs=cost.macs(traced),
        group_macs={group.name: by_atom.get(group.atom, 0) for group in found},
        locked_params=sum(constant.count for name, constant in everything.items() if name not in reached),
        unreached=unreached(traced, all_reasons(found), unreached_names),
        accounts=accounts(traced, found, {g.name: reason for g in found if (reason := why_not(g)) is not None}),
    )


def compare(before: Source, after: Source, *, data: Any = None, preprocess: Any = None, **options: Any) -> Comparison:
    """Return two models measured side by side; see `compare_models` for the options.

    Args:
        before: the reference, as for `prune`.
        after: the model that shall replace it.
        data: samples, as for `prune`.
        preprocess: how images become arrays: text such as 'imagenet,size=240', or a `Preprocess`.
        **options: provider, threads, batch, budget_s, seed, memory, shapes (a dict from input to shape), metric,
            detail, sweep_threads, sweep_batch, provider_options.

    Raises:
        InputError: for models that cannot be read or run, or that have different inputs, and for unknown options.
    """
    known = [name for name in compare_models.__kwdefaults__ or () if name not in ("data", "macs")]
    for name in options:
        check.choice("option", name, known)
    models = load(before), load(after)
    options["shapes"] = dict(check.shapes("shapes", options.get("shapes", ())))
    if preprocess is not None and data is None:
        raise OptionError("preprocess has no effect without --data")
    data = None if data is None else load_data(data, models[0].inputs, preprocess=preprocess)
    counted = cost.macs(trace(models[0])), cost.macs(trace(models[1]))
    return compare_models(*models, data=data, macs=counted, **options)


_ASKED = ("ignore", "only", "width", "round_to", "min_units", "reconstruct", "seed", "eval_data", "preprocess")
PLOTS = (".svg", ".png", ".html")


def sensitivity(
    source: Source, *, data: Any = None, levels: int = LEVELS, executor: Executor | None = None, **options: Any
) -> Sensitivity:
    """Return what the output of a model loses when each of its groups loses units, one at a time.

    Args:
        source: as for `prune`.
        data: samples, as for `prune`; some are held out, and losses are measured on these.
        levels: of removed units in each group, at most.
        executor: where curves are measured, several at once; its workers must have the package.
        **options: ignore, only, width, round_to, min_units, reconstruct, seed, eval_data (losses are measured on these
            samples instead), preprocess, samples, metric: as for `prune`.

    Raises:
        InputError: for a model, data or option that cannot be used.
        NothingToPrune: when no group can lose a unit; says why.
    """
    for name in options:
        check.choice("option", name, (*_ASKED, "samples", "metric"))
    where = ALONE if executor is None else workers_of(executor)
    chosen, levels = make_options(**options), _levels(levels)
    return _sensitivity(load(source), chosen, data, levels=levels, workers=where, progress=silent)


def sensitivity_file(
    source: Path,
    options: Options,
    data: Any,
    *,
    levels: int,
    plot_path: Path | None,
    report_path: Path | None,
    force: bool,
    progress: Progress,
    workers: Workers = ALONE,
) -> Sensitivity:
    """Return the same of a file, and write it as a plot (by its name, SVG, PNG or HTML) and as JSON.

    Raises:
        InputError, NothingToPrune: as `sensitivity`; InputError also for files that cannot be written.
    """
    levels, options = _levels(levels), options.checked()
    _check_plot(plot_path)
    given = [(plot_path, "the plot"), (report_path, "the report")]
    outputs = [(path, role) for path, role in given if path is not None]
    check_written(outputs, Reads(source, data=_sample_files(data, options)), force)
    progress(f"reading {source}")
    model = load(source)
    check_written(outputs, Reads(source, tuple(model.data_files), _sample_files(data, options)), force)
    found = _sensitivity(model, options, data, levels=levels, workers=workers, progress=progress)
    with staging(force) as files:
        if plot_path is not None:
            _write_plot(plot_path, files.add(plot_path), partial(as_svg, found), partial(as_html, found))
        if report_path is not None:
            write_report(found.to_dict(), report_path, files.add(report_path))
    return found


def check_compared(
    pair: Sequence[Path], data: Any, plot_path: Path | None, report_path: Path | None, force: bool
) -> None:
    """Raise InputError when a plot or report of a comparison cannot be written, before anything is measured."""
    _check_plot(plot_path)
    given = [(plot_path, "the plot"), (report_path, "the report")]
    for source in pair:
        outputs = [(path, role) for path, role in given if path is not None]
        beside = tuple(load(source).data_files) if outputs and source.exists() else ()
        check_written(outputs, Reads(source, beside, files_of(data)), force)


def write_compared(
    found: Sequence[Comparison],
    report: Mapping[str, Any],
    plot_path: Path | None,
    report_path: Path | None,
    force: bool,
) -> None:
    """Write comparisons as a plot (by its name, SVG, PNG or HTML) and as JSON.

    Raises:
        InputError: when a file cannot be written.
    """
    with staging(force) as files:
        if plot_path is not None:
            drawn = partial(comparison_svg, found), partial(comparison_html, found)
            _write_plot(plot_path, files.add(plot_path), *drawn)
        if report_path is not None:
            write_report(report, report_path, files.add(report_path))


def _check_plot(path: Path | None) -> None:
    if path is None:
        return
    if path.suffix.lower() not in PLOTS:
        raise OptionError(f"plot must be a file that ends in {', '.join(PLOTS[:-1])} or {PLOTS[-1]}, got {str(path)!r}")
    if path.suffix.lower() == ".png":
        drawing_packages()


def _write_plot(path: Path, temporary: Path, svg: Callable[[], str], page: Callable[[], str]) -> None:
    """Write a chart, or a page that holds it, as the name of the file asks for."""
    kind = path.suffix.lower()
    drawn = page() if kind == ".html" else svg()
    _write(as_png(drawn) if kind == ".png" else drawn.encode(), path, temporary)


def _levels(levels: Any) -> int:
    return check.count("levels", levels, 1)


def _sensitivity(
    model: Model, options: Options, given: Any, *, levels: int, workers: Workers, progress: Progress
) -> Sensitivity:
    if options.round_to == AUTO:
        raise OptionError("round_to auto has no effect here: nothing is timed for a sensitivity; give a number")
    if given is None:
        raise OptionError("data is needed: samples that losses are measured on")
    data, other = load_data(given, model.inputs, preprocess=options.preprocess), None
    data = limit(data, options.most_samples(data.count), options.seed)
    if options.eval_data is not None:
        other = load_data(options.eval_data, model.inputs, preprocess=options.preprocess)
        other = limit(other, options.most_samples(other.count), options.seed)
    progress(f"tracing {len(model.nodes)} nodes")
    traced = trace(model)
    found = groups(traced)
    chosen = choose(found, options)
    calibrated = calibration(model, data, _compared(data, options), evaluated=other)
    measured = measure(
        traced, found, chosen, calibrated, options, levels=levels, progress=progress, workers=workers
    )  # fmt: skip
    if not measured.groups:
        raise NothingToPrune(nothing(found, chosen, options, unreached(traced, all_reasons(found), weights(traced))))
    return measured


# -- steps of prune ---------------------------------------------------------------------------------------

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
    reads = Reads(model.path, tuple(model.data_files), _sample_files(given, options))
    return Prepared(
        traced, found, chosen, options, calibrated, why_not_any, sampled, evaluated, ports, reads, stamped
    )  # fmt: skip


def _prune(model: Model, options: Options, given: Any, progress: Progress, publish: Publish) -> Result:
    ready = prepare(model, options, given, progress)
    progress(f"scoring {len(ready.chosen)} of {len(ready.found)} groups by {ready.options.criterion}")
    evidence = gather(
        ready.traced, ready.found, ready.chosen, ready.options, calibration=ready.calibrated, progress=progress
    )
    decided = decide(ready, evidence, measured(ready, progress), progress)
    rewritten = rewrite.rewrite(ready.traced, ready.masks(decided.plan))
    repairs = repaired(ready, decided.plan, rewritten, progress)
    return finish(ready, decided, rewritten, repairs=repairs, progress=progress, publish=publish)


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
    fitted = rewrite.in_original(model, rewritten.cuts, contents)
    proto = with_contents(view(rewritten.proto, folder=model.folder), contents) if contents else rewritten.proto
    with publish(proto, model.folder) as (path, complete):
        progress("verifying: masked = pruned")
        after = verify.read_back(path)
        verification = verify.verify(traced, masks, after, ready.sampled, seed, inputs=ready.ports, fitted=fitted)
        if not verification.passed:
            broken = verify.blame(traced, masks, ready.found, ready.sampled, seed, inputs=ready.ports)
            raise verify.failure(verification, broken)
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


def _compared(data: Data, options: Options) -> str | None:
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
        return calibration(traced.model, sampled, _compared(sampled, options)), None
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


# -- options and files ----------------------------------------------------------------------------------------


def write_report(report: Mapping[str, Any], path: Path, temporary: Path) -> None:
    """Write a report to the temporary place of `path`.

    Raises:
        InputError: when it cannot be written.
    """
    write_text(json.dumps(report, indent=1) + "\n", path, temporary)


def write_text(text: str, path: Path, temporary: Path) -> None:
    """Write a text to the temporary place of `path`.

    Raises:
        InputError: when it cannot be written.
    """
    _write(text.encode(), path, temporary)


def _write(content: bytes, path: Path, temporary: Path) -> None:
    try:
        temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _sample_files(data: Any, options: Options) -> tuple[Path, ...]:
    """Return the files that hold samples."""
    return (*files_of(data), *files_of(options.eval_data))
