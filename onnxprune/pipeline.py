"""The pipeline: what `prune`, `inspect` and `compare` do, as lists of steps.

``load -> trace -> groups -> score -> allocate -> rewrite -> verify -> compare``, each a function from values to
values. The command line and export scripts call the same functions.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from onnxprune import allocate, check, cost, fidelity, importance, rewrite, verify
from onnxprune.account import ALONE, Account, accounts, unreached
from onnxprune.axes import Atom, Mask
from onnxprune.data import Data, files_of, load_data, with_shapes
from onnxprune.effective import ConstantValues
from onnxprune.errors import InputError, NothingToPrune, OptionError
from onnxprune.groups import Group, carriers, groups, kin, matrices, weights
from onnxprune.images import Preprocess, make_preprocess
from onnxprune.measure import Comparison, compare_models
from onnxprune.model import Model, Source, data_file, load, staged, write
from onnxprune.publish import Reads, check_files, resolved, staging, stamps
from onnxprune.report import build_report
from onnxprune.runtime import check_provider
from onnxprune.trace import Trace, trace

Progress: TypeAlias = Callable[[str], None]

ROUND_CHANNELS = 8  # counts that are no multiple of it leave the blocked layouts of CPU and GPU kernels
_LATENCY_BUDGET_S = 3.0
_NO_BUDGET_S = 0.001  # where latency is not asked for, but outputs are compared
_INSTEAD = "an outer factor of the same axis is pruned instead"
_REASONS = 3  # told when nothing can be pruned


@dataclass(frozen=True, slots=True)
class Options:
    """What `prune` is asked to do."""

    ratio: float = 0.3  # share of the units of each group to remove, in [0, 1)
    ratios: tuple[tuple[str, float], ...] = ()  # glob -> ratio, the last match wins
    criterion: str = "l2"  # a key of `importance.CRITERIA`
    scope: Literal["global", "group"] | None = None  # "global" or "group"; None is the criterion's own
    round_to: int | None = None  # keep multiples of it, rounding down; None: 8 for channels, at the ratio overall
    min_units: int | None = None  # kept at least in each group; None is a tenth of it
    width: bool = False  # whether groups are pruned that an op normalises over, such as the hidden width
    ignore: tuple[str, ...] = ()  # globs of nodes, weights or groups to leave alone
    only: tuple[str, ...] = ()  # globs of nodes, weights or groups to prune, and no others
    provider: str = "cpu"  # where latency is measured
    threads: int = 1  # for the latency on CPU, 0 is ONNX Runtime's choice
    latency: bool = True  # whether to measure it
    seed: int = 0  # of the random criterion and of random feeds
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()  # input -> its shape in random feeds
    eval_data: Any = None  # samples to compare the models on, a source as `data` is; None: those of `data`
    preprocess: Preprocess | None = None  # how images become arrays; text is parsed, see `images.make_preprocess`
    samples: int = 256  # of the data that calibration takes at most, drawn with the seed; 0 is all
    metric: str | None = None  # what of the outputs is compared on data, see `fidelity`; None: by the outputs

    def checked(self) -> Options:
        """Return the same as plain values; raise OptionError for a value of another type or outside its range."""
        if self.scope not in (None, "global", "group"):
            raise OptionError(f"scope must be 'global' or 'group', got {self.scope!r}")
        check_provider(self.provider)
        return Options(
            ratio=check.ratio("ratio", self.ratio),
            ratios=_checked_ratios(self.ratios),
            criterion=check.choice("criterion", self.criterion, importance.CRITERIA),
            scope=self.scope,
            round_to=None if self.round_to is None else check.count("round_to", self.round_to, 1),
            min_units=None if self.min_units is None else check.count("min_units", self.min_units, 1),
            width=check.flag("width", self.width),
            ignore=check.globs("ignore", self.ignore),
            only=check.globs("only", self.only),
            provider=self.provider,
            threads=check.count("threads", self.threads, 0),
            latency=check.flag("latency", self.latency),
            seed=check.count("seed", self.seed, 0),
            inputs=check.shapes("inputs", self.inputs),
            eval_data=self.eval_data,
            preprocess=make_preprocess(self.preprocess),
            samples=check.count("samples", self.samples, 0),
            metric=None if self.metric is None else fidelity.checked_name(self.metric),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; samples in memory are named by their type."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.eval_data, os.PathLike):
            plain["eval_data"] = os.fspath(self.eval_data)
        elif self.eval_data is not None and not isinstance(self.eval_data, str):
            plain["eval_data"] = f"({type(self.eval_data).__name__})"
        return {**plain, "preprocess": None if self.preprocess is None else asdict(self.preprocess)}


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


def prune(source: Source, ratio: float = 0.3, *, data: Any = None, **options: Any) -> Result:
    """Return `source` without the least important `ratio` of its units, verified.

    Args:
        source: a path, an onnx.ModelProto, the program of ``torch.onnx.export(dynamo=True)``, or an
            onnx_graphsurgeon.Graph. It is not changed.
        ratio: the share of the units of each group to remove, in [0, 1).
        data: samples, which the models are then compared on: the path of an .npz with one array per input (first axis
            samples), of a folder, ``module:function``, arrays, or an iterable of feeds; see `data.load_data`. With
            ``labels``, accuracy is reported.
        **options: the fields of `Options`: criterion, scope, round_to, min_units, ignore, only, width, ratios (a dict
            glob -> ratio is accepted), provider, threads, latency, seed, inputs (a dict name -> shape),
            eval_data, preprocess, samples, metric.

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

        return _prune(model, chosen, data, lambda _: None, publish)


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
        groups=tuple(sorted(found, key=_first_sink)),
        macs=cost.macs(traced),
        group_macs={group.name: by_atom.get(group.atom, 0) for group in found},
        locked_params=sum(constant.count for name, constant in everything.items() if name not in reached),
        unreached=unreached(traced, _reasons(found), unreached_names),
        accounts=accounts(traced, found, {g.name: reason for g in found if (reason := why_not(g)) is not None}),
    )


