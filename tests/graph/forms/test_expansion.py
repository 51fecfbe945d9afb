"""Local functions: how many nodes they make is known before they are inlined."""

from __future__ import annotations

import pytest
from onnx import helper

from onnxprune.errors import ModelError
from onnxprune.graph.files.read import load
from onnxprune.graph.forms import expansion
from tests.support.build import dense

IMPORTS = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]


def chain(depth, circle=False):
    """Functions f0, f1, ... each of which calls the next one twice; the last is a Relu, or calls the first."""
    proto = dense("b = my.f0(a)", infer=False, y="float[n,5] y", imports='"my": 1', mid=16)
    for i in range(depth):
        called = f"f{i + 1}" if i + 1 < depth else "f0"
        nodes = [helper.make_node(called, [x], [y], domain="my") for x, y in ("tu", "uv")]
        if i + 1 == depth and not circle:
            nodes = [helper.make_node("Relu", ["t"], ["v"])]
        proto.functions.append(helper.make_function("my", f"f{i}", ["t"], ["v"], nodes, IMPORTS))
    return proto


def test_few_are_inlined():
    assert sum(node.op == "Relu" for node in load(chain(5)).nodes) == 16


def test_doubling_is_refused():
    with pytest.raises(
        ModelError, match=r"its 40 local functions would make 1.649e\+12 nodes of the 83 that the file hol"
    ):
        load(chain(40))


def test_circles_are_refused():
    with pytest.raises(ModelError, match="function 'f0' calls itself, which no reader can inline"):
        expansion.check_expansion(chain(3, circle=True))


def test_depth_needs_no_recursion():
    proto = chain(2)
    for i in range(2, 1500):  # Python nests 1,000 calls
        proto.functions[-1].node[0].CopyFrom(helper.make_node(f"f{i}", ["t"], ["v"], domain="my"))
        node = helper.make_node("Relu", ["t"], ["v"])
        proto.functions.append(helper.make_function("my", f"f{i}", ["t"], ["v"], [node], IMPORTS))
    expansion.check_expansion(proto)


def test_calls_in_branches_count():
    proto = chain(40)
    call = proto.graph.node[2]
    branch = helper.make_graph([call], "g", [], [helper.make_tensor_value_info("b", 1, None)])
    proto.graph.node[2].CopyFrom(helper.make_node("If", ["yes"], ["b"], then_branch=branch, else_branch=branch))
    with pytest.raises(ModelError, match=r"would make 3\.299e\+12 nodes"):
        expansion.check_expansion(proto)
