"""What a cut came to, as node data for Google's Model Explorer, which shows it on the nodes of the network.

A file of node data has one value for each node, by its name (`GraphNodeData` of ai-edge-model-explorer 0.1). So there
is a file for each kind of value; the viewer shows several side by side. Nodes keep their names in a cut, so that what
is kept and why is for both models; costs are for one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KINDS = ("kept", "reason", "macs.before", "macs.after", "ms.before", "ms.after")
_TITLES = {
    "kept": "kept share of the weights",
    "reason": "cut, or why not",
    "macs.before": "MACs, original",
    "macs.after": "MACs, pruned",
    "ms.before": "milliseconds, original",
    "ms.after": "milliseconds, pruned",
}
_COST = [{"stop": 0, "bgColor": "#f5f7fa"}, {"stop": 1, "bgColor": "#d9822b"}]  # from little to much
# Of kept shares, up to these values: what is left of a node, the darker the less.
_KEPT = [
    {"value": 0.25, "bgColor": "#1f5f8b", "textColor": "#ffffff"},
    {"value": 0.5, "bgColor": "#3f8fc4", "textColor": "#ffffff"},
    {"value": 0.75, "bgColor": "#8cc0e3", "textColor": "#000000"},
    {"value": 0.9999, "bgColor": "#cfe5f4", "textColor": "#000000"},
    {"value": 1, "bgColor": "#ececec", "textColor": "#000000"},
]
_CUT, _WHOLE = {"bgColor": "#8cc0e3", "textColor": "#000000"}, {"bgColor": "#ececec", "textColor": "#000000"}


def overlay_file(path: Path, kind: str) -> Path:
    """Return where a kind of values goes: what is kept has the name that was given, the others stand beside it.

    >>> overlay_file(Path("small.json"), "kept").name, overlay_file(Path("small.json"), "ms.after").name
    ('small.json', 'small.ms.after.json')
    """
    return path if kind == KINDS[0] else path.with_name(f"{path.stem}.{kind}{path.suffix}")


def overlays(
    layers: Sequence[Mapping[str, Any]], reasons: Mapping[str, tuple[bool, str]] | None = None
) -> dict[str, dict[str, Any]]:
    """Return node data by the kind of its values, of the kinds that are known.

    Args:
        layers: of both models, see `evaluation.layers.layer_values`.
        reasons: by node, whether it was cut, and how or why not.
    """
    data = {"kept": _data("kept", {layer["node"]: {"value": _kept(layer)} for layer in layers}, thresholds=_KEPT)}
    if reasons:
        told = {name: {"value": words, **(_CUT if is_cut else _WHOLE)} for name, (is_cut, words) in reasons.items()}
        data["reason"] = _data("reason", told)
    for cost in ("macs", "ms"):
        for place, side in enumerate(("before", "after")):
            values = {layer["node"]: {"value": layer[cost][place]} for layer in layers if layer[cost] is not None}
            if values:
                data[f"{cost}.{side}"] = _data(f"{cost}.{side}", values, gradient=_COST)
    return data


def _data(kind: str, results: Mapping[str, Any], **style: Any) -> dict[str, Any]:
    return {"name": f"onnxprune: {_TITLES[kind]}", "results": dict(results), **style}


def _kept(layer: Mapping[str, Any]) -> float:
    """Return which share of a layer is left: of its weights, or of its work where it has none."""
    before, after = layer["params"] if layer["params"][0] else layer["macs"]
    return round(after / before, 4) if before else 1.0


def reasons_of(report: Mapping[str, Any]) -> dict[str, tuple[bool, str]]:
    """Return by node whether the report of a cut says that it was cut, and how or why not."""
    groups = {group["name"]: group for group in report["groups"]}
    reasons = {}
    for node in report["nodes"]:
        cut = [groups[name] for name in node["pruned"] if name in groups]
        told = [f"{group['name']}: {group['kept']} of {group['units']} {group['kind']}" for group in cut]
        whole = [f"{lock['group']} stays whole: {lock['reason']}" for lock in node["locked"]]
        reasons[node["node"]] = bool(cut), "; ".join([*told, *whole]) or "stays whole"
    return reasons
