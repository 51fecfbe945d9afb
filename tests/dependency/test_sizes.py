"""Sizes of many axes at once, against those of one after the other."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from onnxprune.dependency.axes import NONE, ONE, Atom, concat, kept_size
from onnxprune.dependency.sizes import Volumes
from tests.dependency.test_axes import compositions, examples


@examples
@given(st.data())
def test_volumes_are_the_products_of_kept_sizes(data):
    pool = []
    drawn = st.sampled_from([1, 2, 5, 6, 12, 24]).flatmap(lambda size: compositions(size, pool))
    axes_of = [tuple(data.draw(st.lists(drawn, max_size=3))) for _ in range(data.draw(st.integers(0, 4)))]
    fixed, sizes = ({atom: data.draw(st.integers(0, 9)) for atom in pool if data.draw(st.booleans())} for _ in range(2))
    volumes = Volumes(axes_of, fixed)
    for given_sizes in (sizes, {}, sizes):  # nothing is left of an earlier call
        merged = {**fixed, **given_sizes}
        expected = [math.prod(kept_size(axis, merged) for axis in axes) for axes in axes_of]
        assert volumes.at(given_sizes).tolist() == expected


def test_sizes_of_atoms_that_are_in_no_axis_count_nothing():
    assert Volumes([(Atom(3), ONE), (NONE,)], {}).at({Atom(5): 2}).tolist() == [3, 0]


def test_an_axis_that_joins_all_earlier_ones():
    """As in a dense network: the sizes of hundreds of parts, in every one of them."""
    atoms = [Atom(32) for _ in range(300)]
    volumes = Volumes([(concat(*atoms[: end + 1]), Atom(4)) for end in range(300)], {})
    assert volumes.at({atoms[0]: 16}).tolist() == [4 * (32 * (end + 1) - 16) for end in range(300)]
