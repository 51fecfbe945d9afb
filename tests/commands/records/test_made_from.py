"""What a result was made from: the same samples give the same values, others others."""

import numpy as np
import pytest

from onnxprune.commands.records.made_from import sources
from onnxprune.graph.view import view
from onnxprune.planning.options import make_options
from tests.training.pairs import classifier, pictures


def fingerprint(data):
    return sources(view(classifier()), make_options(), data)["data"][0]


@pytest.mark.parametrize("kind", [list, tuple])
def test_feeds_at_hand_are_told_by_their_numbers(kind):
    def made(seed=0, name="x"):
        return kind({name: each[None]} for each in pictures(3, seed=seed))

    assert fingerprint(made()) == fingerprint(made())
    assert len({fingerprint(made()), fingerprint(made(seed=1)), fingerprint(made(name="y"))}) == 3
    assert fingerprint(made()) != fingerprint(made()[::-1])


def test_arrays_are_told_by_their_numbers():
    assert fingerprint({"x": pictures(3)}) == fingerprint({"x": pictures(3)}) != fingerprint({"x": pictures(3) * 2})
    assert fingerprint(pictures(3)) == fingerprint(pictures(3))


def test_what_can_be_read_once_is_never_the_same():
    assert fingerprint(iter([{"x": np.zeros(2)}])) != fingerprint(iter([{"x": np.zeros(2)}]))
