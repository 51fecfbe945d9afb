"""The part of a file that ONNX Runtime can run: where it ends, why, and what is pruned in it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import compare, inspect, prune, sensitivity
from onnxprune.errors import NothingToPrune
from onnxprune.graph.files.read import load
from onnxprune.report.words import not_run_lines
from onnxprune.runtime.session import open_session
from onnxprune.runtime.support import runnable_part
from tests.support.build import ROWS, dense, model

NO_OPERATOR = "ONNX Runtime has no such operator here"
ACME = {"y": "float[n,5] y", "imports": '"acme": 1', "infer": False}
MIXED = "float[n,12] m"


def dead(proto, **units):
    """Make the last units of weights zero, by name and axis: cutting them changes nothing."""
    for tensor in proto.graph.initializer:
        axis = units.get(tensor.name)
        if axis is not None:
            array = numpy_helper.to_array(tensor).copy()
            half = [slice(None)] * array.ndim
            half[axis] = slice(array.shape[axis] // 2, None)
            array[tuple(half)] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return proto


def between(op="acme.Warp", stated=MIXED):
    """Two MLPs with an operator between them that nobody knows."""
    proto = model(
        "h = MatMul(x, w1)", "r = Relu(h)", "s = MatMul(r, w2)", f"m = {op}(s)",
        "g = MatMul(m, w3)", "q = Relu(g)", "y = MatMul(q, w4)",
        x=ROWS, stated=stated, w1=(6, 16), w2=(16, 12), w3=(12, 16), w4=(16, 5), **ACME,
    )  # fmt: skip
    return dead(proto, w1=1, w3=1)


def cut(proto, **options):
    """Prune by the weights alone, by half."""
    return prune(proto, 0.5, criterion="l2", latency=False, round_to=1, **options)


def known_as(proto, **ops):
    """Return a model whose unknown operators are replaced by known ones, so that all of it runs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node in copy.graph.node:
        if node.op_type in ops:
            node.domain, node.op_type = "", ops[node.op_type]
            del node.attribute[:]
    return copy


def outputs_of(proto, feeds):
    return open_session(proto.SerializeToString()).run(feeds)


def sizes(proto):
    return {t.name: tuple(t.dims) for t in proto.graph.initializer}


def test_a_model_that_runs_is_its_own_part():
    whole = load(dense("b = Relu(a)"))
    assert runnable_part(whole) is whole
    assert whole.not_run == ()
    assert whole.file is whole


def test_what_lies_on_both_sides_of_an_unknown_operator_is_pruned():
    """The written file has all nodes, and with a known operator in place of the unknown one it computes the same."""
    before = between()
    result = cut(before)
    assert sizes(result.model) == {"w1": (6, 8), "w2": (8, 12), "w3": (12, 8), "w4": (8, 5)}
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in before.graph.node]
    rows = {"x": np.random.default_rng(0).standard_normal((3, 6)).astype("float32")}
    old, new = (outputs_of(known_as(proto, Warp="Tanh"), rows)["y"] for proto in (before, result.model))
    np.testing.assert_allclose(new, old, rtol=1e-5)
    (entry,) = result.report["not_run"]
    assert entry == {"node": "m", "op": "acme.Warp", "why": NO_OPERATOR, "reads": ["s"], "makes": ["m"]}
    locked = {group["name"]: group["locked"] for group in result.report["groups"]}
    assert locked["w2"] == "acme.Warp reads it, which is not run (at s)"
    assert locked["w3:in"] == "acme.Warp makes it, which is not run (at m)"
    assert result.report["input"]["params"] == 6 * 16 + 16 * 12 + 12 * 16 + 16 * 5
    assert result.report["input"]["size_bytes"] == before.ByteSize()


