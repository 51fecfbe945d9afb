"""Models are brought into plain form, and those that are plain stay as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.graph.files.read import load
from onnxprune.graph.forms.plain import plain
from onnxprune.graph.view import view
from onnxprune.runtime.session import open_session
from tests.support.build import ROWS, conv, dense, model
from tests.support.oracle import check

TWICE = '<domain: "my", opset_import: ["" : 18]> Twice (p) => (q) { q = Add(p, p) }'
BRANCHES = "<then_branch = t () => (float[n,8] r) {{ {} }}, else_branch = e () => (float[n,8] r) {{ {} }}>"


def sparse(values, indices, shape, name="k"):
    return helper.make_sparse_tensor(
        numpy_helper.from_array(np.array(values, np.float32), name), numpy_helper.from_array(np.array(indices)), shape
    )


def test_a_plain_model_is_the_same_object():
    proto = conv("b = Relu(a)")
    assert plain(proto) is proto
    assert view(proto).proto is proto


def test_functions_that_nobody_calls_stay():
    proto = conv("b = Relu(a)", imports='"my" : 1', functions=TWICE)
    assert plain(proto) is proto


def test_calls_are_inlined_and_weights_kept():
    proto = conv("b = my.Twice(a)", imports='"my" : 1', functions=TWICE, mid=64)
    found = plain(proto)
    assert [node.op_type for node in found.graph.node] == ["Conv", "Add", "Conv"]
    assert list(found.graph.initializer) == list(proto.graph.initializer)
    assert not found.functions


def test_a_call_inside_a_branch_is_inlined():
    body = BRANCHES.format("r = my.Twice(a)", "r = Neg(a)")
    proto = dense(f"b = If(c) {body}", x=f"{ROWS}, bool c", y="float[n,5] y", imports='"my" : 1',
                  functions=TWICE, infer=False)  # fmt: skip
    assert {node.op for node in view(proto).nodes} == {"MatMul", "Add", "Neg", "If"}
    assert check(proto).cut


@pytest.mark.parametrize("indices", [[1, 5, 11], [[0, 1], [1, 1], [2, 3]]])
def test_a_sparse_initializer_becomes_dense(indices):
    proto = model("y = MatMul(x, k)", x="float[n,3] x", y="float[n,4] y", infer=False)
    proto.graph.sparse_initializer.append(sparse([1, 2, 3], indices, [3, 4]))
    found = load(proto)
    assert found.array("k").tolist() == [[0, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 3]]
    assert not found.proto.graph.sparse_initializer
    assert len(proto.graph.sparse_initializer) == 1


def test_a_sparse_constant_becomes_dense():
    proto = model("y = MatMul(x, k)", x="float[n,3] x", y="float[n,4] y", infer=False)
    node = helper.make_node("Constant", [], ["k"], sparse_value=sparse([7], [2], [3, 4], ""))
    proto.graph.node.insert(0, node)
    assert view(proto).array("k")[0].tolist() == [0, 0, 7, 0]


def test_a_sparse_model_is_pruned():
    proto = model("a = MatMul(x, w1)", "b = Relu(a)", "y = MatMul(b, k)", x=ROWS, y="float[n,4] y", w1=(6, 8),
                  infer=False)  # fmt: skip
    proto.graph.sparse_initializer.append(sparse(np.arange(1, 9), np.arange(8) * 4, [8, 4]))
    assert check(proto).shape("k") == [4, 4]


def test_an_index_outside_of_a_sparse_tensor_is_an_error():
    proto = model("y = MatMul(x, k)", x="float[n,3] x", y="float[n,4] y", infer=False)
    proto.graph.sparse_initializer.append(sparse([1], [12], [3, 4]))
    with pytest.raises(ModelError, match=r"sparse tensor 'k' of shape \[3, 4\] has indices outside"):
        plain(proto)


def test_sparse_tensors_take_memory_together(monkeypatch):
    proto = model("a = MatMul(x, k)", "b = MatMul(a, c)", "y = MatMul(b, m)", x="float[n,30] x", y="float[n,30] y",
                  infer=False)  # fmt: skip
    proto.graph.sparse_initializer.extend(sparse([1], [12], [30, 30], name) for name in ("k", "m"))
    node = helper.make_node("Constant", [], ["c"], sparse_value=sparse([7], [2], [30, 30], "c"))
    proto.graph.node.insert(0, node)
    held = 3 * 4
    monkeypatch.setenv("ONNXPRUNE_MAX_BYTES", str(3 * 3600 - held))
    assert plain(proto).graph.initializer[0].dims == [30, 30]
    monkeypatch.setenv("ONNXPRUNE_MAX_BYTES", str(3 * 3600 - held - 1))
    expected = (
        "sparse tensor 'c' of shape [30, 30], with those before it, would take 10.8 kB of memory, more than the "
        "10.8 kB that are allowed for what a file states; set ONNXPRUNE_MAX_BYTES to allow more"
    )
    with pytest.raises(ModelError) as caught:
        plain(proto)
    assert str(caught.value) == expected
    monkeypatch.setenv("ONNXPRUNE_MAX_BYTES", "2000")
    with pytest.raises(ModelError, match=r"^sparse tensor 'k' of shape \[30, 30\] would take 3.6 kB of memory, "):
        plain(proto)


def test_values_of_one_name_get_two():
    body = BRANCHES.format("p = Relu(a)  r = Neg(p)", "p = Neg(a)  r = Relu(p)")
    proto = dense(f"b = If(c) {body}", x=f"{ROWS}, bool c", y="float[n,5] y", infer=False)
    found = view(proto)
    names = [name for node in found.nodes for name in node.outputs]
    assert len(names) == len(set(names))
    assert {"p", "r", "p_2", "r_2"} <= set(names)
    feeds = {"x": np.ones((2, 6), np.float32), "c": np.array(False)}
    before, after = (open_session(each.SerializeToString()).run(feeds) for each in (proto, found.proto))
    assert before["y"].tolist() == after["y"].tolist()


def test_a_branch_may_shadow_an_outer_value():
    body = BRANCHES.format("a0 = Relu(a)  r = Neg(a0)", "r = Neg(a)")
    proto = dense(f"b = If(c) {body}", x=f"{ROWS}, bool c", y="float[n,5] y", infer=False)
    found = view(proto)
    assert [name for node in found.nodes for name in node.outputs].count("a0") == 1
    onnx.checker.check_model(found.proto)
    assert check(found.proto).cut


# -- arithmetic on weights ---------------------------------------------------------------------------------------------


def test_a_standardised_weight_is_computed():
    proto = model(
        "m = ReduceMean<keepdims = 1>(w1, axis)", "c = Sub(w1, m)", "a = Conv(x, c)", "y = Conv(a, w2)",
        w1=(8, 3, 1, 1), w2=(5, 8, 1, 1), axis=[1, 2, 3],
    )  # fmt: skip
    found = view(proto)
    assert [node.op for node in found.nodes] == ["Sub", "Conv", "Conv"]
    np.testing.assert_allclose(found.array("m").ravel(), found.array("w1").mean(axis=(1, 2, 3)), rtol=1e-5)
    assert check(proto).cut


def test_a_weight_that_only_standardisation_reads_is_left_out():
    proto = model(
        "r = Reshape(w1, flat)", "n, p, q = BatchNormalization<training_mode = 1>(r, g, b, mean, var)",
        "c = Reshape(n, back)", "a = Conv(x, c)", "y = Conv(a, w2)", opset=15, infer=False, y="float[n,5,6,6] y",
        w1=(8, 3, 1, 1), w2=(5, 8, 1, 1), flat=[1, 8, -1], back=[8, 3, 1, 1], g=(8,), b=(8,), mean=(8,),
        var=np.ones(8, np.float32),
    )  # fmt: skip
    found = view(proto)
    assert [node.op for node in found.nodes] == ["Reshape", "Conv", "Conv"]
    assert "w1" not in found.constants
    assert check(proto).cut


def test_parts_of_one_weight_are_cut_for_themselves():
    """As in attention across two sequences: one weight for queries, keys and values, of which each node takes some."""
    proto = model(
        "q = Slice(w, zero, six, one)", "k = Slice(w, six, nine, one)", "a = MatMul(x, q)", "b = MatMul(x, k)",
        "u = MatMul(a, w1)", "v = MatMul(b, w2)", "y = Add(u, v)",
        x=ROWS, w=(6, 9), zero=[0], six=[6], nine=[9], one=[1], w1=(6, 4), w2=(3, 4),
    )  # fmt: skip
    found = view(proto)
    assert {name: found.constants[name].shape for name in "qk"} == {"q": (6, 6), "k": (6, 3)}
    assert "w" not in found.constants
    checked = check(proto)
    assert checked.shape("q") == [6, 3]


PERMUTED = "{0}s = Slice(w, zero, two, zero) {0}t = Slice(w, two, {1}, zero) {0}p = Concat<axis = 0>({0}t, {0}s)"


def permuted(last="eight", then="ap"):
    """Two branches that put the rows of one weight into another order, as exporters do with the gates of an LSTM.

    The second takes rows up to `last`.
    """
    one, other = PERMUTED.format("a", "eight"), PERMUTED.format("b", last)
    branches = BRANCHES.format(f"{one} r = MatMul(a, {then})", f"{other} u = MatMul(a, bp) r = Neg(u)")
    return dense(f"b = If(c) {branches}", x=f"{ROWS}, bool c", y="float[n,5] y", infer=False, w=(8, 8),
                 zero=[0], two=[2], eight=[8], nine=[9])  # fmt: skip


def test_branches_that_compute_the_same_share_it():
    proto = permuted()
    found = view(proto)
    assert found.params == found.stored_params == 6 * 8 + 8 + 8 * 8 + 8 * 5
    assert "w" not in found.constants
    checked = check(proto)
    assert checked.cut
    assert checked.pruned.ByteSize() < proto.ByteSize()


def test_a_weight_whose_parts_overlap_stays_as_it_is():
    """As two weights, rows from 2 on would be stored twice."""
    proto = permuted(last="nine")
    found = view(proto)
    assert found.params == found.stored_params
    assert "w" in found.constants
    checked = check(proto)
    assert checked.cut
    assert checked.pruned.ByteSize() < proto.ByteSize()


def test_a_product_of_weights_that_others_read_is_not_stored_beside_them():
    """As in DeBERTa: the projection of the keys is that of the positions, too."""
    proto = model(
        "q = MatMul(x, w1)", "t = Relu(table)", "p = MatMul(t, w1)", "s = ReduceSum<keepdims = 1>(p, zero)",
        "a = Add(q, s)", "y = MatMul(a, w2)", x=ROWS, w1=(6, 16), table=(4, 6), w2=(16, 5), zero=[0],
    )  # fmt: skip
    found = view(proto)
    assert "p" not in found.constants
    assert "s" in found.constants
    alone = model("p = MatMul(table, w)", "a0 = MatMul(x, w1)", "a = Add(a0, p)", "y = MatMul(a, w2)",
                  x=ROWS, table=(1, 6), w=(6, 16), w1=(6, 16), w2=(16, 5))  # fmt: skip
    assert "p" in view(alone).constants
    assert check(proto).cut


def test_a_branch_that_returns_what_it_computes_keeps_it():
    branches = BRANCHES.format("r = Slice(w, zero, one, zero)", "s = Slice(w, zero, one, zero) r = Add(a, s)")
    found = view(dense(f"b = If(c) {branches}", x=f"{ROWS}, bool c", y="float[n,5] y", infer=False, w=(4, 8),
                       zero=[0], one=[1]))  # fmt: skip
    assert {name for name, constant in found.constants.items() if constant.shape == (1, 8)} == {"r", "s"}


def test_a_normed_weight_is_not_stored_beside_the_weight():
    """Where others read the weight as it is, the norm is one of the graph; statistics of it take next to nothing."""
    nodes = (
        "a = MatMul(x, n)",
        "b = Relu(a)",
        "c = MatMul(x, w1)",
        "d = Relu(c)",
        "e = Add(b, d)",
        "y = MatMul(e, w2)",
    )
    weights = {"x": ROWS, "w1": (6, 16), "w2": (16, 5)}
    proto = model("n = Softmax<axis = 1>(w1)", *nodes, **weights)
    found = view(proto)
    assert found.params == found.stored_params
    assert "n" not in found.constants
    mean = view(model("m = ReduceMean<keepdims = 1>(w1, one)", "n = Sub(w1, m)", *nodes, one=[1], **weights))
    assert mean.constants["m"].shape == (6, 1)
    assert check(proto) is not None


def test_calls_of_one_function_share_its_constants():
    scale = numpy_helper.from_array(np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32))
    proto = dense("u = my.Twice(a)", "b = my.Twice(u)", imports='"my" : 1', functions=TWICE, infer=False,
                  y="float[n,5] y")  # fmt: skip
    (function,) = proto.functions
    function.node[0].input[1] = "k"
    function.node[0].op_type = "MatMul"
    function.node.insert(0, helper.make_node("Constant", [], ["k"], value=scale))
    found = view(proto)
    assert [node.op for node in found.nodes] == ["MatMul", "Add", "MatMul", "MatMul", "MatMul"]
    assert found.nodes[2].inputs[1] == found.nodes[3].inputs[1]
    assert found.params == found.stored_params
    assert check(proto).cut


def test_what_dead_nodes_read_of_the_arithmetic_stays():
    proto = model(
        "a = Conv(x, w1)", "n, m, v = BatchNormalization<training_mode=1>(k, one, one, one, one)", "dead = Neg(n)",
        "c = ReduceMean(w2, d)", "e = Sub(w2, c)", "gone = Unsqueeze(a, d)", "y = Conv(a, e)", w1=(4, 3, 1, 1),
        w2=(2, 4, 1, 1), k=(1, 3, 4), one=np.ones(3, np.float32), d=[1]
    )  # fmt: skip
    open_session(load(proto).proto.SerializeToString())


def test_a_weight_is_normalised_in_a_branch():
    inside = "c = ReduceMean(w2, d)  e = Sub(w2, c)  r = MatMul(a, e)"
    proto = dense(f"b = If(s) {BRANCHES.format(inside, 'r = Neg(a)')}", x=f"{ROWS}, bool s", w2=(8, 8), d=[1])
    found = plain(proto)
    branch = found.graph.node[2].attribute[0].g
    assert [node.op_type for node in branch.node] == ["Sub", "MatMul"]
    assert [tensor.name for tensor in branch.initializer] == ["c"]
    assert len(check(proto).cut) == 1


@pytest.mark.parametrize("options", [{"ir": 3, "opset": 9}, {"listed": ("w1", "b1", "k", "w2"), "opset": 13}])
def test_a_normalised_weight_that_is_listed_as_an_input(options):
    proto = dense("c = ReduceMean<axes=[1]>(k)", "e = Sub(k, c)", "b = MatMul(a, e)", k=(8, 8), **options)
    found = load(proto)
    assert [port.name for port in found.inputs] == ["x"]
    assert len(check(proto).cut) == 2


def test_a_default_that_a_caller_may_replace_is_no_constant():
    proto = model("w = Softmax<axis = 1>(v)", "a = MatMul(x, w)", "y = MatMul(a, w2)", x=ROWS, v=(6, 16), w2=(16, 4),
                  listed=("v",))  # fmt: skip
    found = view(proto)
    assert found.overridable == {"v"}
    assert [node.op for node in found.nodes] == ["Softmax", "MatMul", "MatMul"]


@pytest.mark.parametrize(
    ("nodes", "opset"),
    [
        (("r = RandomNormal<shape = [8]>()", "s = Softmax<axis = 0>(r)"), 18),
        (("r = RandomNormalLike(k)", "s = ReduceMax<keepdims = 0>(r)"), 18),
        (("s = Softmax<axis = 0>(k)",), 11),
        (("s = LpNormalization<p = 1, axis = 0>(k)",), 18),
    ],
)
def test_what_the_reference_does_not_know_is_not_computed(nodes, opset):
    proto = dense(*nodes, "b = Mul(a, s)", k=(8,), opset=opset)
    assert len(view(proto).nodes) == len(proto.graph.node)
