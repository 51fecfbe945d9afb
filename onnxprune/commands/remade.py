"""A model that is made over before it is cut, turned or with linear maps: how it is proven, and what it costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from onnxprune.commands.finish import stored_as
from onnxprune.commands.measured import measured
from onnxprune.commands.prepare import PreparedModel
from onnxprune.dependency.cost import macs
from onnxprune.dependency.trace import Trace
from onnxprune.errors import VerificationError
from onnxprune.evaluation.verify import Verification, verify
from onnxprune.graph.model import Model
from onnxprune.graph.remainder import same_part
from onnxprune.graph.view import view
from onnxprune.planning.left import Cost, costs_left
from onnxprune.progress import Progress
from onnxprune.surgery.rewrite import Rewritten


def in_memory(model: Model, rewritten: Rewritten, original: Model) -> Model:
    """Return what was made of a model; its external data lies where that of the original does."""
    proto: Any = stored_as(model, rewritten, {})
    return replace(view(proto, folder=original.folder), stamps=original.stamps)


def part_of(model: Model, original: Model) -> Model:
    """Return the part of a changed model that is run, with the sizes of the original."""
    return replace(same_part(model, original), sizes=original.sizes, fits=original.fits)


def proven_same(prepared: PreparedModel, now: Model, name: str, rewritten: Collection[str] = ()) -> Verification:
    """Return the proof that a model computes what the original does.

    Args:
        prepared: the original.
        now: the part of the other model that is run.
        name: of it, for the message.
        rewritten: values that it writes otherwise.

    Raises:
        VerificationError: when it does not.
    """
    verification = verify(
        prepared.traced, {}, now, prepared.calibration_data, prepared.options.seed,
        inputs=prepared.ports, rewritten=rewritten,
    )  # fmt: skip
    if not verification.passed:
        raise VerificationError(
            f"the {name} does not compute what the original does, and nothing was written: "
            f"{verification.problem}. Please report the model"
        )
    return verification


def costs_of(prepared: PreparedModel, model: Model, traced: Trace, timing: str, progress: Progress) -> dict[str, Cost]:
    """Return what the original costs, and the share of it that another model does, by kind of target.

    Args:
        prepared: the original.
        model: the other one.
        traced: the part of it that is run.
        timing: what is said before both are timed, where targets need that.
        progress: called with it.
    """
    original = prepared.traced.model

    def timed() -> Mapping[str, tuple[float, float]]:
        progress(timing)
        return measured(original, traced.model, prepared.evaluation_data, prepared.options)

    return costs_left(original, model, (macs(prepared.traced), macs(traced)), timed, prepared.options)