def test_what_follows_a_value_of_unknown_shape_stays_until_its_shape_is_stated():
    """Here a matrix and a stack of them fit alike."""
    before = model(
        "h = MatMul(x, w1)", "r = Relu(h)", "s = MatMul(r, w2)", "m = acme.Warp(s)",
        "g = MatMul(m, w3)", "q = Relu(g)", "k = MatMul(q, w4)", "y = ReduceMax <keepdims = 0>(k)",
        x=ROWS, w1=(6, 16), w2=(16, 12), w3=(12, 16), w4=(16, 5), **{**ACME, "y": "float y"},
    )  # fmt: skip
    part = runnable_part(load(before))
    assert [(each.node, each.why) for each in part.whole.left_out][:2] == [
        ("m", NO_OPERATOR),
        ("g", "it reads 'm' of unknown shape, which acme.Warp 'm' makes"),
    ]
    assert sizes(cut(before).model) == {"w1": (6, 8), "w2": (8, 12), "w3": (12, 16), "w4": (16, 5)}
    stated = cut(before, inputs={"m": (2, 12)})
    assert sizes(stated.model) == {"w1": (6, 8), "w2": (8, 12), "w3": (12, 8), "w4": (8, 5)}


def test_a_shape_that_only_one_rank_fits_is_no_question():
    part = runnable_part(load(between(stated="")))
    assert [(port.name, port.dtype, port.shape) for port in part.inputs[1:]] == [("m", np.float32, (None, 12))]


@pytest.mark.generated
def test_the_shape_of_tokens_follows_from_what_reads_them():
    """A tokenizer in front: its text is no input of the part that runs, and the rank of its tokens is the only one."""
    proto = model(
        "ids, mask = ai.onnx.contrib.BertTokenizer(text)", "e = Gather(table, ids)",
        "p = ReduceMean <axes = [0], keepdims = 1>(e)", "h = MatMul(p, w1)", "r = Relu(h)", "y = MatMul(r, w2)",
        x="string[1] text", y="float[1,4] y", imports='"ai.onnx.contrib": 1', opset=15, infer=False,
        table=(20, 8), w1=(8, 16), w2=(16, 4),
    )  # fmt: skip
    part = runnable_part(load(proto))
    assert [(port.name, port.dtype, port.shape, port.below) for port in part.inputs] == [("ids", np.int64, (None,), 20)]
    result = prune(proto, 0.5, latency=False)
    assert result.report["verification"]["passed"]
    assert result.report["calibration"]["source"] == "generated"
    assert [port.name for port in result.model.graph.input] == ["text"]
    ids = np.array([1, 5, 7])
    seen = prune(proto, 0.5, latency=False, data=[{"ids": ids}, {"ids": ids[::-1].copy()}])
    assert seen.report["calibration"]["source"] == "data"


def test_plugins_at_the_end():
    """TensorRT's own operators stand in the default domain, where onnx's checker refuses them."""
    proto = model(
        "a = Conv(x, w1)", "r = Relu(a)", "b = Conv(r, w2)", "boxes = Reshape(b, sizes)", "c = Conv(r, w3)",
        "scores = Sigmoid(c)", "num, kept = BatchedNMS_TRT <topK = 5>(boxes, scores)",
        y="int32[1,1] num, float[1,5,4] kept", infer=False, w1=(16, 3, 1, 1), w2=(4, 16, 1, 1), w3=(2, 16, 1, 1),
        sizes=[0, -1, 4],
    )  # fmt: skip
    result = cut(proto)
    assert sizes(result.model)["w1"] == (8, 3, 1, 1)
    assert [port.name for port in result.model.graph.output] == ["num", "kept"]
    assert result.report["not_run"][0]["reads"] == ["boxes", "scores"]
    inspection = inspect(proto)
    assert inspection.to_dict()["not_run"] == result.report["not_run"]
    both = compare(proto, result.model, budget_s=0.01, memory=False)
    assert both.difference.max_rel_diff < 2
    data = np.random.default_rng(0).standard_normal((8, 3, 6, 6)).astype("float32")
    assert [group.name for group in sensitivity(proto, data={"x": data}, levels=1).groups] == ["w1"]


