"""Outlines: what a model is without its large numbers, whether it computes in half precision, and what it shares."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.graph.files import outline as outline_module
from onnxprune.graph.files.outline import holds_half, outline, structure_key
from tests.support.build import ROWS, dense, model

WIDE = 4096  # of a layer whose weights are large


def wide(**rest):
    return dense("b = Relu(a)", mid=WIDE, **rest)


def test_an_outline_has_all_but_large_numbers_of_bytes_and_of_files(tmp_path):
    proto = wide()
    content, path = proto.SerializeToString(), tmp_path / "model.onnx"
    path.write_bytes(content)
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) >= 2**14:
            tensor.ClearField("raw_data")
    assert outline(content) == outline(path) == proto
    assert sum(bool(tensor.raw_data) for tensor in proto.graph.initializer) == 0, "all three are large"


def test_numbers_inside_of_nodes_and_typed_ones_are_left_out_names_are_not():
    proto = model("b = Relu(x)", "y = Add(b, c)", x=ROWS, infer=False)
    constant = numpy_helper.from_array(np.zeros((5000, 6), np.float32))
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=constant))
    typed = helper.make_tensor("typed", onnx.TensorProto.FLOAT, [5000], np.zeros(5000))
    proto.graph.initializer.append(typed)
    proto.doc_string = "x" * 20_000
    small = outline(proto.SerializeToString())
    assert small.graph.node[0].attribute[0].t == onnx.TensorProto(dims=[5000, 6], data_type=1)
    assert small.graph.initializer[0] == onnx.TensorProto(dims=[5000], data_type=1, name="typed")
    assert small.doc_string == proto.doc_string


@pytest.mark.parametrize("content", [b"no protobuf", b"\xff" * 40, b"\x3a\xff\xff\x03rest", b"\x0b\x00", b"\x08"])
def test_of_what_is_no_model_there_is_none(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert outline(content) is outline(path) is None
    assert outline(tmp_path / "nowhere.onnx") is None


def test_of_a_model_that_is_cut_short_there_is_none():
    assert outline(wide().SerializeToString()[:-100]) is None


def in_a_body(*nodes):
    """A model with these nodes in a branch of an If."""
    body = model(*nodes, x="float[2,6] x", infer=False).graph
    del body.input[:]
    proto = model("y = If(go)", x="bool go, float[2,6] x", infer=False)
    proto.graph.node[0].attribute.extend(helper.make_attribute(name, body) for name in ("then_branch", "else_branch"))
    return proto


def stating(name, value=onnx.TensorProto.FLOAT16):
    """A model whose node has this attribute."""
    node = helper.make_node("Op", ["x"], ["y"], domain="my")
    node.attribute.append(helper.make_attribute(name, value))
    return helper.make_model(helper.make_graph([node], "g", [], []))


def taking(kind):
    """A model with an input of this type."""
    return helper.make_model(helper.make_graph([], "g", [helper.make_value_info("x", kind)], []))


def calling(value):
    """A model with a function that states this type of a value in it."""
    function = helper.make_function("my", "f", ["a"], ["b"], [], [], value_info=[helper.make_value_info("a", value)])
    return helper.make_model(helper.make_graph([], "g", [], []), functions=[function])


FLOAT16 = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT16, [2])
SPARSE = helper.make_sparse_tensor(
    helper.make_tensor("v", onnx.TensorProto.FLOAT16, [1], [1]),
    helper.make_tensor("i", onnx.TensorProto.INT64, [1], [3]),
    [6],
)
NUMBERS = helper.make_tensor("t", onnx.TensorProto.FLOAT16, [1], [1])
HALF = {
    **{f"an attribute {name}": stating(name) for name in sorted(outline_module._STATING)},
    "a sequence": taking(helper.make_sequence_type_proto(FLOAT16)),
    "an optional sequence": taking(helper.make_optional_type_proto(helper.make_sequence_type_proto(FLOAT16))),
    "a map": taking(helper.make_map_type_proto(onnx.TensorProto.INT64, FLOAT16)),
    "a sparse tensor": taking(helper.make_sparse_tensor_type_proto(onnx.TensorProto.FLOAT16, [2])),
    "a type": stating("type", helper.make_optional_type_proto(FLOAT16)),
    "tensors of an attribute": stating("some", [NUMBERS]),
    "a sparse tensor of an attribute": stating("some", SPARSE),
    "a value in a function": calling(FLOAT16),
    "weights": dense("b = Relu(a)", x="float16[n,6] x", y="float16[] y", dtype="float16"),
    "a Cast": model("a = Cast<to=10>(x)", "b = Relu(a)", "y = Cast<to=1>(b)", x=ROWS, infer=False),
    "a Cast to bfloat16": model("a = Cast<to=16>(x)", "y = Cast<to=1>(a)", x=ROWS, infer=False),
    "a body": in_a_body("a = Cast<to=10>(x)", "y = Cast<to=1>(a)"),
    "a function": model(
        "y = my.f(x)",
        x=ROWS,
        imports='"my" : 1',
        functions='<domain: "my", opset_import: ["" : 18]> f (a) => (c) { b = Cast<to=10>(a) c = Cast<to=1>(b) }',
        infer=False,
    ),
    "a constant": model("c = Constant<value = float16[1] {0}>()", "d = Cast<to=1>(c)", "y = Add(x, d)", x=ROWS),
}


def test_attributes_of_onnx_that_state_a_type_are_known():
    """By what their operators say of them, so that a later version of onnx brings no other."""
    found = {attribute.name for schema in onnx.defs.get_all_schemas_with_history() for attribute in stated(schema)}
    assert {"to", "output_dtype", "stash_type"} < found <= outline_module._STATING


def stated(schema):
    """Attributes that are one integer and whose text tells of a type or a precision, but not of a choice of modes."""
    for attribute in schema.attributes.values():
        words = f"{attribute.name} {attribute.description}".lower()
        told = any(
            each in words
            for each in ("data type", "dtype", "data_type", "precision of", "precision for", "precision used")
        )
        if attribute.type == onnx.defs.OpSchema.AttrType.INT and told and attribute.name != "saturate":
            yield attribute


@pytest.mark.parametrize("where", HALF)
def test_half_precision_is_seen_wherever_it_is_stated(where):
    assert holds_half(HALF[where])


DOUBLE = {"dtype": "float64", "x": "double[n,6] x", "y": "double[] y"}


@pytest.mark.parametrize(
    "proto",
    [stating("axis"), taking(onnx.TypeProto()), wide(), in_a_body("y = Relu(x)"), dense("b = Relu(a)", **DOUBLE)],
)
def test_other_models_hold_none(proto):
    assert not holds_half(proto)


def renamed(proto):
    """The same model with other names of all nodes and values."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in copy.graph.node:
        node.name, node.doc_string = f"another {node.name}", "words"
        node.input[:] = [f"my {name}" for name in node.input]
        node.output[:] = [f"my {name}" for name in node.output]
    for each in (*copy.graph.initializer, *copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        each.name = f"my {each.name}"
    return copy


def test_the_key_is_shared_whatever_names_and_weights():
    proto = wide()
    others = wide(w1=np.zeros((6, WIDE), np.float32), b1=np.ones(WIDE, np.float32))
    outside = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in outside.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="beside")
    same = (proto, renamed(proto), others, outline(proto.SerializeToString()), outside)
    assert len({structure_key(each) for each in same}) == 1


