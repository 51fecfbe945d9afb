"""Charts of a sensitivity, of comparisons and of a family: as SVG, and as a page with more numbers as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.evaluation.comparison import Comparison
from onnxprune.latency.speedup import QUANTILES
from onnxprune.planning.sensitivity import ROUND_OFF, Sensitivity
from onnxprune.report.family import family_quality, family_rows, without_model
from onnxprune.report.plot import COLOURS, Bars, Row, Series, bar_chart, heat_map, line_chart, stacked
from onnxprune.report.sensitivity import verdict_words
from onnxprune.report.words import LOSSES, printable

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


# -- families ----------------------------------------------------------------------------------------------


def family_svg(summary: Mapping[str, Any]) -> str:
    """Return what members of a family still do, against their measured latency; see `family.Family.summary`."""
    label, before, of = family_quality(summary)
    members = summary["members"]
    timed = all(member["latency"] for member in members)
    places = [] if before is None else [("original", (1.0, before))]
    for member in members:
        share = 1 / member["latency"]["speedup"] if timed else member["macs"] / max(1, summary["input"]["macs"])
        value = of(member)
        places += [] if value is None else [(f"{summary['kind']} {member['value']}", (share, value))]
    x_label = f"{'measured latency' if timed else 'MACs'} over the original's"
    line = Series("", sorted(point for _, point in places), _COLOURS[None])
    each = [Series(name, [point]) for name, point in places]
    return line_chart([line, *each], x_label, label, title=_family_title(summary))


def family_html(summary: Mapping[str, Any]) -> str:
    """Return a page: the plot of a family, and its table."""
    title = _family_title(summary)
    headings, *rows = family_rows(summary)
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in headings) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join(
        [_HEAD.format(title=html.escape(title)), family_svg(summary), *lines, "</table></body></html>", ""]
    )


def family_page(summary: Mapping[str, Any]) -> str:
    """Return the plot and the table as a page, and what is in neither."""
    sentences = "".join(f"<p>{html.escape(sentence)}</p>\n" for sentence in without_model(summary))
    return family_html(summary).replace("</body>", f"{sentences}</body>")


def _family_title(summary: Mapping[str, Any]) -> str:
    path = summary["input"]["path"]
    return printable(f"Pruned to several targets: {Path(path).name if path else 'the model'}")


# -- comparisons -------------------------------------------------------------------------------------------

_SIDES = ("before", "after")
_NOISE = "#999999"  # colour of a ratio that is within noise
_LONGEST = 12  # types of nodes that are drawn


def comparison_svg(found: Sequence[Comparison]) -> str:
    """Return charts of every comparison: latencies, ratios with intervals, samples per second, types of nodes."""
    return stacked([chart for each in found for chart in _charts(each)])


def comparison_html(found: Sequence[Comparison]) -> str:
    """Return a page with the same charts, and the numbers of each as a table."""
    tables = [line for each in found for line in _numbers(each)]
    head = _HEAD.format(title="Comparison")
    return "\n".join([head, comparison_svg(found), *tables, "</body></html>", ""])


def _setting(threads: int, batch: int) -> str:
    return f"{threads or 'all'} thread{'s' * (threads != 1)}, batch {batch}"


def _charts(found: Comparison) -> Iterator[str]:
    where = f"{found.provider}, {_setting(found.threads, found.batch)}"
    lines = [
        Series(name, list(zip(side.quantiles_ms, QUANTILES, strict=False)))
        for name, side in zip(_SIDES, (found.before, found.after), strict=True)
    ]
    names = [Path(side.path).name if side.path else "a model" for side in (found.before, found.after)]
    title = f"{names[0]} and {names[1]}: latency on {where}"
    yield line_chart(lines, "ms", "% of the runs take at most", title=title, height=300)
    rows: list[Any] = [(found.threads, found.batch, found.speedup, found.speedup_interval, found.within_noise)]
    ran = [point for point in found.sweep if point.speedup is not None]
    rows += [
        (p.threads, p.batch, p.speedup, p.speedup_interval, p.within_noise)
        for p in ran
        if (p.threads, p.batch) != rows[0][:2]
    ]
    yield bar_chart(
        [
            Bars(
                _setting(threads, batch) + " (within noise)" * noise,
                [ratio],
                [bounds],
                [_NOISE if noise else COLOURS[0]],
            )
            for threads, batch, ratio, bounds, noise in rows
        ],
        "times as fast; 1 is no difference",
        title="Speed-up with 95 % interval",
    )
    if ran:
        rates = [Bars(_setting(p.threads, p.batch), [p.before_per_s or 0, p.after_per_s or 0]) for p in ran]
        yield bar_chart(rates, "samples per second", names=_SIDES, title="Throughput")
    if found.ops:
        ops = [Bars(op.op, [op.before_ms, op.after_ms]) for op in found.ops[:_LONGEST]]
        yield bar_chart(ops, "ms", names=_SIDES, title="Time by type of node, by ONNX Runtime's profile")


def _numbers(found: Comparison) -> Iterator[str]:
    def row(cells: Sequence[str], tag: str = "td") -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(printable(cell))}</{tag}>" for cell in cells) + "</tr>"

    yield "<table>" + row(
        ("provider", "threads", "batch", "before, ms", "after, ms", "speed-up", "95 % interval", ""), "th"
    )
    first = found.threads, found.batch, found.before.median_ms, found.after.median_ms, found.speedup
    points: list[Any] = [(*first, found.speedup_interval, found.within_noise)]
    points += [
        (p.threads, p.batch, p.before_ms, p.after_ms, p.speedup, p.speedup_interval, p.within_noise)
        for p in found.sweep
        if p.why_not is None
    ]
    for threads, batch, old, new, ratio, (low, high), noise in points:
        cells = (found.provider, str(threads or "all"), str(batch), f"{old:.3f}", f"{new:.3f}", f"{ratio:.3f}")
        yield row((*cells, f"{low:.3f} to {high:.3f}", "within noise" * noise))
    yield "</table>"
    if found.ops:
        yield "<table>" + row(("node type", "nodes before", "nodes after", "before, ms", "after, ms"), "th")
        for op in found.ops:
            yield row((op.op, str(op.nodes_before), str(op.nodes_after), f"{op.before_ms:.3f}", f"{op.after_ms:.3f}"))
        yield "</table>"
