"""What replaced constants do to the outputs, by sessions that are opened once."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.graph.files.read import load
from onnxprune.runtime import rest
from onnxprune.runtime.replay import Replay
from onnxprune.runtime.rest import Rest
from onnxprune.runtime.stations import last_read, stations
from tests.support.build import ROWS, model

DEPTH = 12


def deep():
    """Layers one after the other, each added to what it reads; the weight of the last one is transposed first."""
    nodes, before = [], "x"
    for number in range(DEPTH):
        nodes += [f"h{number} = MatMul({before}, w{number})", f"s{number} = Add(h{number}, {before})"]
        before = f"s{number}"
    weights = {f"w{i}": np.random.default_rng(i).standard_normal((6, 6)).astype(np.float32) / 6 for i in range(DEPTH)}
    return load(
        model("t = Transpose(v)", *nodes, f"r = Relu(s{DEPTH - 1})", "y = MatMul(r, t)", x=ROWS, v=(5, 6), **weights)
    )


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((4, 6)).astype(np.float32)} for _ in range(3)]


@pytest.mark.parametrize("name", ["w0", "w5", f"w{DEPTH - 1}", "v"])
def test_outputs_are_those_of_the_whole_model(batches, name):
    loaded = deep()
    contents = {name: 2 * loaded.array(name)}
    whole = list(Replay(loaded, batches).run(["y"], (0, 2), contents))
    replay, behind = Replay(loaded, batches), Rest(loaded, ["y"])
    if name == "w5":
        replay.reach("h5")
    for _ in range(2):
        parts = list(behind.outputs(replay, (0, 2), contents))
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_allclose(one["y"], other["y"], rtol=1e-5, atol=1e-6)


def test_sessions_behind_stations_are_opened_once(batches, monkeypatch):
    loaded, opened = deep(), []
    real = rest.opened
    monkeypatch.setattr(rest, "opened", lambda *args, **more: opened.append(args) or real(*args, **more))
    behind, replay = Rest(loaded, ["y"]), Replay(loaded, batches)
    for factor in (2, 3, 4):
        list(behind.outputs(replay, (0, 1), {"w0": factor * loaded.array("w0")}))
    assert 1 < len(opened) == len(stations(loaded))


def test_stations_divide_a_model_where_little_passes():
    loaded = deep()
    places = stations(loaded, 4)
    assert len(places) == 3
    assert list(places) == sorted(places)
    assert stations(loaded, 1) == ()
    passing = {loaded.nodes[loaded.top[place - 1]].outputs[0][0] for place in places}
    assert passing <= {"s", "r"}  # behind a sum one value is alive, in front of it there are two


def test_the_last_node_that_reads_a_constant():
    loaded = deep()
    assert last_read(loaded, {"v"}) == len(loaded.top) - 1  # by way of its transpose
    assert last_read(loaded, set()) == -1
