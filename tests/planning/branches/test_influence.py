"""Block influence: values by hand, and which blocks go."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.batches import calibration
from onnxprune.data.samples import load_data
from onnxprune.dependency.blocks import blocks
from onnxprune.dependency.branches import branches, nodes_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.planning.branches import influence
from onnxprune.planning.branches.influence import by_influence, influences
from tests.support.build import model


def turning(*angles):
    """Return a network in the plane: each block adds what turns its stream by an angle, in degrees."""
    nodes, weights = ["s0 = Identity(x)"], {}
    for n, angle in enumerate(np.radians(angles)):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) - np.eye(2)
        nodes += [f"o{n} = MatMul(s{n}, w{n})", f"s{n + 1} = Add(s{n}, o{n})"]
        weights[f"w{n}"] = turn.astype(np.float32)
    nodes.append(f"y = MatMul(s{len(angles)}, last)")
    return load(model(*nodes, x="float[n,2] x", last=np.eye(2, dtype=np.float32), **weights))


def looked(found, data):
    traced = trace(found)
    return traced, blocks(traced, branches(traced)), calibration(found, load_data(data, found.inputs), "dense")


SCALES = {"a0": 1, "b0": -2, "a1": -3, "b1": 2}  # of what blocks add to the stream
ROWS = {"x": np.random.default_rng(0).standard_normal((48, 2)).astype(np.float32)}


def test_influence_is_one_minus_the_cosine_of_the_stream():
    traced, each, seen = looked(turning(0, 60, 90, 180), ROWS)
    assert influences(traced, each, seen) == pytest.approx([0, 0.5, 1, 2], abs=1e-6)


def test_streams_that_do_not_fit_at_once_are_looked_at_in_parts(monkeypatch):
    traced, each, seen = looked(turning(0, 60, 90, 180), ROWS)
    monkeypatch.setattr(influence, "_AT_ONCE", 1)
    assert influences(traced, each, seen) == pytest.approx([0, 0.5, 1, 2], abs=1e-6)


def test_chains_may_lie_side_by_side(monkeypatch):
    """Two towers whose nodes take turns, a block of the second one ending before that of the first does."""
    nodes = ["oa0 = MatMul(x, wa0)", "a1 = Add(x, oa0)", "b0 = Neg(x)", "ob0 = MatMul(b0, wb0)", "b1 = Add(b0, ob0)"]
    nodes += ["oa1 = MatMul(a1, wa1)", "ob1 = MatMul(b1, wb1)", "b2 = Add(b1, ob1)", "c = MatMul(b2, last)"]
    nodes += ["a2 = Add(a1, oa1)", "d = MatMul(a2, last)", "y = Mul(c, d)"]
    weights = {f"w{name}": (size * np.eye(2)).astype(np.float32) for name, size in SCALES.items()}
    proto = model(*nodes, x="float[n,2] x", last=np.eye(2, dtype=np.float32), **weights)
    traced, each, seen = looked(load(proto), ROWS)
    assert len({block.chain for block in each}) == 2
    monkeypatch.setattr(influence, "_AT_ONCE", 1)
    found = dict(zip([block.name for block in each], influences(traced, each, seen), strict=True))
    assert found == pytest.approx({f"o{name}": 2 if size < -1 else 0 for name, size in SCALES.items()}, abs=1e-6)


def test_blocks_of_least_influence_go_until_the_share_is_reached():
    traced, each, seen = looked(turning(90, 10, 60, 20, 180), ROWS)
    whole = NodeMacs(traced).total(nodes_of(branch for block in each for branch in block.branches))
    names = {branch.name for block in each for branch in block.branches}
    choice = by_influence(traced, each, names, 0.6 * whole, seen)
    assert [branch.name for branch in choice.removed] == ["o1", "o2", "o3"]
    assert choice.scores["o4"] == pytest.approx(2, abs=1e-6)
    spared = by_influence(traced, each, names - {"o1"}, 0.4 * whole, seen)
    assert [branch.name for branch in spared.removed] == ["o2", "o3"]


def test_channels_of_images_are_what_is_turned():
    """One number of a channel is doubled at each place: by hand over the channels, not over the columns."""
    weight = np.zeros((2, 2, 1, 1), np.float32)
    weight[1, 1] = 1
    found = load(
        model("o = Conv(x, w)", "s = Add(x, o)", "y = Conv(s, last)", x="float[n,2,3,3] x", w=weight, last=(2, 2, 1, 1))
    )
    traced, each, seen = looked(found, {"x": np.ones((40, 2, 3, 3), np.float32)})
    assert influences(traced, each, seen) == pytest.approx([1 - 3 / np.sqrt(10)], abs=1e-6)
