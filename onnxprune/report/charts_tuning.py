"""Charts of tuning: losses over steps, and the range test; as SVG, and as a page with all numbers as HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxprune.metrics.words import main_figure
from onnxprune.report.charts import HEAD
from onnxprune.report.plot import Series, line_chart, stacked
from onnxprune.report.words import printable


def tuning_svg(report: Mapping[str, Any]) -> str:
    """Return the losses over steps, the figure that tells most, and the range test where there was one."""
    history = report["history"]
    losses = [
        Series("training", [(each["step"], each["loss"]) for each in history if each["loss"] is not None]),
        Series("held out", [(each["step"], each["held"]) for each in history if each["held"] is not None]),
    ]
    charts = [line_chart(losses, "step", "loss", title=_title(report), log_y=_is_positive(losses))]
    if history[0]["figures"]:
        name, words, _ = main_figure(history[0]["figures"])
        points = [(each["step"], each["figures"][name]) for each in history if each["figures"].get(name) is not None]
        charts.append(line_chart([Series("held out", points)], "step", words))
    if report["rates"]:
        points = [(rate, math.exp(loss)) for rate, loss in report["rates"]]
        label = "loss over that of the first weights, smoothed"
        charts.append(
            line_chart([Series("", points)], f"learning rate (taken: {report['rate']:.2g})", label, log_x=True)
        )
    return stacked(charts)


def _is_positive(series: list[Series]) -> bool:
    return all(y > 0 for each in series for _, y in each.points)


def tuning_html(report: Mapping[str, Any]) -> str:
    """Return a page: the plot, and a table of all measurements."""
    figures = list(report["history"][0]["figures"])
    headings = ("step", "seconds", "loss", "held out", "rate", "samples/s", *figures)
    rows = ["<table><tr>" + "".join(f"<th>{html.escape(heading)}</th>" for heading in headings) + "</tr>"]
    for each in report["history"]:
        values = [each[name] for name in ("step", "seconds", "loss", "held", "rate", "samples_per_s")]
        values += [each["figures"].get(name) for name in figures]
        cells = ["-" if value is None else f"{value:.6g}" for value in values]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = HEAD.format(title=html.escape(_title(report)))
    return "\n".join([head, tuning_svg(report), *rows, "</table></body></html>", ""])


def _title(report: Mapping[str, Any]) -> str:
    path = report["input"]["path"]
    return printable(f"Tuning of {Path(path).name if path else 'the model'}")
