"""Charts of a sensitivity, of comparisons and of a family: as SVG, and as a page with more numbers as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.evaluation.comparison import Comparison
from onnxprune.latency.speedup import QUANTILES
from onnxprune.planning.curves.sensitivity import ROUND_OFF, Sensitivity
from onnxprune.report.plot import COLOURS, Bars, Row, Series, bar_chart, heat_map, line_chart, stacked
from onnxprune.report.sensitivity import verdict_words
from onnxprune.report.sweep import family_quality, family_rows, without_model
from onnxprune.report.words import LOSSES, place_text, printable

SHARES = tuple(number / 10 for number in range(1, 10))  # of the units, removed: columns of the heat map
_COLOURS = {"protect": "#c0392b", "free": "#2e8b57", None: "#777"}
HEAD = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px sans-serif; margin: 24px; color: #333 }}
table {{ border-collapse: collapse }}
td, th {{ padding: 3px 10px; text-align: right; border-bottom: 1px solid #ddd }}
td:first-child, th:first-child {{ text-align: left }}
</style></head>
<body>"""


def sensitivity_svg(sensitivity: Sensitivity) -> str:
    """Return a heat map of the loss by group and share of removed units."""
    rows = [
        Row(group.name, [group.loss_at(share) for share in SHARES], verdict_words(group), _COLOURS[group.verdict])
        for group in sensitivity.groups
    ]
    columns = [f"{share:.0%}" for share in SHARES]
    label = "share of the units removed (empty: so many may not go, or the loss was not measured)"
    return heat_map(rows, columns, x_label=label, scale_label=LOSSES[sensitivity.metric], title=_title(sensitivity))


def sensitivity_html(sensitivity: Sensitivity) -> str:
    """Return a page: the heat map, lines of loss against saved MACs, and a table of every level."""
    head = HEAD.format(title=html.escape(_title(sensitivity)))
    return "\n".join([head, sensitivity_svg(sensitivity), _lines(sensitivity), *_table(sensitivity), ""])


def _lines(sensitivity: Sensitivity) -> str:
    """Return lines of loss against saved MACs, by group where the colours suffice, else by verdict."""
    by_group, labelled, series = len(sensitivity.groups) <= len(COLOURS), set(), []
    for group in sensitivity.groups:
        name = group.name if by_group else "" if group.verdict in labelled else group.verdict or "neither"
        points = [(100 * level.macs, level.loss) for level in group.levels if (level.loss or 0) > ROUND_OFF]
        series.append(Series(name, points, None if by_group else _COLOURS[group.verdict]))  # type: ignore[arg-type]
        labelled.add(group.verdict)
    return line_chart(series, "MACs saved, %", LOSSES[sensitivity.metric], log_y=True, width=860)


def _title(sensitivity: Sensitivity) -> str:
    return printable(f"Sensitivity of {Path(sensitivity.path).name if sensitivity.path else 'the model'}")


def _table(sensitivity: Sensitivity) -> Iterator[str]:
    headings = ("group", "kind", "units", "removed", "loss", "MACs saved", "parameters saved", "verdict")
    yield "<table><tr>" + "".join(f"<th>{heading}</th>" for heading in headings) + "</tr>"
    for group in sensitivity.groups:
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
    """Return the quality of the members of a family against their measured latency; see docs/sweep.md."""
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


def _family_html(summary: Mapping[str, Any]) -> str:
    """Return a page: the plot of a family, and its table."""
    title = _family_title(summary)
    headings, *rows = family_rows(summary)
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in headings) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([HEAD.format(title=html.escape(title)), family_svg(summary), *lines, "</table></body></html>", ""])


def family_page(summary: Mapping[str, Any]) -> str:
    """Return the plot and the table as a page, and the values without a model."""
    sentences = "".join(f"<p>{html.escape(sentence)}</p>\n" for sentence in without_model(summary))
    return _family_html(summary).replace("</body>", f"{sentences}</body>")


