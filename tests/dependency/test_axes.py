"""The axis algebra against a numpy model: an axis is an array of the unit indices that lie along it."""

from __future__ import annotations

import itertools
from contextlib import suppress
from itertools import pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.dependency.axes import (
    NONE,
    ONE,
    Atom,
    Lock,
    Product,
    Sum,
    concat,
    fresh,
    kept_mask,
    kept_size,
    outer_factors,
    positions,
    product,
    taken,
    walk,
)
from onnxprune.dependency.partition import Partition
from onnxprune.errors import CannotUnify

WHY = Lock("it is an output", "y")
MIXED = Lock("Softmax normalises over it", "softmax")
examples = settings(max_examples=150, deadline=None, derandomize=True)


# -- random axes ---------------------------------------------------------------------------------------------


@st.composite
def compositions(draw, size, pool, depth=3):
    """Draw an axis of `size` indices; atoms of `pool` are used again, so that they occur several times."""
    if size == 1:
        return ONE
    kind = draw(st.sampled_from(["atom", "product", "sum"])) if depth else "atom"
    divisors = [d for d in range(2, size) if size % d == 0]
    if kind == "product" and divisors:
        outer = draw(st.sampled_from(divisors))
        return product(*(draw(compositions(part, pool, depth - 1)) for part in (outer, size // outer)))
    if kind == "sum":
        first = draw(st.integers(1, size - 1))
        return concat(*(draw(compositions(part, pool, depth - 1)) for part in (first, size - first)))
    old = [atom for atom in pool if atom.size == size]
    if old and draw(st.booleans()):
        return draw(st.sampled_from(old))
    atom = Atom(size, f"a{len(pool)}")
    pool.append(atom)
    return atom


@st.composite
def pairs(draw, size=None):
    """Draw two axes of one size, and their atoms."""
    pool = []
    size = size or draw(st.sampled_from([4, 6, 12, 24]))
    left, right = (draw(compositions(size, pool)) for _ in range(2))
    return left, right, pool


@st.composite
def axes_with_masks(draw):
    """Draw an axis, its atoms, and a kept mask for some of them."""
    pool = []
    axis = draw(compositions(draw(st.sampled_from([1, 5, 12, 24])), pool))
    masks = {
        atom: np.array(draw(st.lists(st.booleans(), min_size=atom.size, max_size=atom.size)))
        for atom in pool
        if draw(st.booleans())
    }
    return axis, pool, masks


def units(axis):
    """Return, for each index of an axis, the set of (atom, unit) it is made of."""
    if isinstance(axis, Atom):
        return [frozenset({(axis, i)}) for i in range(axis.size)]
    if isinstance(axis, Sum):
        return [index for part in axis.parts for index in units(part)]
    found = [frozenset()]
    for factor in axis.factors:
        found = [outer | inner for outer in found for inner in units(factor)]
    return found


def same_cuts(partition, left, right, seed=0):
    """Whether both axes lose the same indices, whatever units their atoms lose."""
    left, right = partition.resolve(left), partition.resolve(right)
    rng = np.random.default_rng(seed)
    masks = {atom: rng.random(atom.size) < 0.5 for atom in (*walk(left), *walk(right))}
    return np.array_equal(kept_mask(left, masks), kept_mask(right, masks))


def unified(left, right):
    partition = Partition()
    partition.unify(left, right)
    assert same_cuts(partition, left, right)
    return partition


def sizes(axis):
    return [part.size for part in (axis.parts if isinstance(axis, Sum) else axis.factors)]


# -- building ------------------------------------------------------------------------------------------------


def test_products_are_flat_and_drop_one():
    a, b, c = Atom(2), Atom(3), Atom(4)
    assert product(product(a, b), ONE, c) == Product((a, b, c), 24)
    assert product(a) is a
    assert product(ONE, ONE) is ONE


def test_a_sum_in_front_of_a_product_is_distributed():
    a, b, c = Atom(2), Atom(3), Atom(4)
    assert product(concat(a, b), c) == concat(product(a, c), product(b, c))


def test_a_sum_inside_a_product_stays():
    a, b = Atom(2), Atom(3)
    assert product(a, concat(b, b)).factors == (a, concat(b, b))


def test_sums_are_flat_and_drop_empty_parts():
    a, b = Atom(2), Atom(3)
    assert concat(concat(a, b), NONE, a) == Sum((a, b, a), 7)
    assert concat(NONE, a) is a
    assert concat() is NONE


def test_no_axis_has_a_negative_size():
    with pytest.raises(CannotUnify, match=r"^an axis cannot have -3 indices$"):
        fresh(-3)


@pytest.mark.parametrize(("size", "expected"), [(0, NONE), (1, ONE)])
def test_sizes_zero_and_one_need_no_atom(size, expected):
    assert fresh(size) is expected


def test_fresh_makes_a_new_atom_each_time():
    assert fresh(4, "c", dynamic=True) is not fresh(4, "c", dynamic=True)
    assert fresh(4, "c", dynamic=True).dynamic


def test_different_atoms_of_one_size_differ():
    assert product(Atom(2), Atom(3)) != product(Atom(2), Atom(3))


@pytest.mark.parametrize(
    ("axis", "shown"),
    [
        (Atom(4, "c"), "c:4"),
        (ONE, "1"),
        (NONE, "[]"),
        (product(Atom(2, "h"), concat(Atom(3, "d"), ONE)), "(h:2 [d:3 + 1])"),
    ],
    ids=["atom", "one", "none", "nested"],
)
def test_show(axis, shown):
    assert Partition().show(axis) == shown


# -- the numpy model -------------------------------------------------------------------------------------------


@examples
@given(axes_with_masks())
def test_kept_mask_agrees_with_the_numpy_model(drawn):
    axis, _, masks = drawn
    expected = [all(masks[atom][unit] for atom, unit in index if atom in masks) for index in units(axis)]
    assert kept_mask(axis, masks).tolist() == expected


@examples
@given(axes_with_masks())
def test_positions_are_the_indices_that_a_unit_takes_part_in(drawn):
    axis, pool, _ = drawn
    for atom in pool:
        found = positions(axis, atom)
        assert found.shape[0] == atom.size
        for unit in range(atom.size):
            expected = {i for i, index in enumerate(units(axis)) if (atom, unit) in index}
            assert set(found[unit].tolist()) == expected


@examples
@given(axes_with_masks())
def test_kept_size_counts_kept_indices_of_axes_without_repeated_factors(drawn):
    axis, _, masks = drawn
    if not any(len(set(walk(p))) < len(list(walk(p))) for p in products(axis)):
        counts = {atom: int(mask.sum()) for atom, mask in masks.items()}
        assert kept_size(axis, counts) == kept_mask(axis, masks).sum()


def products(axis):
    """Yield the products of an axis, at all depths."""
    if isinstance(axis, Atom):
        return
    if isinstance(axis, Product):
        yield axis
    for child in axis.factors if isinstance(axis, Product) else axis.parts:
        yield from products(child)


def test_positions_of_an_atom_that_is_not_there():
    assert positions(product(Atom(2), Atom(3)), Atom(4)).shape == (4, 0)
    assert positions(Atom(2), Atom(4)).shape == (4, 0)


def test_the_mask_of_an_empty_axis_is_empty():
    assert kept_mask(NONE, {}).shape == (0,)
    assert kept_mask(NONE, {}).dtype == bool


# -- unify: one test a row of the table --------------------------------------------------------------------------


def test_atom_and_atom_become_one_class():
    a, b = Atom(4, "a"), Atom(4, "b")
    p = unified(a, b)
    assert p.resolve(a) is p.resolve(b)


def test_an_atom_is_bound_to_a_composition():
    a, h, d = Atom(6, "a"), Atom(2, "h"), Atom(3, "d")
    assert unified(a, product(h, d)).resolve(a) == product(h, d)
    assert unified(concat(h, ONE, d), a).resolve(a) == concat(h, ONE, d)


def test_products_are_refined_at_common_boundaries():
    a, b, c, d = Atom(2, "a"), Atom(12, "b"), Atom(6, "c"), Atom(4, "d")
    p = unified(product(a, b), product(c, d))
    assert sizes(p.resolve(product(a, b))) == [2, 3, 4]
    assert p.resolve(product(a, b)) == p.resolve(product(c, d))


def test_a_factor_that_occurs_twice_is_refined_in_both_places():
    a, x, y, z = Atom(4, "a"), Atom(4, "x"), Atom(2, "y"), Atom(2, "z")
    p = unified(product(a, a), product(x, y, z))
    assert sizes(p.resolve(product(a, a))) == [2, 2, 2, 2]
    assert p.resolve(x) == p.resolve(product(y, z)) == p.resolve(a)


def test_products_without_a_common_refinement_are_refused():
    with pytest.raises(CannotUnify, match=r"^y:4 is no multiple of 3$"):
        Partition().unify(product(Atom(6, "x"), Atom(4, "y")), product(Atom(8, "u"), Atom(3, "v")))


def test_sums_are_cut_at_the_union_of_boundaries():
    a, b, c, d = Atom(2, "a"), Atom(6, "b"), Atom(5, "c"), Atom(3, "d")
    p = unified(concat(a, b), concat(c, d))
    assert sizes(p.resolve(concat(a, b))) == [2, 3, 3]
    assert p.resolve(concat(a, b)) == p.resolve(concat(c, d))


def test_a_sum_cuts_the_first_factor_of_a_product():
    q, k, v, h, d = (Atom(size, name) for size, name in [(8, "q"), (8, "k"), (8, "v"), (2, "h"), (4, "d")])
    p = unified(product(concat(ONE, ONE, ONE), h, d), concat(q, k, v))
    assert p.resolve(q) == p.resolve(k) == p.resolve(v) == product(h, d)


def test_a_locked_three_in_front_couples_queries_keys_and_values():
    three, h, d = Atom(3, "three"), Atom(2, "h"), Atom(4, "d")
    q, k, v = (Atom(8, name) for name in "qkv")
    p = unified(product(three, h, d), concat(q, k, v))
    assert p.resolve(q) == p.resolve(k) == p.resolve(v) == product(h, d)
    assert p.atoms(three) == ()


def test_a_cut_at_a_multiple_of_the_rest_cuts_the_first_factor():
    a, b = Atom(6, "a"), Atom(4, "b")
    p = Partition()
    head, tail = p.split(product(a, b), 8)
    assert (p.show(head), p.show(tail)) == ("(a:2 b:4)", "(a:4 b:4)")


def test_any_other_cut_expands_the_first_factor():
    a, b = Atom(2, "a"), Atom(4, "b")
    p = Partition()
    head, tail = p.split(product(a, b), 3)
    assert p.resolve(a) == concat(ONE, ONE)
    assert sizes(p.resolve(product(a, b))) == [3, 1, 3, 1]
    assert (head.size, p.resolve(tail).size) == (3, 5)


def test_a_factor_of_a_sum_is_common_to_its_parts():
    a, b = Atom(6, "a"), Atom(4, "b")
    p = Partition()
    outer, inner = p.factor(concat(a, b), 2)
    assert sizes(p.resolve(outer)) == [3, 2]
    assert p.resolve(a).factors[1] is p.resolve(b).factors[1] is p.resolve(inner)


def test_a_factor_that_divides_not_every_part_cuts_the_sum_into_equal_pieces():
    a, b = Atom(4, "a"), Atom(8, "b")
    p = unified(concat(a, b), product(Atom(2, "k"), Atom(6, "i")))
    assert p.show(concat(a, b)) == "[i:4 + i:2 + i:4 + i:2]"


# -- unify: any two axes -----------------------------------------------------------------------------------------


@examples
@given(pairs())
def test_unified_axes_lose_the_same_indices(drawn):
    left, right, _ = drawn
    p = Partition()
    try:
        p.unify(left, right)
    except CannotUnify:
        return
    assert same_cuts(p, left, right)


def coupled(partition, pool):
    """Return, for each index of the atoms of `pool`, the first one that is cut with it."""
    found = [index for atom in pool for index in units(partition.resolve(atom))]
    return [found.index(index) for index in found]


@examples
@given(pairs())
def test_unify_is_symmetric(drawn):
    left, right, pool = drawn
    told = []
    for one, other in [(left, right), (right, left)]:
        p = Partition()
        try:
            p.unify(one, other)
        except CannotUnify:
            told.append(None)
        else:
            told.append(coupled(p, pool))
    assert told[0] == told[1]


@examples
@given(pairs())
def test_sizes_are_preserved_even_by_a_refusal(drawn):
    left, right, pool = drawn
    p = Partition()
    with suppress(CannotUnify):
        p.unify(left, right)
    for axis in (left, right, *pool):
        assert (
            p.resolve(axis).size == axis.size == kept_size(p.resolve(axis), {}) == len(kept_mask(p.resolve(axis), {}))
        )


@examples
@given(pairs())
def test_resolve_and_unify_are_idempotent(drawn):
    left, right, pool = drawn
    p = Partition()
    try:
        p.unify(left, right)
    except CannotUnify:
        return
    once = [p.resolve(axis) for axis in (left, right, *pool)]
    p.unify(left, right)
    assert [p.resolve(axis) for axis in (left, right, *pool)] == once
    assert [p.resolve(axis) for axis in once] == once


@examples
@given(pairs(), st.data())
def test_locks_and_mixes_survive_refinement(drawn, data):
    left, right, pool = drawn
    chosen = data.draw(st.sampled_from(pool)) if pool else ONE
    p = Partition()
    p.lock(chosen, WHY)
    p.mix(chosen, MIXED)
    with suppress(CannotUnify):
        p.unify(left, right)
    for atom in p.atoms(chosen):
        assert p.lock_of(atom) is WHY
        assert p.mix_of(atom) is MIXED


@examples
@given(pairs(), st.data())
def test_a_cut_never_expands_a_dynamic_atom(drawn, data):
    left, _, pool = drawn
    for atom in pool:
        atom.dynamic = data.draw(st.booleans())
    p = Partition()
    with suppress(CannotUnify):
        p.split(left, data.draw(st.integers(0, left.size)))
    for atom in pool:
        assert not atom.dynamic or any(found.dynamic for found in walk(p.resolve(atom)))


@examples
@given(pairs(), st.data())
def test_split_and_factor_give_back_the_axis(drawn, data):
    left, right, _ = drawn
    p = Partition()
    head, tail = p.split(left, data.draw(st.integers(0, left.size)))
    assert same_cuts(p, concat(p.resolve(head), p.resolve(tail)), left)
    try:
        outer, inner = p.factor(right, data.draw(st.integers(1, right.size)))
    except CannotUnify:
        return
    assert same_cuts(p, product(p.resolve(outer), p.resolve(inner)), right)


@examples
@given(pairs(), st.data())
def test_split_and_factor_are_idempotent(drawn, data):
    left, right, pool = drawn
    at, inner = data.draw(st.integers(0, left.size)), data.draw(st.integers(1, right.size))
    p = Partition()
    with suppress(CannotUnify):
        p.split(left, at)
        p.factor(right, inner)
        once = [p.resolve(axis) for axis in (left, right, *pool)]
        head, tail = p.split(left, at)
        assert (p.resolve(head).size, p.resolve(tail).size) == (at, left.size - at)
        p.factor(right, inner)
        assert [p.resolve(axis) for axis in (left, right, *pool)] == once


@st.composite
def equations(draw):
    """Return a few pairs of axes of one size each, over common atoms, and the atoms."""
    pool = []
    sides = []
    for size in draw(st.lists(st.sampled_from([4, 6, 8, 12, 16]), min_size=2, max_size=4)):
        sides.append(tuple(draw(compositions(size, pool)) for _ in range(2)))
    return sides, pool


@examples
@given(equations(), st.randoms(use_true_random=False))
def test_the_order_of_equations_does_not_matter(drawn, random):
    """The same nodes in another order couple the same units, where neither order is refused."""
    sides, pool = drawn
    told = []
    for _ in range(2):
        p = Partition()
        try:
            for left, right in sides:
                p.unify(left, right)
        except CannotUnify:
            return
        told.append(coupled(p, pool))
        sides = random.sample(sides, len(sides))
    assert told[0] == told[1]


@examples
@given(equations(), st.data())
def test_what_is_equal_loses_the_same_units_after_all_equations(drawn, data):
    """Later equations refine earlier ones; a kept set of the last atoms is one mask on both sides of each."""
    sides, pool = drawn
    p = Partition()
    try:
        for left, right in sides:
            p.unify(left, right)
    except CannotUnify:
        return
    seed = data.draw(st.integers(0, 9))
    assert all(same_cuts(p, left, right, seed) for left, right in sides)
    for axis in pool:
        assert p.resolve(axis).size == axis.size


@examples
@given(pairs(size=12))
def test_pieces_are_equal_cuts(drawn):
    left, _, _ = drawn
    p = Partition()
    found = p.pieces(left, 5)
    assert [piece.size for piece in found] == [5, 5, 2]
    assert same_cuts(p, concat(*map(p.resolve, found)), left)


def test_what_was_unified_before_a_refusal_stays():
    inner, other = Atom(4, "i"), Atom(4, "j")
    p = Partition()
    with pytest.raises(CannotUnify):
        p.unify(product(Atom(6), Atom(4), inner), product(Atom(8), Atom(3), other))
    assert p.resolve(inner) is p.resolve(other)


# -- marks -------------------------------------------------------------------------------------------------------


def test_the_first_reason_stays():
    a = Atom(4)
    p = Partition()
    p.lock(a, WHY)
    p.lock(a, Lock("another", "z"))
    assert p.lock_of(a) is WHY
    assert p.mix_of(a) is None


def test_a_lock_reaches_the_other_side():
    a, b = Atom(4), Atom(4)
    p = Partition()
    p.lock(a, WHY)
    p.unify(a, b)
    assert p.lock_of(p.resolve(b)) is WHY


def test_a_dynamic_atom_stands_for_the_class():
    a, b = Atom(7, "a", dynamic=True), Atom(7, "b")
    assert unified(a, b).resolve(b) is a
    assert unified(b, a).resolve(b) is a


# -- refusals ------------------------------------------------------------------------------------------------------


def nested():
    """An atom in a product of one factor, which `product` would not build."""
    atom = Atom(4, "a")
    return atom, Product((atom,), 4)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda p: p.unify(Atom(4, "a"), Atom(6, "b")), "a:4 and b:6 differ in size"),
        (lambda p: p.split(Atom(4, "a"), 5), "a:4 cannot be cut at 5"),
        (lambda p: p.split(Atom(4, "a"), -1), "a:4 cannot be cut at -1"),
        (lambda p: p.factor(Atom(4, "a"), 3), "a:4 is no multiple of 3"),
        (lambda p: p.factor(Atom(4, "a"), 0), "a:4 is no multiple of 0"),
        (
            lambda p: p.split(product(Atom(7, "n", dynamic=True), Atom(4, "c")), 3),
            "(n:7 c:4) cannot be cut at 3: its first factor is dynamic",
        ),
        (lambda p: p.split(Atom(7, "n", dynamic=True), 6), "n:7 cannot be cut at 6: it is dynamic"),
        (lambda p: p.unify(*nested()), "a:4 would contain itself in (a:4)"),
    ],
    ids=["sizes", "beyond", "before", "indivisible", "nothing", "dynamic", "dynamic rest", "occurs"],
)
def test_a_refusal_says_what_does_not_fit(act, message):
    with pytest.raises(CannotUnify) as caught:
        act(Partition())
    assert str(caught.value) == message


