"""Replay: whatever the place and the memory, values are those of the whole model."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.errors import ModelError
from onnxprune.graph.files.deferred import deferring
from onnxprune.graph.files.read import load
from onnxprune.runtime import replay as module
from onnxprune.runtime.replay import KeptBatches, Replay
from onnxprune.runtime.room import memory_limited
from onnxprune.runtime.session import open_session
from tests.support.build import IMAGE, ROWS, model

RNG = np.random.default_rng(0)


def branched(**more):
    return model(
        "a = Conv(x, w1, b1)", "b = Relu(a)", "c = Conv<pads=[1,1,1,1]>(b, w2)", "d = Add(b, c)", "e = Sigmoid(d)",
        "f = GlobalAveragePool(e)", "g = Flatten(f)", "h = MatMul(g, w3)", "y = Add(h, b3)",
        w1=(4, 3, 3, 3), b1=(4,), w2=(4, 4, 3, 3), w3=(4, 5), b3=(5,), **more,
    )  # fmt: skip


def batches(count=3, shape=(2, 3, 6, 6), dtype="float32"):
    return [{"x": np.random.default_rng(seed).standard_normal(shape).astype(dtype)} for seed in range(count)]


def whole(proto, names, feeds):
    """Return values of the whole model, by name."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    have = {output.name for output in wide.graph.output}
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    session = open_session(wide.SerializeToString(), threads=1)
    found = {**feeds, **session.run(feeds)}
    return {name: found[name] for name in names}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


BEHIND = ["a", "b", "c", "d", "e", "f", "g", "h", "y"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("budget", [0, 1000, 2**30])
@pytest.mark.parametrize("step", [1, 2, 4])
def test_every_place_gives_what_the_model_gives(budget, step, folder):
    proto, feeds = branched(), batches()
    replay, spilled = Replay(load(proto), feeds, budget_bytes=budget), False
    for place in range(0, len(BEHIND), step):
        replay.stand_before(place)
        names = BEHIND[place:]
        for each, found in zip(feeds, replay.run(names), strict=True):
            same(found, whole(proto, names, each))
        spilled = spilled or any(folder.iterdir())
    assert spilled == (budget < 2**30)
    del replay
    gc.collect()
    assert list(folder.iterdir()) == []


def test_values_in_any_order_and_of_some_batches():
    proto, feeds = branched(), batches(4)
    replay = Replay(load(proto), feeds)
    replay.advance("b")
    found = list(replay.run(["y", "b", "d", "y"], [3, 1]))
    assert len(found) == 2
    for number, values in zip([3, 1], found, strict=True):
        same(values, whole(proto, ["y", "b", "d"], feeds[number]))
    assert len(replay) == 4
    assert [list(values) for values in replay.run(["x"], [0])] == [["x"]] if "x" in replay._stored[0] else True


def test_it_never_moves_back():
    proto, feeds = branched(), batches(1)
    replay = Replay(load(proto), feeds)
    replay.advance("e")
    kept = replay._stored
    replay.advance("a")
    replay.reach("e")
    assert replay._stored is kept


def test_constants_that_hold_something_else():
    proto, feeds = branched(), batches(2)
    other = {"w2": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32), "b3": np.ones(5, np.float32)}
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for tensor in changed.graph.initializer:
        if tensor.name in other:
            tensor.CopyFrom(onnx.numpy_helper.from_array(other[tensor.name], tensor.name))
    replay = Replay(load(proto), feeds)
    replay.advance("b")
    for each, found in zip(feeds, replay.run(["y"], contents=other), strict=True):
        same(found, whole(changed, ["y"], each))
    for each, found in zip(feeds, replay.run(["y"]), strict=True):
        same(found, whole(proto, ["y"], each))
    replay.contents.update(other)
    replay.advance("d")
    for each, found in zip(feeds, replay.run(["y"]), strict=True):
        same(found, whole(changed, ["y"], each))


