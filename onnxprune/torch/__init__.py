"""The same cut in PyTorch: `apply` takes a module, or its state dict, and what was cut of the file exported from it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune.commands.apply import PlannedCut
from onnxprune.commands.prune import Result
from onnxprune.errors import InputError, OnnxpruneError, OptionError
from onnxprune.graph.files.read import Source, load
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.planning.plan_file import CutPlan, read_plan
from onnxprune.planning.planned import PlannedGroup
from onnxprune.report.schema import checked_schema
from onnxprune.surgery.readings import Correction, Reading
from onnxprune.surgery.rewrite import Cut
from onnxprune.training.extra import check_torch

__all__ = ["apply"]

_LOGGER = logging.getLogger("onnxprune")

What: TypeAlias = Result | CutPlan | Mapping[str, Any] | str | os.PathLike[str]
_WHOEVER = "the layers that load these tensors, by the number that is left"
_CODE = "code of the module that is no layer of PyTorch, as its own mean, by the number that is left"
_OTHERWISE = ("depth", "rotation")  # parts of a report that say how else the network was changed


def apply(network: Any, cut: What, source: Source | None = None, *, strict: bool = True, example: Any = None) -> Any:
    """Return a module without the units that are gone, or its state dict; what is given stays as it is.

    Where the file was cut along a mean or a normalisation, it goes on dividing by as many units as there were. So do
    the normalisations of a module, which get other numbers or give way to layers that do. A mean in code of one's own,
    and whatever loads a state dict, divides by the units that are left: outputs differ from those of the file, and a
    warning of the logger ``onnxprune`` says so.

    Args:
        network: a torch.nn.Module, or a state dict.
        cut: what `prune` or `apply` returned, its report, a plan that lists indices, or the file of one: small.json,
            plan.toml.
        source: the original file that was cut; by default the one that the report or the plan names, if it is there. A
            plan needs it, and weights that the exporter renamed or transposed.
        strict: whether each weight that was cut has to be found.
        example: what a module is called with, a tensor, a tuple of arguments or a dict of named ones: on it, the result
            is proven to give what the module gives with the units at zero that are gone.

    Raises:
        OptionError: without PyTorch; for a plan without indices, one that takes branches or the layers of experts out,
            and what is no network; for an example of a module that does not divide as the file does, and of a state
            dict.
        InputError: for weights that are not found or do not fit, layers that cannot have other sizes, and what is no
            report, or one of another form; and for a module that gives something else on the example.
    """
    check_torch("onnxprune.torch.apply")
    from onnxprune.training.modules.counts import by_layer, fillers  # noqa: PLC0415 - they import PyTorch
    from onnxprune.training.modules.resizing import resized  # noqa: PLC0415
    from onnxprune.training.modules.same_outputs import check_same  # noqa: PLC0415
    from onnxprune.training.modules.transfer import WeightCut, cut_state, kept_of, state_of  # noqa: PLC0415

    plan, report = _read(cut)
    if example is not None and isinstance(network, Mapping):
        raise OptionError("example has no effect on a state dict, which does not run: give the module")
    model = _original(source, plan.input if plan is not None else report["input"])
    traced, kept = _traced(plan, report, model)
    replaced = {cut.source for name, cut in kept.items() if name == cut.source}  # under its name, nobody reads it whole
    cuts = [
        WeightCut(cut.source, cut.kept, partial(_array, model, cut.source), cut.source in replaced)
        for cut in kept.values()
    ]
    whole = None if model is None else set(model.constants) - {cut.source for cut in kept.values()}
    state = state_of(network)
    stays, elsewhere = kept_of(state, cuts, whole=whole, strict=strict, readings=partial(_readings, traced))
    smaller = cut_state(state, stays)
    places = _corrections(traced)
    if isinstance(network, Mapping):
        _say_what_differs([each.node for each in places or ()] or _inexact(places, report), _WHOEVER)
        return smaller
    layers, others = by_layer(network, places or ())
    others = others or _inexact(places, report)
    made = resized(network, smaller, stays, elsewhere, {name: each.ratio for name, each in layers.items()})
    if example is not None:
        _check_example(others)
        check_same(network, made, stays, example, fillers(network, layers, stays))
    _say_what_differs(others, _CODE)
    return made


def _check_example(others: Sequence[str]) -> None:
    """Raise OptionError where the module is right and does not give what the masked one gives."""
    if others:
        raise OptionError(
            f"example: at {others[0]!r} the file divides by the number of units before the cut, and the module by the "
            "number that is left, as no layer of PyTorch is known to stand there: outputs differ where the rest is "
            "right; leave example out"
        )


def _read(cut: What) -> tuple[CutPlan | None, Mapping[str, Any]]:
    """Return the plan or the report that says what was cut."""
    if isinstance(cut, Result):
        return None, cut.report
    if isinstance(cut, CutPlan):
        return read_plan(cut), {}
    if isinstance(cut, Mapping):
        return (None, _report(cut, "cut")) if "initializers" in cut else (read_plan(cut), {})
    path = Path(cut)
    if path.suffix != ".json":
        return read_plan(path), {}
    try:
        return None, _report(json.loads(path.read_text(encoding="utf-8")), path)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as a report: {error}") from None


def _report(values: Any, where: object) -> Mapping[str, Any]:
    """Return the report of a cut, as far as it is needed here."""
    cuts = values.get("initializers") if isinstance(values, Mapping) else None
    if not isinstance(cuts, Mapping) or not all(map(_is_cut, cuts.values())):
        raise InputError(
            f"{where}: is no report of prune or apply, which says under initializers what stays of weights"
        )
    if not isinstance(values.get("input"), Mapping):
        raise InputError(f"{where}: is no report of prune or apply, which says under input what was cut")
    return checked_schema(values, where)


def _is_cut(value: Any) -> bool:
    """Whether a value says what stays of a weight: by axis, the indices."""
    kept = value.get("kept") if isinstance(value, Mapping) else None
    if not isinstance(kept, Mapping) or not isinstance(value.get("source"), str):
        return False
    return all(str(axis).isdecimal() and isinstance(each, Sequence) for axis, each in kept.items())


def _original(source: Source | None, named: Mapping[str, Any]) -> Model | None:
    """Return the original model, where there is one."""
    path = named.get("path")
    if path is not None and not isinstance(path, str):
        raise InputError(f"input: path must be text, the name of the file that was cut, got {path!r}")
    if source is None and path is not None and Path(path).is_file():
        source = path
    return None if source is None else load(source)


def _traced(
    plan: CutPlan | None, report: Mapping[str, Any], model: Model | None
) -> tuple[PlannedCut | None, Mapping[str, Cut]]:
    """Return the cut of the original, where there is one, and what stays of its weights by their names in the result.

    Raises:
        OptionError: when the original is needed, or a weight is gone as a whole.
    """
    if plan is None:
        traced, kept = None if model is None else PlannedCut(_plan_of(report), model), _of_report(report)
    else:
        traced = PlannedCut(plan, _needed(model, plan))
        kept = traced.weights
    _check_parts(kept.values())
    return traced, kept


def _needed(model: Model | None, plan: CutPlan) -> Model:
    if model is None:
        named = plan.input.get("path", "a model in memory")
        raise OptionError(f"source is needed: the plan was made for {named}, which is not there; give the file")
    return model


def _of_report(report: Mapping[str, Any]) -> Mapping[str, Cut]:
    """Return what stays of weights of the original, by their names in the result, as a report says it."""
    for name in _OTHERWISE:
        if report.get(name) is not None:
            raise OptionError(f"the report has a {name}: units alone are cut here, and nothing else is changed")
    return {
        name: Cut(cut["source"], {int(axis): tuple(kept) for axis, kept in cut["kept"].items()})
        for name, cut in report["initializers"].items()
    }


def _check_parts(cuts: Iterable[Cut]) -> None:
    """Raise OptionError for a weight of which nothing stays."""
    for cut in cuts:
        if any(not len(places) for places in cut.kept.values()):
            raise OptionError(
                f"weight {cut.source!r} is gone as a whole, with the one unit that it belongs to: units of weights "
                "alone are cut here, and no layers are taken out"
            )


def _readings(traced: PlannedCut | None) -> Sequence[Reading]:
    """Return what the places of the original keep that read weights; none where that cannot be found out."""
    if traced is None:
        return ()
    try:
        return traced.readings
    except OnnxpruneError:  # the report has other groups than the model, as of what was cut in rounds
        return ()


def _corrections(traced: PlannedCut | None) -> Sequence[Correction] | None:
    """Return where the file goes on dividing by as many units as there were; None where that cannot be found out."""
    if traced is not None:
        with contextlib.suppress(OnnxpruneError):  # see `_readings`
            return traced.corrections
    return None


def _inexact(places: Sequence[Correction] | None, report: Mapping[str, Any]) -> list[str]:
    """Return the groups that were cut along a normalisation, where the places in the file are not known."""
    if places is not None:
        return []
    return [each["name"] for each in report.get("groups") or () if not each["exact"] and each["kept"] < each["units"]]


def _say_what_differs(names: Sequence[str], who: str) -> None:
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        _LOGGER.warning(
            "the result may not give what the file gives that was cut: at %r%s, a mean or a normalisation, the file "
            "divides by the number of units before the cut, and %s: let the result learn before it is used",
            names[0],
            more,
            who,
        )


def _plan_of(report: Mapping[str, Any]) -> CutPlan:
    """Return the plan that makes the cut of a report in one step."""
    cut = [each for each in report.get("groups") or () if each["kept"] < each["units"]]
    groups = (
        PlannedGroup(each["name"], each["kind"], each["units"], each["kept"], tuple(each["kept_units"])) for each in cut
    )
    return CutPlan(tuple(groups), change_io=bool((report.get("options") or {}).get("change_io")))


def _array(model: Model | None, name: str) -> Array | None:
    """Return what a weight of the original holds; None where that is not known."""
    return model.array(name) if model is not None and name in model.constants else None
