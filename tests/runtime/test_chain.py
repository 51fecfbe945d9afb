"""Chains: what a model gives piece by piece is what it gives as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.errors import ModelError
from onnxprune.evaluation.difference import open_proto
from onnxprune.evaluation.settings import settings
from onnxprune.graph.files.read import load
from onnxprune.graph.shapes.probe import settled
from onnxprune.runtime import replay
from onnxprune.runtime.chain import Chain, chain, needs_chain
from onnxprune.runtime.room import VARIABLE, limit_bytes, memory_limited, piece_bytes, runs_whole
from onnxprune.runtime.session import open_session
from onnxprune.runtime.timing import time_pieces
from tests.support.build import ROWS, model
from tests.support.zoo_store import load_zoo, read, refill


def deep(layers=6):
    names = ["x", *(f"a{i}" for i in range(layers - 1)), "y"]
    nodes = (f"{names[i + 1]} = MatMul({names[i]}, w{i})" for i in range(layers))
    return model(*nodes, x=ROWS, **{f"w{i}": (6, 6) for i in range(layers)})


def feeds(count):
    return [{"x": np.random.default_rng(i).standard_normal((2 + i, 6)).astype(np.float32)} for i in range(count)]


def test_what_fits_is_no_chain():
    assert chain(deep(), load(deep()).folder) is None
    with memory_limited(1):
        assert isinstance(chain(deep(), load(deep()).folder, frees=True), Chain)


def test_a_chain_gives_what_a_session_gives():
    proto, whole = deep(), open_session(deep().SerializeToString())
    with memory_limited(1):
        pieces = Chain(load(proto))
        assert pieces.outputs == whole.outputs == ("y",)
        for each in feeds(2):
            np.testing.assert_allclose(pieces.run(each)["y"], whole.run(each)["y"], rtol=1e-5)
        taps = Chain(load(proto), taps=("a0", "a3"))
        assert list(taps.run(feeds(1)[0])) == ["a0", "a3"]


BRANCHES = (
    "a = MatMul(x, w0)",
    "c = If(flag) <"
    "then_branch = one () => (float[n,6] v) <float[6] a_ = {1, 2, 3, 4, 5, 6}, float[1] b = {3}> "
    "{ m = MatMul(a, w1) k = Add(m, a_) v = Mul(k, b) }, "
    "else_branch = two () => (float[n,6] z) { z = MatMul(a, w2) }>",
    "b = Relu(c)",
    "y = MatMul(b, w3)",
)


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("clash", ["b", "y", "c", "flag"])
def test_a_constant_of_a_body_may_be_named_like_a_value_outside(clash, flag):
    weights = {f"w{i}": (6, 6) for i in range(4)}
    proto = model(*BRANCHES, x=f"{ROWS}, bool flag", y="float[n,6] y", infer=False, **weights)
    branch = proto.graph.node[1].attribute[0].g
    branch.initializer[1].name = branch.node[2].input[1] = clash
    fed = {**feeds(1)[0], "flag": np.array(flag)}
    expected = open_session(proto.SerializeToString()).run(fed)["y"]
    with memory_limited(1):
        pieces = chain(proto, load(deep()).folder)
        np.testing.assert_allclose(pieces.run(fed)["y"], expected, rtol=1e-5)


def test_functions_are_run_in_pieces():
    lin = '<domain: "my", opset_import: ["" : 18]> lin(p, q) => (y) { a = MatMul(p, q) y = Relu(a) }'
    nodes = ("a = my.lin(x, w1)", "b = my.lin(a, w2)", "y = MatMul(b, w1)")
    weights = {"w1": (6, 6), "w2": (6, 6)}
    proto = model(*nodes, x=ROWS, y="float[n,6] y", imports='"my" : 1', functions=lin, infer=False, **weights)
    expected = open_session(proto.SerializeToString()).run(feeds(1)[0])["y"]
    with memory_limited(1):
        np.testing.assert_allclose(chain(proto, load(deep()).folder).run(feeds(1)[0])["y"], expected, rtol=1e-5)


def test_a_merged_file_gives_in_pieces_what_it_gives_as_a_whole():
    """Exporters name constants of its branches as the outputs of the main graph."""
    read_model = settled(load(refill(read(load_zoo()["optimum_bart_merged.optimum"].path))))
    assert read_model.original is not None
    with open_proto(read_model.original, read_model.folder) as session:
        cases = settings(read_model, session)
        expected = [session.run(case.feeds) for case in cases]
    with memory_limited(300_000):
        for proto in (read_model.original, read_model.proto):
            pieces = chain(proto, read_model.folder)
            for case, outputs in zip(cases, expected, strict=True):
                given = pieces.run(case.feeds)
                assert given.keys() == outputs.keys()
                for each, array in outputs.items():
                    np.testing.assert_allclose(given[each], array, rtol=1e-3, atol=1e-4)


def test_pieces_are_opened_once_for_all_feeds(monkeypatch):
    opened, original = [], replay.part
    monkeypatch.setattr(replay, "part", lambda *args: opened.append(args) or original(*args))
    with memory_limited(1):
        assert len(list(Chain(load(deep())).runs(feeds(3)))) == 3
    assert len(opened) == 6


def test_feeds_that_do_not_fit():
    with pytest.raises(ModelError, match="cannot run the model: 'z' is an input without a feed, or no input at all"):
        Chain(load(deep())).run({**feeds(1)[0], "z": np.ones(3)})


def test_an_output_that_is_no_tensor_keeps_a_model_whole():
    proto = model("y = SequenceConstruct(x, x)", x=ROWS, y="seq(float[n,6]) y", infer=False)
    with memory_limited(0):
        assert not needs_chain(load(proto))
        assert needs_chain(load(deep()))


def test_pieces_are_timed_one_after_the_other():
    with memory_limited(1):
        pieces = list(Chain(load(deep())).pieces(feeds(1)[0]))
    assert len(pieces) == 6
    expected = open_session(deep().SerializeToString()).run(feeds(1)[0])["y"]
    np.testing.assert_allclose(pieces[-1][0].run(pieces[-1][1])["y"], expected, rtol=1e-5)
    runs = [session.timed(fed) for session, fed in pieces]
    pairs = [(run, run if at < 4 else None) for at, run in enumerate(runs)]
    both = time_pieces(pairs, 6, budget_s=0.01, min_rounds=3)
    assert both[0].shape == both[1].shape
    assert both[0].min() > 0


def test_pieces_do_not_end_where_a_value_is_no_tensor():
    nodes = (
        "a = MatMul(x, w0)", "s = SplitToSequence <axis = 1, keepdims = 1> (a, three)", "f = SequenceAt(s, zero)",
        "b = MatMul(f, w1)", "g = SequenceAt(s, one)", "c = Add(b, g)", "y = MatMul(c, w2)",
    )  # fmt: skip
    proto = model(*nodes, x=ROWS, w0=(6, 6), w1=(3, 3), w2=(3, 4), three=np.array(3), zero=np.array(0), one=np.array(1))
    fed = feeds(1)[0]
    with memory_limited(1):
        pieces = list(Chain(load(proto)).pieces(fed))
        given = Chain(load(proto)).run(fed)["y"]
    assert len(pieces) >= 2
    np.testing.assert_allclose(pieces[-1][0].run(pieces[-1][1])["y"], given, rtol=1e-5)


# -- how much memory there is ------------------------------------------------------------------------------


def test_the_limit_is_what_the_environment_says(monkeypatch):
    monkeypatch.setenv(VARIABLE, "4 KB")
    assert (limit_bytes(), runs_whole(400), runs_whole(401), piece_bytes()) == (4000, True, False, 100)
    with memory_limited(7):
        assert limit_bytes() == 7
    with memory_limited():
        monkeypatch.setenv(VARIABLE, "8 KB")
        assert limit_bytes() == 4000
    monkeypatch.setattr("onnxprune.runtime.room.free_memory_bytes", lambda: 1000)
    monkeypatch.delenv(VARIABLE)
    assert limit_bytes() == 500
    monkeypatch.setattr("onnxprune.runtime.room.free_memory_bytes", lambda: None)
    assert runs_whole(10**15)
