"""The same cut in PyTorch: `apply` takes a module, or its state dict, and what was cut of the file exported from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune.commands.apply import cuts_of
from onnxprune.commands.prune import Result
from onnxprune.data.toml_file import read_toml
from onnxprune.errors import InputError, OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.read import Source, load
from onnxprune.graph.tensors import Array
from onnxprune.planning.plan_file import CutPlan, read_plan
from onnxprune.report.schema import checked_schema
from onnxprune.training.extra import check_torch

__all__ = ["apply"]

What: TypeAlias = Result | CutPlan | Mapping[str, Any] | str | os.PathLike[str]
_OTHERWISE = ("depth", "rotation")  # parts of a report that say how else the network was changed


def apply(network: Any, cut: What, source: Source | None = None, *, strict: bool = True) -> Any:
    """Return a module without the units that are gone, or its state dict; what is given stays as it is.

    Args:
        network: a torch.nn.Module, or a state dict.
        cut: what `prune` or `apply` returned, its report, a plan that lists indices, or the file of one: small.json,
            plan.toml.
        source: the original file that was cut; by default the one that the report or the plan names, if it is there. A
            plan needs it, and weights that the exporter renamed or transposed.
        strict: whether each weight that was cut has to be found.

    Raises:
        OptionError: without PyTorch; for a plan without indices, and one that takes branches out.
        InputError: for weights that are not found or do not fit, layers that cannot have other sizes, and a report of
            another form.
    """
    check_torch("onnxprune.torch.apply")
    from onnxprune.training.resizing import resized  # noqa: PLC0415 - they import PyTorch
    from onnxprune.training.transfer import WeightCut, cut_state, kept_of  # noqa: PLC0415

    plan, report = _read(cut)
    model = _original(source, plan.input if plan is not None else report["input"])
    kept = _of_report(report) if plan is None else cuts_of(plan, _needed(model, plan))
    cuts = [WeightCut(name, indices, partial(_array, model, name)) for name, indices in kept]
    whole = set() if model is None else set(model.constants) - {name for name, _ in kept}
    state = network if isinstance(network, Mapping) else network.state_dict()
    stays = kept_of(state, cuts, whole=whole, strict=strict)
    smaller = cut_state(state, stays)
    return smaller if isinstance(network, Mapping) else resized(network, smaller, stays)


def _read(cut: What) -> tuple[CutPlan | None, Mapping[str, Any]]:
    """Return the plan or the report that says what was cut."""
    if isinstance(cut, Result):
        return None, cut.report
    if isinstance(cut, CutPlan):
        return cut, {}
    if isinstance(cut, Mapping):
        return (None, checked_schema(cut, "cut")) if "initializers" in cut else (read_plan(cut), {})
    path = Path(cut)
    if path.suffix != ".json":
        return read_plan(read_toml(path)), {}
    try:
        return None, checked_schema(json.loads(path.read_text(encoding="utf-8")), path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a report: {error}") from None


def _original(source: Source | None, named: Mapping[str, Any]) -> Model | None:
    """Return the original model, where there is one."""
    path = named.get("path")
    if source is None and path is not None and Path(path).is_file():
        source = path
    return None if source is None else load(source)


def _needed(model: Model | None, plan: CutPlan) -> Model:
    if model is None:
        named = plan.input.get("path", "a model in memory")
        raise OptionError(f"source is needed: the plan was made for {named}, which is not there; give the file")
    return model


def _of_report(report: Mapping[str, Any]) -> list[tuple[str, dict[int, list[int]]]]:
    """Return what stays of each weight of the original, as a report says it."""
    for name in _OTHERWISE:
        if report.get(name) is not None:
            raise OptionError(f"the report has a {name}: units alone are cut here, and nothing else is changed")
    cuts = report["initializers"].values()
    return [(cut["source"], {int(axis): kept for axis, kept in cut["kept"].items()}) for cut in cuts]


def _array(model: Model | None, name: str) -> Array | None:
    """Return what a weight of the original holds; None where that is not known."""
    return model.array(name) if model is not None and name in model.constants else None
