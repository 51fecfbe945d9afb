"""Globs of groups: brackets stand for themselves where a name has them; what is near is said."""

from __future__ import annotations

import re

import pytest

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.graph.files.read import load
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


def test_a_shape_says_what_groups_keep_and_leaves_the_others_alone():
    """One group by its kind would be all four; the last one is an output, and locked."""
    assert selected(shape="neurons=4") == {"w1": 0.75, "w2": 0.75, "w3": 0.75}
    assert selected(shape={"w2": 12}) == {"w2": 0.25}
    assert selected(shape={"w[13]": 8}, ratio=0.5) == {"w1": 0.5, "w2": 0.5, "w3": 0.5}
    assert selected(shape={"neurons": 8}, ignore="w1") == {"w2": 0.5, "w3": 0.5}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            "heads=8",
            "shape heads=8: this model has no heads and no group of this name; units that can be removed are",
        ),
        ("neurons=20", "shape neurons=20: group 'w1' has 16 neurons; ask for fewer, or leave it out with --ignore"),
        ("w4=2", "shape w4=2: no group of these can lose units: it is part of the graph output 'y'"),
        ("neurons", "shape takes KIND=N,... such as heads=8,neurons=1024, got"),
        ("neurons=8,neurons=4", "shape has 'neurons' twice: give one count"),
        ("neurons=many", "shape neurons must be a whole number, got 'many'"),
        ("neurons=0", "shape neurons must be at least 1, got 0"),
        (3, "shape takes KIND=N,... such as heads=8,neurons=1024, got 3"),
    ],
)
def test_shapes_that_cannot_be(shape, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        selected(shape=shape)


def test_least_counts_by_glob():
    assert make_options(min_units={"w1": 3}).min_units == (("w1", 3),)
    with pytest.raises(OptionError, match=re.escape("min_units of 'w1' must be at least 1, got 0")):
        make_options(min_units={"w1": 0})
    with pytest.raises(OptionError, match=re.escape("min_units must be a whole number, got 'a'")):
        make_options(min_units="a")