def test_the_key_tells_models_apart_that_an_optimiser_may_treat_differently():
    flat = {"infer": False, "x": ROWS}
    each = [
        wide(),
        wide(**DOUBLE),
        dense("b = Relu(a)", mid=WIDE // 2),
        dense("b = Sigmoid(a)", mid=WIDE),
        dense("b = Relu(a)", mid=WIDE, opset=17),
        dense("b = Relu(a)", mid=WIDE, x="float[2,6] x"),
        model("y = Reshape(x, s)", s=[-1, 3], **flat),
        model("y = Reshape(x, s)", s=[3, -1], **flat),
        model("y = Softmax<axis=0>(x)", **flat),
        model("y = Softmax<axis=1>(x)", **flat),
        model("y = Clip(x, low)", low=0.0, **flat),
        model("y = Clip(x, low)", low=1.0, **flat),
        model("a = Relu(x)", "y = Add(a, x)", **flat),
        model("a = Relu(x)", "y = Add(x, a)", **flat),
        in_a_body("y = Relu(x)"),
        in_a_body("y = Sigmoid(x)"),
    ]
    assert len({structure_key(proto) for proto in each}) == len(each)


def test_the_key_tells_large_bytes_of_attributes_apart():
    blobs = [stating("blob", byte * 20_000) for byte in (b"a", b"b")]
    assert len({structure_key(outline(proto.SerializeToString())) for proto in blobs}) == 2


def test_the_key_is_shared_whatever_the_numbers_of_tensors_in_attributes():
    lists = [stating("some", [numpy_helper.from_array(np.full((5000, 2), value, np.float32))]) for value in (0, 1)]
    assert len({structure_key(each) for proto in lists for each in (proto, outline(proto.SerializeToString()))}) == 1


def test_the_key_tells_sparse_tensors_of_other_sizes_apart():
    other = onnx.SparseTensorProto.FromString(SPARSE.SerializeToString())
    other.dims[:] = [7]
    assert structure_key(stating("some", SPARSE)) != structure_key(stating("some", other))


def test_the_key_tells_nodes_apart_that_are_divided_elsewhere():
    """Their bytes, one after the other, are the same."""
    nodes = onnx.NodeProto(input=["x"]), onnx.NodeProto(input=["x"], op_type="Add")
    both, one = (
        onnx.ModelProto(graph=onnx.GraphProto(node=each))
        for each in (nodes, [onnx.NodeProto(input=["x", "x"], op_type="Add")])
    )
    assert structure_key(both) != structure_key(one)


@pytest.mark.parametrize("count", [1000, 1024, 1025, 2048, 3000])
def test_the_key_is_that_of_the_outline_whatever_the_size_of_a_tensor(count):
    proto = model("y = Gather(x, i)", i=np.arange(count) % 6, x=ROWS, infer=False)
    assert structure_key(proto) == structure_key(outline(proto.SerializeToString()))