@pytest.mark.parametrize(("at", "expected"), [(0, (0, 4)), (4, (4, 0))])
def test_a_cut_at_an_end_makes_an_empty_part(at, expected):
    assert tuple(part.size for part in Partition().split(Atom(4), at)) == expected


@pytest.mark.parametrize(("inner", "expected"), [(1, (4, 1)), (4, (1, 4))])
def test_a_factor_of_all_or_nothing_binds_nothing(inner, expected):
    a = Atom(4)
    p = Partition()
    assert tuple(axis.size for axis in p.factor(a, inner)) == expected
    assert p.resolve(a) is a


def test_a_long_chain_of_bindings_keeps_sizes():
    p = Partition()
    chain = [Atom(8) for _ in range(50)]
    for one, other in pairwise(chain):
        p.unify(one, other)
    p.unify(chain[0], product(Atom(2), Atom(4)))
    assert {prod(sizes(p.resolve(atom))) for atom in chain} == {8}


# -- all atoms by one walk ---------------------------------------------------------------------------------------------


@examples
@given(st.data())
def test_one_walk_tells_of_every_atom(data):
    pool = [Atom(2, "a"), Atom(3, "b"), Atom(4, "c"), Atom(6, "d")]
    axis = data.draw(compositions(data.draw(st.sampled_from([5, 12, 24])), pool))
    sizes = {atom: data.draw(st.integers(1, atom.size)) for atom in dict.fromkeys(walk(axis))}
    for atom in dict.fromkeys(walk(axis)):
        assert taken(axis, sizes)[atom] == kept_size(axis, sizes) - kept_size(axis, {**sizes, atom: 0})


def test_a_chain_of_ten_thousand_atoms_is_resolved():
    partition = Partition()
    atoms = [Atom(4, "a") for _ in range(10_000)]
    for one, other in itertools.pairwise(atoms):
        partition.unify(one, other)
    assert partition.resolve(atoms[0]) is atoms[-1]


def test_what_stands_outside():
    h, d, e = Atom(2, "h"), Atom(3, "d"), Atom(5, "e")
    found = outer_factors(concat(product(h, d), product(e, h)))
    assert found == {h: {e}, d: {h}, e: set()}
