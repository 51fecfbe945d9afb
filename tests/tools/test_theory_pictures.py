"""The pictures of the theory show what a trace finds: who carries an atom, and which cells go."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.support.paths import ROOT
from tools.pages.theory_pictures import FIGURES, Picture

SVG = "{http://www.w3.org/2000/svg}"


def picture(name, number=0):
    return Picture(*FIGURES[name][number])


def gone(drawn, name):
    """Return the shape of a tensor's cells, and how many of them go."""
    down, right = drawn.grid(name)
    rows = [stays for _, stays in drawn.indices(down)] if down is not None else [True]
    columns = [stays for _, stays in drawn.indices(right)]
    return (len(rows), len(columns)), sum(not (row and column) for row in rows for column in columns)


@pytest.mark.parametrize(
    ("figure", "tensor", "cells", "removed"),
    [
        ("atoms", "w2", (4, 6), 8),
        ("residual", "w2", (6, 6), 36 - 16),
        ("residual", "s", (1, 6), 2),
        ("concat", "w3", (4, 7), 12),
        ("flatten", "w2", (16, 3), 12),
        ("heads", "wo", (6, 8), 16),
        ("heads", "p", (1, 3), 1),
        ("heads", "y", (1, 8), 0),
    ],
)
def test_the_cells_that_go_follow_from_the_trace(figure, tensor, cells, removed):
    assert gone(picture(figure), tensor) == (cells, removed)


def test_an_axis_is_written_with_the_letters_of_its_figure():
    concat, heads = picture("concat"), picture("heads")
    assert [concat.label(axis) for axis in concat.axes("w3")] == ["4", "[c:4 + d:3]", "1", "1"]
    assert [heads.label(axis) for axis in heads.axes("wv")] == ["8", "(h:3 e:2)"]


def test_both_sides_of_the_proof_differ_in_the_cells_alone():
    masked, pruned = picture("proof", 0), picture("proof", 1)
    assert masked.is_masked("w2")
    assert not masked.is_masked("w1")
    assert gone(masked, "w2") == ((4, 6), 8)
    assert gone(pruned, "w2") == ((4, 4), 0)
    assert pruned.label(pruned.axes("w1")[0]) == "c:4"


@pytest.mark.parametrize("name", FIGURES)
def test_pictures_are_readable_in_the_dark(name):
    """Their own ground, and no text whose colour is fixed."""
    root = ET.fromstring((ROOT / "docs" / "pictures" / f"theory_{name}.svg").read_text(encoding="utf-8"))
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text
    assert root.find(f"{SVG}rect").get("class") == "back"
    assert [text.text for text in root.iter(f"{SVG}text") if not text.get("class")] == []
