"""Pages in a browser: what is seen of those of three models, in two widths, light and dark.

Where no browser is found, the same pages are read as text alone, in `test_render`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from onnxprune.report.page.render import render
from tests.report.page import reports
from tests.support.browser import BROWSER, SCHEMES, seen

MODELS = ("vit", "resnet_bn", "mobilenet")
WIDTHS = (1280, 400)
REPORTS = {**{name: lambda name=name: reports.cut(name) for name in MODELS}, "hostile": reports.hostile}


@cache
def all_seen(scheme):
    pages = {f"{name} {width}": (render(make()), width) for name, make in REPORTS.items() for width in WIDTHS}
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return seen(pages, scheme, Path(folder))


if BROWSER is not None:

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("name", REPORTS)
    def test_nothing_is_cut_off_or_overlaps(name, width, scheme):
        of = all_seen(scheme)[f"{name} {width}"]
        for state in ("closed", "opened"):
            told = of[state]
            assert told["wide"] <= 0, "the page itself scrolls sideways"
            assert told["outside"] == []
            assert told["clipped"] == []
            assert told["overlapping"] == []
            assert told["texts"] > 100

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("name", REPORTS)
    def test_all_words_stand_out_from_what_is_behind_them(name, scheme):
        of = all_seen(scheme)[f"{name} 1280"]
        assert of["closed"]["faint"] == of["opened"]["faint"] == []

    @pytest.mark.parametrize("name", MODELS)
    def test_bars_show_another_cost_without_a_script(name):
        of = all_seen("light")[f"{name} 1280"]
        assert len(of["before"]) == len(of["switched"]) > 3
        assert of["before"] != of["switched"]
        assert max(of["switched"]) > 100

    def test_what_is_wrong_is_seen():
        """The measurements themselves: a page with a fault of each kind."""
        page = """<body style="background:#fff"><p style="color:#999">faint</p><p style="width:1500px">wide</p>
        <p style="width:20px;overflow:hidden;white-space:nowrap">clipped words</p>
        <svg width="100" height="20"><text x="0" y="15">one</text><text x="4" y="15">two</text>
        <text x="80" y="15">beyond</text></svg></body>"""
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            told = seen({"bad": (page, 1280)}, "light", Path(folder))["bad"]["closed"]
        assert told["wide"] > 0
        assert [words for _, words in told["faint"]] == ["faint"]
        assert told["clipped"] == ["clipped words"]
        assert told["overlapping"] == [["two", "one"]]
        assert told["outside"] == ["clipped words", "beyond"][1:]

    def test_names_that_are_an_attack_are_words():
        of = all_seen("light")["hostile 1280"]
        assert of["scripts"] == 1, "the one that measures"
        assert "<script>alert('x')</script>" in of["closed"]["words"]
        assert "{{ 7 * 7 }}" in of["closed"]["words"]
