"""Step of `prune` that lets linear maps stand in for branches: add maps of zeros, prove it, then take the branches out.

The model with maps is what branches are taken out of by name. A map is refitted as a layer beside a gap is, and the
proof of the cut, masked = pruned, is of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from onnxprune.commands.rounds.folder import Keeper
from onnxprune.commands.steps.finish import Complete, Publish, with_report
from onnxprune.commands.steps.job import Job
from onnxprune.commands.steps.prepare import PreparedModel, prepare
from onnxprune.commands.ways.remade import costs_of, in_memory, original_of, part_of, proven_same
from onnxprune.commands.ways.shorten import by_depth, chosen
from onnxprune.data.notes import Notes
from onnxprune.dependency.branches import Branch, branches, branches_at, nodes_of, place_of
from onnxprune.dependency.bypass import Bypass
from onnxprune.dependency.cost import NodeMacs, macs
from onnxprune.dependency.trace import Trace, trace
from onnxprune.errors import OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.view import view
from onnxprune.planning.branches.bypasses import Weighed, at_branches, at_gaps, weighed
from onnxprune.planning.branches.depth import Shortening
from onnxprune.planning.branches.removal import named
from onnxprune.planning.curves.detail import rows_of_refits
from onnxprune.planning.left import Cost, rest_of
from onnxprune.planning.options import AUTO, Options
from onnxprune.progress import Progress
from onnxprune.report.depth import depth_values, of_bypassed
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
    made = chosen(prepared, progress, notes, also=meant)
    found, choice, reasons = made.found, made.choice, made.reasons
    maps = _maps(prepared, found, choice, meant, progress, notes)
    whole = _mapped(prepared, found, maps.bypasses)
    progress("verifying: with linear maps of zeros = original")
    verification = proven_same(prepared, whole.traced.model, "model with linear maps of zeros")
    part, count = whole.traced.model, macs(whole.traced)
    costs = costs_of(prepared, whole.model, part, count, "timing the model with linear maps", progress)
    told = partial(
        of_bypassed,
        values=depth_values(prepared.options, found, choice, reasons, _removed(prepared, whole, found, choice)),
        maps=maps.values(whole),
        original=original_of(prepared, verification, costs),
    )
    later = replace(
        job,
        model=whole.model,
        options=_options_of_cut(job.options, costs),
        original=job.original or prepared.traced.model,
    )
    checked = partial(_with_fitted_maps, partial(with_report, publish, told), whole)
    gone = {branch.name: whole.places[branch.name] for branch in choice.removed}
    return by_depth(later, keeper, checked, progress, gone)


def _check_fits(job: Job) -> None:
    """Raise OptionError where nothing would be fitted: maps of zeros are of no use."""
    if job.data is None:
        raise OptionError("linearize needs data: linear maps are fitted to samples; give them with --data")
    if job.options.reconstruct is False:
        raise OptionError("linearize fits linear maps, and --no-reconstruct fits nothing: leave one of them out")


@contextlib.contextmanager
def _with_fitted_maps(publish: Publish, whole: _Whole, proto: Any, folder: Path) -> Iterator[tuple[Path, Complete]]:
    """Publish a model whose linear maps do something.

    Raises:
        OptionError: when a map is still zero: no fit was better than nothing on held-out samples.
    """
    written = view(proto, folder=folder)
    for branch, weight in whole.weights.items():
        if weight in written.constants and not written.array(weight).any():
            raise OptionError(
                f"linearize: nothing that the linear map in the place of branch {branch!r} was fitted to lowered the "
                "error on held-out samples: give more samples with --data, or take the branch out with --without"
            )
    with publish(proto, folder) as pair:
        yield pair


# -- which maps ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Maps:
    """The linear maps that stay, what was measured of those that were tried, and why others cannot be, by branch."""

    bypasses: tuple[Bypass, ...]
    tried: tuple[Weighed, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    def values(self, whole: _Whole) -> list[dict[str, Any]]:
        """Return what the report says of each map that was named or tried, and of gaps that can have none."""
        tried, taken = {each.branch: each for each in self.tried}, whole.macs
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
        OptionError: when none can stand in for a branch that is meant.
    """
    traced = prepared.traced
    own, reasons = at_branches(traced, found, meant)
    if AUTO not in prepared.options.linearize:
        return _Maps(tuple(own), reasons=reasons)
    tried, none = at_gaps(traced, found, [branch.name for branch in choice.removed])
    tried = [each for each in tried if each.branch.name not in meant]
    reasons |= {name: reason for name, reason in none.items() if name not in meant}
    if not tried:
        return _Maps(tuple(own), reasons=reasons)
    whole = _mapped(prepared, found, [*own, *tried])
    each, price = _weighed(prepared, whole, choice, progress, notes)
    worth = {one.branch for one in each if one.is_worth(price)}.union(meant)
    stay = (bypass for bypass in (*own, *tried) if bypass.branch.name in worth)
    return _Maps(tuple(stay), tuple(each), reasons)