def test_a_plugin_that_is_refused_for_its_attributes():
    """ONNX Runtime knows the schema of this one, but has no kernel; onnx does not know it at all."""
    proto = model(
        "a = Conv(x, w1)", "r = Relu(a)", "b = Conv(r, w2)", "num = EfficientNMS_TRT(b, b)",
        y="int32[1,1] num", infer=False, w1=(16, 3, 1, 1), w2=(4, 16, 1, 1),
    )  # fmt: skip
    result = cut(proto)
    assert sizes(result.model)["w1"] == (8, 3, 1, 1)
    (entry,) = result.report["not_run"]
    assert entry["why"].startswith("ONNX Runtime refuses it: ")


def test_sizes_below_zero_are_not_known():
    """onnx's inference ends the process where it computes with the smallest number that there is."""
    proto = model("a = Unknown(x)", "b = Slice(a, s, e)", "y = Conv(b, w)", x="float[n,3,h,6] x", y="float[n,5,h,6] y",
                  s=np.zeros(3, int), e=np.array([9, 9, 5]), w=(5, 3, 1, 1), infer=False)  # fmt: skip
    a = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["n", 3, 4, 6])
    for info in (proto.graph.input[0], proto.graph.output[0], a):
        info.type.tensor_type.shape.dim[2 if info is not a else 1].dim_value = -(2**63)
    proto.graph.value_info.append(a)
    part = runnable_part(load(proto))
    assert [each.op for each in part.not_run] == ["Unknown"]


def test_several_unknown_operators_and_one_without_a_kernel():
    proto = model(
        "h = MatMul(x, w1)", "r = Relu(h)", "s = MatMul(r, w2)", "t = com.microsoft.BiasSplitGelu(s, b)",
        "u = mmdeploy.Odd(t)", "v = mmcv.Even(t)", "z = Add(u, v)", "g = MatMul(z, w3)", "q = Relu(g)",
        "y = MatMul(q, w4)",
        x=ROWS, stated="float[n,6] t, float[n,6] u, float[n,6] v", infer=False,
        y="float[n,5] y", imports='"mmdeploy": 1, "mmcv": 1, "com.microsoft": 1',
        w1=(6, 16), w2=(16, 12), b=(12,), w3=(6, 16), w4=(16, 5),
    )  # fmt: skip
    result = cut(proto)
    assert {each["op"]: each["why"] for each in result.report["not_run"]} == {
        "com.microsoft.BiasSplitGelu": "ONNX Runtime has no kernel for its types on the CPU",
        "mmdeploy.Odd": NO_OPERATOR,
        "mmcv.Even": NO_OPERATOR,
    }
    assert sizes(result.model) == {"w1": (6, 8), "w2": (8, 12), "b": (12,), "w3": (6, 8), "w4": (8, 5)}


def test_a_weight_that_is_read_by_what_is_not_run_gets_a_copy():
    proto = between()
    proto.graph.node[3].input.append("w1")
    result = cut(proto)
    by_name = sizes(result.model)
    assert by_name["w1"] == (6, 16)
    assert by_name["w1_pruned"] == (6, 8)
    assert list(result.model.graph.node[3].input) == ["s", "w1"]


def test_weights_of_what_is_not_run_are_out_of_reach():
    proto = between()
    proto.graph.node[3].input.append("extra")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((10, 10), "float32"), "extra"))
    inspection = inspect(proto)
    assert inspection.locked_params == 100
    assert inspection.unreached["acme.Warp reads it, which is not run"] == ("extra",)


def body(*nodes, inputs=(), outputs=("o",), **weights):
    """Return a graph for an attribute of a node."""
    inner = model(*nodes, x="float[] unused", infer=False, imports='"acme": 1', **weights).graph
    del inner.input[:], inner.output[:]
    inner.input.extend(inputs)
    inner.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in outputs)
    return inner


