"""Layer collapse: merged weights by hand, and which merges are kept."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.batches import calibration
from onnxprune.data.samples import load_data
from onnxprune.dependency.blocks import blocks
from onnxprune.dependency.branches import branches, nodes_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import trace
from onnxprune.errors import NothingToPrune
from onnxprune.graph.files.read import load
from onnxprune.planning.branches.collapse import SAMPLES, Weights, by_collapse, few
from tests.support.build import model

D = 4
RNG = np.random.default_rng(0)


def network(sizes, bias=True):
    """Return a network of residual blocks of layers of these scales, and its weights."""
    nodes, weights = ["s0 = Identity(x)"], {}
    for n, size in enumerate(sizes):
        weights |= {f"up{n}": size * matrix(), f"down{n}": size * matrix()}
        nodes += [f"h{n} = MatMul(s{n}, up{n})", f"r{n} = Relu(h{n})", f"o{n} = MatMul(r{n}, down{n})"]
        if bias:
            weights[f"b{n}"] = size * matrix()[0]
            nodes.append(f"p{n} = Add(o{n}, b{n})")
        nodes.append(f"s{n + 1} = Add(s{n}, {'p' if bias else 'o'}{n})")
    nodes.append(f"y = MatMul(s{len(sizes)}, last)")
    return load(model(*nodes, x=f"float[n,{D}] x", last=matrix(), **weights)), weights


def matrix():
    return RNG.standard_normal((D, D)).astype(np.float32)


def collapsed(found, share, able=lambda name: True):
    traced = trace(found)
    each = blocks(traced, branches(traced))
    all_branches = [branch for block in each for branch in block.branches]
    data = load_data({"x": RNG.standard_normal((40, D)).astype(np.float32)}, found.inputs)
    goal = share * NodeMacs(traced).total(nodes_of(all_branches))
    names = {branch.name for branch in all_branches if able(branch.name)}
    return by_collapse(traced, each, names, goal, calibration(found, data, "dense"))


def test_a_merged_weight_is_that_of_the_last_block_which_went_into_it():
    found, weights = network([1, 1, 1])
    traced = trace(found)
    zeros = np.zeros((D, D), np.float32)
    merged = Weights(traced, blocks(traced, branches(traced))).merged(0, [1, 2], {"up2": zeros})
    assert set(merged) == {"up0", "down0", "b0"}
    assert np.array_equal(merged["up0"], zeros)  # what merges before have made of the last one
    assert np.array_equal(merged["down0"], weights["down2"])
    assert np.array_equal(merged["b0"], weights["b2"])


def test_blocks_go_from_the_last_to_the_first_until_the_share_is_reached():
    found, weights = network([0.01] * 8)
    choice = collapsed(found, 3 / 8)
    assert [branch.name for branch in choice.removed] == ["p5", "p6", "p7"]
    assert dict(choice.merged) == {"p5": "p4", "p6": "p4", "p7": "p4"}
    assert np.array_equal(choice.contents["up4"], weights["up7"])
    assert choice.measured == 1


def test_merged_blocks_merge_again():
    found, _ = network([0.01] * 8)
    choice = collapsed(found, 6 / 8)
    assert len(choice.removed) == 6
    left = {f"p{n}" for n in range(8)} - {branch.name for branch in choice.removed}
    assert "p0" in left
    assert set(choice.contents) <= {f"{name}{int(own[1])}" for own in left for name in ("up", "down", "b")}


def test_a_merge_that_turns_the_end_of_the_stream_is_not_kept():
    """One block does much: it is lost but for the merge of which it is the last."""
    found, _ = network([0.01, 0.01, 0.01, 0.01, 3, 0.01, 0.01, 0.01])
    choice = collapsed(found, 2 / 8)
    assert dict(choice.merged) == {"p3": "p2", "p4": "p2"}
    assert choice.measured == 3


def test_chains_are_gone_through_one_after_the_other():
    """Two stages of two blocks: no block goes into one of the other stage."""
    nodes, weights, now = [], {"between": matrix()}, "x"
    for n in range(4):
        nodes += [f"o{n} = MatMul({now}, w{n})", f"s{n} = Add({now}, o{n})"]
        weights[f"w{n}"] = 0.01 * matrix()
        now = f"s{n}"
        if n == 1:
            nodes.append("t = MatMul(s1, between)")
            now = "t"
    found = load(model(*nodes, "y = MatMul(s3, last)", x=f"float[n,{D}] x", last=matrix(), **weights))
    assert dict(collapsed(found, 0.5).merged) == {"o1": "o0", "o3": "o2"}


def test_each_stream_has_to_stay_alike():
    """Two towers of six blocks: the third of the first one does much, which the end of the second one does not tell."""
    nodes, weights = [], {}
    for tower, sizes in (("a", [0.01, 0.01, 3, 0.01, 0.01, 0.01]), ("b", [0.01] * 6)):
        now = "x"
        for n, size in enumerate(sizes):
            name = f"{tower}{n}"
            nodes += [f"r{name} = Relu({now})", f"o{name} = MatMul(r{name}, w{name})", f"s{name} = Add({now}, o{name})"]
            weights[f"w{name}"], now = size * matrix(), f"s{name}"
        nodes.append(f"e{tower} = MatMul({now}, last)")
    found = load(model(*nodes, "y = Add(ea, eb)", x=f"float[n,{D}] x", last=matrix(), **weights))
    merged = dict(collapsed(found, 4 / 12).merged)
    assert merged == {"oa2": "oa1", "ob3": "ob2", "ob4": "ob2", "ob5": "ob2"}


def test_blocks_that_have_to_stay_go_into_no_other():
    found, _ = network([0.01] * 4)
    choice = collapsed(found, 0.5, able=lambda name: name != "p3")
    assert [branch.name for branch in choice.removed] == ["p2"]


def test_blocks_unlike_each_other_are_refused():
    nodes = ["h = MatMul(x, up)", "r = Relu(h)", "o = MatMul(r, down)", "s = Add(x, o)", "p = MatMul(s, one)"]
    proto = model(
        *nodes, "t = Add(s, p)", "y = MatMul(t, last)",
        x=f"float[n,{D}] x", up=(D, D), down=(D, D), one=(D, D), last=(D, D),
    )  # fmt: skip
    with pytest.raises(NothingToPrune, match="no block can go into the one in front of it: no two neighbours have"):
        collapsed(load(proto), 0.9)


def test_a_shared_weight_is_named():
    nodes = ["o0 = MatMul(x, w)", "s1 = Add(x, o0)", "r = Relu(s1)", "o1 = MatMul(r, w)", "s2 = Add(s1, o1)"]
    proto = model(*nodes, "y = MatMul(s2, last)", x=f"float[n,{D}] x", w=(D, D), last=(D, D))
    with pytest.raises(
        NothingToPrune, match=r"node 'o0' \(MatMul\) cannot be merged .*: its weight is read by several"
    ):
        collapsed(load(proto), 0.5)


def test_a_weight_that_all_blocks_read_stays_as_it_is():
    """As the angles of rotary embeddings inside attentions."""
    nodes, weights = [], {"shared": matrix(), "last": matrix()}
    for n in range(3):
        stream = f"s{n - 1}" if n else "x"
        nodes += [f"h{n} = MatMul({stream}, shared)", f"r{n} = Relu(h{n})", f"o{n} = MatMul(r{n}, w{n})"]
        nodes.append(f"s{n} = Add({stream}, o{n})")
        weights[f"w{n}"] = 0.01 * matrix()
    choice = collapsed(load(model(*nodes, "y = MatMul(s2, last)", x=f"float[n,{D}] x", **weights)), 0.4)
    assert dict(choice.merged) == {"o2": "o1"}
    assert set(choice.contents) == {"w1"}


def test_few_samples_are_spread_over_all():
    found, _ = network([1])
    data = load_data({"x": np.arange(40, dtype=np.float32)[:, None].repeat(D, 1)}, found.inputs)
    taken = few(found, calibration(found, data, "dense"))
    assert [feeds["x"].shape for feeds in taken] == [(1, D)] * SAMPLES
    assert (taken[0]["x"][0, 0], taken[-1]["x"][0, 0]) == (0, 39)
