"""One pass of `prune`: from a prepared model to one that is cut, recovered, proven, perhaps tuned, and published."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

from onnxprune.commands.steps.decide import as_planned, decide, profile, score
from onnxprune.commands.steps.finish import Improve, Publish, finish
from onnxprune.commands.steps.int8 import Int8, chosen_where_asked, written_in
from onnxprune.commands.steps.prepare import PreparedModel
from onnxprune.commands.steps.recover import recover
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.graph.model import Model
from onnxprune.planning.plan import Evidence
from onnxprune.planning.profile import Deployed
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
    int8: Int8 | None = None  # the form of eight bits, where it was chosen for another model that this one is made of


def decided(
    prepared: PreparedModel,
    progress: Progress,
    evidence: Evidence | None = None,
    notes: Notes = NOWHERE,
    deployed: Deployed | None = None,
) -> Decision:
    """Return what is cut: as a plan says, or by scores, loss curves, and what is measured on this machine.

    Args:
        prepared: the model.
        progress: called before each step.
        evidence: scores and loss curves, where they are known.
        notes: what an earlier run measured of them.
        deployed: what is made of the cut model before it is used: targets are of that.

    Raises:
        InputError, NothingToPrune: as `prune`.
    """
    if prepared.options.planned:
        return as_planned(prepared, progress, notes)
    evidence = evidence or score(prepared, progress, notes=notes)
    return decide(prepared, evidence, profile(prepared, progress, deployed), progress, deployed)


def cut(prepared: PreparedModel, once: Pass, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model, an onnx.ModelProto, and its report, when both are published.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`.
    """
    given = contextlib.nullcontext(once.int8)
    with chosen_where_asked(prepared, progress) if once.int8 is None else given as int8:
        deployed = None if int8 is None else int8.deployed(prepared.traced.model)
        decision = decided(prepared, progress, once.evidence, once.notes, deployed)

        def finished(decision: Decision, publish: Publish) -> tuple[Any, dict[str, Any]]:
            return _made(prepared, replace(once, publish=publish), decision, progress)

        others = once.original, once.timed
        return written_in(int8, prepared, decision, finished, publish=once.publish, others=others, progress=progress)


def _made(prepared: PreparedModel, once: Pass, decision: Decision, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Make the cut that was decided."""
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
