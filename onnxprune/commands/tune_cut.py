"""What a cut kept, seen from the values between nodes: which of the teacher's numbers the student still has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxprune.dependency.axes import Atom, Mask
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import Trace, trace
from onnxprune.errors import InputError
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.planning.plan import kept_masks
from onnxprune.training.places import kept_of

Kept = Callable[[Sequence[str]], Mapping[str, Mapping[int, Array]]]


def kept_by_masks(traced: Trace, masks: Mapping[Atom, Mask]) -> Kept:
    """Return what tells for names of values which indices of each axis a cut keeps."""
    return lambda names: kept_of(traced, masks, names)


def kept_by_report(teacher: Model, report: Mapping[str, Any]) -> Kept:
    """Return the same from the report of a cut.

    Raises:
        InputError: when it is of another model.
    """
    traced = trace(teacher)
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
