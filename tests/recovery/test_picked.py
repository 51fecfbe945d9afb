"""Rows that are picked: those of the original and of the pruned model are told apart by their numbers."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.recovery.picked import Picked
from tests.support.build import dense
from tests.support.experts import mixture, rows
from tests.support.unrolled import EACH, ONCE, gathered
from tests.support.unrolled import dense as of_all_rows


def picked(nodes):
    return Picked(trace(load(mixture(single=nodes))))


@pytest.mark.parametrize(("nodes", "numbers"), [(gathered("OneHot", EACH), "rs1"), (gathered("OneHot", ONCE), "ix1")])
def test_rows_are_numbered_by_where_they_are_put(nodes, numbers):
    found = picked(nodes)
    for name in ("h1", "u1", "d1"):
        rows_of = found.of(name)
        assert (rows_of.dim, rows_of.numbers) == (0, numbers)
    assert found.of("q") is None


def test_where_all_rows_are_seen_none_are_picked():
    found = picked(of_all_rows())
    assert all(found.of(name) is None for name in ("u1", "d1", "t2"))


@pytest.mark.parametrize("width", [1, 3])
def test_rows_of_both_come_in_one_order(width):
    rows_of = picked(gathered()).of("d1")
    before, after = np.array([[1], [4], [6]]).repeat(width, 1), np.array([[6], [2], [1], [9]]).repeat(width, 1)
    old = {"d1": np.float32([[10], [40], [60]]), "rs1": before, "b": np.zeros((9, 8))}
    new = {"h1": np.float32([[61], [21], [11], [91]]), "rs1": after, "new": np.float32([[6], [2], [1], [9]])}
    of_old, of_new = rows_of.in_both(old, new)
    assert of_old["d1"].ravel().tolist() == [10, 60]
    assert of_new["h1"].ravel().tolist() == [11, 61]
    assert of_new["new"].ravel().tolist() == [1, 6]  # what the original lacks has its rows where the layer has
    assert of_old["b"].shape == (9, 8)


def test_rows_whose_numbers_differ_from_dim_to_dim():
    rows_of = picked(gathered()).of("d1")
    old, new = {"rs1": np.array([[1, 2], [3, 4]])}, {"rs1": np.array([[1, 4], [3, 4], [1, 2]])}
    of_old, of_new = rows_of.in_both({**old, "d1": np.float32([[1], [3]])}, {**new, "d1": np.float32([[9], [3], [1]])})
    assert of_old["d1"].tolist() == of_new["d1"].tolist() == [[1], [3]]


def test_no_rows_in_both():
    rows_of = picked(gathered()).of("d1")
    of_old, _ = rows_of.in_both({"rs1": np.zeros((0, 1), np.int64), "d1": np.zeros((0, 8))}, {"rs1": np.array([[1]])})
    assert of_old["d1"].shape == (0, 8)


@pytest.mark.parametrize("add", [EACH, ONCE])
def test_layers_of_experts_are_fitted_to_the_rows_that_both_models_pick(add):
    data = {"x": rows(256)}
    report = onnxprune.prune(mixture(single=gathered("OneHot", add)), only="router", ratio=0.25, data=data,
                             latency=False).report  # fmt: skip
    (group,) = (group for group in report["groups"] if group["kind"] == "experts")
    fits = {fit["node"]: fit for fit in report["reconstruction"]}
    for expert in group["kept_units"]:
        for layer in ("u", "d"):
            assert fits[f"{layer}{expert}"]["error_before"] < 1e-6  # the same rows give the same answers
    assert not {f"u{e}" for e in range(4) if e not in group["kept_units"]} & fits.keys()


def test_columns_that_are_put_do_not_number_rows():
    put = tuple(
        node.replace("ScatterElements<axis=0>", "ScatterElements<axis=-1>") for node in gathered("OneHot", ONCE)
    )
    assert picked(put).of("d1").numbers == "z1"  # the positions of what counted


def test_rows_of_the_same_number_are_left_out():
    rows_of = picked(gathered()).of("d1")
    old = {"rs1": np.array([[1], [2], [1]]), "d1": np.float32([[10], [20], [11]])}
    new = {"rs1": np.array([[1], [2], [3], [3]]), "d1": np.float32([[1], [2], [3], [3]])}
    of_old, of_new = rows_of.in_both(old, new)
    assert (of_old["d1"].ravel().tolist(), of_new["d1"].ravel().tolist()) == ([20], [2])


BY_MASK = ("z = NonZero({})", "i = Squeeze(z, first)", "b = Gather(a, i)")
BY_SUM = ("m = ReduceSum<keepdims=0>(a, one)", "c = Greater(m, zero)")


def fit_of(*nodes, x="float[n,6] x", **data):
    """Return what becomes of the layer y of a network in which rows of hidden units are picked."""
    proto = dense(*nodes, one=[1], first=[0], zero=0.0, x=x, y="float[m,5] y", infer=False)
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((64, 6)).astype(np.float32), **data}
    report = onnxprune.prune(proto, 0.5, data=data, latency=False).report
    (fit,) = (fit for fit in report["reconstruction"] if fit["node"] == "y")
    return fit


def test_rows_that_an_input_picks_are_the_same_in_both_models():
    mask = np.arange(64) % 4 != 1
    nodes = [node.format("mask") for node in BY_MASK]
    fit = fit_of(*nodes, x="float[n,6] x, bool[n] mask", mask=mask)
    assert fit["why_not"] is None
    assert 30 < fit["rows"] <= 48
    assert fit["error_after"] < fit["error_before"]


def test_rows_that_a_cut_value_picks_are_numbered_by_their_positions():
    fit = fit_of(*BY_SUM, *(node.format("c") for node in BY_MASK))
    assert fit["why_not"] is None
    assert 8 < fit["rows"] < 64
    assert fit["error_after"] <= fit["error_before"]


def test_rows_that_are_picked_inside_of_a_branch_are_not_fitted():
    picks = (f"{branch} = {name} () => (int64[k] i{name}) {{ z{name} = NonZero(c) i{name} = Squeeze(z{name}, first) }}"
             for branch, name in (("then_branch", "p"), ("else_branch", "q")))  # fmt: skip
    some = ("t = ReduceSum<keepdims=0>(m)", "some = Greater(t, zero)", f"i = If(some) <{', '.join(picks)}>")
    fit = fit_of(*BY_SUM, *some, "b = Gather(a, i)")
    assert fit["why_not"] == "its rows are picked by what they hold, and nothing says which they are"
