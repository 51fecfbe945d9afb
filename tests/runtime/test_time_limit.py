"""Every run has a time limit: a Loop that never ends is ended, in a sentence."""

from __future__ import annotations

import math
import time

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxprune import prune
from onnxprune.errors import InputError, ModelError, OptionError, TookTooLong
from onnxprune.runtime import time_limit
from onnxprune.runtime.session import Session, open_session
from onnxprune.runtime.time_limit import LOOP_S, RUN_S, ended_after, holds_loop, limit_s
from tests.support.build import ROWS, dense, model

FEEDS = {"x": np.ones((2, 6), np.float32)}


def endless(name="turning"):
    """x -> w1 -> a Loop whose condition stays true -> w2 -> y."""
    proto = dense("b = Relu(a)", go=np.array(True))
    state = helper.make_tensor_value_info("state", onnx.TensorProto.FLOAT, ["n", 8])
    turn = helper.make_tensor_value_info("turn", onnx.TensorProto.INT64, [])
    going = helper.make_tensor_value_info("going", onnx.TensorProto.BOOL, [])
    nodes = [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Relu", ["state"], ["next"])]
    ends = [helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, [])]
    ends.append(helper.make_tensor_value_info("next", onnx.TensorProto.FLOAT, ["n", 8]))
    body = helper.make_graph(nodes, "body", [turn, going, state], ends)
    proto.graph.node[2].CopyFrom(helper.make_node("Loop", ["", "go", "a"], ["b"], name, body=body))
    return proto


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setenv("ONNXPRUNE_RUN_SECONDS", "0.1")


def test_a_loop_that_never_ends_is_ended(short):
    with pytest.raises(TookTooLong) as caught:
        open_session(endless().SerializeToString()).run(FEEDS)
    assert str(caught.value) == (
        "the model did not finish a run within 0.1 s. It was in Loop 'turning', which may never end on these feeds. "
        "Set ONNXPRUNE_RUN_SECONDS to more seconds to wait longer, to 0 for as long as it takes"
    )
    assert isinstance(caught.value, InputError)
    assert not isinstance(caught.value, ModelError), "no other sizes are tried"


def test_so_is_one_that_is_timed_and_one_without_a_name(short):
    with pytest.raises(TookTooLong, match="It was in Loop, which has no name, which may never end"):
        open_session(endless("").SerializeToString()).timed(FEEDS)


def test_prune_ends_with_the_first_run(short, tmp_path):
    with pytest.raises(TookTooLong):
        prune(endless(), criterion="l2", latency=False)


def test_a_run_that_ends_in_time_is_left_alone(short):
    session = open_session(dense("b = Relu(a)").SerializeToString())
    assert session.limit_s == 0.1
    assert session.run(FEEDS)["y"].shape == (2, 5)
    with pytest.raises(ModelError, match="cannot run the model"):
        session.run({"x": np.ones((2, 7), np.float32)})


def test_the_limit_depends_on_the_model_and_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("ONNXPRUNE_RUN_SECONDS", raising=False)
    plain, loop = dense("b = Relu(a)").SerializeToString(), endless().SerializeToString()
    path = tmp_path / "loop.onnx"
    path.write_bytes(loop)
    assert (limit_s(plain), limit_s(loop), limit_s(path)) == (RUN_S, LOOP_S, LOOP_S)
    assert not holds_loop(tmp_path / "none.onnx")
    monkeypatch.setenv("ONNXPRUNE_RUN_SECONDS", "7.5")
    assert limit_s(loop) == 7.5
    monkeypatch.setenv("ONNXPRUNE_RUN_SECONDS", "0")
    assert limit_s(loop) == math.inf
    with ended_after(math.inf, pytest.fail) as is_over:
        assert not is_over()
    for wrong in ("soon", "-1", "nan"):
        monkeypatch.setenv("ONNXPRUNE_RUN_SECONDS", wrong)
        with pytest.raises(OptionError, match=f"ONNXPRUNE_RUN_SECONDS must be seconds, 0 for no limit, got '{wrong}'"):
            limit_s(plain)


def test_a_shorter_limit_is_noticed_while_a_longer_one_runs():
    ended = []
    with ended_after(60, lambda: ended.append("long")), ended_after(0.01, lambda: ended.append("short")) as is_over:
        deadline = time.monotonic() + 10
        while not is_over() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert is_over()
    assert ended == ["short"]
    assert not time_limit._WATCH.deadlines


def test_a_session_that_is_not_made_in_time(monkeypatch):
    monkeypatch.setattr("onnxprune.runtime.session.RUN_S", 0.0)
    monkeypatch.setenv("ONNXPRUNE_RUN_SECONDS", "0.01")

    def slow(*_, **__):
        time.sleep(0.2)
        raise RuntimeError("Graph loading canceled due to user request.")

    monkeypatch.setattr("onnxruntime.InferenceSession", slow)
    with pytest.raises(TookTooLong, match=r"the model was not loaded within 0\.01 s; set ONNXPRUNE_RUN_SECONDS to"):
        open_session(b"")


def test_a_scan_ends_by_itself():
    assert not holds_loop(model("y = Relu(x)", x=ROWS).SerializeToString())
    assert Session(None, "cpu", ()).limit_s == math.inf
