"""What ``onnxprune sweep`` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxprune.metrics.words import main_figure
from onnxprune.report.words import all_printable, count_text, names_text, new_table, place_text, printable

if TYPE_CHECKING:
    from rich.console import RenderableType


def family_tables(summary: Mapping[str, Any]) -> list[RenderableType]:
    """Return what ``onnxprune sweep`` prints: a row per member."""
    headings, *rows = family_rows(summary)
    table = new_table(*headings[:-1])  # names of files are long, and tell what the first column tells
    for cells in rows:
        table.add_row(*all_printable(cells[:-1]))
    slower = [member["path"] for member in summary["members"] if _is_slower(member["latency"])]
    return [table, *[f"slower than the original: {printable(names_text(slower))}"] * bool(slower)]


def _is_slower(latency: Mapping[str, Any] | None) -> bool:
    return latency is not None and latency["speedup"] < 1 and not latency["within_noise"]


def family_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the headings of the table of a family, and a row for the original and for each member."""
    before, members = summary["input"], summary["members"]
    timed = members[0]["latency"]
    label, old, of = family_quality(summary)
    where = f"{place_text(timed['provider'], timed['threads'], timed.get('timer'))}, ms" if timed else "ms"
    quality = "-" if old is None else f"{old:.4g}"
    rows: list[tuple[str, ...]] = [
        (summary["kind"], "MACs", "params", where, "ratio", "95 % interval", label.split(",")[0], "seconds", "file"),
        (
            "original",
            count_text(before["macs"]),
            count_text(before["params"]),
            "",
            "1.000" if timed else "-",
            "",
            quality,
            "",
            "",
        ),
    ]
    for member in members:
        latency, value = member["latency"], of(member)
        low, high = (
            ("-", "-") if latency is None else (f"{1 / bound:.3f}" for bound in latency["speedup_interval"][::-1])
        )
        rows.append(
            (
                f"{member['value']:g}" if isinstance(member["value"], float) else str(member["value"]),
                f"{member['macs'] / max(1, before['macs']):.3f}x",
                f"{member['params'] / max(1, before['params']):.3f}x",
                "-" if latency is None else f"{latency['before_ms']:.3g} → {latency['after_ms']:.3g}",
                "-" if latency is None else f"{1 / latency['speedup']:.3f}" + " (noise)" * latency["within_noise"],
                "-" if latency is None else f"{low} to {high}",
                "-" if value is None else f"{value:.4g}",
                "-" if member["seconds"] is None else f"{member['seconds']:.1f}",
                member["path"],
            )
        )
    return rows


def family_quality(summary: Mapping[str, Any]) -> tuple[str, float | None, Callable[[Mapping[str, Any]], float | None]]:
    """Return the measure of quality of a family: its label, its value for the original, and a function of a member."""
    first = summary["members"][0]
    if first["accuracy"] is not None:
        samples = first["accuracy"]["samples"]
        return (
            f"accuracy in %, {samples} samples",
            100 * first["accuracy"]["before"],
            lambda m: 100 * m["accuracy"]["after"],
        )
    if first["fidelity"] is None:
        whole = max(1, summary["input"]["macs"])
        return "MACs, % (no data: nothing is known of quality)", 100.0, lambda m: 100 * m["macs"] / whole
    figures = first["fidelity"]["figures"]
    name, label, exact = main_figure(figures)
    return label, exact, lambda m: m["fidelity"]["figures"][name]


def without_model(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each value of a family of which there is no model."""
    return [
        printable(f"{summary['kind']} {each['value']}: no model, {each['why']}") for each in summary["without_model"]
    ]
