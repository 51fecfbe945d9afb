"""Step of `prune` that lets linear maps stand in for branches: add maps of zeros, prove it, then take the branches out.

The model with maps is what branches are taken out of by name. A map is refitted as a layer beside a gap is, and the
proof of the cut, masked = pruned, is of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from onnxprune.commands.finish import Publish, stored_as, with_report
from onnxprune.commands.job import Job
from onnxprune.commands.measured import measured
from onnxprune.commands.prepare import PreparedModel, prepare
from onnxprune.commands.rounds_folder import Keeper
from onnxprune.commands.shorten import by_depth, chosen
from onnxprune.data.notes import Notes
from onnxprune.dependency.branches import Branch, branches, nodes_of
from onnxprune.dependency.bypass import Bypass, bypass_of
from onnxprune.dependency.cost import NodeMacs, macs
from onnxprune.dependency.trace import Trace, trace
from onnxprune.errors import OptionError, VerificationError
from onnxprune.evaluation.verify import Verification, verify
from onnxprune.graph.model import Model
from onnxprune.graph.remainder import same_part
from onnxprune.graph.view import view
from onnxprune.planning.bypasses import Weighed, at_gaps, weighed
from onnxprune.planning.depth import Shortening
from onnxprune.planning.detail import rows_of_refits
from onnxprune.planning.left import Cost, costs_left, rest_of
from onnxprune.planning.options import AUTO, Options
from onnxprune.planning.removal import may_go, named
from onnxprune.progress import Progress
from onnxprune.report.depth import depth_values, of_bypassed
from onnxprune.report.document import file_values
from onnxprune.surgery.bypass import bypassed


def by_linear_maps(job: Job, keeper: Keeper, publish: Publish, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model, an onnx.ModelProto, and its report, when both are published.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`.
    """
    _check_fits(job)
    globs = tuple(glob for glob in job.options.linearize if glob != AUTO)
    prepared = prepare(job.model, job.options, job.data, progress, tunes=job.learning.tuning is not None)
    prepared, notes = replace(prepared, file_name=job.name), keeper.notes().of("linear maps")
    meant = named(prepared.traced.model, branches(prepared.traced), globs, "linearize")
    found, choice, reasons = chosen(_also_without(prepared, meant), progress, notes)
    maps = _maps(prepared, found, choice, meant, progress, notes)
    whole = _with_maps(prepared, maps.bypasses, progress)
    told = partial(
        of_bypassed,
        values=depth_values(prepared.options, found, choice, reasons, _removed(prepared, whole, found, choice)),
        maps=maps.values(whole),
        source=file_values(prepared.traced.model, macs(prepared.traced)),
        options=prepared.options,
        verification=whole.verification,
    )
    costs = _costs(prepared, whole, progress)
    later = replace(
        job,
        model=whole.model,
        options=_options_of_cut(job.options, costs, [branch.name for branch in choice.removed]),
        original=job.original or prepared.traced.model,
    )
    shares = {kind: cost.share for kind, cost in costs.items()}
    return by_depth(later, keeper, partial(with_report, publish, partial(told, shares=shares)), progress)


def _check_fits(job: Job) -> None:
    """Raise OptionError where nothing would be fitted: maps of zeros are of no use."""
    if job.data is None:
        raise OptionError("linearize needs data: linear maps are fitted to samples; give them with --data")
    if job.options.reconstruct is False:
        raise OptionError("linearize fits linear maps, and --no-reconstruct fits nothing: leave one of them out")


def _also_without(prepared: PreparedModel, names: Collection[str]) -> PreparedModel:
    """Return the same model with options by which some branches go in any case."""
    options = prepared.options
    return replace(prepared, options=replace(options, without=(*options.without, *sorted(names))))


