"""Equal tensors become one: what goes, what stays, in which order, and that each list is gone through once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.graph.forms.merge import _remove, merge_constants
from tests.support.build import ROWS, model

WIDE = numpy_helper.from_array(np.arange(100, dtype=np.float32))
OTHER = numpy_helper.from_array(np.arange(100, dtype=np.float32) + 1)


def constant(name, value=WIDE):
    return helper.make_node("Constant", [], [name], value=value)


def chain(count, **rest):
    """Additions of so many constants, of which every third holds other numbers."""
    proto = model("y = Neg(x)", x="float[n,100] x", **rest)
    del proto.graph.node[:]
    for at in range(count):
        proto.graph.node.append(constant(f"c{at}", OTHER if at % 3 == 2 else WIDE))
        proto.graph.node.add(op_type="Add", input=[f"s{at - 1}" if at else "x", f"c{at}"], output=[f"s{at}"])
    proto.graph.node.add(op_type="Neg", input=[f"s{count - 1}"], output=["y"])
    return proto


@pytest.mark.parametrize("ir", [3, 8])
def test_equal_constants_become_one_initializer(ir):
    proto = chain(7)
    proto.ir_version = ir
    merge_constants(proto, {f"c{at}" for at in range(7)})
    assert [node.output[0] for node in proto.graph.node] == [*(f"s{at}" for at in range(7)), "y"]
    assert [node.input[1] for node in proto.graph.node[:7]] == ["c0", "c0", "c2", "c0", "c0", "c2", "c0"]
    assert sorted(tensor.name for tensor in proto.graph.initializer) == ["c0", "c2"]
    assert [info.name for info in proto.graph.input] == ["x"]
    onnx.checker.check_model(proto) if ir > 3 else None


def test_what_is_not_new_is_an_output_or_stands_alone_stays():
    proto = chain(6)
    proto.graph.node.append(constant("alone", numpy_helper.from_array(np.zeros(100, np.float32))))
    proto.graph.output.append(helper.make_tensor_value_info("c1", 1, [100]))
    merge_constants(proto, {"c0", "c1", "c3", "c2", "alone"})
    left = [node.output[0] for node in proto.graph.node if node.op_type == "Constant"]
    assert left == ["c1", "c2", "c4", "c5", "alone"]
    assert [tensor.name for tensor in proto.graph.initializer] == ["c0"]


@pytest.mark.parametrize("ir", [3, 8])
def test_a_constant_of_a_branch_moves_to_the_main_graph(ir):
    branches = ("then_branch = t () => (r) { r = Neg(x) }", "else_branch = e () => (q) { q = Abs(x) }")
    proto = model(f"b = If <{', '.join(branches)}> (s)", "y = Neg(b)", x=f"{ROWS}, bool s", infer=False)
    proto.ir_version = ir
    for number, attribute in enumerate(proto.graph.node[0].attribute):
        attribute.g.node[0].input[0] = f"k{number}"
        attribute.g.node.insert(0, constant(f"k{number}"))
    merge_constants(proto, {"k0", "k1"})
    bodies = [attribute.g for attribute in proto.graph.node[0].attribute]
    assert [[node.op_type for node in body.node] for body in bodies] == [["Neg"], ["Abs"]]
    assert [body.node[0].input[0] for body in bodies] == ["k0", "k0"]
    assert [len(body.initializer) for body in bodies] == [0, 0]
    assert [tensor.name for tensor in proto.graph.initializer] == ["k0"]
    assert [info.name for info in proto.graph.input] == (["x", "s", "k0"] if ir == 3 else ["x", "s"])


def test_each_message_is_looked_at_twice_and_none_is_copied():
    graph = onnx.GraphProto(node=[constant(f"c{at}") for at in range(50)])
    third = graph.node[3]
    looked_at = []

    def goes(node):
        looked_at.append(node.output[0])
        return int(node.output[0][1:]) % 3 != 0

    _remove(graph.node, goes)
    assert [node.output[0] for node in graph.node] == [f"c{at}" for at in range(0, 50, 3)]
    assert len(looked_at) == 100
    third.name = "the same message"
    assert graph.node[1].name == "the same message"