def _weighed(
    prepared: PreparedModel, whole: _Whole, choice: Shortening, progress: Progress, notes: Notes
) -> tuple[list[Weighed], float]:
    """Return what each of some maps mends on held-out samples, and what the cut costs without any."""
    calibration, effort = prepared.calibration, prepared.options.effort
    assert calibration is not None  # there is data
    return weighed(
        whole.traced, whole.branches, calibration, gone=[branch.name for branch in choice.removed], maps=whole.maps,
        rows=rows_of_refits(whole.traced, whole.traced.model, calibration, effort),
        seed=prepared.options.seed, progress=progress, notes=notes,
    )  # fmt: skip


# -- the model with them ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Whole:
    """A model with linear maps of zeros, in memory."""

    model: Model
    traced: Trace  # of the part of it that is run
    branches: list[Branch]  # those of the original, by their names, and the maps
    places: Mapping[str, tuple[str, int]]  # of the branches of the original, as of `branches_at`
    maps: Mapping[str, str]  # names of the maps among the branches, and of the branch that each stands in for
    weights: Mapping[str, str]  # the matrix of each map, by the branch that it stands in for

    @cached_property
    def macs(self) -> dict[str, int]:
        """The multiply-accumulates of each map, for one sample, by the branch that it stands in for."""
        counted = NodeMacs(self.traced)
        return {self.maps[each.name]: counted.total(each.nodes) for each in self.branches if each.name in self.maps}


def _mapped(prepared: PreparedModel, found: Sequence[Branch], bypasses: Sequence[Bypass]) -> _Whole:
    """Return a model with linear maps of zeros.

    Its branches are those that are known, at the places where they are now: beside a map, not every branch would be
    told from the stream again.
    """
    original = prepared.traced.model
    made = bypassed(original, bypasses, prepared.traced.probe.dtype)
    model = in_memory(original, made.rewritten, original)
    traced = trace(replace(part_of(model, original), changes_io=original.changes_io))
    maps = {f"{name} (linear map)": name for name in made.sums}
    places = {each.name: place_of(prepared.traced, each) for each in found}
    places |= {name: (total, 0) for name, total in made.sums.items()}
    own = {own: (made.sums[name], 1) for own, name in maps.items()}
    return _Whole(model, traced, branches_at(traced, {**places, **own}), places, maps, made.weights)


def _removed(prepared: PreparedModel, whole: _Whole, found: Sequence[Branch], choice: Shortening) -> float:
    """Return the share of the multiply-accumulates of all branches that went, less what maps take."""
    counted = NodeMacs(prepared.traced)
    went = counted.total(nodes_of(choice.removed)) - sum(whole.macs.values())
    return max(0, went) / max(1, counted.total(nodes_of(found)))


def _options_of_cut(options: Options, costs: Mapping[str, Cost]) -> Options:
    """Return options that cut the widths that are still to go when branches are out of the model with maps."""
    rest = rest_of(options, costs)
    if rest is None:
        rest = replace(options, targets=(), ratio=0.0)
    return replace(rest, linearize=(), depth=None, without=(), method=None)
