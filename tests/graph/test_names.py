"""Names of nodes: ONNX Runtime wants them to differ."""

from __future__ import annotations

from onnxprune import prune
from onnxprune.graph.files.read import load
from onnxprune.graph.names import uniquely_named
from onnxprune.runtime.session import open_session
from tests.support.build import dense


def named(*names):
    proto = dense("b = Relu(a)", mid=16)
    for node, name in zip(proto.graph.node, names, strict=True):
        node.name = name
    return proto


def test_a_model_whose_names_differ_is_left_as_it_is():
    proto = named("fc", "add", "", "")
    assert uniquely_named(proto) is proto


def test_namesakes_get_names_of_their_own():
    proto = named("x", "x_2", "x", "x")
    assert [node.name for node in uniquely_named(proto).graph.node] == ["x", "x_2", "x_3", "x_4"]
    assert [node.name for node in proto.graph.node] == ["x", "x_2", "x", "x"], "the caller's model is not changed"
    assert [node.name for node in load(proto).nodes] == ["x", "x_2", "x_3", "x_4"]


def test_such_a_file_is_pruned_to_one_that_loads():
    result = prune(named("relu", "relu", "relu", "relu"), criterion="l2", latency=False)
    open_session(result.model.SerializeToString())