def _family_title(summary: Mapping[str, Any]) -> str:
    path = summary["input"]["path"]
    return printable(f"Pruned to several targets: {Path(path).name if path else 'the model'}")


# -- comparisons -------------------------------------------------------------------------------------------

_SIDES = ("before", "after")
_NOISE = "#999999"  # colour of a ratio that is within noise
_LONGEST = 12  # types of nodes that are drawn


def comparison_svg(comparisons: Sequence[Comparison]) -> str:
    """Return charts of every comparison: latencies, ratios with intervals, samples per second, types of nodes."""
    return stacked([chart for each in comparisons for chart in _charts(each)])


def comparison_html(comparisons: Sequence[Comparison]) -> str:
    """Return a page with the same charts, and the numbers of each as a table."""
    tables = [line for each in comparisons for line in _numbers(each)]
    head = HEAD.format(title="Comparison")
    return "\n".join([head, comparison_svg(comparisons), *tables, "</body></html>", ""])


def _setting(threads: int, batch: int) -> str:
    return f"{threads or 'all'} thread{'s' * (threads != 1)}, batch {batch}"


def _charts(comparison: Comparison) -> Iterator[str]:
    setting = _setting(comparison.threads, comparison.batch)
    where = f"{comparison.provider}, {setting}" if comparison.timer is None else place_text("", 0, comparison.timer)
    lines = [
        Series(name, list(zip(side.quantiles_ms, QUANTILES, strict=False)))
        for name, side in zip(_SIDES, (comparison.before, comparison.after), strict=True)
    ]
    names = [Path(side.path).name if side.path else "a model" for side in (comparison.before, comparison.after)]
    title = f"{names[0]} and {names[1]}: latency on {where}"
    yield line_chart(lines, "ms", "% of the runs take at most", title=title, height=300)
    at = comparison.threads, comparison.batch
    rows: list[Any] = [(*at, comparison.speedup, comparison.speedup_interval, comparison.within_noise)]
    ran = [point for point in comparison.sweep if point.speedup is not None]
    rows += [
        (p.threads, p.batch, p.speedup, p.speedup_interval, p.within_noise) for p in ran if (p.threads, p.batch) != at
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
    if comparison.ops:
        ops = [Bars(op.op, [op.before_ms, op.after_ms]) for op in comparison.ops[:_LONGEST]]
        yield bar_chart(ops, "ms", names=_SIDES, title="Time by type of node, by ONNX Runtime's profile")


def _numbers(comparison: Comparison) -> Iterator[str]:
    def row(cells: Sequence[str], tag: str = "td") -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(printable(cell))}</{tag}>" for cell in cells) + "</tr>"

    yield "<table>" + row(
        ("provider", "threads", "batch", "before, ms", "after, ms", "speed-up", "95 % interval", ""), "th"
    )
    before, after = comparison.before, comparison.after
    first = comparison.threads, comparison.batch, before.median_ms, after.median_ms, comparison.speedup
    points: list[Any] = [(*first, comparison.speedup_interval, comparison.within_noise)]
    points += [
        (p.threads, p.batch, p.before_ms, p.after_ms, p.speedup, p.speedup_interval, p.within_noise)
        for p in comparison.sweep
        if p.why_not is None
    ]
    for threads, batch, old, new, ratio, (low, high), noise in points:
        cells = (comparison.provider, str(threads or "all"), str(batch), f"{old:.3f}", f"{new:.3f}", f"{ratio:.3f}")
        yield row((*cells, f"{low:.3f} to {high:.3f}", "within noise" * noise))
    yield "</table>"
    if comparison.ops:
        yield "<table>" + row(("node type", "nodes before", "nodes after", "before, ms", "after, ms"), "th")
        for op in comparison.ops:
            yield row((op.op, str(op.nodes_before), str(op.nodes_after), f"{op.before_ms:.3f}", f"{op.after_ms:.3f}"))
        yield "</table>"