def test_the_samples_themselves_are_not_changed():
    proto, feeds = branched(), batches(2)
    before = [each["x"].copy() for each in feeds]
    replay = Replay(load(proto), feeds)
    replay.advance("d")
    list(replay.run(["y"]))
    assert all(np.array_equal(each["x"], was) for each, was in zip(feeds, before, strict=True))


def test_a_later_part_may_still_need_an_input():
    proto = model("a = Relu(x)", "b = Neg(a)", "c = Exp(b)", "y = Add(c, x)", x=ROWS)
    feeds = batches(2, (3, 6))
    replay = Replay(load(proto), feeds)
    replay.advance("c")
    for each, found in zip(feeds, replay.run(["y", "x"]), strict=True):
        same(found, whole(proto, ["y", "x"], each))


IF = """y = If (on) <
  then_branch = one () => (float[n,6] p) {{ p = Mul(b, k) }},
  else_branch = two () => (float[n,6] q) {{ q = Sub(a, k) }} >"""


@pytest.mark.parametrize("on", [True, False])
def test_branches_read_values_from_outside(on):
    proto = model(
        "a = Relu(x)", "b = Neg(a)", "c = Exp(b)", IF.replace("{{", "{").replace("}}", "}"), "z = Add(y, c)",
        x=f"{ROWS}, bool on", y="float[n,6] z", k=(6,), infer=False,
    )  # fmt: skip
    feeds = [{**each, "on": np.array(on)} for each in batches(2, (3, 6))]
    for name in ("a", "c", "y"):
        replay = Replay(load(proto), feeds, budget_bytes=0)
        replay.advance(name)
        for each, found in zip(feeds, replay.run(["z"]), strict=True):
            same(found, whole(proto, ["z"], each))


def test_a_sequence_cannot_be_kept():
    proto = model(
        "a = Relu(x)", "s = SplitToSequence<axis=1, keepdims=1>(a)", "b = Neg(a)", "c = ConcatFromSequence<axis=1>(s)",
        "y = Add(b, c)", x=ROWS,
    )  # fmt: skip
    feeds = batches(2, (3, 6))
    replay = Replay(load(proto), feeds)
    replay.advance("a")
    kept = replay._stored
    replay.advance("b")
    assert replay._stored is kept
    for each, found in zip(feeds, replay.run(["y"]), strict=True):
        same(found, whole(proto, ["y"], each))
    with pytest.raises(ModelError):
        list(replay.run(["s"]))
    replay.advance("c")
    for each, found in zip(feeds, replay.run(["y"]), strict=True):
        same(found, whole(proto, ["y"], each))


