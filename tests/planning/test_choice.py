"""Globs of groups: brackets stand for themselves where a name has them; what is near is said."""

from __future__ import annotations

import pytest

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.graph.read import load
from onnxprune.planning.choice import select_ratios
from onnxprune.planning.options import make_options
from tests.support.build import ROWS, model

NODES = ("Seq/Linear[0]", "Seq/Linear[1]", "Seq/Linear[10]", "head")


def selected(**options):
    proto = model(
        "a = MatMul(x, w1)", "b = MatMul(a, w2)", "c = MatMul(b, w3)", "y = MatMul(c, w4)",
        x=ROWS, w1=(6, 16), w2=(16, 16), w3=(16, 16), w4=(16, 5),
    )  # fmt: skip
    for node, name in zip(proto.graph.node, NODES, strict=True):
        node.name = name
    found = groups(trace(load(proto)))
    ratios = select_ratios(found, make_options(**options))
    return {name: ratio for name, ratio in ratios.items() if ratio}


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("Seq/Linear[0]", {"w1"}),
        ("*Linear[1]", {"w2"}),
        ("*[1*", {"w2", "w3"}),
        ("Seq/Linear?[01]?", {"w1", "w2"}),  # no name has these brackets: they list characters
        ("w[12]", {"w1", "w2"}),
    ],
)
def test_brackets_are_part_of_a_name_unless_that_matches_nothing(glob, names):
    assert set(selected(only=[glob])) == names
    assert set(selected(ratio=0, ratios={glob: 0.5})) == names


def test_brackets_are_part_of_a_name_for_what_is_spared():
    assert "w3" in selected(ignore=["Seq/Linear[0]"])
    assert set(selected(ignore=["*Linear[1*"])) == set()


@pytest.mark.parametrize(
    ("glob", "near"),
    [
        ("Seq/Linaer[1]", "near are 'Seq/Linear[1]', 'Seq/Linear[10]', 'Seq/Linear[0]'; "),
        ("linear*", "near are 'Seq/Linear[0]', 'Seq/Linear[1]', 'Seq/Linear[10]'; "),
        ("W2", "near are 'w2', "),
        ("zzzz", "of one; 'onnxprune inspect --json' lists them"),
        ("***x*y*z", "of one; "),
    ],
)
def test_a_glob_that_matches_nothing_says_what_is_near(glob, near):
    with pytest.raises(OptionError) as caught:
        selected(only=[glob])
    assert str(caught.value).startswith(f"{glob!r} matches no group, and no node or weight of one; ")
    assert near in str(caught.value)
