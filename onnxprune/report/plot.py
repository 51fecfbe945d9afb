"""Charts as SVG text or PNG: lines, bars and heat maps. Pure functions of values; nothing is known of models here."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from xml.etree import ElementTree

from onnxprune.errors import OptionError

COLOURS = ("#1f6f8b", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#34495e", "#b03a7a", "#7f8c1f")
SCALE = ("#fdf6e3", "#fcd29f", "#f59a62", "#de5b5b", "#a62a6b", "#5b1a6b", "#241048")  # light to dark: also in grey
_INK, _GRID, _EMPTY = "#333", "#ddd", "#f0f0f0"
_CHAR = 6.6  # width of a character of 12 px, about
_DECADES = 6  # of a colour scale at most: what lies below is as light as nothing


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str  # in the legend; "" leaves it out
    points: Sequence[tuple[float, float]]
    colour: str | None = None
    joined: bool = True  # whether a line joins the points


@dataclass(frozen=True)
class Row:
    """One row of a heat map."""

    name: str
    values: Sequence[float | None]  # None where there is nothing to show
    note: str = ""  # to the right of it
    colour: str = _INK  # of the note


@dataclass(frozen=True)
class Bars:
    """Bars that stand together, under one name."""

    name: str
    values: Sequence[float]
    spans: Sequence[tuple[float, float]] = ()  # an interval for each value
    colours: Sequence[str] = COLOURS


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    width: int = 720,
    height: int = 400,
) -> str:
    """Return an SVG of lines with dots.

    Args:
        series: lines; points that are not finite, and those that a logarithmic axis cannot show, are left out.
        x_label: under the x axis.
        y_label: above the y axis.
        title: above all.
        log_x: whether the x axis is logarithmic.
        log_y: whether the y axis is.
        width: in pixels.
        height: in pixels.
    """
    shown = [(each, [p for p in each.points if _shows(p[0], log_x) and _shows(p[1], log_y)]) for each in series]
    x_axis = _Axis([x for _, points in shown for x, _ in points], log_x)
    y_axis = _Axis([y for _, points in shown for _, y in points], log_y)
    names = [each.name for each in series if each.name]
    legend = min(240, 30 + _CHAR * max(map(len, names))) if names else 0
    top, bottom, left, right = 62 if title else 36, height - 48, 64, width - 20 - legend
    colours = [each.colour or COLOURS[number % len(COLOURS)] for number, each in enumerate(series)]
    parts = _frame(title, width, height)
    for value, words in x_axis.ticks:
        x = left + x_axis.at(value) * (right - left)
        parts += [_line(x, top, x, bottom), _text(x, bottom + 18, words, "middle")]
    for value, words in y_axis.ticks:
        y = bottom - y_axis.at(value) * (bottom - top)
        parts += [_line(left, y, right, y), _text(left - 6, y + 4, words, "end")]
    for (each, points), colour in zip(shown, colours, strict=True):
        places = [(left + x_axis.at(x) * (right - left), bottom - y_axis.at(y) * (bottom - top)) for x, y in points]
        parts.append(_polyline(places, colour, each.name, each.joined))
    parts += [_text((left + right) / 2, height - 10, x_label, "middle"), _text(8, top - 14, y_label, "start")]
    listed = [(each.name, colour) for each, colour in zip(series, colours, strict=True) if each.name]
    for number, (name, colour) in enumerate(listed):
        y = top + 10 + 18 * number
        parts.append(f'<rect x="{right + 14:.1f}" y="{y - 6:.1f}" width="12" height="4" fill="{colour}"/>')
        parts.append(_text(right + 32, y, _short(name, int((legend - 30) / _CHAR) + 1), "start"))
    return "\n".join([*parts, "</svg>", ""])


def heat_map(
    rows: Sequence[Row], columns: Sequence[str], *, x_label: str, scale_label: str, title: str = "", width: int = 860
) -> str:
    """Return an SVG of one coloured row per name, on a logarithmic scale; it grows with the rows.

    Args:
        rows: of as many values as there are columns, at least 0. What is 0 or tiny has the lightest colour.
        columns: what stands under each column.
        x_label: under all columns.
        scale_label: beside the scale of colours.
        title: above all.
        width: in pixels.
    """
    step = 22 if len(rows) <= 40 else 15
    font = 12 if step > 15 else 10
    left = 24 + min(280.0, _CHAR * max((len(row.name) for row in rows), default=0) * font / 12)
    notes = 16 + _CHAR * max((len(row.note) for row in rows), default=0) * font / 12
    top, cell = 92 if title else 60, (width - left - notes) / max(1, len(columns))
    bottom = top + step * len(rows)
    low, high = _bounds([value for row in rows for value in row.values if value is not None])
    parts = [*_frame(title, width, int(bottom + 56)), *_scale(low, high, left, top - 44, scale_label)]
    for number, row in enumerate(rows):
        y = top + step * number
        parts.append(
            _text(left - 8, y + step / 2 + 4, _short(row.name, int(280 / _CHAR * 12 / font)), "end", size=font)
        )
        for column, (value, words) in enumerate(zip(row.values, columns, strict=True)):
            tooltip = f"{row.name}, {words}: {'-' if value is None else f'{value:.2g}'}"
            box = f'x="{left + column * cell:.1f}" y="{y}" width="{cell - 1:.1f}" height="{step - 1}"'
            parts.append(f'<rect {box} fill="{_fill(value, low, high)}"><title>{_safe(tooltip)}</title></rect>')
        parts.append(_text(width - notes + 8, y + step / 2 + 4, row.note, "start", size=font, colour=row.colour))
    for column, words in enumerate(columns):
        parts.append(_text(left + (column + 0.5) * cell, bottom + 18, words, "middle"))
    parts.append(_text(left + cell * len(columns) / 2, bottom + 42, x_label, "middle"))
    return "\n".join([*parts, "</svg>", ""])


def bar_chart(
    bars: Sequence[Bars], x_label: str, *, names: Sequence[str] = (), title: str = "", width: int = 720
) -> str:
    """Return an SVG of horizontal bars from 0; it grows with them.

    Args:
        bars: of values of at least 0, the uppermost first; what is not finite is left out.
        x_label: under the x axis.
        names: of the bars that stand together, for the legend.
        title: above all.
        width: in pixels.
    """
    thick, gap, left = 12, 8, 24 + min(280.0, _CHAR * max((len(each.name) for each in bars), default=0))
    top, right = (62 if title else 36), width - 30
    bottom = top + sum(thick * len(each.values) + gap for each in bars) + gap
    ends = [x for each in bars for x in (*each.values, *(x for span in each.spans for x in span)) if math.isfinite(x)]
    axis = _Axis([0.0, *ends] if any(ends) else [0.0, 1.0], False)
    parts = _frame(title, width, int(bottom + 48))
    for value, words in axis.ticks:
        x = left + axis.at(value) * (right - left)
        parts += [_line(x, top, x, bottom), _text(x, bottom + 18, words, "middle")]
    y = float(top + gap)
    for each in bars:
        middle = y + thick * len(each.values) / 2 + 4
        parts.append(_text(left - 8, middle, _short(each.name, int(280 / _CHAR)), "end"))
        for number, value in enumerate(each.values):
            if math.isfinite(value):
                long = (axis.at(value) - axis.at(0)) * (right - left)
                box = f'x="{left:.1f}" y="{y:.1f}" width="{long:.1f}" height="{thick - 2}"'
                tooltip = _safe(f"{each.name}: {value:.4g}")
                parts.append(f'<rect {box} fill="{each.colours[number]}"><title>{tooltip}</title></rect>')
            parts += _whisker(
                each.spans[number : number + 1], lambda x: left + axis.at(x) * (right - left), y + thick / 2 - 1
            )
            y += thick
        y += gap
    x = left
    for name, colour in zip(names, COLOURS, strict=False):
        parts += [f'<rect x="{x:.1f}" y="{top - 18}" width="12" height="8" fill="{colour}"/>']
        parts.append(_text(x + 18, top - 10, name, "start"))
        x += 40 + _CHAR * len(name)
    return "\n".join([*parts, _text((left + right) / 2, bottom + 40, x_label, "middle"), "</svg>", ""])


def _whisker(spans: Sequence[tuple[float, float]], at: Callable[[float], float], y: float) -> list[str]:
    """Return a line over an interval, with ends; nothing for none."""
    lines = []
    for low, high in spans:
        for x1, x2, half in ((at(low), at(high), 0), (at(low), at(low), 4), (at(high), at(high), 4)):
            place = f'x1="{x1:.1f}" y1="{y - half:.1f}" x2="{x2:.1f}" y2="{y + half:.1f}"'
            lines.append(f'<line {place} stroke="{_INK}" stroke-width="1.4"/>')
    return lines


def stacked(charts: Sequence[str]) -> str:
    """Return one SVG with several of ours, one below the other."""
    sizes = [[int(n) for n in re.findall(r'viewBox="0 0 (\d+) (\d+)"', chart)[0]] for chart in charts]
    parts, y = _frame("", max((w for w, _ in sizes), default=1), sum(h for _, h in sizes)), 0
    for chart, (_, height) in zip(charts, sizes, strict=True):
        parts.append(chart.replace("<svg ", f'<svg y="{y}" ', 1))
        y += height
    return "\n".join([*parts, "</svg>", ""])


# -- scales ------------------------------------------------------------------------------------------------


class _Axis:
    """Where values lie between the ends of an axis, and what is written at it."""

    def __init__(self, values: Sequence[float], log: bool) -> None:
        self._of: Callable[[float], float] = math.log10 if log else float
        low, high = (min(values), max(values)) if values else (1.0, 10.0)
        self.ticks = _log_ticks(low, high) if log else _ticks(low, high)
        ends = [self._of(value) for value in (low, high, self.ticks[0][0], self.ticks[-1][0])]
        self._low, self._high = min(ends), max(ends)

    def at(self, value: float) -> float:
        """Return the place of a value, from 0 to 1."""
        return (self._of(value) - self._low) / (self._high - self._low)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return four to nine round values around a range, with their words.

    >>> [words for _, words in _ticks(0, 0.9)]
    ['0', '0.2', '0.4', '0.6', '0.8', '1']
    """
    span = high - low if high - low > 1e-300 else max(abs(high), 1e-300)
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * factor for factor in (0.2, 0.5, 1, 2) if span / (power * factor) <= 6)
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), math.floor(low / step) + 1)
    return [(number * step, f"{number * step:.6g}") for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return the powers of ten around a range: nine at most.

    >>> [words for _, words in _log_ticks(0.02, 30)]
    ['0.01', '0.1', '1', '10', '100']
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    step = -(-(last - first) // 8)
    return [(10.0**power, f"{10.0**power:g}") for power in range(first, last + step, step)]


def _bounds(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten at the ends of the scale of colours."""
    known = [value for value in values if _shows(value, log=True)]
    high = math.ceil(math.log10(max(known))) if known else 0
    low = math.floor(math.log10(min(known))) if known else -1
    return min(max(low, high - _DECADES), high - 1), high


def _fill(value: float | None, low: int, high: int) -> str:
    if value is None or math.isnan(value):
        return _EMPTY
    at = 0.0 if value <= 0 else (math.log10(value) - low) / (high - low) if value < math.inf else 1.0
    return _colour(min(max(at, 0.0), 1.0))


def _colour(at: float) -> str:
    """Return the colour at a place of the scale, from 0 to 1."""
    place = at * (len(SCALE) - 1)
    lower = min(int(place), len(SCALE) - 2)
    one, two = ([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in SCALE[lower : lower + 2])
    return "#" + "".join(f"{round(a + (b - a) * (place - lower)):02x}" for a, b in zip(one, two, strict=True))


def _scale(low: int, high: int, left: float, y: float, label: str) -> list[str]:
    """Return a bar of all colours with the powers of ten under it."""
    width, pieces = 240, 48
    parts = []
    for piece in range(pieces):
        x, colour = left + width * piece / pieces, _colour(piece / (pieces - 1))
        parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width / pieces + 0.5:.1f}" height="10" fill="{colour}"/>')
    for power in range(low, high + 1):
        x = left + width * (power - low) / (high - low)
        words = ("\u2264 " if power == low else "") + f"{10.0**power:g}"
        parts.append(_text(x, y + 24, words, "middle", size=10))
    return [*parts, _text(left + width + 22, y + 10, label, "start")]


def _shows(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


# -- pixels ------------------------------------------------------------------------------------------------

PNG_ZOOM = 2  # pixels for each unit of the SVG: sharp on dense screens
PNG_PIXELS = 16_000  # of the longer side at most: viewers and browsers take no more


def as_png(svg: str) -> bytes:
    """Return a chart as the bytes of a PNG. Letters that Roboto lacks are drawn in a font of the system that has them.

    Raises:
        OptionError: where the packages that draw it are not installed.
    """
    drawing, fonts = drawing_packages()
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    zoom = min(PNG_ZOOM, PNG_PIXELS / max(width, height))
    font = {"font_files": [fonts.font_files["Roboto"]], "sans_serif_family": "Roboto"}
    return bytes(drawing.svg_to_bytes(svg_string=svg, width=round(zoom * width), **font))


def drawing_packages() -> tuple[ModuleType, ModuleType]:
    """Return the packages that make pixels of an SVG: one that draws, and the font that it draws with.

    Raises:
        OptionError: where they are not installed.
    """
    try:
        import font_roboto  # noqa: PLC0415
        import resvg_py  # noqa: PLC0415
    except ModuleNotFoundError:
        raise OptionError("plot .png needs more packages: pip install 'onnxprune[png]'; .svg needs none") from None
    return resvg_py, font_roboto


# -- pieces ------------------------------------------------------------------------------------------------


def _frame(title: str, width: int, height: int) -> list[str]:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    return [*parts, _text(12, 24, title, "start", size=15)] if title else parts


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_GRID}"/>'


def _polyline(places: Sequence[tuple[float, float]], colour: str, name: str, joined: bool) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places)
    line = f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>' if joined else ""
    return f'<g fill="{colour}"><title>{_safe(name)}</title>{line}{dots}</g>'


def _text(x: float, y: float, words: str, anchor: str, *, size: int = 12, colour: str = _INK) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {place}>{_safe(words)}</text>"


def _short(name: str, most: int) -> str:
    """Return a name that is too long without its middle.

    >>> _short("model/layers.0/attention/weight", 16)
    'model/l…n/weight'
    """
    return name if len(name) <= most else f"{name[: (most - 1) // 2]}…{name[-(most // 2) :]}"


def _safe(words: str) -> str:
    """Return text for XML: escaped, and control characters, which it cannot hold, as they are written in Python."""
    return html.escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words))