def test_half_precision():
    proto = model(
        "a = MatMul(x, w)",
        "b = Relu(a)",
        "y = MatMul(b, w2)",
        x="float16[n,6] x",
        y="float16[] y",
        w=(6, 6),
        w2=(6, 2),
        dtype="float16",
    )
    feeds = batches(2, (3, 6), "float16")
    replay = Replay(load(proto), feeds, budget_bytes=0)
    replay.advance("b")
    for each, found in zip(feeds, replay.run(["y"]), strict=True):
        assert found["y"].dtype == np.float16
        np.testing.assert_allclose(found["y"], whole(proto, ["y"], each)["y"], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("budget", [0, 2**30])
def test_bfloat16_between_nodes(budget):
    proto = model(
        "a = MatMul(x, w)", "b = Cast<to=16>(a)", "c = Identity(b)", "d = Cast<to=1>(c)", "y = MatMul(d, w2)",
        x=ROWS, w=(6, 6), w2=(6, 2),
    )  # fmt: skip
    feeds = batches(2, (3, 6))
    replay = Replay(load(proto), feeds, budget_bytes=budget)
    replay.advance("c")
    for each, found in zip(feeds, replay.run(["y"]), strict=True):
        same(found, whole(proto, ["y"], each))


def test_constants_of_nodes_and_of_outputs():
    proto = model(
        "k = Constant<value_floats=[2.0]>()", "a = Mul(x, k)", "b = Add(a, k)", "y = Relu(b)",
        x=ROWS, y="float[] y, float[1] k, float[6] w", w=(6,),
    )  # fmt: skip
    feeds = batches(2, (3, 6))
    replay = Replay(load(proto), feeds)
    for name in (None, "a", "b"):
        if name is not None:
            replay.advance(name)
        for each, found in zip(feeds, replay.run(["y", "k", "w"], contents={"w": np.ones(6, np.float32)}), strict=True):
            expected = whole(proto, ["y", "k"], each)
            same(found, {**expected, "w": np.ones(6, np.float32)})


def test_a_model_with_a_fixed_batch():
    proto = model(
        "a = Relu(x)", "b = Reshape(a, k)", "y = MatMul(b, w)", x="float[2,3,6,6] x", k=np.array([2, 108]), w=(108, 3)
    )
    feeds = batches(2)
    replay = Replay(load(proto), feeds)
    replay.advance("b")
    for each, found in zip(feeds, replay.run(["y"]), strict=True):
        same(found, whole(proto, ["y"], each))


def test_a_part_that_cannot_be_run():
    proto = model("a = Relu(x)", "b = Reshape(a, k)", "y = Neg(b)", x=IMAGE, k=np.array([7, 7]))
    replay = Replay(load(proto), batches(1))
    with pytest.raises(ModelError):
        list(replay.run(["y"]))
    replay.advance("b")
    assert "x" in replay._stored[0]


def test_what_is_kept_is_a_sequence(folder):
    kept = KeptBatches(budget_bytes=40)
    for number in range(4):
        kept.append({"v": np.full(4, number, np.float32)})
    assert [values["v"][0] for values in kept] == [0, 1, 2, 3]
    assert [values["v"][0] for values in kept[1:3]] == [1, 2]
    assert len(kept) == 4
    (inner,) = folder.iterdir()
    assert sorted(path.name for path in Path(inner).iterdir()) == ["2", "3"]


# -- values that are computed ahead of the place -------------------------------------------------------------


def sessions_made(replay, monkeypatch):
    """Return a list that grows by the names wanted of each session that the replay makes."""
    made, original = [], replay._session
    monkeypatch.setattr(replay, "_session", lambda names, *others: made.append(list(names)) or original(names, *others))
    return made


def test_values_ahead_are_computed_on_the_way_and_not_again(monkeypatch):
    proto, feeds = branched(), batches()
    replay = Replay(load(proto), feeds)
    made = sessions_made(replay, monkeypatch)
    replay.reach("c", ["c", "d", "x", "b"])
    assert made == [["b", "c", "d"]]
    for found, feed in zip(replay.run(["b", "c", "d"]), feeds, strict=True):
        same(found, whole(proto, ["b", "c", "d"], feed))
    replay.reach("f")
    for found, feed in zip(replay.run(["y"]), feeds, strict=True):
        same(found, whole(proto, ["y"], feed))
    assert made[1:] == [["e"], ["y"]]


@pytest.mark.parametrize("once", [True, False])
def test_values_ahead_are_those_of_the_constants_of_the_run(once):
    proto, feeds = branched(), batches()
    replay = Replay(load(proto), feeds)
    replay.reach("c", ["c"])
    changed = {"w2": np.zeros((4, 4, 3, 3), np.float32)}
    if not once:
        replay.contents.update(changed)
    for found in replay.run(["c", "d"], contents=changed if once else None):
        assert not found["c"].any()
        assert found["d"].any()
    for found, feed in zip(replay.run(["c"]), feeds, strict=True):
        assert found["c"].any() == once
        if once:
            same(found, whole(proto, ["c"], feed))


def test_a_replay_with_other_constants_keeps_nothing_ahead(monkeypatch):
    replay = Replay(load(branched()), batches())
    replay.contents["w2"] = np.zeros((4, 4, 3, 3), np.float32)
    made = sessions_made(replay, monkeypatch)
    replay.reach("c", ["c"])
    assert made == [["b"]]


def test_what_is_no_tensor_ahead_does_not_keep_the_replay_from_moving(monkeypatch):
    replay = Replay(load(branched()), batches())
    original = replay._session

    def refused(names, *others):
        if "c" in names:
            raise ModelError("no tensor")
        return original(names, *others)

    monkeypatch.setattr(replay, "_session", refused)
    replay.reach("c", ["c"])
    assert replay._place == replay._order["c"]
    monkeypatch.undo()
    assert next(replay.run(["c"]))["c"].any()


# -- pieces, where the weights are more than the memory allows for ---------------------------------------------


@pytest.mark.parametrize("limit", [1, 2000, 6000])
@pytest.mark.parametrize("budget", [0, 2**30])
def test_pieces_give_what_the_model_gives(limit, budget):
    proto, feeds = branched(), batches(4)
    with memory_limited(limit):
        replay = Replay(load(proto), feeds, budget_bytes=budget)
        for place in (0, 3, 6):
            replay.stand_before(place)
            names = [*reversed(BEHIND[place:])]
            for each, found in zip([feeds[3], feeds[1]], replay.run(names, [3, 1]), strict=True):
                same(found, whole(proto, names, each))


def test_no_session_has_the_weights_of_another(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "open_session", lambda part, **how: seen.append(part) or open_session(part, **how))
    wide = model(
        "a = MatMul(x, w1)", "b = MatMul(a, w2)", "y = MatMul(b, w3)", x=ROWS, w1=(6, 900), w2=(900, 800), w3=(800, 6)
    )
    replay = Replay(load(wide), batches(2, (3, 6)))
    list(replay.run(["y", "a"]))
    assert [set(each.arrays) for each in seen] == [{"w1", "w2", "w3"}]
    with memory_limited(1):
        list(Replay(load(wide), batches(2, (3, 6))).run(["y", "a"]))
    assert [set(each.arrays) for each in seen[1:]] == [{"w1"}, {"w2"}, {"w3"}]


def test_pieces_have_constants_that_hold_something_else():
    proto, feeds = branched(), batches(2)
    other = {"w2": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32), "w3": np.ones((4, 5), np.float32)}
    expected = list(Replay(load(proto), feeds).run(["y", "w2"], contents=other))
    with memory_limited(1):
        for found, was in zip(Replay(load(proto), feeds).run(["y", "w2"], contents=other), expected, strict=True):
            same(found, was)


def test_a_piece_goes_on_where_no_value_can_be_handed_on():
    proto = model(
        "a = MatMul(x, w1)", "s = SequenceConstruct(a, a)", "b = SequenceAt(s, i)", "y = MatMul(b, w2)",
        x=ROWS, w1=(6, 8), w2=(8, 5), i=np.array(0),
    )  # fmt: skip
    feeds = batches(2, (3, 6))
    with memory_limited(1):
        for each, found in zip(feeds, Replay(load(proto), feeds).run(["y"]), strict=True):
            same(found, whole(proto, ["y"], each))


@pytest.mark.parametrize("in_files", [False, True])
def test_sessions_give_memory_back_where_weights_lie_in_files(in_files, monkeypatch):
    opened, feeds = [], batches()

    def watched(content, **how):
        opened.append(how["frees"])
        return open_session(content, **how)

    monkeypatch.setattr(module, "open_session", watched)
    with deferring() if in_files else contextlib.nullcontext():
        replay = Replay(load(branched()), feeds)
        replay.advance("c")
        found = next(replay.run(["y"]))
    assert opened == [in_files] * 2
    same(found, whole(branched(), ["y"], feeds[0]))
