"""Charts of a sensitivity: a heat map as SVG, and a page with it, lines and all numbers as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

from onnxprune.plot import COLOURS, Row, Series, heat_map, line_chart
from onnxprune.report import LOSSES, printable, verdict_words
from onnxprune.sensitive import ROUND_OFF, Sensitivity

SHARES = tuple(number / 10 for number in range(1, 10))  # of the units, removed: columns of the heat map
_COLOURS = {"protect": "#c0392b", "free": "#2e8b57", None: "#777"}
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px sans-serif; margin: 24px; color: #333 }}
table {{ border-collapse: collapse }}
td, th {{ padding: 3px 10px; text-align: right; border-bottom: 1px solid #ddd }}
td:first-child, th:first-child {{ text-align: left }}
</style></head>
<body>"""


def as_svg(found: Sensitivity) -> str:
    """Return a heat map of the loss by group and share of removed units."""
    rows = [
        Row(group.name, [group.loss_at(share) for share in SHARES], verdict_words(group), _COLOURS[group.verdict])
        for group in found.groups
    ]
    columns = [f"{share:.0%}" for share in SHARES]
    label = "share of the units removed (empty: so many may not go, or the loss was not measured)"
    return heat_map(rows, columns, x_label=label, scale_label=LOSSES[found.metric], title=_title(found))


def as_html(found: Sensitivity) -> str:
    """Return a page: the heat map, lines of loss against saved MACs, and a table of every level."""
    return "\n".join([_HEAD.format(title=html.escape(_title(found))), as_svg(found), _lines(found), *_table(found), ""])


def _lines(found: Sensitivity) -> str:
    """Return lines of loss against saved MACs, by group where the colours suffice, else by verdict."""
    each, told, series = len(found.groups) <= len(COLOURS), set(), []
    for group in found.groups:
        name = group.name if each else "" if group.verdict in told else group.verdict or "neither"
        points = [(100 * level.macs, level.loss) for level in group.levels if (level.loss or 0) > ROUND_OFF]
        series.append(Series(name, points, None if each else _COLOURS[group.verdict]))  # type: ignore[arg-type]
        told.add(group.verdict)
    return line_chart(series, "MACs saved, %", LOSSES[found.metric], log_y=True, width=860)


def _title(found: Sensitivity) -> str:
    return printable(f"Sensitivity of {Path(found.path).name if found.path else 'the model'}")


def _table(found: Sensitivity) -> Iterator[str]:
    headings = ("group", "kind", "units", "removed", "loss", "MACs saved", "parameters saved", "verdict")
    yield "<table><tr>" + "".join(f"<th>{heading}</th>" for heading in headings) + "</tr>"
    for group in found.groups:
        for level in group.levels[1:]:
            loss = "-" if level.loss is None else f"{level.loss:.2e}"
            cells = (
                printable(group.name), group.kind, f"{group.units:,}", f"{level.removed:,}", loss,
                f"{level.macs:.1%}", f"{level.params:.1%}", verdict_words(group),
            )  # fmt: skip
            yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table></body></html>"
