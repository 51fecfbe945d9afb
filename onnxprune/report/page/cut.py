"""The page of a cut: what the report of `prune` says, in sections."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from onnxprune.dependency.account import frees
from onnxprune.metrics.words import headline, row
from onnxprune.report.page.network import network
from onnxprune.report.page.parts import (
    accuracy_fact,
    again_section,
    amount,
    counts,
    file_name,
    notes_section,
    quantized_section,
    sentence,
    speed_words,
    time_section,
    where_text,
)
from onnxprune.report.page.plots import chart
from onnxprune.report.page.proven import proof_section, proven_words
from onnxprune.report.page.samples import samples_section
from onnxprune.report.page.tones import WORDS, half_losses, loss_at, tones_of
from onnxprune.report.page.views import Charts, Fact, Page, Section, Table
from onnxprune.report.prune import SEEN, calibration_parts, note_parts, step_parts
from onnxprune.report.words import LOSSES, ms_text, names_text, plural

_CHARTS = 12  # groups with a chart of their own
_MOST_ROWS = 250  # of a table of groups or layers
_PLACE = r" \(at .*\)"


def cut_page(report: Mapping[str, Any]) -> Page:
    """Return the page of a report of `prune`."""
    name = file_name(report["output"]["path"] or report["input"]["path"])
    sections = [
        Section("Before and after", "facts.html", _facts(report)),
        *quantized_section(report),
        *_picture(report),
        *time_section(report),
        *_curves(report),
        *_locks(report),
        *_fits(report),
        proof_section(report),
        *samples_section(report),
        *notes_section(_notes(report)),
        again_section(report, (("read", report["input"]), ("written", report["output"]))),
    ]
    return Page(
        name, f"pruned from {file_name(report['input']['path'])}", _verdict(report), sections, report["onnxprune"]
    )


def _notes(report: Mapping[str, Any]) -> Iterator[Any]:
    yield from step_parts(report)
    yield from calibration_parts(report)
    yield from note_parts(report)
    fidelity = report["fidelity"]
    if fidelity is not None and not fidelity["held_out"]:
        yield SEEN


def _verdict(report: Mapping[str, Any]) -> str:
    """Return what came out, in one sentence."""
    saved = report["input"]["macs"] / max(1, report["output"]["macs"])
    cut = [group for group in report["groups"] if group["kept"] < group["units"]]
    clauses = [f"{saved:.2f}× fewer multiplications", *map(speed_words, report["latency"])]
    accuracy, fidelity = report["accuracy"], report["fidelity"]
    if accuracy is not None:
        clauses.append(f"accuracy {accuracy['before']:.2%} before and {accuracy['after']:.2%} after")
    elif fidelity is not None:
        clauses.append(headline(fidelity["figures"]))
    else:
        had_data = (report["calibration"] or {}).get("source") == "data"
        clauses.append("accuracy not measured" + ": no data" * (not had_data))
    clauses.append(f"{len(cut)} of {plural(len(report['groups']), 'group')} cut")
    return sentence([*clauses, proven_words(report)])


def _facts(report: Mapping[str, Any]) -> list[Fact]:
    """Return the rows of the table of both models."""
    facts = counts(report["input"], report["output"])
    for latency in report["latency"]:
        label = f"latency, {where_text(latency)}"
        facts.append(amount(label, latency["before_ms"], latency["after_ms"], ms_text))
    accuracy = report["accuracy"]
    if accuracy is not None:
        facts.append(accuracy_fact(accuracy))
    cells = None if report["fidelity"] is None else row(report["fidelity"]["figures"])
    if cells is not None:
        facts.append(Fact(*cells, ""))
    return [*facts, *_cut_facts(report)]


def _cut_facts(report: Mapping[str, Any]) -> list[Fact]:
    """Return how many branches and units are left; units of the groups that lost some, as on the terminal."""
    facts, depth = [], report["depth"]
    if depth is not None:
        branches = depth["branches"]
        left = sum(not branch["removed"] for branch in branches)
        facts.append(amount("branches", len(branches), left, lambda value: f"{value:,}"))
    cut = [group for group in report["groups"] if group["kept"] < group["units"]]
    if cut:
        kept, units = (sum(group[key] for group in cut) for key in ("kept", "units"))
        facts.append(amount("units of the groups that were cut", units, kept, lambda value: f"{value:,}"))
    return facts


def _picture(report: Mapping[str, Any]) -> list[Section]:
    picture = network(report)
    if picture is None:
        return []
    shown = "what a group of layers cost before" if report.get("details") else "how many units a group had"
    lead = f"From the input, above, to the output. The length of a bar is {shown}, its filling what is left. "
    lead += "Open a row for more."
    return [Section("The network", "network.html", picture, lead)]


# -- loss curves -------------------------------------------------------------------------------------------


def _curves(report: Mapping[str, Any]) -> list[Section]:
    """Return the loss curves: charts of the groups that cost most, a table of all others, both as data flows."""
    groups = {group["name"]: group for group in report["groups"]}
    measured = report["curves"]
    curves = {name: measured[name] for name in groups if name in measured and _has_loss(measured[name])}
    if not curves:
        return []
    tones = tones_of(half_losses(curves, {name: group["units"] for name, group in groups.items()}))
    by_loss = sorted(curves, key=lambda name: -(_half(curves[name], groups[name]) or 0))
    first = set(by_loss[:_CHARTS])
    charts = [_curve(name, curves[name], groups[name], tones) for name in curves if name in first]
    others = [name for name in curves if name not in first]
    rest = None
    if others:
        rows = [_curve_row(name, curves[name], groups[name], tones) for name in others]
        headings = ("group", "units", "loss at 25 %", "at 50 %", "at the cut", "verdict")
        rest = Table(headings, rows[:_MOST_ROWS], left=(0, 5), shown=0, left_out=max(0, len(rows) - _MOST_ROWS))
    kind = (report["calibration"] or {}).get("metric")
    lead = (
        f"What the output loses when one group alone loses units{_of_metric(kind)}; the line marks what went. "
        + f"{'The groups that cost most' if others else 'All groups'} that were measured, in the order of the network."
    )
    return [Section("Loss curves", "charts.html", Charts(charts, rest), lead)]


def _has_loss(curve: Mapping[str, Any]) -> bool:
    return any(loss is not None for loss in curve["losses"] or ())


def _of_metric(kind: str | None) -> str:
    return f" ({LOSSES[kind]})" if kind in LOSSES else ""


def _half(curve: Mapping[str, Any], group: Mapping[str, Any]) -> float | None:
    return loss_at(curve["removed"], curve["losses"], group["units"] / 2)


def _curve(name: str, curve: Mapping[str, Any], group: Mapping[str, Any], tones: Mapping[str, str]) -> Any:
    points = [(at, loss) for at, loss in zip(curve["removed"], curve["losses"], strict=True) if loss is not None]
    gone = group["units"] - group["kept"]
    note = f"{gone:,} of {group['units']:,} {group['kind']} removed: {WORDS[tones[name]]}"
    return chart(
        name, [("", points)], x_label="removed", y_label="loss", note=note, mark=gone or None, tone=tones[name]
    )  # fmt: skip


def _curve_row(
    name: str, curve: Mapping[str, Any], group: Mapping[str, Any], tones: Mapping[str, str]
) -> tuple[str, ...]:
    gone = group["units"] - group["kept"]
    places = (group["units"] / 4, group["units"] / 2, gone)
    losses = [loss_at(curve["removed"], curve["losses"], at) for at in places]
    cells = ["–" if loss is None else f"{loss:.2e}" for loss in losses]
    return name, f"{group['units']:,} → {group['kept']:,}", *cells, WORDS[tones[name]]


# -- locks, fits ------------------------------------------------------------------------------------


def _locks(report: Mapping[str, Any]) -> list[Section]:
    """Return why groups and nodes stayed whole, by reason, with what would free them."""
    merged: dict[str, list[str]] = {}
    units: dict[str, int] = {}
    for group in report["groups"]:
        if group["kept"] == group["units"]:
            reason = re.sub(_PLACE, "", group["locked"] or "nothing asked for it")
            merged.setdefault(reason, []).append(group["name"])
            units[reason] = units.get(reason, 0) + group["units"]
    for node in report["nodes"]:
        for lock in node["locked"]:
            if lock["group"] is None:
                merged.setdefault(re.sub(_PLACE, "", lock["reason"]), []).append(node["node"])
    if not merged:
        return []
    rows = [
        (reason, names_text(names), f"{len(names):,}", f"{units[reason]:,}" if reason in units else "–", _free(reason))
        for reason, names in sorted(merged.items(), key=lambda item: -units.get(item[0], 0))
    ]
    headings = ("reason", "where", "count", "units", "what would free it")
    table = Table(headings, rows[:_MOST_ROWS], left=(0, 1, 4), left_out=max(0, len(rows) - _MOST_ROWS))
    return [Section("What stayed whole, and why", "table.html", table)]


def _free(reason: str) -> str:
    return frees(reason) if reason != "nothing asked for it" else "other options"


def _fits(report: Mapping[str, Any]) -> list[Section]:
    """Return which layers were refitted, with their errors on samples that the fit did not see."""
    fits = report["reconstruction"]
    if not fits:
        return []
    order = sorted(fits, key=lambda fit: -(fit["error_before"] or 0))
    rows = [
        (fit["node"], fit["op"], _share(fit["error_before"]), _share(fit["error_after"]), _how(fit)) for fit in order
    ]
    done = sum(fit["strength"] is not None for fit in fits)
    lead = (
        f"{done} of {plural(len(fits), 'layer')} were fitted anew to what they gave before. The error is that of their "
        "outputs over their variance, on samples that the fit did not see; the largest come first."
    )
    headings = ("layer", "operator", "error as cut", "error as fitted", "how")
    table = Table(headings, rows[:_MOST_ROWS], left=(0, 1, 4), left_out=max(0, len(rows) - _MOST_ROWS))
    return [Section("Layers that were refitted", "table.html", table, lead)]


def _share(error: float | None) -> str:
    return "–" if error is None else f"{error:.2%}" if error >= 1e-4 else f"{100 * error:.1e} %"


def _how(fit: Mapping[str, Any]) -> str:
    if fit["why_not"] is not None:
        return f"not fitted: {fit['why_not']}"
    if fit["strength"] is None:
        return "best as it was cut"
    strength = fit["strength"] if isinstance(fit["strength"], str) else f"ridge {fit['strength']:g}"
    return f"{strength}, {fit['rows']:,} rows" if fit["rows"] else strength
