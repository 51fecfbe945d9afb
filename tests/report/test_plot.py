"""Charts as SVG: they are well-formed, hold every value, and stay in their frame."""

from __future__ import annotations

import io
import math
import re
import sys
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onnxprune.errors import OptionError
from onnxprune.report.plot import (
    PNG_PIXELS,
    PNG_ZOOM,
    SCALE,
    Bars,
    Row,
    Series,
    as_png,
    bar_chart,
    heat_map,
    line_chart,
    stacked,
)

NS = "{http://www.w3.org/2000/svg}"
NAMES = ("plain", '<b> & "quoted"', "a\x00b\n", "x" * 200)


def parsed(svg):
    root = ET.fromstring(svg)
    width, height = (float(root.get(name)) for name in ("width", "height"))
    for each in root.iter():
        for name, end in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            assert 0 <= float(each.get(name, 0)) <= end, (each.tag, each.attrib)
    return root


def texts(root):
    return [each.text for each in root.iter(f"{NS}text")]


def fills(root):
    return [each.get("fill") for each in root.iter(f"{NS}rect") if each.find(f"{NS}title") is not None]


def test_lines_with_a_dot_for_each_point():
    root = parsed(line_chart([Series("a", [(0, 1), (1, 2), (2, 4)]), Series("", [(0, 3)])], "x", "y", title="t"))
    assert [len(g.findall(f"{NS}circle")) for g in root.iter(f"{NS}g")] == [3, 1]
    assert {"a", "x", "y", "t", "0", "0.5", "2"} <= set(texts(root))
    ys = [float(dot.get("cy")) for dot in root.iter(f"{NS}circle")]
    assert ys[0] > ys[1] > ys[3] > ys[2]


def test_logarithmic_axes_leave_out_what_they_cannot_show():
    points = [(1, 0.0), (10, 0.01), (100, 1.0), (0, 1.0), (5, math.inf), (5, math.nan)]
    root = parsed(line_chart([Series("a", points)], "x", "y", log_x=True, log_y=True))
    dots = list(root.iter(f"{NS}circle"))
    assert len(dots) == 2
    assert {"0.01", "0.1", "1", "10", "100"} <= set(texts(root))


def test_a_chart_of_nothing():
    parsed(line_chart([], "x", "y"))
    parsed(line_chart([Series("a", [])], "x", "y", log_x=True, log_y=True))
    parsed(heat_map([], ["1"], x_label="x", scale_label="s"))


@pytest.mark.parametrize("name", NAMES, ids=["plain", "markup", "control", "long"])
def test_any_name_can_be_shown(name):
    parsed(line_chart([Series(name, [(0, 1)])], name, "y", title="t"))
    root = parsed(heat_map([Row(name, [1.0])], ["1"], x_label="x", scale_label="s"))
    assert name.replace("\x00", r"\x00").replace("\n", r"\n") in root.find(f".//{NS}title").text


def test_what_costs_more_is_darker():
    values = [0.0, 1e-12, 1e-4, 1e-3, 0.01, 0.1, 1.0, math.inf]
    root = parsed(heat_map([Row("a", values)], [str(v) for v in values], x_label="x", scale_label="s"))
    shades = [sum(int(fill[i : i + 2], 16) for i in (1, 3, 5)) for fill in fills(root)]
    assert shades == sorted(shades, reverse=True)
    assert (fills(root)[0], fills(root)[1], fills(root)[-1]) == (SCALE[0], SCALE[0], SCALE[-1])


def test_what_is_not_there_is_grey():
    root = parsed(heat_map([Row("a", [1.0, None, math.nan])], "123", x_label="x", scale_label="s"))
    assert fills(root)[1:] == ["#f0f0f0"] * 2


@pytest.mark.parametrize("count", [1, 5, 150])
def test_every_row_has_its_name_and_note(count):
    rows = [Row(f"row {n}", [10.0**-n, None], f"note {n}", "#c0392b") for n in range(count)]
    root = parsed(heat_map(rows, ["1", "2"], x_label="x", scale_label="s", title="t"))
    assert {f"row {n}" for n in range(count)} | {f"note {n}" for n in range(count)} <= set(texts(root))
    assert len(fills(root)) == 2 * count
    assert re.search(r"row 0, 1: 1$", "\n".join(each.text for each in root.iter(f"{NS}title")), re.MULTILINE)


NUMBERS = st.floats(-1e12, 1e12, allow_nan=False, allow_subnormal=False) | st.sampled_from(
    [math.nan, math.inf, 0.0, 1e-300, 1e300]
)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6), st.booleans(), st.booleans())
def test_any_numbers_can_be_shown(points, log_x, log_y):
    parsed(line_chart([Series("a", points)], "x", "y", log_x=log_x, log_y=log_y))
    parsed(heat_map([Row("a", [abs(y) for _, y in points])], ["c"] * len(points), x_label="x", scale_label="s"))


def test_bars_with_their_intervals():
    bars = [
        Bars("a", [1.0, 2.0], [(0.5, 1.5), (1.0, 3.0)]),
        Bars("b", [4.0], colours=["#123456"]),
        Bars("c", [math.nan]),
    ]
    root = parsed(bar_chart(bars, "x", names=("before", "after"), title="t"))
    drawn = [each for each in root.iter(f"{NS}rect") if each.find(f"{NS}title") is not None]
    widths = [float(each.get("width")) for each in drawn]
    assert widths == pytest.approx([widths[0], 2 * widths[0], 4 * widths[0]], abs=0.2)
    assert [each.find(f"{NS}title").text for each in drawn] == ["a: 1", "a: 2", "b: 4"]
    assert drawn[2].get("fill") == "#123456"
    assert sum(line.get("stroke") == "#333" for line in root.iter(f"{NS}line")) == 6
    assert {"a", "b", "c", "x", "t", "before", "after"} <= set(texts(root))


def test_charts_below_one_another():
    one = bar_chart([Bars("a", [0.0])], "x")
    root = parsed(stacked([one, line_chart([], "x", "y"), one]))
    heights = [float(each.get("height")) for each in root.findall(f"{NS}svg")]
    assert [float(each.get("y")) for each in root.findall(f"{NS}svg")] == [0, heights[0], heights[0] + heights[1]]
    assert float(root.get("height")) == sum(heights)
    parsed(stacked([]))
    parsed(bar_chart([], "x"))


def test_pixels_show_bars_and_words():
    chart = bar_chart([Bars("a name to read", [1.0], colours=["#123456"])], "x")
    root, picture = parsed(chart), Image.open(io.BytesIO(as_png(chart))).convert("RGB")
    assert picture.size == tuple(PNG_ZOOM * float(root.get(side)) for side in ("width", "height"))
    colours = dict(map(reversed, picture.getcolors(picture.size[0] * picture.size[1])))
    assert colours[(0x12, 0x34, 0x56)] > 1000
    without = Image.open(io.BytesIO(as_png(chart.replace("a name to read", ""))))
    assert without.convert("L").tobytes().count(255) > picture.convert("L").tobytes().count(255) + 100  # ink


def test_pictures_of_many_rows_are_no_larger_than_viewers_take():
    picture = Image.open(io.BytesIO(as_png(heat_map([Row("r", [0.1])] * 600, ["c"], x_label="x", scale_label="s"))))
    assert max(picture.size) == pytest.approx(PNG_PIXELS, abs=PNG_PIXELS / min(picture.size))


def test_pixels_need_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(OptionError, match=r"plot \.png needs more packages: pip install 'onnxprune\[png\]'; \.svg "):
        as_png("<svg/>")
