"""Nodes in an order in which they can run."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.errors import ModelError
from onnxprune.graph.files.encode import serialize
from onnxprune.graph.files.read import load
from onnxprune.graph.order import in_order
from onnxprune.runtime.session import open_session
from tests.support.build import ROWS, conv, dense
from tests.support.oracle import check

BRANCHES = "<then_branch = t () => (float[n,8] r) {{ {} }}, else_branch = e () => (float[n,8] r) {{ {} }}>"
CHAIN = "p = Relu(a) q = Neg(p) r = Sigmoid(q) b = Add(p, r)"


def shuffled(proto, places):
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    del found.graph.node[:]
    found.graph.node.extend(proto.graph.node[place] for place in places)
    return found


def test_a_model_in_order_is_the_same_object():
    proto = dense(CHAIN)
    assert in_order(proto) is proto


@given(st.permutations(range(len(dense(CHAIN).graph.node))))
def test_any_order_is_made_one_that_runs(places):
    proto = shuffled(dense(CHAIN), places)
    before = proto.SerializeToString()
    found = in_order(proto)
    onnx.checker.check_model(found)
    assert proto.SerializeToString() == before
    assert sorted(map(str, found.graph.node)) == sorted(map(str, proto.graph.node))


def test_nodes_move_no_further_than_they_must():
    proto = dense("p = Relu(a) q = Neg(a) b = Add(p, q)")
    names = [node.op_type for node in in_order(shuffled(proto, [4, 3, 2, 0, 1, 5])).graph.node]
    assert names == ["MatMul", "Add", "Neg", "Relu", "Add", "MatMul"]


def test_bodies_are_sorted_and_what_they_read_comes_first():
    body = BRANCHES.format("s = Neg(p) r = Relu(s)", "r = Neg(p)")
    proto = dense(f"p = Relu(a) b = If(c) {body}", x=f"{ROWS}, bool c", y="float[n,5] y", infer=False)
    wrong = shuffled(proto, [0, 1, 3, 2, 4])
    branch = wrong.graph.node[2].attribute[0].g
    branch.node.append(branch.node[0])
    del branch.node[0]
    assert [node.op_type for node in branch.node] == ["Relu", "Neg"]
    found = in_order(wrong)
    assert found.SerializeToString() == proto.SerializeToString()


def test_names_inside_of_bodies_are_their_own():
    body = BRANCHES.format("b = Neg(p) r = Relu(b)", "later = Neg(p) r = Relu(later)")
    proto = dense(f"p = Relu(a) b = If(c) {body} later = Neg(p)", x=f"{ROWS}, bool c", y="float[n,5] y", infer=False)
    assert in_order(proto) is proto
    assert in_order(shuffled(proto, [0, 1, 3, 2, 4, 5])).graph.node[3].op_type == "If"


def test_functions_are_sorted():
    twice = '<domain: "my", opset_import: ["" : 18]> Twice (p) => (q) { s = Neg(p) q = Relu(s) }'
    proto = conv("b = my.Twice(a)", imports='"my" : 1', functions=twice)
    wrong = shuffled(proto, range(len(proto.graph.node)))
    wrong.functions[0].node.append(wrong.functions[0].node[0])
    del wrong.functions[0].node[0]
    assert in_order(wrong).SerializeToString() == proto.SerializeToString()
    assert check(wrong).cut


def test_a_cycle_is_left_to_the_checker():
    proto = dense("b = Relu(a)")
    proto.graph.node[1].input[0] = "b"
    assert in_order(proto) is proto
    with pytest.raises(ModelError, match="topologically sorted"):
        load(proto)


def test_a_file_that_only_onnxruntime_takes_is_pruned(tmp_path):
    path = tmp_path / "shuffled.onnx"
    onnx.save(shuffled(dense(CHAIN, mid=64), [6, 5, 3, 4, 2, 1, 0]), path)
    feeds = {"x": np.ones((2, 6), np.float32)}
    before, after = open_session(path).run(feeds), open_session(serialize(load(path).proto)).run(feeds)
    np.testing.assert_array_equal(before["y"], after["y"])
    result = onnxprune.prune(path, ratio=0.5, criterion="l2", latency=False)
    onnx.checker.check_model(result.model)
    assert result.report["verification"]["passed"]