def test_an_unknown_operator_in_a_branch_leaves_the_rest_of_the_branch():
    """The branches of the If become part of what is run; what lies in them is cut where it lies."""
    proto = model(
        "c = ReduceMean <keepdims = 0>(x)", "k = Cast <to = 9>(c)", "y = Identity(x)",
        x=ROWS, **ACME,
    )  # fmt: skip
    then = body("h = MatMul(x, w1)", "r = Relu(h)", "p = MatMul(r, w2)", "o = acme.Warp(p)", w1=(6, 16), w2=(16, 5))
    other = body("h2 = MatMul(x, w3)", "r2 = Relu(h2)", "o2 = MatMul(r2, w4)", outputs=["o2"], w3=(6, 8), w4=(8, 5))
    proto.graph.node[2].CopyFrom(helper.make_node("If", ["k"], ["y"], then_branch=then, else_branch=other))
    result = cut(proto)
    inner = {a.name: {t.name: tuple(t.dims) for t in a.g.initializer} for a in result.model.graph.node[-1].attribute}
    assert inner == {
        "then_branch": {"w1": (6, 8), "w2": (8, 5)},
        "else_branch": {"w3": (6, 4), "w4": (4, 5)},
    }
    assert {each["op"]: each["why"] for each in result.report["not_run"]} == {
        "If": "ONNX Runtime lacks an operator in a body of it",
        "acme.Warp": NO_OPERATOR,
    }


def search():
    """A BeamSearch whose decoder names its input as the graph does."""
    proto = model(
        "sequences = Identity(input_ids)", x="int32[b,s] input_ids, int32[1] max_length, int32[1] num_beams",
        y="int32[b,k,t] sequences", imports='"com.microsoft": 1', infer=False,
    )  # fmt: skip
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["b", "s"])
    decoder = body(
        "e = Gather(table, input_ids)", "h = MatMul(e, w1)", "r = Relu(h)", "d = MatMul(r, w2)", "o = MatMul(d, w3)",
        inputs=[ids], table=(20, 8), w1=(8, 16), w2=(16, 8), w3=(8, 20),
    )  # fmt: skip
    inputs = ["input_ids", "max_length", "", "num_beams"]
    node = helper.make_node("BeamSearch", inputs, ["sequences"], domain="com.microsoft", decoder=decoder)
    proto.graph.node[0].CopyFrom(node)
    return proto


def test_the_decoder_of_a_search_is_pruned_where_it_lies():
    result = cut(search())
    (node,) = result.model.graph.node
    decoder = node.attribute[0].g
    assert {t.name: tuple(t.dims) for t in decoder.initializer} == {
        "table": (20, 4), "w1": (4, 8), "w2": (8, 4), "w3": (4, 20),
    }  # fmt: skip
    assert [port.name for port in decoder.input] == ["input_ids"], "a search knows its decoder's inputs by their names"
    assert decoder.node[0].input[1] == "input_ids"
    assert result.report["groups"][-1]["locked"].startswith("a body of com.microsoft.BeamSearch takes or gives it")


def test_where_the_rest_ends_is_said():
    node = {"node": "n", "op": "Odd", "why": "it is odd", "reads": ["a"], "makes": ["b"]}
    text = "not run, as it is odd: Odd 'n'. It stays as it is, and the rest is proven"
    assert not_run_lines([node]) == [f"{text}, to a and from b"]
    assert not_run_lines([{**node, "reads": []}]) == [f"{text}, from b"]
    assert not_run_lines([{**node, "reads": [], "makes": []}]) == [text]


def test_what_cannot_be_run_at_all_says_so():
    """bfloat16 has no kernel for products: nothing is left to prove, and nothing is pruned."""
    proto = dense("b = Relu(a)")
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, array.shape, array.ravel()))
    for info in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        info.type.tensor_type.elem_type = TensorProto.BFLOAT16
    with pytest.raises(
        NothingToPrune, match=r"not run, as ONNX Runtime has no kernel for its types on the CPU: MatMul 'a0', "
    ):
        cut(proto)
