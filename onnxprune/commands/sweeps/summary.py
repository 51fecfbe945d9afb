"""The summary of a family: what sweep.json holds, and its plot and page show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune._version import __version__
from onnxprune.commands.sweeps.folder import MOST_BYTES, SweepFolder
from onnxprune.commands.sweeps.members import Member
from onnxprune.data.opening import read_json
from onnxprune.errors import NothingToPrune
from onnxprune.planning.options import Options


def summarize(
    kind: str, members: Sequence[Member], none: Mapping[str, str], folder: SweepFolder, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what sweep.json holds.

    Args:
        kind: one of `sweep_members.KINDS`.
        members: all of them.
        none: by the names of those without a model, why.
        folder: has the reports of the others.
        recipe: what makes the same family again.

    Raises:
        NothingToPrune: when no member has a model.
    """
    made = [member for member in members if member.name not in none]
    if not made:
        raise NothingToPrune("; ".join(f"{member.name}: {none[member.name]}" for member in members))
    reports = [read_json(folder.report(member), MOST_BYTES) for member in made]
    rows = [_row(member, report, folder.recorded(member) or {}) for member, report in zip(made, reports, strict=True)]
    plain = {
        "onnxprune": __version__,
        "input": reports[0]["input"],
        "kind": kind,
        "recipe": dict(recipe),
        "options": _common(made[0].options, kind),
        "members": rows,
        "without_model": [
            {"value": member.value, "why": none[member.name]} for member in members if member.name in none
        ],
    }
    summary: dict[str, Any] = json.loads(json.dumps(plain))
    return summary


def _common(options: Options, kind: str) -> dict[str, Any]:
    """Return the options that hold for all members."""
    plain = {name: value for name, value in options.to_dict().items() if name != "ratio" or kind != "ratio"}
    return {**plain, "targets": [pair for pair in options.targets if pair[0] != kind]}


def _row(member: Member, report: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "value": member.value,
        "path": f"{member.name}.onnx",
        "report": f"{member.name}.json",
        **{name: report["output"][name] for name in ("sha256", "params", "macs", "size_bytes")},
        "latency": report["latency"][0] if report["latency"] else None,
        "accuracy": report["accuracy"],
        "fidelity": report["fidelity"],
        "max_rel_diff": report["verification"]["max_rel_diff"],
        "seconds": record.get("seconds"),
    }