def compare(before: Source, after: Source, *, data: Any = None, preprocess: Any = None, **options: Any) -> Comparison:
    """Return two models measured side by side; see `compare_models` for the options.

    Args:
        before: the reference, as for `prune`.
        after: the model that shall replace it.
        data: samples, as for `prune`.
        preprocess: how images become arrays: text such as 'imagenet,size=240', or a `Preprocess`.
        **options: provider, threads, batch, budget_s, seed, memory, shapes (a dict from input to shape), metric.

    Raises:
        InputError: for models that cannot be read or run, or that have different inputs, and for unknown options.
    """
    known = [name for name in compare_models.__kwdefaults__ or () if name not in ("data", "macs")]
    for name in options:
        check.choice("option", name, known)
    models = load(before), load(after)
    options["shapes"] = dict(check.shapes("shapes", options.get("shapes", ())))
    counted = cost.macs(trace(models[0])), cost.macs(trace(models[1]))
    return compare_models(*models, data=_samples(data, models[0], preprocess), macs=counted, **options)


# -- steps of prune ---------------------------------------------------------------------------------------

Finish: TypeAlias = Callable[[dict[str, Any]], object]  # completes the report, before the model is moved into place
Publish: TypeAlias = Callable[[Any, Path], "contextlib.AbstractContextManager[tuple[Path, Finish]]"]


def _prune(model: Model, options: Options, given: Any, progress: Progress, publish: Publish) -> Result:
    if options.metric is not None and given is None:
        raise OptionError("metric needs data: samples on which the models are compared")
    data, stamped = _samples(given, model, options.preprocess), stamps(model.data_files)
    evaluated = _samples(options.eval_data, model, options.preprocess) or data
    ports = with_shapes(model.inputs, dict(options.inputs))
    progress(f"tracing {len(model.nodes)} nodes")
    traced = trace(model)
    found = groups(traced)
    chosen = choose(found, options)
    progress(f"scoring {len(chosen)} of {len(found)} groups by {options.criterion}")
    kept = plan(traced, found, chosen, options)
    if not kept:
        raise NothingToPrune(_nothing(found, chosen, options, unreached(traced, _reasons(found), weights(traced))))
    masks = kept_masks(found, kept)
    rewritten = rewrite.rewrite(traced, masks)
    with publish(rewritten.proto, model.folder) as (path, finish):
        progress("verifying: masked = pruned")
        after = verify.read_back(path)
        verification = verify.verify(traced, masks, after, data, options.seed, inputs=ports)
        if not verification.passed:
            raise verify.failure(verification, verify.blame(traced, masks, found, data, options.seed, inputs=ports))
        comparison = _measure(model, after, options, evaluated, progress)
        reasons = reasons_for(found, chosen, options, kept)
        told = [(group, kept.get(group.name), reasons.get(group.name)) for group in sorted(found, key=_first_sink)]
        report = build_report(
            before=model,
            after=after,
            macs=(cost.macs(traced), cost.macs(traced, rewrite.new_sizes(masks))),
            options=options,
            groups=told,
            accounts=accounts(traced, found, reasons),
            cuts=rewritten.cuts,
            verification=verification,
            comparison=comparison,
        )
        finish(report)
    reads = Reads(model.path, tuple(model.data_files), _sample_files(given, options))
    return Result(rewritten.proto, report, model.folder, model.is_external, reads, stamped)


