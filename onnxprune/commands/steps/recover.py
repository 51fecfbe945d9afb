"""Step of `prune` and `sweep` that recovers quality: refit the layers of the pruned model to what they computed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TypeAlias

from onnxprune.commands.steps.prepare import PreparedModel
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view
from onnxprune.planning.curves.detail import rows_of_refits
from onnxprune.planning.plan import Plan, kept_masks
from onnxprune.planning.work import atom_sizes, numbers
from onnxprune.progress import Progress
from onnxprune.recovery.compensate import compensate
from onnxprune.recovery.refit import Refitted, refit
from onnxprune.recovery.unfitted import unfitted
from onnxprune.surgery.rewrite import Rewritten

Recovery: TypeAlias = tuple[dict[str, Array], list[Refitted]]  # new contents of constants; the outcome for each layer


def recover(
    prepared: PreparedModel, plan: Plan, rewritten: Rewritten, progress: Progress, notes: Notes = NOWHERE
) -> Recovery:
    """Return new weights and statistics for the pruned model; none where there is nothing to calibrate on.

    `notes` have what an earlier run fitted.
    """
    options = prepared.options
    if prepared.calibration is not None and options.compensates:
        return _compensated(prepared, plan, rewritten, progress)
    if prepared.calibration is None or not (options.reconstruct or options.batch_norm):
        return {}, []
    traced, all_groups = prepared.traced, prepared.groups
    pruned, spared = view(rewritten.proto, folder=traced.model.folder), frozenset[str]()
    run = prepared.as_run
    if run is not None:
        traced, all_groups, pruned, spared = (
            run.traced,
            run.groups,
            run.of(pruned),
            run.unlike | _stored_apart(rewritten),
        )
    layer_kinds = {"linear": bool(options.reconstruct), "batch_norm": options.batch_norm}
    contents, fits = refit(
        traced,
        kept_masks(all_groups, plan.kept),
        pruned,
        prepared.calibration.batches,
        cuts=rewritten.cuts,
        spared=spared,
        copies=options.copies,
        seed=options.seed,
        sweeps=options.sweeps or 1,
        rows=rows_of_refits(traced, pruned, prepared.calibration, options.effort),
        progress=progress,
        notes=notes.of(_digest(plan)),
        **layer_kinds,
    )
    cut_groups = [group for group in all_groups if group.name in plan.kept]
    return contents, [*fits, *unfitted(traced.model, cut_groups, pruned, **layer_kinds)]


def _stored_apart(rewritten: Rewritten) -> frozenset[str]:
    """Return the weights that are stored several times since places that read them were cut otherwise."""
    uses = Counter(cut.source for cut in rewritten.cuts.values())
    return frozenset(source for source, count in uses.items() if count > 1)


def _digest(plan: Plan) -> str:
    """Return what tells a plan from others: fits of one are of no use to another."""
    kept = {name: list(map(int, units)) for name, units in sorted(plan.kept.items())}
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def _compensated(prepared: PreparedModel, plan: Plan, rewritten: Rewritten, progress: Progress) -> Recovery:
    """Return new biases for the pruned model, which give back the mean of what went."""
    traced, calibration = prepared.traced, prepared.calibration
    assert calibration is not None
    sizes = atom_sizes(traced, calibration.batches[0])
    return compensate(
        traced,
        kept_masks(prepared.groups, plan.kept),
        rewritten.cuts,
        calibration.batches,
        copies=prepared.options.copies,
        bytes_of=lambda name: 4 * numbers(traced, name, sizes),
        seed=prepared.options.seed,
        progress=progress,
    )
