"""Which branches may go, and which go in any case."""

from __future__ import annotations

import pytest

from onnxprune.dependency.branches import branches
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.graph.files.read import load
from onnxprune.planning.branches.removal import may_go, named
from onnxprune.planning.options import make_options
from tests.support.build import TOKENS, model


def network(y="float[] y"):
    return load(
        model(
            "a1 = MatMul(x, layers0_up)",
            "a2 = MatMul(a1, layers0_down)",
            "s = Add(x, a2)",
            "b1 = MatMul(s, layers1_up)",
            "b2 = MatMul(b1, layers1_down)",
            "y = Add(s, b2)",
            x=TOKENS,
            y=y,
            layers0_up=(16, 8),
            layers0_down=(8, 16),
            layers1_up=(16, 8),
            layers1_down=(8, 16),
        )
    )


def asked(found, **options):
    """Return the branches that may go, the reasons of the others, and those that go in any case."""
    each, checked = branches(trace(found)), make_options(depth=0.5, **options)
    able, reasons = may_go(found, each, checked)
    return [branch.name for branch in able], reasons, named(found, each, checked.without)


def test_all_may_go_that_nothing_holds():
    assert asked(network()) == (["a2", "b2"], {}, set())


def test_a_glob_of_ignore_spares_the_branches_that_it_touches():
    assert asked(network(), ignore=["layers0_*"])[:2] == (["b2"], {"a2": "left out by --ignore"})


def test_where_only_means_branches_the_others_stay():
    assert asked(network(), only=["layers0_*"])[:2] == (["a2"], {"b2": "left out by --only"})


def test_what_is_locked_says_why():
    able, reasons, _ = asked(network("float[] y, float[] a1"))
    assert able == ["b2"]
    assert reasons == {"a2": "it computes 'a1', which the model gives as outputs"}


@pytest.mark.parametrize("glob", ["a2", "layers0*", "a?"])
def test_branches_are_named_by_their_own_name_or_by_that_of_all_their_layers(glob):
    assert asked(network(), without=[glob])[2] == {"a2"}


@pytest.mark.parametrize("glob", ["layers0_up", "nothing"])
def test_a_glob_that_means_no_whole_branch_is_refused(glob):
    with pytest.raises(OptionError) as error:
        asked(network(), without=[glob])
    expected = f"without {glob!r}: no branch has this name, or layers of such names alone; branches are 'a2', 'b2'"
    assert str(error.value) == expected
