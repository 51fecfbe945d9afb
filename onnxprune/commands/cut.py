"""One pass of `prune`: from a prepared model to one that is cut, recovered, proven, perhaps tuned, and published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxprune.commands.decide import as_planned, decide, profile, score
from onnxprune.commands.finish import Improve, Publish, finish
from onnxprune.commands.prepare import PreparedModel
from onnxprune.commands.recover import recover
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.graph.model import Model
from onnxprune.planning.plan import Evidence
from onnxprune.planning.promise import Decision
from onnxprune.progress import Progress


@dataclass(frozen=True)
class Pass:
    """What a pass does beside the cut."""

    publish: Publish
    improve: Improve | None = None  # tunes what was cut
    original: Model | None = None  # what the result is compared with, where that is not the model that is cut
    timed: Model | None = None  # what the result is raced against, where that is neither
    evidence: Evidence | None = None  # scores and loss curves, where they are known
    notes: Notes = NOWHERE  # of what takes long


def decided(
    prepared: PreparedModel, progress: Progress, evidence: Evidence | None = None, notes: Notes = NOWHERE
) -> Decision:
    """Return what is cut: as a plan says, or by scores, loss curves, and what is measured on this machine.

    Args:
        prepared: the model.
        progress: called before each step.
        evidence: scores and loss curves, where they are known.
        notes: what an earlier run measured of them.

    Raises:
        InputError, NothingToPrune: as `prune`.
    """
    if prepared.options.planned:
        return as_planned(prepared, progress, notes)
    evidence = evidence or score(prepared, progress, notes=notes)
    return decide(prepared, evidence, profile(prepared, progress), progress)


def cut(prepared: PreparedModel, once: Pass, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model, an onnx.ModelProto, and its report, when both are published.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`.
    """
    decision = decided(prepared, progress, once.evidence, once.notes)
    rewritten = prepared.rewritten(decision.plan)
    recovery = recover(prepared, decision.plan, rewritten, progress, once.notes)
    return finish(
        prepared,
        decision,
        rewritten,
        recovery=recovery,
        progress=progress,
        publish=once.publish,
        improve=once.improve,
        original=once.original,
        timed=once.timed,
    )
