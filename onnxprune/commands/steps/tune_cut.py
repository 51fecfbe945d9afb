"""What a cut kept, seen from the values between nodes: which of the teacher's numbers the student still has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxprune.dependency.axes import Atom, Mask
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import Trace, trace
from onnxprune.errors import InputError, VerificationError
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.planning.plan import kept_masks
from onnxprune.training.tuning.places import kept_of

Kept = Callable[[Sequence[str]], Mapping[str, Mapping[int, Array]]]


def kept_by_masks(traced: Trace, masks: Mapping[Atom, Mask]) -> Kept:
    """Return what tells for names of values which indices of each axis a cut keeps."""
    return lambda names: kept_of(traced, masks, names)


def kept_by_report(teacher: Model, report: Mapping[str, Any]) -> Kept:
    """Return the same from the report of a cut.

    Raises:
        InputError: when it is of another model.
    """
    options: Mapping[str, Any] = report.get("options", {})
    traced = trace(replace(teacher, changes_io=bool(options.get("change_io", False))))
    own = {group.name: group for group in groups(traced)}
    kept: dict[str, list[int]] = {}
    for entry in report["groups"]:
        group = own.get(entry["name"])
        if group is None or group.units != entry["units"]:
            there = "is not there" if group is None else f"has {group.units} units, not {entry['units']}"
            raise InputError(f"the report is of another model than the teacher: group {entry['name']!r} {there}")
        if entry["kept"] < entry["units"]:
            kept[group.name] = entry["kept_units"]
    return kept_by_masks(traced, kept_masks(list(own.values()), kept))


def kept_in_all(parts: Sequence[Kept]) -> Kept:
    """Return what several cuts, one after the other, keep of the first one's model."""

    def kept(names: Sequence[str]) -> dict[str, dict[int, Array]]:
        result: dict[str, dict[int, Array]] = {name: {} for name in names}
        for part in parts:
            for name, by_axis in part(names).items():
                for axis, places in by_axis.items():
                    before = result[name].get(axis)
                    result[name][axis] = places if before is None else before[places]
        return result

    return kept


def units_in_all(units: Mapping[str, int], reports: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return which units of each group several cuts, one after the other, keep: their indices in the first model.

    A group of a later cut is the one of the same name that has as many units as were left of it.

    Args:
        units: of the groups of the first model, by name.
        reports: of the cuts.

    Raises:
        VerificationError: when a later cut has no such group where units are left.
    """
    kept = {name: list(range(count)) for name, count in units.items()}
    for report in reports:
        for entry in report["groups"]:
            name, left = entry["name"], kept.get(entry["name"])
            if entry["kept"] == entry["units"]:
                continue
            if left is None or len(left) != entry["units"]:
                there = "none" if left is None else len(left)
                raise VerificationError(
                    f"group {name!r} has {entry['units']} units in a later round, and {there} were left of it: please "
                    "report the model"
                )
            kept[name] = [left[place] for place in entry["kept_units"]]
    return kept


def initializers_in_all(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return where the weights of the last of several cuts come from in the first model, as reports say it."""
    known: dict[str, Any] = {}
    for report in reports:
        cut = {name: _through(entry, known.get(entry["source"])) for name, entry in report["initializers"].items()}
        known = {**known, **cut}
    return known


def _through(entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a cut of what was cut before."""
    if before is None:
        return dict(entry)
    kept = {dim: list(indices) for dim, indices in before["kept"].items()}
    for dim, indices in entry["kept"].items():
        kept[dim] = [kept[dim][place] for place in indices] if dim in kept else list(indices)
    return {"source": before["source"], "kept": kept}