# -- which maps ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Maps:
    """The linear maps that stay, what was measured of those that were tried, and why others cannot be, by branch."""

    bypasses: tuple[Bypass, ...]
    tried: tuple[Weighed, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    def values(self, whole: _Whole) -> list[dict[str, Any]]:
        """Return what the report says of each map that was named or tried, and of gaps that can have none."""
        tried, taken = {each.branch: each for each in self.tried}, whole.map_macs()
        return [
            {
                "branch": name,
                "stays": name in taken,
                "macs": tried[name].macs if name in tried else taken.get(name),
                "loss": tried[name].loss if name in tried else None,
                "without": tried[name].without if name in tried else None,
                "reason": self.reasons.get(name),
            }
            for name in dict.fromkeys((*taken, *tried, *self.reasons))
        ]


def _maps(  # noqa: PLR0917 - as they follow from one another
    prepared: PreparedModel,
    found: Sequence[Branch],
    choice: Shortening,
    meant: Collection[str],
    progress: Progress,
    notes: Notes,
) -> _Maps:
    """Return the linear maps that stand in for branches: those that are `meant`, and those that are worth it.

    Raises:
        OptionError: when none can stand in for a branch that is named.
    """
    traced, gone = prepared.traced, {branch.name for branch in choice.removed}
    own = []
    for branch in (each for each in found if each.name in meant):
        bypass = bypass_of(traced, branch)
        if isinstance(bypass, str):
            raise OptionError(f"linearize: no linear map can stand in for branch {branch.name!r}: {bypass}")
        own.append(bypass)
    if AUTO not in prepared.options.linearize:
        return _Maps(tuple(own))
    tried, reasons = at_gaps(traced, found, gone)
    tried = [each for each in tried if each.branch.name not in meant]
    if not tried:
        return _Maps(tuple(own), reasons=reasons)
    each, price = _weighed(prepared, [*own, *tried], gone, progress, notes)
    worth = {one.branch for one in each if one.is_worth(price)}.union(meant)
    return _Maps(tuple(bypass for bypass in (*own, *tried) if bypass.branch.name in worth), tuple(each), reasons)


def _weighed(
    prepared: PreparedModel, bypasses: Sequence[Bypass], gone: set[str], progress: Progress, notes: Notes
) -> tuple[list[Weighed], float]:
    """Return what each of some maps mends on held-out samples, and what the cut costs without any."""
    model, traced, values = _mapped(prepared, bypasses)
    able, _ = may_go(model, branches(traced), replace(prepared.options, ignore=(), only=()))
    calibration = prepared.calibration
    assert calibration is not None  # there is data
    return weighed(
        traced, able, calibration, gone=gone, maps=tuple(values.items()),
        rows=rows_of_refits(traced, traced.model, calibration, prepared.options.effort),
        seed=prepared.options.seed, progress=progress, notes=notes,
    )  # fmt: skip


# -- the model with them ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Whole:
    """A model with linear maps of zeros, in memory."""

    model: Model
    traced: Trace  # of the part of it that is run
    values: Mapping[str, str]  # what each map gives, by branch
    verification: Verification  # the proof that it computes what the original does

    def map_macs(self) -> dict[str, int]:
        """Return the multiply-accumulates of each map, for one sample, by branch."""
        counted = NodeMacs(self.traced)
        own = {branch.value: branch for branch in branches(self.traced)}
        return {name: counted.total(own[value].nodes) for name, value in self.values.items() if value in own}


def _mapped(prepared: PreparedModel, bypasses: Sequence[Bypass]) -> tuple[Model, Trace, Mapping[str, str]]:
    """Return a model with linear maps of zeros, its axes, and what each map gives, by branch."""
    original = prepared.traced.model
    made = bypassed(original, bypasses, prepared.traced.probe.dtype)
    model = replace(view(stored_as(original, made.rewritten, {}), folder=original.folder), stamps=original.stamps)
    part = replace(same_part(model, original), sizes=original.sizes, fits=original.fits)
    return model, trace(replace(part, changes_io=original.changes_io)), made.values


def _with_maps(prepared: PreparedModel, bypasses: Sequence[Bypass], progress: Progress) -> _Whole:
    """Return a model with linear maps of zeros, proven.

    Raises:
        VerificationError: when it does not compute what the original does.
    """
    model, traced, values = _mapped(prepared, bypasses)
    progress("verifying: with linear maps of zeros = original")
    verification = verify(
        prepared.traced, {}, traced.model, prepared.calibration_data, prepared.options.seed, inputs=prepared.ports
    )
    if not verification.passed:
        raise VerificationError(
            "the model with linear maps of zeros does not compute what the original does, and nothing was written: "
            f"{verification.problem}. Please report the model"
        )
    return _Whole(model, traced, values, verification)


def _removed(prepared: PreparedModel, whole: _Whole, found: Sequence[Branch], choice: Shortening) -> float:
    """Return the share of the multiply-accumulates of all branches that went, less what maps take."""
    counted = NodeMacs(prepared.traced)
    went = counted.total(nodes_of(choice.removed)) - sum(whole.map_macs().values())
    return max(0, went) / max(1, counted.total(nodes_of(found)))


def _costs(prepared: PreparedModel, whole: _Whole, progress: Progress) -> dict[str, Cost]:
    """Return what the original costs, and the share of it that the model with maps does, by kind of target."""
    original = prepared.traced.model

    def timed() -> Mapping[str, tuple[float, float]]:
        progress("timing the model with linear maps")
        return measured(original, whole.traced.model, prepared.evaluation_data, prepared.options)

    return costs_left(original, whole.model, (macs(prepared.traced), macs(whole.traced)), timed, prepared.options)


def _options_of_cut(options: Options, costs: Mapping[str, Cost], gone: Sequence[str]) -> Options:
    """Return options that take branches out of the model with maps, and cut the widths that are still to go."""
    rest = rest_of(options, costs)
    if rest is None:
        rest = replace(options, targets=(), ratio=0.0)
    return replace(rest, linearize=(), depth=None, without=tuple(gone), method=None)
