"""Which linear maps stay: those that mend more than what they take is worth."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.batches import calibration
from onnxprune.data.samples import load_data
from onnxprune.dependency.branches import branches, branches_at, place_of
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.planning.branches.bypasses import Weighed, at_branches, at_gaps, weighed
from onnxprune.planning.branches.gaps import Chain
from onnxprune.surgery.bypass import bypassed
from tests.support.build import model

RNG = np.random.default_rng(0)
WIDTH = 12


def matrix(scale=1.0):
    return (scale * RNG.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32)


def network(*kinds):
    """Return a network of residual blocks behind a Tanh each: no layer in front can do what a linear one does."""
    nodes, weights = ["s0 = MatMul(x, first)"], {"first": matrix()}
    for number, kind in enumerate(kinds):
        nodes += [f"n{number} = Tanh(s{number})", f"h{number} = MatMul(n{number}, up{number})"]
        nodes += [f"r{number} = {'Relu' if kind == 'curved' else 'Identity'}(h{number})"]
        nodes += [f"o{number} = MatMul(r{number}, down{number})", f"s{number + 1} = Add(s{number}, o{number})"]
        weights |= {f"up{number}": matrix(3), f"down{number}": matrix(0.0 if kind == "dead" else 3)}
    nodes.append(f"y = MatMul(s{len(kinds)}, last)")
    return load(model(*nodes, x=f"float[n,{WIDTH}] x", last=matrix(), **weights))


def with_maps(found, gone):
    """Return a model with a map at each gap, its branches and maps, and what each map stands in for, by name."""
    traced = trace(found)
    each, reasons = at_gaps(traced, branches(traced), gone)
    assert not reasons
    made = bypassed(traced.model, each, traced.probe.dtype)
    whole = trace(view(made.rewritten.proto))
    places = {branch.name: place_of(traced, branch) for branch in branches(traced)}
    places |= {name: (total, 0) for name, total in made.sums.items()}
    places |= {f"map {name}": (total, 1) for name, total in made.sums.items()}
    return whole, branches_at(whole, places), {f"map {name}": name for name in made.sums}


def test_each_gap_has_one_map_at_its_start():
    found = network(*["curved"] * 6)
    _, _, maps = with_maps(found, {"o0", "o2", "o3", "o5"})
    assert set(maps.values()) == {"o0", "o2", "o5"}


def test_branches_side_by_side_leave_one_gap():
    proto = model(
        "n = Tanh(x)", "a = MatMul(n, w1)", "f = MatMul(n, w2)", "s = Add(a, f)", "t = Add(s, x)", "y = MatMul(t, w3)",
        x="float[n,s,16] x", w1=(16, 16), w2=(16, 16), w3=(16, 16),
    )  # fmt: skip
    _, _, maps = with_maps(load(proto), {"a", "f"})
    assert len(maps) == 1
    traced = trace(load(proto))
    each, reasons = at_branches(traced, branches(traced), {"a", "f"})
    assert [bypass.branch.name for bypass in each] == ["a"]
    assert reasons == {"f": "the map of a reads the same and is added to the same"}


def test_side_by_side_behind_norms_of_their_own_each_has_a_map_and_both_are_fitted():
    proto = model(
        "n = Tanh(x)", "m = Sigmoid(x)", "a = MatMul(n, w1)", "f = MatMul(m, w2)", "s = Add(a, f)", "t = Add(s, x)",
        "y = MatMul(t, w3)", x="float[n,s,16] x", w1=(16, 16), w2=(16, 16), w3=(16, 16),
    )  # fmt: skip
    traced = trace(load(proto))
    found = branches(traced)
    each, reasons = at_branches(traced, found, {"a", "f"})
    assert (len(each), reasons) == (2, {})
    made = bypassed(traced.model, each, traced.probe.dtype)
    whole = trace(view(made.rewritten.proto))
    places = {name: (total, 0) for name, total in made.sums.items()}
    places |= {f"map {name}": (total, 1) for name, total in made.sums.items()}
    known = branches_at(whole, places)
    chain, gone = Chain(whole.model, known), {at for at, branch in enumerate(known) if branch.name in ("a", "f")}
    assert {each.layer.weight for each in chain.all_repairs(gone, gone)} == {"a_linear_weight", "f_linear_weight"}


def test_a_gap_has_its_map_at_the_first_branch_that_can_have_one():
    proto = model(
        "n = Transpose<perm = [0, 2, 1]>(x)", "h = MatMul(n, w1)", "a = Transpose<perm = [0, 2, 1]>(h)",
        "s = Add(x, a)", "m = Tanh(s)", "f = MatMul(m, w2)", "t = Add(s, f)", "y = MatMul(t, w3)",
        x="float[b,6,8] x", w1=(6, 6), w2=(8, 8), w3=(8, 8),
    )  # fmt: skip
    traced = trace(load(proto))
    each, reasons = at_gaps(traced, branches(traced), {"h", "f"})
    assert ([bypass.branch.name for bypass in each], reasons) == (["f"], {})


def test_where_none_can_stand_the_reason_is_told():
    proto = model(
        "t = Transpose<perm = [0, 2, 1]>(x)", "h = MatMul(t, w)", "o = Transpose<perm = [0, 2, 1]>(h)", "y = Add(x, o)",
        x="float[b,6,8] x", w=(6, 6),
    )  # fmt: skip
    traced = trace(load(proto))
    (branch,) = branches(traced)
    assert at_gaps(traced, [branch], {branch.name}) == (
        [], {branch.name: "no layer of it reads a value with the axes of what it adds"},
    )  # fmt: skip


def test_a_map_is_fitted_to_the_whole_gap_and_without_it_the_layer_in_front_is():
    found = network(*["curved"] * 4)
    traced, each, _ = with_maps(found, {"o1", "o2"})
    chain = Chain(traced.model, each)
    gone = {number for number, branch in enumerate(each) if branch.name in ("o1", "o2")}
    repairs = {each.layer.weight: each for each in chain.all_repairs(gone, gone)}
    own = repairs["o1_linear_weight"]
    assert (set(own.totals), own.added) == ({"s2", "o2"}, ("s1",))  # the stream behind o2, less that in front of o1
    assert "down0" not in repairs
    (lacking,) = (number for number, branch in enumerate(each) if branch.name == "map o1")
    repairs = {each.layer.weight: each for each in chain.all_repairs({lacking}, gone | {lacking})}
    before = Chain(found, branches(trace(found)))
    (usual,) = (each for each in before.all_repairs({1, 2}, {1, 2}) if each.layer.weight == "down0")
    assert set(repairs["down0"].totals) == set(usual.totals)
    assert repairs["down0"].added == usual.added


def test_a_linear_branch_is_worth_its_map_and_one_that_did_nothing_is_not():
    found = network("curved", "straight", "curved", "dead", "curved")
    traced, each, names = with_maps(found, {"o1", "o3"})
    data = load_data({"x": RNG.standard_normal((512, WIDTH)).astype(np.float32)}, found.inputs)
    maps, price = weighed(traced, each, calibration(found, data, "dense"), gone={"o1", "o3"}, maps=names, rows=4096)
    straight, dead = maps
    assert (straight.branch, dead.branch) == ("o1", "o3")
    assert straight.macs == dead.macs == WIDTH * WIDTH
    assert straight.loss == dead.loss < 1e-4 < straight.without
    assert straight.is_worth(price)
    assert not dead.is_worth(price)


@pytest.mark.parametrize(
    ("without", "price", "worth"), [(1.5, 0.01, False), (2.5, 0.01, True), (0.9, 0.0, False), (1.0, -0.1, False)]
)
def test_what_a_map_mends_is_held_against_what_it_takes(without, price, worth):
    assert Weighed("o1", 1.0, without, 100).is_worth(price) is worth
