"""Text that is no UTF-8: shown where nobody depends on it, refused in the names of inputs and outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.commands.inspect import inspect
from onnxprune.commands.prune import prune
from onnxprune.errors import ModelError
from onnxprune.graph.files.read import load
from tests.support.build import dense

MARK, BAD = "QQQQ", b"\xe9\xff\x80a"


def damaged(edit):
    proto = dense("b = Relu(a)", mid=16)
    edit(proto)
    return onnx.ModelProto.FromString(proto.SerializeToString().replace(MARK.encode(), BAD))


def rename_node(proto):
    proto.graph.node[0].name = MARK


def rename_weight(proto):
    proto.graph.initializer[0].name = MARK
    proto.graph.node[0].input[1] = MARK


def rename_dim(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = MARK


def describe(proto):
    proto.doc_string = proto.graph.doc_string = proto.producer_name = MARK
    proto.metadata_props.add(key=MARK, value=MARK)
    proto.graph.initializer[0].doc_string = MARK


def import_domain(proto):
    proto.opset_import.add(domain=MARK, version=1)


@pytest.mark.parametrize("edit", [rename_node, rename_weight, rename_dim, describe, import_domain])
def test_it_is_shown_and_the_model_prunes(edit):
    proto = damaged(edit)
    before = proto.SerializeToString()
    model = load(proto)
    assert r"\\xe9\\xff\\x80a" in str(model.proto)
    inspect(proto).to_dict()
    result = prune(proto, 0.5, criterion="l2", latency=False)
    assert result.report["verification"]["passed"]
    assert proto.SerializeToString() == before


def test_text_of_attributes_stays_as_it_is():
    proto = dense("b = Relu(a)", mid=16)
    proto.graph.node[2].attribute.append(onnx.helper.make_attribute("note", b"\xff"))
    assert onnx.helper.get_attribute_value(proto.graph.node[2].attribute[0]) == b"\xff"


@pytest.mark.parametrize("field", ["input", "output"])
def test_callers_depend_on_the_names_of_inputs_and_outputs(field):
    def edit(proto):
        getattr(proto.graph, field)[0].name = MARK
        if field == "input":
            proto.graph.node[0].input[0] = MARK
        else:
            proto.graph.node[-1].output[0] = MARK

    with pytest.raises(ModelError, match="the name of an input or output is no UTF-8 text: b'"):
        load(damaged(edit))


def test_good_text_costs_no_copy():
    proto = dense("b = Relu(a)", mid=16, k=np.ones(3, np.float32))
    assert load(proto).proto is proto
