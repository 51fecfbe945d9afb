"""Models that take text, or give maps and sequences: from end to end, as scikit-learn's converters write them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.graph.view import view
from onnxprune.runtime.session import held, open_session
from tests.support.build import array, model

pytestmark = pytest.mark.generated
ML = 3
FORMS = [("p",), ("map",), ("map", "p"), ("seq",), ("word",), ("word", "map")]
WORDS = ["oslo", "rome", "bern", "lima"]


def encoder(*outputs):
    """A city and two numbers become an embedding, two dense layers, and probabilities; see `outputs`."""
    weights = {"table": (4, 8), "w0": (10, 32), "w1": (32, 16), "w2": (16, 3), "one": np.array([1])}
    nodes = [
        helper.make_node("LabelEncoder", ["city"], ["ids"], domain="ai.onnx.ml", keys_strings=WORDS,
                         values_int64s=list(range(4)), default_int64=0),
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Squeeze", ["e", "one"], ["es"]),
        helper.make_node("Concat", ["es", "num"], ["c"], axis=1),
        helper.make_node("MatMul", ["c", "w0"], ["h0"]), helper.make_node("Relu", ["h0"], ["h1"]),
        helper.make_node("MatMul", ["h1", "w1"], ["h2"]), helper.make_node("Relu", ["h2"], ["h3"]),
        helper.make_node("MatMul", ["h3", "w2"], ["l"]), helper.make_node("Softmax", ["l"], ["p"]),
    ]  # fmt: skip
    infos = {
        "p": helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 3]),
        "map": helper.make_value_info("map", helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None)))),
        "seq": helper.make_value_info("seq", helper.make_sequence_type_proto(
            helper.make_tensor_type_proto(TensorProto.FLOAT, None))),
        "word": helper.make_tensor_value_info("word", TensorProto.STRING, ["n"]),
    }  # fmt: skip
    makers = {
        "map": [helper.make_node("ZipMap", ["p"], ["map"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])],
        "seq": [helper.make_node("SequenceConstruct", ["p", "l"], ["seq"])],
        "word": [helper.make_node("ArgMax", ["p"], ["top"], axis=1, keepdims=0),
                 helper.make_node("LabelEncoder", ["top"], ["word"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2],
                                  values_strings=["a", "b", "c"])],
    }  # fmt: skip
    for name in outputs:
        nodes += makers.get(name, [])
    graph = helper.make_graph(
        nodes, "text",
        [helper.make_tensor_value_info("city", TensorProto.STRING, ["n", 1]),
         helper.make_tensor_value_info("num", TensorProto.FLOAT, ["n", 2])],
        [infos[name] for name in outputs],
        [numpy_helper.from_array(array(name, value), name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", ML)], ir_version=8
    )


def samples(dtype=object):
    rng = np.random.default_rng(0)
    return {
        "city": np.array(WORDS, dtype)[rng.integers(0, 4, (32, 1))],
        "num": rng.standard_normal((32, 2)).astype(np.float32),
    }


def test_the_graph_tells_which_words_it_knows():
    city, num = view(encoder("p")).inputs
    assert (city.words, num.words) == (tuple(WORDS), ())


@pytest.mark.parametrize(
    "outputs", [("p",), ("map",), ("map", "p"), ("seq",), ("word",), ("word", "map")], ids="+".join
)
@pytest.mark.parametrize("data", [None, object, "U"], ids=["generated", "objects", "text"])
def test_text_and_containers_are_calibrated_proven_and_timed(outputs, data):
    given = None if data is None else samples(data)
    timed = data == "U" and len(outputs) == 1
    few = {} if data is None else {"samples": 16}
    result = onnxprune.prune(encoder(*outputs), data=given, ratio=0.4, round_to=1, latency=timed, **few)
    assert result.report["verification"]["passed"]
    assert result.report["verification"]["runs"]
    assert bool(result.report["latency"]) == timed
    assert result.report["output"]["params"] < result.report["input"]["params"]
    if data is None and outputs != ("word",):
        assert result.report["calibration"]["source"] == "generated"


def test_a_wrong_model_behind_a_map_is_found():
    """The proof looks into a map: it is no proof that nothing was compared."""
    session = open_session(encoder("map").SerializeToString())
    (rows,) = session.run(samples()).values()
    assert rows.shape == (32, 3)
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)


def test_what_containers_hold():
    assert held(None).size == 0
    assert held([]).size == 0
    assert held({"b": 2, "a": 1}).tolist() == [1, 2]
    assert held([np.zeros((2, 3)), np.ones((2, 3))]).shape == (2, 2, 3)
    assert held(np.float32(2)).item() == 2


@pytest.mark.parametrize(
    "name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float16", "bool", "int8", "uint8", "int32"]
)
def test_inputs_of_other_types_are_run_and_timed(name):
    dtype = np.dtype(getattr(ml_dtypes, name, name if name != "bool" else bool))
    proto = model("y = Cast<to = 1>(x)", x="float[n,4] x")
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    proto.graph.input[0].type.tensor_type.elem_type = kind
    for node in proto.graph.node:
        node.attribute[0].i = TensorProto.FLOAT
    proto.ir_version, proto.opset_import[0].version = 10, 21
    session = open_session(proto.SerializeToString())
    feeds = {"x": np.ones((2, 4)).astype(dtype)}
    assert session.run(feeds)["y"].tolist() == [[1] * 4] * 2
    session.timed(feeds)()


def test_a_scale_that_is_an_input_is_one():
    proto = model('y = Resize<mode = "linear">(x, , s)', x="float[n,3,h,w] x, float[4] s")
    assert [port.is_scale for port in view(proto).inputs] == [False, True]
    assert onnx.checker.check_model(proto) is None
