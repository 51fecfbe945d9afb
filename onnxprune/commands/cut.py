"""One pass of `prune`: from a prepared model to one that is cut, recovered, proven, perhaps tuned, and published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxprune.commands.decide import decide, profile, score
from onnxprune.commands.finish import Improve, Publish, finish
from onnxprune.commands.prepare import PreparedModel
from onnxprune.commands.recover import recover
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.graph.model import Model
from onnxprune.planning.plan import Evidence
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


def cut(prepared: PreparedModel, once: Pass, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model, an onnx.ModelProto, and its report, when both are published.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`.
    """
    evidence = once.evidence or score(prepared, progress, notes=once.notes)
    speed = profile(prepared, progress)
    decision = decide(prepared, evidence, speed, progress)
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
