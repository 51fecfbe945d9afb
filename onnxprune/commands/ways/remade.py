"""A model that is made over before it is cut, turned or with linear maps: how it is proven, and what it costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from onnxprune.commands.steps.finish import stored_as
from onnxprune.commands.steps.measured import measured
from onnxprune.commands.steps.prepare import PreparedModel
from onnxprune.dependency.cost import macs
from onnxprune.errors import VerificationError
from onnxprune.evaluation.verify import Verification, verify
from onnxprune.graph.forms.remainder import same_part
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view
from onnxprune.planning.left import Cost, costs_left
from onnxprune.planning.options import Options
from onnxprune.progress import Progress
from onnxprune.report.depth import Original
from onnxprune.report.document import file_values
from onnxprune.surgery.rewrite import Rewritten


def in_memory(
    model: Model, rewritten: Rewritten, original: Model, contents: Mapping[str, Array] = MappingProxyType({})
) -> Model:
    """Return what was made of a model; its external data lies where that of the original does.

    Args:
        model: it was made of this.
        rewritten: what was made.
        original: the model of the run.
        contents: of constants that hold other numbers.
    """
    proto: Any = stored_as(model, rewritten, contents)
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


def costs_of(  # noqa: PLR0917 - a model, what is known of it, and how it is told
    prepared: PreparedModel, model: Model, part: Model, count: int, timing: str, progress: Progress
) -> dict[str, Cost]:
    """Return what the original costs, and the share of it that another model does, by kind of target.

    Args:
        prepared: the original.
        model: the other one.
        part: what is run of it.
        count: its multiply-accumulates.
        timing: what is said before both are timed, where targets need that.
        progress: called with it.
    """
    original = prepared.traced.model

    def timed() -> Mapping[str, tuple[float, float]]:
        progress(timing)
        return measured(original, part, prepared.evaluation_data, prepared.options)

    return costs_left(original, model, (macs(prepared.traced), count), timed, prepared.options)


def original_of(
    prepared: PreparedModel, verification: Verification, costs: Mapping[str, Cost], options: Options | None = None
) -> Original:
    """Return what the report of a cut of another model says of the original.

    Args:
        prepared: the original.
        verification: the proof of the other model.
        costs: of both, see `costs_of`.
        options: as the report shall have them; None: those of the run.
    """
    return Original(
        file_values(prepared.traced.model, macs(prepared.traced)),
        prepared.options if options is None else options,
        verification,
        {kind: cost.share for kind, cost in costs.items()},
    )
