"""What a converter leaves of a file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxprune.errors import ModelError
from onnxprune.graph.files import converted
from tests.support.build import model


def proto():
    return model("y = MatMul(x, w)", x="float[n,4] x", w=(4, 3))


def test_opsets_that_no_node_is_of_go():
    one = proto()
    one.opset_import.extend([helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("ai.onnx.ml", 3)])
    one.graph.node[0].domain = "com.microsoft"
    assert [each.domain for each in converted.without_unused(one).opset_import if each.domain] == ["com.microsoft"]


def test_descriptions_and_ports_are_those_of_the_source():
    source, made = proto(), proto()
    source.producer_name, source.doc_string, source.graph.name = "me", "text", "mine"
    source.metadata_props.add(key="classes", value="a,b")
    made.metadata_props.add(key="onnx.infer", value="x")
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "other"
    converted.described_as(made, source)
    assert (made.producer_name, made.doc_string, made.graph.name) == ("me", "text", "mine")
    assert [(each.key, each.value) for each in made.metadata_props] == [("classes", "a,b")]
    assert made.graph.input == source.graph.input


def test_other_ports_are_an_error():
    made = proto()
    made.graph.output[0].name = "z"
    with pytest.raises(ModelError, match="quantization changed the inputs and outputs: z"):
        converted.described_as(made, proto())


def test_what_lies_beside_comes_inside(tmp_path):
    source, one = proto(), proto()
    source.CopyFrom(one)
    onnx.save(one, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    inline = converted.read_inline(tmp_path / "m.onnx")
    assert inline.graph.initializer[0].data_location == onnx.TensorProto.DEFAULT
    assert np.array_equal(*(onnx.numpy_helper.to_array(each.graph.initializer[0]) for each in (inline, source)))


def test_more_than_one_message_holds_is_told(tmp_path, monkeypatch):
    onnx.save(proto(), tmp_path / "m.onnx")
    monkeypatch.setattr(converted, "INLINE_LIMIT", 10)
    with pytest.raises(ModelError, match=r"m\.onnx: 0\.0 GB of weights of eight bits are more than one message holds"):
        converted.read_inline(tmp_path / "m.onnx")


def test_an_opset_that_cannot_be_raised_is_told(tmp_path):
    old = helper.make_model(
        helper.make_graph([helper.make_node("Odd", ["x"], ["y"])], "g", [], []),
        opset_imports=[helper.make_opsetid("", 9)],
    )
    with pytest.raises(ModelError, match="it needs opset 13, and onnx cannot convert it to that: "):
        converted.raised(old, 13, tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("op", "is_quantized"),
    [("QLinearConv", True), ("MatMulNBits", True), ("DynamicQuantizeLSTM", True), ("QMoE", True), ("Conv", False)],
)
def test_ops_that_work_on_quantized_numbers(op, is_quantized):
    node = helper.make_node(op, ["x"], ["y"])
    assert (converted.quantized_node([node]) is not None) is is_quantized