def choose(found: Sequence[Group], options: Options) -> dict[str, float]:
    """Return the ratio of every group that is to be pruned, by name.

    Inner factors (head dims inside heads) are pruned only when a glob of `only` or `ratios` names their group:
    the ratio counts once per axis.

    Raises:
        OptionError: for a glob that matches nothing.
    """
    left_out = _left_out(found, options)
    asked = {name: ratio for glob, ratio in options.ratios for name in _meant(glob, found)}
    chosen: dict[str, float] = {}
    for group in found:
        able = group.lock is None and (group.exact or options.width)
        able = able and (not group.inner or _named(group, found, options))
        if able and group.name not in left_out:
            chosen[group.name] = asked.get(group.name, options.ratio)
    return chosen


def _left_out(found: Sequence[Group], options: Options) -> set[str]:
    """Return the names of the groups that `ignore` and `only` exclude."""
    ignored = {name for pattern in options.ignore for name in _meant(pattern, found, _names_in)}
    wanted = {name for pattern in options.only for name in _meant(pattern, found)}
    return ignored | ({group.name for group in found} - wanted if options.only else set())


def _meant(pattern: str, found: Sequence[Group], *names: Callable[[Group], Iterable[str]]) -> set[str]:
    """Return the names of the groups that a glob means: by the first of `names` by which it matches any.

    Without `names`, the whole name of a group means that group alone, even where a node has the same name.

    Raises:
        OptionError: when it matches nothing.
    """
    if not names and any(group.name == pattern for group in found):
        return {pattern}
    for names_of in names or (_makers, _names_in):
        meant = {group.name for group in found if any(_is(name, pattern) for name in names_of(group))}
        if meant:
            return meant
    raise OptionError(
        f"{pattern!r} matches no group, and no node or weight of one; 'onnxprune inspect --json' lists them"
    )


def _makers(group: Group) -> Iterator[str]:
    """Yield the names of a group and of what makes its units."""
    yield group.name
    for member in group.members:
        if member.role == "out":
            yield from (member.node, member.constant)


def _names_in(group: Group) -> Iterator[str]:
    """Yield the names of a group and of all its nodes and weights."""
    yield from (group.name, *group.nodes, *(member.constant for member in group.members))


def _named(group: Group, found: Sequence[Group], options: Options) -> bool:
    """Whether a glob means this inner group: it is or matches the name, and not also that of an outer factor."""
    weights = {member.constant for member in group.members}
    outer = [g for g in found if g.prunable and weights & {member.constant for member in g.members}]
    globs = (*options.only, *(glob for glob, _ in options.ratios))
    return any(
        glob == group.name or (_is(group.name, glob) and not any(_is(g.name, glob) for g in outer)) for glob in globs
    )


