"""Step of `prune` that weighs branches against widths: which of them go, of both, so that the output suffers least."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnxprune.commands.steps.decide import score
from onnxprune.commands.steps.prepare import PreparedModel, calibrated
from onnxprune.data.notes import Notes
from onnxprune.dependency.branches import Branch, branches
from onnxprune.errors import OptionError, UnreachableTarget
from onnxprune.planning.branches.depth import Chooser, Shortening
from onnxprune.planning.branches.mixed import counted_bounds, mixed
from onnxprune.planning.branches.removal import may_go, named
from onnxprune.planning.choice import named_ratios
from onnxprune.planning.curves.detail import rows_of_refits
from onnxprune.planning.curves.effort import EFFORTS
from onnxprune.planning.plan import UNREACHABLE, Evidence
from onnxprune.progress import Progress


@dataclass(frozen=True)
class Chosen:
    """The branches of a model, those of them that go, and why others cannot, by name."""

    found: list[Branch]
    choice: Shortening
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class Weighed:
    """What branches and widths were found to cost, and which branches go."""

    evidence: Evidence  # of widths, in the model with all branches
    chosen: Chosen  # of which no branch goes where widths alone lose less


def weigh(prepared: PreparedModel, progress: Progress, notes: Notes) -> Weighed:
    """Return which branches go beside widths under the targets.

    Raises:
        OptionError: without samples, or a target that can be weighed.
        UnreachableTarget: when no plan of both meets the targets.
    """
    traced, options, calibration = prepared.traced, prepared.options, calibrated(prepared)
    bounds = counted_bounds(options)
    if options.scope != "loss":
        raise OptionError(
            "depth=auto weighs losses of the output, and none of widths are measured with criterion "
            f"{options.criterion} and scope {options.ranking}: leave these out, or say with depth how much is to go by "
            "branches"
        )
    found = branches(traced)
    able, reasons = may_go(traced.model, found, options)
    gone = named(traced.model, found, options.without)
    able, reasons = _without_named_widths(prepared, able, reasons, gone)
    evidence = score(prepared, progress, notes=notes.of("widths"))
    effort = EFFORTS[options.effort]
    rows = rows_of_refits(traced, traced.model, calibration, options.effort)
    chooser = Chooser(
        traced, able, {at for at, branch in enumerate(able) if branch.name in gone}, calibration, rows,
        bool(options.reconstruct), options.seed, progress, notes,
    )  # fmt: skip
    alone = chooser.alone(effort.screened) if able else {}
    mix = mixed(
        traced, prepared.groups, prepared.ratios, options, evidence,
        branches=[branch for branch in able if branch.name in alone], alone=alone, together=chooser.together,
        gone=[branch for branch in able if branch.name in gone],
    )  # fmt: skip
    if mix is None:
        missed = ", ".join(f"{kind}={value:g}" for kind, value in bounds)
        raise UnreachableTarget(f"target {missed} {UNREACHABLE}", {})
    going = tuple(branch for branch in able if branch.name in mix.branches | gone)
    return Weighed(evidence, Chosen(found, Shortening(going, alone, chooser.measured), reasons))


def _without_named_widths(
    prepared: PreparedModel, able: Sequence[Branch], reasons: Mapping[str, str], gone: Collection[str]
) -> tuple[list[Branch], dict[str, str]]:
    """Return the branches that may go without those whose widths have a ratio or count of their own, and why not."""
    own = named_ratios(prepared.groups, prepared.options).keys()
    nodes = {node for group in prepared.groups if group.name in own for node in group.nodes}
    model, left, why = prepared.traced.model, list[Branch](), dict(reasons)
    for branch in able:
        if branch.name in gone or nodes.isdisjoint(model.nodes[index].name for index in branch.nodes):
            left.append(branch)
        else:
            why[branch.name] = "a group in it has a ratio or a count of its own"
    return left, why
