"""Small charts of lines: places of points, ticks and labels, for the templates that draw them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.report.page.views import Chart, Line, Tick


@dataclass(frozen=True)
class Frame:
    """The sizes of a chart, in units of its drawing: pixels where there is room."""

    width: int = 250
    height: int = 130
    left: int = 46
    right: int = 10
    top: int = 8
    under: int = 22  # for the numbers of the x axis


SMALL = Frame()
LARGE = Frame(width=680, height=320, left=64, right=16, top=12, under=26)


def chart(
    title: str,
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    x_label: str,
    y_label: str,
    note: str = "",
    frame: Frame = SMALL,
    mark: float | None = None,
    tone: str = "",
    from_zero: bool = True,
    y_most: float | None = None,
) -> Chart:
    """Return a chart of lines.

    Args:
        title: above it.
        series: by name, points ``(x, y)``; what is not finite is left out.
        x_label: what the x axis has.
        y_label: what the y axis has.
        note: under the title.
        frame: its sizes.
        mark: the x of a vertical line.
        tone: the class of the colour of the first line.
        from_zero: whether the y axis begins at 0.
        y_most: what no y can be above, as 1 of a share; the y axis ends there.
    """
    shown = [(name, [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]) for name, points in series]
    xs = [x for _, points in shown for x, _ in points] + ([] if mark is None else [mark])
    ys = [y for _, points in shown for _, y in points] + [0.0] * from_zero
    high = max(ys, default=1)
    if from_zero and high <= 0:
        high = 1.0
    x_ticks, y_ticks = (
        ticks(min(xs, default=0), max(xs, default=1), 4),
        ticks(min(ys, default=0), high, 4, y_most),
    )
    bottom = frame.height - frame.under

    def at_x(value: float) -> float:
        return _place(value, x_ticks, frame.left, frame.width - frame.right)

    def at_y(value: float) -> float:
        return _place(value, y_ticks, bottom, frame.top)

    lines = []
    for number, (name, points) in enumerate(shown):
        places = [(at_x(x), at_y(y)) for x, y in points]
        said = [f"{name}: {x:.4g}, {y:.3g}" if name else f"{x:.4g}: {y:.3g}" for x, y in points]
        dots = [(x, y, words) for (x, y), words in zip(places, said, strict=True)]
        joins = " ".join(f"{x},{y}" for x, y in places)
        lines.append(Line(joins, dots, name, number))
    return Chart(
        title, note, lines,
        x_ticks=[Tick(at_x(value), number_text(value)) for value in x_ticks],
        y_ticks=[Tick(at_y(value), number_text(value)) for value in y_ticks],
        x_label=x_label, y_label=y_label, width=frame.width, height=frame.height, left=frame.left, bottom=bottom,
        mark=None if mark is None else at_x(mark), tone=tone,
    )  # fmt: skip


def ticks(low: float, high: float, steps: int, most: float | None = None) -> list[float]:
    """Return round numbers, evenly spaced, that hold both bounds between the first and the last.

    Args:
        low: the least value.
        high: the largest one; where it is the least, the value comes to lie in the middle.
        steps: how many spaces there are, about.
        most: what no number is to be above.

    >>> ticks(0, 0.7, 4), ticks(3, 3, 4), ticks(1, 1, 4, 1.0)
    ([0.0, 0.2, 0.4, 0.6, 0.8], [2.0, 2.5, 3.0, 3.5, 4.0], [0.6, 0.8, 1.0])
    """
    if high <= low:
        room = abs(low) / 3 or 1.0
        return ticks(low - room, low + room, steps, most)
    raw = (high - low) / steps
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if most is not None:
        last = min(last, math.floor(most / step + 1e-9))
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def number_text(value: float) -> str:
    """Return a number of an axis, short.

    >>> number_text(0.0), number_text(2500.0), number_text(0.00012), number_text(1500000.0)
    ('0', '2500', '1.2e-4', '1.5e6')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:g}"
    digits, power = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def _place(value: float, all_ticks: Sequence[float], start: float, end: float) -> float:
    """Return where a value lies between the first and the last tick, which lie at `start` and `end`."""
    share = (value - all_ticks[0]) / (all_ticks[-1] - all_ticks[0])
    return round(start + share * (end - start), 1)