def plan(
    traced: Trace,
    found: Sequence[Group],
    chosen: Mapping[str, float],
    options: Options,
    seen: Mapping[str, Sequence[importance.Seen]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return the kept unit indices of every group that loses units, by name.

    Args:
        traced: the model with its axes.
        found: its groups.
        chosen: ratio by group name, from `choose`.
        options: criterion, scope and rounding.
        seen: by group name, from `statistics.activations`, for criteria that look at data.

    Raises:
        OptionError: when the criterion can score none of the groups, or needs data and gets none.
    """
    if seen is None and importance.CRITERIA[options.criterion].data:
        raise OptionError(f"criterion {options.criterion!r} needs data: give samples with --data")
    demands: dict[str, allocate.Demand] = {}
    rng = np.random.default_rng(options.seed)
    shares, values = cost.shares(traced, found), ConstantValues(traced.model)
    tied = _tied(found, chosen, traced)
    for names in tied.values():
        scores = [
            importance.score(options.criterion, matrices(names[n], traced, values), rng, (seen or {}).get(n, ()))
            for n in names
        ]
        known = [score for score in scores if score is not None]
        if known:
            first = next(iter(names))
            share = sum(shares[name] for name in names)
            demands[first] = _demand(names[first], np.mean(known, axis=0), chosen[first], share, options)
    if chosen and not demands:
        raise OptionError(
            f"criterion {options.criterion!r} finds no weights that it can score: the model has no "
            "BatchNormalization (exporters fold it into convolutions); use l2"
        )
    own = {name: demand for name, demand in demands.items() if demand.ratio != options.ratio}
    common = {name: demand for name, demand in demands.items() if name not in own}
    kept = {**allocate.allocate(common, _scope(options)), **allocate.allocate(own, "group")}
    cut = {first: tuple(units.tolist()) for first, units in kept.items() if len(units) < demands[first].units}
    return {name: cut[first] for first, names in tied.items() if first in cut for name in names}


def _tied(found: Sequence[Group], chosen: Mapping[str, float], traced: Trace) -> dict[str, dict[str, Group]]:
    """Return the groups to be pruned, by the name of the first of those that share weights and lose the same units."""
    leaders = kin(found, traced.model.constants)
    sets: dict[tuple[str, float], dict[str, Group]] = {}
    for group in found:
        if group.name in chosen:
            sets.setdefault((leaders[group.name], chosen[group.name]), {})[group.name] = group
    return {next(iter(names)): names for names in sets.values()}


def _scope(options: Options) -> Literal["global", "group"]:
    return options.scope or importance.CRITERIA[options.criterion].scope


def _demand(group: Group, scores: importance.Scores, ratio: float, share: float, options: Options) -> allocate.Demand:
    if group.lanes or group.mixed is not None:
        step = allocate.round_units(group.lanes, options.round_to or ROUND_CHANNELS)
    else:
        step = options.round_to or 1 if group.kind == "neurons" else 1
    least = math.ceil(allocate.MIN_SHARE * group.units)
    return allocate.Demand(
        scores=scores,
        ratio=ratio,
        step=step,
        min_units=min(group.units, options.min_units or least),
        weight=share / group.units,
        down=step > 1 and options.round_to is not None,
    )


def _mask(group: Group, kept: Sequence[int]) -> Mask:
    mask = np.zeros(group.units, bool)
    mask[list(kept)] = True
    return mask


def kept_masks(found: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> dict[Atom, Mask]:
    """Return the masks of a plan, by atom: what `rewrite` takes."""
    return {group.atom: _mask(group, kept[group.name]) for group in found if group.name in kept}


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
        budget_s=_LATENCY_BUDGET_S if options.latency else _NO_BUDGET_S,
        seed=options.seed,
        memory=False,
        shapes=dict(options.inputs),
        metric=None if data is None else options.metric,
    )


# -- words for what was left alone ---------------------------------------------------------------------------


def _first_sink(group: Group) -> int:
    """Return the node that groups are listed by."""
    return group.members[0].sink[0]


def why_not(group: Group) -> str | None:
    """Return why a group is not pruned by default, None if it is."""
    if group.locked is not None:
        return group.locked
    if group.inexact is not None:
        return f"{group.inexact}: removing a unit is not the same as masking it"
    if group.inner:
        return _INSTEAD
    return None


def reasons_for(
    found: Sequence[Group], chosen: Mapping[str, float], options: Options, kept: Mapping[str, Sequence[int]]
) -> dict[str, str]:
    """Return why groups keep all their units under these options, by name; those that lose some are absent."""
    left_out, names = _left_out(found, options), {group.atom: group.name for group in found}
    reasons: dict[str, str] = {}
    for group in found:
        if group.name in chosen and group.name not in kept:
            reasons[group.name] = _of_no_smaller_count(group, chosen, options)
        elif group.name not in kept:
            outer = [names[atom] for atom in group.outer if atom in names]
            reasons[group.name] = _of_not_chosen(group, outer, chosen, options, group.name in left_out)
    return reasons


def _of_not_chosen(
    group: Group, outer: Iterable[str], chosen: Mapping[str, float], options: Options, left_out: bool
) -> str:
    """Return why a group is not to be pruned: a lock, the options, or an outer factor that is."""
    if group.lock is not None or not (group.exact or options.width):
        return why_not(group) or ""
    if left_out:
        return "left out by --ignore or --only"
    ratios = [chosen[name] for name in outer if name in chosen]
    if any(ratios):
        return _INSTEAD
    return "its ratio is 0" if ratios else "an inner factor of an axis is pruned only where it is named"


def _of_no_smaller_count(group: Group, chosen: Mapping[str, float], options: Options) -> str:
    """Return why a group that was to be pruned keeps all its units."""
    if chosen[group.name] == 0:
        return "its ratio is 0"
    if options.criterion == "bn" and not any(member.role == "scale" for member in group.members):
        return "criterion bn cannot score it: no BatchNormalization scales its units"
    if _scope(options) == "global":
        return "no unit scored low enough among those of all groups, given --round-to and --min-units"
    return "no smaller count is allowed by --ratio, --round-to and --min-units"


def _nothing(
    found: Sequence[Group], chosen: Mapping[str, float], options: Options, unreached: Mapping[str, Sequence[str]]
) -> str:
    """Say why no group lost a unit: first what the options decided, then the most frequent locks."""
    if not found:
        reason = next((reason for reason in unreached if reason != ALONE), "")
        return "nothing to prune: the model has no weights that meet in an axis" + f"; {reason}" * bool(reason)
    why = reasons_for(found, chosen, options, {})
    reasons: dict[str, list[str]] = {}
    for group in sorted(found, key=lambda group: group.name not in chosen):
        reasons.setdefault(why[group.name], []).append(group.name)
    told = sorted(reasons.items(), key=lambda item: (item[1][0] not in chosen, -len(item[1])))[:_REASONS]
    listed = "; ".join(
        f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {reason}" for reason, names in told
    )
    return f"nothing to prune. {listed}"


def _reasons(found: Sequence[Group]) -> dict[str, list[str]]:
    """Return by weight why its groups are not pruned by default."""
    told = {name: [why_not(group) for group in carried] for name, carried in carriers(found).items()}
    return {name: [why for why in reasons if why is not None] for name, reasons in told.items()}


# -- options and files ----------------------------------------------------------------------------------------


def make_options(**given: Any) -> Options:
    """Return checked `Options` from keywords, where lists, dicts and single globs are accepted.

    Raises:
        OptionError: for an unknown name, or a value of another type or outside its range.
    """
    for name in given:
        check.choice("option", name, Options.__dataclass_fields__)
    return Options(**given).checked()


def _checked_ratios(given: Any) -> tuple[tuple[str, float], ...]:
    """Return pairs of glob and ratio, of which a dict or pairs were given."""
    try:
        pairs = [(glob, ratio) for glob, ratio in (given.items() if isinstance(given, Mapping) else given)]
    except (TypeError, ValueError):
        raise OptionError(f"ratios must be a dict from glob to ratio, got {given!r}") from None
    names = check.globs("ratios", [glob for glob, _ in pairs])
    return tuple(
        (glob, check.ratio(f"ratio of {glob!r}", ratio)) for glob, (_, ratio) in zip(names, pairs, strict=True)
    )


def write_report(report: Mapping[str, Any], path: Path, temporary: Path) -> None:
    """Write a report to the temporary place of `path`.

    Raises:
        InputError: when it cannot be written.
    """
    try:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _samples(data: Any, model: Model, preprocess: Any) -> Data | None:
    return None if data is None else load_data(data, model.inputs, preprocess=preprocess)


def _sample_files(data: Any, options: Options) -> tuple[Path, ...]:
    """Return the files that hold samples."""
    return (*files_of(data), *files_of(options.eval_data))


def _is(name: str, pattern: str) -> bool:
    """Whether a name is the pattern or matches it as a glob: names may hold brackets."""
    return name == pattern or fnmatchcase(name, pattern)
