"""One pass of `prune`: from a prepared model to one that is cut, recovered, proven, perhaps tuned, and published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from onnxprune.commands.decide import decide, profile, score
from onnxprune.commands.finish import Improve, Publish, finish
from onnxprune.commands.int8 import Int8, Quantizing, chosen, counted_alone
from onnxprune.commands.prepare import PreparedModel
from onnxprune.commands.recover import recover
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


def cut(prepared: PreparedModel, once: Pass, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model, an onnx.ModelProto, and its report, when both are published.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`.
    """
    if prepared.options.quantize is None:
        return _cut(prepared, once, progress)
    with chosen(prepared, progress) as int8:
        return _quantized(prepared, once, int8, progress)


def _quantized(prepared: PreparedModel, once: Pass, int8: Int8, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Cut a model towards targets that its eight bits are to meet, and write these."""
    evidence = once.evidence or score(prepared, progress)
    speed = profile(prepared, progress, int8.deployed)
    decision = decide(prepared, evidence, speed, progress, int8.deployed)
    quantizing = Quantizing(int8, once.publish, decision, progress, original=once.original, timed=once.timed)
    _, report = _made(prepared, replace(once, publish=quantizing.publish), counted_alone(decision), progress)
    return quantizing.proto, report


def _cut(prepared: PreparedModel, once: Pass, progress: Progress) -> tuple[Any, dict[str, Any]]:
    evidence = once.evidence or score(prepared, progress)
    speed = profile(prepared, progress)
    return _made(prepared, once, decide(prepared, evidence, speed, progress), progress)


def _made(prepared: PreparedModel, once: Pass, decision: Decision, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Make the cut that was decided."""
    rewritten = prepared.rewritten(decision.plan)
    recovery = recover(prepared, decision.plan, rewritten, progress)
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
